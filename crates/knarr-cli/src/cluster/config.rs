//! `cluster.json`: what a cluster is. The verbs write it, the processes read it.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::failure::{Exit, Failure, Result};

/// The profile that is meant when none is named.
pub const DEFAULT_PROFILE: &str = "knarr";
/// Where the API server of a cluster listens when nothing else is said.
pub const DEFAULT_PORT: u16 = 6443;
/// More nodes than this on one machine are refused.
pub const LOCAL_NODES_MAX: usize = 64;

/// More servers than this on one machine are refused.
pub const SERVERS_MAX: usize = 16;

/// Whether the processes shall run: what supervision keeps true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    Running,
    Stopped,
}

/// One node on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    pub name: String,
    /// 0 lives on the host's network; every other has namespaces of its own.
    pub index: usize,
    pub address: IpAddr,
    pub kubelet_port: u16,
    /// It is being removed: nobody starts it any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
}

/// A cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    pub profile: String,
    /// Number of the profile on this machine: keeps address ranges and ports of several apart.
    pub slot: usize,
    pub desired: Desired,
    pub data: PathBuf,
    pub run: PathBuf,
    /// Where the API server listens and is reached from everywhere.
    pub advertise: IpAddr,
    pub port: u16,
    pub service_cidr: String,
    pub pod_cidr: String,
    pub cluster_dns: IpAddr,
    pub cluster_domain: String,
    pub nodes: Vec<Node>,
    /// Flags of kube-apiserver, as `NAME=VALUE`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apiserver_args: Vec<String>,
    /// Where the objects lie; without it in a folder of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastore: Option<Datastore>,
    /// How many servers run on this machine, all at one port; none where it has joined another. More than one need a datastore that they share.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub servers: usize,
    /// Its server is on another machine, which this one has joined as a node: there is no server to run here, and no authority.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub joined: bool,
}

/// An etcd that the operator runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Datastore {
    /// Its members: `https://host:2379`.
    pub endpoints: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

fn one() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_one(n: &usize) -> bool {
    *n == 1
}

impl Cluster {
    /// Reads a profile's cluster.
    pub fn load(data: &Path) -> Result<Self> {
        let path = data.join("cluster.json");
        let text = fs::read(&path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => no_cluster(data),
            _ => Failure::file(&path, &e),
        })?;
        serde_json::from_slice(&text).map_err(|e| {
            Failure::new("BAD_CLUSTER_FILE", Exit::Cluster, format!("{}: {e}", path.display()), "repair the file, or `knarr delete` and `knarr start`")
        })
    }

    /// Whether a profile has a cluster.
    pub fn exists(data: &Path) -> bool {
        data.join("cluster.json").exists()
    }

    /// Writes the file whole or not at all.
    pub fn save(&self) -> Result<()> {
        let path = self.data.join("cluster.json");
        let text = serde_json::to_vec_pretty(self).map_err(Failure::program)?;
        write_whole(&path, &text)
    }

    pub fn server_url(&self) -> String {
        match self.advertise {
            IpAddr::V4(a) => format!("https://{a}:{}", self.port),
            IpAddr::V6(a) => format!("https://[{a}]:{}", self.port),
        }
    }

    pub fn pki(&self) -> PathBuf {
        self.data.join("pki")
    }

    pub fn logs(&self) -> PathBuf {
        self.data.join("logs")
    }

    pub fn pid_file(&self, role: &str) -> PathBuf {
        self.run.join(format!("{role}.pid"))
    }

    /// Name of the process of a node, as pid and log files have it.
    pub fn agent_role(node: &Node) -> String {
        format!("agent-{}", node.name)
    }

    /// Network namespace of a node that does not live on the host's network.
    pub fn node_netns(&self, node: &Node) -> Option<PathBuf> {
        (node.index > 0).then(|| self.run.join("nodes").join(&node.name).join("net"))
    }

    /// Folder of one node's kubelet, runtime and network state.
    pub fn node_data(&self, node: &Node) -> PathBuf {
        self.data.join("nodes").join(&node.name)
    }

    pub fn node_run(&self, node: &Node) -> PathBuf {
        self.run.join("nodes").join(&node.name)
    }
}

/// Folder of a profile's data.
pub fn data_folder(profile: &str, named: Option<&Path>) -> PathBuf {
    named.map_or_else(|| PathBuf::from("/var/lib/knarr").join(profile), Path::to_owned)
}

/// Names the clusters that lie beside the one that is not there.
fn no_cluster(data: &Path) -> Failure {
    let beside = data.parent().and_then(|all| fs::read_dir(all).ok()).into_iter().flatten().flatten();
    let mut profiles: Vec<String> = beside.filter(|e| e.path().join("cluster.json").is_file()).filter_map(|e| e.file_name().into_string().ok()).collect();
    profiles.sort();
    let advice = match profiles.is_empty() {
        true => "knarr start".to_owned(),
        false => format!("knarr start, or name one that is there: --profile {}", profiles.join(" or ")),
    };
    Failure::new("NO_CLUSTER", Exit::Cluster, format!("there is no cluster in {}", data.display()), advice)
}

/// Folder of what lives only while clusters run.
pub const RUN: &str = "/run/knarr";

/// Folder of what lives only while the cluster runs.
pub fn run_folder(profile: &str) -> PathBuf {
    PathBuf::from(RUN).join(profile)
}

/// Whether a cluster may have this name: it is a part of names of files, processes and network devices.
pub fn check_profile(profile: &str) -> Result<()> {
    let is_good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if profile.bytes().all(is_good) && !profile.is_empty() && profile.len() <= 32 {
        return Ok(());
    }
    Err(Failure::new("BAD_PROFILE", Exit::Usage, format!("{profile:?} is no name for a cluster: at most 32 of a-z, 0-9 and '-'"), "knarr start --profile NAME"))
}

/// Makes a folder that only root may look into.
///
/// # Errors
/// When it cannot be made.
pub fn private_folder(path: &Path) -> Result<()> {
    make_private(path).map_err(|e| Failure::file(path, &e))
}

/// The same, for those who look at what went wrong.
///
/// # Errors
/// When it cannot be made.
pub fn make_private(path: &Path) -> std::io::Result<()> {
    loop {
        match fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
            // It was there when it was to be made, and gone when `create` looked whether it is a folder: the last cluster took it along.
            Err(e) if e.kind() == ErrorKind::AlreadyExists && !fs::symlink_metadata(path).is_ok_and(|there| !there.is_dir()) => {}
            made => return made,
        }
    }
}

/// Writes a file so that readers see the old or the new one.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let beside = path.with_extension("new");
    let written = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside).and_then(|mut f| {
        f.write_all(bytes)?;
        f.sync_all()
    });
    written.and_then(|()| fs::rename(&beside, path)).map_err(|e| Failure::file(path, &e))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample(data: &Path) -> Cluster {
        Cluster {
            profile: "knarr".into(),
            slot: 0,
            desired: Desired::Running,
            data: data.to_owned(),
            run: data.join("run"),
            advertise: "127.0.0.1".parse().unwrap(),
            port: 6443,
            service_cidr: "10.96.0.0/16".into(),
            pod_cidr: "10.244.0.0/16".into(),
            cluster_dns: "10.96.0.10".parse().unwrap(),
            cluster_domain: "cluster.local".into(),
            nodes: vec![Node { name: "knarr".into(), index: 0, address: "127.0.0.1".parse().unwrap(), kubelet_port: 10250, leaving: false }],
            apiserver_args: Vec::new(),
            datastore: None,
            servers: 1,
            joined: false,
        }
    }

    #[test]
    fn a_saved_cluster_is_read_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let cluster = sample(folder.path());
        cluster.save().unwrap();
        assert_eq!(Cluster::load(folder.path()).unwrap(), cluster);
    }

    #[test]
    fn what_stands_where_a_folder_should_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(folder.path().join("nowhere"), &link).unwrap();
        for path in [file, link] {
            assert_eq!(make_private(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
        }
    }

    #[test]
    fn a_broken_file_is_named_with_its_cause() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cluster.json"), "{").unwrap();
        let failure = Cluster::load(folder.path()).unwrap_err();
        assert_eq!(failure.code, "BAD_CLUSTER_FILE");
        assert!(failure.cause.contains("cluster.json"), "{}", failure.cause);
        let advice = |beside: &Path| {
            let failure = Cluster::load(&beside.join("none")).unwrap_err();
            assert_eq!(failure.code, "NO_CLUSTER");
            failure.advice
        };
        assert_eq!(advice(folder.path()), "knarr start");
        for profile in ["other", "dev"] {
            fs::create_dir(folder.path().join(profile)).unwrap();
            fs::write(folder.path().join(profile).join("cluster.json"), "{}").unwrap();
        }
        assert_eq!(advice(folder.path()), "knarr start, or name one that is there: --profile dev or other");
    }
}
