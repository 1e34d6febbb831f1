//! Lists (upstream: `library/lists.go` and cel-go's `ext/lists`).

use std::cmp::Ordering;

use super::{Impl, fail, no_overload, operators};
use crate::value::{Error, List, Res, Value};

/// Longest list that `lists.range` makes: more than any cost limit allows.
const RANGE_MAX: i64 = 10_000_000;

pub fn find(name: &str) -> Option<Impl> {
    Some(match name {
        "isSorted" => |_, a| {
            over(&a, |list| {
                let items = list.to_vec()?;
                for pair in items.windows(2) {
                    if pair[0].compare(&pair[1])? == Some(Ordering::Greater) {
                        return Ok(Value::Bool(false));
                    }
                }
                Ok(Value::Bool(true))
            })
        },
        "sum" => |_, a| {
            over(&a, |list| {
                let mut items = list.iter();
                let Some(first) = items.next() else { return Ok(Value::Int(0)) };
                let mut sum = first?;
                for item in items {
                    sum = operators::add(vec![sum, item?])?;
                }
                Ok(sum)
            })
        },
        "max" => |_, a| over(&a, |list| extreme(list, "max", Ordering::Less)),
        "min" => |_, a| over(&a, |list| extreme(list, "min", Ordering::Greater)),
        "includes" => |_, a| match &a[..] {
            [Value::List(list), item] => {
                for candidate in list.iter() {
                    if candidate?.equals(item) {
                        return Ok(Value::Bool(true));
                    }
                }
                Ok(Value::Bool(false))
            }
            [value, other] => Ok(Value::Bool(value.equals(other))),
            _ => no_overload(),
        },
        "slice" => |_, a| match &a[..] {
            [Value::List(list), Value::Int(start), Value::Int(end)] => slice(list, *start, *end),
            _ => no_overload(),
        },
        "flatten" => |_, a| match &a[..] {
            [Value::List(list)] => flatten(list, 1).map(Value::list),
            [Value::List(list), Value::Int(depth)] if *depth >= 0 => flatten(list, *depth).map(Value::list),
            [Value::List(_), Value::Int(_)] => fail("level must be non-negative"),
            _ => no_overload(),
        },
        "lists.range" => |_, a| match &a[..] {
            [Value::Int(n)] if *n > RANGE_MAX => fail("operation cancelled: actual cost limit exceeded"),
            [Value::Int(n)] => Ok(Value::list((0..*n).map(Value::Int).collect())),
            _ => no_overload(),
        },
        "reverse" => |_, a| {
            over(&a, |list| {
                let mut items = list.to_vec()?;
                items.reverse();
                Ok(Value::list(items))
            })
        },
        "distinct" => |_, a| {
            over(&a, |list| {
                let mut unique: Vec<Value<'_>> = Vec::new();
                for item in list.iter() {
                    let item = item?;
                    if !unique.iter().any(|u| u.equals(&item)) {
                        unique.push(item);
                    }
                }
                Ok(Value::list(unique))
            })
        },
        "sort" => |_, a| {
            over(&a, |list| {
                let items = list.to_vec()?;
                sort_by(items.clone(), &items)
            })
        },
        "@sortByAssociatedKeys" => |_, a| match &a[..] {
            [Value::List(list), Value::List(keys)] => sort_by(list.to_vec()?, &keys.to_vec()?),
            _ => no_overload(),
        },
        "first" => |_, a| over(&a, |list| if list.is_empty() { Ok(Value::NONE) } else { list.get(0).map(Value::some) }),
        "last" => |_, a| over(&a, |list| if list.is_empty() { Ok(Value::NONE) } else { list.get(list.len() - 1).map(Value::some) }),
        _ => return None,
    })
}

fn over<'a>(args: &[Value<'a>], f: impl FnOnce(&List<'a>) -> Res<'a>) -> Res<'a> {
    match args {
        [Value::List(list)] => f(list),
        _ => no_overload(),
    }
}

fn extreme<'a>(list: &List<'a>, name: &str, worse: Ordering) -> Res<'a> {
    let mut best: Option<Value<'a>> = None;
    for item in list.iter() {
        let item = item?;
        let better = match &best {
            None => true,
            Some(best) => best.compare(&item)? == Some(worse),
        };
        if better {
            best = Some(item);
        }
    }
    best.ok_or_else(|| Error::new(format!("{name} called on empty list")))
}

/// Where an item stands first or last, or -1.
pub fn index_of<'a>(list: &List<'a>, item: &Value<'a>, last: bool) -> Res<'a> {
    let items = list.to_vec()?;
    let same = |v: &Value<'a>| v.equals(item);
    let found = if last { items.iter().rposition(same) } else { items.iter().position(same) };
    Ok(Value::Int(found.map_or(-1, |i| i as i64)))
}

fn slice<'a>(list: &List<'a>, start: i64, end: i64) -> Res<'a> {
    if start < 0 || end < 0 {
        return fail(format!("cannot slice({start}, {end}), negative indexes not supported"));
    }
    if start > end {
        return fail(format!("cannot slice({start}, {end}), start index must be less than or equal to end index"));
    }
    if (list.len() as i64) < end {
        return fail(format!("cannot slice({start}, {end}), list is length {}", list.len()));
    }
    Ok(Value::list((start as usize..end as usize).map(|i| list.get(i)).collect::<Result<_, _>>()?))
}

fn flatten<'a>(list: &List<'a>, depth: i64) -> Result<Vec<Value<'a>>, Error> {
    let mut flat = Vec::new();
    for item in list.iter() {
        match item? {
            Value::List(inner) if depth > 0 => flat.extend(flatten(&inner, depth - 1)?),
            other => flat.push(other),
        }
    }
    Ok(flat)
}

fn sort_by<'a>(items: Vec<Value<'a>>, keys: &[Value<'a>]) -> Res<'a> {
    if items.len() != keys.len() {
        let (n, m) = (items.len(), keys.len());
        return fail(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {n} and {m} elements respectively"
        ));
    }
    if let Some(first) = keys.first() {
        if first.compare(first).is_err() {
            return fail("list elements must be comparable");
        }
        if keys.iter().any(|k| k.type_of() != first.type_of()) {
            return fail("list elements must have the same type");
        }
    }
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by(|a, b| keys[*a].compare(&keys[*b]).ok().flatten().unwrap_or(Ordering::Equal));
    Ok(Value::list(order.into_iter().map(|i| items[i].clone()).collect()))
}
