//! Endpoints, the older sibling of EndpointSlices (upstream: `pkg/registry/core/endpoint`).

use crate::cells::{Cells, NONE, age, name, number, text};
use jiff::Timestamp;
use knarr_core::{Value, ValueExt};

use crate::strategy::{Shape, Strategy};
use crate::tree::{default_if_zero, each};

pub struct Endpoints;

impl Strategy for Endpoints {
    fn shape(&self) -> Shape {
        Shape::PLAIN.create_on_update()
    }

    fn default(&self, object: &mut Value) {
        each(object, &["subsets"], |subset| each(subset, &["ports"], |port| default_if_zero(port, "protocol", "TCP")));
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        Some(vec![name(object), addresses(object).into(), age(object, now)])
    }
}

/// How many addresses a cell shows before it says "more".
const SHOWN: usize = 3;

fn addresses(endpoints: &Value) -> String {
    let subsets = endpoints.list_at(&["subsets"]);
    if subsets.is_empty() {
        return NONE.into();
    }
    let mut all = Vec::new();
    for subset in subsets {
        let ips = || subset.list_at(&["addresses"]).iter().map(|a| text(a, &["ip"]));
        let ports = subset.list_at(&["ports"]);
        if ports.is_empty() {
            all.extend(ips().map(str::to_owned));
        }
        for port in ports {
            all.extend(ips().map(|ip| join_host_port(ip, number(port, &["port"]))));
        }
    }
    if all.len() > SHOWN { format!("{} + {} more...", all[..SHOWN].join(","), all.len() - SHOWN) } else { all.join(",") }
}

fn join_host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}
