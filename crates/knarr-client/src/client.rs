//! [`Client`]: the verbs of the API over any transport. [`Api`] speaks of typed objects, [`DynamicApi`] of trees and bytes.
//!
//! Nothing here retries or caches; errors are the API's own [`Status`].

use std::marker::PhantomData;
use std::sync::Arc;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::Namespace;
use knarr_core::api::{List, Options, PatchType, Reply, Request, Transport, Verb, Watch};
use knarr_core::{Encoding, GroupVersionResource, Object, Result, Value, ValueExt, json};

use crate::read;
use crate::typed::{ToTree, Typed};

/// A typed object of the API: everything that `k8s_openapi` calls a resource and that can cross the wire.
pub trait Resource: k8s_openapi::Resource + Typed + ToTree + Send + Sync {}

impl<T: k8s_openapi::Resource + Typed + ToTree + Send + Sync> Resource for T {}

/// Group, version and plural of a typed resource.
pub fn gvr<T: k8s_openapi::Resource>() -> GroupVersionResource {
    GroupVersionResource::new(T::GROUP, T::VERSION, T::URL_PATH_SEGMENT)
}

/// The API as one user sees it. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    field_manager: Option<Arc<str>>,
}

impl Client {
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport, field_manager: None }
    }

    /// The same client whose writes carry this `fieldManager` unless a call names another.
    #[must_use]
    pub fn with_field_manager(mut self, name: &str) -> Self {
        self.field_manager = Some(name.into());
        self
    }

    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// Cluster-scoped objects, or those of all namespaces (lists and watches only).
    pub fn all<T: Resource>(&self) -> Api<T> {
        Api { inner: self.dynamic(gvr::<T>(), None), of: PhantomData }
    }

    /// Objects in one namespace.
    pub fn within<T: Resource>(&self, namespace: &str) -> Api<T> {
        Api { inner: self.dynamic(gvr::<T>(), Some(namespace)), of: PhantomData }
    }

    /// Objects of any resource, as trees and bytes. An empty namespace counts as none.
    pub fn dynamic(&self, resource: GroupVersionResource, namespace: Option<&str>) -> DynamicApi {
        DynamicApi { client: self.clone(), resource, namespace: namespace.filter(|n| !n.is_empty()).map(Into::into) }
    }

    /// Binds a pod to a node (`pods/binding`).
    ///
    /// # Errors
    /// `Conflict` when the pod is bound already or being deleted.
    pub async fn bind(&self, namespace: &str, pod: &str, pod_uid: &str, node: &str) -> Result<()> {
        let mut body = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod, "namespace": namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
        if !pod_uid.is_empty() {
            body.set(&["metadata", "uid"], pod_uid);
        }
        self.dynamic(pods(), Some(namespace)).create_subresource(pod, "binding", body).await.map(drop)
    }

    /// Evicts a pod by the Eviction API, which asks the PodDisruptionBudgets.
    ///
    /// # Errors
    /// 429 `TooManyRequests` when a budget does not allow it now.
    pub async fn evict(&self, namespace: &str, pod: &str, deletion: &Deletion) -> Result<()> {
        let mut body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}});
        if let Some(options) = deletion.body() {
            body.set(&["deleteOptions"], options);
        }
        self.dynamic(pods(), Some(namespace)).create_subresource(pod, "eviction", body).await.map(drop)
    }

    /// Asks for a token of a service account.
    ///
    /// # Errors
    /// As the API's.
    pub async fn create_token(&self, namespace: &str, service_account: &str, request: &TokenRequest) -> Result<TokenRequest> {
        let accounts = GroupVersionResource::new("", "v1", "serviceaccounts");
        typed_reply(self.dynamic(accounts, Some(namespace)).create_subresource(service_account, "token", tree(request)?).await?)
    }

    /// Writes `spec.finalizers` of a namespace.
    ///
    /// # Errors
    /// As the API's.
    pub async fn finalize_namespace(&self, namespace: &Namespace) -> Result<Namespace> {
        let namespaces = self.dynamic(gvr::<Namespace>(), None);
        let name = namespace.metadata.name.as_deref().unwrap_or_default();
        typed_reply(namespaces.update_subresource(name, "finalize", tree(namespace)?).await?)
    }
}

fn pods() -> GroupVersionResource {
    GroupVersionResource::new("", "v1", "pods")
}

/// A typed object as the tree that travels.
///
/// # Errors
/// `InternalError` for a value that JSON cannot say.
pub fn tree<T: ToTree>(object: &T) -> Result<Value> {
    object.to_tree()
}

/// An answer as a typed struct.
///
/// # Errors
/// As [`read::typed`].
pub fn typed_reply<T: Typed>(reply: Reply) -> Result<T> {
    match reply {
        Reply::Object(object) => read::typed(&object),
        Reply::Value(value) => T::from_tree(value),
    }
}

/// An answer as bytes.
pub fn object_reply(reply: Reply) -> Object {
    match reply {
        Reply::Object(object) => object,
        Reply::Value(value) => json_object(&value),
    }
}

/// A tree as an object at rest, in JSON.
pub fn json_object(value: &Value) -> Object {
    let resource_version = value.str_at(&["metadata", "resourceVersion"]).and_then(|v| v.parse().ok()).unwrap_or_default();
    Object { encoding: Encoding::Json, resource_version, bytes: value.to_string().into() }
}

/// How to delete (`metav1.DeleteOptions`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deletion {
    pub grace_period_seconds: Option<i64>,
    /// `Foreground`, `Background` or `Orphan`.
    pub propagation_policy: Option<&'static str>,
    /// Only the object with this uid.
    pub uid: Option<String>,
    /// Only at this resource version.
    pub resource_version: Option<String>,
    pub dry_run: bool,
}

impl Deletion {
    /// Deletes only the object that has this uid.
    pub fn of_uid(uid: impl Into<String>) -> Self {
        Self { uid: Some(uid.into()), ..Self::default() }
    }

    fn body(&self) -> Option<Value> {
        if *self == Self::default() {
            return None;
        }
        let mut body = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
        if let Some(seconds) = self.grace_period_seconds {
            body.set(&["gracePeriodSeconds"], seconds);
        }
        if let Some(policy) = self.propagation_policy {
            body.set(&["propagationPolicy"], policy);
        }
        if let Some(uid) = &self.uid {
            body.set(&["preconditions", "uid"], uid.as_str());
        }
        if let Some(version) = &self.resource_version {
            body.set(&["preconditions", "resourceVersion"], version.as_str());
        }
        if self.dry_run {
            body.set(&["dryRun"], json!(["All"]));
        }
        Some(body)
    }
}

/// A patch and how to read it.
#[derive(Clone, Debug)]
pub struct Patch {
    pub patch_type: PatchType,
    pub body: Value,
}

impl Patch {
    pub fn merge(body: Value) -> Self {
        Self { patch_type: PatchType::Merge, body }
    }

    pub fn strategic(body: Value) -> Self {
        Self { patch_type: PatchType::StrategicMerge, body }
    }

    pub fn json(operations: Value) -> Self {
        Self { patch_type: PatchType::Json, body: operations }
    }

    /// Server-side apply; needs a field manager.
    pub fn apply(configuration: Value) -> Self {
        Self { patch_type: PatchType::Apply, body: configuration }
    }
}

/// One resource, as trees and bytes.
#[derive(Clone)]
pub struct DynamicApi {
    client: Client,
    resource: GroupVersionResource,
    namespace: Option<Arc<str>>,
}

impl DynamicApi {
    pub fn resource(&self) -> &GroupVersionResource {
        &self.resource
    }

    /// The namespace that requests go to; none for cluster-scoped resources and lists over all namespaces.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    fn request(&self, verb: Verb, name: Option<&str>, options: &Options) -> Request {
        let mut request = Request::new(verb, self.resource.clone());
        request.namespace = self.namespace.as_deref().map(str::to_owned);
        request.name = name.map(str::to_owned);
        request.options = options.clone();
        if matches!(verb, Verb::Create | Verb::Update | Verb::Patch(_)) && request.options.field_manager.is_none() {
            request.options.field_manager = self.client.field_manager.as_deref().map(str::to_owned);
        }
        request
    }

    async fn call(&self, request: Request) -> Result<Reply> {
        self.client.transport.call(request).await
    }

    /// # Errors
    /// `NotFound`, or as the API's.
    pub async fn get(&self, name: &str) -> Result<Object> {
        self.get_with(name, &Options::default()).await
    }

    /// # Errors
    /// As [`Self::get`].
    pub async fn get_with(&self, name: &str, options: &Options) -> Result<Object> {
        self.call(self.request(Verb::Get, Some(name), options)).await.map(object_reply)
    }

    /// One page.
    ///
    /// # Errors
    /// `Expired` for a continue token that is too old, or as the API's.
    pub async fn list(&self, options: &Options) -> Result<List> {
        self.client.transport.list(self.request(Verb::List, None, options)).await
    }

    /// # Errors
    /// `Expired` when the resource version is too old, or as the API's.
    pub async fn watch(&self, options: &Options) -> Result<Watch> {
        self.client.transport.watch(self.request(Verb::Watch, None, options)).await
    }

    /// # Errors
    /// `AlreadyExists`, `Invalid`, or as the API's.
    pub async fn create(&self, object: Value) -> Result<Object> {
        self.create_with(object, &Options::default()).await
    }

    /// # Errors
    /// As [`Self::create`].
    pub async fn create_with(&self, object: Value, options: &Options) -> Result<Object> {
        let mut request = self.request(Verb::Create, None, options);
        request.body = Some(object);
        self.call(request).await.map(object_reply)
    }

    /// Replaces the object that the body names.
    ///
    /// # Errors
    /// `Conflict` when the body's resource version is not the current one, or as the API's.
    pub async fn update(&self, object: Value) -> Result<Object> {
        self.update_with(object, None, &Options::default()).await
    }

    /// # Errors
    /// As [`Self::update`].
    pub async fn update_status(&self, object: Value) -> Result<Object> {
        self.update_with(object, Some("status"), &Options::default()).await
    }

    /// # Errors
    /// As [`Self::update`].
    pub async fn update_with(&self, object: Value, subresource: Option<&str>, options: &Options) -> Result<Object> {
        let mut request = self.request(Verb::Update, object.str_at(&["metadata", "name"]), options);
        request.subresource = subresource.map(str::to_owned);
        request.body = Some(object);
        self.call(request).await.map(object_reply)
    }

    /// # Errors
    /// `NotFound`, `Conflict`, `Invalid`, or as the API's.
    pub async fn patch(&self, name: &str, patch: Patch) -> Result<Object> {
        self.patch_with(name, patch, None, &Options::default()).await
    }

    /// # Errors
    /// As [`Self::patch`].
    pub async fn patch_status(&self, name: &str, patch: Patch) -> Result<Object> {
        self.patch_with(name, patch, Some("status"), &Options::default()).await
    }

    /// # Errors
    /// As [`Self::patch`].
    pub async fn patch_with(&self, name: &str, patch: Patch, subresource: Option<&str>, options: &Options) -> Result<Object> {
        let mut request = self.request(Verb::Patch(patch.patch_type), Some(name), options);
        request.subresource = subresource.map(str::to_owned);
        request.body = Some(patch.body);
        self.call(request).await.map(object_reply)
    }

    /// Gives the object as it is now being deleted, or the `Status` of a deletion that is done.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when a precondition fails, or as the API's.
    pub async fn delete(&self, name: &str, deletion: &Deletion) -> Result<Reply> {
        let mut request = self.request(Verb::Delete, Some(name), &Options { dry_run: deletion.dry_run, ..Options::default() });
        request.body = deletion.body();
        self.call(request).await
    }

    /// Deletes everything that the selectors in `options` match.
    ///
    /// # Errors
    /// As the API's.
    pub async fn delete_collection(&self, deletion: &Deletion, options: &Options) -> Result<()> {
        let mut request = self.request(Verb::DeleteCollection, None, options);
        request.body = deletion.body();
        self.call(request).await.map(drop)
    }

    /// # Errors
    /// As the API's.
    pub async fn get_subresource(&self, name: &str, subresource: &str) -> Result<Reply> {
        self.on_subresource(Verb::Get, name, subresource, None).await
    }

    /// # Errors
    /// As the API's.
    pub async fn create_subresource(&self, name: &str, subresource: &str, body: Value) -> Result<Reply> {
        self.on_subresource(Verb::Create, name, subresource, Some(body)).await
    }

    /// # Errors
    /// As the API's.
    pub async fn update_subresource(&self, name: &str, subresource: &str, body: Value) -> Result<Reply> {
        self.on_subresource(Verb::Update, name, subresource, Some(body)).await
    }

    async fn on_subresource(&self, verb: Verb, name: &str, subresource: &str, body: Option<Value>) -> Result<Reply> {
        let mut request = self.request(verb, Some(name), &Options::default());
        request.subresource = Some(subresource.to_owned());
        request.body = body;
        self.call(request).await
    }
}

/// One typed resource.
pub struct Api<T> {
    inner: DynamicApi,
    of: PhantomData<fn() -> T>,
}

impl<T> Clone for Api<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), of: PhantomData }
    }
}

impl<T: Resource> Api<T> {
    /// The same resource without types: answers stay bytes.
    pub fn dynamic(&self) -> &DynamicApi {
        &self.inner
    }

    /// # Errors
    /// `NotFound`, or as the API's.
    pub async fn get(&self, name: &str) -> Result<T> {
        read::typed(&self.inner.get(name).await?)
    }

    /// The object, or none when it does not exist.
    ///
    /// # Errors
    /// As the API's, except `NotFound`.
    pub async fn find(&self, name: &str) -> Result<Option<T>> {
        match self.get(name).await {
            Ok(object) => Ok(Some(object)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Everything that the options select, typed; the list's resource version with it.
    ///
    /// # Errors
    /// As the API's.
    pub async fn list(&self, options: &Options) -> Result<(Vec<T>, u64)> {
        let list = self.inner.list(options).await?;
        let items = list.items.iter().map(read::typed).collect::<Result<_>>()?;
        Ok((items, list.resource_version))
    }

    /// # Errors
    /// As [`DynamicApi::watch`].
    pub async fn watch(&self, options: &Options) -> Result<Watch> {
        self.inner.watch(options).await
    }

    /// # Errors
    /// As [`DynamicApi::create`].
    pub async fn create(&self, object: &T) -> Result<T> {
        read::typed(&self.inner.create(tree(object)?).await?)
    }

    /// # Errors
    /// As [`DynamicApi::update`].
    pub async fn update(&self, object: &T) -> Result<T> {
        read::typed(&self.inner.update(tree(object)?).await?)
    }

    /// # Errors
    /// As [`DynamicApi::update`].
    pub async fn update_status(&self, object: &T) -> Result<T> {
        read::typed(&self.inner.update_status(tree(object)?).await?)
    }

    /// # Errors
    /// As [`DynamicApi::patch`].
    pub async fn patch(&self, name: &str, patch: Patch) -> Result<T> {
        read::typed(&self.inner.patch(name, patch).await?)
    }

    /// # Errors
    /// As [`DynamicApi::patch`].
    pub async fn patch_status(&self, name: &str, patch: Patch) -> Result<T> {
        read::typed(&self.inner.patch_status(name, patch).await?)
    }

    /// Server-side apply under the client's field manager.
    ///
    /// # Errors
    /// `Conflict` with a cause for each field that another manager owns, unless `force`; or as the API's.
    pub async fn apply(&self, name: &str, configuration: &Value, force: bool) -> Result<T> {
        let options = Options { force: force.then_some(true), ..Options::default() };
        read::typed(&self.inner.patch_with(name, Patch::apply(configuration.clone()), None, &options).await?)
    }

    /// # Errors
    /// As [`DynamicApi::delete`].
    pub async fn delete(&self, name: &str, deletion: &Deletion) -> Result<Reply> {
        self.inner.delete(name, deletion).await
    }

    /// Reads a scale (`autoscaling/v1` Scale) or any other subresource of type `S`.
    ///
    /// # Errors
    /// As the API's.
    pub async fn get_subresource<S: Typed>(&self, name: &str, subresource: &str) -> Result<S> {
        typed_reply(self.inner.get_subresource(name, subresource).await?)
    }

    /// Writes a scale or any other subresource of type `S`.
    ///
    /// # Errors
    /// As the API's.
    pub async fn update_subresource<S: ToTree + Typed>(&self, name: &str, subresource: &str, body: &S) -> Result<S> {
        typed_reply(self.inner.update_subresource(name, subresource, tree(body)?).await?)
    }
}
