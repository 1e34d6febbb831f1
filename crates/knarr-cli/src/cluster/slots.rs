//! Slots: numbers that keep the address ranges of the clusters on one machine apart. A slot is a cluster's from its first start to
//! its deletion, wherever its data lies, since addresses of its Services and pods are written down in it.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;

use super::config::Cluster;
use super::failure::{Exit, Failure, Result};

/// One more, and the ranges of Services would meet those of pods.
const SLOTS_MAX: usize = 70;
/// A profile cannot have this name.
const FOLDER: &str = ".slots";

/// The address ranges of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    pub services: Ipv4Net,
    pub pods: Ipv4Net,
    /// Between the machine and its nodes.
    pub transfer: Ipv4Net,
}

impl Ranges {
    /// Those of a slot. Slot 0 has kubeadm's usual ones.
    pub fn of(slot: usize) -> Self {
        let part = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
        let net = |a, b, len| Ipv4Net::new_assert(Ipv4Addr::new(10, a, b, 0), len);
        Self { services: net(part(96 + slot), 0, 16), pods: net(part(244_usize.saturating_sub(slot)), 0, 16), transfer: net(89, part(slot), 24) }
    }

    fn meet(&self, other: &Ipv4Net) -> bool {
        [self.services, self.pods, self.transfer].iter().any(|own| own.contains(&other.network()) || other.contains(&own.network()))
    }
}

/// The slot of a cluster elsewhere, whose pods have these addresses; the first where they are of no slot.
pub fn of_pods(cidr: &str) -> usize {
    (0..=SLOTS_MAX).find(|slot| Ranges::of(*slot).pods.to_string() == cidr).unwrap_or(0)
}

/// Where it is written down who has which slot.
pub struct Registry {
    parent: PathBuf,
}

impl Registry {
    /// The machine's.
    pub fn of_machine() -> Self {
        Self { parent: PathBuf::from("/var/lib/knarr") }
    }

    /// Takes the first slot from `first` on that no other cluster has and whose addresses the machine has no way to yet.
    ///
    /// # Errors
    /// All slots are taken, or the registry cannot be written.
    pub fn claim(&self, data: &Path, first: usize, ways: &[Ipv4Net]) -> Result<usize> {
        let _lock = self.lock()?;
        let is_free = |slot: &usize| self.owner(*slot).is_none_or(|owner| owner == data) && !ways.iter().any(|way| Ranges::of(*slot).meet(way));
        let slot = (first..=SLOTS_MAX).find(is_free).ok_or_else(|| {
            Failure::new("NO_ADDRESSES", Exit::Resource, "every range of addresses for a cluster is in use on this machine", "knarr delete --profile NAME")
        })?;
        self.write(slot, data)?;
        Ok(slot)
    }

    /// Two clusters of one name would share what lives in memory only.
    ///
    /// # Errors
    /// A cluster with its data elsewhere has the name.
    pub fn check_profile(&self, profile: &str, data: &Path) -> Result<()> {
        let others = (0..=SLOTS_MAX).filter_map(|slot| self.owner(slot)).filter(|owner| owner != data);
        match others.filter_map(|owner| Cluster::load(&owner).ok()).find(|other| other.profile == profile) {
            None => Ok(()),
            Some(other) => Err(Failure::new(
                "PROFILE_TAKEN",
                Exit::Resource,
                format!("the cluster in {} has the name {profile:?}", other.data.display()),
                format!("knarr start --profile ANOTHER, or --data {}, which is that cluster", other.data.display()),
            )),
        }
    }

    /// Writes a cluster down that has a slot already.
    ///
    /// # Errors
    /// Another cluster has the slot, or the registry cannot be written.
    pub fn keep(&self, cluster: &Cluster) -> Result<()> {
        let _lock = self.lock()?;
        match self.owner(cluster.slot) {
            Some(owner) if owner != cluster.data => Err(Failure::new(
                "ADDRESSES_TAKEN",
                Exit::Cluster,
                format!("the cluster in {} has the same addresses", owner.display()),
                "delete one of the two clusters",
            )),
            Some(_) => Ok(()),
            None => self.write(cluster.slot, &cluster.data),
        }
    }

    /// Gives a slot back.
    ///
    /// # Errors
    /// The registry cannot be written.
    pub fn release(&self, cluster: &Cluster) -> Result<()> {
        let _lock = self.lock()?;
        if self.owner(cluster.slot).is_none_or(|owner| owner == cluster.data) {
            remove(&self.file(cluster.slot), |p| fs::remove_file(p))?;
        }
        // The last one takes the folders along, but for one that somebody mounted.
        let folder = self.parent.join(FOLDER);
        for folder in [&folder, &self.parent] {
            match fs::remove_dir(folder) {
                Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy) => {
                    return Err(Failure::file(folder, &e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn file(&self, slot: usize) -> PathBuf {
        self.parent.join(FOLDER).join(slot.to_string())
    }

    /// The data folder of the cluster that has a slot. One whose data are gone has none.
    fn owner(&self, slot: usize) -> Option<PathBuf> {
        let data = PathBuf::from(fs::read_to_string(self.file(slot)).ok()?);
        data.exists().then_some(data)
    }

    fn write(&self, slot: usize, data: &Path) -> Result<()> {
        super::config::private_folder(&self.parent.join(FOLDER))?;
        super::config::write_whole(&self.file(slot), data.as_os_str().as_encoded_bytes())
    }

    /// On the folder itself, which has no file that could be in the way of its removal.
    fn lock(&self) -> Result<fs::File> {
        super::config::private_folder(&self.parent)?;
        fs::File::open(&self.parent).and_then(|f| f.lock().map(|()| f)).map_err(|e| Failure::file(&self.parent, &e))
    }
}

fn remove(path: &Path, how: impl Fn(&Path) -> io::Result<()>) -> Result<()> {
    match how(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Failure::file(path, &e)),
        _ => Ok(()),
    }
}

/// Networks that the machine knows a way to, other than the way out.
pub fn ways_of_machine() -> Vec<Ipv4Net> {
    ways(&fs::read_to_string("/proc/net/route").unwrap_or_default())
}

fn ways(table: &str) -> Vec<Ipv4Net> {
    let address = |text: &str| Some(Ipv4Addr::from(u32::from_str_radix(text, 16).ok()?.swap_bytes()));
    let way = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        Ipv4Net::with_netmask(address(fields.get(1)?)?, address(fields.get(7)?)?).ok()
    };
    table.lines().skip(1).filter_map(way).filter(|net| net.prefix_len() > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_clusters_share_addresses_wherever_their_data_lie() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry { parent: folder.path().join("knarr") };
        let data: Vec<PathBuf> = ["a", "b/c", "d"].iter().map(|n| folder.path().join(n)).collect();
        data.iter().for_each(|d| fs::create_dir_all(d).unwrap());
        assert_eq!(registry.claim(&data[0], 1, &[]).unwrap(), 1);
        assert_eq!(registry.claim(&data[1], 1, &[]).unwrap(), 2);
        assert_eq!(registry.claim(&data[0], 1, &[]).unwrap(), 1, "a start that is tried again");
        assert_eq!(registry.claim(&data[2], 0, &["10.244.0.0/16".parse().unwrap(), "10.89.3.7/32".parse().unwrap()]).unwrap(), 4);
        let mut cluster = crate::cluster::config::tests::sample(&data[0]);
        cluster.slot = 2;
        assert_eq!(registry.keep(&cluster).unwrap_err().code, "ADDRESSES_TAKEN");
        cluster.save().unwrap();
        assert_eq!(registry.check_profile(&cluster.profile, &data[1]).unwrap_err().code, "PROFILE_TAKEN");
        assert!(registry.check_profile(&cluster.profile, &data[0]).is_ok() && registry.check_profile("another", &data[1]).is_ok());
        fs::remove_dir_all(&data[1]).unwrap();
        registry.keep(&cluster).unwrap();
        for slot in [1, 2, 4] {
            cluster.slot = slot;
            cluster.data = if slot == 4 { data[2].clone() } else { data[0].clone() };
            registry.release(&cluster).unwrap();
        }
        assert!(!folder.path().join("knarr").exists());
    }

    #[test]
    fn ranges_of_all_slots_are_apart() {
        let all: Vec<Ranges> = (0..=SLOTS_MAX).map(Ranges::of).collect();
        for (at, one) in all.iter().enumerate() {
            for other in &all[at + 1..] {
                assert!(![other.services, other.pods, other.transfer].iter().any(|net| one.meet(net)), "{one:?} {other:?}");
            }
            assert!(!one.services.contains(&one.pods.network()));
        }
    }

    #[test]
    fn the_kernels_table_is_read_without_the_way_out() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(ways(table), ["192.0.2.0/24".parse().unwrap()]);
    }
}
