//! ServiceCIDRs and IPAddresses: where cluster addresses come from (upstream: `pkg/registry/networking/servicecidr`, `ipaddress`).

use crate::cells::{Cells, age, name, text};
use crate::strategy::{Shape, Strategy};
use crate::tree::strings;
use jiff::Timestamp;
use knarr_core::{Value, ValueExt};

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
