//! Follows the metadata of every object of every resource that can be listed, watched and deleted. The garbage collector
//! reads owners from it, the namespace controller how much content a namespace still has.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use knarr_client::informer::{Query, Reflector, Sink};
use knarr_client::{WorkQueue, read};
use knarr_core::api::EventType;
use knarr_core::{GroupResource, Object, Result};
use knarr_schema::codec;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::graph::{Graph, Item, Observed, ResourceId, Task, Uid};
use crate::context::ControllerContext;
use crate::resources::{ResourceInfo, Resources};

/// Events come and go too fast, own nothing and are owned by nothing.
const IGNORED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];

type EmptyHandler = Box<dyn Fn(&str) + Send + Sync>;

struct Followed {
    info: Arc<ResourceInfo>,
    id: ResourceId,
    stop: CancellationToken,
}

#[derive(Default)]
struct State {
    graph: Graph,
    /// All resources ever followed; their index is their id.
    table: Vec<Arc<ResourceInfo>>,
    followed: BTreeMap<GroupResource, Followed>,
    /// How many of the followed resources have not had their first state yet.
    incomplete: std::collections::BTreeSet<ResourceId>,
}

/// The census of all objects.
pub struct Census {
    context: ControllerContext,
    pub resources: Resources,
    state: Mutex<State>,
    complete: watch::Sender<bool>,
    tasks: WorkQueue<Task>,
    emptied: Mutex<Vec<EmptyHandler>>,
}

impl Census {
    /// Starts following, and takes up or drops resources as definitions come and go.
    pub fn start(context: &ControllerContext) -> Arc<Self> {
        let this = Arc::new(Self {
            context: context.clone(),
            resources: Resources::new(context),
            state: Mutex::default(),
            complete: watch::Sender::new(false),
            tasks: context.queue("garbage_collector_attempt_to_delete"),
            emptied: Mutex::default(),
        });
        let me = this.clone();
        this.resources.on_change(move || me.follow_all());
        this
    }

    pub fn tasks(&self) -> WorkQueue<Task> {
        self.tasks.clone()
    }

    /// Waits until everything that is followed has had its first state.
    pub async fn wait_complete(&self) {
        // The sender lives in `self`, so the channel cannot close.
        drop(self.complete.subscribe().wait_for(|complete| *complete).await);
    }

    /// Calls `handler` with the name of each namespace whose last pod, or last object, is gone.
    pub fn on_empty(&self, handler: impl Fn(&str) + Send + Sync + 'static) {
        self.emptied.lock().push(Box::new(handler));
    }

    /// Reads the graph.
    pub fn graph<R>(&self, read: impl FnOnce(&Graph) -> R) -> R {
        read(&self.state.lock().graph)
    }

    /// The resource with this id.
    pub fn resource(&self, id: ResourceId) -> Arc<ResourceInfo> {
        self.state.lock().table[usize::from(id)].clone()
    }

    /// Takes note that an object turned out not to exist.
    pub fn gone(&self, uid: Uid) {
        let tasks = self.state.lock().graph.remove(uid);
        self.enqueue(tasks);
    }

    fn enqueue(&self, tasks: Vec<Task>) {
        tasks.into_iter().for_each(|t| self.tasks.add(t));
    }

    fn follow_all(self: &Arc<Self>) {
        let followable = |r: &ResourceInfo| r.supports(&["delete", "list", "watch"]) && !IGNORED.contains(&(r.gvr.group.as_str(), r.gvr.resource.as_str()));
        let wanted: BTreeMap<GroupResource, ResourceInfo> = self.resources.all().into_iter().filter(followable).map(|r| (r.gvr.group_resource(), r)).collect();
        let mut state = self.state.lock();
        let dropped: Vec<GroupResource> = state.followed.iter().filter(|(k, f)| wanted.get(k).is_none_or(|w| *w != *f.info)).map(|(k, _)| k.clone()).collect();
        let mut tasks = Vec::new();
        for key in dropped {
            if let Some(followed) = state.followed.remove(&key) {
                followed.stop.cancel();
                state.incomplete.remove(&followed.id);
                // A resource that is no more has no objects. (One that changed its version is listed anew.)
                let gone = state.graph.of_resource(followed.id);
                tasks.extend(gone.into_iter().flat_map(|uid| state.graph.remove(uid)));
            }
        }
        for (key, info) in wanted {
            if !state.followed.contains_key(&key) {
                let followed = self.follow(&mut state, info);
                state.followed.insert(key, followed);
            }
        }
        self.complete.send_replace(state.incomplete.is_empty());
        drop(state);
        self.enqueue(tasks);
    }

    fn follow(self: &Arc<Self>, state: &mut State, info: ResourceInfo) -> Followed {
        let info = Arc::new(info);
        let id = ResourceId::try_from(state.table.len()).unwrap_or(ResourceId::MAX);
        state.table.push(info.clone());
        state.incomplete.insert(id);
        let stop = self.context.stop.child_token();
        let reflector = Reflector::new(self.context.informers.client().clone(), Query::of(info.gvr.clone()), self.context.env.clone());
        let sink = Follower { census: self.clone(), id, is_pods: info.gvr.group.is_empty() && info.gvr.resource == "pods" };
        let stopped = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = reflector.run(sink) => {}
                () = stopped.cancelled() => {}
            }
        });
        Followed { info, id, stop }
    }

    fn tell_emptied(&self, namespace: &str) {
        self.emptied.lock().iter().for_each(|handler| handler(namespace));
    }
}

/// What one reflector learns goes into the graph.
struct Follower {
    census: Arc<Census>,
    id: ResourceId,
    is_pods: bool,
}

#[derive(Deserialize)]
struct OnlyOwners {
    metadata: Owners,
}

knarr_client::partial!(OnlyOwners);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Owners {
    #[serde(default)]
    owner_references: Vec<OwnerReference>,
}

impl Follower {
    fn observe(&self, graph: &mut Graph, object: &Object) -> Result<Vec<Task>> {
        let meta = codec::meta(object);
        // Most objects have no owner: then the references need no decoding.
        let owners = if meta.owners.is_empty() { Vec::new() } else { read::typed::<OnlyOwners>(object)?.metadata.owner_references };
        let item = Item { uid: Uid::of(meta.uid), resource: self.id, key: read::key(object) };
        Ok(graph.observe(&Observed { item, owners: &owners, deleting: meta.deleting, finalizers: meta.finalizers.clone() }))
    }

    fn remove(&self, graph: &mut Graph, object: &Object) -> (Vec<Task>, Option<String>) {
        let meta = codec::meta(object);
        let tasks = graph.remove(Uid::of(meta.uid));
        let (own, all) = graph.count(meta.namespace, self.id);
        let emptied = !meta.namespace.is_empty() && (all == 0 || self.is_pods && own == 0);
        (tasks, emptied.then(|| meta.namespace.to_owned()))
    }
}

impl Sink for Follower {
    fn replace(&mut self, objects: Vec<Object>, _resource_version: u64) {
        let mut tasks = Vec::new();
        let mut state = self.census.state.lock();
        let mut missing = state.graph.of_resource(self.id);
        for object in &objects {
            missing.remove(&Uid::of(codec::meta(object).uid));
            match self.observe(&mut state.graph, object) {
                Ok(more) => tasks.extend(more),
                Err(error) => tracing::error!(%error, "the owners of an object cannot be read"),
            }
        }
        tasks.extend(missing.into_iter().flat_map(|uid| state.graph.remove(uid)));
        state.incomplete.remove(&self.id);
        self.census.complete.send_if_modified(|complete| {
            let before = std::mem::replace(complete, state.incomplete.is_empty());
            before != *complete
        });
        drop(state);
        self.census.enqueue(tasks);
    }

    fn event(&mut self, event_type: EventType, object: Object) -> Result<()> {
        let mut state = self.census.state.lock();
        let (tasks, emptied) = match event_type {
            EventType::Added | EventType::Modified => (self.observe(&mut state.graph, &object)?, None),
            EventType::Deleted => self.remove(&mut state.graph, &object),
            EventType::Bookmark => return Ok(()),
        };
        drop(state);
        self.census.enqueue(tasks);
        if let Some(namespace) = emptied {
            self.census.tell_emptied(&namespace);
        }
        Ok(())
    }
}
