//! Names that change: hashes of what was generated, and everybody who named an object by its old name (`api/filters/nameref`).

use knarr_core::{Value, ValueExt, go, json};
use sha2::Digest as _;

use super::fields::{self, Missing, Reference};
use super::resource::{Id, Resource, Resources};
use crate::kubectl::failure::{Failure, Result};

const HASH_LEN: usize = 10;

/// Gives the objects that want one a name that changes with what they hold.
pub fn add_hashes(resources: &mut Resources) {
    for resource in resources.0.iter_mut().filter(|r| r.needs_hash) {
        let name = format!("{}-{}", resource.id().name, hash(&resource.object));
        resource.remember();
        resource.object.set(&["metadata", "name"], name);
    }
}

/// Upstream: `api/hasher`.
fn hash(object: &Value) -> String {
    let or_empty = |key: &str| object.get(key).cloned().unwrap_or_else(|| json!(""));
    let held = match object.str_at(&["kind"]) {
        Some(kind @ ("ConfigMap" | "Secret")) => {
            // Upstream looks for the name where it is not, and finds none: hashes are the same whatever the name.
            let mut held = json!({"kind": kind, "name": "", "data": or_empty("data")});
            let other = if kind == "ConfigMap" { "binaryData" } else { "stringData" };
            if let Some(more) = object.get(other).filter(|v| v.is_object()) {
                held[other] = more.clone();
            }
            if kind == "Secret" {
                held["type"] = or_empty("type");
            }
            held
        }
        _ => object.clone(),
    };
    let hex = knarr_core::hex::encode(sha2::Sha256::digest(go::json_compact(&held).as_bytes()));
    // No vowels, and no digits that look like them.
    hex.chars()
        .take(HASH_LEN)
        .map(|c| match c {
            '0' => 'g',
            '1' => 'h',
            '3' => 'k',
            'a' => 'm',
            'e' => 't',
            other => other,
        })
        .collect()
}

/// Lets every name lead to the object that it meant.
pub fn follow(resources: &mut Resources) -> Result<()> {
    let candidates = resources.0.clone();
    let references = fields::references();
    for referrer in &mut resources.0 {
        let (id, before) = (referrer.id(), referrer.original());
        let from = |r: &&Reference| fields::fits((r.from.0, "", r.from.1), &before);
        for reference in references.iter().filter(from) {
            let finder = Finder { referrer: referrer.clone(), id: id.clone(), reference, candidates: &candidates };
            let mut failure = None;
            fields::visit(&mut referrer.object, &reference.path, Missing::Leave, &mut |field| failure = finder.update(field).err().or(failure.take()));
            failure.map_or(Ok(()), Err)?;
        }
    }
    Ok(())
}

struct Finder<'a> {
    referrer: Resource,
    id: Id,
    reference: &'a Reference,
    candidates: &'a [Resource],
}

impl Finder<'_> {
    fn update(&self, field: &mut Value) -> Result<()> {
        match field {
            Value::String(name) => {
                if let Some(meant) = self.find(name, None)? {
                    *name = meant.id().name;
                }
            }
            Value::Array(items) => items.iter_mut().try_for_each(|item| self.update(item))?,
            Value::Object(map) => {
                let Some(name) = map.get("name").and_then(Value::as_str) else { return Ok(()) };
                let namespace = map.get("namespace").and_then(Value::as_str).map(str::to_owned);
                if let Some(meant) = self.find(name, namespace.as_deref())? {
                    let id = meant.id();
                    map.insert("name".into(), id.name.into());
                    if !id.namespace.is_empty() {
                        map.insert("namespace".into(), id.namespace.into());
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The one object that a name meant. Nothing when it is none of ours.
    fn find(&self, name: &str, namespace: Option<&str>) -> Result<Option<&Resource>> {
        let (group, kind) = self.reference.target;
        let in_namespace = |r: &&Resource| {
            namespace.is_none_or(|ns| {
                let is = |id: &Id| id.effective_namespace() == ns || id.namespace == ns;
                is(&r.original()) || is(&r.id())
            })
        };
        let mut found: Vec<&Resource> = self.candidates.iter().filter(in_namespace).collect();
        found.retain(|r| r.before.iter().any(|id| id.name == name) && r.before.iter().any(|id| fields::fits((group, "", kind), id)));
        found.retain(|r| self.fits_role(r) && (namespace.is_some() || self.is_in_reach(&r.id())));
        if found.len() > 1 {
            found.retain(|r| shares(&r.prefixes, &self.referrer.prefixes, true) && shares(&r.suffixes, &self.referrer.suffixes, true));
        }
        if found.len() > 1 {
            found.retain(|r| shares(&r.prefixes, &self.referrer.prefixes, false) && shares(&r.suffixes, &self.referrer.suffixes, false));
        }
        let Some(first) = found.first() else { return Ok(None) };
        if found.iter().all(|r| r.id().name == first.id().name && (namespace.is_none() || r.id().namespace == first.id().namespace)) {
            return Ok(Some(first));
        }
        let titles: Vec<String> = found.iter().map(|r| r.id().title()).collect();
        Err(Failure::from(format!(
            "updating name reference in '{}' field of '{}': found multiple possible referrals: {}",
            self.reference.path,
            self.id.title(),
            titles.join(", ")
        )))
    }

    /// A binding says which kind of role it means.
    fn fits_role(&self, candidate: &Resource) -> bool {
        if !self.reference.path.ends_with("roleRef/name") {
            return true;
        }
        let role = |key: &str| self.referrer.object.str_at(&["roleRef", key]).unwrap_or_default();
        candidate.before.iter().any(|id| fields::fits((role("apiGroup"), "", role("kind")), id))
    }

    /// Whether an object of another namespace can be meant.
    fn is_in_reach(&self, other: &Id) -> bool {
        self.id.is_cluster_scoped()
            || other.is_cluster_scoped()
            || other.kind == "ServiceAccount"
            || self.id.effective_namespace() == other.effective_namespace()
    }
}

/// Whether two names grew by the same folders' prefixes, from the innermost on.
fn shares(one: &[String], other: &[String], none_is_fine: bool) -> bool {
    (none_is_fine && (one.is_empty() || other.is_empty())) || one.starts_with(other) || other.starts_with(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_upstream_s() {
        // As the stock kubectl names them.
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"two": "2", "one": "", "three": "3"}});
        assert_eq!(hash(&map), "f5h7t85m9b");
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "type": "Opaque", "data": {"one": ""}});
        assert_eq!(hash(&secret), "bcm4gkt2bk");
    }
}
