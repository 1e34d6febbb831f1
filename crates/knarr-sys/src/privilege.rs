//! What a process may do: capabilities, no_new_privs, seccomp filters, credentials.

use std::io;

/// Highest capability number known to Linux 6.x (`CAP_CHECKPOINT_RESTORE`).
pub const CAPABILITY_LAST: u8 = 40;

/// A set of capabilities, one bit each.
pub type CapabilitySet = u64;

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Sets effective and permitted capabilities; inheritable ones become none.
pub fn set_capabilities(effective: CapabilitySet, permitted: CapabilitySet) -> io::Result<()> {
    let header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let half = |shift: u32| CapData { effective: (effective >> shift) as u32, permitted: (permitted >> shift) as u32, inheritable: 0 };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads a header and two data structs, all alive here.
    done(unsafe { libc::syscall(libc::SYS_capset, &header, data.as_ptr()) })
}

/// Permitted capabilities of this thread.
pub fn permitted_capabilities() -> io::Result<CapabilitySet> {
    let header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 writes two data structs.
    done(unsafe { libc::syscall(libc::SYS_capget, &header, data.as_mut_ptr()) })?;
    Ok(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32)
}

/// Takes everything outside `keep` out of the bounding set, for good, and empties the ambient set.
pub fn limit_capabilities(keep: CapabilitySet) -> io::Result<()> {
    for capability in 0..=63u64 {
        if keep & (1 << capability) != 0 {
            continue;
        }
        match prctl(libc::PR_CAPBSET_DROP, capability) {
            // The kernel knows no more of them.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            other => other?,
        }
    }
    // SAFETY: plain integers.
    done(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) }.into())
}

/// Permitted capabilities survive the next change of user.
pub fn keep_capabilities(keep: bool) -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, u64::from(keep))
}

/// Neither setuid bits nor file capabilities raise anything from here on.
pub fn set_no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// Whether others may look into this process (ptrace, /proc/PID/fd).
pub fn set_dumpable(dumpable: bool) -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, u64::from(dumpable))
}

/// The process gets `signal` when its parent dies.
pub fn set_parent_death_signal(signal: i32) -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as u64)
}

/// Becomes another user. Supplementary groups are exactly those given.
pub fn set_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    let groups: Vec<nix::unistd::Gid> = groups.iter().map(|&g| g.into()).collect();
    nix::unistd::setgroups(&groups)?;
    nix::unistd::setresgid(gid.into(), gid.into(), gid.into())?;
    Ok(nix::unistd::setresuid(uid.into(), uid.into(), uid.into())?)
}

/// One instruction of a classic BPF program.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    pub jump_true: u8,
    pub jump_false: u8,
    pub value: u32,
}

/// Installs a seccomp filter. Needs no_new_privs or CAP_SYS_ADMIN.
pub fn install_seccomp(program: &[Instruction], log: bool) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "seccomp program is too long"))?;
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    let flags = if log { libc::SECCOMP_FILTER_FLAG_LOG } else { 0 };
    // SAFETY: Instruction has sock_filter's layout (u16, u8, u8, u32) and the kernel only reads `len` of them.
    done(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &filter) })
}

fn prctl(option: libc::c_int, argument: u64) -> io::Result<()> {
    // SAFETY: the options used here take plain integers.
    done(unsafe { libc::prctl(option, argument, 0, 0, 0) }.into())
}

fn done(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Leaves the parent's session keyring for an empty one. A kernel without keyrings is fine.
pub fn new_session_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) };
    match done(result) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EDQUOT)) => Ok(()),
        other => other,
    }
}
