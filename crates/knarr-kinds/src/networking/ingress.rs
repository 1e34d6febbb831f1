//! Ingresses and IngressClasses (upstream: `pkg/registry/networking/ingress`, `ingressclass`).

use crate::cells::{Cells, NONE, age, name, text};
use crate::core::service::cells::load_balancer_addresses;
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt};

use super::validation;
use crate::at;
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{default_to, with};

pub struct Ingress;

impl Strategy for Ingress {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation().status().judges_prefix_again()
    }

    fn validate_create(&self, _cx: &Context<'_>, ingress: &Value) -> ErrorList {
        at::check(ingress, |root, e| validation::ingress(root, None, e))
    }

    fn validate_update(&self, _cx: &Context<'_>, ingress: &Value, old: &Value) -> ErrorList {
        at::check(ingress, |root, e| validation::ingress(root, Some(old), e))
    }

    fn validate_status_update(&self, _cx: &Context<'_>, ingress: &Value, old: &Value) -> ErrorList {
        at::check(ingress, |root, e| validation::ingress_status(root, old, e))
    }

    fn warnings(&self, ingress: &Value, old: Option<&Value>) -> Vec<String> {
        validation::warn_ingress(ingress, old)
    }

    fn status_warnings(&self, ingress: &Value) -> Vec<String> {
        crate::core::service::validation::warn_status(ingress)
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        let addresses: Vec<&str> = load_balancer_addresses(object).into_iter().collect();
        let ports = if object.list_at(&["spec", "tls"]).is_empty() { "80" } else { "80, 443" };
        let class = object.str_at(&["spec", "ingressClassName"]).unwrap_or(NONE);
        Some(vec![name(object), class.into(), hosts(object).into(), addresses.join(",").into(), ports.into(), age(object, now)])
    }
}

/// How many rules a cell shows before it says "more".
const HOSTS_SHOWN: usize = 3;

fn hosts(ingress: &Value) -> String {
    let rules = ingress.list_at(&["spec", "rules"]);
    let all: Vec<(usize, &str)> = rules.iter().map(|r| text(r, &["host"])).enumerate().filter(|(_, h)| !h.is_empty()).collect();
    let shown: Vec<&str> = all.iter().take(HOSTS_SHOWN).map(|(_, h)| *h).collect();
    let full_before_last = all.get(HOSTS_SHOWN - 1).is_some_and(|(i, _)| *i + 1 < rules.len());
    match shown.len() {
        0 => "*".into(),
        HOSTS_SHOWN if full_before_last => format!("{} + {} more...", shown.join(","), rules.len() - HOSTS_SHOWN),
        _ => shown.join(","),
    }
}

pub struct IngressClass;

impl Strategy for IngressClass {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation().judges_prefix_again()
    }

    fn default(&self, object: &mut Value) {
        with(object, &["spec", "parameters"], |parameters| default_to(parameters, "scope", "Cluster"));
    }

    fn validate_create(&self, _cx: &Context<'_>, class: &Value) -> ErrorList {
        at::check(class, |root, e| validation::ingress_class(root, None, e))
    }

    fn validate_update(&self, _cx: &Context<'_>, class: &Value, old: &Value) -> ErrorList {
        at::check(class, |root, e| validation::ingress_class(root, Some(old), e))
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        let is_default = text(object, &["metadata", "annotations", "ingressclass.kubernetes.io/is-default-class"]) == "true";
        let label = format!("{}{}", text(object, &["metadata", "name"]), if is_default { " (default)" } else { "" });
        let parameters = object.at(&["spec", "parameters"]).map_or(NONE.into(), |p| {
            let group = p.str_at(&["apiGroup"]).map_or(String::new(), |g| format!(".{g}"));
            format!("{}{group}/{}", text(p, &["kind"]), text(p, &["name"]))
        });
        Some(vec![label.into(), text(object, &["spec", "controller"]).into(), parameters.into(), age(object, now)])
    }
}
