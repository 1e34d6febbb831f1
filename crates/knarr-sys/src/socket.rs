//! Options of sockets that no library sets.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Whoever waits for a socket is woken only when so many bytes are there, or nothing more will come (`SO_RCVLOWAT`; the kernel begins with 1). What
/// is there already counts: it wakes at once when it is enough now. A read that does not wait takes what there is all the same.
///
/// # Errors
/// What the kernel says of a descriptor that is no socket.
pub fn wake_at(socket: impl AsFd, bytes: u16) -> io::Result<()> {
    let value = libc::c_int::from(bytes);
    // SAFETY: `value` lives through the call and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::wake_at;

    /// Whether somebody who waits for the stream would be woken now.
    fn wakes(stream: &TcpStream) -> bool {
        let mut waits = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
        poll(&mut waits, PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn few_bytes_wake_nobody_until_they_may() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        let mut got = [0; 100];
        wake_at(&server, 10).unwrap();
        // On the loopback device they have arrived when the call returns.
        client.write_all(b"few").unwrap();
        assert!(!wakes(&server));
        wake_at(&server, 1).unwrap();
        assert!(wakes(&server));
        wake_at(&server, 10).unwrap();
        client.write_all(b"and more").unwrap();
        assert!(wakes(&server));
        assert_eq!(server.read(&mut got).unwrap(), 11);
        client.write_all(b"few").unwrap();
        assert_eq!((wakes(&server), server.read(&mut got).unwrap()), (false, 3), "who reads is given what there is");
        drop(client);
        assert!(wakes(&server), "an end wakes");
        assert!(wake_at(std::fs::File::open("/dev/null").unwrap(), 1).is_err());
    }
}
