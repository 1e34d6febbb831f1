//! The kinds table and everything that follows from it alone: decode, encode, default, prune, patch, apply, tables,
//! OpenAPI. Pure: no I/O, no clock.
//!
//! `data/` holds facts about Kubernetes' published interface (`schema-tools/README.md` tells what each table says and how
//! it is made). `build.rs` turns them into tables that are looked up where they lie: a start parses nothing, a type is built when
//! it is first asked for.
//!
//! - [`types`]: the table itself: what a field is called, numbered and typed.
//! - [`registry`]: the resources that are served; a CRD enters it at run time.
//! - [`codec`]: JSON and protobuf, either way, and what can be read from bytes without decoding.
//! - [`patch`]: JSON patch, merge patch, strategic merge patch.
//! - [`apply`]: server-side apply and `managedFields`.
//! - [`internal`]: how upstream shows values in the texts of errors.
//! - [`openapi`]: OpenAPI v2 and v3 documents.

pub mod apply;
pub mod codec;
pub mod internal;
pub mod openapi;
pub mod patch;
pub mod registry;
pub mod types;
