//! Operators, `size` and `type` (upstream: cel-go's `common/stdlib` and `common/types`).

use std::cmp::Ordering;

use super::{Impl, fail, no_overload};
use crate::{
    ast::op,
    time,
    value::{Error, Key, Res, Value},
};

pub fn find(name: &str) -> Option<Impl> {
    Some(match name {
        op::NOT => |_, a| match &a[..] {
            [Value::Bool(b)] => Ok(Value::Bool(!b)),
            _ => no_overload(),
        },
        op::NEGATE => |_, a| match &a[..] {
            [Value::Int(n)] => n.checked_neg().map(Value::Int).ok_or_else(overflow),
            [Value::Double(f)] => Ok(Value::Double(-f)),
            _ => no_overload(),
        },
        op::EQ => |_, a| two(&a, |x, y| Ok(Value::Bool(x.equals(y)))),
        op::NE => |_, a| two(&a, |x, y| Ok(Value::Bool(!x.equals(y)))),
        op::LT => |_, a| two(&a, |x, y| ordered(x, y, |o| o == Ordering::Less)),
        op::LE => |_, a| two(&a, |x, y| ordered(x, y, |o| o != Ordering::Greater)),
        op::GT => |_, a| two(&a, |x, y| ordered(x, y, |o| o == Ordering::Greater)),
        op::GE => |_, a| two(&a, |x, y| ordered(x, y, |o| o != Ordering::Less)),
        op::ADD => |_, a| add(a),
        op::SUB => |_, a| two(&a, subtract),
        op::MUL => |_, a| two(&a, multiply),
        op::DIV => |_, a| two(&a, divide),
        op::MOD => |_, a| two(&a, modulo),
        op::IN => |_, a| two(&a, contained),
        "size" => |_, a| match &a[..] {
            [v @ (Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_))] => Ok(Value::Int(v.size() as i64)),
            _ => no_overload(),
        },
        "type" => |_, a| match &a[..] {
            [v] => Ok(Value::Type(v.type_of().into())),
            _ => no_overload(),
        },
        "dyn" => |_, mut a| a.pop().ok_or_else(Error::no_overload),
        "cel.@mapInsert" => |_, a| map_insert(a),
        _ => return None,
    })
}

fn two<'a>(args: &[Value<'a>], f: impl FnOnce(&Value<'a>, &Value<'a>) -> Res<'a>) -> Res<'a> {
    match args {
        [x, y] => f(x, y),
        _ => no_overload(),
    }
}

fn overflow() -> Error {
    Error::new("integer overflow")
}

fn unsigned_overflow() -> Error {
    Error::new("unsigned integer overflow")
}

fn ordered<'a>(x: &Value<'a>, y: &Value<'a>, wanted: impl Fn(Ordering) -> bool) -> Res<'a> {
    match x.compare(y)? {
        Some(order) => Ok(Value::Bool(wanted(order))),
        None => fail("NaN values cannot be ordered"),
    }
}

pub fn add<'a>(args: Vec<Value<'a>>) -> Res<'a> {
    let Ok([x, y]) = <[Value<'a>; 2]>::try_from(args) else { return no_overload() };
    match (x, y) {
        (Value::Int(a), Value::Int(b)) => a.checked_add(b).map(Value::Int).ok_or_else(overflow),
        (Value::Uint(a), Value::Uint(b)) => a.checked_add(b).map(Value::Uint).ok_or_else(unsigned_overflow),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a + b)),
        (Value::String(a), Value::String(b)) => Ok(Value::text(format!("{}{}", &*a, &*b))),
        (Value::Bytes(a), Value::Bytes(b)) => Ok(Value::Bytes([&*a, &*b].concat().into())),
        (Value::List(a), Value::List(b)) => Ok(Value::List(a.push_all(&b)?)),
        (Value::Duration(a), Value::Duration(b)) => a.checked_add(b).map(Value::Duration).ok_or_else(|| Error::new("duration overflow")),
        (Value::Timestamp(t), Value::Duration(d)) | (Value::Duration(d), Value::Timestamp(t)) => shifted(t, d),
        _ => no_overload(),
    }
}

fn shifted<'a>(t: jiff::Timestamp, nanos: i64) -> Res<'a> {
    let moved = t.checked_add(jiff::SignedDuration::from_nanos(nanos)).ok().filter(time::in_range);
    moved.map(Value::Timestamp).ok_or_else(|| Error::new("timestamp overflow"))
}

fn subtract<'a>(x: &Value<'a>, y: &Value<'a>) -> Res<'a> {
    match (x, y) {
        (Value::Int(a), Value::Int(b)) => a.checked_sub(*b).map(Value::Int).ok_or_else(overflow),
        (Value::Uint(a), Value::Uint(b)) => a.checked_sub(*b).map(Value::Uint).ok_or_else(unsigned_overflow),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a - b)),
        (Value::Duration(a), Value::Duration(b)) => a.checked_sub(*b).map(Value::Duration).ok_or_else(|| Error::new("duration overflow")),
        (Value::Timestamp(t), Value::Duration(d)) => shifted(*t, d.checked_neg().ok_or_else(|| Error::new("timestamp overflow"))?),
        (Value::Timestamp(a), Value::Timestamp(b)) => {
            let nanos = a.as_nanosecond() - b.as_nanosecond();
            i64::try_from(nanos).map(Value::Duration).map_err(|_| Error::new("duration overflow"))
        }
        _ => no_overload(),
    }
}

fn multiply<'a>(x: &Value<'a>, y: &Value<'a>) -> Res<'a> {
    match (x, y) {
        (Value::Int(a), Value::Int(b)) => a.checked_mul(*b).map(Value::Int).ok_or_else(overflow),
        (Value::Uint(a), Value::Uint(b)) => a.checked_mul(*b).map(Value::Uint).ok_or_else(unsigned_overflow),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a * b)),
        _ => no_overload(),
    }
}

fn divide<'a>(x: &Value<'a>, y: &Value<'a>) -> Res<'a> {
    match (x, y) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => fail("division by zero"),
        (Value::Int(a), Value::Int(b)) => a.checked_div(*b).map(Value::Int).ok_or_else(overflow),
        (Value::Uint(a), Value::Uint(b)) => Ok(Value::Uint(a / b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a / b)),
        _ => no_overload(),
    }
}

fn modulo<'a>(x: &Value<'a>, y: &Value<'a>) -> Res<'a> {
    match (x, y) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => fail("modulus by zero"),
        (Value::Int(a), Value::Int(b)) => a.checked_rem(*b).map(Value::Int).ok_or_else(overflow),
        (Value::Uint(a), Value::Uint(b)) => Ok(Value::Uint(a % b)),
        _ => no_overload(),
    }
}

fn contained<'a>(x: &Value<'a>, y: &Value<'a>) -> Res<'a> {
    match y {
        Value::List(list) => {
            for item in list.iter() {
                if item?.equals(x) {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        Value::Map(map) => Ok(Value::Bool(map.get(x)?.is_some())),
        Value::Object(made) => match x {
            Value::String(name) => Ok(Value::Bool(made.fields.contains_key(&**name))),
            _ => no_overload(),
        },
        _ => no_overload(),
    }
}

fn map_insert<'a>(mut args: Vec<Value<'a>>) -> Res<'a> {
    let Value::Map(mut map) = args.remove(0) else { return no_overload() };
    match (args.pop(), args.pop()) {
        (Some(value), Some(key)) if Key::of(&key).is_some() => map.insert(key, value).map(Value::Map),
        (Some(Value::Map(more)), None) => {
            for (key, value) in more.entries()? {
                map = map.insert(key, value)?;
            }
            Ok(Value::Map(map))
        }
        _ => no_overload(),
    }
}
