//! What of the node each pod has been given. A pod gets what it asks for when it is admitted; when it asks for more later, it keeps
//! what it has until there is room (upstream: `pkg/kubelet/allocation`).
//!
//! Nothing is retried by the clock: whatever makes room also looks at those who wait.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec, ResourceRequirements};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::admission::{self, Refusal};
use crate::context::Context;
use crate::pod::resources::pod_requests;
use crate::pod::spec::{PodExt, Qos, amount};
use crate::volumes::pod_dir;

/// File in a pod's folder in which an allocation stands that is not what the pod's spec says.
const FILE: &str = "allocation.json";

/// A resize that waits for room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    pub message: String,
    pub generation: i64,
    pub since: Timestamp,
}

/// What a pod has.
#[derive(Clone, Debug)]
pub struct Given {
    /// The API's pod with the allocated resources in its spec.
    pub pod: Arc<Pod>,
    pub pending: Option<Pending>,
}

/// The resources of a pod's spec that may change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Resources {
    pod: Option<ResourceRequirements>,
    containers: BTreeMap<String, ResourceRequirements>,
}

impl Resources {
    fn of(spec: &PodSpec) -> Self {
        let all = spec.init_containers.iter().flatten().chain(&spec.containers);
        Self { pod: spec.resources.clone(), containers: all.map(|c| (c.name.clone(), c.resources.clone().unwrap_or_default())).collect() }
    }

    fn put_into(&self, pod: &Pod) -> Pod {
        let mut pod = pod.clone();
        let Some(spec) = pod.spec.as_mut() else { return pod };
        spec.resources.clone_from(&self.pod);
        for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
            if let Some(resources) = self.containers.get(&container.name) {
                container.resources = Some(resources.clone());
            }
        }
        pod
    }

    fn save(&self, dir: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(dir)?;
        let fresh = dir.join(format!("{FILE}.new"));
        std::fs::write(&fresh, serde_json::to_vec(self)?)?;
        std::fs::rename(fresh, dir.join(FILE))
    }

    fn load(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(dir.join(FILE)).ok()?).ok()
    }
}

/// Whether two requirements ask for the same, however the amounts are written.
pub fn same_resources(a: Option<&ResourceRequirements>, b: Option<&ResourceRequirements>) -> bool {
    let none = ResourceRequirements::default();
    let (a, b) = (a.unwrap_or(&none), b.unwrap_or(&none));
    let same = |a: &Option<crate::pod::spec::ResourceList>, b: &Option<crate::pod::spec::ResourceList>| {
        let names = a.iter().flatten().chain(b.iter().flatten()).map(|(name, _)| name);
        let has = |list: &Option<crate::pod::spec::ResourceList>, name: &str| list.as_ref().is_some_and(|l| l.contains_key(name));
        names.into_iter().all(|name| has(a, name) == has(b, name) && amount(a.as_ref(), name) == amount(b.as_ref(), name))
    };
    same(&a.requests, &b.requests) && same(&a.limits, &b.limits)
}

fn same_as_spec(given: &Resources, spec: &PodSpec) -> bool {
    let wanted = Resources::of(spec);
    same_resources(given.pod.as_ref(), wanted.pod.as_ref())
        && wanted.containers.iter().all(|(name, r)| given.containers.get(name).is_none_or(|g| same_resources(Some(g), Some(r))))
}

struct Entry {
    /// The newest version of the API.
    desired: Arc<Pod>,
    given: Given,
}

impl Entry {
    fn waits(&self) -> bool {
        !same_as_spec(&Resources::of(self.given.pod.spec()), self.desired.spec())
    }

    fn asks_for_more(&self) -> bool {
        let (have, want) = (pod_requests(self.given.pod.spec()), pod_requests(self.desired.spec()));
        ["cpu", "memory"].iter().any(|name| amount(Some(&want), name) > amount(Some(&have), name))
    }

    /// Who is served first (upstream: `sortPendingResizes`).
    fn rank(&self) -> impl Ord + use<> {
        let since = self.given.pending.as_ref().map_or(Timestamp::MAX, |p| p.since);
        (self.asks_for_more(), Reverse(self.desired.spec().priority.unwrap_or(0)), Qos::of(&self.desired) != Qos::Guaranteed, since)
    }
}

/// The allocations of all pods of the node, by uid.
pub struct Allocations {
    all: Mutex<BTreeMap<String, Entry>>,
    changed: watch::Sender<()>,
}

impl Default for Allocations {
    fn default() -> Self {
        Self { all: Mutex::default(), changed: watch::channel(()).0 }
    }
}

impl Allocations {
    /// Tells when any allocation has changed by itself.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Gives a new pod what it asks for.
    ///
    /// # Errors
    /// The node cannot run it.
    pub fn admit(&self, context: &Context, pod: &Arc<Pod>) -> Result<Given, Refusal> {
        let mut all = self.all.lock();
        let others = all.iter().filter(|(uid, _)| *uid != pod.uid()).map(|(_, e)| &*e.given.pod);
        if let Some(refusal) = context.node.with_facts(context, |facts| admission::check(pod, others, facts)) {
            return Err(refusal);
        }
        let given = Given { pod: pod.clone(), pending: None };
        all.insert(pod.uid().to_owned(), Entry { desired: pod.clone(), given: given.clone() });
        Ok(given)
    }

    /// Takes over a pod that an earlier agent admitted: it has what was written down then, or else what it asks for.
    pub fn take_over(&self, context: &Context, pod: &Arc<Pod>) -> Given {
        let noted = Resources::load(&pod_dir(&context.config.root_dir, pod.uid()));
        let allocated = noted.map_or_else(|| pod.clone(), |r| Arc::new(r.put_into(pod)));
        let entry = Entry { desired: pod.clone(), given: Given { pod: allocated, pending: None } };
        self.all.lock().insert(pod.uid().to_owned(), entry);
        self.update(context, pod)
    }

    /// Takes in a new version of a pod. A resize is allocated if there is room, or else waits.
    pub fn update(&self, context: &Context, pod: &Arc<Pod>) -> Given {
        let mut all = self.all.lock();
        let Some(entry) = all.get_mut(pod.uid()) else { return Given { pod: pod.clone(), pending: None } };
        entry.given.pod = Arc::new(Resources::of(entry.given.pod.spec()).put_into(pod));
        entry.desired = pod.clone();
        if entry.waits() {
            self.settle(context, &mut all);
        } else {
            entry.given = Given { pod: pod.clone(), pending: None };
        }
        all.get(pod.uid()).map_or_else(|| Given { pod: pod.clone(), pending: None }, |e| e.given.clone())
    }

    pub fn of(&self, uid: &str) -> Option<Given> {
        self.all.lock().get(uid).map(|e| e.given.clone())
    }

    /// Gives back what a pod had: it has ended.
    pub fn release(&self, context: &Context, uid: &str) {
        let mut all = self.all.lock();
        if all.remove(uid).is_some() && all.values().any(Entry::waits) {
            self.settle(context, &mut all);
        }
    }

    /// Looks at every resize that waits, those first who are to be served first.
    fn settle(&self, context: &Context, all: &mut BTreeMap<String, Entry>) {
        let mut waiting: Vec<String> = all.iter().filter(|(_, e)| e.waits()).map(|(uid, _)| uid.clone()).collect();
        waiting.sort_by_cached_key(|uid| all.get(uid).map(Entry::rank));
        for uid in waiting {
            let Some(entry) = all.get(&uid) else { continue };
            let others = all.iter().filter(|(other, _)| **other != uid).map(|(_, e)| &*e.given.pod);
            let refusal = context.node.with_facts(context, |facts| admission::check_resize(&entry.desired, others, facts));
            let generation = entry.desired.generation();
            let given = match refusal {
                None => Given { pod: entry.desired.clone(), pending: None },
                Some(refusal) => {
                    let since = entry.given.pending.as_ref().map_or_else(|| context.env.now(), |p| p.since);
                    Given { pod: entry.given.pod.clone(), pending: Some(Pending { message: refusal.message, generation, since }) }
                }
            };
            // What differs from the spec, or did once, must be known to the next agent.
            if let Err(error) = Resources::of(given.pod.spec()).save(&pod_dir(&context.config.root_dir, &uid)) {
                tracing::warn!(pod = entry.desired.described(), %error, "cannot note the pod's allocation");
            }
            if let Some(entry) = all.get_mut(&uid) {
                entry.given = given;
            }
        }
        self.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use knarr_core::json;

    use super::*;
    use crate::testing::pod_of;

    #[test]
    fn amounts_are_compared_and_not_their_spelling() {
        let of = |cpu: &str| ResourceRequirements { requests: serde_json::from_value(json!({"cpu": cpu})).unwrap(), ..Default::default() };
        assert!(same_resources(Some(&of("1")), Some(&of("1000m"))));
        assert!(!same_resources(Some(&of("1")), Some(&of("2"))));
        assert!(!same_resources(Some(&of("1")), None));
    }

    #[test]
    fn an_allocation_is_noted_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let pod = |cpu: &str| pod_of(json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]}));
        let before = Resources::of(pod("1").spec());
        before.save(dir.path()).unwrap();
        let found = Resources::load(dir.path()).unwrap();
        assert_eq!(found.put_into(&pod("2")), pod("1"));
        assert!(!same_as_spec(&found, pod("2").spec()));
    }
}
