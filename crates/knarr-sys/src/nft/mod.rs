//! Packet rules: nf_tables spoken to directly, without the `nft` program or its C library.
//!
//! A [`Batch`] is a list of changes to one table that the kernel makes together or not at all. [`Nft`] is the door through
//! which batches go: [`KernelNft`] sends them, [`RecordedNft`] writes them down for tests.
//!
//! - [`model`]: tables, chains, sets, elements, and the batch.
//! - [`expression`]: what a rule is made of.
//! - [`encode`]: a batch as netlink messages.
//! - [`kernel`], [`recorded`]: the two doors.

pub mod encode;
pub mod expression;
pub mod kernel;
pub mod model;
pub mod recorded;

pub use expression::{Compare, Expression, MetaKey, PayloadBase, Register, RejectWith};
pub use kernel::KernelNft;
pub use model::{Batch, Chain, ChainKind, Change, Data, DataType, Element, Family, Hook, Set, SetFlags, Verdict};
pub use recorded::RecordedNft;

pub use crate::netlink::{Error, Result};

/// What an existing table says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableInfo {
    /// Unique as long as the machine runs: another number means that the table was made anew by somebody.
    pub handle: u64,
    /// What its maker wrote on it.
    pub stamp: String,
}

/// The door to the kernel's packet rules.
pub trait Nft: Send {
    /// Makes all changes of a batch, or none.
    ///
    /// # Errors
    /// The kernel's first refusal, with the change that it concerns.
    fn apply(&mut self, batch: &Batch) -> Result<()>;

    /// The elements of a set or map. A missing set is an error ([`Error::is_absent`]).
    fn elements(&mut self, family: Family, table: &str, set: &str) -> Result<Vec<Element>>;

    /// A table, if it exists.
    fn table(&mut self, family: Family, table: &str) -> Result<Option<TableInfo>>;

    /// Names of all tables of a family.
    fn tables(&mut self, family: Family) -> Result<Vec<String>>;
}
