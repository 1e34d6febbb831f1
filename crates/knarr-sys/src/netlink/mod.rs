//! The kernel's network configuration over netlink: links, addresses, routes, neighbours, connection tracking, and entering
//! network namespaces. No helper programs, no asynchronous machinery: the kernel answers a netlink request before `send`
//! returns, so every call here takes microseconds and may be made from `spawn_blocking` or, when rare, in place.
//!
//! - [`wire`]: messages and attributes as bytes, either way.
//! - [`socket`]: sending requests, reading acknowledgements and dumps.
//! - [`route`]: rtnetlink (links, addresses, routes, neighbours).
//! - [`conntrack`]: flows that must end because their endpoint went away.
//! - [`netns`]: making, opening and entering network namespaces.

pub mod conntrack;
pub mod link;
pub mod netns;
pub mod route;
pub mod socket;
pub mod wire;

pub use netns::NetNs;
pub use route::RouteSocket;
pub use socket::{Error, NetlinkSocket, Protocol, Result};
