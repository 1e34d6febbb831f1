//! ServiceCIDRs and IPAddresses: where cluster addresses come from (upstream: `pkg/registry/networking/servicecidr`, `ipaddress`).

use crate::strategy::{Shape, Strategy};

pub struct ServiceCidr;

impl Strategy for ServiceCidr {
    fn shape(&self) -> Shape {
        Shape::PLAIN.status_keeps_metadata()
    }
}

/// Its name is the address in canonical form.
pub struct IpAddress;

impl Strategy for IpAddress {}
