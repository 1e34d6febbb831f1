//! Security contexts of pods and containers.

use std::collections::BTreeSet;

use knarr_core::field::ErrorList;
use knarr_core::names;

use super::Pod;
use crate::at::At;
use crate::rules;

const SYSCTL_MAX: usize = 253;
const SYSCTL_PATTERN: &str = "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
const IPC_SYSCTLS: [&str; 8] =
    ["kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced", "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni"];
const IPC_PREFIXES: [&str; 3] = ["kernel.shm.", "kernel.msg.", "fs.mqueue."];
const PROFILE_MAX: i64 = 4095;
const CREDENTIAL_SPEC_KIB_MAX: usize = 64;
const DOMAIN_MAX: usize = 256;
const USER_MAX: usize = 104;

/// `spec.securityContext` and what hangs on it.
pub fn pod(pod: &Pod, e: &mut ErrorList) {
    let context = pod.spec.get("securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(&context.get(field), e);
    }
    for group in context.get("supplementalGroups").items() {
        id(&group, e);
    }
    sysctls(pod, &context.get("sysctls"), e);
    context.get("fsGroupChangePolicy").if_set_one_of(e, &["Always", "OnRootMismatch"]);
    seccomp(&context.get("seccompProfile"), e);
    windows_options(&context.get("windowsOptions"), e);
    app_armor_profile(&context.get("appArmorProfile"), e);
    context.get("supplementalGroupsPolicy").if_set_one_of(e, &["Merge", "Strict"]);
    let allowed: &[&str] = if pod.options.only_recursive_selinux_change { &["Recursive"] } else { &["MountOption", "Recursive"] };
    context.get("seLinuxChangePolicy").if_set_one_of(e, allowed);
    let share = pod.spec.get("shareProcessNamespace");
    if share.bool() && pod.spec.get("hostPID").bool() {
        e.push(share.invalid("ShareProcessNamespace and HostPID cannot both be enabled"));
    }
}

fn id(id: &At, e: &mut ErrorList) {
    if id.is_set() {
        id.problems(e, rules::user_id(id.int()));
    }
}

fn sysctls(pod: &Pod, sysctls: &At, e: &mut ErrorList) {
    let mut names = BTreeSet::new();
    for sysctl in sysctls.items() {
        let name = sysctl.get("name");
        if name.is_empty() {
            e.push(name.required(""));
        } else if !is_sysctl(name.str()) {
            e.push(name.invalid(format!("must have at most {SYSCTL_MAX} characters and match regex {SYSCTL_PATTERN}")));
        } else if names.contains(name.str()) {
            e.push(name.duplicate());
        }
        if !pod.options.host_sysctls {
            host_sysctl(pod, &name, e);
        }
        names.insert(name.str());
    }
}

fn is_sysctl(name: &str) -> bool {
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let part = |p: &str| {
        let b = p.as_bytes();
        !b.is_empty() && lower(b[0]) && lower(b[b.len() - 1]) && b.iter().all(|&c| lower(c) || c == b'-' || c == b'_')
    };
    name.len() <= SYSCTL_MAX && name.split(['.', '/']).all(part)
}

/// A pod in the host's namespace does not turn the host's knobs.
fn host_sysctl(pod: &Pod, name: &At, e: &mut ErrorList) {
    let dotted = name.str().replace('/', ".");
    let of_net = dotted.starts_with("net.");
    let of_ipc = IPC_SYSCTLS.contains(&dotted.as_str()) || IPC_PREFIXES.iter().any(|p| dotted.starts_with(p));
    if pod.spec.get("hostNetwork").bool() && of_net {
        e.push(name.invalid("may not be specified when 'hostNetwork' is true"));
    } else if pod.spec.get("hostIPC").bool() && of_ipc {
        e.push(name.invalid("may not be specified when 'hostIPC' is true"));
    }
}

/// `securityContext` of a container.
pub fn container(pod: &Pod, context: &At, e: &mut ErrorList) {
    if !context.is_set() {
        return;
    }
    id(&context.get("runAsUser"), e);
    id(&context.get("runAsGroup"), e);
    let mount = context.get("procMount");
    mount.if_set_one_of(e, &["Default", "Unmasked"]);
    if mount.str() == "Unmasked" && pod.host_users() {
        e.push(mount.invalid("`hostUsers` must be false to use `Unmasked`"));
    }
    seccomp(&context.get("seccompProfile"), e);
    escalation(pod, context, e);
    windows_options(&context.get("windowsOptions"), e);
    app_armor_profile(&context.get("appArmorProfile"), e);
}

/// Who may not rise above its parent is not privileged.
fn escalation(pod: &Pod, context: &At, e: &mut ErrorList) {
    let escalation = context.get("allowPrivilegeEscalation");
    if !escalation.is_set() || escalation.bool() {
        return;
    }
    if context.get("privileged").bool() {
        e.push(context.invalid("cannot set `allowPrivilegeEscalation` to false and `privileged` to true"));
    }
    let capabilities = context.get("capabilities");
    if !pod.options.sys_admin_without_escalation && capabilities.get("add").strings().any(|c| c == "CAP_SYS_ADMIN") {
        e.push(context.invalid("cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"));
    }
}

fn seccomp(profile: &At, e: &mut ErrorList) {
    if !profile.is_set() {
        return;
    }
    let (kind, local) = (profile.get("type"), profile.get("localhostProfile"));
    match kind.str() {
        "Localhost" | "RuntimeDefault" | "Unconfined" => {}
        "" => e.push(kind.required("type is required when seccompProfile is set")),
        _ => e.push(kind.not_supported(&["Localhost", "RuntimeDefault", "Unconfined"])),
    }
    if kind.str() == "Localhost" {
        if local.is_set() {
            local.problems(e, rules::local_descending_path(local.str()));
        } else {
            e.push(local.required("must be set when seccomp type is Localhost"));
        }
    } else if local.is_set() {
        let shown = knarr_core::json!({"LocalhostProfile": local.str(), "Type": kind.str()});
        e.push(local.invalid_as(shown, "can only be set when seccomp type is Localhost"));
    }
}

/// Upstream: `ValidateAppArmorProfileField`.
pub fn app_armor_profile(profile: &At, e: &mut ErrorList) {
    if !profile.is_set() {
        return;
    }
    let (kind, local) = (profile.get("type"), profile.get("localhostProfile"));
    match kind.str() {
        "Localhost" if !local.is_set() || local.is_empty() => e.push(local.required("must be set when AppArmor type is Localhost")),
        "Localhost" => {
            let text = local.str();
            if text.trim() != text {
                e.push(local.invalid("must not be padded with whitespace"));
            }
            if text.len() as i64 > PROFILE_MAX {
                e.push(local.too_long(PROFILE_MAX));
            }
        }
        "RuntimeDefault" | "Unconfined" if local.is_set() => e.push(local.invalid("can only be set when AppArmor type is Localhost")),
        "RuntimeDefault" | "Unconfined" => {}
        "" => e.push(kind.required("type is required when appArmorProfile is set")),
        _ => e.push(kind.not_supported(&["Localhost", "RuntimeDefault", "Unconfined"])),
    }
}

/// A profile in a field says the same as the annotation of old.
pub fn profile_matches(profile: &At, annotation: &str, runtime_default: &[&str], what: &str, e: &mut ErrorList) {
    let kind = profile.get("type");
    let local = annotation.strip_prefix("localhost/");
    let same = match kind.str() {
        "Unconfined" => annotation == "unconfined",
        "RuntimeDefault" => runtime_default.contains(&annotation),
        "Localhost" => local.is_some(),
        _ => true,
    };
    if !same {
        e.push(kind.forbidden(format!("{what} type in annotation and field must match")));
    } else if kind.str() == "Localhost" && local != profile.get("localhostProfile").value().and_then(knarr_core::Value::as_str) {
        e.push(profile.get("localhostProfile").forbidden(format!("{what} profile in annotation and field must match")));
    }
}

fn windows_options(options: &At, e: &mut ErrorList) {
    let name = options.get("gmsaCredentialSpecName");
    if name.is_set() {
        name.problems(e, names::is_dns1123_subdomain(name.str()));
    }
    let spec = options.get("gmsaCredentialSpec");
    if spec.is_set() && spec.is_empty() {
        e.push(spec.invalid("gmsaCredentialSpec cannot be an empty string"));
    } else if spec.str().len() > CREDENTIAL_SPEC_KIB_MAX * 1024 {
        e.push(spec.invalid(format!("gmsaCredentialSpec size must be under {CREDENTIAL_SPEC_KIB_MAX} KiB")));
    }
    let user = options.get("runAsUserName");
    if user.is_set() {
        windows_user(&user, e);
    }
}

fn windows_user(user: &At, e: &mut ErrorList) {
    let text = user.str();
    let parts: Vec<&str> = text.split('\\').collect();
    let whole = match () {
        () if text.is_empty() => Some("runAsUserName cannot be an empty string"),
        () if text.chars().any(|c| c.is_ascii_control()) => Some("runAsUserName cannot contain control characters"),
        () if parts.len() > 2 => Some("runAsUserName cannot contain more than one backslash"),
        () => None,
    };
    if let Some(problem) = whole {
        e.push(user.invalid(problem));
        return;
    }
    let (domain, name) = if parts.len() == 2 { (Some(parts[0]), parts[1]) } else { (None, parts[0]) };
    if let Some(domain) = domain {
        if domain.len() >= DOMAIN_MAX {
            e.push(user.invalid(format!("runAsUserName's Domain length must be under {DOMAIN_MAX} characters")));
        }
        if !is_net_bios(domain) && !is_dns_domain(domain) {
            e.push(user.invalid("runAsUserName's Domain doesn't match the NetBios nor the DNS format"));
        }
    }
    if name.is_empty() {
        e.push(user.invalid("runAsUserName's User cannot be empty"));
    } else if name.len() > USER_MAX {
        e.push(user.invalid(format!("runAsUserName's User length must not be longer than {USER_MAX} characters")));
    }
    if !name.is_empty() && name.chars().all(|c| c == '.' || c == ' ') {
        e.push(user.invalid("runAsUserName's User cannot contain only periods or spaces"));
    }
    if name.contains(|c| "\"/\\:;|=,+*?<>@[]".contains(c)) {
        e.push(user.invalid("runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]"));
    }
}

fn is_net_bios(domain: &str) -> bool {
    let count = domain.chars().count();
    (1..=15).contains(&count) && !domain.starts_with('.') && !domain.contains(|c| "\\/:*?\"<>|".contains(c))
}

fn is_dns_domain(domain: &str) -> bool {
    domain.split('.').all(|label| {
        let b = label.as_bytes();
        (1..=63).contains(&b.len())
            && b[0].is_ascii_alphanumeric()
            && b[b.len() - 1].is_ascii_alphanumeric()
            && b.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'-')
    })
}
