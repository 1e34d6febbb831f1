//! What is killed, and what lives on. Needs root.

mod world;

use std::time::Duration;

use knarr_runtime::Runtime;
use knarr_runtime::cri::{ContainerState, NamespaceMode, RuntimeEvent, SandboxState};
use world::{World, log, until};

fn shim_pid(world: &World, sandbox: &str) -> i32 {
    let state = std::fs::read_to_string(world.folder.join("run/sandboxes").join(sandbox).join("shim.json")).unwrap();
    serde_json::from_str::<serde_json::Value>(&state).unwrap()["pid"].as_i64().unwrap() as i32
}

fn kill(pid: i32) {
    signal(pid, nix::sys::signal::Signal::SIGKILL);
}

fn signal(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_agent_finds_everything_running() {
    let mut world = World::new().await;
    let pod = world.sandbox("pod").await;
    world.runtime.set_sandbox_ips(&pod, vec!["10.0.0.7".into()]).await.unwrap();
    let ticking = world.start(&pod, &world.shell("i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done")).await;
    let mut config = world.shell("while [ ! -e /tmp/end ]; do sleep 0.01; done; exit 42");
    config.log_path = "other/0.log".into();
    let ending = world.start(&pod, &config).await;
    let mut created = config.clone();
    created.log_path = "created/0.log".into();
    let created = world.runtime.create_container(&pod, &created).await.unwrap();
    let before = world.runtime.container_status(&ticking).await.unwrap();
    let netns = world.runtime.list_pod_sandboxes().await.unwrap()[0].netns.clone();

    world.replace_agent(|| ()).await;
    let (pods, after) = (world.runtime.list_pod_sandboxes().await.unwrap(), world.runtime.container_status(&ticking).await.unwrap());
    assert_eq!((after.pid, after.started_at, after.state), (before.pid, before.started_at, ContainerState::Running));
    assert_eq!((&pods[0].state, &pods[0].ips, &pods[0].netns), (&SandboxState::Ready, &vec!["10.0.0.7".to_owned()], &netns));
    world.replace_agent(|| ()).await;
    let mut events = world.runtime.events();
    world.runtime.exec_sync(&ending, &["touch".into(), "/tmp/end".into()], world::PATIENCE).await.unwrap();
    assert_eq!(world.ended(&ending).await.exit_code, Some(42));
    assert!(matches!(events.recv().await.unwrap(), RuntimeEvent::ContainerExited { container_id, .. } if container_id == ending));
    world.runtime.start_container(&created).await.unwrap();
    let lines = log(&before.log_path).lines().count();
    until(async || (log(&before.log_path).lines().count() > lines + 3).then_some(())).await;
    let text = log(&before.log_path);
    let numbers: Vec<usize> = text.lines().map(|l| l.strip_prefix("stdout F ").unwrap().parse().unwrap()).collect();
    assert!(numbers.iter().copied().eq(1..=numbers.len()), "no line is lost or doubled");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_outlive_their_shim() {
    for shared in [false, true] {
        let world = World::new().await;
        let mut config = world.sandbox_config("pod");
        config.pid = if shared { NamespaceMode::Pod } else { NamespaceMode::Container };
        let pod = world.runtime.run_pod_sandbox(&config).await.unwrap().id;
        let mut config = world.shell("i=0; while [ ! -e /tmp/end ]; do i=$((i+1)); echo $i; sleep 0.01; done; exit 42");
        config.security.pid = if shared { NamespaceMode::Pod } else { NamespaceMode::Container };
        let id = world.start(&pod, &config).await;
        let before = world.runtime.container_status(&id).await.unwrap();
        let old_shim = shim_pid(&world, &pod);
        until(async || (log(&before.log_path).lines().count() > 3).then_some(())).await;
        kill(old_shim);
        until(async || (shim_pid(&world, &pod) != old_shim).then_some(())).await;
        let lines = log(&before.log_path).lines().count();
        until(async || (log(&before.log_path).lines().count() > lines + 3).then_some(())).await;
        let after = world.runtime.container_status(&id).await.unwrap();
        assert_eq!((after.pid, after.state), (before.pid, ContainerState::Running));
        assert_eq!(world.runtime.list_pod_sandboxes().await.unwrap()[0].state, SandboxState::Ready);

        // A second container lives in the same namespaces.
        let mut second = world.shell("hostname; readlink /proc/self/ns/net; readlink /proc/self/ns/ipc");
        second.log_path = "second/0.log".into();
        let (_, output) = world.run(&pod, &second).await;
        let own = |kind: &str| std::fs::read_link(format!("/proc/{}/ns/{kind}", before.pid.unwrap())).unwrap().display().to_string();
        assert_eq!(output, format!("stdout F pod\nstdout F {}\nstdout F {}", own("net"), own("ipc")));

        world.runtime.exec_sync(&id, &["touch".into(), "/tmp/end".into()], world::PATIENCE).await.unwrap();
        assert_eq!(world.ended(&id).await.exit_code, Some(42));
        let text = log(&before.log_path);
        let numbers: Vec<usize> = text.lines().map(|l| l.strip_prefix("stdout F ").unwrap().parse().unwrap()).collect();
        assert!(numbers.iter().copied().eq(1..=numbers.len()), "no line is lost or doubled");
        world.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_comes_back_when_its_maker_died_before_it() {
    let world = World::new().await;
    let (mut pods, mut logs) = (Vec::new(), Vec::new());
    for name in ["first", "second"] {
        let pod = world.sandbox(name).await;
        let mut config = world.shell("i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done");
        config.log_path = format!("{name}/0.log").into();
        let container = world.start(&pod, &config).await;
        logs.push(world.runtime.container_status(&container).await.unwrap().log_path);
        pods.push(pod);
    }
    let (dies, lives) = (shim_pid(&world, &pods[0]), shim_pid(&world, &pods[1]));
    let spawner = parent(dies);
    assert_eq!(parent(lives), spawner);
    kill(spawner);
    until(async || (parent(lives) != spawner).then_some(())).await;
    kill(dies);
    until(async || {
        let all = world.runtime.list_pod_sandboxes().await.unwrap();
        assert!(all.iter().all(|pod| pod.state == SandboxState::Ready), "a pod between two shims is as ready as before: {all:?}");
        (shim_pid(&world, &pods[0]) != dies).then_some(())
    })
    .await;
    let lines = log(&logs[0]).lines().count();
    until(async || (log(&logs[0]).lines().count() > lines + 3).then_some(())).await;
    assert_eq!(shim_pid(&world, &pods[1]), lives);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_ends_though_its_shim_dies_while_it_is_stopped() {
    let world = World::new().await;
    let pod = world.sandbox("pod").await;
    let id = world.start(&pod, &world.shell("sleep 4321")).await;
    let shim = shim_pid(&world, &pod);
    // It will not hear that it shall stop.
    signal(shim, nix::sys::signal::Signal::SIGSTOP);
    let ends = async {
        until(async || (world.runtime.list_pod_sandboxes().await.unwrap()[0].state == SandboxState::NotReady).then_some(())).await;
        kill(shim);
    };
    let (stopped, ()) = tokio::join!(tokio::time::timeout(world::PATIENCE, world.runtime.stop_pod_sandbox(&pod)), ends);
    stopped.expect("nobody tells of the container's end").unwrap();
    let status = world.runtime.container_status(&id).await.unwrap();
    assert_eq!((status.state, status.exit_code), (ContainerState::Exited, Some(137)));
    world.close().await;
}

/// A pod has one shim, whatever agents that died have asked for: one that was made and not seen by the next agent makes way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_never_has_two_shims() {
    let mut world = World::new().await;
    let pod = world.sandbox("pod").await;
    let id = world.start(&pod, &world.shell("i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done")).await;
    let path = world.runtime.container_status(&id).await.unwrap().log_path;
    let unseen = shim_pid(&world, &pod);
    let socket = world.folder.join("run/sandboxes").join(&pod).join("shim.sock");
    world.replace_agent(|| std::fs::remove_file(&socket).unwrap()).await;
    until(async || (shim_pid(&world, &pod) != unseen).then_some(())).await;
    until(async || (!std::path::Path::new(&format!("/proc/{unseen}")).exists()).then_some(())).await;
    let lines = log(&path).lines().count();
    until(async || (log(&path).lines().count() > lines + 3).then_some(())).await;
    world.close().await;
}

fn parent(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exit_that_no_shim_saw_is_known() {
    let world = World::new().await;
    let pod = world.sandbox("pod").await;
    let id = world.start(&pod, &world.shell("while [ ! -e /tmp/end ]; do sleep 0.01; done; exit 42")).await;
    let pid = world.runtime.container_status(&id).await.unwrap().pid.unwrap();
    let shim = shim_pid(&world, &pod);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGSTOP).unwrap();
    std::fs::write(format!("/proc/{pid}/root/tmp/end"), "").unwrap();
    until(async || std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |s| s.contains(") Z ")).then_some(())).await;
    kill(shim);
    let status = world.ended(&id).await;
    let known = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = known.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    if (numbers.next(), numbers.next()) >= (Some(6), Some(15)) {
        assert_eq!(status.exit_code, Some(42));
    }
    until(async || (world.runtime.list_pod_sandboxes().await.unwrap()[0].state == SandboxState::NotReady).then_some(())).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agent_and_shim_may_die_together() {
    let mut world = World::new().await;
    let pod = world.sandbox("pod").await;
    let id = world.start(&pod, &world.shell("i=0; while :; do i=$((i+1)); echo $i; echo $i > /tmp/said; sleep 0.01; done")).await;
    let mut config = world.shell("exit 3");
    config.log_path = "over/0.log".into();
    let over = world.start(&pod, &config).await;
    world.ended(&over).await;
    let before = world.runtime.container_status(&id).await.unwrap();
    until(async || (log(&before.log_path).lines().count() > 3).then_some(())).await;
    let shim = shim_pid(&world, &pod);
    world
        .replace_agent(|| {
            kill(shim);
            // It goes on to write, while nobody is there to read. The file is empty for moments, between two numbers.
            let said = format!("/proc/{}/root/tmp/said", before.pid.unwrap());
            let said = || loop {
                if let Ok(number) = std::fs::read_to_string(&said).unwrap().trim().parse::<usize>() {
                    break number;
                }
            };
            let (deadline, first) = (std::time::Instant::now() + world::PATIENCE, said());
            while said() < first + 4 {
                assert!(std::time::Instant::now() < deadline, "it does not go on to write");
                std::thread::yield_now();
            }
        })
        .await;
    let after = world.runtime.container_status(&id).await.unwrap();
    assert_eq!((after.state, after.pid), (ContainerState::Running, before.pid));
    let lines = log(&before.log_path).lines().count();
    until(async || (log(&before.log_path).lines().count() > lines + 10).then_some(())).await;
    let numbers: Vec<usize> = log(&before.log_path).lines().map(|l| l.strip_prefix("stdout F ").unwrap().parse().unwrap()).collect();
    assert!(numbers.iter().copied().eq(1..=numbers.len()), "no line is lost or doubled");
    assert_eq!(world.runtime.container_status(&over).await.unwrap().exit_code, Some(3));
    assert_eq!(world.runtime.exec_sync(&id, &["echo".into(), "alive".into()], world::PATIENCE).await.unwrap().stdout, b"alive\n");
    world.runtime.stop_container(&id, Duration::ZERO).await.unwrap();
    assert_eq!(world.runtime.container_status(&id).await.unwrap().exit_code, Some(137));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_stopped_stays_stopped() {
    let mut world = World::new().await;
    let pod = world.sandbox("pod").await;
    let id = world.start(&pod, &world.shell("exec sleep 1000")).await;
    world.runtime.stop_pod_sandbox(&pod).await.unwrap();
    world.runtime.stop_pod_sandbox(&pod).await.unwrap();
    assert_eq!(world.runtime.container_status(&id).await.unwrap().exit_code, Some(137));
    world.replace_agent(|| ()).await;
    assert_eq!(world.runtime.list_pod_sandboxes().await.unwrap()[0].state, SandboxState::NotReady);
    assert_eq!(world.runtime.container_status(&id).await.unwrap().exit_code, Some(137));
    assert!(world.runtime.create_container(&pod, &world.shell("true")).await.is_err());
    world.runtime.remove_pod_sandbox(&pod).await.unwrap();
    assert!(world.runtime.list_containers().await.unwrap().is_empty());
    world.runtime.remove_pod_sandbox(&pod).await.unwrap();
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_goes_before_its_container_starts_takes_its_shim_along() {
    let world = World::new().await;
    let pod = world.sandbox("pod").await;
    let shim = shim_pid(&world, &pod);
    world.runtime.create_container(&pod, &world.shell("true")).await.unwrap();
    world.runtime.remove_pod_sandbox(&pod).await.unwrap();
    until(async || (!std::path::Path::new(&format!("/proc/{shim}")).exists()).then_some(())).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shims_program_cannot_be_overwritten() {
    let world = World::new().await;
    let pod = world.sandbox("pod").await;
    let program = format!("/proc/{}/exe", shim_pid(&world, &pod));
    let error = std::fs::OpenOptions::new().write(true).open(&program).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "refused for good, not only while it runs: {error}");
    // A script whose interpreter is the process that runs it finds nothing of ours in the container to run.
    let mut config = world.shell("printf '#!/proc/self/exe\\n' > /tmp/s; chmod +x /tmp/s; /tmp/s; readlink /proc/self/exe");
    config.log_path = "x/0.log".into();
    assert!(world.run(&pod, &config).await.1.contains("/bin/busybox"));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_agents_never_share_a_folder() {
    let world = World::new().await;
    let second = world::try_open(&world.folder).await;
    assert!(second.is_err_and(|e| e.to_string().contains("another agent runs on")));
    world.close().await;
}
