//! Whole lives of pods, against an API, a runtime and a network in memory, on virtual time.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, PodStatus};
use knarr_client::Deletion;
use knarr_client::fake::FakeApi;
use knarr_core::{Value, ValueExt, json};

use super::*;
use crate::events::Kept;
use crate::fake::{self, FakeRuntime, Program};
use crate::testing::{FakeNetwork, pod_of};
use crate::volumes::mounter::Recording;

struct World {
    api: Arc<FakeApi>,
    runtime: Arc<FakeRuntime>,
    network: Arc<FakeNetwork>,
    events: Arc<Kept>,
    env: Env,
    dir: tempfile::TempDir,
    cancel: CancellationToken,
}

impl World {
    fn new() -> Self {
        let env = Env::simulated(1, Timestamp::from_second(1_700_000_000).unwrap());
        let world = Self {
            api: FakeApi::new(env.clone()),
            runtime: FakeRuntime::new(env.clone()),
            network: Arc::default(),
            events: Arc::default(),
            env,
            dir: tempfile::tempdir().unwrap(),
            cancel: CancellationToken::new(),
        };
        world.runtime.add_image("x:1");
        world
    }

    /// A world in which the agent runs.
    fn started() -> Self {
        let world = Self::new();
        world.start();
        world
    }

    fn start(&self) {
        let mut config = AgentConfig::new("n");
        config.addresses = vec!["192.0.2.1".parse().unwrap()];
        config.root_dir = self.dir.path().join("kubelet");
        config.pod_log_dir = self.dir.path().join("pods");
        config.container_log_dir = self.dir.path().join("containers");
        config.resolv_conf = None;
        config.eviction_hard.clear();
        config.image_gc_high_percent = 101;
        config.cluster_dns = vec!["10.96.0.10".parse().unwrap()];
        let parts = Parts {
            client: Client::new(Arc::new(crate::testing::MergesStatus(self.api.clone()))),
            runtime: Arc::new(fake::Handle(self.runtime.clone())),
            network: self.network.clone(),
            events: self.events.clone(),
            env: self.env.clone(),
            mounter: Some(Arc::new(Recording::default())),
        };
        tokio::spawn(Agent::new(config, parts).run(self.cancel.clone()));
    }

    async fn create(&self, spec: Value) {
        let mut pod = pod_of(spec);
        pod.spec.as_mut().unwrap().node_name = Some("n".into());
        pod.metadata.resource_version = None;
        self.api.seed(&pod);
    }

    fn pod(&self) -> Option<Pod> {
        self.api.read::<Pod>("default", "p")
    }

    fn status(&self) -> PodStatus {
        self.pod().and_then(|p| p.status).unwrap_or_default()
    }

    async fn until(&self, what: &str, condition: impl Fn(&PodStatus) -> bool) -> PodStatus {
        let waiting = self.api.until(|_| condition(&self.status()));
        if tokio::time::timeout(Duration::from_secs(1200), waiting).await.is_err() {
            panic!("never {what}: {:#?}\nevents {:#?}\ncalls {:#?}", self.status(), self.events.all(), self.runtime.calls());
        }
        self.status()
    }

    async fn until_phase(&self, phase: &str) -> PodStatus {
        self.until(phase, |s| s.phase.as_deref() == Some(phase)).await
    }

    async fn until_ready(&self) -> PodStatus {
        self.until("ready", |s| s.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")).await
    }

    async fn until_gone(&self) {
        let waiting = self.api.until(|api| api.read::<Pod>("default", "p").is_none());
        if tokio::time::timeout(Duration::from_secs(1200), waiting).await.is_err() {
            panic!("never gone: {:#?}\ncalls {:#?}", self.pod(), self.runtime.calls());
        }
    }

    /// Waits until the runtime has nothing left.
    async fn until_empty(&self) {
        while !(self.network.attached().is_empty() && self.runtime.calls().iter().any(|c| c == "remove sandbox")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn delete(&self, grace: Option<i64>) {
        let deletion = Deletion { grace_period_seconds: grace, ..Default::default() };
        self.api.client().within::<Pod>("default").delete("p", &deletion).await.unwrap();
    }

    fn calls(&self) -> String {
        self.runtime.calls().join(", ")
    }

    fn events_of(&self, reason: &str) -> Vec<String> {
        self.events.all().into_iter().filter(|e| e.split(' ').nth(1) == Some(reason)).collect()
    }

    fn seconds(&self) -> i64 {
        self.env.now().as_second() - 1_700_000_000
    }

    /// Changes the request of the pod's first container, as the resize subresource does.
    async fn ask_for_cpu(&self, cpu: &str, generation: i64) {
        let body = json!({"metadata": {"generation": generation}, "spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]}});
        self.api.client().within::<Pod>("default").patch("p", knarr_client::Patch::strategic(body)).await.unwrap();
    }

    fn config_map(&self, name: &str, key: &str, value: &str) {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "default", "name": name}, "data": {key: value}});
        self.api.seed::<ConfigMap>(&serde_json::from_value(map).unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_becomes_ready_and_leaves_nothing_behind() {
    let world = World::started();
    world.create(json!({"containers": [{"name": "a"}, {"name": "b"}]})).await;
    let status = world.until_ready().await;
    assert_eq!((status.phase.as_deref(), status.pod_ip.as_deref(), status.host_ip.as_deref()), (Some("Running"), Some("10.0.0.1"), Some("192.0.2.1")));
    assert_eq!(world.calls(), "sandbox p, create a, start a, create b, start b");
    assert_eq!(world.seconds(), 0, "nothing was waited for");
    let events = [
        "Normal Pulled Container image \"x:1\" already present on machine and can be accessed by the pod",
        "Normal Created Container created",
        "Normal Started Container started",
    ];
    assert!(events.iter().all(|e| world.events.all().iter().filter(|x| x == e).count() == 2), "{:#?}", world.events.all());
    world.delete(None).await;
    world.until_gone().await;
    world.until_empty().await;
    assert!(world.calls().contains("stop b 30s, stop a 30s, stop sandbox"), "{}", world.calls());
    assert!(!world.dir.path().join("kubelet/pods/u1").exists());
    assert_eq!(world.events_of("Killing"), ["Normal Killing Stopping container b", "Normal Killing Stopping container a"]);
}

#[tokio::test(start_paused = true)]
async fn a_settled_pod_is_written_no_more() {
    let world = World::started();
    world.create(json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "100m"}}}]})).await;
    world.until_ready().await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let writes = world.api.log().iter().filter(|l| l.contains("pods/status")).count();
    assert!(writes <= 3, "{writes} writes: {:#?}", world.api.log());
}

#[tokio::test(start_paused = true)]
async fn a_job_like_pod_succeeds_and_keeps_its_containers_for_their_logs() {
    let world = World::started();
    world.runtime.program("a", Program::Exits { after: Duration::from_secs(3), code: 0 });
    world.create(json!({"restartPolicy": "Never", "containers": [{"name": "a"}]})).await;
    let status = world.until_phase("Succeeded").await;
    assert_eq!(world.seconds(), 3);
    let terminated = status.container_statuses.unwrap()[0].state.clone().unwrap().terminated.unwrap();
    assert_eq!((terminated.exit_code, terminated.reason.as_deref()), (0, Some("Completed")));
    assert!(world.calls().ends_with("stop sandbox"), "{}", world.calls());
    world.delete(None).await;
    world.until_gone().await;
    world.until_empty().await;
    assert!(world.calls().ends_with("remove a, remove sandbox"), "{}", world.calls());
}

#[tokio::test(start_paused = true)]
async fn a_crashing_container_backs_off() {
    let world = World::started();
    world.runtime.program("a", Program::Exits { after: Duration::from_secs(1), code: 1 });
    world.create(json!({"containers": [{"name": "a"}]})).await;
    let back_off = |s: &PodStatus| {
        let c = s.container_statuses.iter().flatten().next()?;
        (c.state.as_ref()?.waiting.as_ref()?.reason.as_deref() == Some("CrashLoopBackOff")).then_some(c.restart_count)
    };
    let status = world.until("backing off", |s| back_off(s) == Some(1)).await;
    let message = status.container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap().message.unwrap();
    assert_eq!(message, "back-off 10s restarting failed container=a pod=p_default(u1)");
    assert_eq!(world.seconds(), 2, "the first restart is at once");
    world.until("backing off longer", |s| back_off(s) == Some(2)).await;
    assert_eq!(world.seconds(), 13);
    world.until("backing off longer", |s| back_off(s) == Some(3)).await;
    assert_eq!(world.seconds(), 34);
    assert_eq!(world.events_of("BackOff").len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_image_that_cannot_be_pulled_is_tried_again_later() {
    let world = World::started();
    world.runtime.refuse_pull("y", "not found");
    world.create(json!({"containers": [{"name": "a", "image": "y", "imagePullPolicy": "Always"}]})).await;
    let reason = |s: &PodStatus| s.container_statuses.iter().flatten().next()?.state.clone()?.waiting?.reason;
    let status = world.until("backing off", |s| reason(s).as_deref() == Some("ImagePullBackOff")).await;
    let message = status.container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap().message.unwrap();
    assert_eq!(message, "Back-off pulling image \"y\": ErrImagePull: not found");
    assert_eq!(world.seconds(), 0);
    world.runtime.allow_pull("y");
    world.until_ready().await;
    assert_eq!(world.seconds(), 10);
    let all = world.events.all();
    let told: Vec<_> = all.iter().filter(|e| !e.contains("Container ") && !e.contains("kubelet")).map(String::as_str).collect();
    assert_eq!(
        told,
        [
            "Normal Pulling Pulling image \"y\"",
            "Warning Failed Failed to pull image \"y\": not found",
            "Warning Failed Error: ErrImagePull",
            "Normal BackOff Back-off pulling image \"y\"",
            "Warning Failed Error: ImagePullBackOff",
            "Normal Pulling Pulling image \"y\"",
            "Normal Pulled Successfully pulled image \"y\" in 0s (0s including waiting). Image size: 1000 bytes.",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_missing_config_map_holds_the_container_back_until_it_is_there() {
    let world = World::started();
    world.create(json!({"containers": [{"name": "a", "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]}]})).await;
    let reason = |s: &PodStatus| s.container_statuses.iter().flatten().next()?.state.clone()?.waiting;
    let status = world.until("refused", |s| reason(s).is_some_and(|w| w.reason.as_deref() == Some("CreateContainerConfigError"))).await;
    assert_eq!(reason(&status).unwrap().message.as_deref(), Some("configmap \"m\" not found"));
    world.config_map("m", "k", "v");
    world.until_ready().await;
    assert!(world.runtime.config("a").unwrap().envs.contains(&("A".into(), "v".into())));
}

#[tokio::test(start_paused = true)]
async fn volumes_are_made_before_and_followed_while_containers_run() {
    let world = World::started();
    let mount = |name: &str| json!({"name": name, "mountPath": format!("/{name}")});
    world
        .create(json!({
            "volumes": [{"name": "v", "configMap": {"name": "m", "defaultMode": 420}}, {"name": "e", "emptyDir": {}},
                {"name": "t", "projected": {"defaultMode": 420, "sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}]}}],
            "containers": [{"name": "a", "volumeMounts": [mount("v"), mount("e"), mount("t")]}]}))
        .await;
    world.until("refused", |_| !world.events_of("FailedMount").is_empty()).await;
    assert_eq!(world.events_of("FailedMount")[0], "Warning FailedMount MountVolume.SetUp failed for volume \"v\" : configmap \"m\" not found");
    assert!(!world.calls().contains("create a"));
    world.config_map("m", "k", "one");
    world.until_ready().await;
    let volumes = world.dir.path().join("kubelet/pods/u1/volumes");
    let read = |path: &str| std::fs::read_to_string(volumes.join(path)).unwrap();
    assert_eq!(read("kubernetes.io~configmap/v/k"), "one");
    assert_eq!(read("kubernetes.io~projected/t/token"), "a-token");
    assert!(volumes.join("kubernetes.io~empty-dir/e").is_dir());
    world.api.change::<ConfigMap>("default", "m", |m| m.data = Some([("k".to_owned(), "two".to_owned())].into()));
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(read("kubernetes.io~configmap/v/k"), "two");
    world.delete(None).await;
    world.until_gone().await;
    assert!(!volumes.exists());
}

#[tokio::test(start_paused = true)]
async fn init_containers_run_first_and_sidecars_end_last() {
    let world = World::started();
    world.runtime.program("i", Program::Exits { after: Duration::from_secs(1), code: 0 });
    world
        .create(json!({"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}, {"name": "t", "restartPolicy": "Always"}], "containers": [{"name": "a"}]}))
        .await;
    let status = world.until_ready().await;
    assert_eq!(world.calls(), "sandbox p, create i, start i, create s, start s, create t, start t, create a, start a");
    assert_eq!(status.init_container_statuses.unwrap().iter().filter(|s| s.ready).count(), 3);
    world.delete(None).await;
    world.until_gone().await;
    assert!(world.calls().contains("stop a 30s, stop t 30s, stop s 30s, stop sandbox"), "{}", world.calls());
}

#[tokio::test(start_paused = true)]
async fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let world = World::started();
    world.runtime.program("i", Program::Exits { after: Duration::ZERO, code: 7 });
    world.create(json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]})).await;
    world.until_phase("Failed").await;
    assert!(!world.calls().contains("create a"));
}

#[tokio::test(start_paused = true)]
async fn a_deaf_container_is_killed_when_its_grace_is_over_and_sooner_if_that_is_asked() {
    let world = World::started();
    world.runtime.program("a", Program::IgnoresStop);
    world.create(json!({"containers": [{"name": "a"}], "terminationGracePeriodSeconds": 60})).await;
    world.until_ready().await;
    world.delete(Some(50)).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(world.pod().is_some());
    world.delete(Some(10)).await;
    world.until_gone().await;
    assert_eq!(world.seconds(), 15);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_takes_too_long_has_failed() {
    let world = World::started();
    world.create(json!({"activeDeadlineSeconds": 5, "containers": [{"name": "a"}]})).await;
    let status = world.until_phase("Failed").await;
    assert_eq!((status.reason.as_deref(), world.seconds()), (Some("DeadlineExceeded"), 5));
    assert_eq!(status.message.as_deref(), Some("Pod was active on the node longer than the specified deadline"));
}

#[tokio::test(start_paused = true)]
async fn readiness_follows_its_probe_and_liveness_restarts() {
    let world = World::started();
    let alive = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let probed = alive.clone();
    world.runtime.on_exec(move |_, command| {
        let good = command[0] == "ready" || probed.load(std::sync::atomic::Ordering::SeqCst);
        Ok(knarr_runtime::cri::ExecOutput { stdout: b"sorry".to_vec(), stderr: vec![], exit_code: i32::from(!good) })
    });
    let probe = |word: &str| json!({"exec": {"command": [word]}, "periodSeconds": 10, "failureThreshold": 2, "successThreshold": 1, "timeoutSeconds": 1, "initialDelaySeconds": 3});
    world.create(json!({"containers": [{"name": "a", "readinessProbe": probe("ready"), "livenessProbe": probe("alive")}]})).await;
    world.until_ready().await;
    assert_eq!(world.seconds(), 3);
    alive.store(false, std::sync::atomic::Ordering::SeqCst);
    let status = world.until("restarted", |s| s.container_statuses.iter().flatten().any(|c| c.restart_count == 1)).await;
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(world.seconds(), 23, "two failures");
    assert_eq!(world.events_of("Unhealthy"), ["Warning Unhealthy Liveness probe failed: sorry", "Warning Unhealthy Liveness probe failed: sorry"]);
    assert_eq!(world.events_of("Killing"), ["Normal Killing Container a failed liveness probe, will be restarted"]);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_replaced_in_a_blink_does_not_make_its_pod_unready() {
    let world = World::started();
    world.runtime.add_image("x:2");
    world.create(json!({"containers": [{"name": "a"}]})).await;
    let transition = |status: &PodStatus| status.conditions.iter().flatten().find(|c| c.type_ == "Ready").and_then(|c| c.last_transition_time.clone());
    let before = transition(&world.until_ready().await);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let body = json!({"metadata": {"generation": 2}, "spec": {"containers": [{"name": "a", "image": "x:2"}]}});
    world.api.client().within::<Pod>("default").patch("p", knarr_client::Patch::strategic(body)).await.unwrap();
    let status = world.until("replaced", |s| s.container_statuses.iter().flatten().any(|c| c.restart_count == 1 && c.ready)).await;
    assert_eq!(world.events_of("Killing"), ["Normal Killing Container a definition changed, will be restarted"]);
    assert_eq!(transition(&status), before, "it was ready all the time");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_cannot_be_replaced_makes_its_pod_unready() {
    let world = World::started();
    world.create(json!({"containers": [{"name": "a"}]})).await;
    world.until_ready().await;
    world.runtime.refuse_pull("missing:1", "not found");
    let body = json!({"metadata": {"generation": 2}, "spec": {"containers": [{"name": "a", "image": "missing:1"}]}});
    world.api.client().within::<Pod>("default").patch("p", knarr_client::Patch::strategic(body)).await.unwrap();
    world.until("unready", |s| s.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "False")).await;
    assert!(world.seconds() <= 1, "after {} s", world.seconds());
}

#[tokio::test(start_paused = true)]
async fn a_new_agent_takes_running_pods_over_without_a_restart() {
    let world = World::started();
    world.create(json!({"containers": [{"name": "a", "livenessProbe": {"exec": {"command": ["x"]}}}]})).await;
    world.until_ready().await;
    world.cancel.cancel();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let before = (world.calls(), world.api.log().len());
    let next = World { cancel: CancellationToken::new(), ..world };
    next.start();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(next.calls(), before.0);
    assert_eq!(next.network.attached().len(), 1);
    assert_eq!(next.api.log()[before.1..].iter().filter(|l| l.contains("pods")).count(), 0, "{:#?}", &next.api.log()[before.1..]);
    next.delete(None).await;
    next.until_gone().await;
    next.until_empty().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_the_api_lost_is_ended_too() {
    let world = World::started();
    world.create(json!({"containers": [{"name": "a"}]})).await;
    world.until_ready().await;
    world.delete(Some(0)).await;
    world.until_empty().await;
    assert!(world.calls().contains("stop a"), "{}", world.calls());
    let orphaned = World::started();
    orphaned.create(json!({"containers": [{"name": "a"}]})).await;
    orphaned.until_ready().await;
    orphaned.cancel.cancel();
    orphaned.delete(Some(0)).await;
    let next = World { cancel: CancellationToken::new(), ..orphaned };
    next.start();
    next.until_empty().await;
    assert!(next.calls().contains("stop a 2s, stop sandbox, remove a, remove sandbox"), "{}", next.calls());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_the_api_lost_takes_nobody_s_place_while_it_ends() {
    let world = World::started();
    world.runtime.program("a", Program::IgnoresStop);
    let spec = || json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    world.create(spec()).await;
    world.until_ready().await;
    world.delete(Some(0)).await;
    let mut next = pod_of(spec());
    next.spec.as_mut().unwrap().node_name = Some("n".into());
    (next.metadata.uid, next.metadata.resource_version) = (Some("u2".into()), None);
    world.api.seed(&next);
    let status = world.until_ready().await;
    assert_eq!(status.reason, None);
}

#[tokio::test(start_paused = true)]
async fn lost_sandboxes_are_made_again() {
    let world = World::started();
    world.create(json!({"containers": [{"name": "a"}]})).await;
    world.until_ready().await;
    world.runtime.lose_sandboxes();
    world.until("made again", |s| s.container_statuses.iter().flatten().any(|c| c.restart_count == 1 && c.ready)).await;
    assert_eq!(world.status().pod_ip.as_deref(), Some("10.0.0.2"));
    assert_eq!(world.events_of("SandboxChanged").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn hooks_run_after_the_start_and_before_the_end() {
    let world = World::started();
    let runtime = Arc::downgrade(&world.runtime);
    let ran = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let seen = ran.clone();
    world.runtime.on_exec(move |container, command| {
        seen.lock().push(format!("{} {container} after {}", command[0], runtime.upgrade().map_or(0, |r| r.calls().len())));
        Ok(knarr_runtime::cri::ExecOutput { stdout: vec![], stderr: vec![], exit_code: 0 })
    });
    let hooks = json!({"postStart": {"exec": {"command": ["post"]}}, "preStop": {"exec": {"command": ["pre"]}}});
    world.create(json!({"containers": [{"name": "a", "lifecycle": hooks}, {"name": "b"}]})).await;
    world.until_ready().await;
    world.delete(None).await;
    world.until_gone().await;
    assert_eq!(*ran.lock(), ["post a after 3", "pre a after 6"], "{}", world.calls());
}

#[tokio::test(start_paused = true)]
async fn foreign_conditions_stay_and_readiness_gates_are_obeyed() {
    let world = World::started();
    world.create(json!({"readinessGates": [{"conditionType": "x.io/go"}], "containers": [{"name": "a"}]})).await;
    world.until("held back", |s| s.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.reason.as_deref() == Some("ReadinessGatesNotReady"))).await;
    let mut pod = serde_json::to_value(world.pod().unwrap()).unwrap();
    let mut conditions = pod.list_at(&["status", "conditions"]).to_vec();
    conditions.push(json!({"type": "x.io/go", "status": "True"}));
    pod.set(&["status", "conditions"], conditions);
    world.api.client().within::<Pod>("default").dynamic().update_status(pod).await.unwrap();
    let status = world.until_ready().await;
    assert!(status.conditions.iter().flatten().any(|c| c.type_ == "x.io/go"));
}

#[tokio::test(start_paused = true)]
async fn the_node_is_registered_kept_alive_and_told_seldom() {
    let world = World::started();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let node = world.api.read::<k8s_openapi::api::core::v1::Node>("", "n").unwrap();
    let status = node.status.unwrap();
    let conditions: Vec<_> = status.conditions.unwrap().into_iter().map(|c| format!("{}={}", c.type_, c.status)).collect();
    assert_eq!(conditions, ["MemoryPressure=False", "DiskPressure=False", "PIDPressure=False", "Ready=True"]);
    assert_eq!(node.metadata.labels.unwrap()["kubernetes.io/hostname"], "n");
    assert_eq!(status.node_info.unwrap().kubelet_version, "v1.37.2");
    tokio::time::sleep(Duration::from_secs(599)).await;
    let count = |what: &str| world.api.log().iter().filter(|l| l.contains(what)).count();
    assert!((1..=2).contains(&count("nodes/status")), "{:#?}", world.api.log());
    assert!((59..=61).contains(&count("leases")), "{}", count("leases"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_does_not_fit_fails_at_once() {
    let world = World::started();
    world.create(json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "100k"}}}]})).await;
    let status = world.until_phase("Failed").await;
    assert_eq!((status.reason.as_deref(), &status.container_statuses), (Some("OutOfcpu"), &None));
    assert!(status.message.unwrap().starts_with("Node didn't have enough resource: cpu, requested: 100000000, used: 0, capacity: "));
    assert_eq!(world.calls(), "");
}

#[tokio::test(start_paused = true)]
async fn a_taint_that_was_just_taken_away_keeps_no_pod_away() {
    let world = World::started();
    let taint = |taints: Value| {
        world.api.change::<Node>("", "n", |n| n.spec.get_or_insert_default().taints = serde_json::from_value(taints).unwrap());
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    taint(json!([{"key": "k", "effect": "NoExecute"}]));
    // Until the agent has looked at its Node again.
    tokio::time::sleep(Duration::from_secs(30)).await;
    taint(json!(null));
    world.create(json!({"containers": [{"name": "a"}]})).await;
    world.until_ready().await;
}

#[tokio::test(start_paused = true)]
async fn a_resize_is_done_in_place_or_waits_for_room() {
    let world = World::started();
    world.create(json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "100m"}}}]})).await;
    world.until_ready().await;
    world.ask_for_cpu("200m", 2).await;
    let given = |status: &PodStatus| status.container_statuses.as_ref()?[0].allocated_resources.as_ref()?.get("cpu").map(|q| q.0.clone());
    world.until("resized", |s| given(s).as_deref() == Some("200m") && !s.conditions.iter().flatten().any(|c| c.type_.starts_with("PodResize"))).await;
    assert!(world.calls().contains("update a"));
    assert_eq!(world.events_of("ResizeCompleted").len(), 1);
    world.ask_for_cpu("100k", 3).await;
    let status = world.until("deferred", |s| s.conditions.iter().flatten().any(|c| c.type_ == "PodResizePending")).await;
    let pending = status.conditions.iter().flatten().find(|c| c.type_ == "PodResizePending").unwrap();
    assert_eq!((pending.status.as_str(), pending.reason.as_deref(), pending.observed_generation), ("True", Some("Deferred"), Some(3)));
    assert_eq!(given(&status).as_deref(), Some("200m"), "what it has stays");
    assert_eq!(world.events_of("ResizeDeferred").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn of_a_container_that_crashes_only_the_last_run_is_kept() {
    let world = World::new();
    world.runtime.program("a", Program::Exits { after: Duration::from_secs(1), code: 1 });
    world.start();
    world.create(json!({"containers": [{"name": "a"}]})).await;
    let status = world.until("restarted", |s| s.container_statuses.as_ref().is_some_and(|c| c[0].restart_count >= 4)).await;
    assert!(status.container_statuses.unwrap()[0].last_state.as_ref().unwrap().terminated.is_some());
    assert!(world.runtime.calls().iter().filter(|c| *c == "remove a").count() >= 3, "{}", world.calls());
}
