//! The graph of owners and dependents. Pure: it takes in what is observed and answers what must be looked at.
//!
//! Only objects that own, are owned or wait for their dependents have a node; of all others nothing is known but that
//! they exist and where, which takes a few bytes each. Upstream: `graph_builder.go`, where every object has a node.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use knarr_client::Key;

/// The finalizer of an object that waits until its dependents are gone.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an object that waits until its dependents are orphaned.
pub const ORPHAN: &str = "orphan";
/// Owners that are remembered as gone (upstream: 500).
const ABSENT_MAX: usize = 5000;

/// A uid, as a number. Those that are no UUIDs are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(u128);

impl Uid {
    pub fn of(text: &str) -> Self {
        let hex: String = text.chars().filter(|c| *c != '-').collect();
        match u128::from_str_radix(&hex, 16) {
            Ok(number) if hex.len() == 32 => Self(number),
            // FNV-1a of 128 bits.
            _ => Self(text.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |h, b| (h ^ u128::from(b)).wrapping_mul(0x0100_0000_0000_0000_0000_013b))),
        }
    }
}

/// Index of a resource in the collector's table.
pub type ResourceId = u16;

/// Where an object is, and which one it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item {
    pub uid: Uid,
    pub resource: ResourceId,
    pub key: Key,
}

/// What must be done about an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Task {
    /// See whether it is to be deleted, or to be let go.
    Delete(Item),
    /// Take it out of its dependents' owners, then let it go.
    Orphan(Item),
    /// Its owner is in another namespace; tell about it (the uid is the owner's).
    TellForeignOwner(Item, String),
}

/// What is observed of an object.
pub struct Observed<'a> {
    pub item: Item,
    pub owners: &'a [OwnerReference],
    pub deleting: bool,
    pub finalizers: Vec<&'a str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Edge {
    owner: Uid,
    blocks: bool,
}

#[derive(Debug)]
struct Node {
    item: Item,
    owners: Vec<Edge>,
    deleting_dependents: bool,
    orphaning: bool,
    being_deleted: bool,
}

#[derive(Clone, Copy)]
struct Place {
    resource: ResourceId,
    /// Index into `namespaces`.
    namespace: u32,
}

#[derive(Default)]
pub struct Graph {
    /// Every object that exists. Asked for single entries only, never iterated in an order that matters.
    known: HashMap<Uid, Place>,
    namespaces: Vec<Box<str>>,
    namespace_ids: HashMap<Box<str>, u32>,
    /// How many objects of each resource each namespace has.
    counts: BTreeMap<(u32, ResourceId), usize>,
    nodes: BTreeMap<Uid, Node>,
    dependents: BTreeMap<Uid, BTreeSet<Uid>>,
    absent: HashSet<Uid>,
    absent_order: VecDeque<Uid>,
}

impl Graph {
    /// Takes in a new or changed object.
    pub fn observe(&mut self, seen: &Observed<'_>) -> Vec<Task> {
        let uid = seen.item.uid;
        let mut tasks = Vec::new();
        if !self.known.contains_key(&uid) {
            let namespace = self.namespace_id(seen.item.key.namespace());
            self.known.insert(uid, Place { resource: seen.item.resource, namespace });
            *self.counts.entry((namespace, seen.item.resource)).or_default() += 1;
        }
        let has = |finalizer: &str| seen.deleting && seen.finalizers.contains(&finalizer);
        let (deleting_dependents, orphaning) = (has(FOREGROUND), has(ORPHAN));
        if seen.owners.is_empty() && !deleting_dependents && !orphaning && !self.nodes.contains_key(&uid) {
            return tasks;
        }
        let old = self.nodes.remove(&uid);
        let (was_deleting_dependents, was_orphaning) = old.as_ref().map_or((false, false), |n| (n.deleting_dependents, n.orphaning));
        let old_owners = old.map(|n| n.owners).unwrap_or_default();
        let owners: Vec<Edge> = seen.owners.iter().map(|o| Edge { owner: Uid::of(&o.uid), blocks: o.block_owner_deletion == Some(true) }).collect();
        self.let_owners_go(uid, &old_owners, &owners, &mut tasks);
        self.enter_owners(seen, &old_owners, &owners, &mut tasks);
        let node = Node {
            item: seen.item.clone(),
            owners,
            deleting_dependents: deleting_dependents || was_deleting_dependents,
            orphaning,
            being_deleted: seen.deleting,
        };
        self.nodes.insert(uid, node);
        if orphaning && !was_orphaning {
            tasks.push(Task::Orphan(seen.item.clone()));
        } else if deleting_dependents && !was_deleting_dependents {
            tasks.extend(self.dependents(uid).into_iter().map(Task::Delete));
            tasks.push(Task::Delete(seen.item.clone()));
        }
        tasks
    }

    /// Owners that the object left, or no longer holds up, may have been waiting for that.
    fn let_owners_go(&mut self, uid: Uid, old: &[Edge], new: &[Edge], tasks: &mut Vec<Task>) {
        for edge in old {
            let now = new.iter().find(|e| e.owner == edge.owner);
            if now.is_none() {
                self.unlink(edge.owner, uid);
            }
            if edge.blocks && now.is_none_or(|e| !e.blocks) {
                tasks.extend(self.waiting(edge.owner));
            }
        }
    }

    /// Owners that nobody knows, or that are elsewhere, must be looked for.
    fn enter_owners(&mut self, seen: &Observed<'_>, old: &[Edge], new: &[Edge], tasks: &mut Vec<Task>) {
        for (edge, reference) in new.iter().zip(seen.owners) {
            if old.iter().any(|e| e.owner == edge.owner) {
                continue;
            }
            self.dependents.entry(edge.owner).or_default().insert(seen.item.uid);
            let place = self.known.get(&edge.owner).map(|p| &*self.namespaces[p.namespace as usize]);
            match place {
                Some(namespace) if namespace.is_empty() || namespace == seen.item.key.namespace() => {}
                Some(_) => {
                    tasks.push(Task::TellForeignOwner(seen.item.clone(), reference.uid.clone()));
                    tasks.push(Task::Delete(seen.item.clone()));
                }
                None => tasks.push(Task::Delete(seen.item.clone())),
            }
        }
    }

    /// Takes in that an object is gone.
    pub fn remove(&mut self, uid: Uid) -> Vec<Task> {
        let Some(place) = self.known.remove(&uid) else { return Vec::new() };
        if let Some(count) = self.counts.get_mut(&(place.namespace, place.resource)) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&(place.namespace, place.resource));
            }
        }
        let mut tasks: Vec<Task> = self.dependents(uid).into_iter().map(Task::Delete).collect();
        if !tasks.is_empty() {
            self.remember_absent(uid);
        }
        if let Some(node) = self.nodes.remove(&uid) {
            for edge in node.owners {
                self.unlink(edge.owner, uid);
                tasks.extend(self.waiting(edge.owner));
            }
        }
        tasks
    }

    fn unlink(&mut self, owner: Uid, dependent: Uid) {
        if let Some(set) = self.dependents.get_mut(&owner) {
            set.remove(&dependent);
            if set.is_empty() {
                self.dependents.remove(&owner);
            }
        }
    }

    /// The task for an owner that waits for its dependents.
    fn waiting(&self, owner: Uid) -> Option<Task> {
        self.nodes.get(&owner).filter(|n| n.deleting_dependents).map(|n| Task::Delete(n.item.clone()))
    }

    fn remember_absent(&mut self, uid: Uid) {
        if self.absent.insert(uid) {
            self.absent_order.push_back(uid);
        }
        if self.absent_order.len() > ABSENT_MAX {
            if let Some(oldest) = self.absent_order.pop_front() {
                self.absent.remove(&oldest);
            }
        }
    }

    /// Seen to be deleted, so that nobody needs to ask for it.
    pub fn is_absent(&self, uid: Uid) -> bool {
        self.absent.contains(&uid)
    }

    pub fn contains(&self, uid: Uid) -> bool {
        self.known.contains_key(&uid)
    }

    pub fn dependents(&self, uid: Uid) -> Vec<Item> {
        self.dependents.get(&uid).into_iter().flatten().filter_map(|d| self.nodes.get(d)).map(|n| n.item.clone()).collect()
    }

    pub fn is_deleting_dependents(&self, uid: Uid) -> bool {
        self.nodes.get(&uid).is_some_and(|n| n.deleting_dependents)
    }

    pub fn is_being_deleted(&self, uid: Uid) -> bool {
        self.nodes.get(&uid).is_some_and(|n| n.being_deleted)
    }

    /// Dependents that must be gone before the object may go.
    pub fn blocking_dependents(&self, uid: Uid) -> Vec<Item> {
        let blocks = |d: &Uid| self.nodes.get(d).is_some_and(|n| n.owners.iter().any(|e| e.owner == uid && e.blocks));
        self.dependents.get(&uid).into_iter().flatten().filter(|d| blocks(d)).map(|d| self.nodes[d].item.clone()).collect()
    }

    /// The objects of one resource.
    pub fn of_resource(&self, resource: ResourceId) -> BTreeSet<Uid> {
        self.known.iter().filter(|(_, p)| p.resource == resource).map(|(uid, _)| *uid).collect()
    }

    /// How many objects of a resource a namespace has, and how many objects at all.
    pub fn count(&self, namespace: &str, resource: ResourceId) -> (usize, usize) {
        let Some(id) = self.namespace_ids.get(namespace).copied() else { return (0, 0) };
        let all = self.counts.range((id, ResourceId::MIN)..=(id, ResourceId::MAX)).map(|(_, n)| n).sum();
        (self.counts.get(&(id, resource)).copied().unwrap_or(0), all)
    }

    fn namespace_id(&mut self, namespace: &str) -> u32 {
        if let Some(id) = self.namespace_ids.get(namespace) {
            return *id;
        }
        let id = u32::try_from(self.namespaces.len()).unwrap_or(u32::MAX);
        self.namespaces.push(namespace.into());
        self.namespace_ids.insert(namespace.into(), id);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str) -> Item {
        let key = if name.contains('/') { Key::parse(name) } else { Key::new("a", name) };
        Item { uid: Uid::of(name), resource: 0, key }
    }

    fn owned_by(owners: &[&str], blocks: bool) -> Vec<OwnerReference> {
        owners.iter().map(|o| OwnerReference { uid: (*o).to_owned(), block_owner_deletion: Some(blocks), ..OwnerReference::default() }).collect()
    }

    fn see(graph: &mut Graph, name: &str, owners: &[&str], finalizer: Option<&str>) -> Vec<Task> {
        let owners = owned_by(owners, true);
        graph.observe(&Observed { item: item(name), owners: &owners, deleting: finalizer.is_some(), finalizers: finalizer.into_iter().collect() })
    }

    fn delete(names: &[&str]) -> Vec<Task> {
        names.iter().map(|n| Task::Delete(item(n))).collect()
    }

    #[test]
    fn dependents_are_looked_at_when_their_owner_goes() {
        let mut graph = Graph::default();
        assert_eq!(see(&mut graph, "owner", &[], None), []);
        assert_eq!(see(&mut graph, "one", &["owner"], None), []);
        assert_eq!(graph.remove(Uid::of("owner")), delete(&["one"]));
        assert!(graph.is_absent(Uid::of("owner")));
        assert_eq!(graph.remove(Uid::of("one")), []);
        assert!(graph.dependents.is_empty() && graph.nodes.is_empty());
    }

    #[test]
    fn an_unknown_owner_is_looked_for_and_a_foreign_one_told() {
        let mut graph = Graph::default();
        assert_eq!(see(&mut graph, "orphan", &["nobody"], None), delete(&["orphan"]));
        see(&mut graph, "b/owner", &[], None);
        assert_eq!(see(&mut graph, "child", &["b/owner"], None), [Task::TellForeignOwner(item("child"), "b/owner".into()), Task::Delete(item("child"))]);
    }

    #[test]
    fn a_waiting_owner_is_looked_at_after_each_dependent() {
        let mut graph = Graph::default();
        see(&mut graph, "owner", &[], None);
        see(&mut graph, "one", &["owner"], None);
        see(&mut graph, "two", &["owner"], None);
        let mut tasks = see(&mut graph, "owner", &[], Some(FOREGROUND));
        tasks.sort();
        let mut wanted = delete(&["one", "two", "owner"]);
        wanted.sort();
        assert_eq!(tasks, wanted);
        assert_eq!(graph.remove(Uid::of("one")), delete(&["owner"]));
        assert_eq!(see(&mut graph, "two", &[], None), delete(&["owner"]), "a dependent that leaves unblocks, too");
        assert!(graph.blocking_dependents(Uid::of("owner")).is_empty());
    }

    #[test]
    fn orphaning_is_asked_for_once() {
        let mut graph = Graph::default();
        assert_eq!(see(&mut graph, "owner", &[], Some(ORPHAN)), [Task::Orphan(item("owner"))]);
        assert_eq!(see(&mut graph, "owner", &[], Some(ORPHAN)), []);
    }

    #[test]
    fn objects_are_counted_by_namespace() {
        let mut graph = Graph::default();
        see(&mut graph, "one", &[], None);
        see(&mut graph, "one", &[], None);
        see(&mut graph, "b/two", &[], None);
        assert_eq!((graph.count("a", 0), graph.count("b", 1), graph.count("c", 0)), ((1, 1), (0, 1), (0, 0)));
        graph.remove(Uid::of("one"));
        assert_eq!(graph.count("a", 0), (0, 0));
    }
}
