//! `kubectl set`: image, env, resources, selector, serviceaccount, subject.

use knarr_core::{Value, ValueExt, json};

use super::change::each;
use super::generate::{labels, resource_list};
use super::options::{ALL, DRY_RUN, FIELD_MANAGER, LOCAL, SELECTOR};
use super::pods::pod_spec_path;
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::{Flag, list, many, switch, switch_on, text};
use crate::kubectl::manifest;
use crate::kubectl::print;
use crate::kubectl::select::{Info, Selection};

const COMMON: &[Flag] = &[ALL, SELECTOR, LOCAL, DRY_RUN, FIELD_MANAGER];
const CONTAINERS: Flag = text("containers", "*", "The names of containers in the selected pod templates to change; wildcards are allowed").short('c');

pub static VERB: Verb = Verb {
    name: "set",
    usage: "SUBCOMMAND",
    about: "Set specific features on objects",
    verbs: &[
        &Verb {
            name: "env",
            usage: "RESOURCE/NAME KEY_1=VAL_1 ... KEY_N=VAL_N [flags]",
            about: "Update environment variables on a pod template",
            flags: &[
                COMMON,
                &[
                    CONTAINERS,
                    many("env", "An environment variable to set into the container").short('e'),
                    switch("list", "Show the environment of the objects"),
                    switch("resolve", "Show references with what they refer to"),
                    switch_on("overwrite", "Allow environment to be overwritten"),
                    text("from", "", "The name of a resource from which to inject environment variables"),
                    text("prefix", "", "Prefix to append to variable names"),
                    list("keys", "Comma-separated list of keys to import from specified resource"),
                ],
                manifest::FLAGS,
                print::FLAGS,
            ],
            run: Some(|cx| Box::pin(env(cx))),
            ..Verb::NONE
        },
        &Verb {
            name: "image",
            usage: "(-f FILENAME | TYPE NAME) CONTAINER_NAME_1=CONTAINER_IMAGE_1 ... [flags]",
            about: "Update the image of a pod template",
            flags: &[COMMON, manifest::FLAGS, print::FLAGS],
            run: Some(|cx| Box::pin(image(cx))),
            ..Verb::NONE
        },
        &Verb {
            name: "resources",
            usage: "(-f FILENAME | TYPE NAME) ([--limits=LIMITS & --requests=REQUESTS]) [flags]",
            about: "Update resource requests/limits on objects with pod templates",
            flags: &[
                COMMON,
                &[
                    CONTAINERS,
                    text("limits", "", "The resource requirement limits, as cpu=100m,memory=256Mi"),
                    text("requests", "", "The resource requirement requests, as cpu=100m,memory=256Mi"),
                ],
                manifest::FLAGS,
                print::FLAGS,
            ],
            run: Some(|cx| Box::pin(resources(cx))),
            ..Verb::NONE
        },
        &Verb {
            name: "selector",
            usage: "(-f FILENAME | TYPE NAME) EXPRESSIONS [flags]",
            about: "Set the selector on a resource",
            flags: &[
                &[ALL, LOCAL, DRY_RUN, FIELD_MANAGER, text("resource-version", "", "Only change the object at this version")],
                manifest::FLAGS,
                print::FLAGS,
            ],
            run: Some(|cx| Box::pin(selector(cx))),
            ..Verb::NONE
        },
        &Verb {
            name: "serviceaccount",
            aliases: &["sa"],
            usage: "(-f FILENAME | TYPE NAME) SERVICE_ACCOUNT [flags]",
            about: "Update the service account of a resource",
            flags: &[COMMON, manifest::FLAGS, print::FLAGS],
            run: Some(|cx| Box::pin(service_account(cx))),
            ..Verb::NONE
        },
        &Verb {
            name: "subject",
            usage: "(-f FILENAME | TYPE NAME) [--user=username] [--group=groupname] [--serviceaccount=namespace:serviceaccountname] [flags]",
            about: "Update the user, group, or service account in a role binding or cluster role binding",
            flags: &[
                COMMON,
                &[
                    many("user", "Usernames to bind to the role"),
                    many("group", "Groups to bind to the role"),
                    many("serviceaccount", "Service accounts to bind to the role"),
                ],
                manifest::FLAGS,
                print::FLAGS,
            ],
            run: Some(|cx| Box::pin(subject(cx))),
            ..Verb::NONE
        },
    ],
    ..Verb::NONE
};

async fn infos(cx: &Context, resources: &[String]) -> Result<Vec<Info>> {
    let mut selection = Selection::of(cx.session()?, &cx.flags);
    selection.latest = !cx.flags.on("local");
    selection.objects(resources).await?.all()
}

/// Changes each container that matches a pattern; says how many did.
fn containers(object: &mut Value, lists: &[&str], pattern: &str, change: &mut dyn FnMut(&mut Value) -> Result<()>) -> Result<usize> {
    let kind = object.str_at(&["kind"]).unwrap_or_default().to_owned();
    let path = pod_spec_path(&kind).ok_or_else(|| format!("the object is not a pod or does not have a pod template: {kind}"))?;
    let wanted = regex::Regex::new(&format!("^{}$", regex::escape(pattern).replace("\\*", ".*"))).map_err(|e| e.to_string())?;
    let mut count = 0;
    for list in lists {
        let Some(all) = object.at_mut(&[path, &[*list]].concat()).and_then(Value::as_array_mut) else { continue };
        for container in all.iter_mut().filter(|c| c.str_at(&["name"]).is_some_and(|n| wanted.is_match(n))) {
            change(container)?;
            count += 1;
        }
    }
    Ok(count)
}

fn name_of(object: &Value) -> &str {
    object.str_at(&["metadata", "name"]).unwrap_or_default()
}

async fn image(cx: &Context) -> Result<()> {
    let (resources, changes) = split_changes(cx.words());
    if resources.is_empty() && !manifest::named(&cx.flags) {
        return Err("one or more resources must be specified as <resource> <name> or <resource>/<name>".into());
    }
    let pairs: Vec<(&str, &str)> = changes.iter().filter_map(|c| c.split_once('=')).collect();
    if pairs.is_empty() {
        return Err("at least one image update is required".into());
    }
    if pairs.len() > 1 && pairs.iter().any(|(name, _)| *name == "*") {
        return Err("all containers are already specified by *, but saw more than one container_name=container_image pairs".into());
    }
    each(cx, infos(cx, &resources).await?, "kubectl-set", "image updated", |object| {
        for (name, image) in &pairs {
            let lists: &[&str] = &["initContainers", "containers"];
            let pattern = if *name == "*" { "*" } else { name };
            if containers(object, lists, pattern, &mut |c| {
                c.set(&["image"], *image);
                Ok(())
            })? == 0
            {
                return Err(format!("unable to find container named {}", knarr_core::field::go_quote(name)).into());
            }
        }
        Ok(())
    })
    .await
}

async fn env(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    let (resources, mut changes) = split_changes(cx.words());
    changes.extend(flags.all("env"));
    if resources.is_empty() && !manifest::named(flags) {
        return Err("one or more resources must be specified as <resource> <name> or <resource>/<name>".into());
    }
    let (set, remove): (Vec<&String>, Vec<&String>) = changes.iter().partition(|c| c.contains('='));
    let mut wanted: Vec<Value> = set.iter().filter_map(|c| c.split_once('=')).map(|(name, value)| json!({"name": name, "value": value})).collect();
    let removed: Vec<&str> = remove.iter().map(|r| r.trim_end_matches('-')).collect();
    if let Some(from) = flags.some("from") {
        wanted.extend(from_resource(cx, from).await?);
    }
    if flags.on("list") {
        for info in infos(cx, &resources).await? {
            list_env(&info)?;
        }
        return Ok(());
    }
    if wanted.is_empty() && removed.is_empty() {
        return Err("at least one environment variable must be provided".into());
    }
    let overwrite = flags.on("overwrite");
    each(cx, infos(cx, &resources).await?, "kubectl-set", "env updated", |object| {
        let name = name_of(object).to_owned();
        let found = containers(object, &["initContainers", "containers"], flags.text("containers"), &mut |container| {
            change_env(container, &wanted, &removed, overwrite)
        })?;
        if found == 0 {
            eprintln!("warning: {name} does not have any containers matching {}", knarr_core::field::go_quote(flags.text("containers")));
        }
        Ok(())
    })
    .await
}

fn change_env(container: &mut Value, wanted: &[Value], removed: &[&str], overwrite: bool) -> Result<()> {
    let mut all = container.list_at(&["env"]).to_vec();
    for variable in wanted {
        match all.iter_mut().find(|v| v["name"] == variable["name"]) {
            Some(_) if !overwrite => {
                return Err(format!("'{}' already has a value, and --overwrite is false", variable.str_at(&["name"]).unwrap_or_default()).into());
            }
            Some(there) => *there = variable.clone(),
            None => all.push(variable.clone()),
        }
    }
    all.retain(|v| !removed.contains(&v.str_at(&["name"]).unwrap_or_default()));
    if all.is_empty() {
        drop(container.remove(&["env"]))
    } else {
        container.set(&["env"], all)
    }
    Ok(())
}

fn list_env(info: &Info) -> Result<()> {
    let path = pod_spec_path(&info.meant.kind).ok_or_else(|| format!("{} has no pod template", info.title()))?;
    for list in ["initContainers", "containers"] {
        for container in info.object.list_at(&[path, &[list]].concat()) {
            println!(
                "# {} {}, {} {}",
                info.meant.kind,
                info.name,
                if list == "containers" { "container" } else { "init container" },
                container.str_at(&["name"]).unwrap_or_default()
            );
            for v in container.list_at(&["env"]) {
                let name = v.str_at(&["name"]).unwrap_or_default();
                let key = |kind: &str| v.at(&["valueFrom", kind]).map(|r| (r.str_at(&["name"]).unwrap_or_default(), r.str_at(&["key"]).unwrap_or_default()));
                match (v.str_at(&["value"]), key("configMapKeyRef"), key("secretKeyRef"), v.str_at(&["valueFrom", "fieldRef", "fieldPath"])) {
                    (_, Some((map, key)), ..) => println!("# {name} from configmap {map}, key {key}"),
                    (_, _, Some((secret, key)), _) => println!("# {name} from secret {secret}, key {key}"),
                    (.., Some(field)) => println!("# {name} from field path {field}"),
                    (value, ..) => println!("{name}={}", value.unwrap_or_default()),
                }
            }
        }
    }
    Ok(())
}

/// References to every key of a ConfigMap or Secret.
async fn from_resource(cx: &Context, from: &str) -> Result<Vec<Value>> {
    let flags = &cx.flags;
    let (prefix, keys) = (flags.text("prefix"), flags.all("keys"));
    let mut found = Vec::new();
    for info in Selection::of(cx.session()?, flags).objects(&[from.to_owned()]).await?.all()? {
        let reference = match info.meant.kind.as_str() {
            "ConfigMap" => "configMapKeyRef",
            "Secret" => "secretKeyRef",
            other => return Err(format!("unsupported resource specified in --from: {other}").into()),
        };
        for key in info.object.at(&["data"]).and_then(Value::as_object).into_iter().flatten().map(|(k, _)| k).filter(|k| keys.is_empty() || keys.contains(k)) {
            let name: String =
                format!("{prefix}{key}").chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c.to_ascii_uppercase() } else { '_' }).collect();
            found.push(json!({"name": name, "valueFrom": {reference: {"name": info.name, "key": key}}}));
        }
    }
    Ok(found)
}

async fn resources(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    let (limits, requests) = (resource_list(flags.text("limits"))?, resource_list(flags.text("requests"))?);
    if limits.is_empty() && requests.is_empty() {
        return Err("you must specify an update to requests or limits (in the form of --requests/--limits)".into());
    }
    each(cx, infos(cx, cx.words()).await?, "kubectl-set", "resource requirements updated", |object| {
        let found = containers(object, &["containers", "initContainers"], flags.text("containers"), &mut |container| {
            for (key, list) in [("limits", &limits), ("requests", &requests)] {
                for (name, value) in list {
                    if value == "0" { drop(container.remove(&["resources", key, name])) } else { container.set(&["resources", key, name], value.clone()) }
                }
            }
            Ok(())
        })?;
        if found == 0 { Err(format!("unable to find container named {}", flags.text("containers")).into()) } else { Ok(()) }
    })
    .await
}

async fn selector(cx: &Context) -> Result<()> {
    let Some((expression, resources)) = cx.words().split_last() else {
        return Err("one or more resources must be specified as <resource> <name> or <resource>/<name>".into());
    };
    let wanted = Value::Object(labels(expression)?);
    each(cx, infos(cx, resources).await?, "kubectl-set", "selector updated", |object| {
        if object.str_at(&["kind"]) != Some("Service") {
            return Err("setting a selector is only supported for Services".into());
        }
        object.set(&["spec", "selector"], wanted.clone());
        Ok(())
    })
    .await
}

async fn service_account(cx: &Context) -> Result<()> {
    let Some((name, resources)) = cx.words().split_last() else { return Err("serviceaccount is required".into()) };
    each(cx, infos(cx, resources).await?, "kubectl-set", "serviceaccount updated", |object| {
        let kind = object.str_at(&["kind"]).unwrap_or_default().to_owned();
        let path = pod_spec_path(&kind).ok_or_else(|| Failure::from(format!("the object is not a pod or does not have a pod template: {kind}")))?;
        object.set(&[path, &["serviceAccountName"]].concat(), name.clone());
        Ok(())
    })
    .await
}

async fn subject(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    let mut wanted = Vec::new();
    wanted.extend(flags.all("user").into_iter().map(|u| json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": u})));
    wanted.extend(flags.all("group").into_iter().map(|g| json!({"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": g})));
    for account in flags.all("serviceaccount") {
        let (namespace, name) = account.split_once(':').ok_or("serviceaccount must be <namespace>:<name>")?;
        wanted.push(json!({"kind": "ServiceAccount", "name": name, "namespace": namespace}));
    }
    if wanted.is_empty() {
        return Err("you must specify at least one value of user, group or serviceaccount".into());
    }
    each(cx, infos(cx, cx.words()).await?, "kubectl-set", "subjects updated", |object| {
        let kind = object.str_at(&["kind"]).unwrap_or_default();
        if kind != "RoleBinding" && kind != "ClusterRoleBinding" {
            return Err("setting subjects is only supported for RoleBinding/ClusterRoleBinding".into());
        }
        let mut all = object.list_at(&["subjects"]).to_vec();
        for subject in &wanted {
            if !all.iter().any(|s| s["kind"] == subject["kind"] && s["name"] == subject["name"] && s.get("namespace") == subject.get("namespace")) {
                all.push(subject.clone());
            }
        }
        object.set(&["subjects"], all);
        Ok(())
    })
    .await
}

/// `key=value` words and `key-` words, apart from resources.
fn split_changes(words: &[String]) -> (Vec<String>, Vec<String>) {
    let first = words.iter().position(|w| (w.contains('=') && !w.starts_with('=')) || (w.ends_with('-') && w.len() > 1));
    let (resources, changes) = words.split_at(first.unwrap_or(words.len()));
    (resources.to_vec(), changes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_containers_that_match_change() {
        let mut object = json!({"kind": "Deployment", "spec": {"template": {"spec": {"containers": [{"name": "a"}, {"name": "ab"}, {"name": "c"}]}}}});
        let mut change = |c: &mut Value| change_env(c, &[json!({"name": "K", "value": "v"})], &[], true);
        assert_eq!(containers(&mut object, &["containers"], "a*", &mut change).unwrap(), 2);
        assert!(object["spec"]["template"]["spec"]["containers"][2].get("env").is_none());
        assert_eq!(
            containers(&mut json!({"kind": "Service"}), &[], "*", &mut change).unwrap_err().to_string(),
            "error: the object is not a pod or does not have a pod template: Service"
        );
    }

    #[test]
    fn variables_come_and_go() {
        let mut container = json!({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]});
        change_env(&mut container, &[json!({"name": "A", "value": "3"}), json!({"name": "C", "value": "4"})], &["B"], true).unwrap();
        assert_eq!(container["env"], json!([{"name": "A", "value": "3"}, {"name": "C", "value": "4"}]));
        assert!(change_env(&mut container, &[json!({"name": "A", "value": "5"})], &[], false).is_err());
        change_env(&mut container, &[], &["A", "C"], true).unwrap();
        assert!(container.get("env").is_none());
    }
}
