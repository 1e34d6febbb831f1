//! Which objects a list or a watch is about.

use std::sync::Arc;

use knarr_core::{
    Object, Result, Status,
    api::Options,
    selector::{FieldSelector, LabelSelector},
};
use knarr_store::{Item, LabelMatcher, Snapshot, WatchFilter};

use crate::catalog::Served;

/// Namespace, name, labels and fields, all of which must match.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Empty: all namespaces.
    pub namespace: String,
    pub name: Option<String>,
    pub labels: LabelSelector,
    /// Without `metadata.name`, `metadata.namespace` and the indexed field when they are asked for by equality.
    pub fields: FieldSelector,
    /// The wanted value of the indexed field.
    pub indexed: Option<String>,
    /// Whether the client gave any selector: then nobody counts what is left.
    pub is_narrowed: bool,
}

/// Fields that are read from the bytes at their own path and are strings there.
const PLAIN_FIELDS: [&str; 16] = [
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.phase",
    "status.nominatedNodeName",
    "status.podIP",
    "spec.clusterIP",
    "spec.type",
    "spec.signerName",
    "type",
    "reason",
    "involvedObject.kind",
    "involvedObject.name",
    "involvedObject.namespace",
    "involvedObject.uid",
];

impl Selection {
    /// Reads the selectors of a request.
    ///
    /// # Errors
    /// `BadRequest` for a selector that cannot be read or names a field that is not selectable.
    pub fn new(served: &Served, namespace: &str, name: &str, options: &Options, indexed_field: Option<&str>) -> Result<Self> {
        let labels = options.label_selector.as_deref().map_or_else(|| Ok(LabelSelector::everything()), parse_labels)?;
        let fields = options.field_selector.as_deref().map(FieldSelector::parse).transpose().map_err(Status::bad_request)?.unwrap_or_default();
        for term in &fields.terms {
            if !is_selectable(served, &term.field) {
                return Err(not_selectable(served, &term.field));
            }
        }
        let is_narrowed = !labels.is_everything() || !fields.is_everything();
        let mut selection = Self { namespace: namespace.to_owned(), labels, is_narrowed, ..Self::default() };
        if !name.is_empty() {
            if fields.requires("metadata.name").is_some_and(|wanted| wanted != name) {
                return Err(Status::bad_request("fieldSelector metadata.name doesn't match requested name"));
            }
            selection.name = Some(name.to_owned());
        }
        selection.take_fields(fields, indexed_field, served.resource.namespaced);
        Ok(selection)
    }

    fn take_fields(&mut self, fields: FieldSelector, indexed_field: Option<&str>, namespaced: bool) {
        for term in fields.terms {
            let known = match term.field.as_str() {
                _ if term.negated => false,
                "metadata.name" if self.name.as_deref().is_none_or(|n| n == term.value) => {
                    self.name = Some(term.value.clone());
                    true
                }
                "metadata.namespace" if namespaced && !term.value.is_empty() && (self.namespace.is_empty() || self.namespace == term.value) => {
                    self.namespace.clone_from(&term.value);
                    true
                }
                field if Some(field) == indexed_field && !term.value.is_empty() && self.indexed.is_none() => {
                    self.indexed = Some(term.value.clone());
                    true
                }
                _ => false,
            };
            if !known {
                self.fields.terms.push(term);
            }
        }
    }

    /// The part that the store can look up.
    pub fn filter(&self, namespaced: bool) -> WatchFilter {
        let namespace = if namespaced { Some(self.namespace.clone()).filter(|n| !n.is_empty()) } else { Some(String::new()).filter(|_| self.name.is_some()) };
        WatchFilter { namespace, name: self.name.clone(), indexed: self.indexed.clone() }
    }

    /// Whether every object of the namespace or the name is selected.
    pub fn is_everything_there(&self) -> bool {
        self.indexed.is_none() && self.labels.is_everything() && self.fields.terms.is_empty()
    }

    pub fn matcher<'a>(&'a self, served: &'a Served) -> Matcher<'a> {
        Matcher { selection: self, served, labels: LabelMatcher::new(&self.labels) }
    }
}

/// Kinds with selectors of their own name them only in general; the others know the two that all have.
fn not_selectable(served: &Served, field: &str) -> Status {
    let quoted = knarr_core::field::go_quote(field);
    if served.is("batch", "jobs") {
        return Status::bad_request(format!("field label {quoted} not supported for Job"));
    }
    if served.is("resource.k8s.io", "resourceslices") {
        return Status::bad_request(format!("field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: {field}"));
    }
    let own = served.resource.selectable_fields.iter().any(|f| !matches!(f.as_str(), "metadata.name" | "metadata.namespace"));
    if own || served.resource.custom.is_some() {
        return Status::bad_request(format!("field label not supported: {field}"));
    }
    Status::bad_request(format!("{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"", quoted))
}

fn is_selectable(served: &Served, field: &str) -> bool {
    match field {
        "metadata.name" => true,
        "metadata.namespace" => served.resource.namespaced || served.resource.selectable_fields.iter().any(|f| f == field),
        field => served.resource.selectable_fields.iter().any(|f| f == field),
    }
}

fn parse_labels(text: &str) -> Result<LabelSelector> {
    LabelSelector::parse(text).map_err(|why| {
        let outer = why.ends_with("expected: ',' or 'end of string'") || why.ends_with("expected: identifier after ','");
        Status::bad_request(if outer { why } else { format!("unable to parse requirement: {why}") })
    })
}

/// A selection made ready for asking many items.
pub struct Matcher<'a> {
    selection: &'a Selection,
    served: &'a Served,
    labels: LabelMatcher<'a>,
}

impl Matcher<'_> {
    /// Whether an item is selected.
    pub fn matches(&self, item: &Item) -> bool {
        let s = self.selection;
        (s.namespace.is_empty() || item.is_in(&s.namespace)) && self.matches_in_namespace(item)
    }

    /// The same of an item that is known to be in the namespace.
    pub fn matches_in_namespace(&self, item: &Item) -> bool {
        let s = self.selection;
        s.name.as_ref().is_none_or(|n| n == item.name())
            && s.indexed.as_ref().is_none_or(|v| v == item.indexed())
            && self.labels.matches(item)
            && (s.fields.terms.is_empty() || self.fields_match(item))
    }

    /// All selected items of a namespace, or of all, that come after `after`.
    pub fn among(&self, snapshot: &Snapshot, namespace: Option<&str>, after: Option<&str>) -> Vec<Arc<Item>> {
        snapshot.iter_labelled(namespace, after, &self.labels).filter(|i| self.matches_in_namespace(i)).cloned().collect()
    }

    fn fields_match(&self, item: &Item) -> bool {
        let mut tree = None;
        self.selection.fields.terms.iter().all(|term| {
            let value = match term.field.as_str() {
                "metadata.name" => item.name().to_owned(),
                "metadata.namespace" => item.namespace().to_owned(),
                plain if !self.served.converts() && PLAIN_FIELDS.contains(&plain) => item.field(&plain.split('.').collect::<Vec<_>>()),
                other => {
                    let tree = tree.get_or_insert_with(|| self.tree(&item.object()));
                    self.served.strategy.field(tree, other)
                }
            };
            (value == term.value) != term.negated
        })
    }

    fn tree(&self, object: &Object) -> knarr_core::Value {
        self.served.read(object).unwrap_or_default()
    }
}
