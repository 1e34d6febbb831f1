//! `kubectl version`, `api-versions`, `cluster-info`, `options`: short ones about the server and this program.

use knarr_core::{Value, ValueExt, json};

use crate::kubectl::command::{Context, Verb, flag_help};
use crate::kubectl::failure::Result;
use crate::kubectl::flags::{switch, text};
use crate::kubectl::print::out;
use crate::kubectl::print::{go, yaml};
use crate::kubectl::resources::discover;
use crate::kubectl::resources::known;
use crate::kubectl::session::{GLOBAL, with_query};

pub static VERSION: Verb = Verb {
    name: "version",
    usage: "[flags]",
    about: "Print the client and server version information",
    flags: &[&[switch("client", "Show the client version only (no server required)"), text("output", "", "One of 'yaml' or 'json'").short('o')]],
    run: Some(|cx| Box::pin(version(cx))),
    ..Verb::NONE
};

pub static API_VERSIONS: Verb = Verb {
    name: "api-versions",
    about: "Print the supported API versions on the server, in the form of \"group/version\"",
    run: Some(|cx| Box::pin(api_versions(cx))),
    ..Verb::NONE
};

pub static CLUSTER_INFO: Verb =
    Verb { name: "cluster-info", about: "Display cluster information", verbs: &[&super::dump::VERB], run: Some(|cx| Box::pin(cluster_info(cx))), ..Verb::NONE };

pub static OPTIONS: Verb =
    Verb { name: "options", about: "Print the list of flags inherited by all commands", run: Some(|cx| Box::pin(options(cx))), ..Verb::NONE };

/// The version of kustomize whose behaviour the client stands for.
const KUSTOMIZE: &str = "v5.7.1";

fn client_version() -> Value {
    let version = knarr_core::KUBERNETES_VERSION;
    let mut parts = version.trim_start_matches('v').split('.');
    json!({"major": parts.next().unwrap_or_default(), "minor": parts.next().unwrap_or_default(), "gitVersion": version, "gitCommit": "", "gitTreeState": "", "buildDate": "",
        "goVersion": "", "compiler": "rustc", "platform": format!("linux/{}", crate::kubectl::go_arch())})
}

async fn version(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    if !cx.words().is_empty() {
        return Err(format!("extra arguments: [{}]", cx.words().join(" ")).into());
    }
    let mut all = json!({"clientVersion": client_version(), "kustomizeVersion": KUSTOMIZE});
    let server = if flags.on("client") { None } else { Some(cx.session()?.get("/version").await) };
    let failure = match server {
        Some(Ok(version)) => {
            all["serverVersion"] = version;
            None
        }
        Some(Err(e)) => Some(e),
        None => None,
    };
    match flags.text("output") {
        "" => {
            println!("Client Version: {}\nKustomize Version: {KUSTOMIZE}", knarr_core::KUBERNETES_VERSION);
            if let Some(version) = all.str_at(&["serverVersion", "gitVersion"]) {
                println!("Server Version: {version}");
            }
        }
        "yaml" => out(&yaml::to_string(&all))?,
        "json" => out(&(go::json_indent_by(&all, b"  ") + "\n"))?,
        _ => return Err("--output must be 'yaml' or 'json'".into()),
    }
    failure.map_or(Ok(()), Err)
}

async fn api_versions(cx: &Context) -> Result<()> {
    if !cx.words().is_empty() {
        return Err(cx.usage(format!("unexpected arguments: [{}]", cx.words().join(" "))));
    }
    let mut versions: Vec<String> = discover(cx.session()?).await?.iter().map(|d| d.meant.api_version()).collect();
    versions.sort();
    versions.dedup();
    versions.iter().for_each(|v| println!("{v}"));
    Ok(())
}

/// Text in a colour, where the output is a terminal.
fn coloured(text: &str, colour: u8) -> String {
    if std::io::IsTerminal::is_terminal(&std::io::stdout()) { format!("\x1b[0;{colour}m{text}\x1b[0m") } else { text.to_owned() }
}

async fn cluster_info(cx: &Context) -> Result<()> {
    let session = cx.session()?;
    let server = session.transport.server().trim_end_matches('/').to_owned();
    println!("{} is running at {}", coloured("Kubernetes control plane", 32), coloured(&server, 33));
    let query = [("labelSelector", "kubernetes.io/cluster-service=true".to_owned())];
    let list = session.get(&with_query(&known("services").path(Some("kube-system"), None), &query)).await?;
    for service in list.list_at(&["items"]) {
        let text = |path: &[&str]| service.str_at(path).unwrap_or_default();
        let name = text(&["metadata", "name"]);
        let title = service.str_at(&["metadata", "labels", "kubernetes.io/name"]).unwrap_or(name);
        let link = match service.list_at(&["status", "loadBalancer", "ingress"]).first() {
            Some(ingress) => {
                let host = ingress.str_at(&["ip"]).or_else(|| ingress.str_at(&["hostname"])).unwrap_or_default();
                service.list_at(&["spec", "ports"]).iter().map(|p| format!("http://{host}:{} ", p.i64_at(&["port"]).unwrap_or(0))).collect()
            }
            None => {
                let first = service.list_at(&["spec", "ports"]).first();
                let port = first.and_then(|p| p.str_at(&["name"])).filter(|p| !p.is_empty());
                let scheme = if port == Some("https") || first.and_then(|p| p.i64_at(&["port"])) == Some(443) { "https:" } else { "" };
                let full = match (scheme, port) {
                    ("", None) => name.to_owned(),
                    (scheme, port) => format!("{scheme}{name}:{}", port.unwrap_or_default()),
                };
                format!("{server}/api/v1/namespaces/{}/services/{full}/proxy", text(&["metadata", "namespace"]))
            }
        };
        println!("{} is running at {}", coloured(title, 32), coloured(&link, 33));
    }
    println!("\nTo further debug and diagnose cluster problems, use 'kubectl cluster-info dump'.");
    Ok(())
}

async fn options(_: &Context) -> Result<()> {
    println!("The following options can be passed to any command:\n");
    out(&flag_help(&GLOBAL.iter().collect::<Vec<_>>()))
}
