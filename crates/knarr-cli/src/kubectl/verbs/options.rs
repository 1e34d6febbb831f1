//! Flags that several verbs have, with the words kubectl describes them by.

use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::{Flag, int, switch, text};

pub const DRY_RUN: Flag = text("dry-run", "none", "Must be \"none\", \"server\", or \"client\"").bare("unchanged");
pub const FIELD_MANAGER: Flag = text("field-manager", "", "Name of the manager used to track field ownership");
pub const SELECTOR: Flag = text("selector", "", "Selector (label query) to filter on").short('l');
pub const FIELD_SELECTOR: Flag = text("field-selector", "", "Selector (field query) to filter on");
pub const ALL: Flag = switch("all", "Select all resources in the namespace of the specified resource types");
pub const ALL_NAMESPACES: Flag = switch("all-namespaces", "Across all namespaces").short('A');
pub const LOCAL: Flag = switch("local", "Do not contact the server, only use the objects given");
pub const VALIDATE: Flag = text("validate", "strict", "Must be one of: strict (or true), warn, ignore (or false)").bare("strict");
pub const SAVE_CONFIG: Flag = switch("save-config", "Keep the configuration in an annotation of the object");
pub const CHUNK: Flag = int("chunk-size", "500", "Return large lists in chunks; 0 disables");

/// Sleeps for the `--timeout` of a verb at most.
pub async fn within<T>(limit: Option<std::time::Duration>, work: impl Future<Output = Result<T>>, late: impl FnOnce() -> Failure) -> Result<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, work).await.map_err(|_| late())?,
        None => work.await,
    }
}
