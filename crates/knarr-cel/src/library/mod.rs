//! What the functions do. One file a library; each finds its functions by name, and each function picks its overload by the
//! values it gets.

mod authz;
mod convert;
mod datetime;
pub mod format;
mod lists;
mod net;
mod operators;
mod optional;
mod quantity;
pub mod semver;
mod sets;
pub mod strings;
mod text_format;
pub mod url;

use crate::{
    authz::Authorizer,
    value::{Error, Res, Value},
};

/// A function on values.
pub type Impl = for<'a> fn(Option<&dyn Authorizer>, Vec<Value<'a>>) -> Res<'a>;

/// The function of this name.
pub fn find(name: &str) -> Option<Impl> {
    operators::find(name)
        .or_else(|| strings::find(name))
        .or_else(|| convert::find(name))
        .or_else(|| lists::find(name))
        .or_else(|| sets::find(name))
        .or_else(|| optional::find(name))
        .or_else(|| datetime::find(name))
        .or_else(|| net::find(name))
        .or_else(|| url::find(name))
        .or_else(|| quantity::find(name))
        .or_else(|| format::find(name))
        .or_else(|| authz::find(name))
}

fn no_overload<'a>() -> Res<'a> {
    Err(Error::no_overload())
}

fn fail<'a>(message: impl Into<String>) -> Res<'a> {
    Err(Error::new(message))
}
