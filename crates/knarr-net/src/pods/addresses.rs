//! Which pod has which address. Every address in use is a file named after it that holds the sandbox's id: one `open` with
//! `O_EXCL` takes it, a restart of the agent reads the folder. Nothing is synced to disk: after a power cut no sandbox lives.
//!
//! Addresses are given out in rotation, so that one is not used again right after its pod went.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net};

use super::{Error, Result, at};

/// Addresses that pods do not get: the network's own, the node's, and the last.
const RESERVED: u32 = 3;
/// The longest prefix that leaves room for pods.
const PREFIX_LEN_MAX: u8 = 29;

pub(super) struct AddressPool {
    network: Ipv4Net,
    folder: PathBuf,
    by_owner: BTreeMap<String, Ipv4Addr>,
    used: BTreeSet<Ipv4Addr>,
    /// Offset in the network where the search for a free address goes on.
    next: u32,
}

impl AddressPool {
    /// Reads what is in use from `folder`, which is made if need be.
    pub fn open(network: Ipv4Net, folder: &Path) -> Result<Self> {
        if network.prefix_len() > PREFIX_LEN_MAX {
            return Err(Error::UnusablePodCidr(IpNet::V4(network)));
        }
        fs::create_dir_all(folder).map_err(at(folder))?;
        let mut pool = Self { network: network.trunc(), folder: folder.to_owned(), by_owner: BTreeMap::new(), used: BTreeSet::new(), next: 0 };
        pool.reload()?;
        Ok(pool)
    }

    pub fn network(&self) -> Ipv4Net {
        self.network
    }

    /// The node's own address in the network: the first.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.network().to_bits() + 1)
    }

    /// Reads the folder again, after somebody else changed it.
    pub fn reload(&mut self) -> Result<()> {
        let taken = read(&self.folder)?;
        self.used = taken.iter().map(|(address, _)| *address).collect();
        self.next = self.used.iter().filter_map(|a| a.to_bits().checked_sub(self.network.network().to_bits())).max().unwrap_or_default();
        self.by_owner = taken.into_iter().map(|(address, owner)| (owner, address)).collect();
        Ok(())
    }

    /// The address of `owner`: the one it has, or a free one.
    pub fn allocate(&mut self, owner: &str) -> Result<Ipv4Addr> {
        if let Some(address) = self.by_owner.get(owner) {
            return Ok(*address);
        }
        let usable = (1 << (32 - self.network.prefix_len())) - RESERVED;
        let base = self.network.network().to_bits();
        for step in 0..usable {
            // Offsets 2 to usable + 1, beginning behind the one given out last.
            let offset = 2 + (self.next.saturating_sub(1) + step) % usable;
            let address = Ipv4Addr::from_bits(base + offset);
            if !self.used.contains(&address) && self.take(address, owner)? {
                self.next = offset;
                self.used.insert(address);
                self.by_owner.insert(owner.to_owned(), address);
                return Ok(address);
            }
        }
        Err(Error::Exhausted(self.network))
    }

    pub fn address_of(&self, owner: &str) -> Option<Ipv4Addr> {
        self.by_owner.get(owner).copied()
    }

    /// Gives back what `owner` has, if anything.
    pub fn free(&mut self, owner: &str) -> Result<()> {
        let Some(address) = self.by_owner.remove(owner) else { return Ok(()) };
        self.used.remove(&address);
        remove(&self.folder.join(address.to_string()))
    }

    /// Whether the file could be made, which means that nobody else has the address.
    fn take(&self, address: Ipv4Addr, owner: &str) -> Result<bool> {
        let path = self.folder.join(address.to_string());
        match File::create_new(&path) {
            Ok(mut file) => file.write_all(owner.as_bytes()).map(|()| true).map_err(at(&path)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(at(&path)(e)),
        }
    }
}

/// Frees every address in `folder` whose owner is not among the living. A missing folder has none.
pub(super) fn release_all_but(folder: &Path, alive: &BTreeSet<&str>) -> Result<()> {
    for (address, owner) in read(folder)? {
        if !alive.contains(owner.as_str()) {
            tracing::info!(%address, owner, "freeing an address that no sandbox has");
            remove(&folder.join(address.to_string()))?;
        }
    }
    Ok(())
}

fn read(folder: &Path) -> Result<Vec<(Ipv4Addr, String)>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(at(folder))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(at(folder))?.path();
        let address = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok());
        if let Some(address) = address {
            found.push((address, fs::read_to_string(&path).map_err(at(&path))?));
        }
    }
    Ok(found)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(at(path)(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(folder: &Path) -> AddressPool {
        AddressPool::open("10.244.1.0/29".parse().unwrap(), folder).unwrap()
    }

    #[test]
    fn addresses_rotate_and_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = pool(folder.path());
        assert_eq!(first.gateway().to_string(), "10.244.1.1");
        let given: Vec<_> = ["a", "b", "a"].iter().map(|o| first.allocate(o).unwrap().to_string()).collect();
        assert_eq!(given, ["10.244.1.2", "10.244.1.3", "10.244.1.2"]);
        first.free("b").unwrap();
        first.free("nobody").unwrap();
        assert_eq!(first.allocate("c").unwrap().to_string(), "10.244.1.4");
        let mut second = pool(folder.path());
        assert_eq!(second.allocate("c").unwrap().to_string(), "10.244.1.4");
        assert_eq!(second.allocate("d").unwrap().to_string(), "10.244.1.5");
    }

    #[test]
    fn a_full_network_says_so_and_a_freed_address_is_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut pool = pool(folder.path());
        for owner in ["a", "b", "c", "d", "e"] {
            pool.allocate(owner).unwrap();
        }
        assert!(matches!(pool.allocate("f"), Err(Error::Exhausted(_))));
        pool.free("b").unwrap();
        assert_eq!(pool.allocate("f").unwrap().to_string(), "10.244.1.3");
    }

    #[test]
    fn what_belongs_to_no_living_sandbox_is_freed() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = pool(folder.path());
        for owner in ["a", "b"] {
            first.allocate(owner).unwrap();
        }
        release_all_but(folder.path(), &BTreeSet::from(["b"])).unwrap();
        assert_eq!(read(folder.path()).unwrap().len(), 1);
        release_all_but(&folder.path().join("missing"), &BTreeSet::new()).unwrap();
    }
}
