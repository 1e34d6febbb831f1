//! Streams: logs that go on, commands in containers with their input and exit codes, attach, forwarded ports, files there and back.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::Stdio;

use crate::cluster::{Cluster, Running, get, ready_pods};

/// One container that waits for commands, and one that says what it is told.
const TOOLS: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: tools}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: files, emptyDir: {}}]
  containers:
  - {name: idle, image: 'knarr.local/tools:1', command: [sleep, '100000'], volumeMounts: [{name: files, mountPath: /files}]}
  - {name: parrot, image: 'knarr.local/tools:1', command: [cat], stdin: true}
";

pub fn with_pods(cluster: &Cluster) {
    logs(cluster);
    let manifest = cluster.write("tools.yaml", TOOLS);
    cluster.kubectl(&["apply", "-f", &manifest]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/tools", "--timeout=60s"]);
    commands(cluster);
    attached(cluster);
    forwarded(cluster);
    copied(cluster);
    cluster.kubectl(&["delete", "-f", &manifest, "--timeout=60s"]);
}

fn logs(cluster: &Cluster) {
    let pod = ready_pods(cluster).first().cloned().expect("a pod");
    assert!(cluster.kubectl(&["logs", &pod]).starts_with("listening on"), "from the first line");
    assert!(cluster.kubectl(&["logs", "deployment/hello", "--all-containers", "--since=1h", "--timestamps"]).contains("Z listening on"));
    let mut command = cluster.kubectl_command(&["logs", "-f", "--tail=1", &pod]);
    let mut follow = Running(command.stdout(Stdio::piped()).spawn().expect("kubectl runs"));
    let mut lines = BufReader::new(follow.0.stdout.take().expect("its output")).lines().map_while(Result::ok);
    assert!(lines.next().is_some(), "the last line");
    cluster.kubectl(&["get", "--raw", &format!("/api/v1/namespaces/default/pods/{pod}:8080/proxy/told")]);
    assert!(lines.any(|line| line.contains("/told")), "and each that comes");
}

fn commands(cluster: &Cluster) {
    assert_eq!(cluster.kubectl(&["exec", "tools", "-c", "idle", "--", "echo", "two", "words"]), "two words\n");
    assert!(cluster.kubectl(&["exec", "tools", "-c", "idle", "--", "env"]).contains("KUBERNETES_SERVICE_HOST="));
    let failed = cluster.try_kubectl(&["exec", "tools", "-c", "idle", "--", "false"]);
    assert_eq!(failed.status.code(), Some(1), "a command's exit code is kubectl's");
    assert!(String::from_utf8_lossy(&failed.stderr).contains("command terminated with exit code 1"), "{failed:?}");
    let missing = cluster.try_kubectl(&["exec", "tools", "-c", "idle", "--", "nonsense"]);
    assert!(!missing.status.success() && String::from_utf8_lossy(&missing.stderr).contains("nonsense"), "{missing:?}");
    let text = "a line\n".repeat(100_000);
    assert_eq!(piped(cluster, &["exec", "-i", "tools", "-c", "idle", "--", "cat"], &text), text);
}

/// What kubectl writes when it is fed so.
fn piped(cluster: &Cluster, args: &[&str], input: &str) -> String {
    let mut command = cluster.kubectl_command(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("kubectl runs");
    let mut stdin = child.stdin.take().expect("its input");
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input.as_bytes()).expect("it reads"));
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{args:?}: {}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    })
}

fn attached(cluster: &Cluster) {
    let mut command = cluster.kubectl_command(&["attach", "-i", "tools", "-c", "parrot"]);
    let mut attach = Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("kubectl runs"));
    let mut stdin = attach.0.stdin.take().expect("its input");
    let mut lines = BufReader::new(attach.0.stdout.take().expect("its output")).lines().map_while(Result::ok);
    for word in ["polly", "cracker"] {
        writeln!(stdin, "{word}").expect("it reads");
        assert!(lines.any(|line| line == word), "the container says what it is told");
    }
}

fn forwarded(cluster: &Cluster) {
    let mut command = cluster.kubectl_command(&["port-forward", "service/hello", ":80"]);
    let mut forward = Running(command.stdout(Stdio::piped()).spawn().expect("kubectl runs"));
    let mut first = String::new();
    let mut output = BufReader::new(forward.0.stdout.take().expect("its output"));
    output.read_line(&mut first).expect("a line");
    let address: SocketAddr = first.strip_prefix("Forwarding from ").and_then(|rest| rest.split(' ').next()?.parse().ok()).expect("an address");
    for _ in 0..3 {
        assert!(get(address).expect("an answer through the tunnel").contains(" from hello-"));
    }
    forward.0.kill().expect("it ends");
    output.read_to_string(&mut first).expect("the rest");
}

fn copied(cluster: &Cluster) {
    let text = "carried over\n".repeat(1000);
    let here = cluster.write("carried", &text);
    cluster.kubectl(&["cp", &here, "tools:/files/carried", "-c", "idle"]);
    assert_eq!(cluster.kubectl(&["exec", "tools", "-c", "idle", "--", "cat", "/files/carried"]), text);
    let back = format!("{here}-back");
    cluster.kubectl(&["cp", "tools:/files/carried", &back, "-c", "idle"]);
    assert_eq!(std::fs::read_to_string(back).expect("the file"), text);
}
