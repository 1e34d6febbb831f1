//! Objects on their way, with what they were called before: others still name them so.

use knarr_core::{Value, ValueExt, yaml};

use crate::kubectl::failure::Result;
use crate::kubectl::resources::builtin_kind;

/// By what an object is told from others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Id {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub name: String,
    pub namespace: String,
}

impl Id {
    pub fn of(object: &Value) -> Self {
        let api_version = object.str_at(&["apiVersion"]).unwrap_or_default();
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let text = |path: &[&str]| object.str_at(path).unwrap_or_default().to_owned();
        Self {
            group: group.into(),
            version: version.into(),
            kind: text(&["kind"]),
            name: text(&["metadata", "name"]),
            namespace: text(&["metadata", "namespace"]),
        }
    }

    /// Kinds that are not known have a namespace.
    pub fn is_cluster_scoped(&self) -> bool {
        builtin_kind(&self.group, &self.version, &self.kind).is_some_and(|meant| !meant.namespaced)
    }

    pub fn effective_namespace(&self) -> &str {
        match self.namespace.as_str() {
            _ if self.is_cluster_scoped() => "_non_namespaceable_",
            "" => "default",
            other => other,
        }
    }

    /// The same object: an empty namespace is the default one.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.group, &self.version, &self.kind, &self.name) == (&other.group, &other.version, &other.kind, &other.name)
            && self.effective_namespace() == other.effective_namespace()
    }

    /// As kustomize's messages name it: `Kind.version.group/name.namespace`.
    pub fn title(&self) -> String {
        let part = |text: &str, none: &str| if text.is_empty() { none.to_owned() } else { text.to_owned() };
        let kind = [part(&self.kind, "[noKind]"), part(&self.version, "[noVer]"), part(&self.group, "[noGrp]")].join(".");
        format!("{kind}/{}.{}", part(&self.name, "[noName]"), part(&self.namespace, "[noNs]"))
    }
}

/// One object.
#[derive(Clone, Debug)]
pub struct Resource {
    pub object: Value,
    /// What it was before each change of its name, namespace or kind; the first is how it was written.
    pub before: Vec<Id>,
    pub prefixes: Vec<String>,
    pub suffixes: Vec<String>,
    pub needs_hash: bool,
}

impl Resource {
    pub fn new(object: Value) -> Self {
        Self { object, before: Vec::new(), prefixes: Vec::new(), suffixes: Vec::new(), needs_hash: false }
    }

    pub fn id(&self) -> Id {
        Id::of(&self.object)
    }

    /// How it was written.
    pub fn original(&self) -> Id {
        self.before.first().cloned().unwrap_or_else(|| self.id())
    }

    /// To be called before anything of its id changes.
    pub fn remember(&mut self) {
        let id = self.id();
        if self.before.last() != Some(&id) {
            self.before.push(id);
        }
    }

    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.object.str_at(&["metadata", "annotations", key])
    }
}

/// All of them, in order.
#[derive(Debug, Default)]
pub struct Resources(pub Vec<Resource>);

impl Resources {
    /// # Errors
    /// There is one of that name.
    pub fn append(&mut self, resource: Resource) -> Result<()> {
        let id = resource.id();
        if self.0.iter().any(|r| r.id().is_same(&id)) {
            return Err(format!("may not add resource with an already registered id: {}", id.title()).into());
        }
        self.0.push(resource);
        Ok(())
    }

    /// Those that are, or ever were, called so.
    pub fn by_any_id(&self, id: &Id) -> Vec<usize> {
        self.places(|r| r.id().is_same(id) || r.before.iter().any(|b| b.is_same(id)))
    }

    fn places(&self, fits: impl Fn(&Resource) -> bool) -> Vec<usize> {
        self.0.iter().enumerate().filter(|(_, r)| fits(r)).map(|(at, _)| at).collect()
    }
}

/// The objects of a text; lists are taken apart.
///
/// # Errors
/// No YAML, or no objects.
pub fn parse(text: &str, source: &str) -> Result<Vec<Value>> {
    let documents = yaml::parse_all(text).map_err(|e| format!("accumulating resources from '{source}': {e}"))?;
    let mut objects = Vec::new();
    for document in documents.into_iter().filter(|d| !d.is_null()) {
        let kind = document.str_at(&["kind"]).unwrap_or_default();
        if kind.ends_with("List") && document.get("items").is_some_and(Value::is_array) {
            objects.extend(document.list_at(&["items"]).iter().cloned());
            continue;
        }
        if kind.is_empty() {
            return Err(format!("accumulating resources from '{source}': missing Resource metadata").into());
        }
        if document.str_at(&["metadata", "name"]).unwrap_or_default().is_empty()
            && document.str_at(&["metadata", "generateName"]).unwrap_or_default().is_empty()
        {
            return Err(format!(
                "accumulating resources from '{source}': missing metadata.name in object {{{{{} {kind}}} {{{{ }} map[] map[]}}}}",
                document.str_at(&["apiVersion"]).unwrap_or_default()
            )
            .into());
        }
        objects.push(document);
    }
    Ok(objects)
}
