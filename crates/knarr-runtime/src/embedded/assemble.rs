//! From what a pod wants and what its image says to what the shim does. Pure.

use std::path::{Path, PathBuf};

use crate::container::capabilities;
use crate::container::signals;
use crate::cri::{self, ContainerConfig, NamespaceMode, SandboxConfig};
use crate::image::manifest::Process;
use crate::shim::spec::{ContainerSpec, DeviceNode, ImageMount, PackedInstruction, PidNamespace, UserSpec};

/// Paths that the container's spec is made of.
pub struct Places {
    pub layers: Vec<PathBuf>,
    /// The container's own folder: `upper` and `work` lie in it.
    pub own: PathBuf,
    pub shm: PathBuf,
    /// The pod's hostname file.
    pub hostname: Option<PathBuf>,
}

/// Everything that goes into a container.
pub struct Ingredients<'a> {
    pub id: &'a str,
    pub config: &'a ContainerConfig,
    pub sandbox: &'a SandboxConfig,
    pub image: &'a Process,
    pub places: Places,
    /// Other images that are mounted.
    pub images: Vec<ImageMount>,
    /// The image's own volumes: path inside, folder of the host.
    pub volumes: Vec<(PathBuf, PathBuf)>,
    pub seccomp: Option<Vec<PackedInstruction>>,
    /// Of the container whose processes this one sees.
    pub target_pid: Option<i32>,
}

/// Builds the shim's spec.
pub fn container_spec(ingredients: Ingredients<'_>) -> cri::Result<ContainerSpec> {
    let Ingredients { id, config, sandbox, image, places, images, volumes, seccomp, target_pid } = ingredients;
    let security = &config.security;
    let args = arguments(config, image);
    if args.is_empty() {
        return Err(cri::Error::Failed("no command specified".to_owned()));
    }
    Ok(ContainerSpec {
        id: id.to_owned(),
        args,
        env: environment(config, sandbox, image),
        cwd: working_dir(config, image),
        user: user(security, &image.user)?,
        capabilities: capabilities::granted(security.privileged, &security.add_capabilities, &security.drop_capabilities)?,
        no_new_privileges: security.no_new_privileges,
        seccomp,
        layers: places.layers,
        upper: places.own.join("upper"),
        work: places.own.join("work"),
        mounts: mounts(config, places.hostname),
        images,
        volumes,
        devices: config
            .devices
            .iter()
            .map(|d| DeviceNode { host: d.host_path.clone(), container: d.container_path.clone(), permissions: d.permissions.clone() })
            .collect(),
        privileged: security.privileged,
        masked_paths: security.masked_paths.clone(),
        readonly_paths: security.readonly_paths.clone(),
        read_only_rootfs: security.read_only_rootfs,
        tty: config.tty,
        stdin: config.stdin,
        cgroup: cgroup_path(sandbox, id),
        resources: config.resources.clone(),
        pid: pid_namespace(security.pid, target_pid),
        shm: places.shm,
        log: sandbox.log_directory.join(&config.log_path),
    })
}

/// `kubepods/burstable/podUID/CONTAINER`.
pub fn cgroup_path(sandbox: &SandboxConfig, id: &str) -> String {
    format!("{}/{id}", sandbox.cgroup_parent.trim_matches('/'))
}

/// Kubernetes' table: command replaces the entrypoint and drops the image's arguments; args replace only those.
fn arguments(config: &ContainerConfig, image: &Process) -> Vec<String> {
    let (command, args) = match (config.command.is_empty(), config.args.is_empty()) {
        (true, true) => (&image.entrypoint, &image.cmd),
        (true, false) => (&image.entrypoint, &config.args),
        (false, _) => (&config.command, &config.args),
    };
    command.iter().chain(args).cloned().collect()
}

/// The image's variables, then the pod's over them.
fn environment(config: &ContainerConfig, sandbox: &SandboxConfig, image: &Process) -> Vec<String> {
    let mut env: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: &str| match env.iter_mut().find(|(n, _)| n == name) {
        Some(entry) => value.clone_into(&mut entry.1),
        None => env.push((name.to_owned(), value.to_owned())),
    };
    set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    if !sandbox.hostname.is_empty() {
        set("HOSTNAME", &sandbox.hostname);
    }
    for line in &image.env {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        set(name, value);
    }
    config.envs.iter().for_each(|(name, value)| set(name, value));
    env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn working_dir(config: &ContainerConfig, image: &Process) -> PathBuf {
    let chosen = if config.working_dir.is_empty() { &image.working_dir } else { &config.working_dir };
    Path::new("/").join(chosen)
}

/// Ids of a pod must fit into 31 bits, or they would mean somebody else.
fn user(security: &cri::SecurityContext, image: &str) -> cri::Result<UserSpec> {
    let id =
        |n: i64| u32::try_from(n).ok().filter(|&n| n <= i32::MAX as u32).ok_or_else(|| cri::Error::Failed(format!("user or group id {n} is out of range")));
    Ok(UserSpec {
        uid: security.run_as_user.map(id).transpose()?,
        gid: security.run_as_group.map(id).transpose()?,
        image: image.to_owned(),
        groups: security.supplemental_groups.iter().map(|&g| id(g)).collect::<cri::Result<_>>()?,
        strict: security.strict_supplemental_groups,
    })
}

fn mounts(config: &ContainerConfig, hostname: Option<PathBuf>) -> Vec<cri::Mount> {
    let mut mounts: Vec<cri::Mount> = config.mounts.iter().filter(|m| m.image.is_none()).cloned().collect();
    if let Some(host_path) = hostname.filter(|_| !mounts.iter().any(|m| m.container_path == Path::new("/etc/hostname"))) {
        let read_only = config.security.read_only_rootfs;
        mounts.push(cri::Mount { container_path: PathBuf::from("/etc/hostname"), host_path, read_only, ..cri::Mount::default() });
    }
    mounts
}

fn pid_namespace(mode: NamespaceMode, target: Option<i32>) -> PidNamespace {
    match (mode, target) {
        (_, Some(pid)) => PidNamespace::Of(pid),
        (NamespaceMode::Pod, None) => PidNamespace::Pod,
        (NamespaceMode::Container, None) => PidNamespace::Own,
        (NamespaceMode::Node, None) => PidNamespace::Node,
    }
}

/// The signal that asks a container to end: the pod's, the image's, or SIGTERM.
pub fn stop_signal(config: &ContainerConfig, image: &Process) -> cri::Result<i32> {
    let name = config.stop_signal.as_deref().filter(|s| !s.is_empty()).unwrap_or(&image.stop_signal);
    if name.is_empty() {
        return Ok(libc::SIGTERM);
    }
    signals::parse(name).ok_or_else(|| cri::Error::Failed(format!("invalid stop signal {name:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn command_and_args_replace_the_images_as_the_documentation_says() {
        let image = Process { entrypoint: strings(&["/ep"]), cmd: strings(&["a", "b"]), ..Process::default() };
        let check = |command: &[&str], args: &[&str], expected: &[&str]| {
            let config = ContainerConfig { command: strings(command), args: strings(args), ..ContainerConfig::default() };
            assert_eq!(arguments(&config, &image), expected);
        };
        check(&[], &[], &["/ep", "a", "b"]);
        check(&[], &["x"], &["/ep", "x"]);
        check(&["/c"], &[], &["/c"]);
        check(&["/c"], &["x"], &["/c", "x"]);
    }

    #[test]
    fn variables_of_the_pod_win_over_the_images() {
        let image = Process { env: strings(&["PATH=/img", "A=1", "EMPTY"]), ..Process::default() };
        let config = ContainerConfig { envs: vec![("A".into(), "2".into()), ("B".into(), "x=y".into())], ..ContainerConfig::default() };
        let sandbox = SandboxConfig { hostname: "h".into(), ..SandboxConfig::default() };
        assert_eq!(environment(&config, &sandbox, &image), ["PATH=/img", "HOSTNAME=h", "A=2", "EMPTY=", "B=x=y"]);
    }

    #[test]
    fn ids_that_would_wrap_are_refused() {
        let check = |uid: i64| user(&cri::SecurityContext { run_as_user: Some(uid), ..Default::default() }, "").map(|u| u.uid).map_err(|e| e.to_string());
        assert_eq!(check(2147483647), Ok(Some(2147483647)));
        assert_eq!(check(4294967296), Err("user or group id 4294967296 is out of range".into()));
        assert_eq!(check(-1), Err("user or group id -1 is out of range".into()));
    }
}
