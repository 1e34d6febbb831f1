//! Which names a definition gets: those that no other definition of its group has (upstream:
//! `controller/status/naming_controller.go`, `controller/establish`).

use std::collections::BTreeSet;

use knarr_core::{Value, ValueExt, json, time};
use knarr_kinds::approval_condition;

use super::definition::{condition, is_true};

/// Brings `status.acceptedNames` and the conditions up to date: `NamesAccepted`, `Established` and, for groups of the community,
/// `KubernetesAPIApprovalPolicyConformant`. `others` are the other
/// definitions. Gives whether anything changed.
pub fn accept(definition: &mut Value, others: &[&Value], now: jiff::Timestamp) -> bool {
    let before = definition.at(&["status"]).cloned();
    if let Some((status, reason, message)) = approval_condition(definition) {
        set_condition(definition, "KubernetesAPIApprovalPolicyConformant", status, reason, &message, now);
    }
    let wanted = definition.at(&["spec", "names"]).cloned().unwrap_or_else(|| json!({}));
    let have = definition.at(&["status", "acceptedNames"]).cloned().unwrap_or_else(|| json!({}));
    let group = definition.str_at(&["spec", "group"]).unwrap_or_default();
    let (resources, kinds) = taken(group, others);
    let mut names = have.clone();
    let mut conflict = None;
    for (field, used, reason) in [
        ("plural", &resources, "PluralConflict"),
        ("singular", &resources, "SingularConflict"),
        ("kind", &kinds, "KindConflict"),
        ("listKind", &kinds, "ListKindConflict"),
    ] {
        let name = wanted.str_at(&[field]).unwrap_or_default();
        if have.str_at(&[field]).unwrap_or_default() != name && used.contains(name) {
            conflict = Some((reason, in_use(name)));
        } else {
            names.set(&[field], name);
        }
    }
    if let Some(found) = short_names(&wanted, &have, &resources, &mut names) {
        conflict.get_or_insert(("ShortNamesConflict", found));
    }
    match wanted.at(&["categories"]) {
        Some(categories) => names.set(&["categories"], categories.clone()),
        None => drop(names.remove(&["categories"])),
    }
    definition.set(&["status", "acceptedNames"], names);
    match conflict {
        Some((reason, message)) => {
            set_condition(definition, "NamesAccepted", "False", reason, &message, now);
            if condition(definition, "Established").is_none() {
                set_condition(definition, "Established", "False", "NotAccepted", "not all names are accepted", now);
            }
        }
        None => {
            set_condition(definition, "NamesAccepted", "True", "NoConflicts", "no conflicts found", now);
            if !is_true(definition, "Established") {
                set_condition(definition, "Established", "True", "InitialNamesAccepted", "the initial names have been accepted", now);
            }
        }
    }
    before.as_ref() != definition.at(&["status"])
}

fn in_use(name: &str) -> String {
    format!("{} is already in use", knarr_core::field::go_quote(name))
}

fn short_names(wanted: &Value, have: &Value, used: &BTreeSet<&str>, names: &mut Value) -> Option<String> {
    let list = |v: &Value| v.list_at(&["shortNames"]).iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
    let (wanted, have) = (list(wanted), list(have));
    let clashing: Vec<String> = wanted.iter().filter(|n| !have.contains(n) && used.contains(n.as_str())).map(|n| in_use(n)).collect();
    match clashing.as_slice() {
        [] if wanted.is_empty() => drop(names.remove(&["shortNames"])),
        [] => names.set(&["shortNames"], wanted),
        [one] => return Some(one.clone()),
        many => return Some(format!("[{}]", many.join(", "))),
    }
    None
}

/// The names that other definitions of the group have: of resources, and of kinds.
fn taken<'a>(group: &str, others: &[&'a Value]) -> (BTreeSet<&'a str>, BTreeSet<&'a str>) {
    let (mut resources, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    for other in others.iter().filter(|o| o.str_at(&["spec", "group"]) == Some(group)) {
        let Some(names) = other.at(&["status", "acceptedNames"]) else { continue };
        resources.extend(["plural", "singular"].iter().filter_map(|f| names.str_at(&[f])));
        resources.extend(names.list_at(&["shortNames"]).iter().filter_map(Value::as_str));
        kinds.extend(["kind", "listKind"].iter().filter_map(|f| names.str_at(&[f])));
    }
    (resources, kinds)
}

/// Sets a condition; its time moves only when its status does.
pub fn set_condition(definition: &mut Value, kind: &str, status: &str, reason: &str, message: &str, now: jiff::Timestamp) {
    let old = condition(definition, kind);
    let since = old.filter(|c| c.str_at(&["status"]) == Some(status)).and_then(|c| c.str_at(&["lastTransitionTime"])).map(str::to_owned);
    let new = json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": since.unwrap_or_else(|| time::format(now)),
    });
    let mut conditions = definition.list_at(&["status", "conditions"]).to_vec();
    let generation = old.and_then(|c| c.get("observedGeneration")).cloned();
    let new = match generation {
        Some(generation) => {
            let mut new = new;
            new.set(&["observedGeneration"], generation);
            new
        }
        None => new,
    };
    match conditions.iter_mut().find(|c| c.str_at(&["type"]) == Some(kind)) {
        Some(slot) => *slot = new,
        None => conditions.push(new),
    }
    definition.set(&["status", "conditions"], conditions);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crd(plural: &str, kind: &str) -> Value {
        let names = json!({"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List"), "shortNames": ["x"]});
        json!({"metadata": {"name": plural}, "spec": {"group": "g", "names": names}})
    }

    #[test]
    fn the_first_definition_keeps_its_names() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let mut first = crd("foos", "Foo");
        assert!(accept(&mut first, &[], now));
        assert!(is_true(&first, "Established"));
        assert!(!accept(&mut first, &[], now), "nothing changes twice");
        let mut second = crd("bars", "Foo");
        accept(&mut second, &[&first], now);
        let names = condition(&second, "NamesAccepted").unwrap();
        assert_eq!((names.str_at(&["reason"]), names.str_at(&["message"])), (Some("ListKindConflict"), Some("\"FooList\" is already in use")));
        assert!(!is_true(&second, "Established"));
    }
}
