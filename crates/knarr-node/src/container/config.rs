//! Puts a container's configuration together for the runtime (upstream: `kubelet_pods.go:GenerateRunContainerOptions`,
//! `kuberuntime_container.go:generateContainerConfig`). It writes the small files that every container gets.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use knarr_runtime::cri::{ContainerConfig, Device, Mount, NamespaceMode, Propagation, SandboxConfig};

use super::env::{self, Data, Facts, ServiceLink, Sources};
use super::expansion::expand;
use super::names::{self, Resolver};
use super::security;
use crate::context::Context;
use crate::events::{Level, pod_reference};
use crate::images::Ready;
use crate::objects::Kind;
use crate::pod::observed::labels;
use crate::pod::resources;
use crate::pod::spec::{self, PodExt};
use crate::volumes::{MountedVolumes, pod_dir, subpath};

const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTNAME: &str = "/etc/hostname";

/// What a container is to be made of, besides its spec.
pub struct Making<'a> {
    pub context: &'a Context,
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub image: &'a Ready,
    pub attempt: u32,
    /// The pod's addresses.
    pub ips: &'a [String],
    pub volumes: &'a MountedVolumes,
    /// Images of the pod's image volumes that this container mounts, by volume.
    pub image_volumes: &'a BTreeMap<String, Ready>,
    /// Container id whose processes an ephemeral container wants to see.
    pub target: Option<String>,
}

/// `NS_NAME_UID` below the log folder.
pub fn pod_log_dir(context: &Context, pod: &Pod) -> PathBuf {
    context.config.pod_log_dir.join(format!("{}_{}_{}", pod.namespace(), pod.name(), pod.uid()))
}

/// The sandbox of a pod.
///
/// # Errors
/// Names that cannot be, for a `FailedCreatePodSandBox` event.
pub fn sandbox_config(context: &Context, pod: &Pod, attempt: u32) -> Result<SandboxConfig, String> {
    let spec = pod.spec();
    let hostname = if pod.host_network() {
        String::new()
    } else {
        let (hostname, domain) = names::hostname_and_domain(pod, &context.config.cluster_domain)?;
        names::kernel_hostname(pod, &hostname, &domain)?
    };
    let mut all_labels = pod.metadata.labels.clone().unwrap_or_default();
    all_labels.extend(pod_labels(pod));
    let sysctls = spec.security_context.iter().flat_map(|s| s.sysctls.iter().flatten()).map(|s| (s.name.replace('/', "."), s.value.clone()));
    let mode = |of_node: Option<bool>| if of_node == Some(true) { NamespaceMode::Node } else { NamespaceMode::Pod };
    Ok(SandboxConfig {
        name: pod.name().into(),
        namespace: pod.namespace().into(),
        uid: pod.uid().into(),
        attempt,
        hostname,
        log_directory: pod_log_dir(context, pod),
        labels: all_labels,
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        cgroup_parent: resources::cgroup_parent(pod),
        sysctls: sysctls.collect(),
        network: mode(spec.host_network),
        pid: security::pid_mode(pod),
        ipc: mode(spec.host_ipc),
        shm_size: None,
        pod_resources: knarr_runtime::cri::Resources { pids_limit: context.config.pod_pids_limit, ..resources::pod_cgroup(pod) },
    })
}

fn pod_labels(pod: &Pod) -> BTreeMap<String, String> {
    let pairs = [(labels::POD_NAME, pod.name()), (labels::POD_NAMESPACE, pod.namespace()), (labels::POD_UID, pod.uid())];
    pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// # Errors
/// The message of a `CreateContainerConfigError`.
pub async fn container_config(making: &Making<'_>) -> Result<ContainerConfig, String> {
    let Making { context, pod, container, image, .. } = making;
    security::verify_non_root(pod, container, &image.user)?;
    let envs = environment(making).await?;
    let lookup = |name: &str| envs.get(name).cloned();
    let expanded = |list: &Option<Vec<String>>| list.iter().flatten().map(|t| expand(t, lookup)).collect::<Vec<_>>();
    let dir = pod_dir(&context.config.root_dir, pod.uid());
    let mut mounts = volume_mounts(making, &dir, &envs)?;
    let files = own_files(making, &dir, &mounts).map_err(|e| e.to_string())?;
    mounts.extend(files);
    mounts.extend(termination_file(making, &dir).map_err(|e| e.to_string())?);
    // A mount below another one has to come after it.
    mounts.sort_by_key(|m| m.container_path.components().count());
    fs::create_dir_all(pod_log_dir(context, pod).join(&container.name))
        .map_err(|e| format!("create container log directory for container {} failed: {e}", container.name))?;
    let security = security::security_context(pod, container, making.target.clone(), &context.config.seccomp_dir, context.config.seccomp_default)?;
    let mut container_labels = pod_labels(pod);
    container_labels.insert(labels::CONTAINER_NAME.into(), container.name.clone());
    Ok(ContainerConfig {
        name: container.name.clone(),
        attempt: making.attempt,
        image: image.id.clone(),
        image_reference: container.image.clone().unwrap_or_default(),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: envs.into_iter().collect(),
        mounts,
        devices: devices(making)?,
        labels: container_labels,
        annotations: annotations(making),
        log_path: PathBuf::from(&container.name).join(format!("{}.log", making.attempt)),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        resources: resources::container_cgroup(pod, container, i64::try_from(context.machine.memory).unwrap_or(i64::MAX)),
        security,
        stop_signal: container.lifecycle.as_ref().and_then(|l| l.stop_signal.clone()),
    })
}

/// Upstream: `newContainerAnnotations`.
fn annotations(making: &Making<'_>) -> BTreeMap<String, String> {
    let (pod, container) = (making.pod, making.container);
    let mut all = BTreeMap::new();
    let mut put = |key: &str, value: String| drop(all.insert(key.to_owned(), value));
    put(labels::HASH, format!("{:x}", spec::container_hash(container)));
    put(labels::RESTART_COUNT, making.attempt.to_string());
    put(labels::TERMINATION_MESSAGE_PATH, container.termination_message_path.clone().unwrap_or_default());
    put(labels::TERMINATION_MESSAGE_POLICY, container.termination_message_policy.clone().unwrap_or_default());
    put(labels::IMAGE_NAME, making.image.name.clone());
    put(labels::IMAGE_REF, making.image.reference.clone());
    if let Some(seconds) = pod.metadata.deletion_grace_period_seconds {
        put(labels::POD_DELETION_GRACE_PERIOD, seconds.to_string());
    }
    if let Some(seconds) = pod.spec().termination_grace_period_seconds {
        put(labels::POD_TERMINATION_GRACE_PERIOD, seconds.to_string());
    }
    if let Some(handler) = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) {
        put(labels::PRE_STOP_HANDLER, serde_json::to_string(handler).unwrap_or_default());
    }
    if let Some(ports) = container.ports.as_ref().filter(|p| !p.is_empty()) {
        put(labels::PORTS, serde_json::to_string(ports).unwrap_or_default());
    }
    all
}

async fn environment(making: &Making<'_>) -> Result<BTreeMap<String, String>, String> {
    making.context.services.ready().await?;
    let host_ips = making.context.config.host_ips();
    let allocatable = making.context.allocatable();
    let facts = Facts { pod: making.pod, pod_ips: making.ips, host_ips: &host_ips, allocatable: &allocatable };
    env::environment(&facts, making.container, &FromContext(making)).await
}

struct FromContext<'a>(&'a Making<'a>);

#[async_trait]
impl Sources for FromContext<'_> {
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Data>, String> {
        self.0.context.objects.watch(Kind::ConfigMap, namespace, name).data().await
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Data>, String> {
        self.0.context.objects.watch(Kind::Secret, namespace, name).data().await
    }

    fn services(&self, namespace: &str, links: bool) -> Vec<ServiceLink> {
        self.0.context.services.visible(namespace, links)
    }

    fn volume_path(&self, volume: &str) -> Option<PathBuf> {
        self.0.volumes.get(volume).map(|v| v.path.clone())
    }
}

fn propagation(mount: &VolumeMount) -> Result<Propagation, String> {
    match mount.mount_propagation.as_deref() {
        None | Some("None") => Ok(Propagation::Private),
        Some("HostToContainer") => Ok(Propagation::HostToContainer),
        Some("Bidirectional") => Ok(Propagation::Bidirectional),
        Some(other) => Err(format!("invalid MountPropagation mode: \"{other}\"")),
    }
}

/// Upstream: `resolveRecursiveReadOnly`; the runtime can do it.
fn recursive_read_only(mount: &VolumeMount) -> Result<bool, String> {
    let wanted = match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => return Ok(false),
        Some("IfPossible" | "Enabled") => true,
        Some(other) => return Err(format!("failed to resolve recursive read-only mode: unknown recursive read-only mode \"{other}\"")),
    };
    let refuse =
        |why: String| Err(format!("failed to resolve recursive read-only mode: volume \"{}\" requested recursive read-only mode, but it is {why}", mount.name));
    if mount.read_only != Some(true) {
        return refuse("not read-only".into());
    }
    match mount.mount_propagation.as_deref() {
        None | Some("None") => Ok(wanted),
        Some(mode) => refuse(format!("not compatible with propagation \"{mode}\"")),
    }
}

fn volume_mounts(making: &Making<'_>, dir: &Path, envs: &BTreeMap<String, String>) -> Result<Vec<Mount>, String> {
    let container = making.container;
    let mut mounts = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let volume = making.volumes.get(&mount.name).filter(|v| !v.block);
        let volume = volume.ok_or_else(|| format!("cannot find volume \"{}\" to mount into container \"{}\"", mount.name, container.name))?;
        let sub_path = sub_path_of(mount, envs)?;
        if let Some(image) = making.image_volumes.get(&mount.name) {
            subpath::check(&sub_path)?;
            let container_path = Path::new("/").join(&mount.mount_path);
            mounts.push(Mount { container_path, read_only: true, image: Some(image.id.clone()), image_sub_path: sub_path, ..Default::default() });
            continue;
        }
        let host_path = if sub_path.is_empty() {
            volume.path.clone()
        } else {
            subpath::check(&sub_path)?;
            subpath::prepare(&*making.context.mounter, &volume.path, &sub_path, dir, &mount.name, &container.name, index).map_err(|error| {
                // The text could name paths of the node: it goes to the log, not to the user.
                tracing::warn!(pod = making.pod.described(), container = container.name, volume = mount.name, %error, "cannot prepare a subPath");
                format!("failed to prepare subPath for volumeMount \"{}\" of container \"{}\"", mount.name, container.name)
            })?
        };
        mounts.push(Mount {
            container_path: Path::new("/").join(&mount.mount_path),
            host_path,
            read_only: mount.read_only == Some(true) || volume.read_only,
            recursive_read_only: recursive_read_only(mount)?,
            propagation: propagation(mount)?,
            ..Default::default()
        });
    }
    Ok(mounts)
}

fn sub_path_of(mount: &VolumeMount, envs: &BTreeMap<String, String>) -> Result<String, String> {
    let Some(expression) = mount.sub_path_expr.as_deref().filter(|e| !e.is_empty()) else {
        return Ok(mount.sub_path.clone().unwrap_or_default());
    };
    let mut missing = std::collections::BTreeSet::new();
    let path = expand(expression, |name| {
        let value = envs.get(name).filter(|v| !v.is_empty());
        if value.is_none() {
            missing.insert(name.to_owned());
        }
        Some(value.cloned().unwrap_or_default())
    });
    if missing.is_empty() { Ok(path) } else { Err(format!("missing value for {}", missing.into_iter().collect::<Vec<_>>().join(", "))) }
}

fn devices(making: &Making<'_>) -> Result<Vec<Device>, String> {
    let of = |d: &k8s_openapi::api::core::v1::VolumeDevice| {
        let volume = making.volumes.get(&d.name).filter(|v| v.block);
        let volume = volume.ok_or_else(|| format!("cannot find volume \"{}\" to pass into container \"{}\"", d.name, making.container.name))?;
        let permissions = if volume.read_only { "r" } else { "mrw" }.into();
        Ok(Device { container_path: d.device_path.clone().into(), host_path: volume.path.clone(), permissions })
    };
    making.container.volume_devices.iter().flatten().map(of).collect()
}

/// Writes a file if it does not hold this already.
fn put_file(path: &Path, text: &str) -> std::io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

/// `/etc/hosts`, `/etc/resolv.conf` and `/etc/hostname`, except where a volume is mounted there.
fn own_files(making: &Making<'_>, dir: &Path, mounts: &[Mount]) -> std::io::Result<Vec<Mount>> {
    let (context, pod) = (making.context, making.pod);
    let aliases = pod.spec().host_aliases.as_deref().unwrap_or_default();
    fs::create_dir_all(dir)?;
    let (hostname, domain) = names::hostname_and_domain(pod, &context.config.cluster_domain).map_err(std::io::Error::other)?;
    let hosts = if pod.host_network() {
        names::host_network_hosts_file(&fs::read_to_string(HOSTS).unwrap_or_default(), aliases)
    } else {
        names::hosts_file(making.ips, &hostname, &domain, aliases)
    };
    let name =
        if pod.host_network() { context.config.hostname.clone() } else { names::kernel_hostname(pod, &hostname, &domain).map_err(std::io::Error::other)? };
    let resolver = resolver_text(context, pod);
    let read_only = making.container.security_context.as_ref().and_then(|s| s.read_only_root_filesystem) == Some(true);
    let mut all = Vec::new();
    for (file, target, text, read_only) in
        [("etc-hosts", HOSTS, hosts, false), ("resolv.conf", RESOLV_CONF, resolver, read_only), ("hostname", HOSTNAME, format!("{name}\n"), read_only)]
    {
        if mounts.iter().any(|m| m.container_path == Path::new(target)) {
            continue;
        }
        let path = dir.join(file);
        put_file(&path, &text)?;
        all.push(Mount { container_path: target.into(), host_path: path, read_only, ..Default::default() });
    }
    Ok(all)
}

fn resolver_text(context: &Context, pod: &Pod) -> String {
    let host = context.config.resolv_conf.as_ref().and_then(|p| fs::read_to_string(p).ok()).map(|t| Resolver::parse(&t));
    let host = host.unwrap_or_else(|| Resolver { servers: vec!["127.0.0.1".into()], searches: vec![".".into()], options: vec![] });
    let (resolver, warnings) = names::resolver(pod, host, &context.config.cluster_dns, &context.config.cluster_domain);
    for warning in warnings {
        let reason = if warning.starts_with("pod: ") { "MissingClusterDNS" } else { "DNSConfigForming" };
        context.events.record(pod_reference(pod), Level::Warning, reason, &warning);
    }
    resolver.to_text()
}

/// The file in which a process can leave its last words, a new one for each run.
fn termination_file(making: &Making<'_>, dir: &Path) -> std::io::Result<Option<Mount>> {
    let Some(target) = making.container.termination_message_path.as_deref().filter(|p| !p.is_empty()) else { return Ok(None) };
    let folder = dir.join("containers").join(&making.container.name);
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{:08x}", making.context.env.below(1 << 32)));
    fs::File::create(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    Ok(Some(Mount { container_path: Path::new("/").join(target), host_path: path, ..Default::default() }))
}
