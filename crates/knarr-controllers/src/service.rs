//! Services of type LoadBalancer are answered on the nodes' own addresses, so no load balancer of a cloud is needed: their status
//! names the addresses, the service proxy does the rest. Two Services cannot have one port; the older one gets it.
//! One with a `loadBalancerClass` is left to whoever serves that class. Upstream: `cloud-provider/controllers/service`.

mod plan;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use knarr_client::events::reference;
use knarr_client::{Client, EventKind, Informer, Key, Outcome, Patch, Project, Recorder, read};
use knarr_core::{Object, Result, Value, ValueExt, json};
use parking_lot::Mutex;

use crate::context::ControllerContext;
use crate::endpoints::{SliceView, slice_informer};
use crate::nodes::{self, NodeView};
use plan::{Entrance, Taken, Wanted};

/// Nodes with this label take no packets from outside.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

impl Project for Wanted {
    fn project(object: &Object) -> Result<Self> {
        let service = read::value(object)?;
        let spec = service.at(&["spec"]).cloned().unwrap_or_default();
        let families = spec.list_at(&["ipFamilies"]);
        let has = |family: &str| families.iter().any(|f| f.as_str() == Some(family));
        let port = |port: &Value| Some((port.str_at(&["protocol"]).unwrap_or("TCP").into(), u16::try_from(port.i64_at(&["port"])?).ok()?));
        let told = service.list_at(&["status", "loadBalancer", "ingress"]);
        Ok(Self {
            balanced: spec.str_at(&["type"]) == Some("LoadBalancer") && spec.at(&["loadBalancerClass"]).is_none(),
            created: service.str_at(&["metadata", "creationTimestamp"]).and_then(knarr_core::time::parse).unwrap_or(Timestamp::UNIX_EPOCH),
            ports: spec.list_at(&["ports"]).iter().filter_map(port).collect(),
            ipv4: has("IPv4"),
            ipv6: has("IPv6"),
            local: spec.str_at(&["externalTrafficPolicy"]) == Some("Local"),
            told: told.iter().filter_map(|i| i.str_at(&["ip"])?.parse().ok()).collect(),
        })
    }
}

pub fn start(context: &ControllerContext) {
    let client = context.client("service-controller");
    let this = Arc::new(Controller {
        services: context.informer::<Service, Wanted>(),
        slices: slice_informer(context),
        nodes: nodes::informer(context),
        recorder: context.recorder(&client, "service-controller"),
        client,
        reserved: context.config.reserved_ports.clone(),
        ours: Mutex::default(),
    });
    let queue = context.queue("service");
    let (me, woken) = (this.clone(), queue.clone());
    this.services.on_change(move |change| {
        let is_balanced = |s: &Wanted| s.balanced || !s.told.is_empty();
        if change.old.iter().chain(&change.new).any(|s| is_balanced(&s.view)) {
            woken.add(change.key().clone());
        }
        // A port that was given up may be what another waits for.
        if change
            .old
            .as_ref()
            .is_some_and(|old| old.view.balanced && change.new.as_ref().is_none_or(|new| new.view.ports != old.view.ports || !new.view.balanced))
        {
            me.balanced().into_iter().for_each(|key| woken.add(key));
        }
    });
    let (me, woken) = (this.clone(), queue.clone());
    this.nodes.on_change(move |change| {
        if change.old.as_ref().and_then(|n| entrance(n)) != change.new.as_ref().and_then(|n| entrance(n)) {
            me.balanced().into_iter().for_each(|key| woken.add(key));
        }
    });
    let (me, woken) = (this.clone(), queue.clone());
    this.slices.on_change(move |change| {
        let Some(name) = change.item().view.service.as_deref() else { return };
        let key = Key::new(change.key().namespace(), name);
        if me.services.store().get(&key).is_some_and(|s| s.view.balanced && s.view.local) {
            woken.add(key);
        }
    });
    context.run("service", queue, move |key| {
        let this = this.clone();
        async move { this.reconcile(key).await }
    });
}

/// The node as one that takes packets from outside, if it does.
fn entrance(node: &knarr_client::Item<NodeView>) -> Option<Entrance> {
    let excluded = crate::ownership::label(&node.object, EXCLUDED).is_some();
    let addresses: Vec<IpAddr> = node.view.internal_ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    (node.view.is_ready() && !excluded).then(|| Entrance { name: node.key.name().to_owned(), addresses })
}

struct Controller {
    services: Informer<Wanted>,
    slices: Informer<SliceView>,
    nodes: Informer<NodeView>,
    recorder: Recorder,
    client: Client,
    /// Ports of the nodes' addresses that the cluster itself needs.
    reserved: Vec<u16>,
    /// Services whose addresses were given here.
    ours: Mutex<BTreeSet<Key>>,
}

impl Controller {
    fn balanced(&self) -> Vec<Key> {
        self.services.store().list().iter().filter(|s| s.view.balanced).map(|s| s.key.clone()).collect()
    }

    async fn reconcile(&self, key: Key) -> Result<Outcome> {
        let Some(item) = self.services.store().get(&key) else {
            self.ours.lock().remove(&key);
            return Ok(Outcome::Done);
        };
        let (wanted, service) = (&item.view, item.typed::<Service>()?);
        if service.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        let about = reference(&service);
        if !wanted.balanced {
            // Of another type now. What another controller wrote into one of its class is not ours to take away.
            let is_other = service.spec.as_ref().is_some_and(|s| s.type_.as_deref() == Some("LoadBalancer"));
            if is_other || wanted.told.is_empty() {
                return Ok(Outcome::Done);
            }
            self.write(&key, &[]).await?;
            self.ours.lock().remove(&key);
            self.recorder.event(&about, EventKind::Normal, "DeletedLoadBalancer", "Deleted load balancer");
            return Ok(Outcome::Done);
        }
        let all = self.services.store().list();
        let owners = plan::owners(all.iter().map(|s| (&s.key, &s.view)));
        let addresses = match plan::taken(&key, wanted, &owners, &self.reserved) {
            Some(Taken { protocol, port, by }) => {
                let by = by.map_or_else(|| "the cluster itself".to_owned(), |by| format!("the service {by}", by = by.as_str()));
                let text = format!("Error syncing load balancer: failed to ensure load balancer: port {port}/{protocol} of the nodes is in use by {by}");
                self.recorder.event(&about, EventKind::Warning, "SyncLoadBalancerFailed", text);
                Vec::new()
            }
            None => self.addresses(&key, wanted),
        };
        let is_new = self.ours.lock().insert(key.clone());
        if addresses != wanted.told {
            if is_new && !addresses.is_empty() {
                self.recorder.event(&about, EventKind::Normal, "EnsuringLoadBalancer", "Ensuring load balancer");
            }
            self.write(&key, &addresses).await?;
            let (reason, text) =
                if is_new { ("EnsuredLoadBalancer", "Ensured load balancer") } else { ("UpdatedLoadBalancer", "Updated load balancer with new hosts") };
            if !addresses.is_empty() {
                self.recorder.event(&about, EventKind::Normal, reason, text);
            }
        }
        Ok(Outcome::Done)
    }

    fn addresses(&self, key: &Key, wanted: &Wanted) -> Vec<IpAddr> {
        let nodes: Vec<Entrance> = self.nodes.store().list().iter().filter_map(|n| entrance(n)).collect();
        let endpoints = if wanted.local { self.nodes_with_endpoints(key) } else { BTreeSet::new() };
        plan::addresses(wanted, &nodes, &endpoints)
    }

    fn nodes_with_endpoints(&self, key: &Key) -> BTreeSet<String> {
        let slices = self.slices.store().within(key.namespace());
        let of_service = slices.iter().filter(|s| s.view.service.as_deref() == Some(key.name()));
        let endpoints = of_service.filter_map(|s| s.typed::<EndpointSlice>().ok()).flat_map(|slice| slice.endpoints.unwrap_or_default());
        let ready = endpoints.filter(|e| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true));
        ready.filter_map(|e| e.node_name).collect()
    }

    async fn write(&self, key: &Key, addresses: &[IpAddr]) -> Result<()> {
        let ingress: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip.to_string(), "ipMode": "VIP"})).collect();
        let balancer = if ingress.is_empty() { json!({"ingress": null}) } else { json!({"ingress": ingress}) };
        let patch = Patch::merge(json!({"status": {"loadBalancer": balancer}}));
        match self.client.within::<Service>(key.namespace()).dynamic().patch_status(key.name(), patch).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;

    use super::*;
    use crate::context::testing::Harness;

    fn node(name: &str, ip: &str) -> Node {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": ip}]}}))
        .unwrap()
    }

    fn service(name: &str, r#type: &str, class: Option<&str>) -> Service {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "a"},
            "spec": {"type": r#type, "ipFamilies": ["IPv4"], "loadBalancerClass": class, "ports": [{"protocol": "TCP", "port": 80}]}}))
        .unwrap()
    }

    fn told(harness: &Harness, name: &str) -> Vec<String> {
        let status = harness.api.read::<Service>("a", name).unwrap().status.unwrap_or_default();
        status.load_balancer.and_then(|l| l.ingress).unwrap_or_default().into_iter().filter_map(|i| i.ip).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_is_answered_on_the_nodes_and_no_longer_when_it_is_of_another_type() {
        let harness = Harness::new();
        start(&harness.context);
        harness.api.seed(&node("n", "192.0.2.2"));
        for (name, r#type, class) in [("s", "LoadBalancer", None), ("inner", "ClusterIP", None), ("other", "LoadBalancer", Some("example.com/mine"))] {
            harness.api.seed(&service(name, r#type, class));
        }
        harness.settle().await;
        assert_eq!((told(&harness, "s"), told(&harness, "inner").len(), told(&harness, "other").len()), (vec!["192.0.2.2".to_owned()], 0, 0));
        harness.api.seed(&node("m", "192.0.2.1"));
        harness.settle().await;
        assert_eq!(told(&harness, "s"), ["192.0.2.1", "192.0.2.2"]);
        harness.api.change::<Service>("a", "s", |s| s.spec.as_mut().unwrap().type_ = Some("ClusterIP".into()));
        harness.settle().await;
        assert!(told(&harness, "s").is_empty());
    }
}
