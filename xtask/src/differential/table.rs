//! The requests: tables of the repository, multiplied.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::fields;

/// The scenario that makes the namespaces of all others.
pub const NAMESPACES: &str = "namespaces";

/// What is sent, in order, over one connection.
#[derive(Serialize)]
pub struct Scenario {
    pub name: String,
    /// Alone and before those that change things.
    pub first: bool,
    pub known: BTreeMap<String, String>,
    pub requests: Vec<Request>,
}

#[derive(Clone, Serialize)]
pub struct Request {
    pub id: String,
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Option<String>,
    pub capture: BTreeMap<String, String>,
    /// Asked again until status and body, with a space between them, hold this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// A valid object of one kind (`objects.jsonl`).
#[derive(Clone, Deserialize)]
pub struct Sample {
    pub resource: String,
    pub object: Value,
    /// A merge patch that may be applied to it.
    change: Option<Value>,
    /// One that may not.
    immutable: Option<Value>,
    status: Option<Value>,
    /// Merge patches that make other objects of it, good and bad.
    #[serde(default)]
    more: Vec<Value>,
}

/// A request for every kind that has the verb (`requests.jsonl`).
#[derive(Deserialize)]
struct Template {
    id: String,
    verb: String,
    method: String,
    path: String,
    #[serde(default)]
    query: String,
    body: Option<Value>,
    merge: Option<Value>,
    #[serde(default)]
    remove: Vec<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    capture: BTreeMap<String, String>,
    until: Option<String>,
    only: Option<String>,
}

/// A request that belongs to no kind (`paths.jsonl`).
#[derive(Deserialize)]
struct Plain {
    method: String,
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// JSON, or a text that is sent as it is.
    body: Option<Value>,
}

/// What 1.37 serves (`knarr-schema/data/discovery.json`).
#[derive(Deserialize)]
struct Served {
    verbs: Vec<String>,
    #[serde(default)]
    namespaced: bool,
}

pub struct Tables {
    samples: Vec<Sample>,
    templates: Vec<Template>,
    plain: Vec<Plain>,
    served: BTreeMap<String, Served>,
    schema: fields::Schema,
}

fn lines<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    text.lines().map(|l| serde_json::from_str(l).with_context(|| l.to_owned())).collect()
}

/// Applies a JSON merge patch (RFC 7386).
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

fn remove(target: &mut Value, pointer: &str) {
    if let Some((parent, key)) = pointer.rsplit_once('/')
        && let Some(Value::Object(map)) = target.pointer_mut(parent)
    {
        map.remove(key);
    }
}

impl Sample {
    /// One of which only the object is known.
    pub fn plain(resource: &str, object: Value) -> Self {
        Self { resource: resource.to_owned(), object, change: None, immutable: None, status: None, more: Vec::new() }
    }
}

impl Tables {
    pub fn read(repository: &Path) -> Result<Self> {
        let folder = repository.join("conformance/differential");
        let data = repository.join("crates/knarr-schema/data");
        Ok(Self {
            samples: lines(&folder.join("objects.jsonl"))?,
            templates: lines(&folder.join("requests.jsonl"))?,
            plain: lines(&folder.join("paths.jsonl"))?,
            served: serde_json::from_str(&fs::read_to_string(data.join("discovery.json"))?)?,
            schema: fields::Schema::read(&data.join("schema.json"))?,
        })
    }

    pub fn scenarios(&self) -> Vec<Scenario> {
        let mut all = vec![self.paths(), self.namespaces()];
        all.extend(self.samples.iter().map(|sample| self.of_kind(sample)));
        all.extend(super::matrix::scenarios(self));
        all
    }

    fn paths(&self) -> Scenario {
        let request = |(index, plain): (usize, &Plain)| Request {
            id: format!("{index} {} {} {}", plain.method, plain.path, plain.headers.values().cloned().collect::<Vec<_>>().join(" ")),
            method: plain.method.clone(),
            path: plain.path.clone(),
            headers: plain.headers.clone(),
            body: plain.body.as_ref().map(|body| body.as_str().map_or_else(|| body.to_string(), str::to_owned)),
            capture: BTreeMap::new(),
            until: None,
        };
        Scenario { name: "paths".into(), first: true, known: BTreeMap::new(), requests: self.plain.iter().enumerate().map(request).collect() }
    }

    /// The namespaces in which the other scenarios work.
    fn namespaces(&self) -> Scenario {
        let create = |sample: &Sample| {
            let name = namespace(&sample.resource);
            Request {
                id: name.clone(),
                method: "POST".into(),
                path: "/api/v1/namespaces".into(),
                headers: BTreeMap::new(),
                body: Some(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}).to_string()),
                capture: BTreeMap::new(),
                until: None,
            }
        };
        let namespaced = self.samples.iter().filter(|s| self.served.get(&s.resource).is_some_and(|r| r.namespaced));
        Scenario { name: NAMESPACES.into(), first: true, known: BTreeMap::new(), requests: namespaced.map(create).collect() }
    }

    fn of_kind(&self, sample: &Sample) -> Scenario {
        let mut requests = Vec::new();
        let stored = self.has(&sample.resource, "get");
        let kind = (sample.object["apiVersion"].as_str().unwrap_or_default(), sample.object["kind"].as_str().unwrap_or_default());
        // While there is no object yet.
        requests.extend(self.schema.creates(kind, &sample.object));
        for template in &self.templates {
            if template.id == "delete/dry-run" && stored {
                requests.extend(self.more(sample));
                requests.extend(fields::updates(&sample.object));
            }
            if self.wants(sample, template, stored) {
                requests.push(template.request(sample));
            }
        }
        Scenario { name: sample.resource.clone(), first: false, known: self.known(sample), requests }
    }

    fn has(&self, resource: &str, verb: &str) -> bool {
        self.served.get(resource).is_some_and(|s| s.verbs.iter().any(|v| v == verb))
    }

    fn wants(&self, sample: &Sample, template: &Template, stored: bool) -> bool {
        let kind_has = match template.only.as_deref() {
            None => true,
            Some("immutable") => sample.immutable.is_some(),
            Some("status") => sample.status.is_some(),
            Some(resource) => sample.resource.ends_with(&format!("/{resource}")),
        };
        let verb = match template.verb.split_once(':') {
            Some(("sub", sub)) => self.served.contains_key(&format!("{}/{sub}", sample.resource)),
            Some((verb, sub)) => self.has(&format!("{}/{sub}", sample.resource), verb),
            None if template.verb == "review" => !stored,
            None => stored && self.has(&sample.resource, &template.verb),
        };
        kind_has && verb
    }

    pub fn sample(&self, resource: &str) -> Option<Sample> {
        self.samples.iter().find(|s| s.resource == resource).cloned()
    }

    pub fn namespaced(&self, resource: &str) -> bool {
        self.served.get(resource).is_some_and(|r| r.namespaced)
    }

    fn known(&self, sample: &Sample) -> BTreeMap<String, String> {
        let namespace = self.namespaced(&sample.resource).then(|| namespace(&sample.resource));
        self.known_in(sample, namespace.as_deref())
    }

    /// What `{name}` and its like stand for, for an object in this namespace.
    pub fn known_in(&self, sample: &Sample, namespace: Option<&str>) -> BTreeMap<String, String> {
        let (group_version, plural) = sample.resource.rsplit_once('/').unwrap_or_default();
        let root = if group_version == "v1" { "/api".to_owned() } else { "/apis".to_owned() };
        let version = format!("{root}/{group_version}");
        let name = sample.object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let scope = namespace.map_or_else(String::new, |n| format!("/namespaces/{n}"));
        let collection = format!("{version}{scope}/{plural}");
        let text = |field: &str| sample.object[field].as_str().unwrap_or_default().to_owned();
        BTreeMap::from([
            ("item".to_owned(), format!("{collection}/{name}")),
            ("watchitem".into(), format!("{version}/watch{scope}/{plural}/{name}")),
            ("collection".into(), collection),
            ("all".into(), format!("{version}/{plural}")),
            ("version".into(), version),
            ("name".into(), name.to_owned()),
            ("kind".into(), text("kind")),
            ("apiVersion".into(), text("apiVersion")),
            ("rv".into(), "1".into()),
            ("rvbefore".into(), "0".into()),
            ("listrv".into(), "1".into()),
        ])
    }

    fn more(&self, sample: &Sample) -> Vec<Request> {
        let one = |(index, patch): (usize, &Value)| {
            let mut object = sample.object.clone();
            merge(&mut object, patch);
            create(format!("more/{index}"), "dryRun=All", &object)
        };
        sample.more.iter().enumerate().map(one).collect()
    }
}

/// A create of this object.
pub fn create(id: String, query: &str, object: &Value) -> Request {
    Request {
        id,
        method: "POST".into(),
        path: format!("{{collection}}?{query}"),
        headers: BTreeMap::new(),
        body: Some(object.to_string()),
        capture: BTreeMap::new(),
        until: None,
    }
}

/// Every kind has its namespace: `d-deployments`, `d-events-events`.
fn namespace(resource: &str) -> String {
    let (group_version, plural) = resource.rsplit_once('/').unwrap_or_default();
    match (plural, group_version) {
        ("events", "v1") | (_, "apps/v1") => format!("d-{plural}"),
        // Both versions of one resource run at once.
        ("horizontalpodautoscalers", "autoscaling/v1") => "d-autoscaling-v1".to_owned(),
        (_, group_version) => {
            let group = group_version.split(['.', '/']).next().unwrap_or_default();
            if group == "v1" { format!("d-{plural}") } else { format!("d-{group}-{plural}").chars().take(63).collect() }
        }
    }
}

impl Template {
    fn request(&self, sample: &Sample) -> Request {
        let path = if self.query.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, self.query) };
        Request {
            id: self.id.clone(),
            method: self.method.clone(),
            path,
            headers: self.headers.clone(),
            body: self.body(sample),
            capture: self.capture.clone(),
            until: self.until.clone(),
        }
    }

    fn body(&self, sample: &Sample) -> Option<String> {
        let mut value = match self.body.as_ref()? {
            Value::Object(map) if map.contains_key("text") => return map["text"].as_str().map(str::to_owned),
            Value::String(name) => named(sample, name),
            value => value.clone(),
        };
        match self.merge.as_ref() {
            Some(Value::String(name)) => merge(&mut value, &patch(sample, name)),
            Some(patch) => merge(&mut value, patch),
            None => {}
        }
        self.remove.iter().for_each(|pointer| remove(&mut value, pointer));
        Some(value.to_string())
    }
}

fn patch(sample: &Sample, name: &str) -> Value {
    let patch = match name {
        "change" => &sample.change,
        "immutable" => &sample.immutable,
        _ => &sample.status,
    };
    patch.clone().unwrap_or_else(|| json!({"metadata": {"annotations": {"changed": "yes"}}}))
}

fn named(sample: &Sample, name: &str) -> Value {
    let mut object = sample.object.clone();
    match name {
        "object" | "applied" => {}
        "applied-change" => merge(&mut object, &patch(sample, "change")),
        "applied-new" => merge(&mut object, &json!({"metadata": {"name": "applied-new"}})),
        other => return patch(sample, other),
    }
    object
}
