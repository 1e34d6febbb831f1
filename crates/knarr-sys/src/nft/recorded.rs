//! Packet rules that nobody enforces: every batch is written down and its elements are kept, so that a test can read what
//! would have been done.

use std::collections::BTreeMap;

use nix::errno::Errno;

use super::{Batch, Change, Element, Error, Family, Nft, Result, TableInfo};

/// Keeps elements as the kernel would, and all batches as they came.
#[derive(Default)]
pub struct RecordedNft {
    pub batches: Vec<Batch>,
    tables: BTreeMap<String, Recorded>,
    handles: u64,
    /// Set, it makes the next batch fail.
    pub failure: Option<Errno>,
}

struct Recorded {
    info: TableInfo,
    sets: BTreeMap<String, BTreeMap<Vec<u8>, Element>>,
}

impl RecordedNft {
    fn set(&mut self, table: &str, set: &str) -> Result<&mut BTreeMap<Vec<u8>, Element>> {
        self.tables.get_mut(table).and_then(|t| t.sets.get_mut(set)).ok_or_else(|| refused(format!("no set {set} in table {table}"), Errno::ENOENT))
    }

    fn change(&mut self, table: &str, change: &Change) -> Result<()> {
        match change {
            Change::AddTable { stamp } => {
                self.handles += 1;
                let info = TableInfo { handle: self.handles, stamp: stamp.clone() };
                self.tables.entry(table.into()).or_insert(Recorded { info, sets: BTreeMap::new() });
            }
            Change::DeleteTable => {
                self.tables.remove(table).ok_or_else(|| refused("delete table".into(), Errno::ENOENT))?;
            }
            Change::AddSet(set) => {
                let name = set.name.clone();
                self.tables.get_mut(table).map(|t| t.sets.entry(name).or_default()).ok_or_else(|| refused("add set".into(), Errno::ENOENT))?;
            }
            Change::AddElements { set, elements } => {
                let kept = self.set(table, set)?;
                for element in elements {
                    if kept.insert(element.key.clone(), element.clone()).is_some_and(|old| old != *element) {
                        return Err(refused(format!("add to {set}"), Errno::EEXIST));
                    }
                }
            }
            Change::DeleteElements { set, elements } => {
                let kept = self.set(table, set)?;
                for element in elements {
                    kept.remove(&element.key).ok_or_else(|| refused(format!("delete from {set}"), Errno::ENOENT))?;
                }
            }
            Change::FlushSet(set) => self.set(table, set)?.clear(),
            Change::DeleteSet(set) => {
                self.set(table, set)?;
                self.tables.get_mut(table).and_then(|t| t.sets.remove(set));
            }
            Change::AddChain(_) | Change::FlushChain(_) | Change::DeleteChain(_) | Change::AddRule { .. } => (),
        }
        Ok(())
    }
}

fn refused(what: String, errno: Errno) -> Error {
    Error::Refused { what, errno, explanation: None }
}

impl Nft for RecordedNft {
    fn apply(&mut self, batch: &Batch) -> Result<()> {
        if let Some(errno) = self.failure.take() {
            return Err(refused("apply".into(), errno));
        }
        batch.changes.iter().try_for_each(|change| self.change(&batch.table, change))?;
        self.batches.push(batch.clone());
        Ok(())
    }

    fn elements(&mut self, _: Family, table: &str, set: &str) -> Result<Vec<Element>> {
        Ok(self.set(table, set)?.values().cloned().collect())
    }

    fn table(&mut self, _: Family, table: &str) -> Result<Option<TableInfo>> {
        Ok(self.tables.get(table).map(|t| t.info.clone()))
    }

    fn tables(&mut self, _: Family) -> Result<Vec<String>> {
        Ok(self.tables.keys().cloned().collect())
    }
}
