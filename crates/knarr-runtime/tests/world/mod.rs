//! A runtime of its own for each test, with one small image, and nothing left behind.

#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use knarr_runtime::cri::{ContainerConfig, ContainerState, ContainerStatus, NamespaceMode, SandboxConfig};
use knarr_runtime::{Embedded, EmbeddedConfig, Runtime, ShimProgram};
use knarr_sys::cgroup::Hierarchies;

pub const IMAGE: &str = "test.local/busybox:1";
/// Longer than anything takes on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct World {
    pub folder: PathBuf,
    pub runtime: Embedded,
    pub image: String,
    /// Parent of all pods' cgroups.
    pub cgroup: String,
}

pub fn shim() -> ShimProgram {
    ShimProgram { program: env!("CARGO_BIN_EXE_knarr-shim").into(), arguments: Vec::new() }
}

pub async fn try_open(folder: &Path) -> Result<Embedded, knarr_runtime::cri::Error> {
    Embedded::open(EmbeddedConfig { shim: shim(), ..EmbeddedConfig::new(folder.join("root"), folder.join("run")) }).await
}

pub async fn open(folder: &Path) -> Embedded {
    try_open(folder).await.unwrap()
}

impl World {
    pub async fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("knarr-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&folder).unwrap();
        let runtime = open(&folder).await;
        let archive = folder.join("image.tar");
        std::fs::write(&archive, docker_archive(&[(&format!("docker.io/library/{name}:1"), ""), (IMAGE, "")])).unwrap();
        runtime.load_images(&archive).await.unwrap();
        let image = runtime.image_status(IMAGE).await.unwrap().unwrap().id;
        Self { folder, runtime, image, cgroup: name }
    }

    /// The agent vanishes without a word; then something happens; then a new one comes.
    pub async fn replace_agent(&mut self, meanwhile: impl FnOnce()) {
        let elsewhere = open(&self.folder.join("elsewhere")).await;
        drop(std::mem::replace(&mut self.runtime, elsewhere));
        meanwhile();
        self.runtime = until(async || try_open(&self.folder).await.ok()).await;
    }

    pub fn sandbox_config(&self, name: &str) -> SandboxConfig {
        SandboxConfig {
            name: name.into(),
            namespace: "default".into(),
            uid: format!("uid-{name}"),
            hostname: name.into(),
            log_directory: self.folder.join("logs").join(name),
            cgroup_parent: format!("{}/besteffort/pod{name}", self.cgroup),
            pid: NamespaceMode::Container,
            ..SandboxConfig::default()
        }
    }

    pub async fn sandbox(&self, name: &str) -> String {
        self.runtime.run_pod_sandbox(&self.sandbox_config(name)).await.unwrap().id
    }

    /// Runs `script` with the image's shell.
    pub fn shell(&self, script: &str) -> ContainerConfig {
        let mut config = ContainerConfig {
            name: "c".into(),
            image: self.image.clone(),
            image_reference: IMAGE.into(),
            command: vec!["/bin/sh".into(), "-c".into(), script.into()],
            log_path: "c/0.log".into(),
            ..ContainerConfig::default()
        };
        config.security.pid = NamespaceMode::Container;
        config
    }

    pub async fn start(&self, sandbox: &str, config: &ContainerConfig) -> String {
        let id = self.runtime.create_container(sandbox, config).await.unwrap();
        self.runtime.start_container(&id).await.unwrap();
        id
    }

    /// Waits for the end and gives the status.
    pub async fn ended(&self, id: &str) -> ContainerStatus {
        ended(&self.runtime, id).await
    }

    /// Runs a container to its end; gives its exit code and its output without times, one entry per line.
    pub async fn run(&self, sandbox: &str, config: &ContainerConfig) -> (i32, String) {
        let id = self.start(sandbox, config).await;
        let status = self.ended(&id).await;
        let output = log(&status.log_path);
        std::fs::remove_file(&status.log_path).unwrap();
        self.runtime.remove_container(&id).await.unwrap();
        (status.exit_code.unwrap(), output)
    }

    /// Removes everything, and looks that nothing is left.
    pub async fn close(self) {
        for sandbox in self.runtime.list_pod_sandboxes().await.unwrap() {
            self.runtime.remove_pod_sandbox(&sandbox.id).await.unwrap();
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let left: Vec<&str> = mounts.lines().filter(|l| l.contains(self.folder.to_str().unwrap())).collect();
        assert!(left.is_empty(), "mounts are left: {left:?}");
        assert!(std::fs::read_dir(self.folder.join("root/containers")).unwrap().next().is_none(), "a writable layer is left");
        assert!(std::fs::read_dir(self.folder.join("run/netns")).unwrap().next().is_none(), "a network namespace is left");
        let cgroup = Hierarchies::detect().unwrap().cgroup(&self.cgroup);
        assert!(cgroup.processes().unwrap().is_empty(), "processes are left");
    }
}

impl Drop for World {
    /// Also after a failed test: kills by cgroup, and by pids that shims have noted.
    fn drop(&mut self) {
        let cgroup = Hierarchies::detect().unwrap().cgroup(&self.cgroup);
        cgroup.kill().unwrap();
        for entry in std::fs::read_dir(self.folder.join("run/sandboxes")).into_iter().flatten().flatten() {
            let state = std::fs::read_to_string(entry.path().join("shim.json")).unwrap_or_default();
            let state: serde_json::Value = serde_json::from_str(&state).unwrap_or_default();
            for pid in [&state["pid"], &state["init"]].into_iter().filter_map(serde_json::Value::as_i64) {
                kill_if_shim(pid as i32);
            }
            knarr_sys::mount::unmount(&entry.path().join("shm")).unwrap();
        }
        for entry in std::fs::read_dir(self.folder.join("run/netns")).into_iter().flatten().flatten() {
            knarr_sys::mount::unmount(&entry.path()).unwrap();
        }
        for _ in 0..500 {
            if cgroup.remove().is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        std::fs::remove_dir_all(&self.folder).unwrap_or_default();
    }
}

/// Kills a process whose number a shim of ours has noted, if it still is a shim.
fn kill_if_shim(pid: i32) {
    if std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "knarr-shim") {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap_or_default();
    }
}

pub async fn ended(runtime: &Embedded, id: &str) -> ContainerStatus {
    until(async || {
        let status = runtime.container_status(id).await.unwrap();
        (status.state == ContainerState::Exited).then_some(status)
    })
    .await
}

/// Asks until there is an answer.
pub async fn until<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "nothing came in {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A log without its times: `stdout F text` for each line.
pub fn log(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| line.split_once(' ').unwrap().1).collect::<Vec<_>>().join("\n")
}

/// A layer with busybox, an app user and a few files.
pub fn layer() -> Vec<u8> {
    let busybox = std::fs::read("/bin/busybox").expect("these tests want busybox-static at /bin/busybox");
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |kind: tar::EntryType, name: &str, mode: u32, data: &[u8], link: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(data.len() as u64);
        header.set_uid(0);
        header.set_gid(0);
        if link.is_empty() {
            tar.append_data(&mut header, name, data).unwrap();
        } else {
            tar.append_link(&mut header, name, link).unwrap();
        }
    };
    for folder in ["bin", "etc", "tmp", "data"] {
        add(tar::EntryType::Directory, folder, if folder == "tmp" { 0o1777 } else { 0o755 }, &[], "");
    }
    add(tar::EntryType::Regular, "bin/busybox", 0o755, &busybox, "");
    for name in [
        "sh", "cat", "echo", "id", "ls", "sleep", "hostname", "touch", "ps", "kill", "mount", "nc", "stty", "tty", "env", "head", "dd", "mkdir", "grep",
        "sysctl", "stat", "chmod", "wc", "tr", "yes", "ip", "true", "mknod", "awk", "seq", "unshare", "readlink", "printf", "test", "sort", "date", "umount",
    ] {
        add(tar::EntryType::Symlink, &format!("bin/{name}"), 0o777, &[], "busybox");
    }
    add(tar::EntryType::Regular, "etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/data:/bin/sh\n", "");
    add(tar::EntryType::Regular, "etc/group", 0o644, b"root:x:0:\napp:x:1001:\naudio:x:29:app\n", "");
    add(tar::EntryType::Regular, "data/hello", 0o644, b"from the image\n", "");
    tar.into_inner().unwrap()
}

/// A second layer: removes a file, adds another.
pub fn second_layer() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, data) in [("data/.wh.hello", &b""[..]), ("data/second", b"layer two\n")] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(data.len() as u64);
        tar.append_data(&mut header, name, data).unwrap();
    }
    tar.into_inner().unwrap()
}

/// A config: `process` is what stands in `config`.
pub fn image_config(process: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let process: serde_json::Value = if process.is_empty() { serde_json::json!({}) } else { serde_json::from_str(process).unwrap() };
    let ids: Vec<String> = layers.iter().map(|l| knarr_runtime::image::Digest::of(l).to_string()).collect();
    serde_json::to_vec(&serde_json::json!({"architecture": "amd64", "os": "linux", "config": process, "rootfs": {"type": "layers", "diff_ids": ids}})).unwrap()
}

/// A `docker save` archive with images of these names and process configs.
pub fn docker_archive(images: &[(&str, &str)]) -> Vec<u8> {
    let layers = [layer()];
    let mut files = BTreeMap::from([("layer.tar".to_owned(), layers[0].clone())]);
    let mut manifest = Vec::new();
    for (at, (name, process)) in images.iter().enumerate() {
        let config = format!("{at}.json");
        files.insert(config.clone(), image_config(process, &layers));
        manifest.push(serde_json::json!({"Config": config, "RepoTags": [name], "Layers": ["layer.tar"]}));
    }
    files.insert("manifest.json".into(), serde_json::to_vec(&manifest).unwrap());
    tarball(&files)
}

pub fn tarball(files: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(data.len() as u64);
        tar.append_data(&mut header, name, data.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}
