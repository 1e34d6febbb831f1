//! The shim: a small process per pod that holds its namespaces, its containers' stdio and their exit codes, and outlives the agent.
//!
//! ```text
//! agent ──spawns once──► spawner ──forks──► shim of pod A ──forks──► container's first process
//!   └────────── unix socket, one per pod ──────┘     └─ reads stdout, stderr; writes the log; waits for exits
//! ```
//! It is the same binary, called as `knarr shim`. The spawner is started by exec, the shims by fork, so that they share nearly all their
//! memory. Everything here runs on one thread: forking is safe, and so is changing namespaces.

mod child;
mod container;
mod devices;
mod exec;
mod launch;
mod log;
mod poll;
pub mod protocol;
mod rootfs;
mod running;
mod sandbox;
mod seal;
mod server;
pub mod spawner;
pub mod spec;
mod stdio;
mod user;
mod volumes;

use std::process::ExitCode;

pub(crate) use log::now;
pub(crate) use sandbox::ShimState;
pub(crate) use stdio::set_nonblocking;

/// What `knarr shim` does: the arguments are those after `shim`. Must be called before any thread is made.
pub fn shim_main(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> ExitCode {
    let run = match arguments.into_iter().next() {
        None => {
            let error = seal::execute_sealed();
            eprintln!("knarr shim: running unsealed: {error}");
            spawner::run()
        }
        Some(argument) if argument == seal::SEALED => spawner::run(),
        Some(other) => Err(std::io::Error::other(format!("unknown argument {other:?}"))),
    };
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("knarr shim: {error}");
            ExitCode::FAILURE
        }
    }
}
