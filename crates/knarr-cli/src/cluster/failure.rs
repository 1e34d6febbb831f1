//! What a person is told when something cannot be done: a code to look up, the cause, and the command that mends it.

use std::fmt;

/// Exit codes of the program. Scripts may rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A flag or an argument is wrong.
    Usage = 2,
    /// knarr itself failed.
    Program = 10,
    /// Something that is needed is taken or used up: a port, the data folder, disk space.
    Resource = 20,
    /// This machine cannot do it: a kernel feature is missing.
    Host = 30,
    /// Only root may.
    Permission = 37,
    /// It took too long.
    Timeout = 42,
    /// There is no such cluster, or it does not run.
    Cluster = 50,
}

/// One failure, as it is printed.
#[derive(Debug)]
pub struct Failure {
    /// Stable name: `PORT_TAKEN`.
    pub code: &'static str,
    pub exit: Exit,
    pub cause: String,
    /// What to do, often a command. Empty when there is nothing to advise.
    pub advice: String,
}

pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub fn new(code: &'static str, exit: Exit, cause: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { code, exit, cause: cause.into(), advice: advice.into() }
    }

    /// A file that could not be read or written.
    pub fn file(path: &std::path::Path, error: &std::io::Error) -> Self {
        let (code, exit, advice) = match error.kind() {
            std::io::ErrorKind::StorageFull => ("DISK_FULL", Exit::Resource, format!("free some space on the disk of {}", path.display())),
            std::io::ErrorKind::PermissionDenied => ("NO_PERMISSION", Exit::Permission, "run the same command as root (sudo)".to_owned()),
            _ => ("FILE", Exit::Host, String::new()),
        };
        Self::new(code, exit, format!("{}: {error}", path.display()), advice)
    }

    pub fn program(cause: impl fmt::Display) -> Self {
        Self::new("PROGRAM", Exit::Program, cause.to_string(), "look into `knarr logs`")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {} [{}]", self.cause, self.code)?;
        if self.advice.is_empty() { Ok(()) } else { write!(f, "\n  to mend it: {}", self.advice) }
    }
}

impl std::error::Error for Failure {}
