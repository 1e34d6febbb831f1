//! `kubectl cluster-info dump`: what somebody who looks for a fault wants to see of a cluster, on standard output or in a folder.
//! Follows `k8s.io/kubectl/pkg/cmd/clusterinfo/clusterinfo_dump.go`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use http::Method;
use knarr_core::{Value, ValueExt};
use knarr_schema::codec;

use super::options::ALL_NAMESPACES;
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::Result;
use crate::kubectl::flags::{list, text, time};
use crate::kubectl::print::out;
use crate::kubectl::print::{self, Printer, shown};
use crate::kubectl::resources::known;
use crate::kubectl::session::JSON;

pub static VERB: Verb = Verb {
    name: "dump",
    usage: "[flags]",
    about: "Dump relevant information for debugging and diagnosis",
    flags: &[
        &[
            text("output-directory", "", "Where to put the files; standard output if empty or '-'"),
            list("namespaces", "The namespaces to dump"),
            ALL_NAMESPACES,
            time("pod-running-timeout", "20s", "How long to wait until at least one pod is running"),
        ],
        print::FLAGS,
    ],
    run: Some(|cx| Box::pin(run(cx))),
    ..Verb::NONE
};

/// What is dumped of each namespace: a file, a resource.
const KINDS: &[(&str, &str)] = &[
    ("events", "/api/v1/namespaces/NAMESPACE/events"),
    ("replication-controllers", "/api/v1/namespaces/NAMESPACE/replicationcontrollers"),
    ("services", "/api/v1/namespaces/NAMESPACE/services"),
    ("daemonsets", "/apis/apps/v1/namespaces/NAMESPACE/daemonsets"),
    ("deployments", "/apis/apps/v1/namespaces/NAMESPACE/deployments"),
    ("replicasets", "/apis/apps/v1/namespaces/NAMESPACE/replicasets"),
    ("pods", "/api/v1/namespaces/NAMESPACE/pods"),
];

async fn run(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    let session = cx.session()?;
    let folder = flags.some("output-directory").filter(|f| *f != "-");
    let mut written = 0;
    dump(cx, folder, &mut written, "nodes", "/api/v1/nodes").await?;
    let namespaces = if flags.on("all-namespaces") {
        let all = session.get(&known("namespaces").path(None, None)).await?;
        all.list_at(&["items"]).iter().filter_map(|n| n.str_at(&["metadata", "name"])).map(str::to_owned).collect()
    } else if flags.given("namespaces") {
        flags.all("namespaces")
    } else {
        vec!["kube-system".to_owned(), session.namespace.clone()]
    };
    for namespace in namespaces {
        let mut pods = Value::Null;
        for (file, path) in KINDS {
            pods = dump(cx, folder, &mut written, &format!("{namespace}/{file}"), &path.replace("NAMESPACE", &namespace)).await?;
        }
        for pod in pods.list_at(&["items"]) {
            logs(cx, folder, &namespace, pod).await?;
        }
    }
    if let Some(folder) = folder {
        out(&format!("Cluster info dumped to {folder}\n"))?;
    }
    Ok(())
}

/// Writes a list, and gives it.
async fn dump(cx: &Context, folder: Option<&str>, written: &mut usize, name: &str, path: &str) -> Result<Value> {
    let flags = &cx.flags;
    let raw = cx.session()?.send(Method::GET, path, None, JSON, "").await?;
    let mut listed = codec::parse_json(&raw).map_err(|e| format!("{path}: {e}"))?;
    // An empty list has no items at all, for clients that read it as upstream's do.
    if listed.list_at(&["items"]).is_empty() {
        listed["items"] = Value::Null;
    }
    let (text, ending) = match flags.text("output") {
        "" | "json" => {
            let text = indented(&String::from_utf8_lossy(&raw), flags.on("show-managed-fields"));
            (text.replace("\n    \"items\": []\n", "\n    \"items\": null\n"), ".json")
        }
        format => {
            let text = Printer::of(flags, "")?.print(&shown(&listed, flags.on("show-managed-fields")))?;
            // One printer writes all documents, wherever they go.
            let apart = if format == "yaml" && *written > 0 { "---\n" } else { "" };
            (format!("{apart}{text}"), if format == "yaml" { ".yaml" } else { ".txt" })
        }
    };
    *written += 1;
    write(folder, &format!("{name}{ending}"), text.as_bytes())?;
    Ok(listed)
}

/// Writes what the containers of a pod have said.
async fn logs(cx: &Context, folder: Option<&str>, namespace: &str, pod: &Value) -> Result<()> {
    let name = pod.str_at(&["metadata", "name"]).unwrap_or_default();
    let mut text = Vec::new();
    let containers = ["initContainers", "containers"].into_iter().flat_map(|list| pod.list_at(&["spec", list]));
    for container in containers.filter_map(|c| c.str_at(&["name"])) {
        let path = format!("{}/log?container={container}", known("pods").path(Some(namespace), Some(name)));
        writeln!(text, "==== START logs for container {container} of pod {namespace}/{name} ====")?;
        match cx.session()?.send(Method::GET, &path, None, "*/*", "").await {
            Ok(log) => text.extend_from_slice(&log),
            Err(e) => writeln!(text, "Request log error: {}", e.message())?,
        }
        writeln!(text, "==== END logs for container {container} of pod {namespace}/{name} ====")?;
    }
    write(folder, &format!("{namespace}/{name}/logs.txt"), &text)
}

/// Logs may hold secrets: only their owner may read the files.
fn write(folder: Option<&str>, name: &str, bytes: &[u8]) -> Result<()> {
    let Some(folder) = folder else {
        std::io::stdout().write_all(bytes)?;
        return Ok(());
    };
    let file = Path::new(folder).join(name);
    if let Some(parent) = file.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    Ok(fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)?.write_all(bytes)?)
}

/// JSON as the server wrote it, spread over lines; nothing changes its place.
fn indented(raw: &str, managed_fields: bool) -> String {
    let mut reader = Reader { text: raw.as_bytes(), at: 0, managed_fields, out: Vec::with_capacity(raw.len() * 2) };
    reader.value(0);
    reader.out.push(b'\n');
    String::from_utf8_lossy(&reader.out).into_owned()
}

/// A walk through JSON that is known to be some.
struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    managed_fields: bool,
    out: Vec<u8>,
}

impl Reader<'_> {
    fn peek(&mut self) -> u8 {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.text.get(self.at).copied().unwrap_or_default()
    }

    fn line(&mut self, depth: usize) {
        self.out.push(b'\n');
        self.out.resize(self.out.len() + depth * 4, b' ');
    }

    fn value(&mut self, depth: usize) {
        match self.peek() {
            open @ (b'{' | b'[') => self.group(open, depth),
            b'"' => self.string(),
            _ => {
                let end = self.text[self.at..].iter().position(|b| b",]} \n\r\t".contains(b)).map_or(self.text.len(), |n| self.at + n);
                self.out.extend_from_slice(&self.text[self.at..end]);
                self.at = end;
            }
        }
    }

    fn string(&mut self) {
        let begin = self.at;
        self.at += 1;
        while self.text.get(self.at).is_some_and(|b| *b != b'"') {
            self.at += if self.text[self.at] == b'\\' { 2 } else { 1 };
        }
        self.at = (self.at + 1).min(self.text.len());
        self.out.extend_from_slice(&self.text[begin..self.at]);
    }

    fn group(&mut self, open: u8, depth: usize) {
        let close = if open == b'{' { b'}' } else { b']' };
        self.at += 1;
        self.out.push(open);
        let mut empty = true;
        while !matches!(self.peek(), 0) && self.peek() != close {
            if self.peek() == b',' {
                self.at += 1;
                continue;
            }
            let before = self.out.len();
            if !empty {
                self.out.push(b',');
            }
            self.line(depth + 1);
            let mut kept = true;
            if open == b'{' {
                self.peek();
                let key = self.out.len();
                self.string();
                kept = self.managed_fields || &self.out[key..] != b"\"managedFields\"";
                self.peek();
                self.at += 1;
                self.out.extend_from_slice(b": ");
            }
            self.value(depth + 1);
            if kept {
                empty = false;
            } else {
                self.out.truncate(before);
            }
        }
        self.at += 1;
        if !empty {
            self.line(depth);
        }
        self.out.push(close);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_its_order_and_loses_managed_fields() {
        let raw = r#"{"kind":"L","metadata":{},"items":[{"b":"x\"}","a":[1,-2.5e3,true,null],"metadata":{"name":"n","managedFields":[{"a":{}}]}},{"managedFields":[1],"z":[]}]}"#;
        let wanted = "{\n    \"kind\": \"L\",\n    \"metadata\": {},\n    \"items\": [\n        {\n            \"b\": \"x\\\"}\",\n            \"a\": [\n                1,\n                -2.5e3,\n                true,\n                null\n            ],\n            \"metadata\": {\n                \"name\": \"n\"\n            }\n        },\n        {\n            \"z\": []\n        }\n    ]\n}\n";
        assert_eq!(indented(raw, false), wanted);
        assert!(indented(raw, true).contains("managedFields"));
    }
}
