//! What stock kubectl does against this server.

mod support;

use std::{path::PathBuf, process::Command};

use support::Cluster;

/// `KNARR_KUBECTL`, or the first `kubectl` on the path.
fn kubectl() -> PathBuf {
    if let Some(named) = std::env::var_os("KNARR_KUBECTL") {
        return named.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|p| p.join("kubectl")).find(|p| p.is_file());
    found.expect("this test needs stock kubectl: put it on the PATH, or name it in KNARR_KUBECTL")
}

struct Shell {
    home: tempfile::TempDir,
    url: String,
}

impl Shell {
    fn new(cluster: &Cluster) -> Self {
        Self { home: tempfile::tempdir().unwrap(), url: format!("http://{}", cluster.address) }
    }

    /// Runs kubectl and gives what it prints.
    async fn run(&self, arguments: &str, input: &str) -> String {
        let (program, home, url) = (kubectl(), self.home.path().to_owned(), self.url.clone());
        let (arguments, input) = (arguments.to_owned(), input.to_owned());
        tokio::task::spawn_blocking(move || {
            let file = home.join("input.yaml");
            std::fs::write(&file, input).unwrap();
            let arguments = arguments.replace(" -f -", &format!(" -f {}", file.display()));
            let output = Command::new(program)
                .args(["--server", &url])
                .args(arguments.split_whitespace())
                .env("HOME", &home)
                .env("KUBECONFIG", home.join("none"))
                .output()
                .unwrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            format!("{}{}", text(&output.stdout), text(&output.stderr))
        })
        .await
        .unwrap()
    }
}

const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  k: v\n";
const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  labels: {app: web}\nspec:\n  containers:\n  - name: c\n    image: busybox\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_creates_gets_applies_and_deletes() {
    let cluster = Cluster::start().await;
    let shell = Shell::new(&cluster);
    assert_eq!(shell.run("create -f -", MAP).await, "configmap/a created\n");
    assert_eq!(shell.run("get configmap a -o jsonpath={.data.k}", "").await, "v");
    assert_eq!(shell.run("create -f -", POD).await, "pod/p created\n");
    assert_eq!(shell.run("get pods --no-headers -o name", "").await, "pod/p\n");
    let table = shell.run("get pods", "").await;
    assert!(table.starts_with("NAME   READY   STATUS    RESTARTS   AGE\np      0/1     Pending   0"), "{table}");
    // Newer releases say from which namespace.
    let deleted = shell.run("delete configmap a", "").await;
    assert!(deleted.starts_with("configmap \"a\" deleted"), "{deleted}");
    let deleted = shell.run("delete pod p --grace-period=0 --force", "").await;
    assert!(deleted.contains("pod \"p\" force deleted"), "{deleted}");
    assert_eq!(shell.run("get pods", "").await, "No resources found in default namespace.\n");
    assert_eq!(shell.run("apply -f -", MAP).await, "configmap/a created\n");
    assert_eq!(shell.run("apply -f -", &MAP.replace("k: v", "k: w")).await, "configmap/a configured\n");
    assert_eq!(shell.run("apply -f - --server-side --force-conflicts", &MAP.replace("k: v", "k: x")).await, "configmap/a serverside-applied\n");
    assert_eq!(shell.run("get configmap a -o jsonpath={.data.k}", "").await, "x");
}
