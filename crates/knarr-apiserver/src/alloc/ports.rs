//! Node ports: a set in memory, filled from the stored Services when it is first needed. Where several servers share the store, it is
//! filled anew each time, and the write that gives ports holds to a guard: of two servers that give the same port in the same moment
//! one looks again.

use std::{collections::HashSet, ops::RangeInclusive};

use knarr_core::clock::Env;
use knarr_schema::codec;
use knarr_store::{Error, Guard, ResourceKey, Storage, guard::range_allocation};
use parking_lot::Mutex;

/// Under this name kube-apiserver keeps what is given of the range.
const GUARD: &str = "servicenodeports";
const ALREADY: &str = "provided port is already allocated";
const FULL: &str = "range is full";

/// See the module.
pub struct Ports {
    range: RangeInclusive<u16>,
    used: Mutex<Option<HashSet<u16>>>,
    /// Taken here, for Services that are on their way into the store.
    pending: Mutex<HashSet<u16>>,
}

impl Ports {
    pub fn new(range: RangeInclusive<u16>) -> Self {
        Self { range, used: Mutex::new(None), pending: Mutex::default() }
    }

    fn with<T>(&self, storage: &Storage, change: impl FnOnce(&mut HashSet<u16>) -> T) -> T {
        let mut used = self.used.lock();
        if storage.is_shared() {
            *used = Some(stored(storage).union(&self.pending.lock()).copied().collect());
        }
        change(used.get_or_insert_with(|| stored(storage)))
    }

    /// Takes one port.
    ///
    /// # Errors
    /// Upstream's words when it is taken or outside the range.
    pub fn take(&self, storage: &Storage, port: u16, dry_run: bool) -> Result<(), String> {
        if !self.range.contains(&port) {
            let (first, last) = (self.range.start(), self.range.end());
            return Err(format!("provided port is not in the valid range. The range of valid ports is {first}-{last}"));
        }
        let free = self.with(storage, |used| if dry_run { !used.contains(&port) } else { used.insert(port) });
        if free && !dry_run {
            self.pending.lock().insert(port);
        }
        if free { Ok(()) } else { Err(ALREADY.into()) }
    }

    /// Takes any port: from the upper part of the range first, so that the lower one stays for those who name theirs
    /// (upstream: `calculateRangeOffset`).
    ///
    /// # Errors
    /// When none is left.
    pub fn take_any(&self, storage: &Storage, env: &Env, dry_run: bool) -> Result<u16, String> {
        let (first, last) = (*self.range.start(), *self.range.end());
        let size = u32::from(last - first) + 1;
        let offset = if size <= 16 { 0 } else { (size / 32).clamp(16, 128) };
        self.with(storage, |used| {
            let scan = |from: u32, count: u32| {
                let start = env.below(u64::from(count.max(1))) as u32;
                (0..count).map(|i| first + (from + (start + i) % count) as u16).find(|p| !used.contains(p))
            };
            let port = scan(offset, size - offset).or_else(|| if offset > 0 { scan(0, offset) } else { None }).ok_or(FULL)?;
            if !dry_run {
                used.insert(port);
                self.pending.lock().insert(port);
            }
            Ok(port)
        })
    }

    /// What the write of a Service with newly taken ports must hold to; nothing where this server alone writes.
    ///
    /// # Errors
    /// [`Error::Moved`] when another server has given one of them meanwhile.
    pub async fn guard(&self, storage: &Storage, taken: &[u16]) -> Result<Option<Guard>, Error> {
        let Some(expected) = storage.guard(GUARD).await? else { return Ok(None) };
        let mut given = stored(storage);
        if taken.iter().any(|port| given.contains(port)) {
            return Err(Error::Moved);
        }
        given.extend(taken);
        let (first, last) = (*self.range.start(), *self.range.end());
        let places = given.iter().filter_map(|port| port.checked_sub(first)).filter(|place| *place <= last - first).map(usize::from);
        Ok(Some(Guard { name: GUARD, expected, value: range_allocation(&format!("{first}-{last}"), places) }))
    }

    /// The Services that were to have these ports are stored.
    pub fn settle(&self, ports: &[u16]) {
        self.pending.lock().retain(|port| !ports.contains(port));
    }

    pub fn release(&self, ports: &[u16]) {
        self.pending.lock().retain(|port| !ports.contains(port));
        if let Some(used) = self.used.lock().as_mut() {
            for port in ports {
                used.remove(port);
            }
        }
    }
}

fn stored(storage: &Storage) -> HashSet<u16> {
    let services = storage.snapshot(&ResourceKey::new("", "services"));
    let trees = services.iter(None, None).filter_map(|item| codec::to_value(&item.object()).ok());
    trees.flat_map(|service| super::all_ports(&service)).collect()
}
