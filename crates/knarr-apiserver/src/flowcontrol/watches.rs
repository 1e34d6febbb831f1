//! How many watchers will hear of a write (upstream: `watch_tracker.go`).

use std::{collections::HashMap, sync::Arc};

use knarr_core::selector::FieldSelector;
use parking_lot::RwLock;

use crate::request::RequestInfo;

/// Watchers of one resource: of all of it, of one namespace, of one name.
#[derive(Default)]
struct Counts {
    all: usize,
    namespaces: HashMap<String, Namespace>,
}

#[derive(Default)]
struct Namespace {
    all: usize,
    names: HashMap<String, usize>,
}

/// By resource, then by group.
type ByResource = HashMap<String, HashMap<String, Counts>>;

/// All watches under way.
#[derive(Default)]
pub struct Watches(RwLock<ByResource>);

/// A watch that is counted while this lives.
pub struct Registration {
    watches: Arc<Watches>,
    info: Arc<RequestInfo>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.watches.count(&self.info, |n| *n -= 1);
    }
}

impl Watches {
    /// Counts a watch. One of the pods of a node does not count: few writes concern it.
    pub fn register(self: &Arc<Self>, info: &Arc<RequestInfo>) -> Option<Registration> {
        let of_one_node = || {
            let selector = info.field_selector.as_deref().and_then(|s| FieldSelector::parse(s).ok());
            selector.as_ref().and_then(|s| s.requires("spec.nodeName")).is_some_and(|node| !node.is_empty())
        };
        if info.verb != "watch" || info.resource == "pods" && of_one_node() {
            return None;
        }
        self.count(info, |n| *n += 1);
        Some(Registration { watches: self.clone(), info: info.clone() })
    }

    fn count(&self, info: &RequestInfo, change: impl FnOnce(&mut usize)) {
        let mut watches = self.0.write();
        let counts = watches.entry(info.resource.clone()).or_default().entry(info.group.clone()).or_default();
        if info.namespace.is_empty() && info.name.is_empty() {
            return change(&mut counts.all);
        }
        let namespace = counts.namespaces.entry(info.namespace.clone()).or_default();
        if info.name.is_empty() {
            change(&mut namespace.all);
        } else {
            let one = namespace.names.entry(info.name.clone()).or_default();
            change(one);
            if *one == 0 {
                namespace.names.remove(&info.name);
            }
        }
        if namespace.all == 0 && namespace.names.is_empty() {
            counts.namespaces.remove(&info.namespace);
        }
    }

    /// How many may hear of a write.
    pub fn interested(&self, info: &RequestInfo) -> usize {
        let watches = self.0.read();
        let Some(counts) = watches.get(&info.resource).and_then(|groups| groups.get(&info.group)) else { return 0 };
        let namespace = counts.namespaces.get(&info.namespace);
        let within = namespace.map_or(0, |n| if info.namespace.is_empty() { 0 } else { n.all });
        let one = namespace.and_then(|n| n.names.get(&info.name)).copied().unwrap_or_default();
        counts.all + within + one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(verb: &str, namespace: &str, name: &str, selector: Option<&str>) -> Arc<RequestInfo> {
        Arc::new(RequestInfo {
            verb: verb.into(),
            resource: "pods".into(),
            namespace: namespace.into(),
            name: name.into(),
            field_selector: selector.map(str::to_owned),
            ..RequestInfo::default()
        })
    }

    #[test]
    fn a_write_concerns_those_who_watch_it() {
        let watches = Arc::new(Watches::default());
        let count = |namespace, name| watches.interested(&info("update", namespace, name, None));
        let kept: Vec<_> = [
            info("watch", "", "", None),
            info("watch", "a", "", None),
            info("watch", "a", "x", None),
            info("watch", "", "", Some("spec.nodeName=n1")),
            info("watch", "", "", Some("spec.nodeName=")),
        ]
        .iter()
        .map(|i| watches.register(i))
        .collect();
        assert_eq!(kept.iter().filter(|k| k.is_none()).count(), 1);
        assert_eq!((count("a", "x"), count("a", "y"), count("b", "x"), count("a", "")), (4, 3, 2, 3));
        drop(kept);
        assert_eq!(count("a", "x"), 0);
        assert!(watches.0.read()["pods"][""].namespaces.is_empty());
    }
}
