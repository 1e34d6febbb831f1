//! Makes shims: a process that was started once and forks one shim for each pod the agent asks for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use knarr_sys::cgroup::Hierarchies;
use knarr_sys::process::{self, Birth, SingleThreaded};
use knarr_sys::{fdpass, namespace};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::{Deserialize, Serialize};

use super::protocol::{Channel, Framed};
use super::server::{self, Start};

/// Asks for a shim. Comes with its end of the first connection.
#[derive(Debug, Serialize, Deserialize)]
pub struct SpawnRequest {
    /// The sandbox's folder.
    pub folder: PathBuf,
    /// A shim was here before; its containers may still run.
    pub adopt: bool,
}

impl Framed for SpawnRequest {
    fn fds(&self) -> usize {
        1
    }
}

/// Serves the agent at the other end of stdin until it closes.
pub fn run() -> io::Result<()> {
    let proof = SingleThreaded::prove()?;
    // What the agent's own parents have left open is none of ours.
    process::close_from(3)?;
    super::child::hide()?;
    // Called by descriptor, it would be named after a number.
    nix::sys::prctl::set_name(c"knarr-shim")?;
    process::become_subreaper()?;
    process::ignore_children()?;
    nix::unistd::chdir("/")?;
    let socket = take_stdin()?;
    let template = make_template(proof)?;
    let hierarchies = Hierarchies::detect()?;
    let mut channel = Some(Channel::new(socket)?);
    while let Some(asked) = channel.as_mut() {
        wait_readable(asked)?;
        match asked.fill() {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
        while let Some((request, mut fds)) = channel.as_mut().map_or(Ok(None), Channel::next::<SpawnRequest>)? {
            let Some(connection) = fds.pop() else { continue };
            let spawned = process::spawn(proof, &Birth::default(), || {
                // In the child alone. Held open by a shim, our end would outlive us, and so would the connections of requests that still wait
                // in it: the agent would wait for ever for those who are dead.
                channel = None;
                let start =
                    Start { folder: request.folder.clone(), adopt: request.adopt, connection, template: &template, hierarchies: hierarchies.clone(), proof };
                match server::serve(start) {
                    Ok(()) => 0,
                    Err(error) => {
                        eprintln!("knarr shim: {}: {error}", request.folder.display());
                        1
                    }
                }
            });
            if let Err(error) = spawned {
                eprintln!("knarr shim: {error}");
            }
        }
    }
    Ok(())
}

/// The socket that the agent put on stdin; /dev/null takes its place.
fn take_stdin() -> io::Result<OwnedFd> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let null: OwnedFd = std::fs::File::open("/dev/null")?.into();
    process::set_stdio(null.as_fd(), 0)?;
    Ok(socket)
}

fn wait_readable(channel: &Channel) -> io::Result<()> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    match poll(&mut [PollFd::new(channel.socket(), PollFlags::POLLIN)], PollTimeout::NONE) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The empty mount namespace that containers' are copied from, made by a child so that we stay in ours.
fn make_template(proof: SingleThreaded) -> io::Result<OwnedFd> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    process::spawn(proof, &Birth::default(), || {
        let made = namespace::make_empty_mount_namespace(std::path::Path::new("/dev")).and_then(|ns| fdpass::send(theirs.as_fd(), b"n", &[ns.as_fd()]));
        match made {
            Ok(_) => 0,
            Err(error) => {
                eprintln!("knarr shim: empty mount namespace: {error}");
                1
            }
        }
    })?;
    drop(theirs);
    let mut fds = Vec::new();
    fdpass::receive(ours.as_fd(), &mut [0; 1], &mut fds)?;
    fds.pop().ok_or_else(|| io::Error::other("no mount namespace was made"))
}
