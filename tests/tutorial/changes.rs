//! Changes: labels, annotations, edits, scale, more things from the command line, and their end.

use std::net::SocketAddr;

use crate::cluster::{Cluster, get, ready_pods, wait_for};

const IMAGE: &str = "--image=knarr.local/hello:1";

pub fn all_kinds(cluster: &Cluster, address: SocketAddr) {
    labels(cluster);
    edited(cluster);
    [5, 0, 3].into_iter().for_each(|replicas| scaled(cluster, replicas));
    patched(cluster);
    wait_for("the app to answer", || get(address).is_ok());
    exposed(cluster, address);
    autoscaled(cluster);
    ran(cluster);
    created(cluster);
}

fn labels(cluster: &Cluster) {
    let of = |selector: &str| cluster.kubectl(&["get", "deployments", "-l", selector, "-o", "name"]);
    cluster.kubectl(&["label", "deployment", "hello", "tier=web"]);
    assert_eq!(of("tier=web"), "deployment.apps/hello\n");
    assert_eq!(of("tier in (web,db),app!=hello"), "");
    let again = cluster.try_kubectl(&["label", "deployment", "hello", "tier=db"]);
    assert_eq!(again.status.code(), Some(1), "a label is not replaced unasked");
    cluster.kubectl(&["label", "deployment", "hello", "tier=db", "--overwrite"]);
    cluster.kubectl(&["label", "deployment", "hello", "tier-"]);
    assert_eq!(of("tier"), "");
    cluster.kubectl(&["annotate", "deployment", "hello", "example.com/why=to see"]);
    assert_eq!(cluster.kubectl(&["get", "deployment", "hello", "-o", r"jsonpath={.metadata.annotations.example\.com/why}"]), "to see");
    cluster.kubectl(&["annotate", "deployment", "hello", "example.com/why-"]);
}

/// The editor is a stream editor.
fn edited(cluster: &Cluster) {
    let mut edit = cluster.kubectl_command(&["edit", "deployment", "hello"]);
    let edit = edit.env("KUBE_EDITOR", "sed -i s/replicas:.3/replicas:\\ 4/").output().expect("kubectl runs");
    assert_eq!(String::from_utf8_lossy(&edit.stdout), "deployment.apps/hello edited\n", "{edit:?}");
    wait_for("four pods", || ready_pods(cluster).len() == 4);
}

fn scaled(cluster: &Cluster, replicas: usize) {
    cluster.kubectl(&["scale", "deployment/hello", &format!("--replicas={replicas}")]);
    wait_for(&format!("{replicas} pods"), || ready_pods(cluster).len() == replicas);
}

fn patched(cluster: &Cluster) {
    for (kind, patch) in [
        ("merge", r#"{"metadata":{"labels":{"patched":"merge"}}}"#),
        ("strategic", r#"{"metadata":{"labels":{"patched":"strategic"}}}"#),
        ("json", r#"[{"op":"replace","path":"/metadata/labels/patched","value":"json"}]"#),
    ] {
        cluster.kubectl(&["patch", "deployment", "hello", "--type", kind, "-p", patch]);
        assert_eq!(cluster.kubectl(&["get", "deployment", "hello", "-o", "jsonpath={.metadata.labels.patched}"]), kind);
    }
    let applied = cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "examples/hello.yaml"]);
    assert!(applied.contains("deployment.apps/hello serverside-applied"), "{applied}");
}

fn exposed(cluster: &Cluster, address: SocketAddr) {
    cluster.kubectl(&["expose", "deployment", "hello", "--name=second", "--port=80", "--target-port=8080", "--type=NodePort"]);
    let port = cluster.kubectl(&["get", "service", "second", "-o", "jsonpath={.spec.ports[0].nodePort}"]);
    let second = SocketAddr::new(address.ip(), port.parse().expect("a port"));
    wait_for("the second Service to answer", || get(second).is_ok_and(|body| body.starts_with("Hello ")));
    cluster.kubectl(&["delete", "service", "second"]);
    wait_for("it to go", || get(second).is_err());
}

fn autoscaled(cluster: &Cluster) {
    let said = cluster.kubectl(&["autoscale", "deployment", "hello", "--min=1", "--max=10", "--cpu=80%"]);
    assert_eq!(said, "horizontalpodautoscaler.autoscaling/hello autoscaled\n");
    assert!(cluster.kubectl(&["get", "hpa", "hello"]).contains("Deployment/hello"));
    cluster.kubectl(&["delete", "hpa", "hello"]);
}

fn ran(cluster: &Cluster) {
    assert_eq!(cluster.kubectl(&["run", "solo", IMAGE, "--port=8080", "--env=GREETING=Hey"]), "pod/solo created\n");
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/solo", "--timeout=60s"]);
    let raw = "/api/v1/namespaces/default/pods/solo:8080/proxy/";
    assert!(cluster.kubectl(&["get", "--raw", raw]).starts_with("Hey from solo"));
    assert_eq!(cluster.kubectl(&["delete", "pod", "solo", "--grace-period=1"]), "pod \"solo\" deleted from default namespace\n");
    assert!(!cluster.try_kubectl(&["get", "pod", "solo"]).status.success());
}

fn created(cluster: &Cluster) {
    cluster.kubectl(&["create", "namespace", "other"]);
    let other = |args: &[&str]| cluster.kubectl(&[&["-n", "other"], args].concat());
    other(&["create", "deployment", "made", IMAGE, "--replicas=2"]);
    other(&["wait", "--for=condition=Available", "deployment/made", "--timeout=60s"]);
    other(&["wait", "--for=jsonpath={.status.readyReplicas}=2", "deployment/made", "--timeout=60s"]);
    other(&["create", "secret", "generic", "word", "--from-literal=word=hush"]);
    assert_eq!(other(&["get", "secret", "word", "-o", "jsonpath={.data.word}"]), "aHVzaA==");
    cluster.kubectl(&["delete", "namespace", "other", "--timeout=60s"]);
    assert!(cluster.kubectl(&["get", "pods", "-A", "-l", "app=made", "-o", "name"]).is_empty(), "with its namespace everything goes");
}
