//! Quantities and semantic versions, which share the names of their comparisons (upstream: `library/quantity.go`,
//! `library/semverlib.go`).

use std::cmp::Ordering;

use knarr_core::quantity::Quantity;

use super::{Impl, fail, no_overload, semver};
use crate::value::{Error, Res, Value};

pub fn find(name: &str) -> Option<Impl> {
    Some(match name {
        "quantity" => |_, a| match &a[..] {
            [Value::String(s)] => parse(s).map(Value::Quantity),
            _ => no_overload(),
        },
        "isQuantity" => |_, a| match &a[..] {
            [Value::String(s)] => Ok(Value::Bool(parse(s).is_ok())),
            _ => no_overload(),
        },
        "sign" => |_, a| one(&a, |q| Ok(Value::Int(order(q.cmp(&Quantity::ZERO))))),
        "isInteger" => |_, a| one(&a, |q| Ok(Value::Bool(q.as_whole().is_some()))),
        "asInteger" => |_, a| one(&a, |q| q.as_whole().map(Value::Int).ok_or_else(|| Error::new("cannot convert value to integer"))),
        "asApproximateFloat" => |_, a| one(&a, |q| Ok(Value::Double(q.as_f64()))),
        "isGreaterThan" => |_, a| compare(&a).map(|o| Value::Bool(o == Ordering::Greater)),
        "isLessThan" => |_, a| compare(&a).map(|o| Value::Bool(o == Ordering::Less)),
        "compareTo" => |_, a| compare(&a).map(|o| Value::Int(order(o))),
        "add" => |_, a| two(&a, |x, y| x + y),
        "sub" => |_, a| two(&a, |x, y| x - y),
        "semver" => |_, a| match &a[..] {
            [Value::String(s)] => semver::parse(s, false).map(|v| Value::Semver(v.into())).or_else(fail),
            [Value::String(s), Value::Bool(normalize)] => semver::parse(s, *normalize).map(|v| Value::Semver(v.into())).or_else(fail),
            _ => no_overload(),
        },
        "isSemver" => |_, a| match &a[..] {
            [Value::String(s)] => Ok(Value::Bool(semver::parse(s, false).is_ok())),
            [Value::String(s), Value::Bool(normalize)] => Ok(Value::Bool(semver::parse(s, *normalize).is_ok())),
            _ => no_overload(),
        },
        "major" => |_, a| version(&a, |v| v.major),
        "minor" => |_, a| version(&a, |v| v.minor),
        "patch" => |_, a| version(&a, |v| v.patch),
        _ => return None,
    })
}

fn parse(text: &str) -> Result<Quantity, Error> {
    text.parse().map_err(|e: knarr_core::quantity::ParseError| Error::new(e.to_string()))
}

fn order(o: Ordering) -> i64 {
    o as i64
}

fn one<'a>(args: &[Value<'a>], f: impl FnOnce(Quantity) -> Res<'a>) -> Res<'a> {
    match args {
        [Value::Quantity(q)] => f(*q),
        _ => no_overload(),
    }
}

fn two<'a>(args: &[Value<'a>], f: impl FnOnce(Quantity, Quantity) -> Quantity) -> Res<'a> {
    match args {
        [Value::Quantity(x), Value::Quantity(y)] => Ok(Value::Quantity(f(*x, *y))),
        [Value::Quantity(x), Value::Int(y)] => Ok(Value::Quantity(f(*x, Quantity::from_i64(*y)))),
        _ => no_overload(),
    }
}

fn compare(args: &[Value<'_>]) -> Result<Ordering, Error> {
    match args {
        [Value::Quantity(x), Value::Quantity(y)] => Ok(x.cmp(y)),
        [Value::Semver(x), Value::Semver(y)] => Ok(x.cmp(y)),
        _ => Err(Error::no_overload()),
    }
}

fn version<'a>(args: &[Value<'a>], f: impl FnOnce(&semver::Semver) -> u64) -> Res<'a> {
    match args {
        [Value::Semver(v)] => Ok(Value::Int(f(v) as i64)),
        _ => no_overload(),
    }
}
