//! Endpoints, the older sibling of EndpointSlices (upstream: `pkg/registry/core/endpoint`).

use knarr_core::Value;

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
}
