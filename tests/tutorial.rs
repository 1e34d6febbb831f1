//! The way of a newcomer, as a test: deploy, look, scale, roll, roll back, lose a pod, lose every process of ours, stop, start,
//! delete. Stock kubectl and an HTTP client are all that is used.

#[path = "cluster/mod.rs"]
mod cluster;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cluster::processes::Processes;
use cluster::{Cluster, containers, get, ready_pods, wait_for};

const NODE_PORT: u16 = 30080;

#[test]
fn a_newcomers_way_through_a_cluster() {
    let before = Traces::take();
    let cluster = Cluster::start("tutorial", 2);
    cluster.load_example();
    cluster.kubectl(&["apply", "-f", "examples/hello.yaml"]);
    cluster.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
    let address = SocketAddr::from((cluster.address(), NODE_PORT));
    three_pods_answer(address);
    runs_as_of_old(&cluster);
    volumes_go_with_their_claims(&cluster);
    scaled(&cluster, 5);
    scaled(&cluster, 0);
    scaled(&cluster, 3);
    rolled_under_load(&cluster, address);
    cluster.kubectl(&["rollout", "undo", "deployment/hello"]);
    cluster.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
    wait_for("the old greeting", || get(address).is_ok_and(|body| body.starts_with("Hello ")));
    heals(&cluster);
    streams(&cluster);
    survives_our_death(&cluster, address);
    comes_back_after_a_stop(&cluster, address);
    drop(cluster);
    assert_eq!(Traces::take(), before, "a deleted cluster leaves nothing behind");
}

fn three_pods_answer(address: SocketAddr) {
    let mut seen = BTreeSet::new();
    wait_for("three pods to answer", || {
        seen.extend(get(address));
        seen.len() == 3
    });
}

fn scaled(cluster: &Cluster, replicas: usize) {
    cluster.kubectl(&["scale", "deployment/hello", &format!("--replicas={replicas}")]);
    wait_for(&format!("{replicas} pods"), || ready_pods(cluster).len() == replicas);
}

/// Not one request may fail while every pod is replaced.
fn rolled_under_load(cluster: &Cluster, address: SocketAddr) {
    let (stop, asked, failed) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    asked.fetch_add(1, Ordering::Relaxed);
                    if let Err(e) = get(address) {
                        eprintln!("a request failed during the rollout: {e}");
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        cluster.kubectl(&["set", "env", "deployment/hello", "GREETING=Ahoy"]);
        cluster.kubectl(&["rollout", "status", "deployment/hello", "--timeout=90s"]);
        wait_for("the new greeting alone", || (0..10).all(|_| get(address).is_ok_and(|body| body.starts_with("Ahoy "))));
        stop.store(true, Ordering::Relaxed);
    });
    assert!(asked.load(Ordering::Relaxed) > 10, "the load was steady");
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {} requests", asked.load(Ordering::Relaxed));
}

fn heals(cluster: &Cluster) {
    let victim = ready_pods(cluster).first().cloned().expect("a pod");
    cluster.kubectl(&["delete", "pod", &victim, "--wait=false"]);
    wait_for("another pod in its place", || {
        let pods = ready_pods(cluster);
        pods.len() == 3 && !pods.contains(&victim)
    });
}

fn streams(cluster: &Cluster) {
    let pod = ready_pods(cluster).first().cloned().expect("a pod");
    assert!(cluster.kubectl(&["logs", &pod]).contains("listening on"), "a pod's log is read");
    // Events are written beside the work that they tell of.
    wait_for("the pod's events", || {
        let described = cluster.kubectl(&["describe", "pod", &pod]);
        described.contains("Successfully assigned") && described.contains("Started")
    });
}

/// What `kubectl run` made once: a Deployment and a Service.
fn runs_as_of_old(cluster: &Cluster) {
    let line = "run again --image=knarr.local/hello:1 --replicas=2 --expose --port=8080 --env=GREETING=Hey --labels=app=again";
    let said = cluster.knarr_for_users(&line.split(' ').collect::<Vec<_>>());
    assert_eq!(said, "deployment.apps/again created\nservice/again created\n");
    cluster.kubectl(&["rollout", "status", "deployment/again", "--timeout=60s"]);
    wait_for("the Service to answer", || {
        let answer = cluster.try_kubectl(&["get", "--raw", "/api/v1/namespaces/default/services/again:8080/proxy/"]);
        String::from_utf8_lossy(&answer.stdout).starts_with("Hey ")
    });
    cluster.kubectl(&["delete", "deployment,service", "again"]);
    wait_for("its pods to go", || cluster.kubectl(&["get", "pods", "-l", "app=again", "-o", "name"]).is_empty());
}

/// A claim gets a folder of its pod's node, and the folder goes with the claim.
fn volumes_go_with_their_claims(cluster: &Cluster) {
    let manifest = cluster.write("claim.yaml", CLAIM);
    cluster.kubectl(&["apply", "-f", &manifest]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/keeper", "--timeout=60s"]);
    let folder = cluster.kubectl(&["get", "pv", "-o", "jsonpath={.items[0].spec.hostPath.path}"]);
    assert!(std::path::Path::new(&folder).is_dir(), "{folder}");
    cluster.kubectl(&["delete", "pod/keeper", "pvc/kept", "--timeout=60s"]);
    wait_for("the folder to go", || !std::path::Path::new(&folder).exists());
}

const CLAIM: &str = r"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: kept}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: keeper}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: hello, image: 'knarr.local/hello:1', volumeMounts: [{name: kept, mountPath: /kept}]}]
  volumes: [{name: kept, persistentVolumeClaim: {claimName: kept}}]
";

/// Every process of ours is killed, one after the other; no container restarts.
fn survives_our_death(cluster: &Cluster, address: SocketAddr) {
    wait_for("three containers alone", || containers(cluster).len() == 3);
    let before = containers(cluster);
    let processes = Processes::of(cluster);
    for victim in processes.living() {
        victim.kill();
        get(address).unwrap_or_else(|e| panic!("Services work without {victim:?}: {e}"));
        processes.wait_for_all();
    }
    wait_for("all nodes to be Ready", || {
        let wait = cluster.try_kubectl(&["wait", "--for=condition=Ready", "node", "--all", "--timeout=20s"]);
        wait.status.success()
    });
    assert_eq!(containers(cluster), before, "the same containers, none restarted");
}

fn comes_back_after_a_stop(cluster: &Cluster, address: SocketAddr) {
    cluster.knarr(&["stop"]);
    assert!(get(address).is_err(), "nothing answers while the cluster is stopped");
    cluster.start_again(2);
    wait_for("the app to answer again", || get(address).is_ok());
    assert!(cluster.kubectl(&["get", "deployment", "hello"]).contains("hello"));
}

/// What a cluster leaves on a machine, if it does.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    links: BTreeSet<String>,
    mounts: BTreeSet<String>,
    folders: BTreeSet<String>,
}

impl Traces {
    fn take() -> Self {
        let names = |folder: &str| {
            let entries = std::fs::read_dir(folder).into_iter().flatten();
            entries.filter_map(|e| Some(format!("{folder}/{}", e.ok()?.file_name().to_string_lossy()))).collect::<BTreeSet<_>>()
        };
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mut folders = names("/run/knarr");
        folders.extend(names("/var/lib/knarr"));
        Self {
            links: names("/sys/class/net"),
            mounts: mounts.lines().filter_map(|l| l.split(' ').nth(1)).filter(|m| m.contains("knarr") || m.contains("/tmp/.tmp")).map(str::to_owned).collect(),
            folders,
        }
    }
}
