//! Patches: strategic merges and JSON patches, out of files or written inline, for the object they name or for all that a selector
//! chooses (`PatchTransformer`).

use std::path::Path;

use knarr_core::{Value, ValueExt, yaml};
use knarr_schema::types;

use super::kustomization::{Patch, PatchOptions, Selector};
use super::merge;
use super::resource::{Id, Resource, Resources};
use crate::kubectl::failure::{Failure, Result, go_io};

/// `patchesStrategicMerge`: files, or patches themselves.
pub fn strategic(root: &Path, patches: &[String], resources: &mut Resources) -> Result<()> {
    let named = patches.iter().map(|text| {
        let is_file = root.join(text).is_file();
        Patch { path: if is_file { text.clone() } else { String::new() }, patch: if is_file { String::new() } else { text.clone() }, ..Patch::default() }
    });
    run(root, &named.collect::<Vec<_>>(), resources)
}

/// `patches` and `patchesJson6902`.
pub fn run(root: &Path, patches: &[Patch], resources: &mut Resources) -> Result<()> {
    patches.iter().try_for_each(|patch| apply(root, patch, resources))
}

fn apply(root: &Path, patch: &Patch, resources: &mut Resources) -> Result<()> {
    let text = match (patch.path.as_str(), patch.patch.as_str()) {
        ("", "") => return Err("must specify one of patch and path in\n{}".into()),
        ("", inline) => inline.to_owned(),
        (path, "") => std::fs::read_to_string(root.join(path))
            .map_err(|e| format!("failed to get the patch file from path({path}): open {}: {}", root.join(path).display(), go_io(&e)))?,
        _ => return Err("patch and path can't be set at the same time\n".into()),
    };
    let documents = yaml::parse_all(&text).map_err(|e| format!("unable to parse SM or JSON patch from {text:?}: {e}"))?;
    let documents: Vec<Value> = documents.into_iter().filter(|d| !d.is_null()).collect();
    if let [Value::Array(operations)] = documents.as_slice() {
        return json(operations, patch.target.as_ref(), resources).map_err(|e| prefixed(&e));
    }
    match &patch.target {
        Some(_) if documents.len() > 1 => Err("Multiple Strategic-Merge Patches in one `patches` entry is not allowed to set `patches.target` field".into()),
        Some(target) => {
            let chosen = select(target, resources)?;
            let document = documents.first().cloned().unwrap_or_default();
            chosen.iter().for_each(|at| merge_at(resources, *at, &document, &patch.options));
            sweep(resources)
        }
        None => {
            for document in &documents {
                let at = named(document, resources)?;
                merge_at(resources, at, document, &patch.options);
                sweep(resources)?;
            }
            Ok(())
        }
    }
}

fn prefixed(error: &Failure) -> Failure {
    let text = error.to_string();
    text.strip_prefix("error: ").unwrap_or(&text).to_owned().into()
}

/// The object that a patch itself names, by what it was called when it was written, or is now.
fn named(patch: &Value, resources: &Resources) -> Result<usize> {
    let id = Id::of(patch);
    if id.kind.is_empty() || id.name.is_empty() {
        return Err("trouble configuring builtin PatchTransformer: unable to parse SM or JSON patch: it names no object".into());
    }
    match resources.by_any_id(&id).as_slice() {
        [one] => Ok(*one),
        [] => Err(format!(
            "no resource matches strategic merge patch {:?}: no matches for Id {}; failed to find unique target for patch {}",
            id.title(),
            id.title(),
            id.title()
        )
        .into()),
        _ => Err(format!("multiple matches for Id {}; failed to find unique target for patch", id.title()).into()),
    }
}

fn merge_at(resources: &mut Resources, at: usize, patch: &Value, options: &PatchOptions) {
    let resource = &mut resources.0[at];
    let id = resource.id();
    if options.allow_name_change || options.allow_kind_change {
        resource.remember();
    }
    let merged = merge::merge(types::of_kind(&id.group, &id.version, &id.kind), std::mem::take(&mut resource.object), patch);
    let Some(mut merged) = merged else { return };
    if !options.allow_kind_change {
        merged.set(&["kind"], id.kind);
    }
    if !options.allow_name_change {
        merged.set(&["metadata", "name"], id.name);
    }
    if id.namespace.is_empty() {
        merged.remove(&["metadata", "namespace"]);
    } else {
        merged.set(&["metadata", "namespace"], id.namespace);
    }
    resource.object = merged;
}

/// Objects that a patch has deleted go.
fn sweep(resources: &mut Resources) -> Result<()> {
    resources.0.retain(|r| !r.object.is_null());
    Ok(())
}

fn json(operations: &[Value], target: Option<&Selector>, resources: &mut Resources) -> Result<()> {
    let target = target.ok_or("must specify a target for JSON patch")?;
    let operations = Value::Array(operations.to_vec());
    for at in select(target, resources)? {
        let resource = &mut resources.0[at];
        resource.remember();
        resource.object = knarr_schema::patch::json_patch(&resource.object, &operations)?;
    }
    Ok(())
}

/// The objects that a selector chooses.
pub fn select(selector: &Selector, resources: &Resources) -> Result<Vec<usize>> {
    let matcher = Matcher::new(selector)?;
    let mut found = Vec::new();
    for (at, resource) in resources.0.iter().enumerate() {
        if matcher.fits(resource)? {
            found.push(at);
        }
    }
    Ok(found)
}

/// A selector, ready to be asked.
pub struct Matcher<'a> {
    selector: &'a Selector,
    parts: [regex::Regex; 5],
}

impl<'a> Matcher<'a> {
    /// # Errors
    /// A part is no regular expression.
    pub fn new(selector: &'a Selector) -> Result<Self> {
        let whole = |text: &String| {
            let expression = if text.is_empty() { ".*".to_owned() } else { format!("^(?:{})$", text.trim_start_matches('^').trim_end_matches('$')) };
            regex::Regex::new(&expression).map_err(|e| Failure::from(format!("error parsing regexp: {e}")))
        };
        let parts = [&selector.group, &selector.version, &selector.kind, &selector.name, &selector.namespace];
        let [group, version, kind, name, namespace] = parts.map(whole);
        Ok(Self { selector, parts: [group?, version?, kind?, name?, namespace?] })
    }

    fn fits(&self, resource: &Resource) -> Result<bool> {
        let (now, written) = (resource.id(), resource.original());
        let [group, version, kind, name, namespace] = &self.parts;
        let place = |id: &Id| self.selector.namespace.is_empty() || namespace.is_match(id.effective_namespace());
        Ok(group.is_match(&now.group)
            && version.is_match(&now.version)
            && kind.is_match(&now.kind)
            && (name.is_match(&written.name) || name.is_match(&now.name))
            && (place(&written) || place(&now))
            && self.fits_labels(&resource.object)?)
    }

    /// Whether an object of this id is meant, its labels left aside.
    pub fn fits_id(&self, id: &Id) -> bool {
        let [group, version, kind, name, namespace] = &self.parts;
        group.is_match(&id.group) && version.is_match(&id.version) && kind.is_match(&id.kind) && name.is_match(&id.name) && namespace.is_match(&id.namespace)
    }

    /// # Errors
    /// The selector of labels cannot be read.
    pub fn fits_labels(&self, object: &Value) -> Result<bool> {
        for (text, key) in [(&self.selector.label_selector, "labels"), (&self.selector.annotation_selector, "annotations")] {
            if text.is_empty() {
                continue;
            }
            let wanted = knarr_core::selector::LabelSelector::parse(text).map_err(|e| e.to_string())?;
            if !wanted.matches(object.at(&["metadata", key])) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether nothing but labels is asked for.
    pub fn is_any_id(&self) -> bool {
        let s = self.selector;
        [&s.group, &s.version, &s.kind, &s.name, &s.namespace].iter().all(|part| part.is_empty())
    }
}
