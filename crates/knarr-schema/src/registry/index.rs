//! A hash table over resources that is asked with borrowed parts of a name, so that a lookup allocates nothing.

use std::sync::Arc;

use super::Resource;
use crate::types::name_hash;

const EMPTY: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Index {
    /// Positions in the registry's list. A power of two, at most half full.
    slots: Box<[u32]>,
}

impl Index {
    /// Of two resources with one name, the first is found.
    pub fn of(resources: &[Arc<Resource>], name: fn(&Resource) -> [&String; 3]) -> Self {
        let mut slots = vec![EMPTY; (resources.len() * 2 + 1).next_power_of_two()].into_boxed_slice();
        for (i, resource) in resources.iter().enumerate() {
            let mut slot = name_hash(&name(resource).map(String::as_str)) as usize & (slots.len() - 1);
            while slots[slot] != EMPTY {
                slot = (slot + 1) & (slots.len() - 1);
            }
            slots[slot] = u32::try_from(i).expect("fewer resources than 2^32");
        }
        Self { slots }
    }

    pub fn find<'a>(&self, wanted: [&str; 3], name: impl Fn(usize) -> [&'a String; 3]) -> Option<usize> {
        let mut slot = name_hash(&wanted) as usize & (self.slots.len() - 1);
        while self.slots[slot] != EMPTY {
            let i = self.slots[slot] as usize;
            if name(i).map(String::as_str) == wanted {
                return Some(i);
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
        None
    }
}
