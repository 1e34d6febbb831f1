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

/// A network that gives `10.0.0.N` to everybody.
#[derive(Default)]
pub struct FakeNetwork {
    given: parking_lot::Mutex<Vec<String>>,
    serial: std::sync::atomic::AtomicU8,
}

impl FakeNetwork {
    /// Sandboxes that are attached now.
    pub fn attached(&self) -> Vec<String> {
        self.given.lock().clone()
    }
}

#[async_trait::async_trait]
impl crate::network::PodNetwork for FakeNetwork {
    async fn attach(&self, sandbox: &SandboxStatus, _pod: &crate::network::PodAttachment) -> crate::network::Result<Vec<std::net::IpAddr>> {
        self.given.lock().push(sandbox.id.clone());
        let n = 1 + self.serial.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Ok(vec![std::net::IpAddr::from([10, 0, 0, n])])
    }

    async fn detach(&self, sandbox: &SandboxStatus, _pod: &crate::network::PodAttachment) -> crate::network::Result<()> {
        self.given.lock().retain(|id| *id != sandbox.id);
        Ok(())
    }

    async fn restore(&self, sandboxes: &[(SandboxStatus, crate::network::PodAttachment)]) -> crate::network::Result<()> {
        *self.given.lock() = sandboxes.iter().map(|(s, _)| s.id.clone()).collect();
        Ok(())
    }
}

/// An API whose strategic merge patches of a status are done here: lists are merged by the keys that a pod's status uses.
pub struct MergesStatus(pub std::sync::Arc<knarr_client::fake::FakeApi>);

impl MergesStatus {
    async fn merged(&self, request: &knarr_core::api::Request) -> knarr_core::Result<Value> {
        use knarr_core::api::{Request, Transport, Verb};
        let get = Request { verb: Verb::Get, subresource: None, body: None, ..request.clone() };
        let knarr_core::api::Reply::Object(object) = self.0.call(get).await? else { unreachable!("a get gives an object") };
        let mut whole: Value = knarr_client::read::value(&object)?;
        let body = request.body.clone().unwrap_or_default();
        if let Some(uid) = body["metadata"]["uid"].as_str() {
            whole["metadata"]["uid"] = json!(uid);
        }
        if !whole["status"].is_object() {
            whole["status"] = json!({});
        }
        for (field, value) in body["status"].as_object().unwrap().iter().filter(|(f, _)| !f.starts_with('$')) {
            let key = if field == "conditions" { Some("type") } else { ["podIPs", "hostIPs"].contains(&field.as_str()).then_some("ip") };
            let status = whole["status"].as_object_mut().unwrap();
            match key {
                _ if value.is_null() => drop(status.remove(field)),
                None => drop(status.insert(field.clone(), value.clone())),
                Some(key) => merge(status.entry(field.clone()).or_insert(json!([])), value, key),
            }
        }
        Ok(whole)
    }
}

fn merge(list: &mut Value, patch: &Value, key: &str) {
    let list = list.as_array_mut().unwrap();
    for element in patch.as_array().unwrap() {
        let at = list.iter().position(|e| e[key] == element[key]);
        let mut clean = element.clone();
        clean.as_object_mut().unwrap().retain(|_, v| !v.is_null());
        match at {
            Some(at) if element.get("$patch").is_some() => drop(list.remove(at)),
            Some(at) => list[at] = clean,
            None => list.push(clean),
        }
    }
}

impl knarr_core::api::Transport for MergesStatus {
    fn call(&self, request: knarr_core::api::Request) -> futures::future::BoxFuture<'_, knarr_core::Result<knarr_core::api::Reply>> {
        use knarr_core::api::{PatchType, Request, Verb};
        Box::pin(async move {
            if request.verb != Verb::Patch(PatchType::StrategicMerge) {
                return self.0.call(request).await;
            }
            loop {
                let body = self.merged(&request).await?;
                match self.0.call(Request { verb: Verb::Update, body: Some(body), ..request.clone() }).await {
                    Err(error) if error.message.contains("has been modified") => {}
                    other => return other,
                }
            }
        })
    }

    fn list(&self, request: knarr_core::api::Request) -> futures::future::BoxFuture<'_, knarr_core::Result<knarr_core::api::List>> {
        self.0.list(request)
    }

    fn watch(&self, request: knarr_core::api::Request) -> futures::future::BoxFuture<'_, knarr_core::Result<knarr_core::api::Watch>> {
        self.0.watch(request)
    }
}
