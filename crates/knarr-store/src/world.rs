//! The whole state at one revision, behind one pointer, and what is read from it.

use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdSet;

use crate::item::{Entry, Item, LabelMatcher};

/// Every object of every resource at one revision. Sets share their structure with those of other revisions, so that
/// keeping one costs only what has changed since.
#[derive(Clone, Default)]
pub struct World {
    pub(crate) revision: u64,
    /// One a resource, by [`crate::cache::Resource::id`].
    pub(crate) sets: Vec<OrdSet<Entry>>,
}

impl World {
    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn get(&self, resource: usize, path: &str) -> Option<&Arc<Item>> {
        self.sets.get(resource)?.get(path).map(|entry| &entry.item)
    }
}

/// All objects of one resource at one revision.
#[derive(Clone)]
pub struct Snapshot {
    pub(crate) revision: u64,
    pub(crate) set: OrdSet<Entry>,
}

impl Snapshot {
    /// The revision that a list made of this snapshot carries.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The number of objects in all namespaces.
    pub fn len(&self) -> usize {
        self.set.len()
    }

    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// `path` is `namespace/name`, or the name alone for cluster-scoped objects.
    pub fn get(&self, path: &str) -> Option<&Arc<Item>> {
        self.set.get(path).map(|entry| &entry.item)
    }

    /// The objects in order of their paths: of one namespace or of all, and only those whose path comes after `after`.
    pub fn iter<'a>(&'a self, namespace: Option<&str>, after: Option<&str>) -> impl Iterator<Item = &'a Arc<Item>> + use<'a> {
        self.entries(namespace, after).map(|entry| &entry.item)
    }

    /// The same without most of the objects that do not match: whoever asks looks at those that are left.
    pub fn iter_labelled<'a>(
        &'a self,
        namespace: Option<&str>,
        after: Option<&str>,
        labels: &'a LabelMatcher<'a>,
    ) -> impl Iterator<Item = &'a Arc<Item>> + use<'a> {
        self.entries(namespace, after).filter(|entry| entry.may_match(labels)).map(|entry| &entry.item)
    }

    fn entries<'a>(&'a self, namespace: Option<&str>, after: Option<&str>) -> impl Iterator<Item = &'a Entry> + use<'a> {
        // All paths of a namespace begin with `namespace/`, and '0' is the character after '/'.
        let (first, end) = match namespace.filter(|n| !n.is_empty()) {
            None => (None, None),
            Some(n) => (Some(format!("{n}/")), Some(format!("{n}0"))),
        };
        let start = match (&first, after) {
            (Some(first), Some(after)) if after >= first.as_str() => Bound::Excluded(after),
            (Some(first), _) => Bound::Included(first.as_str()),
            (None, Some(after)) => Bound::Excluded(after),
            (None, None) => Bound::Unbounded,
        };
        let is_empty = matches!((&start, &end), (Bound::Excluded(s), Some(e)) if *s >= e.as_str());
        let range = (!is_empty).then(|| {
            let end = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            self.set.range::<(Bound<&str>, Bound<&str>), str>((start, end))
        });
        range.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::selector::LabelSelector;
    use knarr_schema::codec;

    fn snapshot(paths: &[&str]) -> Snapshot {
        let set = paths.iter().map(|p| Entry::new(Arc::new(Item::new(p, codec::with_resource_version(b"{}", 1), None, 0)))).collect();
        Snapshot { revision: 1, set }
    }

    fn paths(s: &Snapshot, namespace: Option<&str>, after: Option<&str>) -> String {
        s.iter(namespace, after).map(|i| i.path()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn those_with_a_label_are_found_in_order_and_again() {
        let item = |path: &str, app: &str| {
            Item::new(path, codec::with_resource_version(format!(r#"{{"metadata":{{"labels":{{"app":"{app}"}}}}}}"#).as_bytes(), 1), None, 0)
        };
        let set = (0..300).map(|i| Entry::new(Arc::new(item(&format!("{}/{i:03}", ["a", "b"][i % 2]), &format!("x{}", i % 100))))).collect();
        let s = Snapshot { revision: 1, set };
        for (selector, namespace, wanted) in [
            ("app=x7", None, "b/007 b/107 b/207"),
            ("app=x8", Some("a"), "a/008 a/108 a/208"),
            ("app=x8", Some("b"), ""),
            ("app in (x8,y)", None, "a/008 a/108 a/208"),
        ] {
            let selector = LabelSelector::parse(selector).unwrap();
            let labels = LabelMatcher::new(&selector);
            for _ in 0..2 {
                let found: Vec<_> = s.iter_labelled(namespace, None, &labels).filter(|i| labels.matches(i)).map(|i| i.path()).collect();
                assert_eq!(found.join(" "), wanted, "{selector:?}");
                assert!(s.iter_labelled(None, None, &labels).count() < 30);
            }
        }
    }

    #[test]
    fn lists_come_in_the_order_of_etcd_keys() {
        let s = snapshot(&["a/x", "a-b/x", "a/y", "b/a", "a.c/z"]);
        assert_eq!(paths(&s, None, None), "a-b/x a.c/z a/x a/y b/a");
        assert_eq!(paths(&s, Some("a"), None), "a/x a/y");
        assert_eq!(paths(&s, Some("a"), Some("a/x")), "a/y");
        assert_eq!(paths(&s, None, Some("a.c/z")), "a/x a/y b/a");
        assert_eq!(paths(&s, Some("a"), Some("b/a")), "");
        assert_eq!(paths(&s, Some("b"), Some("a/x")), "b/a");
    }
}
