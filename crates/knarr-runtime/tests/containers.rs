//! Real containers: what runs in them sees what its pod has asked for. Needs root.

mod world;

use std::time::{Duration, Instant};

use knarr_runtime::Runtime;
use knarr_runtime::cri::{ContainerState, SandboxState};
use world::{World, log, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_runs_logs_and_ends_with_its_code() {
    let world = World::new().await;
    let sandbox = world.sandbox("pod").await;
    let (code, output) = world.run(&sandbox, &world.shell("echo out; echo err >&2; cat /data/hello; exit 7")).await;
    let mut lines: Vec<&str> = output.lines().collect();
    lines.sort_unstable();
    assert_eq!((code, lines), (7, vec!["stderr F err", "stdout F from the image", "stdout F out"]));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starting_is_quick() {
    let world = World::new().await;
    let sandbox = world.sandbox("warm").await;
    let mut best = (Duration::MAX, Duration::MAX, Duration::MAX);
    for round in 0..20 {
        let begun = Instant::now();
        let pod = world.sandbox(&format!("pod{round}")).await;
        best.0 = best.0.min(begun.elapsed());
        let begun = Instant::now();
        let id = world.start(&sandbox, &world.shell("exit 0")).await;
        best.1 = best.1.min(begun.elapsed());
        world.ended(&id).await;
        best.2 = best.2.min(begun.elapsed());
        world.runtime.remove_container(&id).await.unwrap();
        world.runtime.remove_pod_sandbox(&pod).await.unwrap();
    }
    println!("sandbox {:?}, create and start {:?}, until exit {:?}", best.0, best.1, best.2);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_asks_first_and_kills_then() {
    let world = World::new().await;
    let sandbox = world.sandbox("pod").await;
    let polite = world.start(&sandbox, &world.shell("trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done")).await;
    let path = world.runtime.container_status(&polite).await.unwrap().log_path;
    until(async || log(&path).contains("ready").then_some(())).await;
    world.runtime.stop_container(&polite, Duration::from_secs(30)).await.unwrap();
    let status = world.runtime.container_status(&polite).await.unwrap();
    assert_eq!((status.state, status.exit_code, status.reason.as_str()), (ContainerState::Exited, Some(3), "Error"));
    assert!(log(&path).ends_with("stdout F bye"));

    let mut config = world.shell("trap '' TERM; echo deaf; while :; do sleep 0.01; done");
    config.log_path = "deaf/0.log".into();
    let deaf = world.start(&sandbox, &config).await;
    let path = world.runtime.container_status(&deaf).await.unwrap().log_path;
    until(async || log(&path).contains("deaf").then_some(())).await;
    world.runtime.stop_container(&deaf, Duration::from_millis(50)).await.unwrap();
    let status = world.runtime.container_status(&deaf).await.unwrap();
    assert_eq!((status.state, status.exit_code), (ContainerState::Exited, Some(137)));
    world.runtime.stop_pod_sandbox(&sandbox).await.unwrap();
    assert_eq!(world.runtime.list_pod_sandboxes().await.unwrap()[0].state, SandboxState::NotReady);
    world.close().await;
}
