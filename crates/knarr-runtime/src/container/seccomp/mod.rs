//! Seccomp profiles: the runtime's default, and those that users write in Docker's JSON format.
//!
//! The default profile is data in the same format (`default.json`): the system calls that containerd and Docker allow, as a list of facts.

mod compile;
mod profile;
mod table;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use knarr_sys::privilege::Instruction;
use parking_lot::Mutex;

pub use profile::Profile;

use super::capabilities;
use crate::cri::{Error, Result, Seccomp};

/// Largest profile that is read.
const PROFILE_BYTES_MAX: u64 = 4 << 20;
/// Compiled default programs that are kept, one for each set of capabilities.
const CACHE_MAX: usize = 64;

/// A filter program, shared by all containers with the same wishes.
pub type Program = Arc<Vec<Instruction>>;

/// The filter for a container; `None` for an unconfined one. What is allowed depends on its capabilities.
pub fn program(wish: &Seccomp, capabilities: u64) -> Result<Option<Program>> {
    match wish {
        Seccomp::Unconfined => Ok(None),
        Seccomp::RuntimeDefault => default_program(capabilities).map(Some),
        Seccomp::Localhost(path) => {
            let failed = |text: String| Error::Failed(format!("failed to load seccomp profile {}: {text}", path.display()));
            let profile = Profile::parse(&read(path).map_err(|e| failed(e.to_string()))?).map_err(failed)?;
            compile::compile(&profile, capabilities).map(|p| Some(Arc::new(p))).map_err(failed)
        }
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(PROFILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn default_program(capabilities: u64) -> Result<Program> {
    static PROFILE: OnceLock<std::result::Result<Profile, String>> = OnceLock::new();
    static COMPILED: Mutex<Option<HashMap<u64, Program>>> = Mutex::new(None);
    let failed = |text: String| Error::Failed(format!("default seccomp profile: {text}"));
    let profile = PROFILE.get_or_init(|| Profile::parse(include_bytes!("default.json"))).as_ref().map_err(|e| failed(e.clone()))?;
    let mut compiled = COMPILED.lock();
    let compiled = compiled.get_or_insert_default();
    if let Some(program) = compiled.get(&capabilities) {
        return Ok(program.clone());
    }
    let program: Program = Arc::new(compile::compile(profile, capabilities).map_err(failed)?);
    if compiled.len() < CACHE_MAX {
        compiled.insert(capabilities, program.clone());
    }
    Ok(program)
}

/// Whether a set holds a capability by name.
fn holds(set: u64, name: &str) -> bool {
    capabilities::bit(name).is_some_and(|bit| set & bit != 0)
}

#[cfg(test)]
mod tests {
    use super::compile::run;
    use super::*;

    const ARCH: u32 = table::NATIVE.audit;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | 1;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | 38;

    fn verdict(program: &[Instruction], name: &str, args: [u64; 6]) -> u32 {
        run(program, table::NATIVE.number(name).unwrap(), ARCH, args)
    }

    #[test]
    fn the_default_profile_allows_ordinary_calls_and_refuses_dangerous_ones() {
        let program = program(&Seccomp::RuntimeDefault, 0).unwrap().unwrap();
        let none = [0; 6];
        for name in ["read", "write", "openat", "execve", "exit_group", "futex", "statx", "fchmodat2", "ptrace", "rseq"] {
            assert_eq!(verdict(&program, name, none), ALLOW, "{name}");
        }
        for name in [
            "mount",
            "bpf",
            "unshare",
            "setns",
            "keyctl",
            "add_key",
            "kexec_load",
            "reboot",
            "io_uring_setup",
            "userfaultfd",
            "open_by_handle_at",
            "init_module",
        ] {
            assert_eq!(verdict(&program, name, none), EPERM, "{name}");
        }
        assert_eq!(verdict(&program, "clone3", none), ENOSYS);
        assert_eq!(verdict(&program, "clone", [0x11, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(verdict(&program, "clone", [0x1000_0000 | 0x11, 0, 0, 0, 0, 0]), EPERM, "new user namespace");
        assert_eq!(verdict(&program, "personality", [8, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(verdict(&program, "personality", [9, 0, 0, 0, 0, 0]), EPERM);
        for (family, expected) in [(1, ALLOW), (2, ALLOW), (16, ALLOW), (38, EPERM), (40, EPERM), (44, ALLOW)] {
            assert_eq!(verdict(&program, "socket", [family, 1, 0, 0, 0, 0]), expected, "family {family}");
        }
    }

    #[test]
    fn capabilities_open_what_belongs_to_them() {
        let admin = program(&Seccomp::RuntimeDefault, 1 << 21).unwrap().unwrap();
        for name in ["mount", "unshare", "clone3", "clone"] {
            assert_eq!(verdict(&admin, name, [u64::MAX; 6]), ALLOW, "{name}");
        }
        assert_eq!(verdict(&admin, "reboot", [0; 6]), EPERM);
    }

    #[test]
    fn foreign_architectures_are_killed() {
        let program = program(&Seccomp::RuntimeDefault, 0).unwrap().unwrap();
        assert_eq!(run(&program, 0, 0x1234, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
        #[cfg(target_arch = "x86_64")]
        {
            const I386: u32 = 0x4000_0003;
            assert_eq!(run(&program, 3, I386, [0; 6]), ALLOW, "read of a 32-bit program");
            assert_eq!(run(&program, 21, I386, [0; 6]), EPERM, "mount of a 32-bit program");
            assert_eq!(run(&program, 0x4000_0000, ARCH, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS, "x32");
        }
    }

    #[test]
    fn profiles_of_users_mean_what_they_say() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.json");
        let check = |json: &str| {
            std::fs::write(&path, json).unwrap();
            program(&Seccomp::Localhost(path.clone()), 0).map(Option::unwrap)
        };
        let deny = check(r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"chmod","action":"SCMP_ACT_ERRNO","errnoRet":13},{"names":["kill","nonsense"],"action":"SCMP_ACT_LOG"},
            {"names":["lseek"],"action":"SCMP_ACT_ERRNO","args":[{"index":1,"value":4294967296,"op":"SCMP_CMP_GE"},{"index":2,"value":1,"op":"SCMP_CMP_NE"}]}]}"#)
        .unwrap();
        assert_eq!(verdict(&deny, "chmod", [0; 6]), libc::SECCOMP_RET_ERRNO | 13);
        assert_eq!(verdict(&deny, "kill", [0; 6]), libc::SECCOMP_RET_LOG);
        assert_eq!(verdict(&deny, "read", [0; 6]), ALLOW);
        assert_eq!(verdict(&deny, "lseek", [0, 1 << 32, 2, 0, 0, 0]), EPERM);
        assert_eq!(verdict(&deny, "lseek", [0, (1 << 32) - 1, 2, 0, 0, 0]), ALLOW);
        assert_eq!(verdict(&deny, "lseek", [0, 1 << 33, 1, 0, 0, 0]), ALLOW);
        assert!(check("{}").is_err());
        assert!(check(r#"{"defaultAction":"SCMP_ACT_FLY"}"#).is_err());
    }
}
