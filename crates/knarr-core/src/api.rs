//! The seam between the API and its clients: a request and its answer as values.
//!
//! Every component comes in here, by a [`Transport`]. The one in the server's own process hands the same bytes that the
//! watch cache holds to its caller; the one over TLS speaks Kubernetes' wire. Both run the whole pipeline
//! (authentication, authorization, admission, validation), so a component cannot tell them apart.

use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, future::BoxFuture};

use crate::{GroupVersionResource, Object, Result, Value};

/// How a patch is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PatchType {
    Json,
    Merge,
    StrategicMerge,
    /// Server-side apply of YAML or JSON.
    Apply,
}

impl PatchType {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json-patch+json",
            Self::Merge => "application/merge-patch+json",
            Self::StrategicMerge => "application/strategic-merge-patch+json",
            Self::Apply => "application/apply-patch+yaml",
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch(PatchType),
    Delete,
    DeleteCollection,
}

impl Verb {
    /// As RBAC names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch(_) => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }
}

/// The query parameters of all verbs, as they are named on the wire. Unset means absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    pub label_selector: Option<String>,
    pub field_selector: Option<String>,
    pub resource_version: Option<String>,
    pub resource_version_match: Option<String>,
    pub limit: Option<i64>,
    pub continue_token: Option<String>,
    pub timeout: Option<Duration>,
    pub allow_watch_bookmarks: bool,
    pub send_initial_events: Option<bool>,
    pub dry_run: bool,
    pub field_manager: Option<String>,
    pub field_validation: Option<String>,
    pub force: Option<bool>,
}

/// One request to the API.
#[derive(Clone, Debug)]
pub struct Request {
    pub verb: Verb,
    pub resource: GroupVersionResource,
    /// Absent for cluster-scoped resources and for lists over all namespaces.
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub subresource: Option<String>,
    pub options: Options,
    /// An object, a patch, or `DeleteOptions`.
    pub body: Option<Value>,
}

impl Request {
    pub fn new(verb: Verb, resource: GroupVersionResource) -> Self {
        Self { verb, resource, namespace: None, name: None, subresource: None, options: Options::default(), body: None }
    }
}

/// The answer to anything but a list or a watch.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A stored object, as bytes.
    Object(Object),
    /// Something that is not stored: a review, a scale, a `Status` of success.
    Value(Value),
}

/// The answer to a list.
#[derive(Clone, Debug, Default)]
pub struct List {
    pub resource_version: u64,
    pub continue_token: String,
    pub remaining_item_count: Option<i64>,
    pub items: Vec<Object>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    Added,
    Modified,
    Deleted,
    Bookmark,
}

impl EventType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
            Self::Bookmark => "BOOKMARK",
        }
    }
}

/// One event of a watch. A bookmark has an object of its kind with nothing in it but the resource version.
#[derive(Clone, Debug)]
pub struct Event {
    pub event_type: EventType,
    pub object: Object,
    /// Set on the bookmark that ends the first state of a watch with `sendInitialEvents`.
    pub initial_events_end: bool,
}

/// The events of a watch, in order. It ends when the server closes the watch, and with an error (`Expired`) when the
/// watch must start anew from a list.
pub type Watch = Pin<Box<dyn Stream<Item = Result<Event>> + Send>>;

/// A way to the API, for one user.
pub trait Transport: Send + Sync + 'static {
    /// Any verb but `List` and `Watch`.
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Reply>>;
    fn list(&self, request: Request) -> BoxFuture<'_, Result<List>>;
    fn watch(&self, request: Request) -> BoxFuture<'_, Result<Watch>>;
}
