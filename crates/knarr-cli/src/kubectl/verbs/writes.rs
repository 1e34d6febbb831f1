//! What every writing verb has: dry runs, the query of a write, the configuration that is kept beside the object.

use knarr_core::Value;
use knarr_core::field::go_quote;

use crate::kubectl::failure::Result;
use crate::kubectl::flags::Flags;
use crate::kubectl::select::Info;
use crate::kubectl::session::{Query, Session, with_query};

/// Whether anything is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DryRun {
    No,
    Client,
    Server,
}

impl DryRun {
    pub fn of(flags: &Flags) -> Result<Self> {
        match flags.text("dry-run") {
            "" | "none" | "false" => Ok(Self::No),
            "client" => Ok(Self::Client),
            "server" => Ok(Self::Server),
            "unchanged" => Err("--dry-run flag without a value was specified. A value must be set: \"none\", \"server\", or \"client\".".into()),
            other => Err(format!("Invalid dry-run value ({other}). Must be \"none\", \"server\", or \"client\".").into()),
        }
    }

    /// What is said after an operation.
    pub fn note(self, operation: &str) -> String {
        match self {
            Self::No => operation.to_owned(),
            Self::Client => format!("{operation} (dry run)"),
            Self::Server => format!("{operation} (server dry run)"),
        }
    }
}

/// The query of a write.
pub fn write_query(flags: &Flags, manager: &str, dry_run: DryRun) -> Result<Query> {
    let mut query = Query::new();
    let manager = flags.some("field-manager").unwrap_or(manager);
    if !manager.is_empty() {
        query.push(("fieldManager", manager.to_owned()));
    }
    if dry_run == DryRun::Server {
        query.push(("dryRun", "All".into()));
    }
    if flags.text("validate") != "" {
        query.push(("fieldValidation", validation(flags)?.into()));
    }
    Ok(query)
}

fn validation(flags: &Flags) -> Result<&'static str> {
    match flags.text("validate") {
        "strict" | "true" => Ok("Strict"),
        "warn" => Ok("Warn"),
        "ignore" | "false" => Ok("Ignore"),
        other => Err(format!("invalid - validate option {}; must be one of: strict (or true), warn, ignore (or false)", go_quote(other)).into()),
    }
}

/// Creates an object where it belongs.
pub async fn create(session: &Session, info: &Info, query: &[(&'static str, String)]) -> Result<Value> {
    session.post(&with_query(&info.meant.path(Some(&info.namespace), None), query), &info.object).await
}

/// Puts the configuration as it is into the object's annotation, if asked for.
pub fn save_config(flags: &Flags, object: &mut Value) {
    if flags.on("save-config") {
        super::apply::annotate(object);
    }
}
