//! Several API servers on one etcd: to a client they are one, whichever answers.

mod support;

use std::time::Duration;

use knarr_core::{Value, ValueExt, json};
use support::{Cluster, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_server_has_acknowledged_every_other_shows() {
    let ([a, b, c], _etcd) = Cluster::start_several().await;
    let mut watch = c.open(&format!("{MAPS}?watch=true"), &[]).await;
    for i in 0..20 {
        let name = format!("m{i}");
        let created = a.post(MAPS, &config_map(&name, json!({"k": "1"}))).await;
        assert_eq!(created.code, 201, "{}", created.text());
        let read = b.get(&format!("{MAPS}/{name}")).await;
        assert_eq!((read.code, read.json()), (200, created.json()));
        let changed = b.patch(&format!("{MAPS}/{name}"), "application/merge-patch+json", r#"{"data":{"k":"2"}}"#).await;
        assert_eq!(changed.code, 200, "{}", changed.text());
        let stale = a.put(&format!("{MAPS}/{name}"), &created.json()).await;
        assert_eq!(stale.code, 409, "{}", stale.text());
        let listed = c.get(MAPS).await.json();
        let found = listed.list_at(&["items"]).iter().find(|m| m.str_at(&["metadata", "name"]) == Some(&name)).expect("listed").clone();
        assert_eq!(found.str_at(&["metadata", "resourceVersion"]), changed.json().str_at(&["metadata", "resourceVersion"]));
        for wanted in ["ADDED", "MODIFIED"] {
            assert_eq!(watch.short().await, format!("{wanted} {name}"));
        }
        assert_eq!(c.delete(&format!("{MAPS}/{name}")).await.code, 200);
        assert_eq!(a.get(&format!("{MAPS}/{name}")).await.code, 404);
        assert_eq!(watch.short().await, format!("DELETED {name}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patches_by_all_servers_at_once_all_count() {
    let (servers, _etcd) = Cluster::start_several::<3>().await;
    assert_eq!(servers[0].post(MAPS, &config_map("n", json!({}))).await.code, 201);
    let path = format!("{MAPS}/n");
    let of_one = |index: usize| {
        let (server, path) = (&servers[index], &path);
        async move {
            for i in 0..15 {
                let patch = json!({"data": {format!("s{index}-{i}"): "x"}}).to_string();
                let answer = server.patch(path, "application/merge-patch+json", &patch).await;
                assert_eq!(answer.code, 200, "{}", answer.text());
            }
        }
    };
    tokio::join!(of_one(0), of_one(1), of_one(2));
    for server in &servers {
        let data = server.get(&path).await.json();
        assert_eq!(data.at(&["data"]).and_then(Value::as_object).map(|d| d.len()), Some(45));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_in_pages_goes_on_at_another_server_or_says_that_it_cannot() {
    let ([a, b], _etcd) = Cluster::start_several().await;
    for i in 0..6 {
        assert_eq!(a.post(MAPS, &config_map(&format!("m{i}"), json!({}))).await.code, 201);
    }
    let first = a.get(&format!("{MAPS}?limit=2")).await.json();
    let token = first.str_at(&["metadata", "continue"]).expect("there is more").to_owned();
    assert_eq!(a.delete(&format!("{MAPS}/m4")).await.code, 200);
    let rest = b.get(&format!("{MAPS}?limit=10&continue={token}")).await;
    assert_eq!(rest.code, 200, "{}", rest.text());
    let names: Vec<String> = rest.json().list_at(&["items"]).iter().filter_map(|m| m.str_at(&["metadata", "name"]).map(str::to_owned)).collect();
    assert_eq!(names, ["m2", "m3", "m4", "m5"], "as it was when the first page was cut");
    let version = first.str_at(&["metadata", "resourceVersion"]).unwrap_or_default().to_owned();
    let mut watch = b.open(&format!("{MAPS}?watch=true&resourceVersion={version}"), &[]).await;
    assert_eq!(watch.short().await, "DELETED m4", "a watch begun from a list of the other server misses nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_in_pages_goes_on_at_a_server_that_has_not_seen_its_begin() {
    let ([a], etcd) = Cluster::start_several().await;
    for i in 0..6 {
        assert_eq!(a.post(MAPS, &config_map(&format!("m{i}"), json!({}))).await.code, 201);
    }
    let first = a.get(&format!("{MAPS}?limit=2")).await.json();
    let token = first.str_at(&["metadata", "continue"]).expect("there is more").to_owned();
    assert_eq!(a.delete(&format!("{MAPS}/m4")).await.code, 200);
    // Its memory begins here.
    let b = Cluster::join(&etcd).await;
    let version = first.str_at(&["metadata", "resourceVersion"]).unwrap_or_default().to_owned();
    let names = |list: &Value| list.list_at(&["items"]).iter().filter_map(|m| m.str_at(&["metadata", "name"]).map(str::to_owned)).collect::<Vec<_>>();
    let second = b.get(&format!("{MAPS}?limit=3&continue={token}")).await;
    assert_eq!((second.code, names(&second.json())), (200, ["m2", "m3", "m4"].map(str::to_owned).into()), "{}", second.text());
    let token = second.json().str_at(&["metadata", "continue"]).expect("there is more").to_owned();
    let third = b.get(&format!("{MAPS}?limit=3&continue={token}")).await.json();
    assert_eq!((names(&third), third.str_at(&["metadata", "resourceVersion"])), (vec!["m5".to_owned()], Some(version.as_str())));
    let exact = b.get(&format!("{MAPS}?resourceVersion={version}&resourceVersionMatch=Exact")).await;
    assert_eq!((exact.code, names(&exact.json()).len()), (200, 6), "{}", exact.text());
    let before = b.get(&format!("{MAPS}?resourceVersion=1&resourceVersionMatch=Exact")).await;
    assert_eq!((before.code, names(&before.json()).len()), (200, 0), "etcd has not forgotten its begin: {}", before.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_two_servers_give_the_same_port_or_address_in_the_same_moment() {
    let (servers, _etcd) = Cluster::start_several::<3>().await;
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str, spec: Value| {
        let mut spec = spec;
        spec["ports"] = json!([{"port": 80, "nodePort": spec["nodePort"].take()}]);
        spec.as_object_mut().expect("a map").remove("nodePort");
        spec["type"] = "NodePort".into();
        json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": name}, "spec": spec})
    };
    for round in 0..8 {
        // Two want the same port, and two the same address; ports and addresses of those that name none are told apart anyway.
        let port = 30100 + round;
        let address = format!("10.96.0.{}", 100 + round);
        let wants = [json!({"nodePort": port}), json!({"nodePort": port, "clusterIP": address}), json!({"nodePort": 0, "clusterIP": address})];
        let answers = futures::future::join_all(wants.into_iter().enumerate().map(|(i, want)| {
            let (server, body) = (&servers[(i + round as usize) % 3], service(&format!("s{round}-{i}"), want));
            async move { server.post(services, &body).await }
        }))
        .await;
        let codes: Vec<u16> = answers.iter().map(|a| a.code).collect();
        let texts: Vec<String> = answers.iter().map(support::Answer::text).collect();
        assert!(codes.iter().all(|c| matches!(c, 201 | 422)), "{texts:?}");
        assert!(codes.iter().filter(|c| **c == 201).count() >= 1, "{texts:?}");
    }
    // Each server makes some without naming anything.
    let any = (0..12).map(|i| {
        let (server, body) = (&servers[i % 3], service(&format!("any{i}"), json!({"nodePort": 0})));
        async move { server.post(services, &body).await }
    });
    for answer in futures::future::join_all(any).await {
        assert_eq!(answer.code, 201, "{}", answer.text());
    }
    let list = servers[0].get(services).await.json();
    let (mut ports, mut addresses) = (std::collections::HashSet::new(), std::collections::HashSet::new());
    for service in list.list_at(&["items"]) {
        assert!(ports.insert(service["spec"]["ports"][0]["nodePort"].as_i64()), "{} twice", service["spec"]["ports"][0]["nodePort"]);
        assert!(addresses.insert(service["spec"]["clusterIP"].to_string()), "{} twice", service["spec"]["clusterIP"]);
    }
    assert!(ports.len() >= 20, "{}", ports.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_made_at_one_server_are_served_by_the_others() {
    let ([a, b], _etcd) = Cluster::start_several().await;
    let definition = json!({"kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1", "metadata": {"name": "widgets.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
    assert_eq!(a.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await.code, 201);
    let widgets = "/apis/example.com/v1/namespaces/default/widgets";
    let widget = json!({"kind": "Widget", "apiVersion": "example.com/v1", "metadata": {"name": "w"}, "spec": {"size": 3}});
    for (server, code) in [(&b, 201), (&a, 409)] {
        let created = tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                let answer = server.post(widgets, &widget).await;
                if answer.code != 404 {
                    return answer;
                }
            }
        });
        let created = created.await.expect("it is served soon");
        assert_eq!(created.code, code, "{}", created.text());
    }
    assert_eq!(b.delete("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.com").await.code, 200);
    let gone = tokio::time::timeout(Duration::from_secs(10), async { while a.get(widgets).await.code != 404 {} });
    gone.await.expect("it is gone everywhere");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_ports_given_by_one_server_are_taken_for_the_others() {
    let ([a, b], _etcd) = Cluster::start_several().await;
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str| json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}});
    assert_eq!(a.post(services, &service("a")).await.code, 201);
    let refused = b.post(services, &service("b")).await;
    assert_eq!(refused.code, 422, "{}", refused.text());
    assert!(refused.text().contains("provided port is already allocated"));
    assert_eq!(b.delete(&format!("{services}/a")).await.code, 200);
    let created = a.post(services, &service("c")).await;
    assert_eq!(created.code, 201, "{}", created.text());
}
