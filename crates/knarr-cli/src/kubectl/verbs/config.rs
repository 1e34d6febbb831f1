//! `kubectl config`: contexts, clusters and users in kubeconfig files.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use knarr_client::kubeconfig::{self, Kubeconfig, Locked};
use knarr_core::{Value, ValueExt, json};

use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result, go_io};
use crate::kubectl::flags::{Flag, Flags, list, many, switch, switch_on, text};
use crate::kubectl::print::out;
use crate::kubectl::print::{self, Printer, table};
use crate::kubectl::session;

const OUTPUT: Flag = text("output", "", "Output format. One of: (name)").short('o');
const NO_HEADERS: Flag = switch("no-headers", "Do not print headers");

macro_rules! verb {
    ($name:literal, $usage:literal, $about:literal, $flags:expr, $run:expr) => {
        &Verb { name: $name, usage: $usage, about: $about, flags: $flags, run: Some($run), ..Verb::NONE }
    };
}

pub static VERB: Verb = Verb {
    name: "config",
    usage: "SUBCOMMAND",
    about: "Modify kubeconfig files",
    verbs: &[
        verb!("current-context", "[flags]", "Display the current-context", &[], |cx| Box::pin(current(cx))),
        verb!("delete-cluster", "NAME", "Delete the specified cluster from the kubeconfig", &[], |cx| Box::pin(delete(cx, "cluster"))),
        verb!("delete-context", "NAME", "Delete the specified context from the kubeconfig", &[], |cx| Box::pin(delete(cx, "context"))),
        verb!("delete-user", "NAME", "Delete the specified user from the kubeconfig", &[], |cx| Box::pin(delete(cx, "user"))),
        verb!("get-clusters", "[flags]", "Display clusters defined in the kubeconfig", &[], |cx| Box::pin(names(cx, false))),
        verb!("get-contexts", "[(-o|--output=)name)] [flags]", "Describe one or many contexts", &[&[OUTPUT, NO_HEADERS]], |cx| Box::pin(contexts(cx))),
        verb!("get-users", "[flags]", "Display users defined in the kubeconfig", &[], |cx| Box::pin(names(cx, true))),
        verb!("rename-context", "CONTEXT_NAME NEW_NAME", "Rename a context from the kubeconfig file", &[], |cx| Box::pin(rename(cx))),
        verb!(
            "set",
            "PROPERTY_NAME PROPERTY_VALUE",
            "Set an individual value in a kubeconfig file",
            &[&[switch("set-raw-bytes", "Write a []byte property as it is given, not as base64")]],
            |cx| Box::pin(set(cx, true))
        ),
        verb!(
            "set-cluster",
            "NAME [--server=server] [--certificate-authority=path/to/certificate/authority] [flags]",
            "Set a cluster entry in kubeconfig",
            &[&[switch("embed-certs", "Embed the certificate in the file"), text("proxy-url", "", "URL of a proxy for the cluster")]],
            |cx| Box::pin(set_cluster(cx))
        ),
        verb!(
            "set-context",
            "[NAME | --current] [--cluster=cluster_nickname] [--user=user_nickname] [--namespace=namespace] [flags]",
            "Set a context entry in kubeconfig",
            &[&[switch("current", "Modify the current context")]],
            |cx| Box::pin(set_context(cx))
        ),
        verb!(
            "set-credentials",
            "NAME [--client-certificate=path/to/certfile] [--client-key=path/to/keyfile] [--token=bearer_token] [flags]",
            "Set a user entry in kubeconfig",
            &[&[
                switch("embed-certs", "Embed the certificate and key in the file"),
                text("exec-command", "", "Command that gets credentials"),
                text("exec-api-version", "", "API version of the credentials that the command prints"),
                list("exec-arg", "Arguments for the command"),
                many("exec-env", "NAME=value for the command; NAME- takes one away"),
                text("exec-interactive-mode", "", "Whether the command may ask: Never, IfAvailable or Always"),
                switch("exec-provide-cluster-info", "Tell the command about the cluster"),
                text("auth-provider", "", "Auth provider for the user entry"),
                list("auth-provider-arg", "KEY=value for the auth provider; KEY- takes one away")
            ]],
            |cx| Box::pin(set_credentials(cx))
        ),
        verb!("unset", "PROPERTY_NAME", "Unset an individual value in a kubeconfig file", &[], |cx| Box::pin(set(cx, false))),
        verb!("use-context", "CONTEXT_NAME", "Set the current-context in a kubeconfig file", &[], |cx| Box::pin(use_context(cx))),
        verb!(
            "view",
            "[flags]",
            "Display merged kubeconfig settings or a specified kubeconfig file",
            &[
                &[
                    switch("raw", "Show certificates and keys as they are"),
                    switch("flatten", "Make the file portable: no references to other files"),
                    switch("minify", "Leave out what the current context does not use"),
                    switch_on("merge", "Accepted; files are always merged")
                ],
                print::FLAGS
            ],
            |cx| Box::pin(view(cx))
        ),
    ],
    ..Verb::NONE
};

fn paths(cx: &Context) -> Vec<PathBuf> {
    kubeconfig::default_paths(cx.flags.some("kubeconfig").map(Path::new), |name| std::env::var(name).ok())
}

fn load(cx: &Context) -> Result<Kubeconfig> {
    // One that is named and not there is about to be made.
    if cx.flags.some("kubeconfig").is_some_and(|named| !Path::new(named).exists()) {
        return Ok(Kubeconfig::default());
    }
    session::kubeconfig(&cx.flags)
}

/// The file that a change goes to: the one that has the entry, or the first.
fn file_of(cx: &Context, origin: Option<&PathBuf>) -> PathBuf {
    origin.cloned().or_else(|| paths(cx).into_iter().find(|p| p.exists())).or_else(|| paths(cx).into_iter().next()).unwrap_or_else(|| "config".into())
}

fn change(path: &Path, edit: impl FnOnce(&mut Kubeconfig) -> Result<()>) -> Result<()> {
    let failed = |e: kubeconfig::Error| Failure::from(e.to_string());
    let locked = Locked::open(path).map_err(failed)?;
    let mut config = locked.read().map_err(failed)?;
    edit(&mut config)?;
    locked.write(&config).map_err(failed)
}

async fn current(cx: &Context) -> Result<()> {
    let config = load(cx)?;
    if config.current_context.is_empty() {
        return Err("current-context is not set".into());
    }
    println!("{}", config.current_context);
    Ok(())
}

async fn names(cx: &Context, users: bool) -> Result<()> {
    let config = load(cx)?;
    let names: Vec<&String> = if users { config.users.keys().collect() } else { config.clusters.keys().collect() };
    println!("NAME");
    names.iter().for_each(|n| println!("{n}"));
    Ok(())
}

async fn contexts(cx: &Context) -> Result<()> {
    let (flags, config) = (&cx.flags, load(cx)?);
    let output = flags.text("output");
    if !matches!(output, "" | "name") {
        return Err(format!("output must be one of '' or 'name': {output}").into());
    }
    let wanted: Vec<String> = if cx.words().is_empty() { config.contexts.keys().cloned().collect() } else { cx.words().to_vec() };
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    if output.is_empty() && !flags.on("no-headers") {
        rows.push(["CURRENT", "NAME", "CLUSTER", "AUTHINFO", "NAMESPACE"].map(str::to_owned).to_vec());
    }
    for name in wanted {
        let Some(entry) = config.contexts.get(&name) else {
            failures.push(Failure::from(format!("context {name} not found")));
            continue;
        };
        let c = &entry.value;
        let current = if config.current_context == name { "*" } else { "" };
        rows.push(if output == "name" {
            vec![name]
        } else {
            vec![current.into(), name, c.cluster.clone(), c.user.clone(), c.namespace.clone().unwrap_or_default()]
        });
    }
    out(&table::layout(&rows))?;
    Failure::all(failures)
}

fn one_word(cx: &Context) -> Result<&str> {
    match cx.words() {
        [one] => Ok(one),
        _ => Err(cx.usage(format!("Unexpected args: [{}]", cx.words().join(" ")))),
    }
}

async fn use_context(cx: &Context) -> Result<()> {
    let name = one_word(cx)?;
    let config = load(cx)?;
    if !config.contexts.contains_key(name) {
        return Err(format!("no context exists with the name: \"{name}\"").into());
    }
    change(&file_of(cx, None), |c| {
        c.current_context = name.to_owned();
        Ok(())
    })?;
    println!("Switched to context \"{name}\".");
    Ok(())
}

async fn delete(cx: &Context, what: &str) -> Result<()> {
    let name = one_word(cx)?;
    let config = load(cx)?;
    let origin = match what {
        "cluster" => config.clusters.get(name).map(|e| &e.origin),
        "context" => config.contexts.get(name).map(|e| &e.origin),
        _ => config.users.get(name).map(|e| &e.origin),
    };
    let path = file_of(cx, origin.and_then(Option::as_ref));
    if origin.is_none() {
        return Err(format!("cannot delete {what} {name}, not in {}", path.display()).into());
    }
    change(&path, |c| {
        match what {
            "cluster" => drop(c.clusters.remove(name)),
            "context" => drop(c.contexts.remove(name)),
            _ => drop(c.users.remove(name)),
        }
        Ok(())
    })?;
    if what == "context" && config.current_context == name {
        eprintln!("warning: this removed your active context, use \"kubectl config use-context\" to select a different one");
    }
    println!("deleted {what} {name} from {}", path.display());
    Ok(())
}

async fn rename(cx: &Context) -> Result<()> {
    let [old, new] = cx.words() else { return Err(cx.usage(format!("Unexpected args: [{}]", cx.words().join(" ")))) };
    let config = load(cx)?;
    let entry = config.contexts.get(old).ok_or_else(|| format!("cannot rename the context \"{old}\", it's not in {}", file_of(cx, None).display()))?;
    if config.contexts.contains_key(new) {
        return Err(format!("cannot rename the context \"{old}\", the context \"{new}\" already exists in {}", file_of(cx, None).display()).into());
    }
    change(&file_of(cx, entry.origin.as_ref()), |c| {
        if let Some(entry) = c.contexts.remove(old) {
            c.contexts.insert(new.clone(), entry);
        }
        if c.current_context == *old {
            c.current_context.clone_from(new);
        }
        Ok(())
    })?;
    println!("Context \"{old}\" renamed to \"{new}\".");
    Ok(())
}

async fn set_context(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    let config = load(cx)?;
    let name = match (cx.words(), flags.on("current")) {
        ([], true) if config.current_context.is_empty() => return Err("no current context is set".into()),
        ([], true) => config.current_context.clone(),
        ([name], false) => name.clone(),
        (_, true) => return Err("you cannot specify both a context name and --current".into()),
        _ => return Err(cx.usage("you must specify a non-empty context name or --current")),
    };
    let existing = config.contexts.get(&name);
    change(&file_of(cx, existing.and_then(|e| e.origin.as_ref())), |c| {
        let context = &mut c.contexts.entry(name.clone()).or_default().value;
        for (flag, field) in [("cluster", &mut context.cluster), ("user", &mut context.user)] {
            if flags.given(flag) {
                *field = flags.text(flag).to_owned();
            }
        }
        if flags.given("namespace") {
            context.namespace = flags.some("namespace").map(str::to_owned);
        }
        Ok(())
    })?;
    println!("Context \"{name}\" {}.", if existing.is_some() { "modified" } else { "created" });
    Ok(())
}

fn file_data(path: &str) -> Result<String> {
    std::fs::read(path).map(|b| STANDARD.encode(b)).map_err(|e| format!("could not read file {path}: {}", go_io(&e)).into())
}

async fn set_cluster(cx: &Context) -> Result<()> {
    let (flags, name) = (&cx.flags, one_word(cx)?);
    let config = load(cx)?;
    let existing = config.clusters.get(name);
    change(&file_of(cx, existing.and_then(|e| e.origin.as_ref())), |c| {
        let cluster = &mut c.clusters.entry(name.to_owned()).or_default().value;
        if flags.given("server") {
            cluster.server = flags.text("server").trim_end_matches('/').to_owned();
        }
        if flags.given("insecure-skip-tls-verify") {
            cluster.insecure_skip_tls_verify = flags.on("insecure-skip-tls-verify");
        }
        if flags.given("tls-server-name") {
            cluster.tls_server_name = flags.some("tls-server-name").map(str::to_owned);
        }
        if flags.given("proxy-url") {
            cluster.proxy_url = flags.some("proxy-url").map(str::to_owned);
        }
        if let Some(path) = flags.some("certificate-authority") {
            cluster.insecure_skip_tls_verify = false;
            if flags.on("embed-certs") {
                cluster.certificate_authority_data = Some(file_data(path)?);
                cluster.certificate_authority = None;
            } else {
                cluster.certificate_authority = Some(std::path::absolute(path)?.display().to_string());
                cluster.certificate_authority_data = None;
            }
        }
        Ok(())
    })?;
    println!("Cluster \"{name}\" set.");
    Ok(())
}

async fn set_credentials(cx: &Context) -> Result<()> {
    let (flags, name) = (&cx.flags, one_word(cx)?);
    let config = load(cx)?;
    let existing = config.users.get(name);
    change(&file_of(cx, existing.and_then(|e| e.origin.as_ref())), |c| {
        let user = &mut c.users.entry(name.to_owned()).or_default().value;
        for (flag, path, data) in [
            ("client-certificate", &mut user.client_certificate, &mut user.client_certificate_data),
            ("client-key", &mut user.client_key, &mut user.client_key_data),
        ] {
            let Some(named) = flags.some(flag) else { continue };
            if flags.on("embed-certs") {
                (*path, *data) = (None, Some(file_data(named)?));
            } else {
                (*path, *data) = (Some(std::path::absolute(named)?.display().to_string()), None);
            }
        }
        for (flag, field) in [("token", &mut user.token), ("username", &mut user.username), ("password", &mut user.password)] {
            if flags.given(flag) {
                *field = flags.some(flag).map(str::to_owned);
            }
        }
        user.auth_provider = auth_provider(flags, user.auth_provider.take())?;
        user.exec = exec_plugin(flags, user.exec.take())?;
        // There is one way to be known: who gets a token has no password any more.
        let (token, basic) = (flags.some("token").is_some(), flags.some("username").is_some() || flags.some("password").is_some());
        if token && !basic {
            (user.username, user.password) = (None, None);
        } else if basic && !token {
            user.token = None;
        }
        Ok(())
    })?;
    println!("User \"{name}\" set.");
    Ok(())
}

/// What is set and what is taken away by words like `KEY=value` and `KEY-` (`cmdutil.ParsePairs`).
fn pairs(flags: &Flags, flag: &str) -> Result<(Vec<(String, String)>, Vec<String>)> {
    let (mut set, mut gone) = (Vec::new(), Vec::new());
    for word in flags.all(flag) {
        match (word.split_once('='), word.strip_suffix('-')) {
            (Some((key, value)), _) if !key.is_empty() => set.push((key.to_owned(), value.to_owned())),
            (None, Some(key)) => gone.push(key.to_owned()),
            _ => return Err(format!("invalid {flag} format: {word}").into()),
        }
    }
    Ok((set, gone))
}

fn auth_provider(flags: &Flags, before: Option<Value>) -> Result<Option<Value>> {
    let (set, gone) = pairs(flags, "auth-provider-arg")?;
    let named = flags.some("auth-provider").map(|name| json!({"name": name, "config": {}}));
    let kept = before.filter(|b| named.as_ref().is_none_or(|n| n["name"] == b["name"]));
    let Some(mut provider) = kept.or(named) else { return Ok(None) };
    gone.iter().for_each(|key| drop(provider.remove(&["config", key])));
    set.into_iter().for_each(|(key, value)| provider.set(&["config", &key], value));
    Ok(Some(provider))
}

/// The program that gets credentials: flags change what is there, and mean nothing without it.
fn exec_plugin(flags: &Flags, before: Option<Value>) -> Result<Option<Value>> {
    let command = flags.some("exec-command");
    let fresh = || json!({"command": "", "args": null, "env": null, "interactiveMode": "IfAvailable", "provideClusterInfo": false});
    let existed = before.is_some();
    let Some(mut exec) = before.or_else(|| command.map(|_| fresh())) else { return Ok(None) };
    if let Some(command) = command {
        exec["command"] = command.into();
        if existed {
            exec["args"] = Value::Null;
        }
    }
    for (flag, key) in [("exec-api-version", "apiVersion"), ("exec-interactive-mode", "interactiveMode")] {
        if flags.given(flag) {
            exec[key] = flags.text(flag).into();
        }
    }
    if flags.given("exec-provide-cluster-info") {
        exec["provideClusterInfo"] = flags.on("exec-provide-cluster-info").into();
    }
    if flags.given("exec-arg") {
        exec["args"] = json!(flags.all("exec-arg"));
    }
    if flags.given("exec-env") {
        let (set, gone) = pairs(flags, "exec-env")?;
        let mut env: Vec<Value> = exec.list_at(&["env"]).iter().filter(|e| !gone.iter().any(|g| e["name"] == g.as_str())).cloned().collect();
        for (name, value) in set {
            match env.iter_mut().find(|e| e["name"] == name.as_str()) {
                Some(there) => there["value"] = value.into(),
                None => env.push(json!({"name": name, "value": value})),
            }
        }
        exec["env"] = env.into();
    }
    Ok(Some(exec))
}

/// `clusters.NAME.server` and its like; names may hold dots.
async fn set(cx: &Context, setting: bool) -> Result<()> {
    let (property, value) = match (cx.words(), setting) {
        ([property, value], true) => (property, Some(value.as_str())),
        ([property], false) => (property, None),
        _ => return Err(cx.usage(format!("Unexpected args: [{}]", cx.words().join(" ")))),
    };
    let path = file_of(cx, None);
    let known = |rest: &str, names: Vec<String>| -> Option<(String, String)> {
        let found = names.into_iter().filter(|n| rest == n || rest.starts_with(&format!("{n}."))).max_by_key(String::len);
        match found {
            Some(name) => Some((name.clone(), rest[name.len()..].trim_start_matches('.').to_owned())),
            None => rest.split_once('.').map(|(n, f)| (n.to_owned(), f.to_owned())).or_else(|| Some((rest.to_owned(), String::new()))),
        }
    };
    change(&path, |c| {
        if property == "current-context" {
            c.current_context = value.unwrap_or_default().to_owned();
            return Ok(());
        }
        let (list, rest) = property.split_once('.').ok_or_else(|| format!("property \"{property}\" is not known"))?;
        let edit = |mut tree: Value, field: &str| -> Value {
            match value {
                Some(value) => {
                    let parsed = if value == "true" {
                        true.into()
                    } else if value == "false" {
                        false.into()
                    } else {
                        Value::from(value)
                    };
                    tree.set(&[field], parsed);
                }
                None => drop(tree.remove(&[field])),
            }
            tree
        };
        macro_rules! entry {
            ($map:expr) => {{
                let (name, field) = known(rest, $map.keys().cloned().collect()).ok_or("no name was given")?;
                if field.is_empty() {
                    $map.remove(&name);
                } else {
                    let entry = $map.entry(name).or_default();
                    let tree = serde_json::to_value(&entry.value).map_err(|e| e.to_string())?;
                    entry.value = serde_json::from_value(edit(tree, &field)).map_err(|e| e.to_string())?;
                }
            }};
        }
        match list {
            "clusters" => entry!(c.clusters),
            "contexts" => entry!(c.contexts),
            "users" => entry!(c.users),
            other => return Err(format!("unable to locate path \"{other}\"").into()),
        }
        Ok(())
    })?;
    println!("Property \"{property}\" {}.", if setting { "set" } else { "unset" });
    Ok(())
}

async fn view(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    let mut config = load(cx)?;
    if flags.on("minify") {
        let overrides = session::overrides(flags);
        let name = overrides.context.clone().unwrap_or_else(|| config.current_context.clone());
        let Some(context) = config.contexts.get(&name).map(|e| e.value.clone()) else {
            return Err(if name.is_empty() { "current-context must exist in order to minify".into() } else { format!("cannot locate context {name}") }.into());
        };
        config.current_context.clone_from(&name);
        config.contexts.retain(|n, _| *n == name);
        config.clusters.retain(|n, _| *n == context.cluster);
        config.users.retain(|n, _| *n == context.user);
    }
    if flags.on("flatten") {
        for entry in config.clusters.values_mut() {
            if let Some(path) = entry.value.certificate_authority.take() {
                entry.value.certificate_authority_data = Some(file_data(&path)?);
            }
        }
        for entry in config.users.values_mut() {
            for (path, data) in [
                (&mut entry.value.client_certificate, &mut entry.value.client_certificate_data),
                (&mut entry.value.client_key, &mut entry.value.client_key_data),
            ] {
                if let Some(path) = path.take() {
                    *data = Some(file_data(&path)?);
                }
            }
        }
    }
    let mut tree = knarr_core::yaml::parse(&config.to_yaml())?;
    if !flags.on("raw") && !flags.on("flatten") {
        redact(&mut tree);
    }
    for key in ["clusters", "contexts", "users"] {
        if tree.list_at(&[key]).is_empty() {
            tree.set(&[key], Value::Null);
        }
    }
    let wanted = crate::kubectl::flags::Flags::parse(
        print::FLAGS,
        &["-o".into(), if flags.given("output") { flags.text("output").into() } else { "yaml".into() }, "--template".into(), flags.text("template").into()],
    )?;
    out(&Printer::of(&wanted, "")?.print(&tree)?)
}

/// Keys and tokens are not shown.
fn redact(tree: &mut Value) {
    for (list, inner, fields) in [
        ("clusters", "cluster", &["certificate-authority-data"][..]),
        ("users", "user", &["client-certificate-data", "client-key-data", "token", "password"][..]),
    ] {
        for entry in tree.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            for field in fields {
                if entry.at(&[inner, field]).is_some() {
                    entry.set(&[inner, field], if field.ends_with("data") { "DATA+OMITTED" } else { "REDACTED" });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_for_credentials_is_made_and_changed() {
        const KNOWN: &[crate::kubectl::flags::Flag] = &[
            text("exec-command", "", ""),
            text("exec-api-version", "", ""),
            list("exec-arg", ""),
            many("exec-env", ""),
            switch("exec-provide-cluster-info", ""),
            text("exec-interactive-mode", "", ""),
        ];
        let with = |line: &str, before: Option<Value>| {
            let line: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            exec_plugin(&Flags::parse(KNOWN, &line).unwrap(), before).map_err(|e| e.to_string())
        };
        assert_eq!(with("--exec-arg=a", None), Ok(None));
        let made = with("--exec-command=c --exec-arg=a,b --exec-env=X=1 --exec-env=Y=2", None).unwrap();
        let env = json!([{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]);
        let wanted = json!({"command": "c", "args": ["a", "b"], "env": env, "interactiveMode": "IfAvailable", "provideClusterInfo": false});
        assert_eq!(made, Some(wanted));
        let changed = with("--exec-command=d --exec-env=X- --exec-env=Y=3 --exec-provide-cluster-info --exec-interactive-mode=Never", made).unwrap();
        let wanted = json!({"command": "d", "args": null, "env": [{"name": "Y", "value": "3"}], "interactiveMode": "Never", "provideClusterInfo": true});
        assert_eq!(changed, Some(wanted));
        assert_eq!(with("--exec-command=c --exec-env=x", None), Err("error: invalid exec-env format: x".into()));
    }

    #[test]
    fn keys_are_not_shown() {
        let mut tree =
            json!({"clusters": [{"cluster": {"certificate-authority-data": "x", "server": "s"}}], "users": [{"user": {"token": "t", "client-key-data": "k"}}]});
        redact(&mut tree);
        assert_eq!(tree["clusters"][0]["cluster"], json!({"certificate-authority-data": "DATA+OMITTED", "server": "s"}));
        assert_eq!(tree["users"][0]["user"], json!({"token": "REDACTED", "client-key-data": "DATA+OMITTED"}));
    }
}
