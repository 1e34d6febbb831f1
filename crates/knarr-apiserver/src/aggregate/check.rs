//! Whether another server can be reached (upstream: `controllers/status/remote`).

use std::{sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use http::Request;
use http_body_util::{BodyExt, Empty};
use knarr_core::{Value, ValueExt, field, json, time};
use knarr_store::{Error, ObjectKey, ResourceKey};

use super::{GROUP, PLURAL, Remote, proxy};
use crate::{
    admission::Objects,
    authn::{MASTERS, User},
    http::RequestBody,
    server::Inner,
    stored::Stored,
};

/// How long a check may take.
const PATIENCE: Duration = Duration::from_secs(6);
/// Largest answer of a discovery that is read.
const DISCOVERY_BYTES_MAX: usize = 4 << 20;

struct Finding {
    status: &'static str,
    reason: &'static str,
    message: String,
}

fn no(reason: &'static str, message: String) -> Finding {
    Finding { status: "False", reason, message }
}

/// Checks, and writes what was found into the APIService if it is news.
pub async fn check(inner: &Arc<Inner>, remote: &Remote) {
    let finding = match find_out(inner, remote).await {
        Ok(()) => Finding { status: "True", reason: "Passed", message: "all checks passed".into() },
        Err(finding) => finding,
    };
    remote.available.store(finding.status == "True", Relaxed);
    inner.aggregation.changed();
    write(inner, &remote.name, &finding).await;
}

async fn find_out(inner: &Arc<Inner>, remote: &Remote) -> Result<(), Finding> {
    let objects = Stored(inner.storage.clone());
    let (service, namespace) = (&remote.service, field::go_quote(&remote.namespace));
    let Some(found) = objects.value("", "services", &remote.namespace, service) else {
        return Err(no("ServiceNotFound", format!("service/{service} in {namespace} is not present")));
    };
    let Some(port) = found.list_at(&["spec", "ports"]).iter().find(|p| p.i64_at(&["port"]) == Some(remote.port)) else {
        return Err(no("ServicePortError", format!("service/{service} in {namespace} is not listening on port {}", remote.port)));
    };
    let slices = objects.values("discovery.k8s.io", "endpointslices", Some(&remote.namespace));
    if !slices.iter().any(|s| s.str_at(&["metadata", "labels", "kubernetes.io/service-name"]) == Some(service)) {
        return Err(no("EndpointsNotFound", format!("cannot find endpointslices for service/{service} in {namespace}")));
    }
    let port_name = port.str_at(&["name"]).unwrap_or_default();
    if proxy::endpoint(&objects, remote).is_none() {
        let name = field::go_quote(port_name);
        return Err(no("MissingEndpoints", format!("endpointslices for service/{service} in {namespace} have no addresses with port name {name}")));
    }
    let list = tokio::time::timeout(PATIENCE, discover(inner, remote)).await;
    let list = list.unwrap_or_else(|_| Err(format!("timed out waiting for https://{}/apis/{}/{}", remote.host(), remote.group, remote.version)));
    let list = list.map_err(|why| no("FailedDiscoveryCheck", why))?;
    remote.resources.store(Some(Arc::new(list)));
    Ok(())
}

/// Asks the other server what it has.
async fn discover(inner: &Arc<Inner>, remote: &Remote) -> Result<Value, String> {
    let path = format!("/apis/{}/{}", remote.group, remote.version);
    let failing = |why: &dyn std::fmt::Display| format!("failing or missing response from https://{}{path}: {why}", remote.host());
    let user = User { name: "system:kube-aggregator".into(), groups: vec![MASTERS.into()], ..User::default() };
    let body = RequestBody::new(Empty::new().map_err(|e| match e {}));
    let request = Request::get(&path).header("accept", "application/json").body(body).map_err(|e| failing(&e))?;
    let answer = proxy::send(inner, remote, &user, request).await.map_err(|e| failing(&e.message))?;
    let status = answer.status();
    if !status.is_success() {
        return Err(failing(&format!("bad status from https://{}{path}: {}", remote.host(), status.as_u16())));
    }
    let body = http_body_util::Limited::new(answer.into_body(), DISCOVERY_BYTES_MAX).collect().await.map_err(|e| failing(&e))?;
    serde_json::from_slice(&body.to_bytes()).map_err(|e| failing(&e))
}

async fn write(inner: &Inner, name: &str, finding: &Finding) {
    let (key, place) = (ResourceKey::new(GROUP, PLURAL), ObjectKey::new("", name));
    loop {
        let Some(item) = inner.storage.get_now(&key, &place) else { return };
        let catalog = inner.catalog.load_full();
        let Ok(served) = catalog.need(GROUP, PLURAL) else { return };
        let Ok(mut object) = served.load(&item.object()) else { return };
        if !set_available(&mut object, finding, inner.env.now()) {
            return;
        }
        let Ok(bytes) = served.store_form(&object) else { return };
        match inner.storage.update(&key, &place, bytes, item.revision(), None).await {
            Err(Error::Conflict(_)) => {}
            Err(error) => return tracing::warn!(%error, name, "the status of an APIService could not be written"),
            Ok(_) => return,
        }
    }
}

/// Gives whether anything is news.
fn set_available(object: &mut Value, finding: &Finding, now: jiff::Timestamp) -> bool {
    let mut conditions = object.list_at(&["status", "conditions"]).to_vec();
    let old = conditions.iter().find(|c| c.str_at(&["type"]) == Some("Available")).cloned();
    let same = |key: &str, value: &str| old.as_ref().and_then(|o| o.str_at(&[key])) == Some(value);
    if same("status", finding.status) && same("reason", finding.reason) && same("message", &finding.message) {
        return false;
    }
    let since = old.as_ref().filter(|_| same("status", finding.status)).and_then(|o| o.str_at(&["lastTransitionTime"])).map(str::to_owned);
    conditions.retain(|c| c.str_at(&["type"]) != Some("Available"));
    conditions.push(json!({
        "type": "Available", "status": finding.status, "reason": finding.reason, "message": finding.message,
        "lastTransitionTime": since.unwrap_or_else(|| time::format(now)),
    }));
    object.set(&["status", "conditions"], conditions);
    true
}
