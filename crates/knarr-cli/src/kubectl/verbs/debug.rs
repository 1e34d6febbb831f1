//! `kubectl debug`: a container added to a running pod, a copy of a pod that is changed, or a pod on a node that sees all of it.
//! Follows `k8s.io/kubectl/pkg/cmd/debug`; what each profile grants is in [`super::debug_profiles`].

use knarr_core::{Value, ValueExt, json};

use super::debug_profiles::{self, Keep, Style};
use super::pods::container_names;
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::{Flags, list, many, switch, switch_on, text};
use crate::kubectl::print::out;
use crate::kubectl::resources::known;
use crate::kubectl::select::{Info, Selection};
use crate::kubectl::session::Session;
use crate::kubectl::stream::{DETACH_KEYS, Streams, detach_keys, is_terminal};

pub static VERB: Verb = Verb {
    name: "debug",
    usage: "(POD | TYPE[[.VERSION].GROUP]/NAME) [ -- COMMAND [args...] ]",
    about: "Create debugging sessions for troubleshooting workloads and nodes",
    flags: &[&[
        list("filename", "A file with the object to debug").short('f'),
        switch("arguments-only", "Everything after -- becomes the new container's args instead of its command"),
        switch("attach", "Wait for the container to start running, and then attach to it; on with -i"),
        text("container", "", "Container name to use for the debug container").short('c'),
        text("copy-to", "", "Create a copy of the target pod with this name"),
        switch("replace", "When used with '--copy-to', delete the original pod"),
        many("env", "Environment variables to set in the container"),
        text("image", "", "Container image to use for the debug container"),
        switch("keep-labels", "Keep the original pod's labels (with '--copy-to')"),
        switch("keep-annotations", "Keep the original pod's annotations (with '--copy-to')"),
        switch("keep-liveness", "Keep the original pod's liveness probes (with '--copy-to')"),
        switch("keep-readiness", "Keep the original pod's readiness probes (with '--copy-to')"),
        switch("keep-startup", "Keep the original pod's startup probes (with '--copy-to')"),
        switch_on("keep-init-containers", "Run the init containers of the pod (with '--copy-to')"),
        many("set-image", "With '--copy-to', name=image pairs for changing container images"),
        text("image-pull-policy", "", "The image pull policy for the container"),
        switch("stdin", "Keep stdin open on the container(s) in the pod, even if nothing is attached").short('i'),
        switch("quiet", "Suppress informational messages").short('q'),
        switch("same-node", "With '--copy-to', schedule the copy on the same node"),
        switch_on("share-processes", "With '--copy-to', enable process namespace sharing in the copy"),
        text("target", "", "With an ephemeral container, target processes in this container"),
        switch("tty", "Allocate a TTY for the debugging container").short('t'),
        text("profile", "general", "Options are \"general\", \"baseline\", \"restricted\", \"netadmin\" or \"sysadmin\""),
        text("custom", "", "File with a partial container spec, laid over what the profile makes"),
    ]],
    run: Some(|cx| Box::pin(run(cx))),
    ..Verb::NONE
};

/// The command line, read.
struct Wish<'a> {
    flags: &'a Flags,
    targets: &'a [String],
    args: &'a [String],
    env: Vec<Value>,
    images: Vec<(String, String)>,
    custom: Option<Value>,
}

async fn run(cx: &Context) -> Result<()> {
    let wish = Wish::of(cx)?;
    wish.check()?;
    let session = cx.session()?;
    let words: Vec<String> = if wish.targets.iter().any(|t| t.contains('/')) || wish.targets.is_empty() {
        wish.targets.to_vec()
    } else {
        std::iter::once("pods".to_owned()).chain(wish.targets.iter().cloned()).collect()
    };
    for info in Selection::of(session, &cx.flags).objects(&words).await?.all()? {
        let (pod, container) = match info.meant.kind.as_str() {
            "Node" => wish.debug_node(session, &info).await?,
            "Pod" if cx.flags.given("copy-to") && !cx.flags.text("copy-to").is_empty() => wish.copy(session, &info).await?,
            "Pod" => wish.add(session, &info).await?,
            _ => {
                return Err(format!(
                    "{} not supported by debug",
                    knarr_core::field::go_quote(&format!("{}/{}, Kind={}", info.meant.resource.group, info.meant.resource.version, info.meant.kind))
                )
                .into());
            }
        };
        if wish.attaches() && !container.is_empty() {
            attach(cx, session, &pod, &container).await?;
        }
    }
    Ok(())
}

impl<'a> Wish<'a> {
    fn of(cx: &'a Context) -> Result<Self> {
        let (flags, words) = (&cx.flags, cx.words());
        let (targets, args) = words.split_at(flags.dash.filter(|at| *at < words.len()).unwrap_or(words.len()));
        debug_profiles::check(flags.text("profile"))?;
        let read = |flag: &str| -> Result<Vec<(String, String)>> {
            let parts = flags.all(flag).into_iter().flat_map(|text| pair_texts(&text));
            let bad = |pair: &str| {
                Failure::Plain(format!(
                    "error: invalid argument {} for \"--{flag}\" flag: {pair} must be formatted as key=value\nSee 'kubectl debug --help' for usage.",
                    knarr_core::field::go_quote(pair)
                ))
            };
            parts.map(|pair| pair.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).ok_or_else(|| bad(&pair))).collect()
        };
        let custom = flags.some("custom").map(read_custom).transpose()?;
        let env = read("env")?.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        Ok(Self { flags, targets, args, env, images: read("set-image")?, custom })
    }

    fn attaches(&self) -> bool {
        if self.flags.given("attach") { self.flags.on("attach") } else { self.flags.on("stdin") }
    }

    fn image(&self) -> &str {
        self.flags.text("image")
    }

    /// In upstream's order, with its words.
    fn check(&self) -> Result<()> {
        let flags = self.flags;
        if flags.given("attach") && flags.on("attach") && self.image().is_empty() && flags.text("container").is_empty() {
            return Err("you must specify --container or create a new container using --image in order to attach.".into());
        }
        if !flags.text("copy-to").is_empty() {
            if self.image().is_empty() && self.images.is_empty() && self.args.is_empty() {
                return Err("you must specify --image, --set-image or command arguments.".into());
            }
            if !self.args.is_empty() && flags.text("container").is_empty() && self.image().is_empty() {
                return Err("you must specify an existing container or a new image when specifying args.".into());
            }
        } else if let Some(flag) = ["replace", "same-node"].into_iter().find(|f| flags.on(f)).or((!self.images.is_empty()).then_some("set-image")) {
            return Err(format!("--{flag} may only be used with --copy-to.").into());
        } else if self.image().is_empty() {
            return Err("you must specify --image when not using --copy-to.".into());
        }
        if !self.image().is_empty() && !is_image(self.image()) {
            return Err(format!("invalid image name {}: invalid reference format", knarr_core::field::go_quote(self.image())).into());
        }
        if self.targets.is_empty() && !flags.given("filename") {
            return Err("NAME or filename is required for debug".into());
        }
        let policy = flags.text("image-pull-policy");
        if !["", "Always", "IfNotPresent", "Never"].contains(&policy) {
            return Err(format!("invalid image pull policy: {policy}").into());
        }
        if let Some((name, image)) = self.images.iter().find(|(_, image)| !is_image(image)) {
            let quote = knarr_core::field::go_quote;
            return Err(format!("invalid image name {} for container {}: invalid reference format", quote(image), quote(name)).into());
        }
        self.check_target()?;
        if flags.on("tty") && !flags.on("stdin") {
            return Err("-i/--stdin is required for containers with -t/--tty=true".into());
        }
        let fixed = ["name", "command", "image", "lifecycle", "volumeDevices"];
        if self.custom.as_ref().is_some_and(|c| fixed.iter().any(|key| c.get(*key).is_some_and(|v| !v.is_null()))) {
            return Err("name, command, image, lifecycle and volume devices are not modifiable via custom profile".into());
        }
        if flags.text("profile") == "legacy" {
            eprintln!(
                "--profile=legacy is deprecated and planned to be removed in v1.39. It is recommended to specify other profile, for example \"--profile=general\"."
            );
        }
        Ok(())
    }

    fn check_target(&self) -> Result<()> {
        let Some(target) = self.flags.some("target") else { return Ok(()) };
        if !self.flags.text("copy-to").is_empty() {
            return Err("--target is incompatible with --copy-to. Use --share-processes instead.".into());
        }
        self.say(&format!("Targeting container {target:?}. If you don't see processes from this container it may be because the container runtime doesn't support this feature."))
    }

    fn say(&self, text: &str) -> Result<()> {
        if self.flags.on("quiet") { Ok(()) } else { out(&format!("{text}\n")) }
    }

    fn name_for(&self, pod: &Value) -> Result<String> {
        if let Some(name) = self.flags.some("container") {
            return Ok(name.to_owned());
        }
        let taken = container_names(pod);
        let name = std::iter::repeat_with(|| format!("debugger-{}", random_suffix())).find(|name| !taken.contains(name)).unwrap_or_default();
        self.say(&format!("Defaulting debug container name to {name}."))?;
        Ok(name)
    }

    /// What all debug containers have in common.
    fn furnish(&self, container: &mut Value) {
        let flags = self.flags;
        if !self.args.is_empty() {
            if flags.on("arguments-only") {
                container["args"] = json!(self.args);
            } else {
                container["command"] = json!(self.args);
                container.remove(&["args"]);
            }
        }
        if !self.env.is_empty() {
            container["env"] = json!(self.env);
        }
        if !self.image().is_empty() {
            container["image"] = self.image().into();
        }
        if let Some(policy) = flags.some("image-pull-policy") {
            container["imagePullPolicy"] = policy.into();
        }
        for key in ["stdin", "tty"] {
            if flags.on(key) {
                container[key] = true.into();
            } else {
                container.remove(&[key]);
            }
        }
    }

    fn keep(&self) -> Keep {
        let on = |flag: &str| self.flags.on(flag);
        Keep {
            labels: on("keep-labels"),
            annotations: on("keep-annotations"),
            liveness: on("keep-liveness"),
            readiness: on("keep-readiness"),
            startup: on("keep-startup"),
            init_containers: on("keep-init-containers"),
        }
    }

    /// Lays the profile and what the user has of his own over a pod's container.
    fn profile(&self, pod: &mut Value, list: &str, name: &str, style: Style) -> Result<()> {
        debug_profiles::apply(self.flags.text("profile"), pod, list, name, style, self.keep());
        let Some(custom) = &self.custom else { return Ok(()) };
        let containers = pod.at_mut(&["spec", list]).and_then(Value::as_array_mut);
        let Some(container) = containers.into_iter().flatten().find(|c| c.str_at(&["name"]) == Some(name)) else {
            return Err(format!("unable to find the {name} container in the pod {}", pod.str_at(&["metadata", "name"]).unwrap_or_default()).into());
        };
        *container = match knarr_schema::types::by_name("api.core.v1.Container") {
            Some(id) => knarr_schema::patch::strategic_merge(id, container, custom)?,
            None => knarr_schema::patch::merge_patch(container, custom),
        };
        Ok(())
    }

    /// An ephemeral container in a pod that runs.
    async fn add(&self, session: &Session, info: &Info) -> Result<(Value, String)> {
        let name = self.name_for(&info.object)?;
        let mut container = json!({"name": name, "terminationMessagePolicy": "File"});
        self.furnish(&mut container);
        if let Some(target) = self.flags.some("target") {
            container["targetContainerName"] = target.into();
        }
        let mut pod = info.object.clone();
        let list = pod.ensure(&["spec", "ephemeralContainers"]);
        if !list.is_array() {
            *list = json!([]);
        }
        list.as_array_mut().into_iter().for_each(|l| l.push(container.clone()));
        self.profile(&mut pod, "ephemeralContainers", &name, Style::Ephemeral)?;
        warn_of_user(&pod, "ephemeralContainers", &name);
        let (kind, patch) = super::change::difference(&info.object, &pod)?;
        let made = session.patch(&format!("{}/ephemeralcontainers", info.path()), kind, &patch).await?;
        Ok((made, name))
    }

    /// A copy of the pod, with a container more, or another image or command.
    async fn copy(&self, session: &Session, info: &Info) -> Result<(Value, String)> {
        let (mut pod, name) = self.copied(&info.object)?;
        if !name.is_empty() {
            warn_of_user(&pod, "containers", &name);
        }
        let made = session.post(&known("pods").path(Some(&info.namespace), None), &pod.take()).await?;
        if self.flags.on("replace") {
            session.delete(&info.path(), &json!({"gracePeriodSeconds": 0})).await?;
        }
        Ok((made, name))
    }

    fn copied(&self, pod: &Value) -> Result<(Value, String)> {
        let flags = self.flags;
        let mut copy = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": flags.text("copy-to"), "namespace": pod["metadata"]["namespace"]}, "spec": pod["spec"]});
        for key in ["labels", "annotations"] {
            if let Some(map) = pod.at(&["metadata", key]) {
                copy["metadata"][key] = map.clone();
            }
        }
        copy.remove(&["spec", "ephemeralContainers"]);
        if flags.given("share-processes") {
            copy["spec"]["shareProcessNamespace"] = flags.on("share-processes").into();
        }
        if !flags.on("same-node") {
            copy.remove(&["spec", "nodeName"]);
        }
        for container in copy.at_mut(&["spec", "containers"]).and_then(Value::as_array_mut).into_iter().flatten() {
            let named = |name: &str| self.images.iter().rev().find(|(key, _)| key == name).map(|(_, image)| image.clone());
            let image = named(container.str_at(&["name"]).unwrap_or_default()).or_else(|| named("*"));
            if let Some(image) = image.filter(|i| !i.is_empty()) {
                container["image"] = image.into();
            }
        }
        let name = self.change_or_add(&mut copy)?;
        if !name.is_empty() {
            self.profile(&mut copy, "containers", &name, Style::Copy)?;
        }
        Ok((copy, name))
    }

    /// The container that is debugged: one of the pod's own, or a new one. None when only images were to be changed.
    fn change_or_add(&self, copy: &mut Value) -> Result<String> {
        let mut name = self.flags.text("container").to_owned();
        if !container_names(copy).contains(&name) {
            if self.image().is_empty() {
                return if self.images.is_empty() { Err("you must specify image when creating new container".into()) } else { Ok(String::new()) };
            }
            if name.is_empty() {
                name = self.name_for(copy)?;
            }
            let containers = copy.at_mut(&["spec", "containers"]).and_then(Value::as_array_mut);
            containers.into_iter().for_each(|l| l.push(json!({"name": name, "terminationMessagePolicy": "File"})));
        }
        for list in ["containers", "initContainers"] {
            let containers = copy.at_mut(&["spec", list]).and_then(Value::as_array_mut);
            containers.into_iter().flatten().filter(|c| c.str_at(&["name"]) == Some(&name)).for_each(|c| self.furnish(c));
        }
        Ok(name)
    }

    /// A pod on the node that shares the node's namespaces and sees its files.
    async fn debug_node(&self, session: &Session, node: &Info) -> Result<(Value, String)> {
        let name = self.flags.some("container").unwrap_or("debugger").to_owned();
        let pod_name = format!("node-debugger-{}-{}", node.name, random_suffix());
        self.say(&format!("Creating debugging pod {pod_name} with container {name} on node {}.", node.name))?;
        let mut container = json!({"name": name, "terminationMessagePolicy": "File"});
        self.furnish(&mut container);
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod_name, "labels": {"app.kubernetes.io/managed-by": "kubectl-debug"}},
            "spec": {"containers": [container], "nodeName": node.name, "restartPolicy": "Never", "tolerations": [{"operator": "Exists"}]}});
        self.profile(&mut pod, "containers", &name, Style::Node)?;
        let made = session.post(&known("pods").path(Some(&session.namespace), None), &pod).await?;
        Ok((made, name))
    }
}

/// The pairs of one flag's value: several are set apart by commas (pflag's `StringToString`).
fn pair_texts(text: &str) -> Vec<String> {
    if text.matches('=').count() <= 1 { vec![text.trim_matches('"').to_owned()] } else { text.split(',').map(str::to_owned).collect() }
}

fn read_custom(path: &str) -> Result<Value> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| format!("must pass a container spec json file for custom profile: open {path}: {}", crate::kubectl::failure::go_io(&e)))?;
    knarr_core::yaml::parse(&text).map_err(|e| format!("{path} does not contain a valid container spec: {e}").into())
}

fn is_image(image: &str) -> bool {
    let name = image.split('@').next().unwrap_or_default();
    let path = name.rsplit('/').next().unwrap_or_default().split(':').next().unwrap_or_default();
    !image.contains(char::is_whitespace) && !path.is_empty() && !image.starts_with([':', '/', '@']) && !path.chars().any(|c| c.is_ascii_uppercase())
}

fn random_suffix() -> String {
    (0..5).map(|_| char::from(b"bcdfghjklmnpqrstvwxz2456789"[rand::random_range(0..27)])).collect()
}

/// Capabilities are of little use to who is not root.
fn warn_of_user(pod: &Value, list: &str, name: &str) {
    let user = pod.i64_at(&["spec", "securityContext", "runAsUser"]).unwrap_or(0);
    let Some(container) = pod.list_at(&["spec", list]).iter().find(|c| c.str_at(&["name"]) == Some(name)) else { return };
    let own_root = container.i64_at(&["securityContext", "runAsUser"]) == Some(0);
    let may_more =
        container.bool_at(&["securityContext", "privileged"]) == Some(true) || !container.list_at(&["securityContext", "capabilities", "add"]).is_empty();
    if user != 0 && !own_root && may_more {
        eprintln!(
            "Warning: Non-root user is configured for the entire target Pod, and some capabilities granted by debug profile may not work. Please consider using \"--custom\" with a custom profile that specifies \"securityContext.runAsUser: 0\"."
        );
    }
}

fn state<'v>(pod: &'v Value, name: &str) -> Option<&'v Value> {
    let lists = ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"];
    lists.iter().flat_map(|list| pod.list_at(&["status", list])).find(|s| s.str_at(&["name"]) == Some(name)).and_then(|s| s.get("state"))
}

/// Waits until the container runs, and joins its streams; what was quicker is read from its log.
async fn attach(cx: &Context, session: &Session, pod: &Value, container: &str) -> Result<()> {
    let (flags, info) = (&cx.flags, Info::of(&known("pods"), pod.clone()));
    let now = super::wait::follow(session, &info, |pod| {
        let Some(pod) = pod else { return Err("pods \"\" not found".into()) };
        let state = state(pod, container);
        if let Some(message) = state.and_then(|s| s.str_at(&["waiting", "message"])).filter(|m| !m.is_empty() && !flags.on("quiet")) {
            eprintln!("Warning: container {container}: {message}");
        }
        Ok(state.is_some_and(|s| s.get("running").is_some() || s.get("terminated").is_some()))
    });
    let now = now.await?.unwrap_or_default();
    let log = async || {
        let path = format!("{}/log?container={container}", info.path());
        let text = session.send(http::Method::GET, &path, None, "*/*", "").await?;
        out(&String::from_utf8_lossy(&text))
    };
    if state(&now, container).is_some_and(|s| s.get("terminated").is_some()) {
        return log().await;
    }
    let tty = flags.on("tty") && is_terminal();
    if flags.on("tty") && !tty && !flags.on("quiet") {
        eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    let streams = Streams {
        namespace: info.namespace.clone(),
        pod: info.name.clone(),
        container: Some(container.to_owned()),
        command: None,
        stdin: flags.on("stdin"),
        tty,
        quiet: flags.on("quiet"),
        detach: detach_keys(DETACH_KEYS)?,
    };
    match super::exec::join(session, streams, &now).await {
        Err(Failure::Exit(code)) => Err(Failure::Exit(code)),
        Err(e) => {
            let why = e.to_string();
            eprintln!("warning: couldn't attach to pod/{}, falling back to streaming logs: {}", info.name, why.trim_start_matches("error: "));
            log().await
        }
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubectl::command;

    fn with<T>(line: &str, work: impl FnOnce(&Wish<'_>) -> T) -> T {
        let line: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let cx = command::read(&crate::kubectl::ROOT, &line).unwrap().unwrap();
        work(&Wish::of(&cx).unwrap())
    }

    #[test]
    fn a_copy_gets_another_image_command_or_container() {
        let pod = json!({"metadata": {"name": "a", "namespace": "n", "labels": {"x": "y"}}, "spec": {"nodeName": "m", "containers": [{"name": "c", "image": "i", "args": ["x"], "livenessProbe": {}}]}});
        let copied = |line: &str| with(line, |wish| wish.copied(&pod).unwrap());
        let (copy, name) = copied("debug a --copy-to=b -c c --profile=legacy -- sh -c true");
        assert_eq!(name, "c");
        let wanted = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "b", "namespace": "n"}, "spec": {"containers": [{"name": "c", "image": "i", "command": ["sh", "-c", "true"], "livenessProbe": {}}]}});
        assert_eq!(copy, wanted);
        let (copy, name) = copied("debug a --copy-to=b --set-image=*=other --same-node");
        assert_eq!((name.as_str(), &copy["spec"]["containers"][0]["image"], &copy["spec"]["nodeName"]), ("", &json!("other"), &json!("m")));
        let (copy, name) = copied("debug a --copy-to=b --image=tools -q -it");
        let new = &copy["spec"]["containers"][1];
        assert_eq!(
            (new["name"].as_str(), new["image"].as_str(), new["stdin"].as_bool(), new["tty"].as_bool()),
            (Some(name.as_str()), Some("tools"), Some(true), Some(true))
        );
        assert_eq!((&new["securityContext"]["capabilities"]["add"], &copy["spec"]["shareProcessNamespace"]), (&json!(["SYS_PTRACE"]), &json!(true)));
        assert!(copy["spec"]["containers"][0].get("livenessProbe").is_none() && copy["metadata"].get("labels").is_none());
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let why = |line: &str| with(line, |wish| wish.check().err().map(|e| e.to_string()).unwrap_or_default());
        assert_eq!(why("debug a"), "error: you must specify --image when not using --copy-to.");
        assert_eq!(why("debug a --image=i --replace"), "error: --replace may only be used with --copy-to.");
        assert_eq!(why("debug a --copy-to=b"), "error: you must specify --image, --set-image or command arguments.");
        assert_eq!(why("debug --image=i"), "error: NAME or filename is required for debug");
        assert_eq!(debug_profiles::check("x").unwrap_err().to_string(), "error: unknown profile: x");
        assert_eq!(why("debug a --image=i -t"), "error: -i/--stdin is required for containers with -t/--tty=true");
    }
}
