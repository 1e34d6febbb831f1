//! Capabilities: names, the default set, and what a pod adds and drops.

use crate::cri;

/// All of Linux' capabilities; the place in the list is the number.
pub const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container has when the pod says nothing: containerd's fourteen.
pub const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

const ALL: u64 = (1 << NAMES.len()) - 1;

/// The bit of a capability; with or without `CAP_`, in any case.
pub fn bit(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|known| *known == plain).map(|at| 1 << at)
}

fn default_set() -> u64 {
    DEFAULT.iter().filter_map(|name| bit(name)).fold(0, |set, bit| set | bit)
}

/// The set a container gets. `ALL` may stand in both lists: dropping all and adding one leaves one.
pub fn granted(privileged: bool, add: &[String], drop: &[String]) -> cri::Result<u64> {
    if privileged {
        return Ok(ALL);
    }
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let mut set = default_set();
    if add.iter().any(is_all) {
        set = ALL;
    }
    if drop.iter().any(is_all) {
        set = 0;
    }
    let known = |name: &String| bit(name).ok_or_else(|| cri::Error::Failed(format!("unknown capability {name:?}")));
    for name in add.iter().filter(|name| !is_all(name)) {
        set |= known(name)?;
    }
    for name in drop.iter().filter(|name| !is_all(name)) {
        set &= !known(name)?;
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(add: &[&str], drop: &[&str], expected: u64) {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(granted(false, &list(add), &list(drop)).unwrap(), expected, "add {add:?} drop {drop:?}");
    }

    #[test]
    fn capabilities_are_added_and_dropped_as_pods_say() {
        assert_eq!(default_set(), 0xa80425fb);
        check(&[], &[], 0xa80425fb);
        check(&["NET_ADMIN"], &["CAP_KILL"], 0xa80425fb & !(1 << 5) | 1 << 12);
        check(&["ALL"], &["sys_admin"], ALL & !(1 << 21));
        check(&["NET_BIND_SERVICE"], &["ALL"], 1 << 10);
        assert!(granted(false, &["FLY".into()], &[]).is_err());
    }
}
