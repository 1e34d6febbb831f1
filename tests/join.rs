//! A second machine joins a cluster. Machines are a network namespace and mounts of their own, with a cable between them: pods run on
//! the one that joined, are reached through a Service across, their logs are read and commands run in them; then the node is removed,
//! and nothing of it stays. Once with both on one link, once with a router between them that knows nothing of pods.

#[path = "cluster/mod.rs"]
mod cluster;

use std::fs::File;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cluster::wait_for;
use knarr_sys::netlink::link::{self, Mac, VethEnd};
use knarr_sys::netlink::route::{self, Route, Scope};
use knarr_sys::netlink::{NetNs, RouteSocket};
use knarr_sys::nft::{Family, KernelNft, Nft};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{chroot, fchdir};

/// What a machine has for itself; everything else is shared.
const OWN_FOLDERS: &[&str] = &["/run", "/var/lib/kubelet", "/var/log/pods", "/var/log/containers", "/var/lib/knarr"];

/// Routes of nobody's in particular: `RTPROT_STATIC`.
const STATIC: u8 = 4;

struct Machine {
    netns: NetNs,
    mounts: Mounts,
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let (netns, folder) = (NetNs::anonymous().expect("a network"), tempfile::tempdir().expect("a folder"));
        netns.run(|| RouteSocket::open().and_then(|mut s| s.apply(&[link::set_up(1)]))).expect("its network").expect("lo");
        let own: Vec<(PathBuf, PathBuf)> = OWN_FOLDERS.iter().map(|own| (place(folder.path(), own), PathBuf::from(own))).collect();
        for (from, to) in &own {
            std::fs::create_dir_all(from).expect("a folder");
            std::fs::create_dir_all(to).expect("a folder");
        }
        // A thread may have mounts of its own once it shares no working folder with the others.
        let mounts = std::thread::spawn(move || own_mounts(&own).expect("own mounts")).join().expect("a thread");
        Self { netns, mounts, folder }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn cable(&self, other: &Self, name: &str, here: &str, there: &str) {
        let pair = link::add_veth(&VethEnd { name, mac: Mac([2, 0, 0, 0, 1, 1]) }, &VethEnd { name, mac: Mac([2, 0, 0, 0, 1, 2]) }, other.netns.as_fd(), 1500);
        self.netns.run(|| RouteSocket::open().and_then(|mut s| s.apply(&[pair]))).expect("its network").expect("a cable");
        for (machine, address) in [(self, here), (other, there)] {
            let done = machine.netns.run(|| {
                let mut socket = RouteSocket::open()?;
                let index = socket.link(name)?.expect("the cable").index;
                socket.apply(&[link::set_up(index), route::add_address(index, address.parse().expect("an address"), Scope::Universe)])
            });
            done.expect("its network").expect("an address");
        }
    }

    fn way_out(&self, via: &str) {
        let done = self.netns.run(|| {
            let mut socket = RouteSocket::open()?;
            let via = via.parse().expect("an address");
            let link = socket.path_to(via)?.expect("a way").link;
            socket.apply(&[route::set_route(&Route { protocol: STATIC, ..Route::via("0.0.0.0/0".parse().expect("a network"), via, link) })])
        });
        done.expect("its network").expect("a route");
    }

    /// Runs a program on this machine.
    fn run(&self, program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(args).env("KUBECONFIG", self.folder.path().join("kubeconfig")).env("NO_PROXY", "*").env("HOME", self.folder.path());
        self.netns.run_there(&mut command).expect("its network");
        let mounts = self.mounts.try_clone().expect("its mounts");
        // SAFETY: plain system calls on descriptors that the closure owns, in a child with one thread.
        unsafe { command.pre_exec(move || mounts.enter()) };
        command.output().expect("the program runs")
    }

    fn try_knarr(&self, args: &[&str]) -> Output {
        let data = self.data().display().to_string();
        self.run(env!("CARGO_BIN_EXE_knarr"), &[args, &["--data", &data]].concat())
    }

    fn knarr(&self, args: &[&str]) -> String {
        let output = self.try_knarr(args);
        assert!(output.status.success(), "{args:?}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn try_kubectl(&self, args: &[&str]) -> Output {
        self.run(std::env::var_os("KNARR_KUBECTL").expect("KNARR_KUBECTL names a stock kubectl"), args)
    }

    fn kubectl(&self, args: &[&str]) -> String {
        let output = self.try_kubectl(args);
        assert!(output.status.success(), "{args:?}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Links, addresses, routes of ours and packet rules.
    fn traces(&self) -> Vec<String> {
        let found = self.netns.run(|| {
            let mut socket = RouteSocket::open()?;
            let mut all: Vec<String> = socket.links()?.into_iter().map(|l| format!("link {}", l.name)).collect();
            all.extend(socket.addresses()?.into_iter().filter(|(_, net, _)| net.addr().is_ipv4()).map(|(_, net, _)| format!("address {net}")));
            for protocol in [route::ROUTE_PROTOCOL, route::ROUTE_PROTOCOL_OUTER, route::ROUTE_PROTOCOL_MACHINE] {
                all.extend(socket.routes_by(protocol, false)?.into_iter().map(|r| format!("route {}", r.destination)));
            }
            all.extend(KernelNft::open().and_then(|mut nft| nft.tables(Family::Ip))?);
            Ok::<_, knarr_sys::netlink::Error>(all)
        });
        found.expect("its network").expect("its traces")
    }

    /// Files that lie in its own folders.
    fn left(&self) -> Vec<PathBuf> {
        let own = OWN_FOLDERS.iter().map(|own| place(self.folder.path(), own));
        own.flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path())).collect()
    }
}

fn place(folder: &Path, own: &str) -> PathBuf {
    folder.join(own.trim_start_matches('/').replace('/', "-"))
}

/// A machine's own folders over the real ones.
struct Mounts {
    namespace: File,
    /// This test's root in there. In a chroot it is not the root of the namespace, where one that enters it would be.
    root: File,
}

impl Mounts {
    fn try_clone(&self) -> std::io::Result<Self> {
        Ok(Self { namespace: self.namespace.try_clone()?, root: self.root.try_clone()? })
    }

    fn enter(&self) -> std::io::Result<()> {
        setns(&self.namespace, CloneFlags::CLONE_NEWNS)?;
        fchdir(&self.root)?;
        Ok(chroot(".")?)
    }
}

fn own_mounts(mounts: &[(PathBuf, PathBuf)]) -> std::io::Result<Mounts> {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
    mount(None::<&Path>, "/", None::<&Path>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&Path>)?;
    for (from, to) in mounts {
        mount(Some(from.as_path()), to.as_path(), None::<&Path>, MsFlags::MS_BIND, None::<&Path>)?;
    }
    Ok(Mounts { namespace: File::open("/proc/thread-self/ns/mnt")?, root: File::open("/")? })
}

/// Pods of the second machine behind a Service.
const APP: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: far}
spec:
  replicas: 2
  selector: {matchLabels: {app: far}}
  template:
    metadata: {labels: {app: far}}
    spec:
      terminationGracePeriodSeconds: 1
      nodeSelector: {kubernetes.io/hostname: second}
      containers: [{name: hello, image: 'knarr.local/hello:1', ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: far}
spec: {selector: {app: far}, ports: [{port: 80, targetPort: 8080}]}
";

/// How one cluster on the first machine looks.
struct Shape {
    profile: &'static str,
    /// As they are named.
    nodes: &'static [&'static str],
    /// Where nobody answers, on a network that both know.
    nowhere: &'static str,
}

#[test]
fn a_machine_on_the_same_link_joins_a_cluster_of_two_nodes_and_leaves() {
    let (first, second) = (Machine::new(), Machine::new());
    first.cable(&second, "cable", "192.0.2.1/24", "192.0.2.2/24");
    // One on the machine's own network, one inside it.
    joins_and_leaves(&first, &second, &Shape { profile: "knarr", nodes: &["knarr", "knarr-m02"], nowhere: "192.0.2.1:1" });
}

#[test]
fn a_machine_behind_a_router_joins_a_cluster_inside_another_and_leaves() {
    let (first, router, second) = (Machine::new(), Machine::new(), Machine::new());
    first.cable(&router, "cable", "192.0.2.1/24", "192.0.2.254/24");
    second.cable(&router, "other", "198.51.100.1/24", "198.51.100.254/24");
    router.netns.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")).expect("its network").expect("forwarding");
    first.way_out("192.0.2.254");
    second.way_out("198.51.100.254");
    joins_and_leaves(&first, &second, &Shape { profile: "inner", nodes: &["inner"], nowhere: "192.0.2.1:1" });
}

/// Whatever happens, nothing of a machine goes on running.
struct Running<'a> {
    machine: &'a Machine,
    profile: &'a str,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}{}", text(&self.machine.try_kubectl(&["describe", "nodes,pods"])), text(&self.machine.try_kubectl(&["get", "events"])));
            let logs = std::fs::read_dir(self.machine.data().join("logs")).into_iter().flatten().flatten();
            for log in logs {
                let text = std::fs::read_to_string(log.path()).unwrap_or_default();
                let last: Vec<&str> = text.lines().rev().take(30).collect();
                eprintln!("--- {}\n{}", log.path().display(), last.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
        }
        let output = self.machine.try_knarr(&["delete", "--profile", self.profile]);
        if !output.status.success() && !text(&output).contains("[NO_CLUSTER]") {
            eprintln!("{}", text(&output));
        }
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn joins_and_leaves(first: &Machine, second: &Machine, shape: &Shape) {
    let (first_before, second_before) = (first.traces(), second.traces());
    let archive = std::env::var("KNARR_HELLO_IMAGE").expect("KNARR_HELLO_IMAGE names the example app's archive");
    let kubeconfig = first.folder.path().join("kubeconfig").display().to_string();
    let server = Running { machine: first, profile: shape.profile };
    let count = shape.nodes.len().to_string();
    first.knarr(&["start", "--profile", shape.profile, "--nodes", &count, "--kubeconfig", &kubeconfig, "--advertise-address", "192.0.2.1"]);
    // Everybody may learn where the cluster is, before there is any token.
    let info = first.kubectl(&["get", "--raw", "/api/v1/namespaces/kube-public/configmaps/cluster-info", "--as", "system:anonymous"]);
    assert!(info.contains("https://192.0.2.1:6443") && !info.contains("jws-kubeconfig-"), "{info}");
    let command = first.knarr(&["token", "create", "--profile", shape.profile, "--print-join-command"]);
    let words: Vec<&str> = command.split_whitespace().skip(1).collect();
    let token = words[words.iter().position(|w| *w == "--token").expect("a token") + 1];
    wait_for("the token to sign what the cluster says of itself", || {
        let signed = format!("jsonpath={{.data.jws-kubeconfig-{}}}", &token[..6]);
        !first.kubectl(&["-n", "kube-public", "get", "configmap", "cluster-info", "-o", &signed]).is_empty()
    });
    refusals(second, &words, shape);
    assert_eq!(second.traces(), second_before, "nothing is left of a join that failed");

    let node = Running { machine: second, profile: "knarr" };
    second.knarr(&[&words[..], &["--node-name", "second"]].concat());
    let again = second.try_knarr(&[&words[..], &["--node-name", "third"]].concat());
    assert!(text(&again).contains("[CLUSTER_EXISTS]") && text(&again).contains("knarr delete"), "{}", text(&again));
    second.knarr(&["image", "load", &archive]);
    first.knarr(&["image", "load", &archive, "--profile", shape.profile]);
    assert!(second.knarr(&["status"]).contains("on another machine"));
    works_across(first, shape);
    second.knarr(&["stop"]);
    assert_eq!(second.traces(), second_before, "a stopped node leaves nothing");
    second.knarr(&["start"]);
    wait_for("the pods to run again", || first.try_kubectl(&["rollout", "status", "deployment/far", "--timeout=5s"]).status.success());
    let taken = third_machine_of_that_name(first, &words);
    assert!(taken.contains("[NODE_EXISTS]") && taken.contains("knarr node remove second"), "{taken}");

    first.knarr(&["node", "remove", "second", "--profile", shape.profile]);
    assert!(!first.kubectl(&["get", "nodes", "-o", "name"]).contains("second"));
    wait_for("the node to see that it is out", || second.traces() == second_before);
    drop(node);
    assert!(!second.data().exists() && second.left().is_empty(), "a deleted node leaves no files: {:?}", second.left());
    drop(server);
    // The cable to the third machine goes with it, a little later.
    wait_for("the first machine to be as it was", || first.traces() == first_before);
    assert!(!first.data().exists() && first.left().is_empty(), "a deleted cluster leaves no files: {:?}", first.left());
}

/// What does not fit is refused with a code and what mends it, and leaves nothing.
fn refusals(second: &Machine, words: &[&str], shape: &Shape) {
    let refused = |change: &dyn Fn(&str) -> String, code: &str, mend: &str| {
        let line: Vec<String> = words.iter().map(|w| change(w)).chain(["--node-name", "second"].map(str::to_owned)).collect();
        let output = second.try_knarr(&line.iter().map(String::as_str).collect::<Vec<_>>());
        let said = text(&output);
        assert!(!output.status.success() && said.contains(&format!("[{code}]")) && said.contains(mend), "{line:?}: {said}");
        assert!(!second.data().exists() && second.left().is_empty(), "{code} left something: {:?}", second.left());
    };
    // Another authority's key is not believed, and a wrong token gets nothing.
    let other_key = |w: &str| w.strip_prefix("sha256:").map_or_else(|| w.to_owned(), |h| format!("sha256:{}", h.chars().rev().collect::<String>()));
    refused(&other_key, "WRONG_AUTHORITY", "knarr token create --print-join-command");
    let is_token = |w: &str| w.split_once('.').is_some_and(|(id, secret)| id.len() == 6 && secret.len() == 16);
    refused(&|w| if is_token(w) { format!("{}.0000000000000000", &w[..6]) } else { w.to_owned() }, "BAD_TOKEN", "knarr token create");
    refused(&|w| if is_token(w) { "nonsense".to_owned() } else { w.to_owned() }, "BAD_TOKEN", "knarr token create");
    refused(&|w| if w == "192.0.2.1:6443" { shape.nowhere.to_owned() } else { w.to_owned() }, "NO_SERVER", "knarr status");
    refused(&|w| if w == "192.0.2.1:6443" { "a:b".to_owned() } else { w.to_owned() }, "BAD_ADDRESS", "HOST:PORT");
}

/// A third machine, which says that it is the second.
fn third_machine_of_that_name(first: &Machine, words: &[&str]) -> String {
    let third = Machine::new();
    first.cable(&third, "third", "203.0.113.1/24", "203.0.113.3/24");
    third.way_out("203.0.113.1");
    let output = third.try_knarr(&[words, &["--node-name", "second"]].concat());
    assert!(!third.data().exists() && third.left().is_empty());
    text(&output)
}

/// Pods and names across the machines, and the streams of pods over there.
fn works_across(first: &Machine, shape: &Shape) {
    let manifest = first.folder.path().join("app.yaml");
    std::fs::write(&manifest, APP).expect("a file");
    first.kubectl(&["apply", "-f", &manifest.display().to_string()]);
    for node in shape.nodes {
        let place = format!("--overrides={{\"spec\":{{\"nodeName\":\"{node}\",\"terminationGracePeriodSeconds\":1}}}}");
        first.kubectl(&["run", &format!("near-{node}"), "--image=knarr.local/hello:1", &place]);
    }
    first.kubectl(&["rollout", "status", "deployment/far", "--timeout=60s"]);
    first.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"]);
    let of = |kind: &str, name: &str, path: &str| first.kubectl(&["get", kind, name, "-o", &format!("jsonpath={{{path}}}")]);
    let far = first.kubectl(&["get", "pods", "-l", "app=far", "-o", "jsonpath={.items[0].metadata.name}"]);
    let (far_ip, service): (Ipv4Addr, Ipv4Addr) =
        (of("pod", &far, ".status.podIP").parse().expect("an address"), of("service", "far", ".spec.clusterIP").parse().expect("an address"));
    let dns: Ipv4Addr = first.kubectl(&["-n", "kube-system", "get", "service", "kube-dns", "-o", "jsonpath={.spec.clusterIP}"]).parse().expect("an address");
    let far_pod = Pod::find(&far);
    for node in shape.nodes {
        let name = format!("near-{node}");
        let pod = Pod::find(&name);
        let own: Ipv4Addr = of("pod", &name, ".status.podIP").parse().expect("an address");
        wait_for("pods to reach pods of the other machine", || pod.get(far_ip, 8080).is_ok_and(|answer| answer.contains(&far)));
        wait_for("and back", || far_pod.get(own, 8080).is_ok_and(|answer| answer.contains(&name)));
        wait_for("the Service to answer across", || pod.get(service, 80).is_ok_and(|answer| answer.contains("far-")));
        assert_eq!(pod.resolve(dns, "far.default.svc.cluster.local"), service);
    }
    assert_eq!(far_pod.resolve(dns, "far.default.svc.cluster.local"), service);
    assert_eq!(far_pod.resolve(dns, "kubernetes.default.svc.cluster.local"), of("service", "kubernetes", ".spec.clusterIP").parse::<Ipv4Addr>().expect("one"));
    assert!(far_pod.get(service, 80).is_ok_and(|answer| answer.contains("far-")));
    // The API server reaches pods over there, and the node, which it knows by its serving certificate.
    let proxied = first.kubectl(&["get", "--raw", "/api/v1/namespaces/default/services/far:80/proxy/"]);
    assert!(proxied.contains("far-"), "{proxied}");
    wait_for("its logs to be read", || first.try_kubectl(&["logs", &far]).status.success());
    assert!(first.kubectl(&["logs", &far]).contains("listening on"));
    // The app has no other program; a second of it finds its port taken.
    let executed = first.try_kubectl(&["exec", &far, "--", "/hello"]);
    assert!(executed.status.code() == Some(1) && text(&executed).contains("AddrInUse"), "{}", text(&executed));
}

/// The network of a pod.
struct Pod(NetNs);

impl Pod {
    /// By a process of its, which has its name as the host's.
    fn find(name: &str) -> Self {
        let mark = format!("HOSTNAME={name}");
        let processes = std::fs::read_dir("/proc").expect("the processes").flatten().map(|e| e.path());
        let is_own = |environment: Vec<u8>| environment.split(|b| *b == 0).any(|v| v == mark.as_bytes());
        let process = processes.into_iter().find(|p| std::fs::read(p.join("environ")).is_ok_and(is_own));
        let process = process.unwrap_or_else(|| panic!("{name} has no process"));
        Self(NetNs::open(&process.join("ns/net")).expect("its network"))
    }

    fn get(&self, address: Ipv4Addr, port: u16) -> std::io::Result<String> {
        self.0.run(|| cluster::get((address, port).into())).expect("its network")
    }

    /// The first address of a name.
    fn resolve(&self, dns: Ipv4Addr, name: &str) -> Ipv4Addr {
        let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).expect("a label"));
            query.extend(label.as_bytes());
        }
        query.extend([0, 0, 1, 0, 1]);
        let mut answer = [0; 512];
        let length = self.0.run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
            socket.connect((dns, 53))?;
            socket.send(&query)?;
            socket.recv(&mut answer)
        });
        let length = length.expect("its network").expect("an answer");
        assert!(length >= query.len() + 16 && answer[7] > 0, "{name} has no address: {:?}", &answer[..length]);
        // The address ends the first record, whose name is a pointer of two bytes.
        let at = query.len() + 12;
        Ipv4Addr::new(answer[at], answer[at + 1], answer[at + 2], answer[at + 3])
    }
}
