//! APIServices (upstream: `k8s.io/kube-aggregator/pkg/registry/apiservice`).

use crate::cells::{Cells, age, name, text};
use jiff::Timestamp;
use knarr_core::field::{Error, ErrorList, Path, go_quote};
use knarr_core::{Value, ValueExt, json, names, time};

use crate::at::check;
use crate::rules;
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

    fn validate_create(&self, _cx: &Context<'_>, service: &Value) -> ErrorList {
        validate(service)
    }

    fn validate_update(&self, _cx: &Context<'_>, service: &Value, _old: &Value) -> ErrorList {
        validate(service)
    }

    fn validate_status_update(&self, _cx: &Context<'_>, service: &Value, _old: &Value) -> ErrorList {
        check(service, |root, e| {
            for condition in root.get("status").get("conditions").items() {
                let status = condition.get("status");
                if !STATUSES.contains(&status.str()) {
                    e.push(status.not_supported(&STATUSES));
                }
            }
        })
    }

    /// `v1.` is the name of the core group's.
    fn validate_name(&self, name: &str) -> Vec<String> {
        names::is_path_segment(name)
    }

    fn domain_finalizers(&self) -> bool {
        false
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

const STATUSES: [&str; 3] = ["True", "False", "Unknown"];
const GROUP_PRIORITY_MAX: i64 = 20_000;
const VERSION_PRIORITY_MAX: i64 = 1_000;

/// Upstream: `ValidateAPIService`. The name follows from the rest.
fn validate(service: &Value) -> ErrorList {
    check(service, |root, e| {
        let spec = root.get("spec");
        let (group, version) = (spec.get("group"), spec.get("version"));
        let wanted = format!("{}.{}", version.str(), group.str());
        for field in ["generateName", "name"] {
            let given = root.get("metadata").str_of(field);
            if !given.is_empty() && given != wanted && names::is_path_segment(given).is_empty() {
                let why = format!("must be `spec.version+\".\"+spec.group`: {}", go_quote(&wanted));
                e.push(Error::invalid(&Path::new("metadata").child(field), given, why));
            }
        }
        if !group.str().is_empty() {
            group.problems(e, names::is_dns1123_subdomain(group.str()));
        } else if version.str() != "v1" {
            e.push(group.required("only v1 may have an empty group and it better be legacy kube"));
        }
        version.with_value(Some(&version.str().into())).problems(e, names::is_dns1035_label(version.str()));
        for (field, max) in [("groupPriorityMinimum", GROUP_PRIORITY_MAX), ("versionPriority", VERSION_PRIORITY_MAX)] {
            let priority = spec.get(field);
            if !(1..=max).contains(&priority.int()) {
                e.push(priority.invalid_as(priority.int(), format!("must be positive and less than {max}")));
            }
        }
        let (reference, bundle, insecure) = (spec.get("service"), spec.get("caBundle"), spec.get("insecureSkipTLSVerify"));
        if !reference.is_set() {
            if !bundle.is_empty() {
                e.push(bundle.invalid_as(format!("{} bytes", decoded_length(bundle.str())), "local APIServices may not have a caBundle"));
            }
            if insecure.bool() {
                e.push(insecure.invalid("local APIServices may not have insecureSkipTLSVerify"));
            }
            return;
        }
        reference.get("namespace").require(e);
        reference.get("name").require(e);
        let port = reference.get("port");
        for problem in rules::port_number(port.int()) {
            e.push(port.invalid_as(port.int(), format!("port is not valid: {problem}")));
        }
        if insecure.bool() && !bundle.is_empty() {
            e.push(insecure.invalid("may not be true if caBundle is present"));
        }
    })
}

/// How many bytes base64 stands for.
fn decoded_length(base64: &str) -> usize {
    base64.trim_end_matches('=').len() * 3 / 4
}
