//! APIServices (upstream: `k8s.io/kube-aggregator/pkg/registry/apiservice`).

use crate::cells::{Cells, age, name, text};
use jiff::Timestamp;
use knarr_core::{Value, ValueExt, json, names, time};

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

    /// `v1.` is the name of the core group's.
    fn validate_name(&self, name: &str) -> Vec<String> {
        names::is_path_segment(name)
    }

    fn cells(&self, service: &Value, now: Timestamp) -> Cells {
        let reference = service.at(&["spec", "service"]).map_or("Local".into(), |s| format!("{}/{}", text(s, &["namespace"]), text(s, &["name"])));
        let available = service.list_at(&["status", "conditions"]).iter().find(|c| text(c, &["type"]) == "Available");
        let state = available.map_or("Unknown".into(), |c| match (text(c, &["status"]), text(c, &["reason"])) {
            ("True", _) => "True".to_owned(),
            (status, "") => status.to_owned(),
            (status, reason) => format!("{status} ({reason})"),
        });
        Some(vec![name(service), reference.into(), state.into(), age(service, now)])
    }
}
