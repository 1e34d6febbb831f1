//! What functions cost at most, by the sizes of their operands (upstream: `EstimateCallCost` of `library/cost.go`, the
//! estimators of cel-go's `ext/lists.go` and `ext/sets.go`, and `functionCost` of `checker/cost.go`).

use super::{Call, Estimator, Operand, Range};
use crate::{
    ast::{Expr, Kind, Literal},
    types::Type,
};

/// Part of the cost of reading a text once, for each of its characters.
pub const TRAVERSAL: f64 = 0.1;
/// Part of the cost of a pattern, for each of its characters.
const PATTERN: f64 = 0.25;
/// Length that is assumed of the pattern of a named format.
const FORMAT_PATTERN: f64 = 128.0;
/// Longest name of a format.
const FORMAT_NAME_MAX: u64 = 64;
const AUTHORIZATION: Range = Range::exactly(350_000);
/// Bytes of an address.
const ADDRESS: Range = Range { min: 4, max: 16 };
const ALLOCATED_LIST: Range = Range::exactly(11);

type Operands<'o, 'e> = (Option<&'o Operand<'e>>, &'o [Operand<'e>]);

impl<'e> Estimator<'e> {
    /// The call without its arguments; none for what costs 1 and has no size.
    pub(super) fn of_function(&self, function: &str, overload: &str, target: Option<&Operand<'e>>, args: &[Operand<'e>]) -> Option<Call> {
        let operands = (target, args);
        self.of_sets_and_lists(overload, operands)
            .or_else(|| self.of_library(function, overload, operands))
            .or_else(|| self.of_network(function, overload, args))
            .or_else(|| equality(function, args))
            .or_else(|| self.of_language(overload, operands))
    }

    fn operand_size(&self, operand: &Operand<'_>) -> Range {
        operand.size.or_else(|| self.declared(&operand.path)).unwrap_or(Range::UNKNOWN)
    }

    /// What a list holds.
    fn items(&self, list: &Operand<'_>) -> Option<Operand<'e>> {
        let of_type = (*list.of_type.params().first()?).clone();
        let mut path = list.path.clone();
        if !path.is_empty() {
            path.push("@items".into());
        }
        Some(Operand { path, of_type, expr: None, size: None })
    }

    fn of_sets_and_lists(&self, overload: &str, operands: Operands<'_, 'e>) -> Option<Call> {
        let size = |o: &Operand<'_>| self.operand_size(o);
        let made = |factor: f64, list: Range| Some(Call::with_size(list.scaled(factor).plus(ALLOCATED_LIST), list));
        match (overload, operands) {
            ("list_sets_contains_list" | "list_sets_intersects_list", (_, [a, b])) => Some(Call::costs(size(a).times(size(b)).plus(Range::ONE))),
            ("list_sets_equivalent_list", (_, [a, b])) => Some(Call::costs(size(a).times(size(b)).scaled(2.0).plus(Range::ONE))),
            ("list_slice", (Some(list), [from, to])) => {
                let length = written_int(to.expr, size(list).max).wrapping_sub(written_int(from.expr, 0));
                made(1.0, Range::exactly(length))
            }
            ("lists_range", (None, [end])) => made(1.0, Range::exactly(written_int(end.expr, u64::MAX))),
            ("list_reverse", (Some(list), [])) => made(1.0, size(list)),
            ("list_flatten", (Some(list), [])) => made(1.0, size(list)),
            ("list_flatten_int", (Some(list), [depth])) => made(written_int(depth.expr, u64::MAX) as f64, size(list)),
            ("list_distinct", (Some(list), [])) => made(2.0, size(list).times(size(list))),
            (sort, (Some(list), [])) if sort.ends_with("_sort") => made(comparison(sort), size(list).times(size(list))),
            (sort, (Some(_), [keys])) if sort.ends_with("_sortByAssociatedKeys") => made(comparison(sort), size(keys).times(size(keys))),
            _ => None,
        }
    }

    fn of_library(&self, function: &str, overload: &str, operands: Operands<'_, 'e>) -> Option<Call> {
        let size = |o: &Operand<'_>| self.operand_size(o);
        let read = |o: &Operand<'_>, factor: f64| size(o).scaled(factor);
        Some(match (function, operands) {
            ("check", _) => Call::costs(AUTHORIZATION),
            ("serviceAccount" | "path" | "group" | "resource" | "subresource" | "namespace" | "name" | "allowed" | "reason" | "error" | "errored", _)
            | ("format.named" | "sign" | "asInteger" | "isInteger" | "asApproximateFloat" | "isGreaterThan" | "isLessThan" | "compareTo" | "add" | "sub", _)
            | ("major" | "minor" | "patch" | "getScheme" | "getHostname" | "getHost" | "getPort" | "getEscapedPath" | "getQuery", _) => Call::costs(Range::ONE),
            ("fieldSelector" | "labelSelector", (_, [selector])) => Call::costs(self.selector(selector)),
            ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes", (Some(target), _)) => Call::costs(self.search(function, target)),
            ("url" | "jsonpatch.escapeKey", (_, [text])) => Call::with_size(read(text, TRAVERSAL), size(text)),
            ("lowerAscii" | "upperAscii" | "substring" | "trim", (Some(text), _)) => Call::with_size(read(text, TRAVERSAL), size(text)),
            ("replace", (Some(text), [from, to, ..])) => Call::with_size(read(text, 2.0 * TRAVERSAL), replaced(size(text), size(from), size(to))),
            ("split", (Some(text), args)) => {
                let parts = args.get(1).and_then(|limit| literal_int(limit.expr)).map_or(size(text).max, |n| n as u64);
                Call::with_size(read(text, 2.0 * TRAVERSAL), Range::up_to(parts))
            }
            ("join", (Some(list), args)) => {
                let joined = self.joined(list, args.first());
                Call::with_size(joined.scaled(TRAVERSAL), joined)
            }
            ("find" | "findAll", (Some(text), [pattern, ..])) => Call::with_size(self.pattern(size(text), size(pattern)), Range::up_to(size(text).max)),
            ("quantity" | "isQuantity" | "semver" | "isSemver", (_, [text, ..])) => Call::costs(read(text, TRAVERSAL)),
            ("validate", (_, [text, ..])) => Call::costs(read(text, TRAVERSAL).scaled(FORMAT_PATTERN * PATTERN)),
            _ => return self.of_conversion(overload, operands),
        })
    }

    fn of_network(&self, function: &str, overload: &str, args: &[Operand<'e>]) -> Option<Call> {
        let parse = |factor: f64| args.first().map(|text| self.operand_size(text).scaled(factor));
        let compared = ADDRESS.plus(ADDRESS).scaled(TRAVERSAL);
        let parsed_if = |of_text: &str| if overload == of_text { parse(TRAVERSAL) } else { Some(Range::ZERO) };
        let cost = match function {
            "cidr" | "isIP" | "isCIDR" => parse(TRAVERSAL)?,
            "ip" if overload == "cidr_ip" => Range::ONE,
            "ip" => parse(TRAVERSAL)?,
            "ip.isCanonical" => parse(2.0 * TRAVERSAL)?,
            "masked" | "prefixLength" | "family" | "isUnspecified" | "isLoopback" | "isLinkLocalMulticast" | "isLinkLocalUnicast" | "isGlobalUnicast" => {
                Range::ONE
            }
            "containsIP" => compared.plus(parsed_if("cidr_contains_ip_string")?),
            "containsCIDR" => compared.plus(ADDRESS.scaled(TRAVERSAL)).plus(Range::ONE).plus(parsed_if("cidr_contains_cidr_string")?),
            _ => return None,
        };
        Some(Call::costs(cost))
    }

    /// Conversions between texts and bytes, and quoting.
    fn of_conversion(&self, overload: &str, (_, args): Operands<'_, 'e>) -> Option<Call> {
        let [arg] = args else { return None };
        let size = arg.size.unwrap_or(Range::UNKNOWN);
        let becomes = match overload {
            "string_to_bytes" => Range { min: size.min, max: size.max.wrapping_mul(4) },
            "bytes_to_string" => Range { min: size.min / 4, max: size.max },
            "strings_quote" => Range { min: size.min.wrapping_add(2), max: size.max.wrapping_mul(2).wrapping_add(2) },
            _ => return None,
        };
        Some(Call::with_size(size.scaled(TRAVERSAL), becomes))
    }

    fn of_language(&self, overload: &str, (target, args): Operands<'_, 'e>) -> Option<Call> {
        let size = |o: &Operand<'_>| o.size.unwrap_or(Range::UNKNOWN);
        Some(Call::costs(match (overload, target, args) {
            ("string_format", Some(target), _) => size(target).scaled(TRAVERSAL),
            ("starts_with_string" | "ends_with_string", _, [part]) => size(part).scaled(TRAVERSAL),
            ("in_list", _, [_, list]) => size(list).scaled(1.0),
            ("matches_string", Some(text), [pattern]) | ("matches", None, [text, pattern]) => self.pattern(size(text), size(pattern)),
            ("contains_string", Some(text), [part]) => size(text).scaled(TRAVERSAL).times(size(part).scaled(TRAVERSAL)),
            (
                "less_string"
                | "greater_string"
                | "less_equals_string"
                | "greater_equals_string"
                | "less_bytes"
                | "greater_bytes"
                | "less_equals_bytes"
                | "greater_equals_bytes"
                | "equals"
                | "not_equals",
                _,
                [left, right],
            ) => {
                let most = size(left).max.min(size(right).max);
                Range { min: most.min(1), max: most }.scaled(TRAVERSAL)
            }
            _ => return None,
        }))
    }

    /// One more than the text's length, so that a pattern costs something on an empty text too.
    fn pattern(&self, text: Range, pattern: Range) -> Range {
        text.plus(Range::ONE).scaled(TRAVERSAL).times(pattern.scaled(PATTERN))
    }

    /// Requirements of a selector are at least two characters long and take a list and an object each.
    fn selector(&self, selector: &Operand<'_>) -> Range {
        let length = self.operand_size(selector);
        super::LIST.plus(length.scaled(TRAVERSAL)).plus(length.scaled(0.5).scaled(50.0))
    }

    fn search(&self, function: &str, target: &Operand<'_>) -> Range {
        let size = self.operand_size(target);
        match self.items(target) {
            Some(item) if matches!(item.of_type, Type::String | Type::Bytes) => size.times(Range::ONE.plus(self.operand_size(&item).scaled(TRAVERSAL))),
            Some(_) => size,
            None if function == "includes" => size,
            None => size.scaled(TRAVERSAL),
        }
    }

    fn joined(&self, list: &Operand<'_>, separator: Option<&Operand<'_>>) -> Range {
        let length = self.operand_size(list);
        let texts = self.items(list).map_or(Range::ZERO, |item| length.times(self.operand_size(&item)));
        let between = Range { min: length.min.saturating_sub(1), max: length.max.saturating_sub(1) };
        separator.map_or(texts, |s| texts.plus(self.operand_size(s).times(between)))
    }
}

/// Factor of the comparisons that sorting takes.
fn comparison(overload: &str) -> f64 {
    let of_texts = overload.starts_with("list_string_") || overload.starts_with("list_bytes_");
    if of_texts { 2.0 + TRAVERSAL } else { 2.0 }
}

fn literal_int(e: Option<&Expr>) -> Option<i64> {
    match e?.kind {
        Kind::Literal(Literal::Int(n)) => Some(n),
        _ => None,
    }
}

fn written_int(e: Option<&Expr>, otherwise: u64) -> u64 {
    literal_int(e).map_or(otherwise, |n| u64::try_from(n).unwrap_or(0))
}

/// The length of a text in which all of `from` became `to`.
fn replaced(text: Range, from: Range, to: Range) -> Range {
    // Times that something is replaced, and what is left of the text itself.
    let most = match () {
        () if from.min == 0 => (text.max.saturating_add(1), text.max),
        () if to.max <= from.min => (0, text.max),
        () => (ceil(text.max, from.min), 0),
    };
    let least = match () {
        () if from.max == 0 => (text.min.saturating_add(1), text.min),
        () if from.max <= to.min => (0, text.min),
        () => (ceil(text.min, from.max), 0),
    };
    Range { min: least.0, max: most.0 }.times(to).plus(Range { min: least.1, max: most.1 })
}

fn ceil(n: u64, by: u64) -> u64 {
    (n as f64 / by as f64).ceil() as u64
}

/// Equality of values that are compared as a whole.
fn equality(function: &str, args: &[Operand<'_>]) -> Option<Call> {
    let ("_==_", [left, right]) = (function, args) else { return None };
    if left.of_type != right.of_type {
        return None;
    }
    let cost = match &left.of_type {
        Type::Opaque(name, _) if matches!(&**name, "net.IP" | "net.CIDR") => Range::ONE,
        Type::Struct(name) => match &**name {
            "kubernetes.Quantity" | "kubernetes.Semver" => Range::ONE,
            "kubernetes.NamedFormat" => Range { min: 1, max: FORMAT_NAME_MAX }.scaled(TRAVERSAL),
            "kubernetes.URL" => Range { min: 1, max: right.size.map_or(1, |s| s.max) }.scaled(TRAVERSAL),
            authorization if authorization.starts_with("kubernetes.authorization.") => Range::ONE,
            _ => return None,
        },
        _ => return None,
    };
    Some(Call::costs(cost))
}
