//! ConfigMaps and Secrets made of files, literals and lines of `name=value`.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use knarr_core::{Value, ValueExt, json, names};

use super::kustomization::{Generator, Kustomization};
use super::resource::{Resource, Resources};
use crate::kubectl::failure::{Failure, Result, go_io};

/// Encoded bytes are cut into lines of this length.
const LINE_LEN: usize = 70;

/// Runs all generators of a folder.
pub fn run(root: &Path, kustomization: &Kustomization, resources: &mut Resources) -> Result<()> {
    let all = &kustomization.generator_options;
    for (generators, kind) in [(&kustomization.config_map_generator, "ConfigMap"), (&kustomization.secret_generator, "Secret")] {
        for generator in generators {
            let options = generator.options.over(all);
            let mut object = object(kind, generator, data(root, generator)?)?;
            for (key, pairs) in [("labels", &options.labels), ("annotations", &options.annotations)] {
                pairs.iter().for_each(|(k, v)| object.set(&["metadata", key, k], v.as_str()));
            }
            if options.immutable {
                object["immutable"] = true.into();
            }
            let resource = Resource { needs_hash: !options.disable_name_suffix_hash, ..Resource::new(object) };
            absorb(resources, resource, &generator.behavior)?;
        }
    }
    Ok(())
}

fn object(kind: &str, generator: &Generator, data: BTreeMap<String, Vec<u8>>) -> Result<Value> {
    if generator.name.is_empty() {
        return Err("a configmap must have a name".into());
    }
    let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": generator.name}});
    if !generator.namespace.is_empty() {
        object["metadata"]["namespace"] = generator.namespace.as_str().into();
    }
    if kind == "Secret" {
        object["type"] = if generator.kind.is_empty() { "Opaque" } else { &generator.kind }.into();
    }
    for (key, bytes) in data {
        match String::from_utf8(bytes) {
            Ok(text) if kind == "ConfigMap" => object.set(&["data", &key], text),
            Ok(text) => object.set(&["data", &key], encoded(text.as_bytes())),
            Err(e) => object.set(&[if kind == "ConfigMap" { "binaryData" } else { "data" }, &key], encoded(e.as_bytes())),
        }
    }
    Ok(object)
}

fn encoded(bytes: &[u8]) -> String {
    let text = STANDARD.encode(bytes);
    if text.len() < LINE_LEN {
        return text;
    }
    let lines = text.as_bytes().chunks(LINE_LEN).map(|line| format!("{}\n", String::from_utf8_lossy(line)));
    lines.collect()
}

fn data(root: &Path, generator: &Generator) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut pairs: Vec<(String, Vec<u8>)> = Vec::new();
    for path in &generator.envs {
        pairs.extend(env_file(&String::from_utf8_lossy(&read(root, path)?))?);
    }
    for literal in &generator.literals {
        let (key, value) = literal
            .split_once('=')
            .filter(|(k, _)| !k.is_empty())
            .ok_or_else(|| format!("loading KV pairs: invalid literal source {literal}, expected key=value"))?;
        pairs.push((key.to_owned(), without_quotes(value).as_bytes().to_vec()));
    }
    for source in &generator.files {
        let (key, path) = file_source(source)?;
        pairs.push((key, read(root, path)?));
    }
    let mut data = BTreeMap::new();
    for (key, value) in pairs {
        if !names::is_config_key(&key).is_empty() {
            return Err(format!("{:?} is not a valid key name: {}", key, names::is_config_key(&key).join(",")).into());
        }
        if data.insert(key.clone(), value).is_some() {
            return Err(format!("configmap {} illegally repeats the key `{key}`", generator.name).into());
        }
    }
    Ok(data)
}

fn read(root: &Path, path: &str) -> Result<Vec<u8>> {
    std::fs::read(root.join(path)).map_err(|e| format!("loading KV pairs: open {}: {}", root.join(path).display(), go_io(&e)).into())
}

/// `path`, or `key=path`.
fn file_source(source: &str) -> Result<(String, &str)> {
    let bad = |why: String| Failure::from(format!("loading KV pairs: {why}"));
    match source.split_once('=') {
        None => Ok((source.rsplit('/').next().unwrap_or(source).to_owned(), source)),
        Some((_, path)) if path.contains('=') => Err(bad(format!("source {source:?} key name or file path contains '='"))),
        Some(("", path)) => Err(bad(format!("missing key name for file path {path:?} in source {source:?}"))),
        Some((key, "")) => Err(bad(format!("missing file path for key name {key:?} in source {source:?}"))),
        Some((key, path)) => Ok((key.to_owned(), path)),
    }
}

/// Quotes around the whole value go.
fn without_quotes(text: &str) -> &str {
    let quoted = text.len() >= 2 && ((text.starts_with('"') && text.ends_with('"')) || (text.starts_with('\'') && text.ends_with('\'')));
    if quoted { &text[1..text.len() - 1] } else { text }
}

fn env_file(text: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim_start).filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|line| {
            let (key, value) = line.split_once('=').unwrap_or((line, ""));
            if key.is_empty() || key.contains(char::is_whitespace) {
                return Err(format!("loading KV pairs: {key:?} is not a valid key name").into());
            }
            Ok((key.to_owned(), value.as_bytes().to_vec()))
        })
        .collect()
}

/// Adds what was generated, or lays it over what there is.
fn absorb(resources: &mut Resources, mut new: Resource, behavior: &str) -> Result<()> {
    let id = new.id();
    let changes = matches!(behavior, "merge" | "replace");
    match (resources.by_any_id(&id).as_slice(), changes) {
        ([], false) => resources.append(new),
        ([], true) => Err(format!("merging from generator: id {} does not exist; cannot merge or replace", id.title()).into()),
        ([at], true) => {
            let old = &resources.0[*at];
            for key in ["labels", "annotations"] {
                let mut all = old.object.at(&["metadata", key]).and_then(Value::as_object).cloned().unwrap_or_default();
                all.extend(new.object.at(&["metadata", key]).and_then(Value::as_object).cloned().unwrap_or_default());
                if !all.is_empty() {
                    new.object.set(&["metadata", key], Value::Object(all));
                }
            }
            for key in ["name", "namespace"] {
                if let Some(text) = old.object.str_at(&["metadata", key]) {
                    new.object.set(&["metadata", key], text);
                }
            }
            if behavior == "merge" {
                for key in ["data", "binaryData"] {
                    let mut all = old.object.at(&[key]).and_then(Value::as_object).cloned().unwrap_or_default();
                    all.extend(new.object.at(&[key]).and_then(Value::as_object).cloned().unwrap_or_default());
                    if !all.is_empty() {
                        new.object[key] = Value::Object(all);
                    }
                }
            }
            let old = old.clone();
            resources.0[*at] = Resource {
                before: old.before,
                prefixes: old.prefixes,
                suffixes: old.suffixes,
                needs_hash: new.needs_hash || old.needs_hash,
                object: new.object,
            };
            Ok(())
        }
        ([_], false) => {
            let behavior = if behavior.is_empty() { "unspecified" } else { behavior };
            Err(format!("merging from generator: id {} exists; can not use behavior: '{behavior}', behavior must be merge or replace", id.title()).into())
        }
        _ => Err(format!("found multiple objects that could accept merge of {}", id.title()).into()),
    }
}
