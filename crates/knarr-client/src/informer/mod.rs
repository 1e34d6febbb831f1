//! Informers: a copy of one resource, kept by list and watch and shared by everybody in the process.
//!
//! ```text
//! reflector (list, watch, resume) → store (bytes + projection + indexes) → handlers (old and new handle)
//! ```
//!
//! What is kept of an object is a handle to its bytes, which in the server's own process are the very bytes of the watch
//! cache, and a small projection that its consumers declared. Handlers run in the informer's own task, in order, and
//! must be quick: they compute keys and put them into queues.

mod reflector;
mod shared;
mod store;

pub use reflector::{Reflector, Sink};
pub use shared::SharedInformers;
pub use store::{Change, Item, Project, Store};

use std::sync::Arc;

use knarr_core::api::{EventType, Options};
use knarr_core::clock::Env;
use knarr_core::{GroupVersionResource, Object, Result, Status};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::client::{Client, gvr};

/// What an informer watches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Query {
    pub resource: GroupVersionResource,
    pub namespace: Option<String>,
    pub label_selector: Option<String>,
    pub field_selector: Option<String>,
}

impl Query {
    /// Everything of a resource.
    pub fn of(resource: GroupVersionResource) -> Self {
        Self { resource, namespace: None, label_selector: None, field_selector: None }
    }

    /// Everything of a typed resource.
    pub fn all<T: k8s_openapi::Resource>() -> Self {
        Self::of(gvr::<T>())
    }

    #[must_use]
    pub fn within(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    #[must_use]
    pub fn labels(mut self, selector: &str) -> Self {
        self.label_selector = Some(selector.to_owned());
        self
    }

    /// For example `spec.nodeName=a`.
    #[must_use]
    pub fn fields(mut self, selector: &str) -> Self {
        self.field_selector = Some(selector.to_owned());
        self
    }

    fn options(&self) -> Options {
        Options { label_selector: self.label_selector.clone(), field_selector: self.field_selector.clone(), ..Options::default() }
    }
}

/// How far an informer has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Whether the first state has been taken in.
    pub synced: bool,
    /// Everything up to this resource version has been delivered.
    pub resource_version: u64,
}

type Handler<P> = Box<dyn Fn(&Change<P>) + Send + Sync>;

struct Inner<P> {
    query: Query,
    store: Store<P>,
    handlers: Mutex<Vec<Handler<P>>>,
    progress: watch::Sender<Progress>,
}

/// A resource, copied and kept. Cheap to clone; all clones are one informer.
pub struct Informer<P = ()>(Arc<Inner<P>>);

impl<P> Clone for Informer<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P: Project> Informer<P> {
    /// Starts a task that keeps the copy until `stop` is cancelled.
    pub fn start(client: Client, query: Query, env: Env, stop: CancellationToken) -> Self {
        let informer = Self(Arc::new(Inner {
            query: query.clone(),
            store: Store::new(),
            handlers: Mutex::new(Vec::new()),
            progress: watch::Sender::new(Progress::default()),
        }));
        let reflector = Reflector::new(client, query, env);
        let sink = informer.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = reflector.run(sink) => {}
                () = stop.cancelled() => {}
            }
        });
        informer
    }

    pub fn query(&self) -> &Query {
        &self.0.query
    }

    pub fn store(&self) -> &Store<P> {
        &self.0.store
    }

    pub fn has_synced(&self) -> bool {
        self.0.progress.borrow().synced
    }

    /// A receiver that sees each step of the progress.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.0.progress.subscribe()
    }

    /// Waits until the first state has been taken in and delivered.
    pub async fn wait_synced(&self) {
        self.wait(|p| p.synced).await;
    }

    /// Waits until everything up to `resource_version` has been delivered: after a write, its own effect included.
    pub async fn wait_version(&self, resource_version: u64) {
        self.wait(|p| p.synced && p.resource_version >= resource_version).await;
    }

    async fn wait(&self, reached: impl FnMut(&Progress) -> bool) {
        // The sender lives in this informer, so the channel cannot close.
        drop(self.0.progress.subscribe().wait_for(reached).await);
    }

    /// Calls `handler` with everything there is (as added) and with each change from now on. It must not call
    /// `on_change` of the same informer.
    pub fn on_change(&self, handler: impl Fn(&Change<P>) + Send + Sync + 'static) {
        let mut handlers = self.0.handlers.lock();
        for item in self.0.store.list() {
            handler(&Change { old: None, new: Some(item) });
        }
        handlers.push(Box::new(handler));
    }
}

impl<P: Project> Sink for Informer<P> {
    fn replace(&mut self, objects: Vec<Object>, resource_version: u64) {
        let handlers = self.0.handlers.lock();
        for change in self.0.store.replace(objects) {
            handlers.iter().for_each(|h| h(&change));
        }
        drop(handlers);
        self.0.progress.send_replace(Progress { synced: true, resource_version });
    }

    fn event(&mut self, event_type: EventType, object: Object) -> Result<()> {
        let resource_version = object.resource_version;
        let handlers = self.0.handlers.lock();
        let change = match event_type {
            EventType::Added | EventType::Modified => self.0.store.put(object),
            EventType::Deleted => self.0.store.remove(&object),
            EventType::Bookmark => None,
        };
        if let Some(change) = change {
            handlers.iter().for_each(|h| h(&change));
        }
        drop(handlers);
        if resource_version == 0 {
            return Err(Status::internal("a watch event without a resource version"));
        }
        self.0.progress.send_modify(|p| p.resource_version = p.resource_version.max(resource_version));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use k8s_openapi::api::core::v1::ConfigMap;
    use knarr_core::json;

    use super::*;
    use crate::client::Deletion;
    use crate::fake::FakeApi;
    use crate::read::Meta;

    fn env() -> Env {
        Env::simulated(1, jiff::Timestamp::UNIX_EPOCH)
    }

    fn map(name: &str) -> ConfigMap {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "a", "name": name}})).unwrap()
    }

    fn record(informer: &Informer<Meta>) -> Arc<Mutex<Vec<String>>> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        informer.on_change(move |c| {
            let verb = match (&c.old, &c.new) {
                (None, _) => "added",
                (_, None) => "deleted",
                _ => "modified",
            };
            sink.lock().push(format!("{verb} {}", c.key().name()));
        });
        seen
    }

    async fn story(refuse_watch_list: bool) {
        let api = FakeApi::new(env());
        if refuse_watch_list {
            api.fail(|r| r.options.send_initial_events.map(|_| Status::new(422, knarr_core::Reason::Invalid, "forbidden")));
        }
        api.seed(&map("one"));
        let informers = SharedInformers::new(api.client(), env(), CancellationToken::new());
        let informer = informers.all::<ConfigMap, Meta>();
        informers.wait_synced().await;
        let seen = record(&informer);
        let maps = api.client().within::<ConfigMap>("a");
        let two = maps.dynamic().create(crate::client::tree(&map("two")).unwrap()).await.unwrap();
        informer.wait_version(two.resource_version).await;
        api.change::<ConfigMap>("a", "one", |m| m.data = Some([("k".to_owned(), "v".to_owned())].into()));
        maps.delete("two", &Deletion::default()).await.unwrap();
        informer.wait_version(two.resource_version + 2).await;
        assert_eq!(*seen.lock(), ["added one", "added two", "modified one", "deleted two"]);
        assert_eq!(informer.store().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn handlers_see_what_is_there_and_each_change_once() {
        story(false).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_without_watch_list_is_listed() {
        story(true).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_fell_behind_lists_again_and_tells_what_it_missed() {
        let api = FakeApi::new(env());
        api.seed(&map("one"));
        let informer = Informer::<Meta>::start(api.client(), Query::all::<ConfigMap>(), env(), CancellationToken::new());
        informer.wait_synced().await;
        let seen = record(&informer);
        // The watch ends with an error while changes happen that its history forgets.
        let down = Arc::new(AtomicBool::new(true));
        let fault = down.clone();
        api.fail(move |_| fault.load(Ordering::SeqCst).then(|| Status::service_unavailable("down")));
        tokio::time::sleep(WATCH_OVER).await;
        api.seed(&map("two"));
        api.compact();
        api.seed(&map("three"));
        down.store(false, Ordering::SeqCst);
        informer.wait_version(3).await;
        assert_eq!(*seen.lock(), ["added one", "added three", "added two"]);
    }

    /// Longer than any watch of a reflector lasts.
    const WATCH_OVER: std::time::Duration = std::time::Duration::from_secs(700);
}
