//! Replacements: a value of one object, written into fields of others (`api/filters/replacement`).

use std::path::Path;

use knarr_core::{Map, Value, yaml};
use serde::Deserialize;

use super::kustomization::Selector;
use super::patches::Matcher;
use super::resource::{Id, Resource, Resources};
use crate::kubectl::failure::{Result, go_io};

const NAME: &str = "metadata.name";

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Replacement {
    /// The replacements lie in a file.
    path: String,
    source: Option<Source>,
    source_value: Option<String>,
    targets: Vec<Target>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Source {
    group: String,
    version: String,
    kind: String,
    name: String,
    namespace: String,
    field_path: String,
    options: Options,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Target {
    select: Option<Selector>,
    reject: Vec<Selector>,
    field_paths: Vec<String>,
    options: Options,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Options {
    delimiter: String,
    index: i64,
    create: bool,
}

/// Runs a folder's replacements.
pub fn run(root: &Path, all: &[Value], resources: &mut Resources) -> Result<()> {
    let read = |value: Value| serde_json::from_value::<Replacement>(value).map_err(|e| format!("invalid replacement: {e}"));
    for value in all {
        let replacement = read(value.clone())?;
        if replacement.path.is_empty() {
            apply(&replacement, resources)?;
            continue;
        }
        let path = root.join(&replacement.path);
        let text = std::fs::read_to_string(&path).map_err(|e| format!("open {}: {}", path.display(), go_io(&e)))?;
        match yaml::parse(&text)? {
            Value::Array(items) => items.into_iter().try_for_each(|item| apply(&read(item)?, resources))?,
            one => apply(&read(one)?, resources)?,
        }
    }
    Ok(())
}

fn apply(replacement: &Replacement, resources: &mut Resources) -> Result<()> {
    if replacement.targets.is_empty() {
        return Err("replacements must specify a source and at least one target".into());
    }
    let value = match (&replacement.source, &replacement.source_value) {
        (Some(_), Some(_)) => return Err("value and resource selectors are mutually exclusive".into()),
        (Some(source), None) => source_value(source, resources)?,
        (None, Some(text)) => text.as_str().into(),
        (None, None) => return Err("replacements must specify a source and at least one target".into()),
    };
    for target in &replacement.targets {
        let select = target.select.as_ref().ok_or("target must specify resources to select")?;
        let matcher = Matcher::new(select)?;
        let rejected = target.reject.iter().map(Matcher::new).collect::<Result<Vec<_>>>()?;
        for resource in &mut resources.0 {
            let ids: Vec<Id> = resource.before.iter().cloned().chain([resource.id()]).collect();
            let meant = matcher.fits_labels(&resource.object)? && ids.iter().any(|id| matcher.fits_id(id));
            if meant && !is_rejected(&rejected, &ids, &resource.object)? {
                write(target, &value, resource)?;
            }
        }
    }
    Ok(())
}

fn is_rejected(rejected: &[Matcher<'_>], ids: &[Id], object: &Value) -> Result<bool> {
    for matcher in rejected {
        let by_id = !matcher.is_any_id() && ids.iter().any(|id| matcher.fits_id(id));
        if by_id || (matcher.is_any_id() && matcher.fits_labels(object)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn source_value(source: &Source, resources: &Resources) -> Result<Value> {
    let wanted = |id: &Id| {
        let same = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
        same(&source.group, &id.group)
            && same(&source.version, &id.version)
            && same(&source.kind, &id.kind)
            && same(&source.name, &id.name)
            && same(&source.namespace, &id.namespace)
    };
    let title = || {
        Id {
            group: source.group.clone(),
            version: source.version.clone(),
            kind: source.kind.clone(),
            name: source.name.clone(),
            namespace: source.namespace.clone(),
        }
        .title()
    };
    let found: Vec<&Resource> = resources.0.iter().filter(|r| wanted(&r.id()) || r.before.iter().any(wanted)).collect();
    let object = match found.as_slice() {
        [one] => &one.object,
        [] => return Err(format!("nothing selected by {}", title()).into()),
        _ => return Err(format!("multiple matches for selector {}", title()).into()),
    };
    let path = if source.field_path.is_empty() { NAME } else { &source.field_path };
    let mut at = object.clone();
    let mut value = None;
    visit(&mut at, &split(path), false, &mut |v| value = value.take().or_else(|| Some(v.clone())));
    let value = value.filter(|v| !v.is_null()).ok_or_else(|| format!("fieldPath `{path}` is missing for replacement source {}", title()))?;
    if source.options.delimiter.is_empty() {
        return Ok(value);
    }
    let text = scalar(&value).ok_or("delimiter option can only be used with scalar nodes")?;
    let part = usize::try_from(source.options.index).ok().and_then(|at| text.split(&source.options.delimiter).nth(at).map(str::to_owned));
    part.map(Value::from).ok_or_else(|| format!("options.index {} is out of bounds for value {text}", source.options.index).into())
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

fn write(target: &Target, value: &Value, resource: &mut Resource) -> Result<()> {
    let paths = if target.field_paths.is_empty() { vec![NAME.to_owned()] } else { target.field_paths.clone() };
    if paths.iter().any(|p| p == NAME || p == "metadata.namespace" || p == "kind") {
        resource.remember();
    }
    for path in paths {
        let (mut found, mut failure) = (0, None);
        visit(&mut resource.object, &split(&path), target.options.create, &mut |field| {
            found += 1;
            match replaced(&target.options, field, value) {
                Ok(new) => *field = new,
                Err(why) => failure = Some(why),
            }
        });
        if let Some(why) = failure {
            return Err(why);
        }
        if found == 0 {
            let how = if target.options.create { "find or create" } else { "find" };
            return Err(format!("unable to {how} field {path:?} in replacement target").into());
        }
    }
    Ok(())
}

/// What a field becomes: its own kind of scalar stays, as long as the text is one.
fn replaced(options: &Options, field: &Value, value: &Value) -> Result<Value> {
    let mut value = value.clone();
    if !options.delimiter.is_empty() {
        let only_scalars = "delimiter option can only be used with scalar nodes";
        let (old, new) = (scalar(field).ok_or(only_scalars)?, scalar(&value).ok_or(only_scalars)?);
        let mut parts: Vec<&str> = old.split(&options.delimiter).collect();
        match usize::try_from(options.index) {
            Err(_) => parts.insert(0, &new),
            Ok(at) if at >= parts.len() => parts.push(&new),
            Ok(at) => parts[at] = &new,
        }
        value = parts.join(&options.delimiter).into();
    }
    Ok(match (field, scalar(&value)) {
        (Value::String(_), Some(text)) => text.into(),
        (Value::Number(_) | Value::Bool(_), Some(text)) => yaml::resolve(&text),
        _ => value,
    })
}

/// `spec.containers.[name=a].image`, `metadata.annotations.[a.b/c]`, `a\.b`, `list.*.x`, `list.0`: what stands between dots.
fn split(path: &str) -> Vec<String> {
    let (mut parts, mut depth) = (vec![String::new()], 0);
    let mut chars = path.chars().peekable();
    while let Some(c) = chars.next() {
        let Some(last) = parts.last_mut() else { return parts };
        match c {
            '\\' if chars.peek() == Some(&'.') => last.extend(chars.next()),
            '.' if depth == 0 => parts.push(String::new()),
            _ => {
                depth += match c {
                    '[' => 1,
                    ']' => -1,
                    _ => 0,
                };
                last.push(c);
            }
        }
    }
    parts
}

/// Calls `change` on everything that the parts lead to.
fn visit(value: &mut Value, parts: &[String], create: bool, change: &mut dyn FnMut(&mut Value)) {
    let Some((first, rest)) = parts.split_first() else { return change(value) };
    let bracketed = first.strip_prefix('[').and_then(|p| p.strip_suffix(']'));
    match (value, bracketed) {
        (Value::Array(items), Some(condition)) if condition.contains('=') => {
            let (key, wanted) = condition.split_once('=').unwrap_or_default();
            let fits = |item: &Value| if key.is_empty() { scalar(item) } else { item.get(key).and_then(scalar) }.as_deref() == Some(wanted);
            if create && !items.iter().any(fits) && !key.is_empty() {
                items.push(Value::Object(Map::from_iter([(key.to_owned(), wanted.into())])));
            }
            items.iter_mut().filter(|item| fits(item)).for_each(|item| visit(item, rest, create, change));
        }
        (Value::Array(items), _) if first == "*" => items.iter_mut().for_each(|item| visit(item, rest, create, change)),
        (Value::Array(items), _) => match first.parse::<usize>() {
            Ok(at) if at < items.len() => visit(&mut items[at], rest, create, change),
            _ => {}
        },
        (Value::Object(map), _) if first == "*" => map.values_mut().for_each(|below| visit(below, rest, create, change)),
        (Value::Object(map), name) => {
            let name = name.unwrap_or(first);
            if create && map.get(name).is_none_or(Value::is_null) {
                let next =
                    rest.first().map(|next| if next.starts_with('[') && next.contains('=') { Value::Array(Vec::new()) } else { Value::Object(Map::new()) });
                map.insert(name.to_owned(), next.unwrap_or_default());
            }
            if let Some(below) = map.get_mut(name) {
                visit(below, rest, create, change);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn paths_lead_through_lists_and_names_with_dots() {
        let mut object = json!({"l": [{"name": "a", "x": 1}, {"name": "b", "x": 2}], "m": {"a.b/c": "d"}});
        let found = |object: &mut Value, path: &str| {
            let mut all = Vec::new();
            visit(object, &split(path), false, &mut |v| all.push(v.to_string()));
            all.join(",")
        };
        assert_eq!(found(&mut object, "l.[name=b].x"), "2");
        assert_eq!(found(&mut object, "l.*.x"), "1,2");
        assert_eq!(found(&mut object, "l.0.name"), "\"a\"");
        assert_eq!(found(&mut object, "m.[a.b/c]"), "\"d\"");
        assert_eq!(found(&mut object, "m.a\\.b/c"), "\"d\"");
        assert_eq!(found(&mut object, "m.none"), "");
    }

    #[test]
    fn a_part_of_a_text_is_exchanged() {
        let options = |index| Options { delimiter: ":".into(), index, create: false };
        assert_eq!(replaced(&options(0), &json!("a:1"), &json!("b")).unwrap(), "b:1");
        assert_eq!(replaced(&options(-1), &json!("a"), &json!("b")).unwrap(), "b:a");
        assert_eq!(replaced(&Options::default(), &json!(1), &json!("2")).unwrap(), 2);
    }
}
