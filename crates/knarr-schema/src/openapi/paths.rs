//! What can be asked of a resource, without regard to a dialect: paths, methods, parameters, bodies and answers. Follows
//! `registerResourceHandlers` of `k8s.io/apiserver/pkg/endpoints/installer.go`, and for custom resources the builder of
//! `k8s.io/apiextensions-apiserver/pkg/controller/openapi`.

use std::collections::BTreeSet;

use crate::registry::{Registry, Resource, Subresource};
use crate::types;

/// Place and type of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Param {
    pub name: &'static str,
    /// `path` or `query`.
    pub place: &'static str,
    pub kind: &'static str,
}

const fn query(name: &'static str, kind: &'static str) -> Param {
    Param { name, place: "query", kind }
}

const NAME: Param = Param { name: "name", place: "path", kind: "string" };
const NAMESPACE: Param = Param { name: "namespace", place: "path", kind: "string" };
const PATH: Param = Param { name: "path", place: "path", kind: "string" };
const PRETTY: Param = query("pretty", "string");
const DRY_RUN: Param = query("dryRun", "string");
const WRITE: [Param; 3] = [DRY_RUN, query("fieldManager", "string"), query("fieldValidation", "string")];
const FORCE: Param = query("force", "boolean");
const WATCH: [Param; 2] = [query("allowWatchBookmarks", "boolean"), query("watch", "boolean")];
const LIST: [Param; 9] = [
    query("continue", "string"),
    query("fieldSelector", "string"),
    query("labelSelector", "string"),
    query("limit", "integer"),
    query("resourceVersion", "string"),
    query("resourceVersionMatch", "string"),
    query("sendInitialEvents", "boolean"),
    query("shardSelector", "string"),
    query("timeoutSeconds", "integer"),
];
const DELETE: [Param; 5] = [
    DRY_RUN,
    query("gracePeriodSeconds", "integer"),
    query("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    query("orphanDependents", "boolean"),
    query("propagationPolicy", "string"),
];

/// What a body or an answer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// A definition, by its full name.
    Definition(String),
    Text,
}

/// Which content types are taken or given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Media {
    /// Taken: anything. Given: all that the server can write.
    Objects,
    Streams,
    Patches,
    /// Text first, then all others.
    Log,
    Anything,
    /// JSON and YAML: custom resources.
    Custom,
    CustomPatches,
    Json,
    KeySet,
    None,
}

impl Media {
    pub fn consumes(self) -> &'static [&'static str] {
        match self {
            Self::Patches => {
                &["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"]
            }
            Self::Custom => &["application/json", "application/yaml"],
            Self::CustomPatches => &["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"],
            Self::Json => &["application/json"],
            Self::Objects => &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"],
            Self::None | Self::KeySet => &[],
            _ => &["*/*"],
        }
    }

    pub fn produces(self) -> &'static [&'static str] {
        match self {
            Self::Objects => &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"],
            Self::Streams => &[
                "application/json",
                "application/yaml",
                "application/vnd.kubernetes.protobuf",
                "application/json;stream=watch",
                "application/vnd.kubernetes.protobuf;stream=watch",
            ],
            Self::Log => &["text/plain", "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"],
            Self::Custom => &["application/json", "application/yaml"],
            Self::Json => &["application/json"],
            Self::KeySet => &["application/jwk-set+json"],
            Self::None => &[],
            _ => &["*/*"],
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Body {
    pub content: Content,
    pub required: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub method: &'static str,
    pub id: String,
    pub tag: String,
    pub action: Option<&'static str>,
    /// Group, version and kind that it is about.
    pub kind: Option<[String; 3]>,
    pub params: Vec<Param>,
    pub body: Option<Body>,
    pub consumes: Media,
    pub produces: Media,
    /// Codes of success and what they answer with.
    pub answers: Vec<(u16, Content)>,
}

#[derive(Clone, Debug)]
pub(super) struct PathItem {
    pub path: String,
    /// What all operations have in common.
    pub params: Vec<Param>,
    pub operations: Vec<Operation>,
}

impl PathItem {
    /// Takes the parameters that all operations share out of them.
    pub fn new(path: String, mut operations: Vec<Operation>) -> Self {
        let mut shared: BTreeSet<Param> = operations.first().map(|o| o.params.iter().copied().collect()).unwrap_or_default();
        for operation in &operations {
            shared.retain(|p| operation.params.contains(p));
        }
        for operation in &mut operations {
            operation.params.retain(|p| !shared.contains(p));
            operation.params.sort_unstable();
        }
        Self { path, params: shared.into_iter().collect(), operations }
    }
}

/// The full definition name of a built-in kind.
pub(super) fn definition_of(group: &str, version: &str, kind: &str) -> Option<String> {
    types::of_kind(group, version, kind).map(|id| format!("io.k8s.{}", types::get(id).name))
}

pub(super) fn meta(name: &str) -> Content {
    Content::Definition(format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}"))
}

/// `api/v1` or `apis/apps/v1`.
pub(super) fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// A group as it appears in operation ids: `Core`, `Apps`, `RbacAuthorization`, `StableExampleCom`.
pub(super) fn group_id(group: &str) -> String {
    if group.is_empty() {
        return "Core".to_owned();
    }
    group.strip_suffix(".k8s.io").unwrap_or(group).split('.').map(capitalized).collect()
}

pub(super) fn group_tag(group: &str) -> String {
    let first = group.strip_suffix(".k8s.io").unwrap_or(group);
    if group.is_empty() { "core".to_owned() } else { lower_first(&group_id(first)) }
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// Operations that answer one thing at a path of their own.
pub(super) fn plain(path: &str, id: &str, tag: &str, media: (Media, Media), answer: Option<Content>) -> PathItem {
    let operation = Operation {
        method: "get",
        id: id.to_owned(),
        tag: tag.to_owned(),
        action: None,
        kind: None,
        params: Vec::new(),
        body: None,
        consumes: media.0,
        produces: media.1,
        answers: answer.map(|content| (200, content)).into_iter().collect(),
    };
    PathItem::new(path.to_owned(), vec![operation])
}

/// All paths below one group version, its discovery document first.
pub(super) fn group_version(registry: &Registry, group: &str, version: &str) -> Vec<PathItem> {
    let mut items = Vec::new();
    let mut custom = false;
    for resource in registry.all().iter().filter(|r| r.group == group && r.version == version) {
        custom |= resource.custom.is_some();
        items.extend(Builder::new(resource).paths());
    }
    if !custom {
        let id = format!("get{}{}APIResources", group_id(group), capitalized(version));
        let tag = format!("{}_{version}", group_tag(group));
        items.insert(0, plain(&format!("/{}/", root(group, version)), &id, &tag, (Media::Objects, Media::Objects), Some(meta("APIResourceList"))));
    }
    items
}

struct Builder<'a> {
    resource: &'a Resource,
    /// `AppsV1`.
    gv: String,
    object: Content,
}

impl<'a> Builder<'a> {
    fn new(resource: &'a Resource) -> Self {
        let object = match resource.custom {
            Some(_) => super::custom::definition_name(resource, &resource.kind),
            None => definition_of(&resource.group, &resource.version, &resource.kind).unwrap_or_default(),
        };
        Self { resource, gv: format!("{}{}", group_id(&resource.group), capitalized(&resource.version)), object: Content::Definition(object) }
    }

    fn can(&self, verb: &str) -> bool {
        self.resource.verbs.iter().any(|v| v == verb)
    }

    fn is_custom(&self) -> bool {
        self.resource.custom.is_some()
    }

    /// `NamespacedPod`.
    fn noun(&self) -> String {
        format!("{}{}", if self.resource.namespaced { "Namespaced" } else { "" }, self.resource.kind)
    }

    fn list(&self) -> Content {
        match self.resource.custom {
            Some(_) => Content::Definition(super::custom::definition_name(self.resource, &self.resource.list_kind)),
            None => Content::Definition(definition_of(&self.resource.group, &self.resource.version, &self.resource.list_kind).unwrap_or_default()),
        }
    }

    fn operation(&self, method: &'static str, action: &'static str, id: String, params: &[&[Param]], answers: Vec<(u16, Content)>) -> Operation {
        let r = self.resource;
        let objects = if self.is_custom() { Media::Custom } else { Media::Objects };
        Operation {
            method,
            id,
            tag: format!("{}_{}", group_tag(&r.group), r.version),
            action: Some(action),
            kind: Some([r.group.clone(), r.version.clone(), r.kind.clone()]),
            params: params.concat(),
            body: None,
            consumes: if self.is_custom() { Media::Custom } else { Media::Anything },
            produces: objects,
            answers,
        }
    }

    fn paths(&self) -> Vec<PathItem> {
        let r = self.resource;
        let base = format!("/{}", root(&r.group, &r.version));
        let scope: &[Param] = if r.namespaced { &[NAMESPACE] } else { &[] };
        let within = if r.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{base}{within}/{}", r.plural);
        let one = format!("{collection}/{{name}}");
        let mut items = Vec::new();
        if r.namespaced && self.can("list") {
            items.push(PathItem::new(format!("{base}/{}", r.plural), vec![self.list_operation(&[], format!("{}ForAllNamespaces", r.kind))]));
        }
        items.push(PathItem::new(collection, self.of_collection(scope)));
        items.push(PathItem::new(one.clone(), self.of_one(scope)));
        for sub in &r.subresources {
            items.extend(self.of_subresource(sub, &one, scope));
        }
        if self.can("watch") && !self.is_custom() {
            if r.namespaced {
                let id = format!("{}ListForAllNamespaces", r.kind);
                items.push(self.watch(format!("{base}/watch/{}", r.plural), "watchlist", id, &[]));
            }
            items.push(self.watch(format!("{base}/watch{within}/{}", r.plural), "watchlist", format!("{}List", self.noun()), scope));
            items.push(self.watch(format!("{base}/watch{within}/{}/{{name}}", r.plural), "watch", self.noun(), &[scope, &[NAME]].concat()));
        }
        items.retain(|i| !i.operations.is_empty());
        items
    }

    fn list_operation(&self, scope: &[Param], noun: String) -> Operation {
        let mut operation = self.operation("get", "list", format!("list{}{noun}", self.gv), &[scope, &[PRETTY], &LIST, &WATCH], vec![(200, self.list())]);
        if !self.is_custom() {
            operation.produces = Media::Streams;
        }
        operation
    }

    fn watch(&self, path: String, action: &'static str, noun: String, scope: &[Param]) -> PathItem {
        let mut operation =
            self.operation("get", action, format!("watch{}{noun}", self.gv), &[scope, &[PRETTY], &LIST, &WATCH], vec![(200, meta("WatchEvent"))]);
        operation.produces = Media::Streams;
        PathItem::new(path, vec![operation])
    }

    fn of_collection(&self, scope: &[Param]) -> Vec<Operation> {
        let mut operations = Vec::new();
        if self.can("deletecollection") {
            let id = format!("delete{}Collection{}", self.gv, self.noun());
            let rest: &[Param] = if self.is_custom() { &WATCH } else { &DELETE };
            let mut operation = self.operation("delete", "deletecollection", id, &[scope, &[PRETTY], &LIST, rest], vec![(200, meta("Status"))]);
            operation.body = (!self.is_custom()).then(|| Body { content: meta("DeleteOptions"), required: false });
            operations.push(operation);
        }
        if self.can("list") {
            operations.push(self.list_operation(scope, self.noun()));
        }
        if self.can("create") {
            operations.push(self.create(format!("create{}{}", self.gv, self.noun()), &[scope, &[PRETTY]].concat(), &self.object));
        }
        operations
    }

    fn create(&self, id: String, params: &[Param], object: &Content) -> Operation {
        let answers = [200, 201, 202].map(|code| (code, object.clone())).to_vec();
        let mut operation = self.operation("post", "post", id, &[params, &WRITE], answers);
        operation.body = Some(Body { content: object.clone(), required: true });
        operation
    }

    fn of_one(&self, scope: &[Param]) -> Vec<Operation> {
        let params = [scope, &[NAME, PRETTY]].concat();
        let mut operations = self.read_and_write(&self.resource.verbs, &params, &self.object, &self.noun(), None);
        if self.can("delete") {
            // Upstream's documents do not know that a namespace is answered, too.
            let deleted = self.resource.returns_deleted() && self.resource.plural != "namespaces";
            let answer = if deleted && !self.is_custom() { self.object.clone() } else { meta("Status") };
            let id = format!("delete{}{}", self.gv, self.noun());
            let mut operation = self.operation("delete", "delete", id, &[&params, &DELETE], [200, 202].map(|code| (code, answer.clone())).to_vec());
            operation.body = Some(Body { content: meta("DeleteOptions"), required: false });
            operations.push(operation);
        }
        operations
    }

    /// Get, put and patch, of the object or of a subresource.
    fn read_and_write(&self, verbs: &[String], params: &[Param], object: &Content, noun: &str, kind: Option<[String; 3]>) -> Vec<Operation> {
        let can = |verb: &str| verbs.iter().any(|v| v == verb);
        let mut operations = Vec::new();
        if can("get") {
            let mut operation = self.operation("get", "get", format!("read{}{noun}", self.gv), &[params], vec![(200, object.clone())]);
            if self.is_custom() {
                operation.params.push(query("resourceVersion", "string"));
            }
            operations.push(operation);
        }
        if can("patch") {
            let codes: &[u16] = if self.is_custom() { &[200] } else { &[200, 201] };
            let answers = codes.iter().map(|code| (*code, object.clone())).collect();
            let mut operation = self.operation("patch", "patch", format!("patch{}{noun}", self.gv), &[params, &WRITE, &[FORCE]], answers);
            operation.body = Some(Body { content: meta("Patch"), required: true });
            operation.consumes = if self.is_custom() { Media::CustomPatches } else { Media::Patches };
            operations.push(operation);
        }
        if can("update") {
            let answers = [200, 201].map(|code| (code, object.clone())).to_vec();
            let mut operation = self.operation("put", "put", format!("replace{}{noun}", self.gv), &[params, &WRITE], answers);
            operation.body = Some(Body { content: object.clone(), required: true });
            operations.push(operation);
        }
        if let Some(kind) = kind {
            operations.iter_mut().for_each(|o| o.kind = Some(kind.clone()));
        }
        operations
    }

    fn of_subresource(&self, sub: &Subresource, one: &str, scope: &[Param]) -> Vec<PathItem> {
        let path = format!("{one}/{}", sub.name);
        let noun = format!("{}{}", self.noun(), capitalized(&sub.name));
        let params = [scope, &[NAME]].concat();
        if sub.kind.ends_with("Options") {
            return self.connect(sub, &path, &noun, &params);
        }
        let (group, version) = sub.response.clone().unwrap_or_else(|| (self.resource.group.clone(), self.resource.version.clone()));
        let object = definition_of(&group, &version, &sub.kind).map_or_else(|| self.object.clone(), Content::Definition);
        let params = [&params[..], &[PRETTY]].concat();
        // Upstream names the resource's own kind for the scale of a custom resource.
        let kind = if self.is_custom() { None } else { Some([group, version, sub.kind.clone()]) };
        let mut operations = self.read_and_write(&sub.verbs, &params, &object, &noun, kind.clone());
        if sub.verbs.iter().any(|v| v == "create") {
            let mut operation = self.create(format!("create{}{noun}", self.gv), &params, &object);
            operation.kind = kind;
            operations.push(operation);
        }
        if sub.name == "log" {
            for operation in &mut operations {
                operation.params.extend(LOG);
                operation.produces = Media::Log;
                operation.answers = vec![(200, Content::Text)];
            }
        }
        vec![PathItem::new(path, operations)]
    }

    fn connect(&self, sub: &Subresource, path: &str, noun: &str, params: &[Param]) -> Vec<PathItem> {
        let proxy = sub.name == "proxy";
        let methods: &[&'static str] = if proxy { &["delete", "get", "head", "options", "patch", "post", "put"] } else { &["get", "post"] };
        let options: &[Param] = match sub.name.as_str() {
            "attach" => &STREAMS,
            "exec" => &EXEC,
            "portforward" => &[query("ports", "integer")],
            _ => &[query("path", "string")],
        };
        let item = |path: String, suffix: &str, params: &[Param]| {
            let operations = methods.iter().map(|method| {
                let id = format!("connect{}{}{noun}{suffix}", self.gv, capitalized(method));
                let mut operation = self.operation(method, "connect", id, &[params, options], vec![(200, Content::Text)]);
                operation.kind = Some([self.resource.group.clone(), self.resource.version.clone(), sub.kind.clone()]);
                operation.produces = Media::Anything;
                operation
            });
            PathItem::new(path, operations.collect())
        };
        let mut items = vec![item(path.to_owned(), "", params)];
        if proxy {
            items.push(item(format!("{path}/{{path}}"), "WithPath", &[params, &[PATH]].concat()));
        }
        items
    }
}

const LOG: [Param; 9] = [
    query("container", "string"),
    query("follow", "boolean"),
    query("insecureSkipTLSVerifyBackend", "boolean"),
    query("limitBytes", "integer"),
    query("previous", "boolean"),
    query("sinceSeconds", "integer"),
    query("stream", "string"),
    query("tailLines", "integer"),
    query("timestamps", "boolean"),
];
const STREAMS: [Param; 5] =
    [query("container", "string"), query("stderr", "boolean"), query("stdin", "boolean"), query("stdout", "boolean"), query("tty", "boolean")];
const EXEC: [Param; 6] = [query("command", "string"), STREAMS[0], STREAMS[1], STREAMS[2], STREAMS[3], STREAMS[4]];
