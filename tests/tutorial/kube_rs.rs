//! A program written with kube-rs for the real Kubernetes: typed, dynamic and metadata clients, apply, pages, reflectors, a controller of a custom
//! resource with finalizer and events, and streams into pods over WebSockets.

use std::{collections::BTreeMap, fmt::Debug, path::Path, sync::Arc, time::Duration};

use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    Api, ApiResource, AttachParams, DeleteParams, DynamicObject, EvictParams, GroupVersionKind, ListParams, LogParams, Object, Patch, PatchParams, PostParams,
    Preconditions, WatchEvent, WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::PartialObjectMetaExt;
use kube::discovery::Discovery;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::events::{Event as Note, EventType, Recorder, Reporter};
use kube::runtime::finalizer::{Event as Finalizer, finalizer};
use kube::runtime::wait::{Condition, await_condition, conditions};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cluster::Cluster;

const NAMESPACE: &str = "kube-rs";
/// Long enough for a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(90);

pub fn go_on_a_tour(cluster: &Cluster) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let client = client(&cluster.kubeconfig()).await;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        create(&namespaces, json!({"metadata": {"name": NAMESPACE}})).await;
        until(Api::<ServiceAccount>::namespaced(client.clone(), NAMESPACE), "default", |found: Option<&ServiceAccount>| found.is_some()).await;
        let tour = Tour { client };
        tour.objects_live_and_die().await;
        tour.patches_of_all_kinds().await;
        tour.lists_in_pages().await;
        tour.watches_and_reflectors().await;
        tour.discovers_every_kind().await;
        tour.controls_a_custom_resource().await;
        tour.streams_into_a_pod().await;
        tour.leads_workloads_and_nodes().await;
        let uid = namespaces.get(NAMESPACE).await.expect("the namespace").uid().expect("its uid");
        namespaces.delete(NAMESPACE, &DeleteParams::default()).await.expect("to delete the namespace");
        until(namespaces, NAMESPACE, conditions::is_deleted(&uid)).await;
    });
}

async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a configuration");
    // The environment may name a proxy.
    config.proxy_url = None;
    Client::try_from(config).expect("a client")
}

/// What a request is refused with: its reason.
fn refused<T: Debug>(answer: kube::Result<T>) -> String {
    match answer {
        Err(kube::Error::Api(status)) => status.reason.clone(),
        other => panic!("not refused: {other:?}"),
    }
}

async fn create<K>(api: &Api<K>, object: Value) -> K
where
    K: Clone + Serialize + DeserializeOwned + Debug,
{
    api.create(&PostParams::default(), &serde_json::from_value(object).expect("an object")).await.expect("to create it")
}

async fn until<K>(api: Api<K>, name: &str, condition: impl Condition<K>)
where
    K: Clone + Debug + Send + DeserializeOwned + Resource + 'static,
{
    let waited = tokio::time::timeout(PATIENCE, await_condition(api, name, condition)).await;
    waited.unwrap_or_else(|_| panic!("{name} is not what was waited for")).expect("a watch");
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct BoatSpec {
    oars: i32,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct BoatStatus {
    oars: i32,
}

type Boat = Object<BoatSpec, BoatStatus>;

fn boats() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("boats.example.com", "v1", "Boat"), "boats")
}

fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "boats.boats.example.com"},
        "spec": {
            "group": "boats.example.com", "scope": "Namespaced", "names": {"plural": "boats", "kind": "Boat"},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.oars", "statusReplicasPath": ".status.oars"}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "required": ["oars"], "properties": {"oars": {"type": "integer", "maximum": 100}}},
                    "status": {"type": "object", "properties": {"oars": {"type": "integer"}}},
                }}},
            }],
        },
    })
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Fault(String);

fn fault(error: impl Debug) -> Fault {
    Fault(format!("{error:?}"))
}

/// A boat has a ConfigMap that tells its oars, and a status that says that it has.
async fn reconcile(boat: Arc<Boat>, client: Arc<Client>) -> Result<Action, Fault> {
    let client = Client::clone(&client);
    let api: Api<Boat> = Api::namespaced_with(client.clone(), NAMESPACE, &boats());
    let done = finalizer(&api, "boats.example.com/rope", boat, async |event| match event {
        Finalizer::Apply(boat) => launch(&client, &api, &boat).await.map(|()| Action::await_change()).map_err(fault),
        Finalizer::Cleanup(_) => Ok::<_, Fault>(Action::await_change()),
    });
    done.await.map_err(fault)
}

async fn launch(client: &Client, api: &Api<Boat>, boat: &Boat) -> kube::Result<()> {
    let (name, ours) = (boat.name_any(), PatchParams::apply("boats").force());
    let kept = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"oars": boat.spec.oars.to_string()},
        "metadata": {"name": name, "ownerReferences": [boat.controller_owner_ref(&boats())]}});
    Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE).patch(&name, &ours, &Patch::Apply(kept)).await?;
    let status = json!({"apiVersion": "boats.example.com/v1", "kind": "Boat", "status": {"oars": boat.spec.oars}});
    api.patch_status(&name, &ours, &Patch::Apply(status)).await?;
    let note = Note { type_: EventType::Normal, reason: "Launched".into(), note: None, action: "Launch".into(), secondary: None };
    Recorder::new(client.clone(), Reporter { controller: "boats".into(), instance: None }).publish(&note, &boat.object_ref(&boats())).await
}

struct Tour {
    client: Client,
}

impl Tour {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    async fn objects_live_and_die(&self) {
        let maps: Api<ConfigMap> = self.api();
        let object = json!({"metadata": {"name": "one"}, "data": {"a": "1"}});
        let mut made = create(&maps, object.clone()).await;
        let old = made.clone();
        assert_eq!(refused(maps.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await), "AlreadyExists");
        made.data.get_or_insert_default().insert("b".into(), "2".into());
        maps.replace("one", &PostParams::default(), &made).await.expect("to replace it");
        assert_eq!(refused(maps.replace("one", &PostParams::default(), &old).await), "Conflict");
        let only_old = DeleteParams::default().preconditions(Preconditions { resource_version: old.resource_version(), uid: None });
        assert_eq!(refused(maps.delete("one", &only_old).await), "Conflict");
        maps.delete("one", &DeleteParams::default().dry_run()).await.expect("to try");
        assert!(maps.get_opt("one").await.expect("to look").is_some());
        maps.delete("one", &DeleteParams::background()).await.expect("to delete it");
        assert!(maps.get_opt("one").await.expect("to look").is_none());
    }

    async fn patches_of_all_kinds(&self) {
        let maps: Api<ConfigMap> = self.api();
        let apply = |value: &str| Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "two"}, "data": {"k": value}}));
        maps.patch("two", &PatchParams::apply("a"), &apply("1")).await.expect("to apply");
        assert_eq!(refused(maps.patch("two", &PatchParams::apply("b"), &apply("2")).await), "Conflict");
        let forced = maps.patch("two", &PatchParams::apply("b").force(), &apply("2")).await.expect("to force it");
        assert_eq!(forced.managed_fields().iter().filter_map(|f| f.manager.as_deref()).collect::<Vec<_>>(), ["b"]);
        let operations = json!([{"op": "test", "path": "/data/k", "value": "2"}, {"op": "add", "path": "/data/j", "value": "3"}]);
        let json_patch: Patch<()> = Patch::Json(serde_json::from_value(operations).unwrap());
        assert_eq!(maps.patch("two", &PatchParams::default(), &json_patch).await.expect("a JSON patch").data.unwrap()["j"], "3");
        let merged = maps.patch("two", &PatchParams::default(), &Patch::Merge(json!({"data": {"j": null}}))).await.expect("a merge patch");
        assert_eq!(merged.data.unwrap(), BTreeMap::from([("k".to_owned(), "2".to_owned())]));
        let labels = Patch::Strategic(json!({"metadata": {"labels": {"app": "y"}}}));
        maps.patch("two", &PatchParams::default(), &labels).await.expect("a strategic patch");
        let mut metadata = maps.get_metadata("two").await.expect("metadata").metadata;
        assert_eq!(metadata.labels.as_ref().unwrap()["app"], "y");
        metadata.managed_fields = None;
        metadata.annotations = Some(BTreeMap::from([("n".into(), "1".into())]));
        let patch = Patch::Merge(metadata.into_request_partial::<ConfigMap>());
        assert_eq!(maps.patch_metadata("two", &PatchParams::default(), &patch).await.expect("a patch of metadata").annotations()["n"], "1");
        assert_eq!(maps.list_metadata(&ListParams::default().labels("app in (y),app!=z")).await.expect("metadata").items.len(), 1);
    }

    async fn lists_in_pages(&self) {
        let maps: Api<ConfigMap> = self.api();
        for i in 0..7 {
            create(&maps, json!({"metadata": {"name": format!("page-{i}"), "labels": {"of": "pages"}}})).await;
        }
        let of_pages = ListParams::default().labels("of=pages");
        let (mut sizes, mut wanted) = (Vec::new(), of_pages.clone().limit(3));
        loop {
            let page = maps.list(&wanted).await.expect("a page");
            sizes.push(page.items.len());
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => wanted = wanted.continue_token(&token),
                None => break,
            }
        }
        assert_eq!(sizes, [3, 3, 1]);
        maps.delete_collection(&DeleteParams::default(), &of_pages).await.expect("to delete them all");
        assert!(maps.list(&of_pages).await.expect("a list").items.is_empty());
    }

    async fn watches_and_reflectors(&self) {
        let maps: Api<ConfigMap> = self.api();
        let from_start = maps.watch(&WatchParams::default().timeout(1), "0").await.expect("a watch");
        let events: Vec<_> = from_start.try_collect().await.expect("events");
        assert!(events.iter().any(|event| matches!(event, WatchEvent::Added(map) if map.name_any() == "two")), "{events:?}");
        for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
            let (reader, writer) = reflector::store();
            let stream = watcher(maps.clone(), config).reflect(writer).applied_objects();
            let following = tokio::spawn(stream.try_for_each(|_| async { Ok(()) }));
            reader.wait_until_ready().await.expect("a first state");
            let shows = |name: &'static str| reader.find(move |map| map.name_any() == name).is_some();
            assert!(shows("two"));
            create(&maps, json!({"metadata": {"name": "reflected"}})).await;
            eventually("the reflector to see it", || shows("reflected")).await;
            maps.delete("reflected", &DeleteParams::default()).await.expect("to delete it");
            eventually("the reflector to see it go", || !shows("reflected")).await;
            following.abort();
        }
    }

    async fn discovers_every_kind(&self) {
        let names = |found: &Discovery| {
            let kinds = found.groups().flat_map(|group| group.recommended_resources());
            kinds.map(|(resource, _)| format!("{}/{}", resource.api_version, resource.plural)).collect::<std::collections::BTreeSet<_>>()
        };
        let old = Discovery::new(self.client.clone()).run().await.expect("discovery");
        let aggregated = Discovery::new(self.client.clone()).run_aggregated().await.expect("aggregated discovery");
        assert_eq!(names(&old), names(&aggregated));
        for object in [
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "found"}, "stringData": {"a": "b"}}),
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "found"}, "spec": {"holderIdentity": "me"}}),
        ] {
            let object: DynamicObject = serde_json::from_value(object).unwrap();
            let kind = GroupVersionKind::try_from(object.types.as_ref().unwrap()).unwrap();
            let (resource, _) = aggregated.resolve_gvk(&kind).expect("a known kind");
            let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), NAMESPACE, &resource);
            let made = api.patch("found", &PatchParams::apply("kube-rs"), &Patch::Apply(&object)).await.expect("to apply");
            assert_eq!(made.types, object.types);
        }
    }

    async fn controls_a_custom_resource(&self) {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let name = "boats.boats.example.com";
        definitions.patch(name, &PatchParams::apply("kube-rs"), &Patch::Apply(definition())).await.expect("a definition");
        until(definitions.clone(), name, conditions::is_crd_established()).await;
        let (api, maps): (Api<Boat>, Api<ConfigMap>) = (Api::namespaced_with(self.client.clone(), NAMESPACE, &boats()), self.api());
        let controller = Controller::new_with(api.clone(), watcher::Config::default(), boats()).owns(maps.clone(), watcher::Config::default()).run(
            reconcile,
            |_, _, _| Action::requeue(Duration::from_secs(1)),
            Arc::new(self.client.clone()),
        );
        let controlling = tokio::spawn(controller.for_each(|_| async {}));
        api.create(&PostParams::default(), &Boat::new("knarr", &boats(), BoatSpec { oars: 8 })).await.expect("a boat");
        assert_eq!(refused(api.create(&PostParams::default(), &Boat::new("galley", &boats(), BoatSpec { oars: 101 })).await), "Invalid");
        self.until_oars(&api, 8).await;
        assert_eq!(api.get_scale("knarr").await.expect("its scale").spec.unwrap().replicas, Some(8));
        api.patch_scale("knarr", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 4}}))).await.expect("to scale it");
        self.until_oars(&api, 4).await;
        maps.delete("knarr", &DeleteParams::default()).await.expect("to delete what it owns");
        until(maps.clone(), "knarr", |map: Option<&ConfigMap>| map.is_some()).await;
        let events: Api<k8s_openapi::api::events::v1::Event> = self.api();
        assert!(!events.list(&ListParams::default().fields("reason=Launched")).await.expect("events").items.is_empty());
        api.delete("knarr", &DeleteParams::foreground()).await.expect("to delete it");
        eventually_none(&api, "knarr").await;
        eventually_none(&maps, "knarr").await;
        controlling.abort();
        definitions.delete(name, &DeleteParams::default()).await.expect("to delete the definition");
        eventually_none(&definitions, name).await;
    }

    async fn until_oars(&self, api: &Api<Boat>, oars: i32) {
        let told = async {
            let mut states = std::pin::pin!(watcher(api.clone(), watcher::Config::default()).applied_objects());
            while let Some(boat) = states.try_next().await.expect("a watch") {
                if boat.status.is_some_and(|status| status.oars == oars) {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, told).await.expect("the controller to tell the oars");
    }

    async fn streams_into_a_pod(&self) {
        let pods: Api<Pod> = self.api();
        create(
            &pods,
            json!({"metadata": {"name": "both"}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [
            {"name": "web", "image": "knarr.local/hello:1"},
            {"name": "tools", "image": "knarr.local/tools:1", "command": ["sleep", "600"]}]}}),
        )
        .await;
        until(pods.clone(), "both", conditions::is_pod_running()).await;
        let (said, code) = exec(&pods, &["cat"], "typed\n").await;
        assert_eq!((said.as_str(), code.as_deref()), ("typed\n", None));
        let (_, code) = exec(&pods, &["false"], "").await;
        assert_eq!(code.as_deref(), Some("1"));
        let follow = LogParams { container: Some("web".into()), follow: true, ..LogParams::default() };
        let mut lines = pods.log_stream("both", &follow).await.expect("a log").lines();
        assert!(!lines.try_next().await.expect("a log").expect("a line").is_empty());
        let mut forwarder = pods.portforward("both", &[8080]).await.expect("to forward");
        let mut stream = forwarder.take_stream(8080).expect("a stream");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.expect("to ask");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        let probe = json!({"spec": {"ephemeralContainers": [{"name": "probe", "image": "knarr.local/tools:1", "command": ["true"]}]}});
        pods.patch_ephemeral_containers("both", &PatchParams::default(), &Patch::Strategic(probe)).await.expect("an ephemeral container");
        let ended = |pod: Option<&Pod>| {
            let all = pod.and_then(|pod| pod.status.as_ref()?.ephemeral_container_statuses.as_ref());
            all.is_some_and(|all| all.iter().any(|one| one.state.as_ref().is_some_and(|state| state.terminated.is_some())))
        };
        until(pods.clone(), "both", ended).await;
        pods.evict("both", &EvictParams::default()).await.expect("to evict it");
        eventually_none(&pods, "both").await;
    }

    async fn leads_workloads_and_nodes(&self) {
        let deployments: Api<Deployment> = self.api();
        let template = json!({"metadata": {"labels": {"app": "led"}}, "spec": {"terminationGracePeriodSeconds": 1,
            "containers": [{"name": "web", "image": "knarr.local/hello:1"}]}});
        create(&deployments, json!({"metadata": {"name": "led"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "led"}}, "template": template}}))
            .await;
        until(deployments.clone(), "led", conditions::is_deployment_completed()).await;
        deployments.restart("led").await.expect("to restart it");
        until(deployments.clone(), "led", conditions::is_deployment_completed()).await;
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = nodes.list(&ListParams::default()).await.expect("nodes").items.first().expect("a node").name_any();
        let is_cordoned = |node: Node| node.spec.and_then(|spec| spec.unschedulable).unwrap_or_default();
        assert!(is_cordoned(nodes.cordon(&node).await.expect("to cordon it")));
        assert!(!is_cordoned(nodes.uncordon(&node).await.expect("to uncordon it")));
    }
}

/// What a command in the container of tools says, and its exit code if that is not 0.
async fn exec(pods: &Api<Pod>, command: &[&str], input: &str) -> (String, Option<String>) {
    let params = AttachParams::default().container("tools").stdin(true).stderr(false);
    let mut process = pods.exec("both", command.iter().copied(), &params).await.expect("to run it");
    let (mut stdin, mut stdout) = (process.stdin().expect("stdin"), process.stdout().expect("stdout"));
    let status = process.take_status().expect("a status");
    if !input.is_empty() {
        stdin.write_all(input.as_bytes()).await.expect("to type");
    }
    stdin.shutdown().await.expect("to end what is typed");
    drop(stdin);
    let mut said = String::new();
    stdout.read_to_string(&mut said).await.expect("what it says");
    let status = status.await.expect("a status");
    let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
    (said, causes.into_iter().find(|cause| cause.reason.as_deref() == Some("ExitCode")).and_then(|cause| cause.message))
}

async fn eventually_none<K>(api: &Api<K>, name: &str)
where
    K: Clone + Debug + Send + DeserializeOwned + Resource + 'static,
{
    until(api.clone(), name, |found: Option<&K>| found.is_none()).await;
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < until, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
