//! APIServices (upstream: `k8s.io/kube-aggregator/pkg/registry/apiservice`).

use knarr_core::{Value, ValueExt, json, time};

use crate::separation;
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{default_to, with};

pub struct ApiService;

impl Strategy for ApiService {
    fn shape(&self) -> Shape {
        Shape::PLAIN.status_keeps_metadata().needs_resource_version()
    }

    fn default(&self, service: &mut Value) {
        with(service, &["spec", "service"], |reference| default_to(reference, "port", 443));
    }

    /// What this server serves itself is available from the start.
    fn prepare_for_create(&self, cx: &Context<'_>, service: &mut Value) {
        separation::create(self.shape(), service);
        if service.at(&["spec", "service"]).is_none() {
            let condition = json!({
                "type": "Available", "status": "True", "reason": "Local", "lastTransitionTime": time::format(cx.env.now()),
                "message": "Local APIServices are always available",
            });
            service.set(&["status", "conditions"], json!([condition]));
        }
    }
}
