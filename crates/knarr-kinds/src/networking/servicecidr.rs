//! ServiceCIDRs and IPAddresses: where cluster addresses come from (upstream: `pkg/registry/networking/servicecidr`, `ipaddress`).

use super::validation;
use crate::at;
use crate::cells::{Cells, age, name, text};
use crate::rules;
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::strings;
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt};

pub struct ServiceCidr;

impl Strategy for ServiceCidr {
    fn shape(&self) -> Shape {
        Shape::PLAIN.status_keeps_metadata()
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> ErrorList {
        at::check(object, |root, e| validation::service_cidrs(&root.get("spec").get("cidrs"), e))
    }

    fn validate_update(&self, _cx: &Context<'_>, object: &Value, old: &Value) -> ErrorList {
        at::check(object, |root, e| validation::service_cidrs_update(&root.get("spec").get("cidrs"), old, e))
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        let ranges: Vec<&str> = strings(object, &["spec", "cidrs"]).collect();
        Some(vec![name(object), ranges.join(",").into(), age(object, now)])
    }
}

/// Its name is the address in canonical form.
pub struct IpAddress;

impl Strategy for IpAddress {
    fn shape(&self) -> Shape {
        Shape::PLAIN.judges_prefix_again()
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> ErrorList {
        at::check(object, |root, e| validation::ip_address(root, None, e))
    }

    fn validate_update(&self, _cx: &Context<'_>, object: &Value, old: &Value) -> ErrorList {
        at::check(object, |root, e| validation::ip_address(root, Some(old), e))
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        rules::canonical_ip(name)
    }

    fn generates_names(&self) -> bool {
        false
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
