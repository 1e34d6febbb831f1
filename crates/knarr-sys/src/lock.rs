//! A file's lock that passes to whoever comes last: for a process of which there must be one, where the newcomer knows best.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Takes the lock of the file at `path`, which is made if need be; a process that has it is killed. The lock is the process's own: it is not
/// inherited by children, and goes when the process ends or closes any descriptor of the file.
pub fn take_from_holder(path: &Path) -> io::Result<OwnedFd> {
    let file: OwnedFd = OpenOptions::new().write(true).create(true).truncate(false).open(path)?.into();
    loop {
        match fcntl(&file, FcntlArg::F_SETLK(&whole_file())) {
            Ok(_) => return Ok(file),
            Err(Errno::EAGAIN | Errno::EACCES) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut holder = whole_file();
        fcntl(&file, FcntlArg::F_GETLK(&mut holder))?;
        if i32::from(holder.l_type) == libc::F_WRLCK && holder.l_pid > 0 {
            // It may have ended by itself meanwhile.
            kill(Pid::from_raw(holder.l_pid), Signal::SIGKILL).unwrap_or_default();
            match fcntl(&file, FcntlArg::F_SETLKW(&whole_file())) {
                Ok(_) => return Ok(file),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

fn whole_file() -> libc::flock {
    libc::flock { l_type: libc::F_WRLCK as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 }
}
