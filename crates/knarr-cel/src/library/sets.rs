//! Lists as sets (upstream: cel-go's `ext/sets`).

use super::{Impl, no_overload};
use crate::value::{Res, Value};

pub fn find(name: &str) -> Option<Impl> {
    Some(match name {
        "sets.contains" => |_, a| with(&a, |x, y| contains(x, y)),
        "sets.equivalent" => |_, a| with(&a, |x, y| contains(x, y) && contains(y, x)),
        "sets.intersects" => |_, a| with(&a, |x, y| x.iter().any(|v| y.iter().any(|w| v.equals(w)))),
        _ => return None,
    })
}

fn with<'a>(args: &[Value<'a>], f: impl FnOnce(&[Value<'a>], &[Value<'a>]) -> bool) -> Res<'a> {
    match args {
        [Value::List(x), Value::List(y)] => Ok(Value::Bool(f(&x.to_vec()?, &y.to_vec()?))),
        _ => no_overload(),
    }
}

fn contains(x: &[Value<'_>], y: &[Value<'_>]) -> bool {
    y.iter().all(|v| x.iter().any(|w| w.equals(v)))
}
