//! The last steps of every process in a container, its first one and those of exec: who it is, what it may do, which program it runs.

use std::ffi::{CString, OsStr};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use knarr_sys::privilege;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, mkdirat};
use nix::unistd::AccessFlags;

use super::protocol::Failure;
use super::spec::{ContainerSpec, Identity};
use super::user;

/// `CAP_SYS_ADMIN`: installing a filter without no_new_privs takes it.
const CAP_SYS_ADMIN: u64 = 1 << 21;
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Reads the image's passwd and group: the root is the container's by now.
pub fn identify(spec: &ContainerSpec) -> Result<Identity, Failure> {
    let read = |path| read_bounded(path).map_err(Failure::config(path));
    user::resolve(&spec.user, &read("/etc/passwd")?, &read("/etc/group")?).map_err(Failure::Config)
}

/// A regular file's text; empty when there is none. What an image put there instead is not waited for.
fn read_bounded(path: &str) -> io::Result<String> {
    let file = match nix::fcntl::open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty()) {
        Ok(fd) => fd,
        Err(_) => return Ok(String::new()),
    };
    if knarr_sys::mount::file_type(std::os::fd::AsFd::as_fd(&file))?.0 != SFlag::S_IFREG {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    std::fs::File::from(file).take(user::FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Changes to the working directory, making it where it is missing.
pub fn enter_folder(path: &Path, make: bool) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::Program(format!("chdir to cwd ({path:?}) set in config.json failed: {error}"));
    if make {
        make_folders(path).map_err(failed)?;
    }
    nix::unistd::chdir(path).map_err(io::Error::from).map_err(failed)?;
    // A descriptor that leads outside would have let us leave the root (CVE-2024-21626).
    match nix::unistd::getcwd() {
        Ok(cwd) if cwd.is_absolute() => Ok(()),
        _ => Err(Failure::Program("current working directory is outside of container mount namespace root -- possible container breakout detected".to_owned())),
    }
}

fn make_folders(path: &Path) -> io::Result<()> {
    let mut made = PathBuf::from("/");
    for part in path.components().filter(|p| matches!(p, std::path::Component::Normal(_))) {
        made.push(part);
        match mkdirat(AT_FDCWD, &made, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            // A read-only root may hold the rest already.
            Err(nix::errno::Errno::EROFS) if made.exists() => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Becomes the container's user. Capabilities stay permitted until [`finish`].
pub fn become_user(spec: &ContainerSpec, identity: &Identity) -> Result<(), Failure> {
    let steps = || {
        // Its keys are not ours.
        privilege::new_session_keyring()?;
        privilege::limit_capabilities(spec.capabilities)?;
        privilege::keep_capabilities(true)?;
        privilege::set_user(identity.uid, identity.gid, &identity.groups)?;
        privilege::keep_capabilities(false)
    };
    steps().map_err(Failure::other("changing the user"))
}

/// Variables with those added that every program expects.
pub fn environment(spec: &ContainerSpec, home: &str, terminal: bool) -> Vec<String> {
    let mut env = spec.env.clone();
    let mut default = |name: &str, value: &str| {
        if !env.iter().any(|e| e.split_once('=').is_some_and(|(n, _)| n == name)) {
            env.push(format!("{name}={value}"));
        }
    };
    default("PATH", DEFAULT_PATH);
    default("HOME", home);
    if terminal {
        default("TERM", "xterm");
    }
    env
}

/// A program that can be run.
pub struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    /// Finds it as a shell would, as the user it will run as. Errors are worded as Go words them: users know them from runc.
    pub fn find(args: &[String], env: &[String]) -> Result<Self, Failure> {
        let name = args.first().filter(|a| !a.is_empty()).ok_or_else(|| Failure::Program("no command specified".to_owned()))?;
        let path = if name.contains('/') {
            check_executable(Path::new(name)).map_err(|text| Failure::Program(format!("exec: {name:?}: {text}")))?;
            PathBuf::from(name)
        } else {
            let list = env.iter().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
            let found = list.split(':').map(|folder| Path::new(if folder.is_empty() { "." } else { folder }).join(name)).find(|p| check_executable(p).is_ok());
            found.ok_or_else(|| Failure::Program(format!("exec: {name:?}: executable file not found in $PATH")))?
        };
        let strings = |list: &[String]| list.iter().map(|s| CString::new(s.as_str())).collect::<Result<Vec<_>, _>>();
        let nul = |_| Failure::Program("arguments and variables must not contain NUL".to_owned());
        Ok(Self { path: CString::new(path.as_os_str().as_bytes()).map_err(nul)?, args: strings(args).map_err(nul)?, env: strings(env).map_err(nul)? })
    }
}

fn check_executable(path: &Path) -> Result<(), String> {
    let stat = nix::sys::stat::stat(path).map_err(|e| format!("stat {}: {}", path.display(), go_text(e)))?;
    if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
        return Err("is a directory".to_owned());
    }
    let usable = nix::unistd::faccessat(AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS).is_ok();
    if usable && stat.st_mode & 0o111 != 0 { Ok(()) } else { Err("permission denied".to_owned()) }
}

/// Go's wording of an error number: as C's, in lower case.
fn go_text(errno: nix::errno::Errno) -> String {
    let text = errno.desc();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// Gives everything up that the program is not to have, and runs it. Comes back only with an error.
pub fn finish(spec: &ContainerSpec, program: &Program) -> String {
    if let Err(error) = confine(spec) {
        return format!("confining the process: {error}");
    }
    let errno = match nix::unistd::execve(&program.path, &program.args, &program.env) {
        Err(errno) => errno,
        Ok(never) => match never {},
    };
    format!("exec {}: {}", OsStr::from_bytes(program.path.as_bytes()).display(), go_text(errno))
}

fn confine(spec: &ContainerSpec) -> io::Result<()> {
    let filter: Option<Vec<privilege::Instruction>> = spec.seccomp.as_ref().map(|program| program.iter().map(|&i| i.into()).collect());
    let last = spec.capabilities & privilege::permitted_capabilities()?;
    if spec.no_new_privileges {
        privilege::set_capabilities(last, last)?;
        privilege::set_no_new_privileges()?;
        return filter.map_or(Ok(()), |f| privilege::install_seccomp(&f, false));
    }
    if let Some(filter) = filter {
        let more = last | CAP_SYS_ADMIN;
        privilege::set_capabilities(more, more)?;
        privilege::install_seccomp(&filter, false)?;
    }
    privilege::set_capabilities(last, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(name: &str, env: &[&str]) -> String {
        let env: Vec<String> = env.iter().map(|e| (*e).to_owned()).collect();
        Program::find(&[name.to_owned()], &env).map_or_else(|f| f.text().to_owned(), |p| p.path.into_string().unwrap())
    }

    #[test]
    fn programs_are_found_and_missed_in_gos_words() {
        assert_eq!(find("sh", &["PATH=/nowhere:/bin"]), "/bin/sh");
        assert_eq!(find("sh", &["PATH=/nowhere"]), r#"exec: "sh": executable file not found in $PATH"#);
        assert_eq!(find("/nowhere/sh", &[]), r#"exec: "/nowhere/sh": stat /nowhere/sh: no such file or directory"#);
        assert_eq!(find("/etc", &[]), r#"exec: "/etc": is a directory"#);
        assert_eq!(find("/etc/passwd", &[]), r#"exec: "/etc/passwd": permission denied"#);
        assert_eq!(find("", &[]), "no command specified");
    }
}
