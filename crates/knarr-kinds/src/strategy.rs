//! The seam between the generic handlers and what a kind has of its own.
//!
//! A kind describes its [`Shape`]; the default methods do the rest. What differs it overrides, calling the functions of
//! [`crate::separation`] for the part that does not.

use knarr_core::{Value, clock::Env, field::ErrorList};

use crate::separation;

/// Takes what the client should be told about a write that may go on.
pub trait Warn: Sync {
    fn warn(&self, text: String);
}

/// What a strategy may know of the request.
pub struct Context<'a> {
    pub env: &'a Env,
    /// Empty for cluster-scoped objects.
    pub namespace: &'a str,
    /// Name of the user who asks.
    pub user: &'a str,
    /// Uid of the user, empty if the authenticator knows none.
    pub uid: &'a str,
    /// Groups of the user.
    pub groups: &'a [String],
    /// Extra facts of the authenticator: an object of lists of strings.
    pub extra: Option<&'a Value>,
    /// Whether the object came without labels of its own, and has those that defaulting gave it.
    pub labels_defaulted: bool,
    /// Where validation leaves what is wrong and may stay so.
    pub warnings: Option<&'a dyn Warn>,
}

impl<'a> Context<'a> {
    /// A request of nobody in particular: the server's own writes, and tests.
    pub fn internal(env: &'a Env, namespace: &'a str) -> Self {
        Self { env, namespace, user: "", uid: "", groups: &[], extra: None, labels_defaulted: false, warnings: None }
    }
}

/// How a delete of an object goes on (upstream: `RESTGracefulDeleteStrategy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Graceful {
    /// Delete at once.
    Immediate,
    /// Set `deletionTimestamp` and wait for somebody to delete with grace 0; without seconds to wait that is done at once.
    Wait { seconds: i64 },
}

/// What the generic part of a write does for a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// `metadata.generation` starts at 1 and rises when something beside `metadata` and `status` changes.
    pub generation: bool,
    /// A `status` that only writes through a subresource change.
    pub status: bool,
    /// A write to `status` leaves labels, annotations and the like as they were (upstream: `ResetObjectMetaForStatus`).
    pub status_keeps_metadata: bool,
    /// A PUT may create (upstream: `AllowCreateOnUpdate`).
    pub create_on_update: bool,
    /// A PUT needs a resourceVersion (upstream: not `AllowUnconditionalUpdate`).
    pub needs_resource_version: bool,
    /// An update is refused for a `metadata.generateName` that could not be created. For the other kinds it only has to fit into a path
    /// (upstream: whether `ValidateUpdate` asks `ValidateObjectMeta` for the new object, too).
    pub judges_prefix_again: bool,
}

impl Shape {
    /// Metadata and data, nothing that the server sets.
    pub const PLAIN: Self = Self {
        generation: false,
        status: false,
        status_keeps_metadata: false,
        create_on_update: false,
        needs_resource_version: false,
        judges_prefix_again: false,
    };

    #[must_use]
    pub const fn generation(mut self) -> Self {
        self.generation = true;
        self
    }

    #[must_use]
    pub const fn status(mut self) -> Self {
        self.status = true;
        self
    }

    #[must_use]
    pub const fn status_keeps_metadata(mut self) -> Self {
        self.status = true;
        self.status_keeps_metadata = true;
        self
    }

    #[must_use]
    pub const fn create_on_update(mut self) -> Self {
        self.create_on_update = true;
        self
    }

    #[must_use]
    pub const fn needs_resource_version(mut self) -> Self {
        self.needs_resource_version = true;
        self
    }

    #[must_use]
    pub const fn judges_prefix_again(mut self) -> Self {
        self.judges_prefix_again = true;
        self
    }
}

/// The behaviour of one resource, or of one subresource of it (`status`, `ephemeralcontainers`, …).
///
/// The generic handlers call, in this order: [`default`](Self::default) after decoding and after each mutating patch,
/// `prepare_for_…` when name, namespace, uid and creationTimestamp are set, `validate_…` after all admission that mutates.
/// On an update the new object already carries the generation of the old one.
pub trait Strategy: Sync + Send {
    fn shape(&self) -> Shape {
        Shape::PLAIN
    }

    /// What the kind reads out of texts and cannot read, in the words of upstream's conversion into its internal kind.
    ///
    /// # Errors
    /// Why there is no object of the kind in it.
    fn readable(&self, _object: &Value) -> Result<(), String> {
        Ok(())
    }

    /// Defaults that the type table does not declare. Declared ones are already in. Applied twice it changes nothing more.
    fn default(&self, _object: &mut Value) {}

    /// Defaults that are the time of the request. Applied after [`default`](Self::default).
    fn default_times(&self, _object: &mut Value, _now: jiff::Timestamp) {}

    fn prepare_for_create(&self, _cx: &Context<'_>, object: &mut Value) {
        separation::create(self.shape(), object);
    }

    fn validate_create(&self, _cx: &Context<'_>, _object: &Value) -> ErrorList {
        ErrorList::new()
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, object: &mut Value, old: &Value) {
        separation::update(self.shape(), object, old);
    }

    /// Ratcheting: what was wrong before may stay wrong.
    fn validate_update(&self, _cx: &Context<'_>, _object: &Value, _old: &Value) -> ErrorList {
        ErrorList::new()
    }

    /// What a write through the `status` subresource may change.
    fn prepare_for_status_update(&self, _cx: &Context<'_>, object: &mut Value, old: &Value) {
        separation::status_update(self.shape(), object, old);
    }

    fn validate_status_update(&self, _cx: &Context<'_>, _object: &Value, _old: &Value) -> ErrorList {
        ErrorList::new()
    }

    /// `Warning` headers.
    fn warnings(&self, _object: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// `Warning` headers of a write to `status`.
    fn status_warnings(&self, _object: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Whether a PUT may create (upstream: `AllowCreateOnUpdate`).
    fn allow_create_on_update(&self) -> bool {
        self.shape().create_on_update
    }

    /// Whether a PUT needs no resourceVersion (upstream: `AllowUnconditionalUpdate`).
    fn allow_unconditional_update(&self) -> bool {
        !self.shape().needs_resource_version
    }

    /// How a delete with this wanted grace goes (`None`: the caller named none).
    fn graceful(&self, _object: &Value, _grace_seconds: Option<i64>) -> Graceful {
        Graceful::Immediate
    }

    /// Whether a delete that names no propagation policy orphans dependents (ReplicationController and Job, for old clients).
    fn orphans_dependents(&self) -> bool {
        false
    }

    /// Values of the selectable fields of the resource, by name.
    fn field(&self, object: &Value, name: &str) -> String {
        plain_field(object, name)
    }

    /// Cells of the table row, in the order of the resource's columns. `None`: name and age.
    fn cells(&self, _object: &Value, _now: jiff::Timestamp) -> Option<Vec<Value>> {
        None
    }

    /// By what the rows of a list's table are sorted, before the name, where that is not all (FlowSchemas).
    fn row_rank(&self) -> Option<fn(&Value) -> i64> {
        None
    }

    /// In a list, the index of the object whose name is marked ` (default)` (StorageClasses).
    fn effective_default(&self, _objects: &[Value]) -> Option<usize> {
        None
    }

    /// Whether finalizers need a domain unless they are Kubernetes' own: most kinds (upstream: `ValidateObjectMeta` of core).
    fn domain_finalizers(&self) -> bool {
        true
    }

    /// The same for a write to `status`.
    fn domain_finalizers_of_status(&self) -> bool {
        self.domain_finalizers()
    }

    /// Whether a cause is told as often as rules find it. Most kinds are validated declaratively as well, for which upstream brings equal
    /// causes together; the kinds of its apiextensions server are not, and ask for the metadata of an update once more.
    fn repeats_causes(&self) -> bool {
        false
    }

    /// `metadata.name` rules; texts of upstream's `NameIsDNSSubdomain` and like.
    fn validate_name(&self, name: &str) -> Vec<String> {
        knarr_core::names::is_dns1123_subdomain(name)
    }

    /// Whether a random tail makes a name of `metadata.generateName`; otherwise that is the name.
    fn generates_names(&self) -> bool {
        true
    }

    /// Rules for `metadata.generateName`, with a `-` at its end replaced: mostly those for the name.
    fn validate_generate_name(&self, prefix: &str) -> Vec<String> {
        self.validate_name(prefix)
    }
}

/// The scalar at a dotted path; empty when absent.
pub(crate) fn plain_field(object: &Value, name: &str) -> String {
    let found = name.split('.').try_fold(object, |v, key| v.get(key));
    match found {
        Some(Value::String(s)) => s.clone(),
        None | Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
    }
}

/// A kind without behaviour of its own.
pub struct Plain(pub Shape);

impl Strategy for Plain {
    fn shape(&self) -> Shape {
        self.0
    }
}

/// The `status` subresource of a kind.
pub struct StatusOf(pub &'static dyn Strategy);

impl Strategy for StatusOf {
    fn shape(&self) -> Shape {
        Shape { judges_prefix_again: false, ..self.0.shape() }
    }

    fn readable(&self, object: &Value) -> Result<(), String> {
        self.0.readable(object)
    }

    fn default(&self, object: &mut Value) {
        self.0.default(object);
    }

    fn default_times(&self, object: &mut Value, now: jiff::Timestamp) {
        self.0.default_times(object, now);
    }

    fn prepare_for_update(&self, cx: &Context<'_>, object: &mut Value, old: &Value) {
        self.0.prepare_for_status_update(cx, object, old);
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> ErrorList {
        self.0.validate_status_update(cx, object, old)
    }

    fn warnings(&self, object: &Value, _old: Option<&Value>) -> Vec<String> {
        self.0.status_warnings(object)
    }

    fn allow_create_on_update(&self) -> bool {
        false
    }

    fn field(&self, object: &Value, name: &str) -> String {
        self.0.field(object, name)
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Option<Vec<Value>> {
        self.0.cells(object, now)
    }

    fn row_rank(&self) -> Option<fn(&Value) -> i64> {
        self.0.row_rank()
    }

    fn domain_finalizers(&self) -> bool {
        self.0.domain_finalizers_of_status()
    }

    fn repeats_causes(&self) -> bool {
        self.0.repeats_causes()
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        self.0.validate_name(name)
    }

    fn validate_generate_name(&self, prefix: &str) -> Vec<String> {
        self.0.validate_generate_name(prefix)
    }
}
