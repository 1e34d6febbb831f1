//! What a folder changes in all its objects: namespace, names, labels, annotations, replicas, images.

use std::collections::BTreeMap;

use knarr_core::{Value, ValueExt, json};

use super::fields::{self, Missing, NAMESPACES, Spec};
use super::kustomization::{Image, Label, Replica};
use super::resource::{Id, Resources};
use crate::kubectl::failure::Result;

/// Kinds whose names stay as they are, whatever the prefix.
const FIXED_NAMES: &[(&str, &str)] = &[("", "CustomResourceDefinition"), ("", "APIService"), ("", "Namespace")];

/// Puts all objects into a namespace.
///
/// # Errors
/// Two objects would be one there.
pub fn namespace(namespace: &str, resources: &mut Resources) -> Result<()> {
    if namespace.is_empty() {
        return Ok(());
    }
    for at in 0..resources.0.len() {
        let resource = &mut resources.0[at];
        resource.remember();
        let id = resource.id();
        if !id.is_cluster_scoped() {
            resource.object.set(&["metadata", "namespace"], namespace);
        }
        if matches!(id.kind.as_str(), "RoleBinding" | "ClusterRoleBinding") {
            let subjects = resource.object.at_mut(&["subjects"]).and_then(Value::as_array_mut);
            subjects.into_iter().flatten().filter(|s| s["name"] == "default").for_each(|s| s["namespace"] = namespace.into());
        }
        let fits = |s: &&Spec| s.fits(&id) && (s.path != "metadata/name" || (id.group.is_empty() && id.version == "v1"));
        for spec in NAMESPACES.iter().filter(fits) {
            let missing = if spec.create { Missing::MakeScalar } else { Missing::Leave };
            fields::visit(&mut resource.object, spec.path, missing, &mut |v| *v = namespace.into());
        }
        let now = resource.id();
        let same: Vec<String> = resources.0.iter().map(|r| r.id()).filter(|other| other.is_same(&now)).map(|other| other.title()).collect();
        if same.len() != 1 {
            return Err(format!("namespace transformation produces ID conflict: {}", same.join(", ")).into());
        }
    }
    Ok(())
}

/// Makes names longer at their beginning and end.
pub fn affix(prefix: &str, suffix: &str, resources: &mut Resources) {
    for (affix, is_prefix) in [(prefix, true), (suffix, false)].into_iter().filter(|(affix, _)| !affix.is_empty()) {
        for resource in &mut resources.0 {
            let written = resource.original();
            if FIXED_NAMES.iter().any(|(group, kind)| fields::fits((group, "", kind), &written)) {
                continue;
            }
            resource.remember();
            let name = resource.id().name;
            let (name, affixes) =
                if is_prefix { (format!("{affix}{name}"), &mut resource.prefixes) } else { (format!("{name}{affix}"), &mut resource.suffixes) };
            affixes.push(affix.to_owned());
            resource.object.set(&["metadata", "name"], name);
        }
    }
}

/// `labels`, each in its own places, then `commonLabels` everywhere.
pub fn labels(labels: &[Label], common: &BTreeMap<String, String>, resources: &mut Resources) {
    for label in labels {
        let mut specs: Vec<Spec> = Vec::new();
        if label.include_selectors {
            specs.extend(fields::selectors());
        }
        if label.include_selectors || label.include_templates {
            specs.extend(fields::TEMPLATE_LABELS);
        }
        put(resources, "metadata/labels", &specs, &label.pairs);
        for own in &label.fields {
            for resource in resources.0.iter_mut().filter(|r| fields::fits((&own.group, &own.version, &own.kind), &r.id())) {
                write(&mut resource.object, &own.path, own.create, &label.pairs);
            }
        }
    }
    let specs: Vec<Spec> = fields::selectors().chain(fields::TEMPLATE_LABELS.iter().copied()).collect();
    put(resources, "metadata/labels", &specs, common);
}

/// `commonAnnotations`
pub fn annotations(common: &BTreeMap<String, String>, resources: &mut Resources) {
    put(resources, "metadata/annotations", fields::ANNOTATIONS, common);
}

fn put(resources: &mut Resources, everywhere: &str, specs: &[Spec], pairs: &BTreeMap<String, String>) {
    if pairs.is_empty() {
        return;
    }
    for resource in &mut resources.0 {
        write(&mut resource.object, everywhere, true, pairs);
        let id: Id = resource.id();
        specs.iter().filter(|s| s.fits(&id)).for_each(|s| write(&mut resource.object, s.path, s.create, pairs));
    }
}

fn write(object: &mut Value, path: &str, create: bool, pairs: &BTreeMap<String, String>) {
    let missing = if create { Missing::MakeMap } else { Missing::Leave };
    fields::visit(object, path, missing, &mut |map| {
        if map.is_object() {
            pairs.iter().for_each(|(key, value)| map[key] = value.as_str().into());
        }
    });
}

/// `replicas`
///
/// # Errors
/// No object of a kind with replicas has the name.
pub fn replicas(replicas: &[Replica], resources: &mut Resources) -> Result<()> {
    for replica in replicas {
        let named = |id: &Id| id.name == replica.name && fields::REPLICAS.contains(&id.kind.as_str());
        let mut found = false;
        for resource in resources.0.iter_mut().filter(|r| named(&r.id()) || r.before.iter().any(named)) {
            resource.object.set(&["spec", "replicas"], replica.count);
            found = true;
        }
        if !found {
            let kinds: Vec<String> = fields::REPLICAS.iter().map(|kind| format!("{kind}.[noVer].[noGrp]")).collect();
            return Err(format!("resource with name {} does not match a config with the following GVK [{}]", replica.name, kinds.join(" ")).into());
        }
    }
    Ok(())
}

/// `images`
///
/// # Errors
/// The name is no regular expression.
pub fn images(images: &[Image], resources: &mut Resources) -> Result<()> {
    for image in images {
        let expression = format!("^{}(:[a-zA-Z0-9_.{{}}-]*)?(@sha256:[a-zA-Z0-9_.{{}}-]*)?$", image.name);
        let matcher = regex::Regex::new(&expression).map_err(|e| e.to_string())?;
        let mut change = |value: &mut Value| {
            if let Some(new) = value.as_str().filter(|text| matcher.is_match(text)).map(|text| renamed(text, image)) {
                *value = json!(new);
            }
        };
        for resource in resources.0.iter_mut().filter(|r| r.id().kind != "CustomResourceDefinition") {
            in_containers(&mut resource.object, &mut change);
            for path in fields::IMAGES.iter().filter(|p| p.contains("volumes")) {
                fields::visit(&mut resource.object, path, Missing::Leave, &mut change);
            }
        }
    }
    Ok(())
}

/// Wherever an object has a list of containers.
fn in_containers(value: &mut Value, change: &mut dyn FnMut(&mut Value)) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| in_containers(item, change)),
        Value::Object(map) => {
            for (key, below) in map.iter_mut() {
                in_containers(below, change);
                if matches!(key.as_str(), "containers" | "initContainers") {
                    below.as_array_mut().into_iter().flatten().filter_map(|c| c.get_mut("image")).for_each(&mut *change);
                }
            }
        }
        _ => {}
    }
}

/// Name, tag and digest of an image, the last two with their signs taken off.
fn taken_apart(image: &str) -> (&str, &str, &str) {
    // A port of a registry is no tag.
    let slash = image.find('/').unwrap_or(0);
    let (rest, digest) = image.split_once('@').unwrap_or((image, ""));
    match rest[slash.min(rest.len())..].find(':') {
        Some(colon) => (&rest[..slash + colon], &rest[slash + colon + 1..], digest),
        None => (rest, "", digest),
    }
}

fn renamed(text: &str, image: &Image) -> String {
    let (name, tag, digest) = taken_apart(text);
    let name = if image.new_name.is_empty() { name } else { &image.new_name };
    let (tag, digest) = match (image.new_tag.as_str(), image.digest.as_str(), image.tag_suffix.as_str()) {
        ("", "", "") => (tag.to_owned(), digest),
        ("", "", suffix) => (format!("{tag}{suffix}"), ""),
        ("", digest, _) => (String::new(), digest),
        (tag, digest, _) => (tag.to_owned(), digest),
    };
    let part = |sign: &str, text: &str| if text.is_empty() { String::new() } else { format!("{sign}{text}") };
    format!("{name}{}{}", part(":", &tag), part("@", digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_get_another_name_tag_or_digest() {
        let image = |new_name: &str, new_tag: &str, digest: &str| Image {
            new_name: new_name.into(),
            new_tag: new_tag.into(),
            digest: digest.into(),
            ..Image::default()
        };
        assert_eq!(renamed("host:5000/a/nginx:1", &image("", "2", "")), "host:5000/a/nginx:2");
        assert_eq!(renamed("nginx@sha256:0", &image("other", "", "")), "other@sha256:0");
        assert_eq!(renamed("nginx:1", &image("", "", "sha256:1")), "nginx@sha256:1");
        assert_eq!(renamed("nginx", &Image { tag_suffix: "-x".into(), ..Image::default() }), "nginx:-x");
    }
}
