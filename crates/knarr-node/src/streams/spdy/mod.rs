//! SPDY/3.1, as much of it as the kubelet's clients speak (the draft is `draft-mbelshe-httpbis-spdy-00`; the clients use
//! `moby/spdystream`): streams with headers, data, half-close, reset, ping, go-away. Flow control is the connection's own: those
//! clients send no window updates.

pub mod frame;
pub mod session;

pub use session::{Accepted, Ender, Session, Writer};
