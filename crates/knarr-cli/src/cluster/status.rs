//! `knarr status`: what runs, for people and for scripts.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use knarr_client::TlsTransport;
use serde::Serialize;

use super::config::{Cluster, Desired};
use super::failure::{Exit, Failure, Result};
use super::kubeconfig;
use super::process::Process;

/// A question to a server that may be hanging waits no longer than this.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    #[default]
    Text,
    Json,
}

/// The state of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    pub profile: String,
    /// `Running`, `Stopped`, or `Degraded` when something that should run does not.
    pub state: &'static str,
    pub server: Part,
    pub nodes: Vec<Part>,
    pub url: String,
    /// The server is on another machine.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub joined: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    pub ready: bool,
    /// Conditions of a node that keep new pods away: `DiskPressure`, `MemoryPressure`, `PIDPressure`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pressures: Vec<String>,
}

/// Whether `/readyz` says ok. A server that is not there yet is not ready.
pub async fn server_ready(cluster: &Cluster) -> bool {
    let Ok(transport) = transport(cluster) else { return false };
    let Ok(request) = http::Request::get("/readyz").body(bytes::Bytes::new()) else { return false };
    matches!(tokio::time::timeout(PATIENCE, transport.fetch(request)).await, Ok(Ok(response)) if response.status().is_success())
}

fn transport(cluster: &Cluster) -> Result<TlsTransport> {
    TlsTransport::new(kubeconfig::client_config(cluster)?).map_err(Failure::program)
}

/// This machine's nodes, as far as the API server knows them.
pub async fn nodes(cluster: &Cluster) -> Result<Vec<Node>> {
    let api = transport(cluster)?.client().all::<Node>();
    let asked = futures::future::try_join_all(cluster.nodes.iter().map(|n| api.find(&n.name)));
    let nodes = tokio::time::timeout(PATIENCE, asked).await.map_err(Failure::program)?.map_err(Failure::program)?;
    Ok(nodes.into_iter().flatten().collect())
}

/// The conditions of a node that are true.
fn conditions(node: &Node) -> impl Iterator<Item = &str> {
    let all = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    all.filter(|c| c.status == "True").map(|c| c.type_.as_str())
}

pub(super) fn is_ready(node: &Node) -> bool {
    conditions(node).any(|c| c == "Ready")
}

/// What a node runs short of: it takes no new pods until that is over.
pub(super) fn pressures(node: &Node) -> Vec<String> {
    conditions(node).filter(|c| c.ends_with("Pressure")).map(str::to_owned).collect()
}

/// Looks at the processes and asks the server.
pub async fn state(cluster: &Cluster) -> State {
    let pid = |role: &str| Process::from_pid_file(&cluster.pid_file(role)).map(|p| p.pid);
    let server = Part { name: "server".into(), pid: pid("server"), ready: server_ready(cluster).await, pressures: Vec::new() };
    let known = if server.ready { nodes(cluster).await.unwrap_or_default() } else { Vec::new() };
    let part = |node: &super::config::Node| {
        let known = known.iter().find(|k| k.metadata.name.as_deref() == Some(&node.name));
        let pressures = known.map(pressures).unwrap_or_default();
        Part { name: node.name.clone(), pid: pid(&Cluster::agent_role(node)), ready: known.is_some_and(is_ready), pressures }
    };
    let nodes: Vec<Part> = cluster.nodes.iter().map(part).collect();
    let all = server.ready && nodes.iter().all(|n| n.ready && n.pid.is_some());
    let none = server.pid.is_none() && nodes.iter().all(|n| n.pid.is_none());
    let state = match (all, none && cluster.desired == Desired::Stopped) {
        (true, _) => "Running",
        (_, true) => "Stopped",
        _ => "Degraded",
    };
    State { profile: cluster.profile.clone(), state, server, nodes, url: cluster.server_url(), joined: cluster.joined }
}

/// Prints the state. The exit code tells it too: 0 running, otherwise [`Exit::Cluster`].
pub async fn print(cluster: &Cluster, output: Output) -> Result<()> {
    let state = state(cluster).await;
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&state).map_err(Failure::program)?),
        Output::Text => print!("{}", text(&state)),
    }
    if state.state == "Running" {
        return Ok(());
    }
    Err(Failure::new(
        if state.state == "Stopped" { "STOPPED" } else { "DEGRADED" },
        Exit::Cluster,
        format!("cluster {:?} is {}", state.profile, state.state.to_lowercase()),
        format!("knarr start --profile {}", state.profile),
    ))
}

fn text(state: &State) -> String {
    let mut lines = format!("{}: {}\n  API server: {}\n", state.profile, state.state, state.url);
    for part in std::iter::once(&state.server).chain(&state.nodes) {
        let elsewhere = state.joined && std::ptr::eq(part, &state.server);
        let pid = part.pid.map_or_else(|| if elsewhere { "on another machine".to_owned() } else { "not running".to_owned() }, |p| format!("pid {p}"));
        let short: String = part.pressures.iter().map(|p| format!(", {p}")).collect();
        lines += &format!("  {:<20} {:<10} {pid}{short}\n", part.name, if part.ready { "Ready" } else { "NotReady" });
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_its_line() {
        let part = |name: &str, pid, ready| Part { name: name.into(), pid, ready, pressures: Vec::new() };
        let state = State {
            profile: "knarr".into(),
            state: "Degraded",
            server: part("server", Some(7), true),
            nodes: vec![part("knarr", None, false), Part { pressures: vec!["DiskPressure".into()], ..part("knarr-2", Some(8), true) }],
            url: "https://10.0.0.1:6443".into(),
            joined: false,
        };
        assert_eq!(
            text(&state),
            "knarr: Degraded\n  API server: https://10.0.0.1:6443\n  server               Ready      pid 7\n  knarr                NotReady   not running\n  knarr-2              Ready      pid 8, DiskPressure\n"
        );
    }
}
