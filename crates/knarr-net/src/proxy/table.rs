//! The state of the proxy's table: what every Service has in the kernel, whose a front is that several want, and the smallest
//! change from one state to the next.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ipnet::IpNet;
use knarr_client::read::Key as ServiceKey;
use knarr_sys::nft::{Batch, Change, Data, Element, Family, Nft, Result, Verdict};

use super::compile::Compiled;
use super::entry::{Action, Entry, Firewall, Front, Key, Value};
use super::layout;

/// Elements in one batch when everything is written. Bounds the memory that a batch takes here and in the kernel.
const BATCH_ELEMENTS_MAX: usize = 50_000;

/// The table of one node.
pub(super) struct Table {
    nft: Box<dyn Nft>,
    name: String,
    cluster_cidrs: Vec<IpNet>,
    compiled: HashMap<ServiceKey, Compiled>,
    /// Who wants a front, in the order of coming.
    claims: HashMap<Front, Vec<ServiceKey>>,
    /// How many Services have an entry that they share.
    counts: HashMap<Key, usize>,
    /// Actions and firewalls whose chains exist.
    actions: BTreeSet<Action>,
    firewalls: BTreeSet<Arc<Firewall>>,
    /// The kernel's handle of the table that we wrote; none when the kernel's state is not known.
    handle: Option<u64>,
}

/// Entries to take away and to add. An entry that changes is in both.
#[derive(Default)]
struct Difference {
    delete: Vec<Key>,
    add: Vec<Entry>,
}

impl Table {
    pub fn new(nft: Box<dyn Nft>, name: &str, cluster_cidrs: &[IpNet]) -> Self {
        Self {
            nft,
            name: name.to_owned(),
            cluster_cidrs: cluster_cidrs.to_vec(),
            compiled: HashMap::new(),
            claims: HashMap::new(),
            counts: HashMap::new(),
            actions: BTreeSet::new(),
            firewalls: BTreeSet::new(),
            handle: None,
        }
    }

    /// What a Service has now; nothing for an unknown one.
    pub fn compiled(&self, service: &ServiceKey) -> Option<&Compiled> {
        self.compiled.get(service)
    }

    /// Brings Services to new states: touches the elements that differ, and no others.
    ///
    /// # Errors
    /// The kernel's refusal. What the kernel has is then unknown: the next call writes what is missing.
    pub fn sync(&mut self, services: Vec<(ServiceKey, Compiled)>) -> Result<()> {
        let known = self.handle.is_some();
        let difference = self.take(services);
        if !known {
            return self.resync();
        }
        let batch = self.batch(&difference);
        let done = self.nft.apply(&batch);
        if done.is_err() {
            self.handle = None;
        }
        done
    }

    /// Takes new states in and gives the difference.
    fn take(&mut self, services: Vec<(ServiceKey, Compiled)>) -> Difference {
        let mut fronts: BTreeMap<Front, Option<Arc<[Entry]>>> = BTreeMap::new();
        let mut counted: BTreeMap<Key, bool> = BTreeMap::new();
        for (service, new) in services {
            let old = self.compiled.remove(&service).unwrap_or_default();
            for front in old.fronts.keys().chain(new.fronts.keys()) {
                fronts
                    .entry(*front)
                    .or_insert_with(|| if old.fronts.contains_key(front) { self.entries_with(front, &service, &old) } else { self.entries(front) });
            }
            for key in old.counted.iter().chain(&new.counted) {
                counted.entry(*key).or_insert_with(|| self.counts.contains_key(key));
            }
            self.count(&old, &new);
            self.claim(&service, &old, &new);
            if new != Compiled::default() {
                self.compiled.insert(service, new);
            }
        }
        let mut difference = Difference::default();
        for (key, was) in counted {
            match (was, self.counts.contains_key(&key)) {
                (true, false) => difference.delete.push(key),
                (false, true) => difference.add.push((key, Value::Nothing)),
                _ => (),
            }
        }
        for (front, old) in fronts {
            compare(old.as_deref().unwrap_or_default(), self.entries(&front).as_deref().unwrap_or_default(), &mut difference);
        }
        difference
    }

    fn count(&mut self, old: &Compiled, new: &Compiled) {
        for key in &new.counted {
            *self.counts.entry(*key).or_default() += 1;
        }
        for key in &old.counted {
            let left = self.counts.get_mut(key).map_or(0, |n| {
                *n -= 1;
                *n
            });
            if left == 0 {
                self.counts.remove(key);
            }
        }
    }

    /// A front that a Service keeps stays its own; for a new one it stands behind others.
    fn claim(&mut self, service: &ServiceKey, old: &Compiled, new: &Compiled) {
        for front in old.fronts.keys().filter(|f| !new.fronts.contains_key(f)) {
            let nobody = self.claims.get_mut(front).is_some_and(|claims| {
                claims.retain(|c| c != service);
                claims.is_empty()
            });
            if nobody {
                self.claims.remove(front);
            }
        }
        for front in new.fronts.keys().filter(|f| !old.fronts.contains_key(f)) {
            self.claims.entry(*front).or_default().push(service.clone());
        }
    }

    /// The entries of a front, by the Service whose it is.
    fn entries(&self, front: &Front) -> Option<Arc<[Entry]>> {
        self.owned(front, |service| self.compiled.get(service))
    }

    /// The same while one Service is out of the table.
    fn entries_with(&self, front: &Front, service: &ServiceKey, compiled: &Compiled) -> Option<Arc<[Entry]>> {
        self.owned(front, |s| if s == service { Some(compiled) } else { self.compiled.get(s) })
    }

    /// ClusterIPs first, then who came first.
    fn owned<'a>(&'a self, front: &Front, find: impl Fn(&ServiceKey) -> Option<&'a Compiled>) -> Option<Arc<[Entry]>> {
        let claims: Vec<_> = self.claims.get(front)?.iter().filter_map(|s| find(s)?.fronts.get(front)).collect();
        let owner = claims.iter().find(|c| c.is_cluster_ip).or(claims.first())?;
        Some(owner.entries.clone())
    }

    fn batch(&mut self, difference: &Difference) -> Batch {
        let mut batch = Batch::new(Family::Ip, &self.name);
        let mut deleted: BTreeMap<&str, Vec<Element>> = BTreeMap::new();
        for key in &difference.delete {
            deleted.entry(key.set()).or_default().push(key.element(&Value::Nothing));
        }
        for set in layout::ENTRY_SETS.iter().rev() {
            batch.delete_elements(set, deleted.remove(set).unwrap_or_default());
        }
        let mut added: BTreeMap<&str, Vec<Element>> = BTreeMap::new();
        for (key, value) in &difference.add {
            self.ensure_chain(&mut batch, value);
            added.entry(key.set()).or_default().push(key.element(value));
        }
        for set in layout::ENTRY_SETS {
            batch.add_elements(set, added.remove(set).unwrap_or_default());
        }
        batch
    }

    /// Makes the chain that an entry refers to, unless it is there.
    fn ensure_chain(&mut self, batch: &mut Batch, value: &Value) {
        match value {
            Value::Action(action) if action.chain().is_some() && self.actions.insert(*action) => layout::action(batch, *action, &self.cluster_cidrs),
            Value::Firewall(firewall) if self.firewalls.insert(firewall.clone()) => layout::firewall(batch, firewall),
            _ => (),
        }
    }

    /// Compares the whole table with what it should be and repairs it. A table of another layout is replaced.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn resync(&mut self) -> Result<()> {
        self.handle = None;
        (self.actions, self.firewalls) = Default::default();
        let found = self.nft.table(Family::Ip, &self.name)?;
        let keep = found.is_some_and(|info| info.stamp == layout::stamp(&self.cluster_cidrs));
        if !keep {
            self.nft.apply(&layout::base(&self.name, &self.cluster_cidrs))?;
        }
        self.repair()?;
        self.handle = self.nft.table(Family::Ip, &self.name)?.map(|info| info.handle);
        Ok(())
    }

    fn repair(&mut self) -> Result<()> {
        let mut desired = self.desired();
        let chains = std::mem::take(&mut desired.chains);
        let stale = self.stale_actions(&chains)?;
        let mut batch = Batch::new(Family::Ip, &self.name);
        chains.iter().for_each(|value| self.ensure_chain(&mut batch, value));
        self.nft.apply(&batch)?;
        for set in layout::ENTRY_SETS {
            let wanted = desired.elements.remove(set).unwrap_or_default();
            self.repair_set(set, wanted)?;
        }
        self.delete_actions(stale)
    }

    fn desired(&self) -> Desired {
        let mut desired = Desired::default();
        for key in self.counts.keys() {
            desired.add(*key, &Value::Nothing);
        }
        for front in self.claims.keys() {
            for (key, value) in self.entries(front).iter().flat_map(|e| e.iter()) {
                desired.add(*key, value);
            }
        }
        desired
    }

    fn repair_set(&mut self, set: &str, mut wanted: BTreeMap<Vec<u8>, Element>) -> Result<()> {
        let mut wrong = Vec::new();
        for element in self.nft.elements(Family::Ip, &self.name, set)? {
            if wanted.get(&element.key) == Some(&element) {
                wanted.remove(&element.key);
            } else {
                wrong.push(element);
            }
        }
        // What changes is taken away and added in the same batch.
        let changing: Vec<_> = wrong.iter().filter_map(|e| wanted.remove(&e.key)).collect();
        self.nft.apply(Batch::new(Family::Ip, &self.name).delete_elements(set, wrong).add_elements(set, changing))?;
        let new: Vec<_> = wanted.into_values().collect();
        new.chunks(BATCH_ELEMENTS_MAX).try_for_each(|some| self.nft.apply(Batch::new(Family::Ip, &self.name).add_elements(set, some.to_vec())))
    }

    /// Chains of actions that nothing refers to any more.
    fn stale_actions(&mut self, chains: &BTreeSet<Value>) -> Result<Vec<(Element, String)>> {
        let number = |action: Action| action.number().to_ne_bytes().to_vec();
        let mut needed: BTreeSet<_> = chains.iter().filter_map(|v| if let Value::Action(a) = v { Some(number(*a)) } else { None }).collect();
        needed.extend([number(Action::Drop), number(Action::Reject)]);
        let stale = self.nft.elements(Family::Ip, &self.name, "actions")?.into_iter().filter(|e| !needed.contains(&e.key));
        let chain = |e: &Element| if let Some(Data::Verdict(Verdict::Goto(chain))) = &e.data { Some(chain.clone()) } else { None };
        Ok(stale.filter_map(|e| chain(&e).map(|c| (e, c))).collect())
    }

    fn delete_actions(&mut self, stale: Vec<(Element, String)>) -> Result<()> {
        let mut batch = Batch::new(Family::Ip, &self.name);
        let (elements, chains): (Vec<_>, Vec<_>) = stale.into_iter().unzip();
        batch.delete_elements("actions", elements);
        chains.into_iter().for_each(|chain| {
            batch.push(Change::DeleteChain(chain));
        });
        self.nft.apply(&batch)
    }

    /// Whether the kernel still has the table that we wrote. If not, the next [`Self::sync`] writes it anew.
    pub fn is_intact(&mut self) -> Result<bool> {
        let found = self.nft.table(Family::Ip, &self.name)?.map(|info| info.handle);
        let intact = self.handle.is_some() && found == self.handle;
        if !intact {
            self.handle = None;
        }
        Ok(intact)
    }
}

/// Everything that should be in the table.
#[derive(Default)]
struct Desired {
    elements: BTreeMap<&'static str, BTreeMap<Vec<u8>, Element>>,
    /// One value for each chain that is referred to.
    chains: BTreeSet<Value>,
}

impl Desired {
    fn add(&mut self, key: Key, value: &Value) {
        let element = key.element(value);
        self.elements.entry(key.set()).or_default().insert(element.key.clone(), element);
        if matches!(value, Value::Action(_) | Value::Firewall(_)) && !self.chains.contains(value) {
            self.chains.insert(value.clone());
        }
    }
}

/// The difference between two sorted lists.
fn compare(old: &[Entry], new: &[Entry], difference: &mut Difference) {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((o, _)), Some((n, _))) => o.cmp(n),
        };
        let gone = if order.is_le() { old.next() } else { None };
        let come = if order.is_ge() { new.next() } else { None };
        if gone.map(|(_, v)| v) != come.map(|(_, v)| v) {
            difference.delete.extend(gone.map(|(key, _)| *key));
            difference.add.extend(come.cloned());
        }
    }
}

#[cfg(test)]
mod tests;
