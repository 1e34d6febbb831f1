//! The pages of pods and of pod templates.

use knarr_core::quantity::Quantity;
use knarr_core::{Value, ValueExt};

use super::page::{Page, date, format_selector, int, since, text, texts, title_bool, yes};
use super::{Asker, controller, volumes};
use crate::kubectl::print::go;

pub async fn pod(asker: &Asker<'_>, pod: &Value) -> String {
    let mirror = pod.str_at(&["metadata", "annotations", "kubernetes.io/config.mirror"]);
    let events = asker.events_about(pod, "", mirror.unwrap_or_else(|| text(pod, &["metadata", "uid"]))).await;
    page_of(pod, events.as_deref())
}

fn page_of(pod: &Value, events: Option<&[Value]>) -> String {
    let mut page = Page::default();
    let some = |path: &[&str]| pod.str_at(path).filter(|t| !t.is_empty());
    page.field(0, "Name", text(pod, &["metadata", "name"]));
    page.field(0, "Namespace", text(pod, &["metadata", "namespace"]));
    page.some(0, "Priority", pod.i64_at(&["spec", "priority"]));
    page.some(0, "Priority Class Name", some(&["spec", "priorityClassName"]));
    page.some(0, "Runtime Class Name", some(&["spec", "runtimeClassName"]));
    page.some(0, "Service Account", some(&["spec", "serviceAccountName"]));
    match some(&["spec", "nodeName"]) {
        Some(node) => page.field(0, "Node", format!("{node}/{}", text(pod, &["status", "hostIP"]))),
        None => page.field(0, "Node", "<none>"),
    }
    page.some(0, "Start Time", pod.str_at(&["status", "startTime"]).map(|t| date(Some(t))));
    page.labels("Labels", pod.at(&["metadata", "labels"]));
    page.annotations("Annotations", pod.at(&["metadata", "annotations"]));
    let phase = text(pod, &["status", "phase"]);
    match pod.str_at(&["metadata", "deletionTimestamp"]) {
        Some(at) if phase != "Failed" && phase != "Succeeded" => {
            page.field(0, "Status", format!("Terminating (lasts {})", since(Some(at))));
            page.field(0, "Termination Grace Period", format!("{}s", int(pod, &["metadata", "deletionGracePeriodSeconds"])));
        }
        _ => page.field(0, "Status", phase),
    }
    page.some(0, "Reason", some(&["status", "reason"]));
    page.some(0, "Message", some(&["status", "message"]));
    seccomp(&mut page, 0, 0, pod.at(&["spec", "securityContext"]));
    page.field(0, "IP", text(pod, &["status", "podIP"]));
    let ips = pod.list_at(&["status", "podIPs"]);
    if ips.is_empty() {
        page.field(0, "IPs", "<none>");
    } else {
        page.line(0, "IPs:");
        ips.iter().for_each(|ip| page.field(1, "IP", text(ip, &["ip"])));
    }
    page.some(0, "Controlled By", controller(pod).map(|c| format!("{}/{}", text(c, &["kind"]), text(c, &["name"]))));
    page.some(0, "NominatedNodeName", some(&["status", "nominatedNodeName"]));
    if let Some(wanted) = pod.at(&["spec", "resources"]) {
        page.line(0, "Resources:");
        resources(&mut page, 1, wanted);
    }
    let lists = [
        ("Init Containers", "initContainers", "initContainerStatuses", true),
        ("Containers", "containers", "containerStatuses", false),
        ("Ephemeral Containers", "ephemeralContainers", "ephemeralContainerStatuses", true),
    ];
    for (title, list, statuses, only_some) in lists {
        let all = pod.list_at(&["spec", list]);
        if !(only_some && all.is_empty()) {
            containers(&mut page, title, all, pod.list_at(&["status", statuses]), Some(pod), "");
        }
    }
    let conditions = pod.list_at(&["status", "conditions"]);
    let gates = pod.list_at(&["spec", "readinessGates"]);
    if !gates.is_empty() {
        page.line(0, "Readiness Gates:");
        page.line(1, "Type\tStatus");
        for gate in gates {
            let wanted = text(gate, &["conditionType"]);
            let status = conditions.iter().find(|c| c["type"] == wanted).map_or("<none>", |c| text(c, &["status"]));
            page.line(1, format!("{wanted} \t{status} "));
        }
    }
    if !conditions.is_empty() {
        page.line(0, "Conditions:");
        page.line(1, "Type\tStatus");
        conditions.iter().for_each(|c| page.line(1, format!("{} \t{} ", text(c, &["type"]), text(c, &["status"]))));
    }
    volumes::of_pod(&mut page, pod.list_at(&["spec", "volumes"]), "");
    page.field(0, "QoS Class", text(pod, &["status", "qosClass"]));
    page.labels("Node-Selectors", pod.at(&["spec", "nodeSelector"]));
    tolerations(&mut page, "Tolerations", pod.list_at(&["spec", "tolerations"]));
    spread(&mut page, pod.list_at(&["spec", "topologySpreadConstraints"]), "");
    if let Some(group) = pod.at(&["spec", "schedulingGroup"]) {
        page.line(0, "SchedulingGroup:");
        page.field(1, "PodGroupName", text(group, &["podGroupName"]));
    }
    page.events(events);
    page.finish()
}

fn seccomp(page: &mut Page, level: usize, inner: usize, context: Option<&Value>) {
    let Some(profile) = context.and_then(|c| c.at(&["seccompProfile"])) else { return };
    page.field(level, "SeccompProfile", text(profile, &["type"]));
    if text(profile, &["type"]) == "Localhost" {
        page.field(level + inner, "LocalhostProfile", text(profile, &["localhostProfile"]));
    }
}

/// `Pod Template:` of a workload.
pub fn template(page: &mut Page, template: &Value) {
    page.line(0, "Pod Template:");
    page.labels("  Labels", template.at(&["metadata", "labels"]));
    if template.at(&["metadata", "annotations"]).and_then(Value::as_object).is_some_and(|a| !a.is_empty()) {
        page.annotations("  Annotations", template.at(&["metadata", "annotations"]));
    }
    page.some(1, "Service Account", template.str_at(&["spec", "serviceAccountName"]).filter(|t| !t.is_empty()));
    let init = template.list_at(&["spec", "initContainers"]);
    if !init.is_empty() {
        containers(page, "Init Containers", init, &[], None, "  ");
    }
    containers(page, "Containers", template.list_at(&["spec", "containers"]), &[], None, "  ");
    volumes::of_pod(page, template.list_at(&["spec", "volumes"]), "  ");
    spread(page, template.list_at(&["spec", "topologySpreadConstraints"]), "  ");
    page.some(1, "Priority Class Name", template.str_at(&["spec", "priorityClassName"]).filter(|t| !t.is_empty()));
    page.labels("  Node-Selectors", template.at(&["spec", "nodeSelector"]));
    tolerations(page, "  Tolerations", template.list_at(&["spec", "tolerations"]));
}

/// A template alone, columns not lined up: as `rollout history` shows it.
pub fn template_page(object: &Value) -> String {
    let mut page = Page::default();
    template(&mut page, object);
    page.plain()
}

fn containers(page: &mut Page, title: &str, all: &[Value], statuses: &[Value], pod: Option<&Value>, space: &str) {
    page.line(0, format!("{space}{title}:{}", if all.is_empty() { " <none>" } else { "" }));
    for container in all {
        let name = text(container, &["name"]);
        let status = statuses.iter().find(|s| text(s, &["name"]) == name);
        page.line(1, format!("{}{name}:", if space.is_empty() { "" } else { " " }));
        page.some(2, "Container ID", status.map(|s| text(s, &["containerID"])));
        page.field(2, "Image", text(container, &["image"]));
        page.some(2, "Image ID", status.map(|s| text(s, &["imageID"])));
        ports(page, container, "containerPort", "Port");
        ports(page, container, "hostPort", "Host Port");
        seccomp(page, 2, 1, container.at(&["securityContext"]));
        for (title, key) in [("Command:", "command"), ("Args:", "args")] {
            let words = texts(container, &[key]);
            if !words.is_empty() {
                page.line(2, title);
                words.iter().flat_map(|w| w.split('\n')).for_each(|part| page.line(3, part));
            }
        }
        if let Some(status) = status {
            state(page, "State", status.at(&["state"]).unwrap_or(&Value::Null));
            if let Some(last) = status.at(&["lastState"]).filter(|l| l.at(&["terminated"]).is_some()) {
                state(page, "Last State", last);
            }
            page.field(2, "Ready", title_bool(yes(status, &["ready"])));
            page.field(2, "Restart Count", int(status, &["restartCount"]));
        }
        if let Some(wanted) = container.at(&["resources"]) {
            resources(page, 2, wanted);
        }
        for (title, key) in [("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")] {
            page.some(2, title, container.at(&[key]).map(probe));
        }
        environment_from(page, container.list_at(&["envFrom"]));
        environment(page, container, pod);
        mounts(page, container);
    }
}

fn ports(page: &mut Page, container: &Value, key: &str, title: &str) {
    let all: Vec<String> = container
        .list_at(&["ports"])
        .iter()
        .map(|p| {
            let port = format!("{}/{}", int(p, &[key]), text(p, &["protocol"]));
            p.str_at(&["name"]).filter(|n| !n.is_empty()).map_or(port.clone(), |n| format!("{port} ({n})"))
        })
        .collect();
    let joined = all.join(", ");
    match joined.as_str() {
        j if j.contains(',') => page.field(2, &format!("{title}s"), j),
        "" => page.field(2, title, "<none>"),
        j => page.field(2, title, j),
    }
}

fn state(page: &mut Page, title: &str, state: &Value) {
    if let Some(running) = state.at(&["running"]) {
        page.field(2, title, "Running");
        page.field(3, "Started", date(running.str_at(&["startedAt"])));
    } else if let Some(ended) = state.at(&["terminated"]) {
        page.field(2, title, "Terminated");
        page.some(3, "Reason", ended.str_at(&["reason"]).filter(|t| !t.is_empty()));
        page.some(3, "Message", ended.str_at(&["message"]).filter(|t| !t.is_empty()));
        page.field(3, "Exit Code", int(ended, &["exitCode"]));
        page.some(3, "Signal", ended.i64_at(&["signal"]).filter(|s| *s > 0));
        page.field(3, "Started", date(ended.str_at(&["startedAt"])));
        page.field(3, "Finished", date(ended.str_at(&["finishedAt"])));
    } else {
        page.field(2, title, "Waiting");
        page.some(3, "Reason", state.str_at(&["waiting", "reason"]).filter(|t| !t.is_empty()));
    }
}

/// Limits and requests.
pub fn resources(page: &mut Page, level: usize, wanted: &Value) {
    for (title, key) in [("Limits:", "limits"), ("Requests:", "requests")] {
        let map = wanted.at(&[key]).and_then(Value::as_object).filter(|m| !m.is_empty());
        if map.is_some() {
            page.line(level, title);
        }
        map.into_iter().flatten().for_each(|(name, value)| page.field(level + 1, name, go::sprint(value)));
    }
}

fn probe(probe: &Value) -> String {
    let attributes = format!(
        "delay={}s timeout={}s period={}s successThreshold={} failureThreshold={}",
        int(probe, &["initialDelaySeconds"]),
        int(probe, &["timeoutSeconds"]),
        int(probe, &["periodSeconds"]),
        int(probe, &["successThreshold"]),
        int(probe, &["failureThreshold"])
    );
    let port = |of: &Value| of.at(&["port"]).map(go::sprint).unwrap_or_default();
    if let Some(exec) = probe.at(&["exec"]) {
        return format!("exec [{}] {attributes}", texts(exec, &["command"]).join(" "));
    }
    if let Some(get) = probe.at(&["httpGet"]) {
        let host = text(get, &["host"]);
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let path = text(get, &["path"]);
        let slash = if path.is_empty() || path.starts_with('/') { "" } else { "/" };
        return format!("http-get {}://{host}:{}{slash}{} {attributes}", text(get, &["scheme"]).to_lowercase(), port(get), path.replace('?', "%3F"));
    }
    if let Some(tcp) = probe.at(&["tcpSocket"]) {
        return format!("tcp-socket {}:{} {attributes}", text(tcp, &["host"]), port(tcp));
    }
    if let Some(grpc) = probe.at(&["grpc"]) {
        return format!("grpc <pod>:{} {} {attributes}", int(grpc, &["port"]), text(grpc, &["service"]));
    }
    format!("unknown {attributes}")
}

fn environment_from(page: &mut Page, all: &[Value]) {
    if !all.is_empty() {
        page.line(2, "Environment Variables from:");
    }
    for source in all {
        let (kind, reference) = match (source.at(&["configMapRef"]), source.at(&["secretRef"])) {
            (Some(r), _) => ("ConfigMap", r),
            (None, Some(r)) => ("Secret", r),
            _ => ("", &Value::Null),
        };
        let prefix = text(source, &["prefix"]);
        let with = if prefix.is_empty() { String::new() } else { format!(" with prefix '{prefix}'") };
        page.line(3, format!("{}\t{kind}{with}\tOptional: {}", text(reference, &["name"]), yes(reference, &["optional"])));
    }
}

fn environment(page: &mut Page, container: &Value, pod: Option<&Value>) {
    let all = container.list_at(&["env"]);
    page.line(2, format!("Environment:{}", if all.is_empty() { "\t<none>" } else { "" }));
    for variable in all {
        let name = text(variable, &["name"]);
        let from = |key: &str| variable.at(&["valueFrom", key]);
        if variable.at(&["valueFrom"]).is_none() {
            for (i, part) in text(variable, &["value"]).split('\n').enumerate() {
                page.line(3, if i == 0 { format!("{name}:\t{part}") } else { format!("\t{part}") });
            }
        } else if let Some(field) = from("fieldRef") {
            let path = text(field, &["fieldPath"]);
            let value = pod.map(|p| field_of(p, path)).unwrap_or_default();
            page.line(3, format!("{name}:\t{value} ({}:{path})", text(field, &["apiVersion"])));
        } else if let Some(resource) = from("resourceFieldRef") {
            let wanted = text(resource, &["resource"]);
            let mut value = resource_of(container, wanted, resource.str_at(&["divisor"])).unwrap_or_default();
            if value == "0" && (wanted == "limits.cpu" || wanted == "limits.memory") {
                value = "node allocatable".into();
            }
            page.line(3, format!("{name}:\t{value} ({wanted})"));
        } else if let Some(key) = from("secretKeyRef") {
            page.line(
                3,
                format!("{name}:\t<set to the key '{}' in secret '{}'>\tOptional: {}", text(key, &["key"]), text(key, &["name"]), yes(key, &["optional"])),
            );
        } else if let Some(key) = from("configMapKeyRef") {
            page.line(
                3,
                format!("{name}:\t<set to the key '{}' of config map '{}'>\tOptional: {}", text(key, &["key"]), text(key, &["name"]), yes(key, &["optional"])),
            );
        }
    }
}

/// The value of a field that the downward API offers.
fn field_of(pod: &Value, path: &str) -> String {
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let map: Vec<&str> = map.split('.').collect();
        return pod.at(&map).and_then(|m| m.str_at(&[key])).unwrap_or_default().to_owned();
    }
    match path {
        "status.podIPs" => pod.list_at(&["status", "podIPs"]).iter().map(|i| text(i, &["ip"])).collect::<Vec<_>>().join(","),
        "status.hostIPs" => pod.list_at(&["status", "hostIPs"]).iter().map(|i| text(i, &["ip"])).collect::<Vec<_>>().join(","),
        path => text(pod, &path.split('.').collect::<Vec<_>>()).to_owned(),
    }
}

fn resource_of(container: &Value, wanted: &str, divisor: Option<&str>) -> Option<String> {
    let (list, name) = wanted.split_once('.')?;
    let quantity = container.at(&["resources", list, name]).and_then(Quantity::from_json).unwrap_or_else(|| Quantity::from_i64(0));
    let divisor: Quantity = divisor.filter(|d| *d != "0").unwrap_or("1").parse().ok()?;
    let ceil = |a: i64, b: i64| if b == 0 { 0 } else { (a + b - 1).div_euclid(b) };
    Some(if name == "cpu" { ceil(quantity.millis(), divisor.millis()) } else { ceil(quantity.value(), divisor.value()) }.to_string())
}

fn mounts(page: &mut Page, container: &Value) {
    let mut all: Vec<&Value> = container.list_at(&["volumeMounts"]).iter().collect();
    all.sort_by_key(|m| text(m, &["mountPath"]));
    page.line(2, format!("Mounts:{}", if all.is_empty() { "\t<none>" } else { "" }));
    for mount in &all {
        let mut options = vec![if yes(mount, &["readOnly"]) { "ro".to_owned() } else { "rw".to_owned() }];
        options.extend(mount.str_at(&["subPath"]).filter(|p| !p.is_empty()).map(|p| format!("path={}", knarr_core::field::go_quote(p))));
        page.line(3, format!("{} from {} ({})", text(mount, &["mountPath"]), text(mount, &["name"]), options.join(",")));
    }
    let mut devices: Vec<&Value> = container.list_at(&["volumeDevices"]).iter().collect();
    devices.sort_by_key(|d| text(d, &["devicePath"]));
    if !devices.is_empty() {
        page.line(2, format!("Devices:{}", if all.is_empty() { "\t<none>" } else { "" }));
        devices.iter().for_each(|d| page.line(3, format!("{} from {}", text(d, &["devicePath"]), text(d, &["name"]))));
    }
}

fn tolerations(page: &mut Page, title: &str, all: &[Value]) {
    let mut sorted: Vec<&Value> = all.iter().collect();
    sorted.sort_by_key(|t| text(t, &["key"]));
    let lines: Vec<String> = sorted
        .into_iter()
        .map(|t| {
            let (key, value, effect) = (text(t, &["key"]), text(t, &["value"]), text(t, &["effect"]));
            let mut line = key.to_owned();
            if !value.is_empty() {
                line += &format!("={value}");
            }
            if !effect.is_empty() {
                line += &format!(":{effect}");
            }
            if text(t, &["operator"]) == "Exists" && value.is_empty() {
                line += if key.is_empty() && effect.is_empty() { "op=Exists" } else { " op=Exists" };
            }
            t.i64_at(&["tolerationSeconds"]).map_or(line.clone(), |s| format!("{line} for {s}s"))
        })
        .collect();
    page.several(title, &lines);
}

fn spread(page: &mut Page, all: &[Value], space: &str) {
    if all.is_empty() {
        return;
    }
    let mut sorted: Vec<&Value> = all.iter().collect();
    sorted.sort_by_key(|t| text(t, &["topologyKey"]));
    page.part(0, format!("{space}Topology Spread Constraints:\t"));
    for (i, t) in sorted.into_iter().enumerate() {
        let selector = t.at(&["labelSelector"]).map(|s| format!(" for selector {}", format_selector(Some(s)))).unwrap_or_default();
        let lead = if i > 0 { format!("{space}\t") } else { String::new() };
        page.line(
            0,
            format!("{lead}{}:{} when max skew {} is exceeded{selector}", text(t, &["topologyKey"]), text(t, &["whenUnsatisfiable"]), int(t, &["maxSkew"])),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn probes_and_tolerations_read_as_kubectl_prints_them() {
        let http = json!({"httpGet": {"path": "/x", "port": 80, "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3});
        assert_eq!(probe(&http), "http-get http://:80/x delay=0s timeout=1s period=10s successThreshold=1 failureThreshold=3");
        let mut page = Page::default();
        tolerations(
            &mut page,
            "Tolerations",
            &[json!({"key": "b", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}), json!({"operator": "Exists"})],
        );
        assert_eq!(page.finish(), "Tolerations:  op=Exists\n              b:NoExecute op=Exists for 300s\n");
    }

    #[test]
    fn the_environment_says_where_values_come_from() {
        let pod = json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "status": {"podIP": "1.2.3.4"}});
        assert_eq!((field_of(&pod, "metadata.labels['a']"), field_of(&pod, "status.podIP")), ("b".into(), "1.2.3.4".into()));
        let container = json!({"resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}}});
        assert_eq!(resource_of(&container, "limits.cpu", Some("0")).as_deref(), Some("2"));
        assert_eq!(resource_of(&container, "limits.memory", Some("1Mi")).as_deref(), Some("64"));
        assert_eq!(resource_of(&container, "requests.cpu", None).as_deref(), Some("0"));
    }
}
