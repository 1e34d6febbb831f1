//! What each level forbids, by the version of Kubernetes that it was defined in (upstream: `pod-security-admission/policy`).
//! A check is a function over a pod's annotations and spec; the table below says from which version to which it holds.

use std::collections::BTreeSet;

use knarr_core::{Value, ValueExt, field::go_quote};

use super::policy::{Level, LevelVersion};

/// Why a pod is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub reason: String,
    pub detail: String,
}

/// What a check looks at.
struct Pod<'a> {
    annotations: Option<&'a knarr_core::Map<String, Value>>,
    spec: &'a Value,
}

type CheckFn = fn(&Pod<'_>) -> Option<Finding>;

struct Check {
    level: Level,
    /// The first version of each form, oldest first.
    versions: &'static [(u32, CheckFn)],
    /// For restricted checks: the baseline check that they take the place of.
    overrides: Option<&'static str>,
    id: &'static str,
}

const fn baseline(id: &'static str, versions: &'static [(u32, CheckFn)]) -> Check {
    Check { level: Level::Baseline, versions, overrides: None, id }
}

const fn restricted(id: &'static str, overrides: Option<&'static str>, versions: &'static [(u32, CheckFn)]) -> Check {
    Check { level: Level::Restricted, versions, overrides, id }
}

/// Baseline first, then restricted, each by name: the order of messages.
static CHECKS: [Check; 19] = [
    baseline("appArmorProfile", &[(0, app_armor)]),
    baseline("capabilities_baseline", &[(0, capabilities_baseline)]),
    baseline("hostNamespaces", &[(0, host_namespaces)]),
    baseline("hostPathVolumes", &[(0, host_path_volumes)]),
    baseline("hostPorts", &[(0, host_ports)]),
    baseline("hostProbesAndHostLifecycle", &[(34, probe_hosts)]),
    baseline("privileged", &[(0, privileged)]),
    baseline("procMount", &[(0, proc_mount), (35, |p| unless_user_namespace(p, proc_mount))]),
    baseline("seLinuxOptions", &[(0, |p| se_linux(p, &SE_LINUX_TYPES[..4])), (31, |p| se_linux(p, &SE_LINUX_TYPES))]),
    baseline("seccompProfile_baseline", &[(0, seccomp_annotations), (19, seccomp_baseline)]),
    baseline(
        "sysctls",
        &[
            (0, |p| sysctls(p, &SYSCTLS[..5])),
            (27, |p| sysctls(p, &SYSCTLS[..6])),
            (29, |p| sysctls(p, &SYSCTLS[..10])),
            (32, |p| sysctls(p, &SYSCTLS[..12])),
            (37, |p| sysctls(p, &SYSCTLS)),
        ],
    ),
    baseline("windowsHostProcess", &[(0, windows_host_process)]),
    restricted("allowPrivilegeEscalation", None, &[(8, privilege_escalation), (25, |p| unless_windows(p, privilege_escalation))]),
    restricted(
        "capabilities_restricted",
        Some("capabilities_baseline"),
        &[(22, capabilities_restricted), (25, |p| unless_windows(p, capabilities_restricted))],
    ),
    restricted("procMount_restricted", Some("procMount"), &[(35, proc_mount)]),
    restricted("restrictedVolumes", Some("hostPathVolumes"), &[(0, restricted_volumes)]),
    restricted("runAsNonRoot", None, &[(0, run_as_non_root), (35, |p| unless_user_namespace(p, run_as_non_root))]),
    restricted("runAsUser", None, &[(23, run_as_user), (35, |p| unless_user_namespace(p, run_as_user))]),
    restricted("seccompProfile_restricted", Some("seccompProfile_baseline"), &[(19, seccomp_restricted), (25, |p| unless_windows(p, seccomp_restricted))]),
];

/// All that a level finds wrong with a pod.
pub fn evaluate(wanted: LevelVersion, metadata: &Value, spec: &Value) -> Vec<Finding> {
    if wanted.level == Level::Privileged {
        return Vec::new();
    }
    let pod = Pod { annotations: metadata.at(&["annotations"]).and_then(Value::as_object), spec };
    let holds = |check: &Check| {
        let newest = check.versions.iter().rev().find(|(since, _)| wanted.version.is_none_or(|v| *since <= v));
        newest.filter(|_| check.level <= wanted.level).map(|(_, f)| *f)
    };
    let overridden: Vec<&str> = CHECKS.iter().filter(|c| holds(c).is_some()).filter_map(|c| c.overrides).collect();
    CHECKS.iter().filter(|c| !overridden.contains(&c.id)).filter_map(|c| holds(c)?(&pod)).collect()
}

fn unless_user_namespace(pod: &Pod<'_>, check: CheckFn) -> Option<Finding> {
    if pod.spec.bool_at(&["hostUsers"]) == Some(false) { None } else { check(pod) }
}

fn unless_windows(pod: &Pod<'_>, check: CheckFn) -> Option<Finding> {
    if pod.spec.str_at(&["os", "name"]) == Some("windows") { None } else { check(pod) }
}

impl<'a> Pod<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|kind| self.spec.list_at(&[kind]))
    }

    /// Names of the containers that something is true of.
    fn which(&self, is_bad: impl FnMut(&&'a Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(is_bad).map(name).collect()
    }

    /// The pod itself and its containers, as far as something is true of their security context: `pod`, `container "a"`.
    fn setters(&self, mut is_bad: impl FnMut(&Value) -> bool) -> Vec<String> {
        let mut setters: Vec<String> = self.spec.at(&["securityContext"]).filter(|c| is_bad(c)).map(|_| "pod".to_owned()).into_iter().collect();
        let bad = self.which(|c| c.at(&["securityContext"]).is_some_and(&mut is_bad));
        if !bad.is_empty() {
            setters.push(containers(&bad));
        }
        setters
    }
}

fn name(value: &Value) -> &str {
    value.str_at(&["name"]).unwrap_or_default()
}

fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|i| format!("\"{}\"", i.as_ref())).collect::<Vec<_>>().join(", ")
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// `containers "a", "b"`.
fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

fn found(reason: &str, detail: String) -> Option<Finding> {
    Some(Finding { reason: reason.to_owned(), detail })
}

/// The finding, when any container is bad.
fn bad(names: &[&str], reason: &str, detail: impl FnOnce(String) -> String) -> Option<Finding> {
    if names.is_empty() { None } else { found(reason, detail(containers(names))) }
}

fn privilege_escalation(pod: &Pod<'_>) -> Option<Finding> {
    let names = pod.which(|c| c.bool_at(&["securityContext", "allowPrivilegeEscalation"]) != Some(false));
    bad(&names, "allowPrivilegeEscalation != false", |c| format!("{c} must set securityContext.allowPrivilegeEscalation=false"))
}

const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

fn app_armor(pod: &Pod<'_>) -> Option<Finding> {
    let mut values = BTreeSet::new();
    let mut setters = pod.setters(|context| {
        let Some(profile) = context.at(&["appArmorProfile"]) else { return false };
        let kind = profile.str_at(&["type"]).unwrap_or_default();
        let wrong = !matches!(kind, "RuntimeDefault" | "Localhost");
        if wrong {
            values.insert(kind.to_owned());
        }
        wrong
    });
    let mut values: Vec<String> = values.into_iter().collect();
    let is_wrong = |v: &str| !(v.is_empty() || v == "runtime/default" || v.starts_with("localhost/"));
    let annotations = pod.annotations.into_iter().flatten().filter(|(k, v)| k.starts_with(APP_ARMOR_ANNOTATION) && is_wrong(v.as_str().unwrap_or_default()));
    let mut forbidden: Vec<String> = annotations.map(|(k, v)| format!("{k}={}", go_quote(v.as_str().unwrap_or_default()))).collect();
    if !forbidden.is_empty() {
        forbidden.sort();
        setters.push(plural("annotation", "annotations", forbidden.len()).to_owned());
        values.extend(forbidden);
    }
    if setters.is_empty() {
        return None;
    }
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    found(reason, format!("{} must not set AppArmor profile type to {}", setters.join(" and "), quoted(values)))
}

const CAPABILITIES: [&str; 13] =
    ["AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"];

/// Containers that add capabilities beside the allowed ones, and those.
fn added<'a>(pod: &Pod<'a>, allowed: &[&str]) -> (Vec<&'a str>, BTreeSet<&'a str>) {
    let mut capabilities = BTreeSet::new();
    let names = pod.which(|c| {
        let more: Vec<&str> =
            c.list_at(&["securityContext", "capabilities", "add"]).iter().filter_map(Value::as_str).filter(|a| !allowed.contains(a)).collect();
        capabilities.extend(&more);
        !more.is_empty()
    });
    (names, capabilities)
}

fn capabilities_baseline(pod: &Pod<'_>) -> Option<Finding> {
    let (names, capabilities) = added(pod, &CAPABILITIES);
    bad(&names, "non-default capabilities", |c| format!("{c} must not include {} in securityContext.capabilities.add", quoted(capabilities)))
}

fn capabilities_restricted(pod: &Pod<'_>) -> Option<Finding> {
    let mut details = Vec::new();
    let missing = pod.which(|c| !c.list_at(&["securityContext", "capabilities", "drop"]).iter().any(|d| d == "ALL"));
    if !missing.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&missing)));
    }
    let (names, capabilities) = added(pod, &["NET_BIND_SERVICE"]);
    if !names.is_empty() {
        details.push(format!("{} must not include {} in securityContext.capabilities.add", containers(&names), quoted(capabilities)));
    }
    if details.is_empty() { None } else { found("unrestricted capabilities", details.join("; ")) }
}

fn host_namespaces(pod: &Pod<'_>) -> Option<Finding> {
    let set: Vec<String> =
        ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|f| pod.spec.bool_at(&[f]) == Some(true)).map(|f| format!("{f}=true")).collect();
    if set.is_empty() { None } else { found("host namespaces", set.join(", ")) }
}

fn host_path_volumes(pod: &Pod<'_>) -> Option<Finding> {
    let names: Vec<&str> = pod.spec.list_at(&["volumes"]).iter().filter(|v| v.at(&["hostPath"]).is_some()).map(name).collect();
    if names.is_empty() { None } else { found("hostPath volumes", format!("{} {}", plural("volume", "volumes", names.len()), quoted(names))) }
}

fn host_ports(pod: &Pod<'_>) -> Option<Finding> {
    let mut ports = BTreeSet::new();
    let names = pod.which(|c| {
        let used: Vec<String> = c.list_at(&["ports"]).iter().filter_map(|p| p.i64_at(&["hostPort"])).filter(|p| *p != 0).map(|p| p.to_string()).collect();
        let any = !used.is_empty();
        ports.extend(used);
        any
    });
    let verb = plural("uses", "use", names.len());
    bad(&names, "hostPort", |c| format!("{c} {verb} {} {}", plural("hostPort", "hostPorts", ports.len()), ports.iter().cloned().collect::<Vec<_>>().join(", ")))
}

fn probe_hosts(pod: &Pod<'_>) -> Option<Finding> {
    const PLACES: [&[&str]; 5] = [&["livenessProbe"], &["readinessProbe"], &["startupProbe"], &["lifecycle", "postStart"], &["lifecycle", "preStop"]];
    let mut hosts = BTreeSet::<&str>::new();
    let names = pod.which(|c| {
        let handlers = PLACES.iter().filter_map(|place| c.at(place)).flat_map(|h| [h.str_at(&["httpGet", "host"]), h.str_at(&["tcpSocket", "host"])]);
        let named: Vec<&str> = handlers.flatten().filter(|h| !h.is_empty()).collect();
        hosts.extend(&named);
        !named.is_empty()
    });
    let names: Vec<&str> = names.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    let verb = plural("uses", "use", names.len());
    bad(&names, "probe or lifecycle host", |c| {
        format!("{c} {verb} {} {}", plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len()), quoted(hosts))
    })
}

fn privileged(pod: &Pod<'_>) -> Option<Finding> {
    let names = pod.which(|c| c.bool_at(&["securityContext", "privileged"]) == Some(true));
    bad(&names, "privileged", |c| format!("{c} must not set securityContext.privileged=true"))
}

fn proc_mount(pod: &Pod<'_>) -> Option<Finding> {
    let mut kinds = BTreeSet::new();
    let names = pod.which(|c| {
        let other = c.str_at(&["securityContext", "procMount"]).filter(|kind| *kind != "Default");
        kinds.extend(other);
        other.is_some()
    });
    bad(&names, "procMount", |c| format!("{c} must not set securityContext.procMount to {}", quoted(kinds)))
}

/// Volume types that a restricted pod may use.
const VOLUMES: [&str; 9] = ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"];
/// The others, by which a finding names them.
const OTHER_VOLUMES: [&str; 21] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
];

fn restricted_volumes(pod: &Pod<'_>) -> Option<Finding> {
    let is_of = |volume: &Value, kind: &str| volume.at(&[kind]).is_some();
    let wrong: Vec<&Value> = pod.spec.list_at(&["volumes"]).iter().filter(|v| !VOLUMES.iter().any(|kind| is_of(v, kind))).collect();
    if wrong.is_empty() {
        return None;
    }
    let kinds: BTreeSet<&str> = wrong.iter().map(|v| OTHER_VOLUMES.into_iter().find(|kind| is_of(v, kind)).unwrap_or("unknown")).collect();
    let count = wrong.len();
    let kinds_shown = format!("{} {}", plural("restricted volume type", "restricted volume types", kinds.len()), quoted(&kinds));
    let names = quoted(wrong.into_iter().map(name));
    found("restricted volume types", format!("{} {names} {} {kinds_shown}", plural("volume", "volumes", count), plural("uses", "use", count)))
}

fn run_as_non_root(pod: &Pod<'_>) -> Option<Finding> {
    const REASON: &str = "runAsNonRoot != true";
    let setters = pod.setters(|context| context.bool_at(&["runAsNonRoot"]) == Some(false));
    if !setters.is_empty() {
        return found(REASON, format!("{} must not set securityContext.runAsNonRoot=false", setters.join(" and ")));
    }
    if pod.spec.bool_at(&["securityContext", "runAsNonRoot"]) == Some(true) {
        return None;
    }
    let names = pod.which(|c| c.at(&["securityContext", "runAsNonRoot"]).is_none());
    bad(&names, REASON, |c| format!("pod or {c} must set securityContext.runAsNonRoot=true"))
}

fn run_as_user(pod: &Pod<'_>) -> Option<Finding> {
    let setters = pod.setters(|context| context.i64_at(&["runAsUser"]) == Some(0));
    if setters.is_empty() { None } else { found("runAsUser=0", format!("{} must not set runAsUser=0", setters.join(" and "))) }
}

const SE_LINUX_TYPES: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

fn se_linux(pod: &Pod<'_>, allowed: &[&str]) -> Option<Finding> {
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let setters = pod.setters(|context| {
        let Some(options) = context.at(&["seLinuxOptions"]) else { return false };
        let text = |key: &str| options.str_at(&[key]).unwrap_or_default();
        let wrong_type = !allowed.contains(&text("type"));
        if wrong_type {
            types.insert(text("type").to_owned());
        }
        user |= !text("user").is_empty();
        role |= !text("role").is_empty();
        wrong_type || !text("user").is_empty() || !text("role").is_empty()
    });
    if setters.is_empty() {
        return None;
    }
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!("{} {}", plural("type", "types", types.len()), quoted(types)));
    }
    data.extend(user.then(|| "user may not be set".to_owned()));
    data.extend(role.then(|| "role may not be set".to_owned()));
    found("seLinuxOptions", format!("{} set forbidden securityContext.seLinuxOptions: {}", setters.join(" and "), data.join("; ")))
}

/// Before profiles had a field: `seccomp.security.alpha.kubernetes.io/pod` and one annotation for each container.
fn seccomp_annotations(pod: &Pod<'_>) -> Option<Finding> {
    let is_valid = |v: &str| v == "runtime/default" || v == "docker/default" || v.starts_with("localhost/");
    let keys = pod.containers().map(|c| format!("container.seccomp.security.alpha.kubernetes.io/{}", name(c)));
    let keys = std::iter::once("seccomp.security.alpha.kubernetes.io/pod".to_owned()).chain(keys);
    let forbidden: BTreeSet<String> = keys
        .filter_map(|key| {
            let value = pod.annotations?.get(&key)?.as_str()?;
            (!is_valid(value)).then(|| format!("{key}={}", go_quote(value)))
        })
        .collect();
    if forbidden.is_empty() {
        return None;
    }
    let annotations = plural("annotation", "annotations", forbidden.len());
    found("seccompProfile", format!("forbidden {annotations} {}", forbidden.into_iter().collect::<Vec<_>>().join(", ")))
}

fn seccomp_baseline(pod: &Pod<'_>) -> Option<Finding> {
    let mut values = BTreeSet::new();
    let setters = pod.setters(|context| {
        let Some(profile) = context.at(&["seccompProfile"]) else { return false };
        let kind = profile.str_at(&["type"]).unwrap_or_default();
        let wrong = !matches!(kind, "Localhost" | "RuntimeDefault");
        if wrong {
            values.insert(kind.to_owned());
        }
        wrong
    });
    let text = || format!("{} must not set securityContext.seccompProfile.type to {}", setters.join(" and "), quoted(&values));
    if setters.is_empty() { None } else { found("seccompProfile", text()) }
}

fn seccomp_restricted(pod: &Pod<'_>) -> Option<Finding> {
    if let Some(wrong) = seccomp_baseline(pod) {
        return Some(wrong);
    }
    if pod.spec.at(&["securityContext", "seccompProfile"]).is_some() {
        return None;
    }
    let names = pod.which(|c| c.at(&["securityContext", "seccompProfile"]).is_none());
    bad(&names, "seccompProfile", |c| format!("pod or {c} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\""))
}

/// In the order in which they were allowed.
const SYSCTLS: [&str; 14] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_notsent_lowat",
];

fn sysctls(pod: &Pod<'_>, allowed: &[&str]) -> Option<Finding> {
    let forbidden: Vec<&str> = pod.spec.list_at(&["securityContext", "sysctls"]).iter().map(name).filter(|n| !allowed.contains(n)).collect();
    if forbidden.is_empty() { None } else { found("forbidden sysctls", forbidden.join(", ")) }
}

fn windows_host_process(pod: &Pod<'_>) -> Option<Finding> {
    let setters = pod.setters(|context| context.bool_at(&["windowsOptions", "hostProcess"]) == Some(true));
    if setters.is_empty() {
        None
    } else {
        found("hostProcess", format!("{} must not set securityContext.windowsOptions.hostProcess=true", setters.join(" and ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    fn told(level: Level, version: Option<u32>, annotations: &Value, spec: &Value) -> Vec<String> {
        let findings = evaluate(LevelVersion { level, version }, &json!({"annotations": annotations}), spec);
        findings.into_iter().map(|f| format!("{} ({})", f.reason, f.detail)).collect()
    }

    /// A pod that the restricted level of any version takes.
    fn good() -> Value {
        let context = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
        json!({
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": context}], "initContainers": [{"name": "i", "securityContext": context}],
        })
    }

    #[test]
    fn a_good_pod_pleases_every_version() {
        for version in (0..=40).map(Some).chain([None]) {
            assert_eq!(told(Level::Restricted, version, &json!({}), &good()), [] as [&str; 0], "{version:?}");
        }
    }

    /// What is wrong, by level, with the first version that says so and the last that does not relax it.
    #[test]
    fn each_check_says_what_upstream_says() {
        type Row = (Level, u32, Value, &'static str);
        let container = |change: Value| {
            let mut pod = good();
            for (key, value) in change.as_object().unwrap() {
                match value.as_object() {
                    Some(map) if key == "securityContext" => map.iter().for_each(|(k, v)| pod["containers"][0]["securityContext"][k] = v.clone()),
                    _ => pod["containers"][0][key] = value.clone(),
                }
            }
            pod
        };
        let pod = |path: &[&str], value: Value| {
            let mut pod = good();
            pod.set(path, value);
            pod
        };
        let rows: Vec<Row> = vec![
            (
                Level::Restricted,
                8,
                container(json!({"securityContext": {"allowPrivilegeEscalation": true}})),
                "allowPrivilegeEscalation != false (container \"a\" must set securityContext.allowPrivilegeEscalation=false)",
            ),
            (
                Level::Baseline,
                0,
                container(json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}})),
                "forbidden AppArmor profile (container \"a\" must not set AppArmor profile type to \"Unconfined\")",
            ),
            (
                Level::Baseline,
                0,
                pod(&["securityContext", "appArmorProfile"], json!({"type": "Unconfined"})),
                "forbidden AppArmor profile (pod must not set AppArmor profile type to \"Unconfined\")",
            ),
            (
                Level::Baseline,
                0,
                container(json!({"securityContext": {"capabilities": {"drop": ["ALL"], "add": ["NET_RAW", "CHOWN"]}}})),
                "non-default capabilities (container \"a\" must not include \"NET_RAW\" in securityContext.capabilities.add)",
            ),
            (
                Level::Restricted,
                22,
                container(json!({"securityContext": {"capabilities": {"add": ["CHOWN"]}}})),
                "unrestricted capabilities (container \"a\" must set securityContext.capabilities.drop=[\"ALL\"]; container \"a\" must not include \"CHOWN\" in securityContext.capabilities.add)",
            ),
            (Level::Baseline, 0, pod(&["hostIPC"], json!(true)), "host namespaces (hostIPC=true)"),
            (Level::Baseline, 0, container(json!({"ports": [{"hostPort": 80}, {"hostPort": 443}]})), "hostPort (container \"a\" uses hostPorts 443, 80)"),
            (
                Level::Baseline,
                34,
                container(json!({"livenessProbe": {"httpGet": {"host": "8.8.8.8"}}})),
                "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"8.8.8.8\")",
            ),
            (
                Level::Baseline,
                0,
                container(json!({"securityContext": {"privileged": true}})),
                "privileged (container \"a\" must not set securityContext.privileged=true)",
            ),
            (
                Level::Baseline,
                0,
                container(json!({"securityContext": {"procMount": "Unmasked"}})),
                "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
            ),
            (
                Level::Baseline,
                0,
                pod(&["securityContext", "seLinuxOptions"], json!({"type": "x", "user": "u", "role": "r"})),
                "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set; role may not be set)",
            ),
            (
                Level::Baseline,
                19,
                container(json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}})),
                "seccompProfile (container \"a\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
            ),
            (
                Level::Restricted,
                19,
                pod(&["securityContext", "seccompProfile"], Value::Null),
                "seccompProfile (pod or containers \"i\", \"a\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
            ),
            (Level::Baseline, 0, pod(&["securityContext", "sysctls"], json!([{"name": "a"}, {"name": "b"}])), "forbidden sysctls (a, b)"),
            (
                Level::Baseline,
                0,
                pod(&["securityContext", "windowsOptions"], json!({"hostProcess": true})),
                "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
            ),
            (
                Level::Restricted,
                0,
                pod(&["volumes"], json!([{"name": "n", "nfs": {}}, {"name": "s", "secret": {}}, {"name": "m", "nfs": {}}])),
                "restricted volume types (volumes \"n\", \"m\" use restricted volume type \"nfs\")",
            ),
            (
                Level::Restricted,
                0,
                pod(&["securityContext", "runAsNonRoot"], json!(false)),
                "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)",
            ),
            (
                Level::Restricted,
                0,
                pod(&["securityContext", "runAsNonRoot"], Value::Null),
                "runAsNonRoot != true (pod or containers \"i\", \"a\" must set securityContext.runAsNonRoot=true)",
            ),
            (Level::Restricted, 23, pod(&["securityContext", "runAsUser"], json!(0)), "runAsUser=0 (pod must not set runAsUser=0)"),
        ];
        for (level, since, spec, wanted) in rows {
            assert_eq!(told(level, Some(since), &json!({}), &spec), [wanted]);
            assert_eq!(told(level, None, &json!({}), &spec), [wanted]);
            if since > 0 {
                assert!(!told(level, Some(since - 1), &json!({}), &spec).contains(&wanted.to_owned()), "{wanted}");
            }
            if level == Level::Restricted {
                assert!(!told(Level::Baseline, None, &json!({}), &spec).contains(&wanted.to_owned()), "{wanted}");
            }
        }
    }

    #[test]
    fn versions_relax() {
        let mut pod = good();
        pod.set(&["securityContext", "sysctls"], json!([{"name": "net.ipv4.tcp_rmem"}, {"name": "net.ipv4.tcp_notsent_lowat"}]));
        assert_eq!(told(Level::Baseline, Some(31), &json!({}), &pod), ["forbidden sysctls (net.ipv4.tcp_rmem, net.ipv4.tcp_notsent_lowat)"]);
        assert_eq!(told(Level::Baseline, Some(36), &json!({}), &pod), ["forbidden sysctls (net.ipv4.tcp_notsent_lowat)"]);
        assert_eq!(told(Level::Baseline, Some(99), &json!({}), &pod), [] as [&str; 0]);
        let mut pod = good();
        pod.set(&["securityContext", "seLinuxOptions"], json!({"type": "container_engine_t"}));
        assert_eq!(told(Level::Baseline, Some(30), &json!({}), &pod).len(), 1);
        assert_eq!(told(Level::Baseline, Some(31), &json!({}), &pod), [] as [&str; 0]);
        // A user namespace of its own.
        let mut pod = good();
        pod.set(&["hostUsers"], false);
        pod.set(&["securityContext"], json!({"runAsUser": 0, "seccompProfile": {"type": "Localhost"}}));
        pod["containers"][0]["securityContext"]["procMount"] = "Unmasked".into();
        assert_eq!(told(Level::Baseline, Some(34), &json!({}), &pod), ["procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")"]);
        assert_eq!(told(Level::Baseline, Some(35), &json!({}), &pod), [] as [&str; 0]);
        assert_eq!(told(Level::Restricted, Some(35), &json!({}), &pod), ["procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")"]);
        assert_eq!(told(Level::Restricted, Some(34), &json!({}), &pod).len(), 3);
        // Windows has no such fields.
        let windows = json!({"os": {"name": "windows"}, "securityContext": {"runAsNonRoot": true}, "containers": [{"name": "a"}]});
        assert_eq!(told(Level::Restricted, Some(25), &json!({}), &windows), [] as [&str; 0]);
        assert_eq!(told(Level::Restricted, Some(24), &json!({}), &windows).len(), 3);
    }

    #[test]
    fn annotations_of_old_are_read() {
        let annotations = json!({"seccomp.security.alpha.kubernetes.io/pod": "unconfined", "container.apparmor.security.beta.kubernetes.io/a": "unconfined"});
        assert_eq!(
            told(Level::Baseline, Some(18), &annotations, &good()),
            [
                "forbidden AppArmor profile (annotation must not set AppArmor profile type to \"container.apparmor.security.beta.kubernetes.io/a=\"unconfined\"\")",
                "seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod=\"unconfined\")",
            ]
        );
        assert_eq!(told(Level::Baseline, Some(19), &annotations, &good()).len(), 1);
    }
}
