//! Three servers on one etcd, killed one after the other while clients write: nothing that was acknowledged is lost, and whatever
//! only one of them does (controllers, scheduler) another takes over.

#[path = "cluster/mod.rs"]
mod cluster;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cluster::{Cluster, ready_pods, wait_for};
use k8s_openapi::api::core::v1::ConfigMap;
use knarr_client::kubeconfig::Overrides;
use knarr_client::{Api, Kubeconfig, TlsTransport};
use knarr_core::api::Options;
use knarr_store::etcd::testing::Etcd;

const SERVERS: [&str; 3] = ["server", "server-2", "server-3"];
const LEASES: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];

#[test]
fn servers_on_one_etcd_stand_in_for_each_other() {
    let etcd = Etcd::start_with("http", &[]);
    let cluster = Cluster::start_with("servers", 1, &["--servers", "3", "--datastore", &format!("etcd={}", etcd.url)]);
    cluster.load_example();
    cluster.kubectl(&["apply", "-f", "examples/hello.yaml"]);
    cluster.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]);

    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let config = Kubeconfig::read(&cluster.kubeconfig()).expect("a kubeconfig").client_config(&Overrides::default()).expect("a way to the server");
    let maps: Api<ConfigMap> = {
        let _inside = runtime.enter();
        TlsTransport::new(config).expect("a client").client().within("default")
    };
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3).map(|n| runtime.spawn(write(n, maps.clone(), stop.clone()))).collect();
    for role in SERVERS.into_iter().cycle().take(6) {
        cluster.kill(role);
        std::thread::sleep(Duration::from_millis(500));
    }
    stop.store(true, Ordering::Relaxed);
    runtime.block_on(async {
        let mut acknowledged = Vec::new();
        for writer in writers {
            acknowledged.extend(writer.await.expect("a writer"));
        }
        let (there, _) = maps.list(&Options::default()).await.expect("a list");
        let there: Vec<String> = there.into_iter().filter_map(|m| m.metadata.name).collect();
        println!("{} writes were acknowledged", acknowledged.len());
        assert!(acknowledged.len() > 20, "only {} writes came through", acknowledged.len());
        let lost: Vec<_> = acknowledged.iter().filter(|name| !there.contains(name)).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    });

    for lease in LEASES {
        let before = wait_for_leader(&cluster, lease, None);
        let role = SERVERS.into_iter().find(|role| cluster.log(role).contains(&before)).expect("one of the servers leads");
        cluster.kill(role);
        wait_for_leader(&cluster, lease, Some(&before));
    }
    cluster.kubectl(&["scale", "deployment/hello", "--replicas=5"]);
    wait_for("the new leaders to make pods", || ready_pods(&cluster).len() == 5);
}

/// Who holds a lease, once it is somebody else than before.
fn wait_for_leader(cluster: &Cluster, lease: &str, before: Option<&str>) -> String {
    let holder = || {
        let output = cluster.try_kubectl(&["-n", "kube-system", "get", "lease", lease, "-o", "jsonpath={.spec.holderIdentity}"]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // A process that has died holds its lease until it runs out: whoever leads has said so in its log.
    let leads = |who: &str| SERVERS.iter().any(|role| cluster.log(role).contains(who));
    wait_for(&format!("a leader for {lease}"), || {
        let holder = holder();
        !holder.is_empty() && before != Some(&holder) && leads(&holder)
    });
    holder()
}

/// Makes objects until it is told to stop. Gives those that were acknowledged.
async fn write(number: usize, maps: Api<ConfigMap>, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let mut map = ConfigMap::default();
        let name = format!("w{number}-{round}");
        map.metadata.name = Some(name.clone());
        match maps.create(&map).await {
            Ok(_) => acknowledged.push(name),
            // Nobody has promised anything.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    acknowledged
}
