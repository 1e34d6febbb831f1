//! The default FlowSchemas and PriorityLevelConfigurations: made when they are missing, brought up to date where their owner lets
//! us, and taken away when a release has them no more (upstream: `pkg/registry/flowcontrol/ensurer`).

use std::sync::Arc;

use knarr_core::{
    GroupVersionResource, Result, Value, ValueExt,
    api::{Reply, Request, Transport, Verb},
};

use super::schema::{CATCH_ALL, EXEMPT};

pub const GROUP: &str = "flowcontrol.apiserver.k8s.io";
pub const SCHEMAS: &str = "flowschemas";
pub const LEVELS: &str = "prioritylevelconfigurations";
/// Says whether the server may change the spec of a default object.
const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
const MANAGER: &str = "api-priority-and-fairness-config-producer-v1";

/// The objects as this release has them.
pub fn defaults() -> Vec<Value> {
    crate::bootstrap::objects().filter(|o| is_ours(o)).collect()
}

/// Whether an object is one of those that this module looks after.
pub fn is_ours(object: &Value) -> bool {
    object.str_at(&["apiVersion"]).is_some_and(|v| v.starts_with(GROUP))
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Create(Value),
    Update(Value),
    /// Resource and name.
    Delete(&'static str, String),
}

fn name(object: &Value) -> &str {
    object.str_at(&["metadata", "name"]).unwrap_or_default()
}

fn kind(object: &Value) -> &str {
    object.str_at(&["kind"]).unwrap_or_default()
}

fn is_mandatory(object: &Value) -> bool {
    matches!(name(object), EXEMPT | CATCH_ALL)
}

/// As Go reads a boolean.
fn auto_update(object: &Value) -> Option<bool> {
    match object.at(&["metadata", "annotations", AUTO_UPDATE])?.as_str()? {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Plans what makes the stored objects those of the release: levels first, what is suggested before what is mandatory.
pub fn plan(stored: &[Value], wanted: &[Value]) -> Vec<Action> {
    let mut order: Vec<&Value> = wanted.iter().collect();
    order.sort_by_key(|o| (is_mandatory(o), kind(o) == "FlowSchema"));
    let find = |of: &Value| stored.iter().find(|s| kind(s) == kind(of) && name(s) == name(of));
    let mut actions: Vec<Action> = order
        .into_iter()
        .filter_map(|wanted| match find(wanted) {
            None => Some(Action::Create(wanted.clone())),
            Some(stored) => revise(stored, wanted).map(Action::Update),
        })
        .collect();
    let is_wanted = |s: &Value| wanted.iter().any(|w| kind(w) == kind(s) && name(w) == name(s));
    let mut gone: Vec<&Value> = stored.iter().filter(|s| auto_update(s) == Some(true) && !is_wanted(s)).collect();
    gone.sort_by_key(|o| kind(o) != "FlowSchema");
    actions.extend(gone.into_iter().map(|o| Action::Delete(if kind(o) == "FlowSchema" { SCHEMAS } else { LEVELS }, name(o).to_owned())));
    actions
}

/// The stored object as it should be, when it is otherwise (upstream: `strategy.ReviseIfNeeded`).
fn revise(stored: &Value, wanted: &Value) -> Option<Value> {
    // Without a word of its owner, a spec that nobody has touched since it was made is ours.
    let ours = is_mandatory(wanted) || auto_update(stored).unwrap_or_else(|| stored.i64_at(&["metadata", "generation"]) == Some(1));
    let spec = expected_spec(stored, wanted);
    let spec_differs = ours && !knarr_kinds::semantic::same(stored.at(&["spec"]), Some(&spec));
    let annotation_differs = auto_update(stored) != Some(ours);
    if !spec_differs && !annotation_differs {
        return None;
    }
    let mut revised = stored.clone();
    if spec_differs {
        revised.set(&["spec"], wanted.at(&["spec"]).cloned().unwrap_or_default());
    }
    if annotation_differs {
        revised.ensure(&["metadata", "annotations"]);
        revised.set(&["metadata", "annotations", AUTO_UPDATE], ours.to_string());
    }
    Some(revised)
}

/// The administrator sets how many seats of the exempt level count, and how many of them are lent.
fn expected_spec(stored: &Value, wanted: &Value) -> Value {
    let mut spec = wanted.at(&["spec"]).cloned().unwrap_or_default();
    if name(wanted) == EXEMPT
        && kind(wanted) == "PriorityLevelConfiguration"
        && let Some(exempt) = stored.at(&["spec", "exempt"])
    {
        spec.set(&["exempt"], exempt.clone());
    }
    spec
}

/// Reads the objects and does what [`plan`] says. `transport` must be allowed everything.
///
/// # Errors
/// What the pipeline says; a change by somebody else at the same time is not an error.
pub async fn run(transport: &Arc<dyn Transport>) -> Result<()> {
    let mut stored = Vec::new();
    for resource in [LEVELS, SCHEMAS] {
        let list = transport.list(Request::new(Verb::List, of(resource))).await?;
        for object in &list.items {
            stored.push(knarr_schema::codec::to_value(object)?);
        }
    }
    apply(transport, plan(&stored, &defaults())).await
}

fn of(resource: &str) -> GroupVersionResource {
    GroupVersionResource::new(GROUP, "v1", resource)
}

/// Does what was planned.
///
/// # Errors
/// As [`run`].
pub async fn apply(transport: &Arc<dyn Transport>, actions: Vec<Action>) -> Result<()> {
    for action in actions {
        let request = match action {
            Action::Create(object) => write(Verb::Create, object),
            Action::Update(object) => write(Verb::Update, object),
            Action::Delete(resource, name) => Request { name: Some(name), ..Request::new(Verb::Delete, of(resource)) },
        };
        match transport.call(request).await {
            Err(status) if status.is_already_exists() || status.is_conflict() || status.is_not_found() => {}
            other => other.map(|_: Reply| ())?,
        }
    }
    Ok(())
}

fn write(verb: Verb, object: Value) -> Request {
    let mut request = Request::new(verb, of(if kind(&object) == "FlowSchema" { SCHEMAS } else { LEVELS }));
    request.name = (verb == Verb::Update).then(|| name(&object).to_owned());
    request.options.field_manager = Some(MANAGER.into());
    request.body = Some(object);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The default objects as a server stores them.
    fn stored() -> Vec<Value> {
        let mut all = defaults();
        for object in &mut all {
            object.set(&["metadata", "generation"], 1);
        }
        all
    }

    fn change(of_kind: &str, of_name: &str, change: impl FnOnce(&mut Value)) -> Vec<Action> {
        let mut all = stored();
        change(all.iter_mut().find(|o| kind(o) == of_kind && name(o) == of_name).unwrap());
        plan(&all, &defaults())
    }

    #[test]
    fn what_is_as_it_should_be_is_left_alone() {
        assert_eq!(plan(&stored(), &defaults()), []);
        assert_eq!(plan(&[], &defaults()).len(), defaults().len());
        let Some(Action::Create(first)) = plan(&[], &defaults()).into_iter().next() else { panic!("nothing to do") };
        assert_eq!((kind(&first), is_mandatory(&first)), ("PriorityLevelConfiguration", false));
    }

    #[test]
    fn who_says_so_keeps_their_spec() {
        let edit = |object: &mut Value| object.set(&["spec", "matchingPrecedence"], 77);
        let updated = change("FlowSchema", "service-accounts", edit);
        assert!(matches!(updated.as_slice(), [Action::Update(o)] if o["spec"]["matchingPrecedence"] == 9000), "{updated:?}");
        let kept = change("FlowSchema", "service-accounts", |o| {
            edit(o);
            o.set(&["metadata", "annotations", AUTO_UPDATE], "false");
        });
        assert_eq!(kept, []);
        // Without the annotation, an edited spec (generation 2) stays and is marked as its owner's.
        let marked = change("FlowSchema", "service-accounts", |o| {
            edit(o);
            o.set(&["metadata", "generation"], 2);
            o.remove(&["metadata", "annotations"]);
        });
        assert!(
            matches!(marked.as_slice(), [Action::Update(o)] if o["spec"]["matchingPrecedence"] == 77 && o["metadata"]["annotations"][AUTO_UPDATE] == "false")
        );
    }

    #[test]
    fn what_is_mandatory_is_restored_whatever_its_annotation_says() {
        let restored = change("PriorityLevelConfiguration", CATCH_ALL, |o| {
            o.set(&["metadata", "annotations", AUTO_UPDATE], "false");
            o.set(&["spec", "limited", "nominalConcurrencyShares"], 99);
        });
        assert!(
            matches!(restored.as_slice(), [Action::Update(o)] if o["spec"]["limited"]["nominalConcurrencyShares"] == 5 && o["metadata"]["annotations"][AUTO_UPDATE] == "true")
        );
        let exempt = change("PriorityLevelConfiguration", EXEMPT, |o| o.set(&["spec", "exempt", "nominalConcurrencyShares"], 40));
        assert_eq!(exempt, [], "the seats of the exempt level are the administrator's");
    }

    #[test]
    fn what_a_release_has_no_more_goes() {
        let mut all = stored();
        let mut old = all.iter().find(|o| kind(o) == "FlowSchema").unwrap().clone();
        old.set(&["metadata", "name"], "of-an-older-release");
        let mut users = old.clone();
        users.set(&["metadata", "name"], "users");
        users.remove(&["metadata", "annotations"]);
        all.extend([old, users]);
        assert_eq!(plan(&all, &defaults()), [Action::Delete(SCHEMAS, "of-an-older-release".into())]);
    }
}
