//! What a create adds is what the original adds: each probe object of `knarr-schema/data/probes.jsonl` goes through defaulting
//! and strategy, and the outcome is held against `defaults.txt`, which dry runs against the original gave.

use std::collections::{BTreeMap, BTreeSet};

use knarr_core::{Value, clock::Env, json};
use knarr_kinds::{Context, strategy};

const PROBES: &str = include_str!("../../knarr-schema/data/probes.jsonl");
const DEFAULTS: &str = include_str!("../../knarr-schema/data/defaults.txt");

/// What the heading of `defaults.txt` says, or what no probe of it shows.
const NOT_LISTED: [&str; 2] = ["metadata.generation", "spec.conversion"];

/// One line of `defaults.txt`.
struct Line {
    kind: String,
    path: String,
    values: Vec<Value>,
    /// Made by a stage that is not ours.
    elsewhere: bool,
}

fn lines() -> Vec<Line> {
    let parse = |line: &str| {
        let (subject, rest) = line.split_once(" = ")?;
        let (kind, path) = subject.split_once('.')?;
        let (text, note) = rest.split_once("  #").unwrap_or((rest, ""));
        let elsewhere = ["[allocated]", "[admission]", "[encoding]"].iter().any(|m| text.contains(m) || note.contains(m));
        let text = text.split(" [").next()?.trim();
        let text = if elsewhere { "null" } else { text };
        let values = text.split(" | ").map(|v| serde_json::from_str(v).unwrap_or_else(|e| panic!("{line}: {e}"))).collect();
        Some(Line { kind: kind.into(), path: path.into(), values, elsewhere })
    };
    DEFAULTS.lines().filter(|l| !l.starts_with('#') && !l.is_empty()).map(|l| parse(l).unwrap_or_else(|| panic!("{l}"))).collect()
}

/// Every value in a tree by its path, lists as `[]`. With `numbered`, by its true path.
fn flatten(value: &Value, path: &str, numbered: bool, out: &mut Vec<(String, Value)>) {
    if !path.is_empty() {
        out.push((path.to_owned(), value.clone()));
    }
    match value {
        Value::Object(map) => {
            for (key, v) in map {
                flatten(v, &if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, numbered, out);
            }
        }
        Value::Array(list) => {
            for (i, v) in list.iter().enumerate() {
                flatten(v, &if numbered { format!("{path}[{i}]") } else { format!("{path}[]") }, numbered, out);
            }
        }
        _ => {}
    }
}

/// The paths that `after` has and `before` has not, with lists as `[]`.
fn added(before: &Value, after: &Value) -> Vec<(String, Value)> {
    let all = |v: &Value, numbered| {
        let mut out = Vec::new();
        flatten(v, "", numbered, &mut out);
        out
    };
    let had: BTreeSet<String> = all(before, true).into_iter().map(|(p, _)| p).collect();
    all(after, true).into_iter().zip(all(after, false)).filter(|((p, _), _)| !had.contains(p)).map(|(_, plain)| plain).collect()
}

/// The plural name and group in a probe's path.
fn resource(path: &str) -> (String, String) {
    let parts: Vec<&str> = path.split('/').collect();
    let group = if parts[1] == "api" { "" } else { parts[2] };
    (group.to_owned(), parts[parts.len() - 1].to_owned())
}

fn kind_of(probe: &Value) -> String {
    let kind = probe["object"]["kind"].as_str().unwrap();
    let old_autoscaler = probe["object"]["apiVersion"] == "autoscaling/v1";
    if old_autoscaler { format!("{kind}/v1") } else { kind.to_owned() }
}

/// Where in a kind a pod's spec lies.
fn pod_spec_prefix(kind: &str) -> Option<&'static str> {
    match kind {
        "Pod" => Some("spec."),
        "PodTemplate" => Some("template.spec."),
        "ReplicationController" | "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" => Some("spec.template.spec."),
        "CronJob" => Some("spec.jobTemplate.spec.template.spec."),
        _ => None,
    }
}

fn created(probe: &Value, env: &Env) -> (Value, Value) {
    let mut object = probe["object"].clone();
    object["metadata"]["uid"] = json!("(uid)");
    let before = object.clone();
    let (group, plural) = resource(probe["path"].as_str().unwrap());
    let strategy = strategy(&group, &plural, "");
    strategy.default(&mut object);
    let mut again = object.clone();
    strategy.default(&mut again);
    assert_eq!(object, again, "defaulting twice: {}", probe["label"]);
    let groups = ["system:masters".to_owned(), "system:authenticated".to_owned()];
    let cx = Context { user: "admin", uid: "admin", groups: &groups, ..Context::internal(env, "default") };
    strategy.prepare_for_create(&cx, &mut object);
    (before, object)
}

fn agrees(value: &Value, wanted: &Value) -> bool {
    value == wanted || wanted == &json!({}) && value.is_object() || wanted == "(now)" && value.is_string()
}

#[test]
fn a_create_adds_what_the_original_adds_and_nothing_else() {
    let (env, lines) = (Env::system(), lines());
    let mut seen: BTreeMap<(String, String), Vec<Value>> = BTreeMap::new();
    let mut problems = Vec::new();
    for probe in PROBES.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()) {
        let (before, after) = created(&probe, &env);
        let kind = kind_of(&probe);
        for (path, value) in added(&before, &after) {
            let in_pod = pod_spec_prefix(&kind).and_then(|prefix| path.strip_prefix(prefix)).map(|p| ("PodSpec".to_owned(), p.to_owned()));
            let names: Vec<(String, String)> = in_pod.into_iter().chain([(kind.clone(), path.clone())]).collect();
            for name in &names {
                seen.entry(name.clone()).or_default().push(value.clone());
            }
            let is_listed = |(kind, path): &(String, String)| {
                lines.iter().any(|l| {
                    &l.kind == kind
                        && (path == &l.path
                            || path.starts_with(&format!("{}.", l.path))
                            || path.starts_with(&format!("{}[", l.path))
                            || l.path.starts_with(&format!("{path}.")))
                })
            };
            if !names.iter().any(is_listed) && !NOT_LISTED.iter().any(|n| path.ends_with(n) || path.starts_with(n)) {
                problems.push(format!("{}: added {path} = {value}", probe["label"]));
            }
        }
    }
    for line in lines.iter().filter(|l| !l.elsewhere) {
        let found = seen.get(&(line.kind.clone(), line.path.clone())).cloned().unwrap_or_default();
        for wanted in &line.values {
            if !found.iter().any(|v| agrees(v, wanted)) {
                problems.push(format!("{}.{} is never {wanted}, but {found:?}", line.kind, line.path));
            }
        }
        for value in &found {
            if !line.values.iter().any(|wanted| agrees(value, wanted)) {
                problems.push(format!("{}.{} = {value}, wanted {:?}", line.kind, line.path, line.values));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// The kinds that `defaults.txt` names in its heading line.
#[test]
fn generation_starts_at_one_for_the_kinds_that_count() {
    let heading = DEFAULTS.lines().find(|l| l.starts_with("# metadata.generation")).unwrap();
    let kinds: BTreeSet<&str> = heading.split_once(": ").unwrap().1.split(' ').collect();
    for probe in PROBES.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()) {
        let (_, after) = created(&probe, &Env::system());
        let wanted = if kinds.contains(kind_of(&probe).as_str()) { json!(1) } else { Default::default() };
        assert_eq!(after["metadata"].get("generation").cloned().unwrap_or_default(), wanted, "{}", probe["label"]);
    }
}
