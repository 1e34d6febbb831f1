//! ServiceCIDRs and IPAddresses: where cluster addresses come from (upstream: `pkg/registry/networking/servicecidr`, `ipaddress`).

use crate::cells::{Cells, age, name, text};
use crate::strategy::{Shape, Strategy};
use crate::tree::strings;
use jiff::Timestamp;
use knarr_core::{Value, ValueExt, field::go_quote};
use std::net::IpAddr;

pub struct ServiceCidr;

impl Strategy for ServiceCidr {
    fn shape(&self) -> Shape {
        Shape::PLAIN.status_keeps_metadata()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        let ranges: Vec<&str> = strings(object, &["spec", "cidrs"]).collect();
        Some(vec![name(object), ranges.join(",").into(), age(object, now)])
    }
}

/// Its name is the address in canonical form.
pub struct IpAddress;

impl Strategy for IpAddress {
    fn validate_name(&self, name: &str) -> Vec<String> {
        match name.parse::<IpAddr>() {
            Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => vec!["must not be an IPv4-mapped IPv6 address".to_owned()],
            Ok(ip) if ip.to_string() != name => vec![format!("must be in canonical form ({})", go_quote(&ip.to_string()))],
            Ok(_) => Vec::new(),
            Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        let parent = object.at(&["spec", "parentRef"]).map_or("<none>".into(), |parent| {
            let part = |key| text(parent, &[key]);
            let group = if part("group").is_empty() { String::new() } else { format!(".{}", part("group")) };
            let namespace = if part("namespace").is_empty() { String::new() } else { format!("/{}", part("namespace")) };
            format!("{}{namespace}/{}", format!("{}{group}", part("resource")).to_lowercase(), part("name"))
        });
        Some(vec![name(object), parent.into(), age(object, now)])
    }
}
