//! What a container sees and may do. Needs root.

mod world;

use std::path::{Path, PathBuf};
use std::time::Duration;

use knarr_runtime::Runtime;
use knarr_runtime::cri::{ContainerConfig, ContainerState, Device, Error, Mount, NamespaceMode, Propagation, Resources, Seccomp};
use world::World;

/// Runs a script and compares what it writes to stdout.
async fn check(world: &World, sandbox: &str, config: &ContainerConfig, expected: &str) {
    let (code, output) = world.run(sandbox, config).await;
    let output: Vec<&str> = output.lines().map(|l| l.strip_prefix("stdout F ").unwrap_or(l)).collect();
    assert_eq!((output.join("\n"), code), (expected.to_owned(), 0), "of {:?}", config.command);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_groups_are_those_of_pod_and_image() {
    let world = World::new().await;
    let pod = world.sandbox("pod").await;
    let mut config = world.shell("id -u; id -g; id -G; echo $HOME; touch /etc/x 2>/dev/null || echo no; touch /tmp/x && echo yes");
    check(&world, &pod, &config, "0\n0\n0\n/root\nyes").await;
    config.security.run_as_user = Some(1000);
    config.security.supplemental_groups = vec![5000];
    check(&world, &pod, &config, "1000\n1001\n1001 29 5000\n/data\nno\nyes").await;
    config.security.strict_supplemental_groups = true;
    config.security.run_as_group = Some(7);
    check(&world, &pod, &config, "1000\n7\n7 5000\n/data\nno\nyes").await;

    let id = world.start(&pod, &config).await;
    assert_eq!(world.ended(&id).await.user, Some((1000, 7, vec![7, 5000])));
    config.security.run_as_user = Some(1 << 32);
    assert!(matches!(world.runtime.create_container(&pod, &config).await, Err(Error::Failed(text)) if text.contains("out of range")));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileges_are_the_default_ones_unless_changed() {
    let world = World::new().await;
    let pod = world.sandbox("pod").await;
    let status = "grep -E '^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t'";
    let mut config = world.shell(status);
    check(
        &world,
        &pod,
        &config,
        "CapInh:0000000000000000\nCapPrm:00000000a80425fb\nCapEff:00000000a80425fb\nCapBnd:00000000a80425fb\nCapAmb:0000000000000000\nNoNewPrivs:0\nSeccomp:2",
    )
    .await;
    config.security.run_as_user = Some(1000);
    config.security.no_new_privileges = true;
    config.security.drop_capabilities = vec!["ALL".into()];
    config.security.add_capabilities = vec!["NET_BIND_SERVICE".into()];
    check(
        &world,
        &pod,
        &config,
        "CapInh:0000000000000000\nCapPrm:0000000000000000\nCapEff:0000000000000000\nCapBnd:0000000000000400\nCapAmb:0000000000000000\nNoNewPrivs:1\nSeccomp:2",
    )
    .await;
    config.security.seccomp = Seccomp::Unconfined;
    let (_, output) = world.run(&pod, &config).await;
    assert!(output.ends_with("Seccomp:0"), "{output}");

    check(&world, &pod, &world.shell("unshare -U true 2>/dev/null || echo refused; mount -t tmpfs x /tmp 2>/dev/null || echo refused"), "refused\nrefused")
        .await;

    let profile = world.folder.join("profile.json");
    std::fs::write(&profile, r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#).unwrap();
    for no_new_privileges in [true, false] {
        let mut config = world.shell("mkdir /tmp/d 2>/dev/null || echo refused; touch /tmp/f && echo fine");
        config.security.seccomp = Seccomp::Localhost(profile.clone());
        config.security.no_new_privileges = no_new_privileges;
        check(&world, &pod, &config, "refused\nfine").await;
    }
    let mut config = world.shell("true");
    config.security.seccomp = Seccomp::Localhost(PathBuf::new());
    assert!(world.runtime.create_container(&pod, &config).await.is_err(), "a profile without a name is not unconfined");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kernel_files_are_masked_and_read_only() {
    let world = World::new().await;
    let pod = world.sandbox("pod").await;
    let mut config = world.shell(
        "cat /proc/timer_list | wc -c; ls /proc/acpi /sys/firmware 2>&1 | grep -v : | wc -w; touch /proc/acpi/x 2>/dev/null || echo ro
         echo 1 2>/dev/null > /proc/sys/kernel/panic || echo ro; echo b 2>/dev/null > /proc/sysrq-trigger || echo ro
         touch /sys/x 2>/dev/null || echo ro; mkdir /sys/fs/cgroup/pids/x 2>/dev/null || echo ro; cat /proc/self/cgroup | grep -v ':/$' | wc -l",
    );
    config.security.masked_paths = ["/proc/timer_list", "/proc/acpi", "/sys/firmware", "/proc/nothing"].map(String::from).into();
    config.security.readonly_paths = ["/proc/sys", "/proc/sysrq-trigger", "/proc/nothing"].map(String::from).into();
    check(&world, &pod, &config, "0\n0\nro\nro\nro\nro\nro\n0").await;

    let mut config =
        world.shell("touch /x 2>/dev/null || echo ro; touch /tmp/x 2>/dev/null || echo ro; touch /dev/shm/x && echo rw; echo x > /dev/null && echo rw");
    config.security.read_only_rootfs = true;
    check(&world, &pod, &config, "ro\nro\nrw\nrw").await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_are_few_unless_asked_for() {
    let world = World::new().await;
    let pod = world.sandbox("pod").await;
    let script = "ls /dev | tr '\\n' ' '; echo; head -c 3 /dev/zero | wc -c; mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg >/dev/null 2>&1 || echo refused; [ -t 0 ] || echo no terminal";
    check(&world, &pod, &world.shell(script), "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero \n3\nrefused\nno terminal").await;
    let mut config = world.shell("head -c 1 /dev/mine/kmsg >/dev/null && echo opened; echo x 2>/dev/null > /dev/mine/kmsg || echo read-only");
    config.devices = vec![Device { container_path: "/dev/mine/kmsg".into(), host_path: "/dev/kmsg".into(), permissions: "r".into() }];
    config.security.add_capabilities = vec!["SYSLOG".into()];
    check(&world, &pod, &config, "opened\nread-only").await;

    let mut config = world.shell("[ -e /dev/kmsg ] && echo kmsg; mkdir /sys/fs/cgroup/pids/knarr-probe && ls -d /sys/fs/cgroup/pids/knarr-probe; mount -t tmpfs x /tmp && echo mounted; grep Seccomp: /proc/self/status | tr -d '\\t'; rmdir /sys/fs/cgroup/pids/knarr-probe 2>/dev/null || /bin/busybox rmdir /sys/fs/cgroup/pids/knarr-probe");
    config.security.privileged = true;
    if Path::new("/sys/fs/cgroup/pids").exists() {
        check(&world, &pod, &config, "kmsg\n/sys/fs/cgroup/pids/knarr-probe\nmounted\nSeccomp:0").await;
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_are_mounted_where_and_how_the_pod_says() {
    let world = World::new().await;
    let pod = world.sandbox("pod").await;
    let host = world.folder.join("volume");
    std::fs::create_dir_all(host.join("sub")).unwrap();
    std::fs::write(host.join("file"), "host\n").unwrap();
    let mount = |from: &str, to: &str| Mount { host_path: host.join(from), container_path: to.into(), ..Mount::default() };
    let mut config = world.shell(
        "cat /vol/file; echo new > /vol/made; touch /ro/x 2>/dev/null || echo ro; cat /etc/one; echo y 2>/dev/null > /etc/one || echo ro; ls /deep/er; cat /deep/er/below; cat /tmp/link/file",
    );
    config.mounts = vec![
        mount("", "/deep/er/below/.."),
        Mount { container_path: "/deep/er/below".into(), ..mount("file", "") },
        mount("", "/vol"),
        Mount { read_only: true, ..mount("", "/ro") },
        Mount { read_only: true, ..mount("file", "/etc/one") },
        mount("", "/tmp/link"),
    ];
    check(&world, &pod, &config, "host\nro\nhost\nro\nbelow\nfile\nmade\nsub\nhost\nhost").await;
    assert_eq!(std::fs::read_to_string(host.join("made")).unwrap(), "new\n");

    config.mounts = vec![mount("missing", "/vol")];
    let error = world.runtime.create_container(&pod, &config).await.unwrap_err().to_string();
    assert!(error.contains("failed to mount") && error.contains("No such file"), "{error}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mounts_travel_as_far_as_propagation_lets_them() {
    let world = World::new().await;
    let pod = world.sandbox("pod").await;
    let host = world.folder.join("shared");
    for folder in ["private", "slave", "both"] {
        std::fs::create_dir_all(host.join(folder)).unwrap();
    }
    let tmpfs = |target: &Path, options: nix::mount::MsFlags| nix::mount::mount(Some("x"), target, Some("tmpfs"), options, None::<&str>).unwrap();
    tmpfs(&host, nix::mount::MsFlags::empty());
    nix::mount::mount(None::<&str>, &host, None::<&str>, nix::mount::MsFlags::MS_SHARED, None::<&str>).unwrap();
    std::fs::create_dir_all(host.join("late")).unwrap();
    std::fs::create_dir_all(host.join("theirs")).unwrap();
    let mount = |to: &str, propagation| Mount { host_path: host.clone(), container_path: to.into(), propagation, ..Mount::default() };
    let mut config = world.shell("until [ -e /slave/late/mark ]; do sleep 0.01; done; [ -e /private/late/mark ] || echo private; mount -t tmpfs x /both/theirs && touch /both/theirs/mark; echo done; while :; do sleep 1; done");
    config.security.privileged = true;
    config.mounts = vec![mount("/private", Propagation::Private), mount("/slave", Propagation::HostToContainer), mount("/both", Propagation::Bidirectional)];
    let id = world.start(&pod, &config).await;
    tmpfs(&host.join("late"), nix::mount::MsFlags::empty());
    std::fs::write(host.join("late/mark"), "").unwrap();
    world::until(async || host.join("theirs/mark").exists().then_some(())).await;
    let path = world.runtime.container_status(&id).await.unwrap().log_path;
    world::until(async || world::log(&path).contains("done").then_some(())).await;
    assert_eq!(world::log(&path), "stdout F private\nstdout F done");
    world.runtime.remove_container(&id).await.unwrap();

    config.mounts = vec![Mount { host_path: world.folder.clone(), ..mount("/x", Propagation::Bidirectional) }];
    let refused = world.runtime.create_container(&pod, &config).await;
    let parent_is_shared = std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().any(|l| l.split(' ').nth(4) == Some("/") && l.contains("shared:"));
    assert_eq!(refused.is_err(), !parent_is_shared);
    for target in ["theirs", "late", ""] {
        knarr_sys::mount::unmount(&host.join(target)).unwrap();
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_has_its_own_network_name_and_memory() {
    let world = World::new().await;
    let mut pod = world.sandbox_config("pod");
    pod.sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "7".into());
    pod.sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
    pod.shm_size = Some(8 << 20);
    let status = world.runtime.run_pod_sandbox(&pod).await.unwrap();
    assert!(status.netns.as_ref().unwrap().exists());
    let script = "hostname; cat /etc/hostname; echo $HOSTNAME; ip -o addr | awk '{print $2, $4}'; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced; stat -f -c '%b %S' /dev/shm; ls /proc > /tmp/all; grep -c '^[0-9]' /tmp/all; echo $$";
    check(&world, &status.id, &world.shell(script), "pod\npod\npod\nlo 127.0.0.1/8\nlo ::1/128\n7\n1\n2048 4096\n2\n1").await;

    let mut config = world.shell("echo from one > /dev/shm/f; while [ ! -e /dev/shm/g ]; do sleep 0.01; done; cat /dev/shm/g");
    config.log_path = "one/0.log".into();
    let one = world.start(&status.id, &config).await;
    check(&world, &status.id, &world.shell("while [ ! -e /dev/shm/f ]; do sleep 0.01; done; cat /dev/shm/f; echo back > /dev/shm/g"), "from one").await;
    assert_eq!(world.ended(&one).await.exit_code, Some(0));

    let mut bad = world.sandbox_config("bad");
    bad.sysctls.insert("kernel/../../tmp/x".into(), "1".into());
    assert!(world.runtime.run_pod_sandbox(&bad).await.is_err());
    let mut host = world.sandbox_config("host");
    (host.network, host.ipc) = (NamespaceMode::Node, NamespaceMode::Node);
    let status = world.runtime.run_pod_sandbox(&host).await.unwrap();
    assert_eq!(status.netns, None);
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    check(&world, &status.id, &world.shell("readlink /proc/self/ns/net"), own.to_str().unwrap()).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_are_shared_as_far_as_the_pod_says() {
    let world = World::new().await;
    let mut pod = world.sandbox_config("shared");
    pod.pid = NamespaceMode::Pod;
    let shared = world.runtime.run_pod_sandbox(&pod).await.unwrap().id;
    let in_mode = |script: &str, mode| {
        let mut config = world.shell(script);
        config.security.pid = mode;
        config
    };
    let mut sleeper = in_mode("exec sleep 4321", NamespaceMode::Pod);
    sleeper.log_path = "sleeper/0.log".into();
    let id = world.start(&shared, &sleeper).await;
    check(
        &world,
        &shared,
        &in_mode("ps | grep -c '[s]leep 4321'; [ $$ -gt 1 ] && echo not one; (sleep 0 &); sleep 0.05; ps | grep -c '[Z]ombie'; true", NamespaceMode::Pod),
        "1\nnot one\n0",
    )
    .await;
    // A container that ends takes its own processes along, not those of others.
    check(&world, &shared, &in_mode("sleep 1234 & echo started", NamespaceMode::Pod), "started").await;
    check(&world, &shared, &in_mode("ps | grep -c '[s]leep 1234'; ps | grep -c '[s]leep 4321'", NamespaceMode::Pod), "0\n1").await;
    check(&world, &shared, &in_mode("echo $$; ps | grep -c '[s]leep 4321'; true", NamespaceMode::Container), "1\n0").await;
    let own = std::fs::read_link("/proc/self/ns/pid").unwrap();
    check(&world, &shared, &in_mode("readlink /proc/self/ns/pid", NamespaceMode::Node), own.to_str().unwrap()).await;

    let single = world.sandbox("single").await;
    let target = world.start(&single, &world.shell("exec sleep 5432")).await;
    let mut debugger = world.shell("ps | grep -c '[s]leep 5432'; kill -9 1 || kill -15 1");
    debugger.log_path = "debugger/0.log".into();
    debugger.security.target_container = Some(target.clone());
    let debug = world.start(&single, &debugger).await;
    let status = world.ended(&debug).await;
    assert!(world::log(&status.log_path).contains("stdout F 1"));
    for id in [id, target] {
        world.runtime.remove_container(&id).await.unwrap();
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_hold_and_can_be_changed() {
    let world = World::new().await;
    let mut pod = world.sandbox_config("pod");
    pod.pod_resources.memory_limit = Some(200 << 20);
    let status = world.runtime.run_pod_sandbox(&pod).await.unwrap();
    let hierarchies = knarr_sys::cgroup::Hierarchies::detect().unwrap();
    let pod_cgroup = hierarchies.cgroup(&pod.cgroup_parent);
    assert_eq!(pod_cgroup.stats().unwrap().memory_limit, Some(200 << 20));

    let mut config = world.shell("head -c 100000000 /dev/zero | awk 'BEGIN{RS=\"x\"}{print length($0)}'; echo survived; exit 5");
    config.command = vec!["/bin/awk".into(), "BEGIN{s=\"xxxxxxxxxxxxxxxx\"; while(1) s = s s}".into()];
    config.resources = Resources { memory_limit: Some(20 << 20), ..Resources::default() };
    let id = world.start(&status.id, &config).await;
    let ended = world.ended(&id).await;
    assert_eq!((ended.exit_code, ended.reason.as_str()), (Some(137), "OOMKilled"));
    world.runtime.remove_container(&id).await.unwrap();

    let mut config = world.shell("while [ ! -e /tmp/go ]; do sleep 0.01; done");
    config.resources = Resources {
        cpu_shares: Some(512),
        cpu_quota: Some(50_000),
        cpu_period: Some(100_000),
        pids_limit: Some(20),
        memory_limit: Some(50 << 20),
        oom_score_adj: Some(500),
        ..Resources::default()
    };
    let id = world.start(&status.id, &config).await;
    let leaf = pod_cgroup.child(&id);
    assert_eq!(leaf.stats().unwrap().memory_limit, Some(50 << 20));
    let read = |controller: &str, file: &str| std::fs::read_to_string(leaf.folder(controller).unwrap().join(file)).unwrap().trim().to_owned();
    assert_eq!(read("pids", "pids.max"), "20");
    if !hierarchies.is_unified() {
        assert_eq!((read("cpu", "cpu.shares"), read("cpu", "cpu.cfs_quota_us")), ("512".into(), "50000".into()));
    }
    let pid = world.runtime.container_status(&id).await.unwrap().pid.unwrap();
    assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim(), "500");
    for bytes in [80 << 20, 30 << 20] {
        world.runtime.update_container_resources(&id, &Resources { memory_limit: Some(bytes), ..Resources::default() }).await.unwrap();
        assert_eq!(leaf.stats().unwrap().memory_limit, Some(bytes as u64));
    }
    let status = world.runtime.container_status(&id).await.unwrap();
    assert_eq!((status.resources.memory_limit, status.resources.cpu_shares), (Some(30 << 20), Some(512)));
    let stats = world.runtime.container_stats(&id).await.unwrap();
    assert!(stats.memory_usage_bytes > 0 && stats.process_count >= 1 && stats.writable_layer_bytes > 0, "{stats:?}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_started_says_why() {
    let world = World::new().await;
    let pod = world.sandbox("pod").await;
    let failure = async |command: &[&str], change: fn(&mut ContainerConfig)| {
        let mut config = world.shell("");
        config.command = command.iter().map(|s| (*s).to_owned()).collect();
        change(&mut config);
        let id = world.runtime.create_container(&pod, &config).await.unwrap();
        let error = world.runtime.start_container(&id).await.unwrap_err().to_string();
        let status = world.runtime.container_status(&id).await.unwrap();
        assert_eq!((status.state, status.exit_code, status.reason.as_str()), (ContainerState::Exited, Some(128), "StartError"));
        assert_eq!(status.message, error);
        world.runtime.remove_container(&id).await.unwrap();
        error.strip_prefix("failed to create task: OCI runtime create failed: unable to start container process: ").unwrap_or(&error).to_owned()
    };
    let same = |_: &mut ContainerConfig| {};
    assert_eq!(failure(&["nothing"], same).await, r#"exec: "nothing": executable file not found in $PATH"#);
    assert_eq!(failure(&["/no/thing"], same).await, r#"exec: "/no/thing": stat /no/thing: no such file or directory"#);
    assert_eq!(failure(&["/etc/passwd"], same).await, r#"exec: "/etc/passwd": permission denied"#);
    assert_eq!(failure(&["/etc"], same).await, r#"exec: "/etc": is a directory"#);
    assert!(failure(&["/bin/true"], |c| c.working_dir = "/etc/passwd".into()).await.starts_with(r#"chdir to cwd ("/etc/passwd")"#));

    let mut config = world.shell("pwd; touch x && ls");
    config.working_dir = "/made/for/me".into();
    check(&world, &pod, &config, "/made/for/me\nx").await;
    config.working_dir = "/proc/self/fd/7".into();
    let id = world.runtime.create_container(&pod, &config).await.unwrap();
    assert!(world.runtime.start_container(&id).await.is_err(), "no descriptor of ours leads outside");
    world.runtime.remove_container(&id).await.unwrap();
    config.image = "sha256:".to_owned() + &"0".repeat(64);
    assert!(matches!(world.runtime.create_container(&pod, &config).await, Err(Error::NotFound(_))));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_cannot_be_started_in_anothers_namespace_does_not_keep_that_alive() {
    let world = World::new().await;
    let pod = world.sandbox("pod").await;
    let target = world.start(&pod, &world.shell("sleep 4321")).await;
    let mut config = world.shell("");
    (config.name, config.command) = ("debugger".into(), vec!["nothing".into()]);
    config.security.target_container = Some(target.clone());
    let id = world.runtime.create_container(&pod, &config).await.unwrap();
    world.runtime.start_container(&id).await.unwrap_err();
    let stopped = tokio::time::timeout(world::PATIENCE, world.runtime.stop_container(&target, Duration::ZERO)).await;
    stopped.expect("the kernel waits for a process that nobody has buried").unwrap();
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_of_the_image_begin_with_its_content_and_can_be_written() {
    let world = World::new().await;
    let pod = world.sandbox("pod").await;
    let archive = world.folder.join("volumes.tar");
    std::fs::write(&archive, world::docker_archive(&[("test.local/volumes:1", r#"{"Volumes": {"/data": {}, "/new/one": {}}}"#)])).unwrap();
    world.runtime.load_images(&archive).await.unwrap();
    let script = "cat /data/hello; touch /data/x && echo data; touch /new/one/x && echo new; touch /etc/x 2>/dev/null || echo ro; stat -c %a /data";
    let mut config = world.shell(script);
    config.image = world.runtime.image_status("test.local/volumes:1").await.unwrap().unwrap().id;
    config.security.read_only_rootfs = true;
    check(&world, &pod, &config, "from the image\ndata\nnew\nro\n755").await;
    let host = world.folder.join("mine");
    std::fs::create_dir(&host).unwrap();
    config.mounts = vec![Mount { host_path: host.clone(), container_path: "/data".into(), ..Mount::default() }];
    config.command[2] = "ls /data; touch /data/mine".into();
    check(&world, &pod, &config, "").await;
    assert!(host.join("mine").exists());
    world.close().await;
}

/// Another container of the pod swaps a folder of a shared volume for a link to the host's folders, over and over, while containers with a
/// mount below it are made (CVE-2021-30465).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swapped_paths_lead_nowhere() {
    let world = World::new().await;
    let pod = world.sandbox("pod").await;
    let (volume, inner, outside) = (world.folder.join("volume"), world.folder.join("inner"), world.folder.join("outside"));
    for folder in [&volume, &inner, &outside, &volume.join("spot")] {
        std::fs::create_dir_all(folder).unwrap();
    }
    std::os::unix::fs::symlink(&outside, volume.join("link")).unwrap();
    std::fs::write(inner.join("mark"), "").unwrap();
    let (spot, link) = (volume.join("spot"), volume.join("link"));
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let swapping = {
        let stop = stop.clone();
        std::thread::spawn(move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                nix::fcntl::renameat2(nix::fcntl::AT_FDCWD, &spot, nix::fcntl::AT_FDCWD, &link, nix::fcntl::RenameFlags::RENAME_EXCHANGE).unwrap();
            }
        })
    };
    let mount = |from: &Path, to: &str| Mount { host_path: from.to_owned(), container_path: to.into(), ..Mount::default() };
    let mut config = world.shell("true");
    config.mounts = vec![mount(&volume, "/vol"), mount(&inner, "/vol/spot/deep")];
    let mut ran = 0;
    for _ in 0..50 {
        let Ok(id) = world.runtime.create_container(&pod, &config).await else { continue };
        if world.runtime.start_container(&id).await.is_ok() {
            world.ended(&id).await;
            ran += 1;
        }
        world.runtime.remove_container(&id).await.unwrap();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    swapping.join().unwrap();
    assert!(ran > 0, "the race was run");
    assert!(std::fs::read_dir(&outside).unwrap().next().is_none(), "nothing was made outside the containers");
    world.close().await;
}
