//! [`FakeApi`]: an API in memory, good enough to test clients against: resource versions, generations, finalizers, selectors,
//! watches with a first state and bookmarks, and the subresources that controllers use. No admission, no defaults, no validation.

mod write;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use knarr_core::api::{Event, EventType, List, Options, Reply, Request, Transport, Verb, Watch};
use knarr_core::clock::Env;
use knarr_core::selector::{FieldSelector, LabelSelector};
use knarr_core::{Encoding, GroupResource, GroupVersion, GroupVersionResource, Object, Result, Status, Value, ValueExt, json};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::client::{Client, Resource, gvr, json_object, tree};
use crate::read::Key;
use knarr_schema::{codec, types};

/// One change of one object.
#[derive(Clone)]
struct Entry {
    resource: GroupResource,
    version: u64,
    old: Option<Arc<Value>>,
    new: Option<Arc<Value>>,
}

type Fault = Box<dyn FnMut(&Request) -> Option<Status> + Send>;

#[derive(Default)]
struct State {
    version: u64,
    objects: BTreeMap<GroupResource, BTreeMap<Key, Arc<Value>>>,
    history: Vec<Entry>,
    log: Vec<String>,
    faults: Vec<Fault>,
}

/// An API in memory. All users may do everything.
pub struct FakeApi {
    env: Env,
    shared: Arc<Shared>,
}

/// What watches go on reading after the call that began them.
struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

impl FakeApi {
    pub fn new(env: Env) -> Arc<Self> {
        Arc::new(Self { env, shared: Arc::new(Shared { state: Mutex::new(State::default()), changed: watch::Sender::new(0) }) })
    }

    pub fn client(self: &Arc<Self>) -> Client {
        Client::new(self.clone())
    }

    /// Puts an object there as it is, status included.
    ///
    /// # Panics
    /// When it is refused: a test's mistake.
    pub fn seed<T: Resource>(&self, object: &T) {
        self.seed_value(gvr::<T>(), tree(object).expect("an object that JSON can say"));
    }

    /// Puts a tree there as it is.
    ///
    /// # Panics
    /// When there is one of that name already.
    pub fn seed_value(&self, resource: GroupVersionResource, object: Value) {
        let mut request = Request::new(Verb::Create, resource);
        request.namespace = object.str_at(&["metadata", "namespace"]).map(str::to_owned);
        request.body = Some(object);
        self.write(&request).expect("an object that is new");
    }

    /// The object of that name, if it is there.
    ///
    /// # Panics
    /// When it is not of type `T`.
    pub fn read<T: Resource>(&self, namespace: &str, name: &str) -> Option<T> {
        let state = self.shared.state.lock();
        let value = state.objects.get(&gvr::<T>().group_resource())?.get(&Key::new(namespace, name))?;
        Some(T::from_tree((**value).clone()).expect("an object of that type"))
    }

    /// All objects of a type, ordered by key.
    ///
    /// # Panics
    /// When one is not of type `T`.
    pub fn read_all<T: Resource>(&self) -> Vec<T> {
        let state = self.shared.state.lock();
        let all = state.objects.get(&gvr::<T>().group_resource());
        all.into_iter().flat_map(BTreeMap::values).map(|v| T::from_tree((**v).clone()).expect("objects of that type")).collect()
    }

    /// Changes an object by a function, as somebody else would (no optimistic locking, any field).
    ///
    /// # Panics
    /// When the object is not there.
    pub fn change<T: Resource>(&self, namespace: &str, name: &str, change: impl FnOnce(&mut T)) {
        let mut object = self.read::<T>(namespace, name).expect("an object that is there");
        change(&mut object);
        self.put_as_is(&gvr::<T>().group_resource(), tree(&object).expect("an object that JSON can say"));
    }

    /// The writes so far, as `verb resource[/subresource] key`.
    pub fn log(&self) -> Vec<String> {
        self.shared.state.lock().log.clone()
    }

    /// Asks `fault` before each request; a status that it gives becomes the answer.
    pub fn fail(&self, fault: impl FnMut(&Request) -> Option<Status> + Send + 'static) {
        self.shared.state.lock().faults.push(Box::new(fault));
    }

    /// Forgets all history, so that resuming a watch gives `Expired`.
    pub fn compact(&self) {
        self.shared.state.lock().history.clear();
        self.shared.changed.send_modify(|_| ());
    }

    /// Waits until `condition` holds, asking again after each change.
    ///
    /// # Panics
    /// After an hour of (virtual) time, with the writes so far.
    pub async fn until(self: &Arc<Self>, mut condition: impl FnMut(&Self) -> bool) {
        let mut changes = self.shared.changed.subscribe();
        let waiting = async {
            while !condition(self) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let done = tokio::time::timeout(std::time::Duration::from_secs(3600), waiting).await;
        assert!(done.is_ok(), "the condition never held; writes were: {:#?}", self.log());
    }

    fn check_faults(&self, request: &Request) -> Result<()> {
        let mut state = self.shared.state.lock();
        match state.faults.iter_mut().find_map(|f| f(request)) {
            Some(status) => Err(status),
            None => Ok(()),
        }
    }

    fn get(&self, request: &Request) -> Result<Reply> {
        let (resource, key) = address(request);
        let state = self.shared.state.lock();
        let found = state.objects.get(&resource).and_then(|all| all.get(&key));
        let object = found.ok_or_else(|| Status::not_found(&resource, key.name()))?;
        Ok(match request.subresource.as_deref() {
            Some("scale") => Reply::Value(scale_of(object)),
            _ => Reply::Object(at_rest(object)),
        })
    }

    fn list_now(&self, request: &Request) -> Result<List> {
        let filter = Filter::of(request)?;
        let state = self.shared.state.lock();
        let all = state.objects.get(&filter.resource).into_iter().flat_map(BTreeMap::values);
        let items = all.filter(|v| filter.accepts(v)).map(|v| at_rest(v)).collect();
        Ok(List { resource_version: state.version, items, ..List::default() })
    }

    fn watch_from(&self, request: &Request) -> Result<Watch> {
        let filter = Filter::of(request)?;
        let options = &request.options;
        let mut first = Vec::new();
        let state = self.shared.state.lock();
        let asked: Option<u64> = options.resource_version.as_deref().and_then(|v| v.parse().ok()).filter(|v| *v > 0);
        let from = match asked {
            Some(version) if options.send_initial_events != Some(true) => {
                let oldest = state.history.first().map_or(state.version, |e| e.version - 1);
                if version < oldest {
                    return Err(Status::expired(format!("too old resource version: {version} ({oldest})")));
                }
                version
            }
            _ => {
                let all = state.objects.get(&filter.resource).into_iter().flat_map(BTreeMap::values);
                first.extend(all.filter(|v| filter.accepts(v)).map(|v| Ok(event(EventType::Added, at_rest(v)))));
                if options.send_initial_events == Some(true) {
                    first.push(Ok(Event { initial_events_end: true, ..bookmark(state.version) }));
                }
                state.version
            }
        };
        let end = tokio::time::Instant::now() + options.timeout.unwrap_or(std::time::Duration::from_secs(1800));
        Ok(Box::pin(futures::StreamExt::chain(futures::stream::iter(first), self.tail(filter, from, end))))
    }

    /// The events after `from`, until the watch's time is over.
    fn tail(&self, filter: Filter, from: u64, end: tokio::time::Instant) -> impl futures::Stream<Item = Result<Event>> + Send + use<> {
        let changes = self.shared.changed.subscribe();
        futures::stream::unfold(
            (self.shared.clone(), changes, filter, from, VecDeque::new()),
            move |(shared, mut changes, filter, mut from, mut pending)| async move {
                loop {
                    if let Some(event) = pending.pop_front() {
                        return Some((Ok(event), (shared, changes, filter, from, pending)));
                    }
                    changes.borrow_and_update();
                    pending.extend(shared.after(&filter, &mut from));
                    if pending.is_empty() && !matches!(tokio::time::timeout_at(end, changes.changed()).await, Ok(Ok(()))) {
                        return None;
                    }
                }
            },
        )
    }
}

impl Shared {
    /// The events after `from` that the filter sees; moves `from` to the last of them.
    fn after(&self, filter: &Filter, from: &mut u64) -> Vec<Event> {
        let state = self.state.lock();
        let fresh = state.history.iter().skip(state.history.partition_point(|e| e.version <= *from));
        let events: Vec<Event> = fresh.filter(|e| e.resource == filter.resource).filter_map(|e| filter.translate(e)).collect();
        *from = state.version.max(*from);
        events
    }
}

impl Transport for FakeApi {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Reply>> {
        async move {
            tokio::task::yield_now().await;
            self.check_faults(&request)?;
            if request.verb == Verb::Get { self.get(&request) } else { self.write(&request) }
        }
        .boxed()
    }

    fn list(&self, request: Request) -> BoxFuture<'_, Result<List>> {
        async move {
            self.check_faults(&request)?;
            self.list_now(&request)
        }
        .boxed()
    }

    fn watch(&self, request: Request) -> BoxFuture<'_, Result<Watch>> {
        async move {
            self.check_faults(&request)?;
            self.watch_from(&request)
        }
        .boxed()
    }
}

/// What a list or watch selects.
struct Filter {
    resource: GroupResource,
    namespace: Option<String>,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Filter {
    fn of(request: &Request) -> Result<Self> {
        let Options { label_selector, field_selector, .. } = &request.options;
        Ok(Self {
            resource: request.resource.group_resource(),
            namespace: request.namespace.clone(),
            labels: LabelSelector::parse(label_selector.as_deref().unwrap_or_default()).map_err(Status::bad_request)?,
            fields: FieldSelector::parse(field_selector.as_deref().unwrap_or_default()).map_err(Status::bad_request)?,
        })
    }

    fn accepts(&self, object: &Value) -> bool {
        let field = |path: &str| object.str_at(&path.split('.').collect::<Vec<_>>()).unwrap_or_default();
        self.namespace.as_deref().is_none_or(|n| object.str_at(&["metadata", "namespace"]) == Some(n))
            && self.labels.matches(object.at(&["metadata", "labels"]))
            && self.fields.matches_by(field)
    }

    /// The entry as a watcher with this filter sees it: objects may enter and leave what is selected.
    fn translate(&self, entry: &Entry) -> Option<Event> {
        let was = entry.old.as_ref().filter(|v| self.accepts(v));
        let is = entry.new.as_ref().filter(|v| self.accepts(v));
        match (was, is) {
            (None, Some(new)) => Some(event(EventType::Added, at_rest(new))),
            (Some(_), Some(new)) => Some(event(EventType::Modified, at_rest(new))),
            (Some(old), None) => {
                let mut last = (**entry.new.as_ref().unwrap_or(old)).clone();
                last.set(&["metadata", "resourceVersion"], entry.version.to_string());
                Some(event(EventType::Deleted, at_rest(&last)))
            }
            (None, None) => None,
        }
    }
}

fn event(event_type: EventType, object: Object) -> Event {
    Event { event_type, object, initial_events_end: false }
}

fn bookmark(version: u64) -> Event {
    event(EventType::Bookmark, json_object(&json!({"metadata": {"resourceVersion": version.to_string()}})))
}

/// A tree as the server would hand it out: protobuf for built-in kinds.
fn at_rest(value: &Value) -> Object {
    let group_version = value.str_at(&["apiVersion"]).and_then(GroupVersion::parse);
    let built_in = group_version.zip(value.str_at(&["kind"])).is_some_and(|(gv, kind)| types::of_kind(&gv.group, &gv.version, kind).is_some());
    let json = json_object(value);
    match built_in.then(|| codec::encode_protobuf(value)) {
        Some(Ok(bytes)) => Object { encoding: Encoding::Protobuf, bytes: bytes.into(), ..json },
        _ => json,
    }
}

fn address(request: &Request) -> (GroupResource, Key) {
    let body_name = request.body.as_ref().and_then(|b| b.str_at(&["metadata", "name"]));
    let name = request.name.as_deref().or(body_name).unwrap_or_default();
    (request.resource.group_resource(), Key::new(request.namespace.as_deref().unwrap_or_default(), name))
}

fn scale_of(object: &Value) -> Value {
    json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": object["metadata"],
        "spec": {"replicas": object.i64_at(&["spec", "replicas"]).unwrap_or_default()},
        "status": {"replicas": object.i64_at(&["status", "replicas"]).unwrap_or_default()}})
}
