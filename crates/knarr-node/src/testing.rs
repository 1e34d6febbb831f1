//! Short ways to pods and runs of containers, for unit tests.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use knarr_core::{Value, json};
use knarr_runtime::cri::{ContainerState, Resources, SandboxState, SandboxStatus};

use crate::pod::observed::Seen;
use crate::pod::spec::{self, PodExt};

/// A pod `default/p` with this spec. What the API would default is filled in where the agent relies on it.
pub fn pod_of(mut spec: Value) -> Pod {
    let fill = |object: &mut Value, key: &str, value: Value| {
        if let Some(map) = object.as_object_mut() {
            map.entry(key).or_insert(value);
        }
    };
    fill(&mut spec, "restartPolicy", json!("Always"));
    fill(&mut spec, "terminationGracePeriodSeconds", json!(30));
    fill(&mut spec, "enableServiceLinks", json!(true));
    fill(&mut spec, "dnsPolicy", json!("ClusterFirst"));
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            fill(container, "image", json!("x:1"));
            fill(container, "imagePullPolicy", json!("IfNotPresent"));
            fill(container, "terminationMessagePath", json!("/dev/termination-log"));
        }
    }
    let metadata = json!({"name": "p", "namespace": "default", "uid": "u1", "generation": 1, "resourceVersion": "1"});
    serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})).unwrap()
}

pub fn second(n: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + n).unwrap()
}

pub fn sandbox(attempt: u32, ready: bool) -> SandboxStatus {
    SandboxStatus {
        id: format!("s{attempt}"),
        uid: "u1".into(),
        name: "p".into(),
        namespace: "default".into(),
        attempt,
        state: if ready { SandboxState::Ready } else { SandboxState::NotReady },
        created_at: second(i64::from(attempt)),
        netns: Some("/run/netns/x".into()),
        ips: vec!["10.0.0.1".into()],
    }
}

/// Runs of containers from words like `a:running`, `a:exited(1)`, `b:created`; `!stale` marks one of an older image.
/// Later words are newer.
pub fn containers(pod: &Pod, text: &str) -> Vec<Seen> {
    text.split_whitespace().enumerate().map(|(i, word)| one(pod, text, i, word)).collect()
}

fn one(pod: &Pod, text: &str, index: usize, word: &str) -> Seen {
    let (word, stale) = word.strip_suffix("!stale").map_or((word, false), |w| (w, true));
    let (name, state) = word.split_once(':').unwrap();
    let (state, exit_code) = match state.split_once('(') {
        Some(("exited", code)) => (ContainerState::Exited, code.trim_end_matches(')').parse().unwrap()),
        _ if state == "running" => (ContainerState::Running, 0),
        _ if state == "created" => (ContainerState::Created, 0),
        _ => (ContainerState::Unknown, 0),
    };
    let earlier = text.split_whitespace().take(index).filter(|w| w.starts_with(&format!("{name}:"))).count();
    let hash = spec::find_container(pod.spec(), name).map_or(0, |(c, _)| spec::container_hash(&c));
    let at = second(10 + i64::try_from(index).unwrap());
    Seen {
        id: format!("{name}-{earlier}"),
        sandbox_id: "s0".into(),
        name: name.into(),
        state,
        created_at: at,
        started_at: (state != ContainerState::Created).then_some(at),
        finished_at: (state == ContainerState::Exited).then(|| second(100)),
        exit_code,
        reason: match (state, exit_code) {
            (ContainerState::Exited, 0) => "Completed".into(),
            (ContainerState::Exited, _) => "Error".into(),
            _ => String::new(),
        },
        message: String::new(),
        image: "x:1".into(),
        image_ref: "x@sha256:1".into(),
        hash: if stale { 0 } else { hash },
        restart_count: i32::try_from(earlier).unwrap(),
        user: None,
        resources: Resources::default(),
        log_path: format!("{name}/{earlier}.log").into(),
    }
}
