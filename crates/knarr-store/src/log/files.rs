//! Which files a log has, and what they are called.

use std::io;

use crate::disk::Disk;

pub const LOG_MAGIC: [u8; 8] = *b"knarrlog";
pub const STATE_MAGIC: [u8; 8] = *b"knarrsta";
/// A snapshot that is being written. Found at start, it never became one.
pub const UNFINISHED: &str = "state.unfinished";

/// Nothing: given up when the disk is full.
pub const BALLAST: &str = "ballast";

/// `log-…`: the writes from this revision on.
pub fn log_name(first: u64) -> String {
    format!("log-{first:016x}")
}

/// `state-…`: everything at this revision.
pub fn state_name(revision: u64) -> String {
    format!("state-{revision:016x}")
}

/// The revisions in the names of the files that are there, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    pub logs: Vec<u64>,
    pub states: Vec<u64>,
    pub has_ballast: bool,
}

impl Files {
    /// Lists a folder and removes what was never finished. Files of others are left alone.
    pub fn find(disk: &dyn Disk) -> io::Result<Self> {
        let mut files = Self::default();
        for name in disk.list()? {
            let revision = |prefix: &str| name.strip_prefix(prefix).filter(|hex| hex.len() == 16).and_then(|hex| u64::from_str_radix(hex, 16).ok());
            if name == UNFINISHED {
                disk.remove(UNFINISHED)?;
            } else if name == BALLAST {
                files.has_ballast = true;
            } else if let Some(first) = revision("log-") {
                files.logs.push(first);
            } else if let Some(at) = revision("state-") {
                files.states.push(at);
            }
        }
        files.logs.sort_unstable();
        files.states.sort_unstable();
        Ok(files)
    }

    /// Forgets what is not needed to start from the state at `base`. Gives the names to remove.
    #[must_use]
    pub fn forget_before(&mut self, base: u64) -> Garbage {
        let states = self.states.iter().take_while(|at| **at < base).count();
        // A log file is over where the next one begins.
        let logs = self.logs.iter().skip(1).take_while(|next| **next <= base + 1).count();
        Garbage { states: self.states.drain(..states).map(state_name).collect(), logs: self.logs.drain(..logs).map(log_name).collect() }
    }
}

/// Files that are not needed any more.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Garbage {
    states: Vec<String>,
    logs: Vec<String>,
}

impl Garbage {
    pub fn is_empty(&self) -> bool {
        self.states.is_empty() && self.logs.is_empty()
    }

    /// Removes the files. A snapshot must be gone for good before the log that goes with it: else a start could choose it.
    pub fn remove(&self, disk: &dyn Disk) -> io::Result<()> {
        self.states.iter().try_for_each(|name| disk.remove(name))?;
        disk.sync_folder()?;
        self.logs.iter().try_for_each(|name| disk.remove(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_start_needs_is_not_forgotten() {
        let mut files = Files { logs: vec![1, 101, 201, 301], states: vec![100, 200], has_ballast: true };
        assert_eq!(files.forget_before(200), Garbage { states: vec![state_name(100)], logs: vec![log_name(1), log_name(101)] });
        assert_eq!(files, Files { logs: vec![201, 301], states: vec![200], has_ballast: true });
        assert!(files.forget_before(0).is_empty());
    }
}
