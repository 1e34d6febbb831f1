//! Values that may be missing (upstream: cel-go's `optionalLib`).

use super::{Impl, fail, no_overload};
use crate::value::{Res, Value};

pub fn find(name: &str) -> Option<Impl> {
    Some(match name {
        "optional.of" => |_, mut a| a.pop().map_or_else(no_overload, |v| Ok(Value::some(v))),
        "optional.ofNonZeroValue" => |_, mut a| a.pop().map_or_else(no_overload, |v| Ok(if is_zero(&v) { Value::NONE } else { Value::some(v) })),
        "optional.none" => |_, _| Ok(Value::NONE),
        "value" => |_, a| match &a[..] {
            [Value::Optional(Some(inner))] => Ok((**inner).clone()),
            [Value::Optional(None)] => fail("optional.none() dereference"),
            _ => no_overload(),
        },
        "hasValue" => |_, a| match &a[..] {
            [Value::Optional(inner)] => Ok(Value::Bool(inner.is_some())),
            _ => no_overload(),
        },
        "optional.unwrap" | "unwrapOpt" => |_, a| unwrap(&a),
        _ => return None,
    })
}

fn unwrap<'a>(args: &[Value<'a>]) -> Res<'a> {
    let [Value::List(list)] = args else { return no_overload() };
    let mut found = Vec::new();
    for item in list.iter() {
        match item? {
            Value::Optional(inner) => found.extend(inner.map(|v| (*v).clone())),
            other => return fail(format!("value {} is not optional", other.shown())),
        }
    }
    Ok(Value::list(found))
}

fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null | Value::Optional(None) => true,
        Value::Bool(b) => !b,
        Value::Int(n) | Value::Duration(n) => *n == 0,
        Value::Uint(n) => *n == 0,
        Value::Double(f) => *f == 0.0,
        Value::String(s) => s.is_empty(),
        Value::Bytes(b) => b.is_empty(),
        Value::List(l) => l.is_empty(),
        Value::Map(m) => m.is_empty(),
        Value::Object(made) => made.fields.is_empty(),
        _ => false,
    }
}
