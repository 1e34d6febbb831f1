//! What a CustomResourceDefinition says of its objects, made ready to be asked for each of them.
//!
//! ```text
//!  openAPIV3Schema ─▶ Schema ──▶ prune, fill_defaults, validate
//!        └──────────▶ Decl ────▶ Expressions: the rules in CEL
//! ```

mod correlate;
mod expressions;
mod field_path;
mod prune;
mod schema;
mod validate;

pub use expressions::{Compiled, Evaluation, Expressions, cardinality_max, compile};
pub use field_path::{Found, find as find_field_path};
pub use prune::{drop_nulls, fill_defaults, prune, prune_part};
pub use schema::{Additional, ListType, Rules, Schema, is_known_format};
pub use validate::{validate, validate_at};
