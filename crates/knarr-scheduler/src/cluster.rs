//! Everything that runs, by node: kept from informers, plus what was just decided and is not seen back yet. What decisions ask of the whole
//! cluster is counted here when something changes, so that a decision need not go through all nodes for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::decide::LOOKED_AT_MIN;
use crate::node::{NodeFacts, NodeState};
use crate::pod::{ByUid, PodInfo};
use crate::preempt::Budget;
use crate::volumes::Claim;

/// The scheduler's picture of the cluster.
#[derive(Debug, Default)]
pub struct Cluster {
    /// In the order in which they came, so that equal inputs give equal decisions. A place may be free.
    nodes: Vec<NodeState>,
    free: Vec<usize>,
    by_name: HashMap<Box<str>, usize>,
    /// Nodes that are there, and not only spoken of by pods.
    live: usize,
    /// The node of each pod that takes something.
    placed: HashMap<ByUid, usize>,
    /// For each controller, the nodes that have pods of it that stay, and how many.
    siblings: HashMap<Box<str>, HashMap<usize, usize>>,
    /// How many nodes have an image of this name.
    images: HashMap<String, i64>,
    pub namespaces: HashMap<String, BTreeMap<String, String>>,
    /// For each claim (`namespace/name`), what it demands of a node.
    pub volumes: HashMap<String, Claim>,
    /// Disruption budgets, by `namespace/name`.
    pub budgets: BTreeMap<String, Budget>,
    /// Pods that wait for room that is being made for them on a node, by uid.
    nominated: HashMap<String, Arc<PodInfo>>,
    pub with_affinity: usize,
}

impl Cluster {
    pub fn nodes(&self) -> impl Iterator<Item = &NodeState> {
        self.nodes.iter().filter(|n| !n.facts.name.is_empty())
    }

    /// All nodes, from a place on and in strides, so that those that are looked at first are from everywhere: names often tell zones, and nodes of a
    /// zone come together.
    pub fn nodes_from(&self, start: usize) -> impl Iterator<Item = &NodeState> {
        let places = self.nodes.len();
        let stride = stride(places);
        (0..places).map(move |i| &self.nodes[(start + i * stride) % places]).filter(|n| !n.facts.name.is_empty())
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.live
    }

    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    pub fn node(&self, name: &str) -> Option<&NodeState> {
        self.by_name.get(name).map(|place| &self.nodes[*place])
    }

    /// The node at a place that [`NodeState::place`] told.
    pub fn at(&self, place: usize) -> &NodeState {
        &self.nodes[place]
    }

    /// Pods that are promised a node (`nominated`).
    pub fn promised(&self) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.nominated.values()
    }

    /// Promises a node to a pod. The less important pods that it was promised to are promised nothing any more, and are given back: they would not find
    /// the room that they wait for.
    pub fn promise(&mut self, pod: PodInfo) -> Vec<Arc<PodInfo>> {
        let outdone = self.nominated.extract_if(|_, other| other.nominated == pod.nominated && other.priority < pod.priority).map(|(_, other)| other).collect();
        self.nominated.insert(pod.uid.to_string(), Arc::new(pod));
        outdone
    }

    /// Takes note of what a pod's status says: a promise that an earlier scheduler made, or that one was taken back.
    pub fn told_promise(&mut self, before: &str, pod: &Arc<PodInfo>) {
        match self.nominated.get(&*pod.uid) {
            None if !pod.nominated.is_empty() && !self.placed.contains_key(&*pod.uid) => drop(self.nominated.insert(pod.uid.to_string(), pod.clone())),
            Some(known) if pod.nominated.is_empty() && !before.is_empty() && *known.nominated == *before => self.forget_promise(&pod.uid),
            _ => {}
        }
    }

    pub fn forget_promise(&mut self, uid: &str) {
        self.nominated.remove(uid);
    }

    pub fn set_node(&mut self, facts: NodeFacts) {
        let place = self.place_of(&facts.name);
        let before = std::mem::replace(&mut self.nodes[place].facts, Arc::new(facts));
        let now = self.nodes[place].facts.clone();
        self.live += usize::from(before.name.is_empty());
        self.count_images(&before, -1);
        self.count_images(&now, 1);
    }

    /// The pods stay known until they are deleted, as a node may come back.
    pub fn remove_node(&mut self, name: &str) {
        let Some(place) = self.by_name.get(name).copied() else { return };
        let before = std::mem::take(&mut self.nodes[place].facts);
        self.live -= usize::from(!before.name.is_empty());
        self.count_images(&before, -1);
        self.tidy(name, place);
    }

    fn place_of(&mut self, name: &str) -> usize {
        if let Some(place) = self.by_name.get(name) {
            return *place;
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(NodeState::default());
            self.nodes.len() - 1
        });
        self.nodes[place].place = place;
        self.by_name.insert(name.into(), place);
        place
    }

    /// Frees the place of a node that is gone, once no pod speaks of it any more.
    fn tidy(&mut self, name: &str, place: usize) {
        if self.nodes[place].facts.name.is_empty() && self.nodes[place].pods_count() == 0 {
            self.by_name.remove(name);
            self.nodes[place] = NodeState::default();
            self.free.push(place);
        }
    }

    fn count_images(&mut self, facts: &NodeFacts, by: i64) {
        for image in facts.images.keys() {
            let count = self.images.entry(image.clone()).or_default();
            *count += by;
            if *count == 0 {
                self.images.remove(image);
            }
        }
    }

    /// How many nodes have an image of this name.
    pub fn nodes_with_image(&self, image: &str) -> i64 {
        self.images.get(image).copied().unwrap_or(0)
    }

    /// Takes in a pod that is bound, or assumed to be.
    pub fn place(&mut self, pod: Arc<PodInfo>) {
        self.displace(&pod.uid);
        if pod.node.is_empty() || pod.ended {
            return;
        }
        let place = self.place_of(&pod.node);
        self.with_affinity += usize::from(pod.has_affinity());
        if counts_as_sibling(&pod) {
            *self.siblings.entry(pod.controller.clone()).or_default().entry(place).or_default() += 1;
        }
        self.placed.insert(ByUid(pod.clone()), place);
        self.nodes[place].add(pod);
    }

    /// Takes a pod out.
    pub fn displace(&mut self, uid: &str) {
        let Some(place) = self.placed.remove(uid) else { return };
        let Some(pod) = self.nodes[place].remove(uid) else { return };
        self.with_affinity -= usize::from(pod.has_affinity());
        if counts_as_sibling(&pod) {
            self.forget_sibling(&pod.controller, place);
        }
        self.tidy(&pod.node, place);
    }

    fn forget_sibling(&mut self, controller: &str, place: usize) {
        let Some(nodes) = self.siblings.get_mut(controller) else { return };
        if let Some(count) = nodes.get_mut(&place) {
            *count -= 1;
            if *count == 0 {
                nodes.remove(&place);
            }
        }
        if nodes.is_empty() {
            self.siblings.remove(controller);
        }
    }

    /// The places of nodes with pods of a controller that stay, and how many.
    pub fn siblings(&self, controller: &str) -> Option<&HashMap<usize, usize>> {
        self.siblings.get(controller)
    }

    pub fn namespace_labels(&self, namespace: &str) -> BTreeMap<String, String> {
        self.namespaces.get(namespace).cloned().unwrap_or_default()
    }
}

fn counts_as_sibling(pod: &PodInfo) -> bool {
    !pod.controller.is_empty() && !pod.deleting
}

/// A step about the golden section of so many places that comes to each of them.
fn stride(places: usize) -> usize {
    if places <= LOOKED_AT_MIN {
        return 1;
    }
    let near = places * 618 / 1000;
    (near..places).find(|step| greatest_common_divisor(*step, places) == 1).unwrap_or(1)
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::pod::testing::pod;

    fn facts(name: &str, image: &str) -> NodeFacts {
        NodeFacts { name: name.into(), images: [(image.to_owned(), 1)].into(), ..NodeFacts::default() }
    }

    fn on(node: &str, name: &str) -> Arc<PodInfo> {
        let owner = json!([{"apiVersion": "v1", "kind": "ReplicationController", "name": "rc", "uid": "rc", "controller": true}]);
        Arc::new(pod(json!({"metadata": {"name": name, "uid": name, "ownerReferences": owner}, "spec": {"nodeName": node, "containers": []}})))
    }

    #[test]
    fn what_is_counted_is_forgotten_with_what_it_was_counted_for() {
        let mut cluster = Cluster::default();
        cluster.place(on("later", "p1"));
        assert_eq!((cluster.len(), cluster.nodes().count()), (0, 0), "a node that only a pod speaks of");
        cluster.set_node(facts("later", "a"));
        cluster.set_node(facts("later", "b"));
        cluster.set_node(facts("other", "b"));
        cluster.place(on("later", "p2"));
        cluster.place(on("other", "p2"));
        assert_eq!((cluster.len(), cluster.nodes_with_image("a"), cluster.nodes_with_image("b")), (2, 0, 2));
        let counts = |c: &Cluster| c.siblings("rc").map(|s| s.values().copied().collect::<Vec<_>>());
        assert_eq!(counts(&cluster), Some(vec![1, 1]));
        cluster.remove_node("later");
        assert_eq!((cluster.len(), cluster.node("later").unwrap().pods_count()), (1, 1), "its pods are still there");
        cluster.displace("p1");
        assert!(cluster.node("later").is_none());
        cluster.displace("p2");
        cluster.remove_node("other");
        assert!(cluster.siblings("rc").is_none() && cluster.placed.is_empty() && cluster.by_name.is_empty() && cluster.images.is_empty());
        cluster.set_node(facts("new", "c"));
        assert_eq!((cluster.nodes.len(), cluster.len()), (2, 1), "free places are taken again");
    }

    #[test]
    fn strides_come_to_every_node_and_soon_to_each_part() {
        for places in [1, 2, 99, 100, 101, 128, 1000, 4999] {
            let mut cluster = Cluster::default();
            (0..places).for_each(|i| cluster.set_node(facts(&format!("n{i}"), "a")));
            let seen: Vec<usize> = cluster.nodes_from(places / 3).map(|n| n.place).collect();
            assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), places);
            let first: BTreeSet<usize> = seen.iter().take(100).map(|place| place * 10 / places).collect();
            assert!(places <= 100 || first.len() == 10, "{places}: {first:?}");
        }
        assert_eq!(Cluster::default().nodes_from(0).count(), 0);
    }
}
