//! The HTTP edge: a request off the wire becomes a [`crate::call::Call`] or the answer to a path that names no resource; an
//! outcome becomes bytes. Nothing here knows what a verb does.

mod audited;
mod body;
mod connect;
mod cork;
mod cors;
mod edge;
mod impersonate;
mod listen;
mod negotiate;
mod paths;
mod respond;
mod streams;
pub(crate) mod switched;
mod traced;
mod watch;
mod watch_socket;
mod zpages;

pub use body::{BODY_BYTES_MAX, Body, BoxError, RequestBody};
pub use cors::{Cors, transport_security};
pub use edge::Peer;
pub use listen::{Limits, Tls, serve};
mod media_type;
pub use negotiate::{Accepted, Codecs, Convert, Media, Offers, Router, accept, unsupported, unsupported_patch};
pub use respond::GZIP_BYTES_MIN;
pub use zpages::started;
