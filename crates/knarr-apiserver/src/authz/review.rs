//! From a SubjectAccessReview's spec to the question it puts (upstream: `registry/authorization/util`,
//! `apis/authorization/validation`). Pure.

use knarr_core::{
    Value, ValueExt,
    field::{Error, ErrorList, Path},
    names,
    selector::{FieldSelector, LabelSelector},
};

use super::Attributes;
use crate::authn::User;

/// The user that a spec names.
pub fn user(spec: &Value) -> User {
    let text = |key: &str| spec.str_at(&[key]).unwrap_or_default().to_owned();
    let extra = spec.at(&["extra"]).cloned().and_then(|extra| serde_json::from_value(extra).ok());
    User { name: text("user"), uid: text("uid"), groups: texts(spec, "groups"), extra: extra.unwrap_or_default() }
}

fn texts(value: &Value, key: &str) -> Vec<String> {
    value.list_at(&[key]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// What is asked about the user, and what could not be read of it: the rest makes a broader question.
pub fn attributes(spec: &Value, user: User) -> (Attributes, Vec<String>) {
    let text = |path: &[&str]| spec.str_at(path).unwrap_or_default().to_owned();
    let Some(of) = spec.at(&["resourceAttributes"]) else {
        let path = Attributes { user, verb: text(&["nonResourceAttributes", "verb"]), path: text(&["nonResourceAttributes", "path"]), ..Attributes::default() };
        return (path, Vec::new());
    };
    let text = |field: &str| of.str_at(&[field]).unwrap_or_default().to_owned();
    let mut unread = Vec::new();
    let mut selector = |field: &str, read: fn(&Value) -> Read| {
        let read = of.at(&[field]).map(read).unwrap_or_default();
        if read.failed {
            let how = if read.text.is_some() { "partially ignored" } else { "ignored" };
            unread.push(format!("spec.resourceAttributes.{field} {how} due to parse error"));
        }
        read.text
    };
    let (field_selector, label_selector) = (selector("fieldSelector", field_selector), selector("labelSelector", label_selector));
    let version = Some(text("version")).filter(|v| !v.is_empty()).unwrap_or_else(|| "*".into());
    let attributes = Attributes {
        user,
        verb: text("verb"),
        namespace: text("namespace"),
        group: text("group"),
        version,
        resource: text("resource"),
        subresource: text("subresource"),
        name: text("name"),
        path: String::new(),
        is_resource_request: true,
        label_selector,
        field_selector,
    };
    (attributes, unread)
}

/// A selector as text, as far as it can be read.
#[derive(Default)]
struct Read {
    text: Option<String>,
    failed: bool,
}

impl Read {
    /// Of the two forms: text, or requirements, each of which is text again.
    fn of(selector: &Value, one: impl Fn(&Value) -> Option<String>, good: impl Fn(&str) -> bool) -> Self {
        let requirements = selector.list_at(&["requirements"]);
        let parts: Vec<Option<String>> = match selector.str_at(&["rawSelector"]).filter(|raw| !raw.is_empty()) {
            _ if !requirements.is_empty() => requirements.iter().map(|r| one(r).filter(|text| good(text))).collect(),
            Some(raw) => vec![Some(raw.to_owned()).filter(|text| good(text))],
            None => Vec::new(),
        };
        let failed = parts.iter().any(Option::is_none);
        let read: Vec<String> = parts.into_iter().flatten().collect();
        Self { text: (!read.is_empty()).then(|| read.join(",")), failed }
    }
}

fn label_selector(selector: &Value) -> Read {
    let one = |requirement: &Value| {
        let key = requirement.str_at(&["key"]).unwrap_or_default();
        let values = texts(requirement, "values").join(",");
        Some(match requirement.str_at(&["operator"]).unwrap_or_default() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => return None,
        })
    };
    Read::of(selector, one, |text| LabelSelector::parse(text).is_ok())
}

fn field_selector(selector: &Value) -> Read {
    let one = |requirement: &Value| {
        let key = requirement.str_at(&["key"]).unwrap_or_default();
        let sign = match requirement.str_at(&["operator"]).unwrap_or_default() {
            "In" => "=",
            "NotIn" => "!=",
            _ => return None,
        };
        let [value] = &texts(requirement, "values")[..] else { return None };
        Some(format!("{key}{sign}{}", value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")))
    };
    Read::of(selector, one, |text| FieldSelector::parse(text).is_ok())
}

/// What is wrong with the selectors of a spec.
pub fn selector_errors(spec: &Value) -> ErrorList {
    let Some(of) = spec.at(&["resourceAttributes"]) else { return Vec::new() };
    let place = Path::new("spec").child("resourceAttributes");
    let mut errors = ErrorList::new();
    for field in ["fieldSelector", "labelSelector"] {
        if let Some(selector) = of.at(&[field]) {
            errors.extend(errors_of(selector, &place.child(field), field == "labelSelector"));
        }
    }
    errors
}

fn errors_of(selector: &Value, place: &Path, labels: bool) -> ErrorList {
    let (raw, requirements) = (selector.str_at(&["rawSelector"]).unwrap_or_default(), selector.list_at(&["requirements"]));
    let mut errors = ErrorList::new();
    match (raw.is_empty(), requirements.is_empty()) {
        (false, false) => errors.push(Error::invalid(&place.child("rawSelector"), raw, "may not specified at the same time as requirements")),
        (true, true) => {
            errors.push(Error::required(&place.child("requirements"), format!("when {place} is specified, requirements or rawSelector is required")));
        }
        _ => {}
    }
    for (i, requirement) in requirements.iter().enumerate() {
        let place = place.child("requirements").index(i);
        let (key, given) = (requirement.str_at(&["key"]).unwrap_or_default(), texts(requirement, "values"));
        let mut found = ErrorList::new();
        match requirement.str_at(&["operator"]).unwrap_or_default() {
            "In" | "NotIn" if given.is_empty() => {
                found.push(Error::required(&place.child("values"), "must be specified when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if !given.is_empty() => {
                found.push(Error::forbidden(&place.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
            }
            _ => {}
        }
        if !labels {
            if key.is_empty() {
                errors.push(Error::required(&place.child("key"), "must be specified"));
            }
            errors.extend(found);
            continue;
        }
        errors.extend(found);
        errors.extend(names::is_qualified_name(key).into_iter().map(|problem| Error::invalid(&place.child("key"), key, problem)));
        for (n, value) in given.iter().enumerate() {
            let problems = names::is_label_value(value).into_iter();
            errors.extend(problems.map(|problem| Error::invalid(&place.child("values").index(n), value.as_str(), problem)));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    fn asked(more: Value) -> (Attributes, Vec<String>) {
        let mut resource = json!({"verb": "list", "resource": "pods"});
        more.as_object().unwrap().iter().for_each(|(k, v)| resource[k] = v.clone());
        attributes(&json!({"resourceAttributes": resource}), User::default())
    }

    #[test]
    fn selectors_come_as_text_or_as_requirements() {
        let (read, unread) = asked(json!({"labelSelector": {"requirements": [
            {"key": "a", "operator": "In", "values": ["b", "c"]}, {"key": "d", "operator": "DoesNotExist"}, {"key": "e", "operator": "Near"},
        ]}, "fieldSelector": {"rawSelector": "metadata.name=x"}}));
        assert_eq!(
            (read.label_selector.as_deref(), read.field_selector.as_deref(), read.version.as_str()),
            (Some("a in (b,c),!d"), Some("metadata.name=x"), "*")
        );
        assert_eq!(unread, ["spec.resourceAttributes.labelSelector partially ignored due to parse error"]);
        let (read, unread) = asked(json!({"fieldSelector": {"requirements": [{"key": "a", "operator": "Exists"}]}, "version": "v1"}));
        assert_eq!((read.field_selector, read.version.as_str()), (None, "v1"));
        assert_eq!(unread, ["spec.resourceAttributes.fieldSelector ignored due to parse error"]);
        let (read, _) = asked(json!({"fieldSelector": {"requirements": [{"key": "a", "operator": "NotIn", "values": ["x,y"]}]}}));
        assert_eq!(read.field_selector.as_deref(), Some("a!=x\\,y"));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let shown = |selector: Value| {
            let errors = selector_errors(&json!({"resourceAttributes": {"labelSelector": selector}}));
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let place = "spec.resourceAttributes.labelSelector";
        assert_eq!(shown(json!({})), [format!("{place}.requirements: Required value: when {place} is specified, requirements or rawSelector is required")]);
        let none = shown(json!({"requirements": [{"key": "a", "operator": "In"}]}));
        assert_eq!(none, [format!("{place}.requirements[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'")]);
        assert!(shown(json!({"requirements": [{"key": "a", "operator": "Near"}]})).is_empty(), "newer clients may know more operators");
    }
}
