//! What stands between a decoded write and the store: plugins that change it, then plugins that refuse it.

use async_trait::async_trait;
use knarr_core::{Result, Value};

use crate::authz::Attributes;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// One write on its way in.
pub struct Review<'a> {
    pub operation: Operation,
    pub attributes: &'a Attributes,
    pub kind: &'a knarr_core::GroupVersionKind,
    /// The object as it would be stored; absent on delete.
    pub object: Option<Value>,
    /// The stored object; absent on create.
    pub old: Option<&'a Value>,
    pub dry_run: bool,
    /// Filled in by plugins: `Warning` headers.
    pub warnings: Vec<String>,
}

/// One admission plugin. Both passes may be left empty.
#[async_trait]
pub trait Plugin: Send + Sync {
    fn name(&self) -> &'static str;

    /// Whether the plugin wants to see this write at all.
    fn handles(&self, operation: Operation, attributes: &Attributes) -> bool;

    async fn mutate(&self, _review: &mut Review<'_>) -> Result<()> {
        Ok(())
    }

    async fn validate(&self, _review: &Review<'_>) -> Result<()> {
        Ok(())
    }
}
