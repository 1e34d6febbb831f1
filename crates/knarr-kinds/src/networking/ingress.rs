//! Ingresses and IngressClasses (upstream: `pkg/registry/networking/ingress`, `ingressclass`).

use knarr_core::Value;

use crate::strategy::{Shape, Strategy};
use crate::tree::{default_to, with};

pub struct Ingress;

impl Strategy for Ingress {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation().status()
    }
}

pub struct IngressClass;

impl Strategy for IngressClass {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation()
    }

    fn default(&self, object: &mut Value) {
        with(object, &["spec", "parameters"], |parameters| default_to(parameters, "scope", "Cluster"));
    }
}
