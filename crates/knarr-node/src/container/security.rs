//! What a container's process may do: the pod's security context under the container's (upstream: `pkg/securitycontext`,
//! `kuberuntime/security_context.go`).

use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile};
use knarr_runtime::cri::{NamespaceMode, Seccomp, SecurityContext};

use crate::pod::spec::PodExt;

const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// User of an image's config: a number, or a name that only the image can resolve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageUser {
    pub uid: Option<i64>,
    pub name: String,
}

/// Refuses to run as root where that is forbidden (upstream: `verifyRunAsNonRoot`). It fails closed.
///
/// # Errors
/// The message of a `CreateContainerConfigError`.
pub fn verify_non_root(pod: &Pod, container: &Container, image: &ImageUser) -> Result<(), String> {
    let (of_pod, own) = (pod.spec().security_context.as_ref(), container.security_context.as_ref());
    let non_root = own.and_then(|s| s.run_as_non_root).or_else(|| of_pod.and_then(|s| s.run_as_non_root));
    if non_root != Some(true) {
        return Ok(());
    }
    let at = format!("(pod: \"{}\", container: {})", pod.described(), container.name);
    let user = own.and_then(|s| s.run_as_user).or_else(|| of_pod.and_then(|s| s.run_as_user));
    match (user, image.uid) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy {at}")),
        (Some(_), _) => Ok(()),
        (None, None) if !image.name.is_empty() => {
            Err(format!("container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {at}", image.name))
        }
        (None, None | Some(0)) => Err(format!("container has runAsNonRoot and image will run as root {at}")),
        (None, Some(uid)) if !(1..=i64::from(i32::MAX)).contains(&uid) => Err(format!(
            "container has runAsNonRoot and image has an invalid user id ({uid}). (Must be 1-({})): must be between 0 and 2147483647, inclusive {at}",
            i32::MAX
        )),
        (None, Some(_)) => Ok(()),
    }
}

/// The merged security context. `target` is the container whose processes an ephemeral container wants to see.
///
/// # Errors
/// A profile that cannot be had.
pub fn security_context(
    pod: &Pod,
    container: &Container,
    target: Option<String>,
    seccomp_root: &Path,
    seccomp_default: bool,
) -> Result<SecurityContext, String> {
    let (of_pod, own) = (pod.spec().security_context.as_ref(), container.security_context.as_ref());
    let profile = own.and_then(|s| s.seccomp_profile.as_ref()).or_else(|| of_pod.and_then(|s| s.seccomp_profile.as_ref()));
    let unmasked = own.and_then(|s| s.proc_mount.as_deref()) == Some("Unmasked");
    let paths = |list: &[&str]| if unmasked { Vec::new() } else { list.iter().map(|p| (*p).to_owned()).collect() };
    let capabilities = own.and_then(|s| s.capabilities.as_ref());
    let pid = pid_mode(pod);
    let privileged = own.and_then(|s| s.privileged) == Some(true);
    Ok(SecurityContext {
        privileged,
        add_capabilities: capabilities.and_then(|c| c.add.clone()).unwrap_or_default(),
        drop_capabilities: capabilities.and_then(|c| c.drop.clone()).unwrap_or_default(),
        run_as_user: own.and_then(|s| s.run_as_user).or_else(|| of_pod.and_then(|s| s.run_as_user)),
        run_as_group: own.and_then(|s| s.run_as_group).or_else(|| of_pod.and_then(|s| s.run_as_group)),
        supplemental_groups: of_pod.map(|s| s.fs_group.into_iter().chain(s.supplemental_groups.iter().flatten().copied()).collect()).unwrap_or_default(),
        strict_supplemental_groups: of_pod.and_then(|s| s.supplemental_groups_policy.as_deref()) == Some("Strict"),
        read_only_rootfs: own.and_then(|s| s.read_only_root_filesystem) == Some(true),
        no_new_privileges: own.and_then(|s| s.allow_privilege_escalation) == Some(false),
        seccomp: if privileged { Seccomp::Unconfined } else { seccomp(profile, seccomp_root, seccomp_default)? },
        masked_paths: paths(&MASKED_PATHS),
        readonly_paths: paths(&READONLY_PATHS),
        pid,
        target_container: target.filter(|_| pid == NamespaceMode::Container),
    })
}

fn seccomp(profile: Option<&SeccompProfile>, root: &Path, default: bool) -> Result<Seccomp, String> {
    let Some(profile) = profile else { return Ok(if default { Seccomp::RuntimeDefault } else { Seccomp::Unconfined }) };
    match profile.type_.as_str() {
        "RuntimeDefault" => Ok(Seccomp::RuntimeDefault),
        "Localhost" => match profile.localhost_profile.as_deref().filter(|p| !p.is_empty()) {
            Some(name) if Path::new(name).components().all(|c| matches!(c, std::path::Component::Normal(_))) => Ok(Seccomp::Localhost(root.join(name))),
            _ => Err("localhostProfile must be set if seccompProfile type is Localhost.".into()),
        },
        _ => Ok(Seccomp::Unconfined),
    }
}

/// Upstream: `PidNamespaceForPod`.
pub fn pid_mode(pod: &Pod) -> NamespaceMode {
    let spec = pod.spec();
    if spec.host_pid == Some(true) {
        NamespaceMode::Node
    } else if spec.share_process_namespace == Some(true) {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod_of;
    use knarr_core::json;

    #[test]
    fn root_is_refused_in_every_disguise() {
        let check = |pod: knarr_core::Value, image: ImageUser| {
            let pod = pod_of(json!({"securityContext": pod, "containers": [{"name": "a"}]}));
            verify_non_root(&pod, &pod.spec().containers[0], &image).err().unwrap_or_default()
        };
        let user = |uid: Option<i64>, name: &str| ImageUser { uid, name: name.into() };
        assert_eq!(check(json!({}), user(Some(0), "")), "");
        assert_eq!(check(json!({"runAsNonRoot": true, "runAsUser": 1}), user(Some(0), "")), "");
        assert_eq!(check(json!({"runAsNonRoot": true}), user(Some(1000), "")), "");
        let at = "(pod: \"p_default(u1)\", container: a)";
        assert_eq!(check(json!({"runAsNonRoot": true, "runAsUser": 0}), user(None, "")), format!("container's runAsUser breaks non-root policy {at}"));
        assert_eq!(check(json!({"runAsNonRoot": true}), user(None, "")), format!("container has runAsNonRoot and image will run as root {at}"));
        assert!(check(json!({"runAsNonRoot": true}), user(None, "bob")).contains("non-numeric user (bob)"));
        assert!(check(json!({"runAsNonRoot": true}), user(Some(1 << 40), "")).contains("invalid user id"));
    }

    #[test]
    fn the_containers_word_counts_more_than_the_pods() {
        let pod = pod_of(json!({"securityContext": {"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4]}, "shareProcessNamespace": true,
            "containers": [{"name": "a", "securityContext": {"runAsUser": 5, "allowPrivilegeEscalation": false}}]}));
        let context = security_context(&pod, &pod.spec().containers[0], Some("t".into()), Path::new("/s"), true).unwrap();
        assert_eq!((context.run_as_user, context.run_as_group, context.no_new_privileges), (Some(5), Some(2), true));
        assert_eq!((context.supplemental_groups, context.pid, context.target_container), (vec![3, 4], NamespaceMode::Pod, None));
        assert_eq!(context.seccomp, Seccomp::RuntimeDefault);
    }

    #[test]
    fn a_localhost_profile_must_be_named_and_lie_inside() {
        let of = |name: &str| seccomp(Some(&SeccompProfile { type_: "Localhost".into(), localhost_profile: Some(name.into()) }), Path::new("/s"), true);
        assert_eq!(of("a/b.json"), Ok(Seccomp::Localhost("/s/a/b.json".into())));
        assert!(of("").is_err());
        assert!(of("../x").is_err());
    }
}
