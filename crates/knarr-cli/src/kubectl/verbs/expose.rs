//! `kubectl expose`, `kubectl run`, `kubectl autoscale`: objects made for other objects, or out of nothing but an image.

use knarr_core::{Value, ValueExt, json, names};

use super::generate::{autoscaler, labels, to_send};
use super::options::{DRY_RUN, FIELD_MANAGER, SAVE_CONFIG};
use super::pods::selector_of;
use super::writes::{DryRun, create, save_config, write_query};
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::{Flag, int, many, switch, text, time};
use crate::kubectl::manifest;
use crate::kubectl::print::out;
use crate::kubectl::print::{self, Printer};
use crate::kubectl::resources::builtin_kind;
use crate::kubectl::resources::known;
use crate::kubectl::select::{Info, Selection};
use crate::kubectl::session::namespace;
use crate::kubectl::stream::{Streams, detach_keys};

pub(super) const COMMON: &[Flag] = &[DRY_RUN, FIELD_MANAGER, SAVE_CONFIG];
pub(super) const OVERRIDES: &[Flag] = &[
    text("overrides", "", "An inline JSON override for the generated object"),
    text("override-type", "merge", "The method used to override the generated object: json, merge, or strategic"),
];

pub static EXPOSE: Verb = Verb {
    name: "expose",
    usage: "(-f FILENAME | TYPE NAME) [--port=port] [--protocol=TCP|UDP|SCTP] [--target-port=number-or-name] [--name=name] [--external-ip=external-ip-of-service] [--type=type] [flags]",
    about: "Take a replication controller, service, deployment or pod and expose it as a new Kubernetes service",
    flags: &[
        &[
            text("protocol", "", "The network protocol for the service to be created"),
            text("port", "", "The port that the service should serve on"),
            text("type", "", "Type for this service: ClusterIP, NodePort, LoadBalancer, or ExternalName"),
            text("load-balancer-ip", "", "IP to assign to the LoadBalancer"),
            text("selector", "", "A label selector to use for this service"),
            text("labels", "", "Labels to apply to the service created by this call").short('l'),
            text("external-ip", "", "Additional external IP address to accept for the service"),
            text("target-port", "", "Name or number for the port on the container that the service should direct traffic to"),
            text("name", "", "The name for the newly created object"),
            text("session-affinity", "", "Set the session affinity for the service to this; legal values: 'None', 'ClientIP'"),
            text("cluster-ip", "", "ClusterIP to be assigned to the service; 'None' makes a headless service"),
        ],
        OVERRIDES,
        COMMON,
        manifest::FLAGS,
        print::FLAGS,
    ],
    run: Some(|cx| Box::pin(expose(cx))),
    ..Verb::NONE
};

pub static RUN: Verb = Verb {
    name: "run",
    usage: "NAME --image=image [--env=\"key=value\"] [--port=port] [--dry-run=server|client] [--overrides=inline-json] [--command] -- [COMMAND] [args...] [flags]",
    about: "Run a particular image on the cluster",
    flags: &[
        &[
            text("image", "", "The image for the container to run"),
            many("annotations", "Annotations to apply to the pod"),
            text("image-pull-policy", "", "The image pull policy for the container"),
            many("env", "Environment variables to set in the container"),
            text("port", "", "The port that this container exposes"),
            text("labels", "", "Comma separated labels to apply to the pod").short('l'),
            switch("stdin", "Keep stdin open on the container in the pod").short('i'),
            switch("tty", "Allocate a TTY for the container in the pod").short('t'),
            switch("attach", "Wait for the Pod to start running, and then attach to it"),
            switch("leave-stdin-open", "Leave stdin open after the first attach completes"),
            switch("rm", "Delete the pod after it exits"),
            switch("expose", "Create a ClusterIP service associated with the pod"),
            switch("command", "Use the extra arguments as the command field in the container"),
            switch("privileged", "Run the container in privileged mode"),
            switch("quiet", "Suppress prompt messages").short('q'),
            text("restart", "Always", "The restart policy for this Pod. Legal values: Always, OnFailure, Never"),
            time("pod-running-timeout", "1m0s", "How long to wait until the pod is running"),
            switch("wait", "Accepted; --rm does not wait for the pod to be gone"),
            text("cascade", "background", "How dependents are deleted, with --rm").bare("background"),
            switch("force", "Accepted; --rm deletes as gently as the pod wants"),
            int("grace-period", "-1", "Accepted; --rm deletes as gently as the pod wants"),
            time("timeout", "0s", "Accepted; --rm does not wait for the pod to be gone"),
            super::exec::DETACH,
        ],
        OVERRIDES,
        COMMON,
        print::FLAGS,
    ],
    run: Some(|cx| Box::pin(run(cx))),
    ..Verb::NONE
};

pub static AUTOSCALE: Verb = Verb {
    name: "autoscale",
    usage: "(-f FILENAME | TYPE NAME | TYPE/NAME) [--min=MINPODS] --max=MAXPODS [--cpu=CPU] [--memory=MEMORY] [flags]",
    about: "Auto-scale a deployment, replica set, stateful set, or replication controller",
    flags: &[
        &[
            int("min", "-1", "The lower limit for the number of pods"),
            int("max", "-1", "The upper limit for the number of pods. Required"),
            int("cpu-percent", "-1", "The target average CPU utilization over all the pods, in percent of what they request"),
            text("cpu", "", "Target CPU utilization over all the pods, as 70% or 500m"),
            text("memory", "", "Target memory utilization over all the pods, as 60% or 512Mi"),
            text("name", "", "The name for the newly created object"),
        ],
        COMMON,
        manifest::FLAGS,
        print::FLAGS,
    ],
    run: Some(|cx| Box::pin(autoscale(cx))),
    ..Verb::NONE
};

/// Changes a generated object as `--overrides` says.
pub(super) fn overridden(cx: &Context, object: Value) -> Result<Value> {
    let Some(inline) = cx.flags.some("overrides") else { return Ok(object) };
    let patch = knarr_core::yaml::parse(inline).map_err(|_| "Invalid JSON: \n".to_owned() + inline)?;
    Ok(match cx.flags.text("override-type") {
        "json" => knarr_schema::patch::json_patch(&object, &patch)?,
        "strategic" => match super::change::type_of(&object) {
            Some(id) => knarr_schema::patch::strategic_merge(id, &object, &patch)?,
            None => knarr_schema::patch::merge_patch(&object, &patch),
        },
        "merge" => knarr_schema::patch::merge_patch(&object, &patch),
        other => return Err(format!("invalid override type: {other}").into()),
    })
}

/// Sends or shows a generated object.
pub(super) async fn make(cx: &Context, printer: &mut Printer, mut object: Value, manager: &str) -> Result<Value> {
    let flags = &cx.flags;
    let dry_run = DryRun::of(flags)?;
    let (group, version) = object.str_at(&["apiVersion"]).and_then(|v| v.split_once('/')).unwrap_or(("", "v1"));
    let meant = builtin_kind(group, version, object.str_at(&["kind"]).unwrap_or_default()).unwrap_or_else(|| known("pods"));
    if dry_run == DryRun::Client {
        if flags.given("namespace") {
            object.set(&["metadata", "namespace"], namespace(flags)?);
        }
        out(&printer.print(&object)?)?;
        return Ok(object);
    }
    save_config(flags, &mut object);
    let session = cx.session()?;
    let info = Info { meant, namespace: session.namespace.clone(), name: String::new(), object: to_send(&object), source: String::new() };
    let made = create(session, &info, &write_query(flags, manager, dry_run)?).await?;
    if !flags.on("quiet") && !(flags.on("rm") && flags.on("attach")) {
        out(&printer.print(&made)?)?;
    }
    Ok(made)
}

const EXPOSABLE: &[&str] = &["ReplicationController", "Service", "Pod", "Deployment", "ReplicaSet"];

async fn expose(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    let mut selection = Selection::of(cx.session()?, flags);
    // `--selector` is the new Service's here.
    selection.labels = None;
    let found = selection.objects(cx.words()).await?;
    let mut failures = found.failures;
    let mut printer = Printer::of(flags, &DryRun::of(flags)?.note("exposed"))?;
    for info in found.infos {
        let outcome = async {
            if !EXPOSABLE.contains(&info.meant.kind.as_str()) {
                let title = info.meant.title.split_once('.').map_or_else(|| info.meant.kind.clone(), |(_, g)| format!("{}.{g}", info.meant.kind));
                return Err(Failure::from(format!("cannot expose a {title}")));
            }
            make(cx, &mut printer, overridden(cx, service_of(cx, &info)?)?, "kubectl-expose").await.map(drop)
        };
        failures.extend(outcome.await.err());
    }
    Failure::all(failures)
}

/// The selector that chooses an object's pods, as plain labels.
fn plain_selector(info: &Info) -> Result<serde_json::Map<String, Value>> {
    let object = &info.object;
    let failed = |why: &str| Failure::from(format!("couldn't retrieve selectors via --selector flag or introspection: {why}"));
    let map = match info.meant.kind.as_str() {
        "Pod" => object.at(&["metadata", "labels"]).and_then(Value::as_object).ok_or_else(|| failed("the pod has no labels and cannot be exposed")),
        "Service" => object.at(&["spec", "selector"]).and_then(Value::as_object).ok_or_else(|| failed("the service has no pod selector set")),
        "ReplicationController" => object.at(&["spec", "selector"]).and_then(Value::as_object).ok_or_else(|| failed("invalid selector")),
        _ if object.list_at(&["spec", "selector", "matchExpressions"]).is_empty() => object
            .at(&["spec", "selector", "matchLabels"])
            .and_then(Value::as_object)
            .ok_or_else(|| failed("invalid deployment: no selectors, therefore cannot be exposed")),
        _ => Err(failed(&format!(
            "couldn't convert expressions - \"{}\" to map-based selector format",
            selector_of(object).map(|s| s.to_string()).unwrap_or_default()
        ))),
    };
    map.cloned()
}

/// Ports of an object with their protocols.
fn ports_of(info: &Info) -> Vec<(i64, String)> {
    let protocol = |p: &Value| p.str_at(&["protocol"]).unwrap_or("TCP").to_owned();
    let lists: Vec<&Value> = match info.meant.kind.as_str() {
        "Service" => info.object.list_at(&["spec", "ports"]).iter().collect(),
        "Pod" => info.object.list_at(&["spec", "containers"]).iter().flat_map(|c| c.list_at(&["ports"])).collect(),
        _ => info.object.list_at(&["spec", "template", "spec", "containers"]).iter().flat_map(|c| c.list_at(&["ports"])).collect(),
    };
    lists.into_iter().map(|p| (p.i64_at(&["containerPort"]).or_else(|| p.i64_at(&["port"])).unwrap_or(0), protocol(p))).collect()
}

fn service_of(cx: &Context, info: &Info) -> Result<Value> {
    let flags = &cx.flags;
    let selector = match flags.some("selector") {
        Some(text) => labels(text)?,
        None => plain_selector(info)?,
    };
    let known = ports_of(info);
    let wanted: Vec<i64> = match flags.some("port") {
        Some(text) => {
            text.split(',').map(|p| p.parse().map_err(|_| format!("strconv.Atoi: parsing \"{p}\": invalid syntax"))).collect::<std::result::Result<_, _>>()?
        }
        None => {
            let mut numbers: Vec<i64> = Vec::new();
            known.iter().for_each(|(n, _)| {
                if !numbers.contains(n) {
                    numbers.push(*n)
                }
            });
            numbers
        }
    };
    if wanted.is_empty() && flags.text("cluster-ip") != "None" {
        return Err("couldn't find port via --port flag or introspection".into());
    }
    let several = wanted.len() > 1;
    let mut ports = Vec::new();
    for (i, number) in wanted.iter().enumerate() {
        let protocols: Vec<&String> = known.iter().filter(|(n, _)| n == number).map(|(_, p)| p).collect();
        let target: Value = match flags.some("target-port") {
            Some(text) => text.parse::<i64>().map_or_else(|_| text.into(), Value::from),
            None => (*number).into(),
        };
        let mut port = |name: Option<String>, protocol: &str| {
            let mut port = json!({"port": number, "protocol": protocol, "targetPort": target});
            if let Some(name) = name {
                port["name"] = name.into();
            }
            ports.push(port);
        };
        let name = several.then(|| format!("port-{}", i + 1));
        match (flags.some("protocol"), protocols.as_slice()) {
            (Some(protocol), _) => port(name, protocol),
            (None, [one]) => port(name, one),
            (None, []) => port(name, "TCP"),
            (None, many) => many.iter().for_each(|p| port(Some(format!("port-{}-{}", i + 1, p.to_lowercase())), p)),
        }
    }
    let name = flags.some("name").unwrap_or(&info.name);
    let mut service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"selector": selector}, "status": {"loadBalancer": {}}});
    let own = match flags.some("labels") {
        Some(text) => labels(text)?,
        None => info.object.at(&["metadata", "labels"]).and_then(Value::as_object).cloned().unwrap_or_default(),
    };
    if !own.is_empty() {
        service["metadata"]["labels"] = Value::Object(own);
    }
    if !ports.is_empty() {
        service["spec"]["ports"] = ports.into();
    }
    for (flag, key) in [("type", "type"), ("cluster-ip", "clusterIP")] {
        if let Some(value) = flags.some(flag) {
            service["spec"][key] = value.into();
        }
    }
    if let Some(ip) = flags.some("external-ip") {
        service["spec"]["externalIPs"] = json!([ip]);
    }
    if let Some(ip) = flags.some("load-balancer-ip").filter(|_| flags.text("type") == "LoadBalancer") {
        service["spec"]["loadBalancerIP"] = ip.into();
    }
    match flags.text("session-affinity") {
        "" => {}
        affinity @ ("None" | "ClientIP") => service["spec"]["sessionAffinity"] = affinity.into(),
        other => return Err(format!("unknown session affinity: {other}").into()),
    }
    Ok(service)
}

pub(super) fn check_run(cx: &Context, dry_run: DryRun, attached: bool) -> Result<()> {
    let (flags, words) = (&cx.flags, cx.words());
    if !flags.given("image") {
        return Err("required flag(s) \"image\" not set".into());
    }
    if words.is_empty() || flags.dash == Some(0) {
        return Err("NAME is required for run".into());
    }
    let image = flags.text("image");
    if image.is_empty() {
        return Err("--image is required".into());
    }
    if image.contains(char::is_whitespace)
        || image.starts_with([':', '/', '@'])
        || image.split([':', '@']).next().is_some_and(|n| n.rsplit('/').next().is_some_and(|n| n.chars().any(|c| c.is_ascii_uppercase())))
    {
        return Err(format!("invalid image name {}: invalid reference format", knarr_core::field::go_quote(image)).into());
    }
    if flags.on("tty") && !flags.on("stdin") {
        return Err("-i/--stdin is required for containers with -t/--tty=true".into());
    }
    let port = flags.text("port");
    if flags.on("expose") && port.is_empty() {
        return Err("--port must be set when exposing a service".into());
    }
    if !port.is_empty() && port.parse::<i64>().is_err() {
        return Err("--port must be a number".into());
    }
    if flags.on("rm") && !attached {
        return Err("--rm should only be used for attached containers".into());
    }
    if attached && dry_run != DryRun::No {
        return Err("--dry-run=[server|client] can't be used with attached containers options (--attach, --stdin, or --tty)".into());
    }
    for (flag, valid) in [("restart", ["Always", "OnFailure", "Never"]), ("image-pull-policy", ["Always", "IfNotPresent", "Never"])] {
        let value = flags.text(flag);
        if !value.is_empty() && !valid.contains(&value) {
            let what = if flag == "restart" { "restart policy" } else { "image pull policy" };
            return Err(format!("invalid {what}: {value}, valid values are: {}", valid.join(", ")).into());
        }
    }
    Ok(())
}

/// The pod of `run`.
pub(super) fn pod_of(cx: &Context) -> Result<Value> {
    let (flags, words) = (&cx.flags, cx.words());
    let (name, arguments) = (&words[0], &words[1..]);
    let own = if flags.text("labels").is_empty() { json!({"run": name}) } else { Value::Object(labels(flags.text("labels"))?) };
    let mut container = json!({"name": name, "image": flags.text("image"), "resources": {}});
    let mut env = Vec::new();
    for pair in flags.all("env") {
        let (key, value) =
            pair.split_once('=').filter(|(k, _)| !k.is_empty() && names::is_qualified_name(k).is_empty()).ok_or_else(|| format!("invalid env: {pair}"))?;
        env.push(json!({"name": key, "value": value}));
    }
    if !env.is_empty() {
        container["env"] = env.into();
    }
    if flags.on("stdin") {
        container["stdin"] = true.into();
        if !flags.on("leave-stdin-open") {
            container["stdinOnce"] = true.into();
        }
    }
    if flags.on("tty") {
        container["tty"] = true.into();
    }
    if let Some(policy) = flags.some("image-pull-policy") {
        container["imagePullPolicy"] = policy.into();
    }
    if flags.on("privileged") {
        container["securityContext"] = json!({"privileged": true});
    }
    if let Some(port) = flags.some("port") {
        container["ports"] = json!([{"containerPort": port.parse::<i64>().unwrap_or(0)}]);
    }
    if !arguments.is_empty() {
        container[if flags.on("command") { "command" } else { "args" }] = json!(arguments);
    }
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": own},
        "spec": {"containers": [container], "dnsPolicy": "ClusterFirst", "restartPolicy": flags.text("restart")}, "status": {}});
    for pair in flags.all("annotations") {
        let (key, value) = pair.split_once('=').ok_or_else(|| format!("invalid annotation format: {pair}"))?;
        pod.set(&["metadata", "annotations", key], value);
    }
    Ok(pod)
}

async fn run(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    let dry_run = DryRun::of(flags)?;
    let attached = if flags.given("attach") { flags.on("attach") } else { flags.on("stdin") || flags.on("tty") };
    check_run(cx, dry_run, attached)?;
    let mut printer = Printer::of(flags, &dry_run.note("created"))?;
    let pod = overridden(cx, pod_of(cx)?)?;
    let labels_of_pod = pod["metadata"]["labels"].clone();
    let made = if attached && !flags.on("quiet") { make_quietly(cx, pod).await? } else { make(cx, &mut printer, pod, "kubectl-run").await? };
    if flags.on("expose") {
        make(cx, &mut printer, run_service(cx, labels_of_pod)?, "kubectl-run").await?;
    }
    if !attached {
        return Ok(());
    }
    let outcome = attach(cx, &made).await;
    if flags.on("rm") {
        let session = cx.session()?;
        let name = made.str_at(&["metadata", "name"]).unwrap_or_default();
        session.delete(&known("pods").path(Some(&session.namespace), Some(name)), &json!({"propagationPolicy": propagation(flags.text("cascade"))?})).await?;
        if !flags.on("quiet") {
            println!("pod \"{name}\" deleted from {} namespace", session.namespace);
        }
    }
    outcome
}

fn propagation(cascade: &str) -> Result<&'static str> {
    match cascade {
        "background" => Ok("Background"),
        "foreground" => Ok("Foreground"),
        "orphan" => Ok("Orphan"),
        other => Err(format!("invalid cascade value ({other}). Must be \"background\", \"foreground\", or \"orphan\"").into()),
    }
}

/// The Service of `run --expose`, for pods with these labels.
pub(super) fn run_service(cx: &Context, selector: Value) -> Result<Value> {
    let flags = &cx.flags;
    let port: i64 = flags.text("port").parse().unwrap_or(0);
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": cx.words()[0]}, "spec": {"selector": selector, "ports": [{"port": port, "protocol": "TCP", "targetPort": port}]}, "status": {"loadBalancer": {}}});
    if flags.given("labels") {
        service["metadata"]["labels"] = Value::Object(labels(flags.text("labels"))?);
    }
    Ok(service)
}

/// The pod that will be attached to is not spoken of.
async fn make_quietly(cx: &Context, pod: Value) -> Result<Value> {
    let session = cx.session()?;
    let info = Info { meant: known("pods"), namespace: session.namespace.clone(), name: String::new(), object: to_send(&pod), source: String::new() };
    create(session, &info, &write_query(&cx.flags, "kubectl-run", DryRun::No)?).await
}

/// Waits until the pod runs, joins its streams, and gives its exit code.
pub(super) async fn attach(cx: &Context, pod: &Value) -> Result<()> {
    let (flags, session) = (&cx.flags, cx.session()?);
    let info = Info::of(&known("pods"), pod.clone());
    let phase = |p: Option<&Value>| p.and_then(|p| p.str_at(&["status", "phase"])).unwrap_or_default().to_owned();
    let started = super::wait::follow(session, &info, |p| match p {
        None => Err("the pod was deleted".into()),
        Some(_) => Ok(["Running", "Succeeded", "Failed"].contains(&phase(p).as_str())),
    });
    let late = || Failure::from("timed out waiting for the condition");
    let now = super::options::within(flags.limit("pod-running-timeout"), started, late).await?;
    let container = super::pods::default_container(pod);
    if phase(now.as_ref()) == "Running" {
        let tty = flags.on("tty") && crate::kubectl::stream::is_terminal();
        let streams = Streams {
            namespace: info.namespace.clone(),
            pod: info.name.clone(),
            container,
            command: None,
            stdin: flags.on("stdin"),
            tty,
            quiet: flags.on("quiet"),
            detach: if tty && flags.on("stdin") { detach_keys(flags.text("detach-keys"))? } else { Vec::new() },
        };
        super::exec::join(session, streams, now.as_ref().unwrap_or(pod)).await?;
    } else {
        // It was quicker than we: what it wrote is in its log.
        let log = session.send(http::Method::GET, &format!("{}/log", info.path()), None, "*/*", "").await?;
        out(&String::from_utf8_lossy(&log))?;
    }
    if flags.on("leave-stdin-open") || flags.text("restart") == "Always" {
        return Ok(());
    }
    let ended = super::wait::follow(session, &info, |p| Ok(["Succeeded", "Failed"].contains(&phase(p).as_str()) || p.is_none())).await?;
    if phase(ended.as_ref()) != "Failed" {
        return Ok(());
    }
    let status = ended.as_ref().and_then(|p| p.list_at(&["status", "containerStatuses"]).first().cloned()).unwrap_or_default();
    let (code, reason) =
        (status.i64_at(&["state", "terminated", "exitCode"]).unwrap_or(1), status.str_at(&["state", "terminated", "reason"]).unwrap_or_default());
    eprintln!("pod {}/{} terminated ({reason})", info.namespace, info.name);
    Err(Failure::Exit(u8::try_from(code).unwrap_or(1)))
}

async fn autoscale(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    if !flags.given("max") {
        return Err("required flag(s) \"max\" not set".into());
    }
    let (min, max) = (flags.int("min"), flags.int("max"));
    if max < 1 {
        return Err(format!("--max=MAXPODS is required and must be at least 1, max: {max}").into());
    }
    if max < min {
        return Err(format!("--max=MAXPODS must be larger or equal to --min=MINPODS, max: {max}, min: {min}").into());
    }
    if flags.given("cpu-percent") && flags.given("cpu") {
        return Err("--cpu-percent and --cpu are mutually exclusive".into());
    }
    if flags.given("cpu-percent") {
        eprintln!(
            "Flag --cpu-percent has been deprecated, Use --cpu with percentage or resource quantity format (e.g., '70%' for utilization or '500m' for milliCPU)."
        );
    }
    let found = Selection::of(cx.session()?, flags).objects(cx.words()).await?.all()?;
    if found.is_empty() {
        return Err("no objects passed to autoscale".into());
    }
    let dry_run = DryRun::of(flags)?;
    let mut printer = Printer::of(flags, &dry_run.note(if dry_run == DryRun::Client { "created" } else { "autoscaled" }))?;
    for info in found {
        if !["ReplicationController", "Deployment", "ReplicaSet", "StatefulSet"].contains(&info.meant.kind.as_str()) {
            return Err(format!("cannot autoscale a {}: {}", info.meant.kind, info.meant.title).into());
        }
        let name = flags.some("name").unwrap_or(&info.name);
        let object = autoscaler(flags, name, &info.meant.api_version(), &info.meant.kind, &info.name)?;
        make(cx, &mut printer, object, "kubectl-autoscale").await?;
    }
    Ok(())
}
