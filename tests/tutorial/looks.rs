//! What a newcomer looks at: lists in each form of output, descriptions, the API's own documentation, what is allowed, the kubeconfig.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::cluster::{Cluster, Running, ready_pods, wait_for};

pub fn at_everything(cluster: &Cluster) {
    lists(cluster);
    watches(cluster);
    descriptions(cluster);
    documentation(cluster);
    permissions(cluster);
    kubeconfig(cluster);
}

fn lists(cluster: &Cluster) {
    let get = |output: &str| cluster.kubectl(&["get", "deployment", "hello", "-o", output]);
    let table = cluster.kubectl(&["get", "deployment", "hello"]);
    let words: Vec<&str> = table.split_whitespace().collect();
    assert_eq!(words[..9], ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "hello", "3/3", "3", "3"], "{table}");
    assert!(get("wide").contains("knarr.local/hello:1") && get("wide").contains("SELECTOR"), "{}", get("wide"));
    assert!(get("yaml").starts_with("apiVersion: apps/v1\nkind: Deployment\n"), "{}", get("yaml"));
    let object: serde_json::Value = serde_json::from_str(&get("json")).expect("JSON");
    assert_eq!(object["spec"]["template"]["spec"]["containers"][0]["image"], "knarr.local/hello:1");
    assert_eq!(get("jsonpath={.spec.replicas}"), "3");
    assert_eq!(get("custom-columns=WHO:.metadata.name,HOW MANY:.spec.replicas"), "WHO     HOW MANY\nhello   3\n");
    assert_eq!(get("name"), "deployment.apps/hello\n");
    assert_eq!(cluster.kubectl(&["get", "pods", "-l", "app=hello", "--no-headers"]).lines().count(), 3);
    assert!(cluster.kubectl(&["get", "all"]).contains("service/hello"));
    let none = cluster.try_kubectl(&["get", "deployment", "nobody"]);
    assert_eq!(String::from_utf8_lossy(&none.stderr), "Error from server (NotFound): deployments.apps \"nobody\" not found\n");
}

/// `get -w` tells of what changes while it runs.
fn watches(cluster: &Cluster) {
    let mut command = cluster.kubectl_command(&["get", "configmaps", "-w", "-o", "name"]);
    let mut watch = Running(command.stdout(Stdio::piped()).spawn().expect("kubectl runs"));
    let mut lines = BufReader::new(watch.0.stdout.take().expect("its output")).lines();
    let mut until = |wanted: &str| lines.by_ref().map_while(Result::ok).any(|line| line == wanted);
    assert!(until("configmap/hello"), "the watch begins with what is there");
    cluster.kubectl(&["create", "configmap", "seen", "--from-literal=a=b"]);
    assert!(until("configmap/seen"), "and goes on with what comes");
    cluster.kubectl(&["delete", "configmap", "seen"]);
    assert!(until("configmap/seen"), "and with what goes");
}

fn descriptions(cluster: &Cluster) {
    let deployment = cluster.kubectl(&["describe", "deployment", "hello"]);
    assert!(deployment.contains("3 desired | 3 updated | 3 total | 3 available | 0 unavailable"), "{deployment}");
    let pod = ready_pods(cluster).first().cloned().expect("a pod");
    // Events are written beside the work that they tell of.
    wait_for("the pod's events", || {
        let described = cluster.kubectl(&["describe", "pod", &pod]);
        described.contains("Successfully assigned") && described.contains("Started")
    });
    let service = cluster.kubectl(&["describe", "service", "hello"]);
    assert!(service.contains("NodePort:") && service.contains("30080/TCP"), "{service}");
    assert!(cluster.kubectl(&["describe", "nodes"]).contains("Allocated resources:"));
}

fn documentation(cluster: &Cluster) {
    let explained = cluster.kubectl(&["explain", "deployment.spec.replicas"]);
    assert!(explained.contains("GROUP:      apps\nKIND:       Deployment\nVERSION:    v1\n\nFIELD: replicas <integer>"), "{explained}");
    assert!(cluster.kubectl(&["explain", "pod", "--recursive"]).contains("terminationGracePeriodSeconds"));
    let resources = cluster.kubectl(&["api-resources", "--no-headers"]);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert!(resources.lines().any(|line| words(line) == ["deployments", "deploy", "apps/v1", "true", "Deployment"]), "{resources}");
    assert!(cluster.kubectl(&["api-versions"]).lines().any(|version| version == "batch/v1"));
}

fn permissions(cluster: &Cluster) {
    assert_eq!(cluster.kubectl(&["auth", "can-i", "create", "deployments"]), "yes\n");
    let no = cluster.try_kubectl(&["auth", "can-i", "create", "deployments", "--as=system:serviceaccount:default:default"]);
    assert_eq!((no.status.code(), &*no.stdout), (Some(1), &b"no\n"[..]));
    cluster.kubectl(&["create", "rolebinding", "may-look", "--clusterrole=view", "--serviceaccount=default:default"]);
    let may = |verb: &str| cluster.try_kubectl(&["auth", "can-i", verb, "pods", "--as=system:serviceaccount:default:default"]).status.success();
    assert!(may("list") && !may("delete"), "who may look may not delete");
    cluster.kubectl(&["delete", "rolebinding", "may-look"]);
}

/// Contexts are changed in a copy.
fn kubeconfig(cluster: &Cluster) {
    let copy = cluster.write("copy", &std::fs::read_to_string(cluster.kubeconfig()).expect("the kubeconfig"));
    let config = |args: &[&str]| {
        let mut command: Command = cluster.kubectl_command(&[&["config"], args].concat());
        let output = command.env("KUBECONFIG", &copy).output().expect("kubectl runs");
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let current = config(&["current-context"]);
    assert!(config(&["get-contexts", "-o", "name"]).contains(&current));
    config(&["set-context", "--current", "--namespace=kube-system"]);
    assert!(config(&["view", "--minify"]).contains("namespace: kube-system"));
    config(&["rename-context", current.trim(), "mine"]);
    config(&["use-context", "mine"]);
    assert_eq!(config(&["current-context"]), "mine\n");
}
