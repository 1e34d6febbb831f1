//! The table of policies in the kernel, and the smallest change from one state of it to the next.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use knarr_sys::nft::expression::{CtKey, ct_state};
use knarr_sys::nft::{Batch, Chain, ChainKind, Change, Compare, DataType, Element, Expression, Family, Hook, Nft, PayloadBase, Result, Set, Verdict};

use super::model::{Members, Model};
use crate::rules::{DESTINATION, PRIORITY_FILTER, SOURCE, reg};

/// Pods that talk to themselves.
const SELF: &str = "self";

pub(super) struct Table {
    nft: Box<dyn Nft>,
    name: String,
    current: Model,
    /// The kernel's handle of what we wrote; none when the kernel's state is not known.
    handle: Option<u64>,
}

impl Table {
    pub fn new(nft: Box<dyn Nft>, name: &str) -> Self {
        Self { nft, name: name.to_owned(), current: Model::default(), handle: None }
    }

    /// Brings a model into the kernel. Whatever the table held before the first time is replaced in one step, so no packet
    /// passes in between.
    pub fn sync(&mut self, model: &Model) -> Result<()> {
        if self.handle.is_some() && *model == self.current {
            return Ok(());
        }
        if *model == Model::default() {
            return self.take_away();
        }
        let fresh = self.handle.take().is_none();
        let mut batch = Batch::new(Family::Ip, &self.name);
        if fresh {
            base(&mut batch);
            self.current = Model::default();
        }
        change(&mut batch, &self.current, model);
        self.nft.apply(&batch)?;
        self.current = model.clone();
        self.handle = self.nft.table(Family::Ip, &self.name)?.map(|info| info.handle);
        Ok(())
    }

    /// Without policies there is no table: every packet would have to pass through it.
    fn take_away(&mut self) -> Result<()> {
        self.handle = None;
        self.current = Model::default();
        match self.nft.table(Family::Ip, &self.name)? {
            Some(_) => self.nft.apply(Batch::new(Family::Ip, &self.name).remove_table()),
            None => Ok(()),
        }
    }

    /// Sees whether the kernel still has the table; if not, the next [`Self::sync`] writes it anew.
    ///
    /// # Errors
    /// Also when the table is not as we wrote it.
    pub fn check(&mut self) -> Result<()> {
        let found = self.nft.table(Family::Ip, &self.name)?.map(|info| info.handle);
        let wanted = self.current != Model::default();
        if found == self.handle && found.is_some() == wanted {
            return Ok(());
        }
        self.handle = None;
        Err(knarr_sys::netlink::Error::Torn(format!("table {}", self.name)))
    }
}

/// The fixed part: two chains that find the chain of a pod.
fn base(batch: &mut Batch) {
    batch.recreate_table("knarr network policies");
    batch.push(Change::AddSet(Set::new(SELF, &[DataType::Ipv4Address, DataType::Ipv4Address])));
    // Egress is asked first.
    for (name, offset, priority) in [("egress", SOURCE, PRIORITY_FILTER), ("ingress", DESTINATION, PRIORITY_FILTER + 1)] {
        batch.push(Change::AddSet(Set::verdict_map(name, &[DataType::Ipv4Address])));
        batch.push(Change::AddChain(Chain::base(name, ChainKind::Filter, Hook::Forward, priority)));
        batch.rule(name, established());
        batch.rule(name, to_itself());
        let address = Expression::Payload { base: PayloadBase::Network, offset, len: 4, to: reg(0) };
        batch.rule(name, vec![address, Expression::Dispatch { map: name.into(), key: reg(0) }]);
    }
}

fn established() -> Vec<Expression> {
    vec![
        Expression::Ct { key: CtKey::State, to: reg(0) },
        Expression::Bitwise { from: reg(0), to: reg(0), mask: (ct_state::ESTABLISHED | ct_state::RELATED).to_ne_bytes().to_vec(), xor: vec![0; 4] },
        Expression::Compare { register: reg(0), op: Compare::NotEqual, value: vec![0; 4] },
        Expression::Verdict(Verdict::Accept),
    ]
}

fn to_itself() -> Vec<Expression> {
    vec![
        Expression::Payload { base: PayloadBase::Network, offset: SOURCE, len: 4, to: reg(0) },
        Expression::Payload { base: PayloadBase::Network, offset: DESTINATION, len: 4, to: reg(1) },
        Expression::In { set: SELF.into(), key: reg(0), inverted: false },
        Expression::Verdict(Verdict::Accept),
    ]
}

/// The changes from one model to another. What is referred to comes first and goes last.
fn change(batch: &mut Batch, old: &Model, new: &Model) {
    for (name, members) in &new.sets {
        if !old.sets.contains_key(name) {
            batch.push(Change::AddSet(Set::new(name, members.key_types())));
        }
        let had = old.sets.get(name);
        batch.delete_elements(name, difference(had, Some(members)));
        batch.add_elements(name, difference(Some(members), had));
    }
    for name in new.chains.keys().filter(|name| !old.chains.contains_key(*name)) {
        batch.push(Change::AddChain(Chain::regular(name)));
    }
    for (name, rules) in new.chains.iter().filter(|(name, rules)| old.chains.get(*name) != Some(rules)) {
        if old.chains.contains_key(name) {
            batch.push(Change::FlushChain(name.clone()));
        }
        rules.iter().for_each(|rule| {
            batch.rule(name, rule.clone());
        });
    }
    dispatch(batch, "ingress", &old.ingress, &new.ingress);
    dispatch(batch, "egress", &old.egress, &new.egress);
    let themselves = |model: &Model| -> Vec<Ipv4Addr> { model.ingress.keys().chain(model.egress.keys()).copied().collect() };
    let (before, after) = (themselves(old), themselves(new));
    batch.delete_elements(SELF, pairs(&before, &after));
    batch.add_elements(SELF, pairs(&after, &before));
    let gone: Vec<_> = old.chains.keys().filter(|name| !new.chains.contains_key(*name)).cloned().collect();
    for name in &gone {
        batch.push(Change::FlushChain(name.clone()));
    }
    for name in gone {
        batch.push(Change::DeleteChain(name));
    }
    for name in old.sets.keys().filter(|name| !new.sets.contains_key(*name)) {
        batch.push(Change::DeleteSet(name.clone()));
    }
}

/// What one set has that another has not.
fn difference(one: Option<&Members>, other: Option<&Members>) -> Vec<Element> {
    let missing = |key: &&Vec<u8>| other.is_none_or(|o| !o.keys.contains(*key));
    one.iter().flat_map(|m| &m.keys).filter(missing).map(|key| Element::key(key.clone())).collect()
}

fn dispatch(batch: &mut Batch, map: &str, old: &BTreeMap<Ipv4Addr, String>, new: &BTreeMap<Ipv4Addr, String>) {
    let element = |(address, chain): (&Ipv4Addr, &String)| Element::verdict(address.octets().to_vec(), Verdict::Goto(chain.clone()));
    batch.delete_elements(map, old.iter().filter(|(address, chain)| new.get(address) != Some(chain)).map(element).collect());
    batch.add_elements(map, new.iter().filter(|(address, chain)| old.get(address) != Some(chain)).map(element).collect());
}

/// Addresses that only the first list has, each paired with itself.
fn pairs(one: &[Ipv4Addr], other: &[Ipv4Addr]) -> Vec<Element> {
    let mut only: Vec<_> = one.iter().filter(|a| !other.contains(a)).collect();
    only.sort_unstable();
    only.dedup();
    only.into_iter().map(|a| Element::key([a.octets(), a.octets()].concat())).collect()
}
