//! What only knarr has: verbs of its own, volumes from the first minute, and a life beyond the death of its processes.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::cluster::processes::Processes;
use crate::cluster::{Cluster, containers, get, wait_for};

/// What `kubectl run` made once: a Deployment and a Service.
pub fn runs_as_of_old(cluster: &Cluster) {
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
pub fn volumes_go_with_their_claims(cluster: &Cluster) {
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
pub fn survives_our_death(cluster: &Cluster, address: SocketAddr) {
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

pub fn comes_back_after_a_stop(cluster: &Cluster, address: SocketAddr) {
    cluster.knarr(&["stop"]);
    assert!(get(address).is_err(), "nothing answers while the cluster is stopped");
    let nodes = cluster.knarr(&["node", "list"]);
    let removed = cluster.try_knarr(&["node", "remove", nodes.lines().last().expect("nodes")]);
    assert!(!removed.status.success() && String::from_utf8_lossy(&removed.stderr).contains("[STOPPED]"), "{removed:?}");
    cluster.start_again(2);
    wait_for("the app to answer again", || get(address).is_ok());
    assert!(cluster.kubectl(&["get", "deployment", "hello"]).contains("hello"));
}

/// A start that cannot be says why, and leaves no folder.
pub fn refused_starts_leave_nothing(cluster: &Cluster) {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data").display().to_string();
    let name = cluster.knarr(&["node", "list"]).lines().next().expect("a node").to_owned();
    for (flags, code) in [
        (&["--profile", "Not A Name"][..], "[BAD_PROFILE]"),
        (&["--profile", "tutorial-more", "--nodes", "0"], "[BAD_NODES]"),
        (&["--profile", "tutorial-more", "--port", &cluster.port().to_string()], "[PORT_TAKEN]"),
        (&["--profile", "tutorial-more", "--port", "0", "--apiserver-arg", "no-such-flag=1"], "[USAGE]"),
        (&["--profile", &name, "--port", "0"], "[PROFILE_TAKEN]"),
    ] {
        let refused = Command::new(env!("CARGO_BIN_EXE_knarr")).arg("start").args(["--data", &data]).args(flags).output().expect("knarr runs");
        let text = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && text.contains(code), "{flags:?}: {text}");
        assert!(!Path::new(&data).exists(), "{flags:?}");
    }
}

/// What a cluster leaves on a machine, if it does.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Traces {
    links: BTreeSet<String>,
    mounts: BTreeSet<String>,
    folders: BTreeSet<String>,
    processes: BTreeSet<String>,
}

impl Traces {
    pub fn take() -> Self {
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
            processes: names("/proc").into_iter().filter_map(|folder| of_ours(&folder)).collect(),
        }
    }

    /// What is there and was not `before`.
    pub fn since(self, before: &Self) -> Self {
        let new = |now: BTreeSet<String>, before: &BTreeSet<String>| now.difference(before).cloned().collect();
        Self {
            links: new(self.links, &before.links),
            mounts: new(self.mounts, &before.mounts),
            folders: new(self.folders, &before.folders),
            processes: new(self.processes, &before.processes),
        }
    }
}

/// Number and command line of a process that is one of knarr's: a server, an agent, a guard or a shim.
fn of_ours(folder: &str) -> Option<String> {
    let command = std::fs::read(format!("{folder}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    (command.starts_with("knarr ") || command.contains(" shim ")).then(|| format!("{folder} {command}"))
}
