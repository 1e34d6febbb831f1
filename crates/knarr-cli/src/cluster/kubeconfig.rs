//! The cluster's entry in the user's kubeconfig: merged in as minikube does it, taken out on delete, and nothing else touched.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use knarr_client::kubeconfig::{self as client, Locked};

use super::config::Cluster;
use super::credentials;
use super::failure::{Exit, Failure, Result};

/// Name of the context, the cluster and the user.
pub fn context_name(cluster: &Cluster) -> String {
    cluster.profile.clone()
}

/// Merges the cluster into `named`, or into the file that kubectl would write; makes its context the current one.
pub fn merge(cluster: &Cluster, named: Option<&Path>) -> Result<PathBuf> {
    let path = file(named)?;
    let data = |name: &str| -> Result<String> {
        let path = cluster.pki().join(name);
        std::fs::read(&path).map(|bytes| STANDARD.encode(bytes)).map_err(|e| Failure::file(&path, &e))
    };
    let entry = client::Cluster { server: cluster.server_url(), certificate_authority_data: Some(data("ca.crt")?), ..client::Cluster::default() };
    let user = client::User { client_certificate_data: Some(data("admin.crt")?), client_key_data: Some(data("admin.key")?), ..client::User::default() };
    change(&path, |config| config.upsert(&context_name(cluster), entry, user))?;
    remember(cluster, &path)?;
    give_to_caller(&path);
    Ok(path)
}

/// Takes the cluster out of every file that it was merged into.
pub fn forget(cluster: &Cluster) -> Result<()> {
    let list = std::fs::read_to_string(cluster.data.join("kubeconfigs")).unwrap_or_default();
    for path in list.lines().map(Path::new).filter(|p| p.exists()) {
        change(path, |config| config.remove(&context_name(cluster)))?;
    }
    Ok(())
}

/// A kubeconfig for the cluster alone, next to its data: what knarr's own verbs use.
///
/// A machine that joined has no administrator's certificate: there they ask as the node.
pub fn client_config(cluster: &Cluster) -> Result<knarr_client::tls::Config> {
    let read = |name: &str| {
        let path = cluster.pki().join(name);
        std::fs::read(&path).map_err(|e| Failure::file(&path, &e))
    };
    let (certificate, key) = if cluster.joined { (credentials::CLIENT, credentials::CLIENT) } else { ("admin.crt", "admin.key") };
    let mut config = knarr_client::tls::Config::new(cluster.server_url());
    config.certificate_authority = Some(read("ca.crt")?);
    config.client_certificate = Some((read(certificate)?, read(key)?));
    Ok(config)
}

fn file(named: Option<&Path>) -> Result<PathBuf> {
    let variable = |name: &str| match (name, sudo_home()) {
        ("HOME", Some(home)) => Some(home),
        _ => std::env::var(name).ok(),
    };
    client::default_paths(named, variable)
        .into_iter()
        .next()
        .ok_or_else(|| Failure::new("NO_HOME", Exit::Usage, "neither KUBECONFIG nor HOME is set", "knarr start --kubeconfig FILE"))
}

/// Home of the user who called sudo: the one who will call kubectl.
fn sudo_home() -> Option<String> {
    let user = std::env::var("SUDO_USER").ok().filter(|u| u != "root")?;
    let user = nix::unistd::User::from_name(&user).ok()??;
    Some(user.dir.display().to_string())
}

/// A file made by root on behalf of a user belongs to that user.
fn give_to_caller(path: &Path) {
    let id = |name: &str| std::env::var(name).ok().and_then(|v| v.parse().ok());
    if let (Some(uid), Some(gid)) = (id("SUDO_UID"), id("SUDO_GID"))
        && let Err(e) = std::os::unix::fs::chown(path, Some(uid), Some(gid))
    {
        eprintln!("warning: {} stays with root: {e}", path.display());
    }
}

fn change(path: &Path, edit: impl FnOnce(&mut client::Kubeconfig)) -> Result<()> {
    let failed = |e: client::Error| Failure::new("KUBECONFIG", Exit::Resource, e.to_string(), format!("look at {}", path.display()));
    let locked = Locked::open(path).map_err(failed)?;
    let mut config = locked.read().map_err(failed)?;
    edit(&mut config);
    locked.write(&config).map_err(failed)
}

/// Notes where the cluster was merged to, for `forget`.
fn remember(cluster: &Cluster, path: &Path) -> Result<()> {
    let notes = cluster.data.join("kubeconfigs");
    let mut list = std::fs::read_to_string(&notes).unwrap_or_default();
    let line = path.display().to_string();
    if !list.lines().any(|l| l == line) {
        list.push_str(&line);
        list.push('\n');
        super::config::write_whole(&notes, list.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_entries_are_left_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(&path, "apiVersion: v1\nkind: Config\ncurrent-context: mine\nclusters:\n- name: mine\n  cluster: {server: https://h:1}\ncontexts:\n- name: mine\n  context: {cluster: mine, user: me}\nusers:\n- name: me\n  user: {token: t}\n").unwrap();
        change(&path, |c| c.upsert("knarr", client::Cluster { server: "https://k:2".into(), ..client::Cluster::default() }, client::User::default())).unwrap();
        let merged = client::Kubeconfig::read(&path).unwrap();
        assert_eq!((merged.current_context.as_str(), merged.clusters.len()), ("knarr", 2));
        change(&path, |c| c.remove("knarr")).unwrap();
        let left = client::Kubeconfig::read(&path).unwrap();
        assert_eq!(left.clusters.keys().collect::<Vec<_>>(), ["mine"]);
        assert_eq!(left.users["me"].value.token.as_deref(), Some("t"));
    }
}
