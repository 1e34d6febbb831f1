use k8s_openapi::api::core::v1::{Endpoints, Node, Pod};
use k8s_openapi::api::discovery::v1::Endpoint;
use knarr_core::json;

use super::*;
use crate::context::testing::Harness;

fn service(selector: bool) -> Service {
    let mut value = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "a", "uid": "s", "labels": {"l": "v"}},
        "spec": {"clusterIP": "10.96.0.1", "ipFamilies": ["IPv4"], "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]}});
    if selector {
        value["spec"]["selector"] = json!({"app": "web"});
    }
    serde_json::from_value(value).unwrap()
}

fn pod(n: usize, ready: bool) -> Pod {
    serde_json::from_value(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("p{n:03}"), "namespace": "a", "uid": format!("u{n}"), "labels": {"app": "web"}},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080, "protocol": "TCP"}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": format!("10.0.{}.{}", n / 200, n % 200 + 1)}],
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}),
    )
    .unwrap()
}

async fn cluster(pods: &[Pod]) -> Harness {
    let harness = Harness::new();
    harness.api.seed_value(
        knarr_client::client::gvr::<Node>(),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z"}}}),
    );
    pods.iter().for_each(|p| harness.api.seed(p));
    start(&harness.context);
    harness
}

fn slices(harness: &Harness) -> Vec<EndpointSlice> {
    harness.api.read_all()
}

fn endpoints(slices: &[EndpointSlice]) -> Vec<Endpoint> {
    slices.iter().flat_map(|s| s.endpoints.clone().unwrap_or_default()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_service_shows_its_pods_in_both_forms() {
    let harness = cluster(&[pod(1, true), pod(2, false)]).await;
    harness.api.seed(&service(true));
    harness.settle().await;
    let all = slices(&harness);
    assert_eq!(all.len(), 1);
    let labels = all[0].metadata.labels.clone().unwrap();
    assert_eq!((labels[SERVICE_NAME].as_str(), labels[MANAGED_BY].as_str(), labels["l"].as_str()), ("web", plan::MANAGER, "v"));
    let port = all[0].ports.as_ref().unwrap()[0].clone();
    assert_eq!((port.name.as_deref(), port.port), (Some("http"), Some(8080)));
    let seen: Vec<_> = endpoints(&all).into_iter().map(|e| (e.addresses[0].clone(), e.conditions.unwrap().ready, e.zone)).collect();
    assert_eq!(seen, [("10.0.0.2".to_owned(), Some(true), Some("z".to_owned())), ("10.0.0.3".to_owned(), Some(false), Some("z".to_owned()))]);
    let old: Endpoints = harness.api.read("a", "web").unwrap();
    let subset = &old.subsets.unwrap()[0];
    assert_eq!((subset.addresses.as_ref().unwrap().len(), subset.not_ready_addresses.as_ref().unwrap().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_dying_pod_is_told_and_a_dead_one_leaves() {
    let harness = cluster(&[pod(1, true)]).await;
    harness.api.seed(&service(true));
    harness.settle().await;
    let pods = harness.api.client().within::<Pod>("a");
    pods.delete("p001", &Default::default()).await.unwrap();
    harness.settle().await;
    let conditions = endpoints(&slices(&harness))[0].conditions.clone().unwrap();
    assert_eq!((conditions.ready, conditions.serving, conditions.terminating), (Some(false), Some(true), Some(true)));
    pods.delete("p001", &knarr_client::Deletion { grace_period_seconds: Some(0), ..Default::default() }).await.unwrap();
    harness.settle().await;
    assert_eq!((slices(&harness).len(), endpoints(&slices(&harness)).len()), (1, 0), "an empty slice stays");
    assert!(harness.api.read::<Endpoints>("a", "web").unwrap().subsets.is_none());
}

#[tokio::test(start_paused = true)]
async fn many_pods_are_spread_and_a_change_touches_one_slice() {
    let pods: Vec<Pod> = (0..250).map(|n| pod(n, true)).collect();
    let harness = cluster(&pods).await;
    harness.api.seed(&service(true));
    harness.settle().await;
    let mut sizes: Vec<usize> = slices(&harness).iter().map(|s| s.endpoints.as_ref().map_or(0, Vec::len)).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [50, 100, 100]);
    let before = harness.api.log().len();
    harness.api.seed(&pod(250, true));
    harness.settle().await;
    let writes: Vec<String> = harness.api.log()[before..].iter().filter(|l| l.contains("endpointslices")).cloned().collect();
    assert!(matches!(writes.as_slice(), [one] if one.starts_with("update endpointslices")), "{writes:?}");
    assert_eq!(endpoints(&slices(&harness)).len(), 251);
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_for_its_node_to_be_known() {
    let harness = Harness::new();
    start(&harness.context);
    harness.api.seed(&pod(1, true));
    harness.api.seed(&service(true));
    harness.settle().await;
    assert!(endpoints(&slices(&harness)).is_empty());
    harness.api.seed_value(knarr_client::client::gvr::<Node>(), json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}));
    harness.settle().await;
    assert_eq!(endpoints(&slices(&harness)).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn hand_made_endpoints_are_mirrored_until_they_go() {
    let harness = cluster(&[]).await;
    harness.api.seed(&service(false));
    let hand_made: Endpoints = serde_json::from_value(json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "web", "namespace": "a", "uid": "e"},
        "subsets": [{"addresses": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}], "notReadyAddresses": [{"ip": "192.0.2.2"}], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}]}))
    .unwrap();
    harness.api.seed(&hand_made);
    harness.settle().await;
    let mut types: Vec<_> = slices(&harness).iter().map(|s| (s.address_type.clone(), s.endpoints.as_ref().map_or(0, Vec::len))).collect();
    types.sort();
    assert_eq!(types, [("IPv4".to_owned(), 2), ("IPv6".to_owned(), 1)]);
    harness.api.client().within::<Endpoints>("a").delete("web", &Default::default()).await.unwrap();
    harness.settle().await;
    assert!(slices(&harness).is_empty());
}
