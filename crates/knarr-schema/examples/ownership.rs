//! What it costs to track who owns the fields of an object. Says little while anything else runs.
//!
//! ```sh
//! cargo run --release -p knarr-schema --example ownership
//! ```

use std::error::Error;
use std::time::Instant;

use knarr_core::{Value, ValueExt as _, json};
use knarr_schema::apply::{Manager, track_update};
use knarr_schema::registry::{Registry, Resource};

const ROUNDS: u32 = 2000;

fn by<'a>(name: &'a str, subresource: &'a str) -> Manager<'a> {
    Manager { name, subresource, now: "2026-01-02T03:04:05Z" }
}

fn measure(what: &str, resource: &Resource, old: Option<&Value>, new: &Value, subresource: &str) {
    let mut copies: Vec<_> = (0..ROUNDS).map(|_| new.clone()).collect();
    let start = Instant::now();
    for new in &mut copies {
        track_update(resource, old, new, by("somebody", subresource));
    }
    println!("{what}: {:?}", start.elapsed() / ROUNDS);
}

fn main() -> Result<(), Box<dyn Error>> {
    let registry = Registry::builtin();
    let resource = |plural: &str| registry.by_resource("", "v1", plural).ok_or("no built-in resource");
    let (maps, pods) = (resource("configmaps")?, resource("pods")?);
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": {"app": "x"}}, "data": {"a": "1", "b": "2", "c": "3"}});
    let mut stored = map.clone();
    track_update(maps, None, &mut stored, by("creator", ""));
    let mut changed = stored.clone();
    changed.set(&["data", "a"], "2");
    measure("create of a ConfigMap", maps, None, &map, "");
    measure("update of a ConfigMap", maps, Some(&stored), &changed, "");
    measure("update of a ConfigMap that changes nothing", maps, Some(&stored), &stored, "");
    let pod: Value = serde_json::from_slice(&std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/core.v1.Pod.json"))?)?;
    let mut bare = pod.clone();
    bare.remove(&["metadata", "managedFields"]);
    let mut status = pod.clone();
    status.set(&["status", "phase"], "Failed");
    status.set(&["status", "conditions"], json!([]));
    measure("create of a pod", pods, None, &bare, "");
    measure("status of a pod", pods, Some(&pod), &status, "status");
    measure("status of a pod that changes nothing", pods, Some(&pod), &pod, "status");
    Ok(())
}
