//! What calls cost when they run (upstream: `library/cost.go`'s `CallCost`, cel-go's `costCall` and `ext/lists`).

use crate::value::{Res, Value};

/// Part of the cost of reading a text once, for each of its characters.
const TRAVERSAL: f64 = 0.1;
/// Part of the cost of a pattern, for each of its characters.
const PATTERN: f64 = 0.25;

fn scaled(size: u64, factor: f64) -> u64 {
    (size as f64 * factor).ceil() as u64
}

fn pattern_cost(text: u64, pattern: u64) -> u64 {
    let text = ((1.0 + text as f64) * TRAVERSAL).ceil() as u64;
    text.saturating_mul(scaled(pattern, PATTERN))
}

/// The part that follows from the arguments.
pub fn before(function: &str, overload: &str, args: &[Value<'_>]) -> u64 {
    let size = |i: usize| args.get(i).map_or(1, Value::size);
    match overload {
        "list_sets_contains_list" | "list_sets_intersects_list" => return 1 + size(0).saturating_mul(size(1)),
        "list_sets_equivalent_list" => return 1 + size(0).saturating_mul(size(1)).saturating_mul(2),
        "list_flatten" => return 11 + size(0),
        "list_flatten_int" => return 11 + size(0).saturating_mul(depth(args.get(1))),
        "list_distinct" => return self_compare(args.first()),
        "list_slice" | "lists_range" | "list_reverse" => return 0,
        _ if overload.ends_with("_sort") => return self_compare(args.first()),
        _ if overload.ends_with("_sortByAssociatedKeys") => return self_compare(args.get(1)),
        _ => {}
    }
    match function {
        "check" => 350_000,
        "fieldSelector" | "labelSelector" => {
            let length = size(1);
            10 + scaled(length, TRAVERSAL) + scaled(scaled(length, 0.5), 50.0)
        }
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" => args.first().map_or(0, traversal),
        "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "jsonpatch.escapeKey" => scaled(size(0), TRAVERSAL),
        "replace" | "split" | "ip.isCanonical" => scaled(size(0), 2.0 * TRAVERSAL),
        "join" => 0,
        "find" | "findAll" => pattern_cost(size(0), size(1)),
        "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver" => scaled(size(0), TRAVERSAL),
        "ip" => {
            if overload == "cidr_ip" {
                1
            } else {
                scaled(size(0), TRAVERSAL)
            }
        }
        "containsIP" => {
            let parse = if overload == "cidr_contains_ip_string" { scaled(size(1), TRAVERSAL) } else { 0 };
            scaled(size(0) * 2, TRAVERSAL) + parse
        }
        "containsCIDR" => {
            let parse = if overload == "cidr_contains_cidr_string" { scaled(size(1), TRAVERSAL) } else { 0 };
            scaled(size(0) * 2, TRAVERSAL) + scaled(size(0), TRAVERSAL) + 1 + parse
        }
        "validate" => match args.first() {
            Some(Value::Format(format)) => pattern_cost(size(1), format.pattern_size),
            _ => 1,
        },
        "_==_"
            if matches!(
                args.first(),
                Some(Value::Quantity(_) | Value::Ip(_) | Value::Cidr(..) | Value::Format(_) | Value::Url(_) | Value::Semver(_) | Value::Authz(_))
            ) =>
        {
            1
        }
        _ => by_overload(overload, &size),
    }
}

fn by_overload(overload: &str, size: &dyn Fn(usize) -> u64) -> u64 {
    match overload {
        "starts_with_string" | "ends_with_string" => scaled(size(1), TRAVERSAL),
        "string_to_bytes" | "bytes_to_string" | "strings_quote" | "string_format" => scaled(size(0), TRAVERSAL),
        "in_list" => size(1),
        "less_string"
        | "greater_string"
        | "less_equals_string"
        | "greater_equals_string"
        | "less_bytes"
        | "greater_bytes"
        | "less_equals_bytes"
        | "greater_equals_bytes"
        | "equals"
        | "not_equals" => scaled(size(0).min(size(1)), TRAVERSAL),
        "add_string" | "add_bytes" => scaled(size(0) + size(1), TRAVERSAL),
        "matches" | "matches_string" => pattern_cost(size(0), size(1)),
        "contains_string" => scaled(size(0), TRAVERSAL).saturating_mul(scaled(size(1), TRAVERSAL)),
        _ => 1,
    }
}

/// The part that follows from the result.
pub fn after(function: &str, overload: &str, result: &Res<'_>) -> u64 {
    let size = || result.as_ref().map_or(1, Value::size);
    match (function, overload) {
        ("join", _) => scaled(size(), 2.0 * TRAVERSAL),
        (_, "list_slice" | "lists_range" | "list_reverse") => 11 + size(),
        _ => 0,
    }
}

fn depth(level: Option<&Value<'_>>) -> u64 {
    match level {
        Some(Value::Int(n)) => u64::try_from(*n).unwrap_or(1),
        _ => 1,
    }
}

fn self_compare(list: Option<&Value<'_>>) -> u64 {
    let Some(Value::List(list)) = list else { return 11 };
    let size = list.len() as u64;
    let factor = if matches!(list.get(0), Ok(Value::String(_) | Value::Bytes(_))) { 2.0 + TRAVERSAL } else { 2.0 };
    11 + (size.saturating_mul(size) as f64 * factor) as u64
}

/// Reading a value to its last leaf.
fn traversal(value: &Value<'_>) -> u64 {
    match value {
        Value::String(s) => (s.len() as f64 * TRAVERSAL) as u64,
        Value::Bytes(b) => (b.len() as f64 * TRAVERSAL) as u64,
        Value::List(list) => list.iter().flatten().map(|v| traversal(&v)).sum(),
        Value::Map(map) => map.entries().unwrap_or_default().iter().map(|(k, v)| traversal(k) + traversal(v)).sum(),
        _ => 1,
    }
}
