//! Texts and patterns (upstream: cel-go's `ext/strings` in version 2, `library/regex.go`, `library/jsonpatch.go`).

use std::{collections::HashMap, sync::Arc};

use regex::Regex;

use super::{Impl, fail, lists, no_overload};
use crate::value::{Error, Res, Value};

pub fn find(name: &str) -> Option<Impl> {
    Some(match name {
        "contains" => |_, a| pair(&a, |s, t| Ok(Value::Bool(s.contains(t)))),
        "startsWith" => |_, a| pair(&a, |s, t| Ok(Value::Bool(s.starts_with(t)))),
        "endsWith" => |_, a| pair(&a, |s, t| Ok(Value::Bool(s.ends_with(t)))),
        "matches" => |_, a| pair(&a, |s, t| Ok(Value::Bool(pattern(t)?.is_match(s)))),
        "find" => |_, a| pair(&a, |s, t| Ok(Value::text(pattern(t)?.find(s).map_or("", |m| m.as_str())))),
        "findAll" => |_, a| find_all(&a),
        "charAt" => |_, a| match &a[..] {
            [Value::String(s), Value::Int(i)] => char_at(s, *i),
            _ => no_overload(),
        },
        "indexOf" => |_, a| index_of(a, false),
        "lastIndexOf" => |_, a| index_of(a, true),
        "lowerAscii" => |_, a| one(&a, |s| Value::text(s.to_ascii_lowercase())),
        "upperAscii" => |_, a| one(&a, |s| Value::text(s.to_ascii_uppercase())),
        "trim" => |_, a| one(&a, |s| Value::text(s.trim())),
        "strings.quote" => |_, a| one(&a, |s| Value::text(quote(s))),
        "jsonpatch.escapeKey" => |_, a| one(&a, |s| Value::text(s.replace('~', "~0").replace('/', "~1"))),
        "replace" => |_, a| match &a[..] {
            [Value::String(s), Value::String(old), Value::String(new)] => Ok(Value::text(s.replace(&**old, new))),
            [Value::String(s), Value::String(old), Value::String(new), Value::Int(n)] if *n < 0 => Ok(Value::text(s.replace(&**old, new))),
            [Value::String(s), Value::String(old), Value::String(new), Value::Int(n)] => Ok(Value::text(s.replacen(&**old, new, *n as usize))),
            _ => no_overload(),
        },
        "split" => |_, a| match &a[..] {
            [Value::String(s), Value::String(separator)] => Ok(split(s, separator, -1)),
            [Value::String(s), Value::String(separator), Value::Int(n)] => Ok(split(s, separator, *n)),
            _ => no_overload(),
        },
        "substring" => |_, a| match &a[..] {
            [Value::String(s), Value::Int(start)] => substring(s, *start, s.chars().count() as i64),
            [Value::String(s), Value::Int(start), Value::Int(end)] => substring(s, *start, *end),
            _ => no_overload(),
        },
        "join" => |_, a| match &a[..] {
            [Value::List(list)] => join(&list.to_vec()?, ""),
            [Value::List(list), Value::String(separator)] => join(&list.to_vec()?, separator),
            _ => no_overload(),
        },
        "format" => |_, a| match &a[..] {
            [Value::String(text), Value::List(args)] => super::text_format::format(text, &args.to_vec()?).map(Value::text),
            _ => no_overload(),
        },
        _ => return None,
    })
}

fn one<'a>(args: &[Value<'a>], f: impl FnOnce(&str) -> Value<'a>) -> Res<'a> {
    match args {
        [Value::String(s)] => Ok(f(s)),
        _ => no_overload(),
    }
}

fn pair<'a>(args: &[Value<'a>], f: impl FnOnce(&str, &str) -> Res<'a>) -> Res<'a> {
    match args {
        [Value::String(s), Value::String(t)] => f(s, t),
        _ => no_overload(),
    }
}

/// Largest compiled pattern.
const PATTERN_BYTES_MAX: usize = 1 << 20;
/// Patterns that are kept compiled, on each thread.
const PATTERNS_KEPT_MAX: usize = 256;

/// Compiles a pattern in RE2's syntax.
///
/// # Errors
/// Why it is none.
pub fn compile(text: &str) -> Result<Regex, String> {
    let translated = knarr_core::regexp::from_go(text)?;
    regex::RegexBuilder::new(&translated).size_limit(PATTERN_BYTES_MAX).build().map_err(|e| e.to_string())
}

thread_local! {
    static PATTERNS: std::cell::RefCell<HashMap<String, Arc<Regex>>> = std::cell::RefCell::default();
}

fn pattern(text: &str) -> Result<Arc<Regex>, Error> {
    if let Some(found) = PATTERNS.with_borrow(|p| p.get(text).cloned()) {
        return Ok(found);
    }
    let compiled = compile(text).map(Arc::new).map_err(|_| Error::new(format!("error parsing regexp: `{text}`")))?;
    PATTERNS.with_borrow_mut(|p| {
        if p.len() >= PATTERNS_KEPT_MAX {
            p.clear();
        }
        p.insert(text.to_owned(), compiled.clone());
    });
    Ok(compiled)
}

fn find_all<'a>(args: &[Value<'a>]) -> Res<'a> {
    let (s, t, limit) = match args {
        [Value::String(s), Value::String(t)] => (s, t, usize::MAX),
        [Value::String(s), Value::String(t), Value::Int(n)] => (s, t, usize::try_from(*n).unwrap_or(usize::MAX)),
        _ => return no_overload(),
    };
    Ok(Value::texts(pattern(t)?.find_iter(s).take(limit).map(|m| m.as_str().to_owned())))
}

fn char_at<'a>(s: &str, i: i64) -> Res<'a> {
    let count = s.chars().count() as i64;
    if i < 0 || i > count {
        return fail(format!("index out of range: {i}"));
    }
    Ok(Value::text(s.chars().nth(i as usize).map(String::from).unwrap_or_default()))
}

fn index_of(args: Vec<Value<'_>>, last: bool) -> Res<'_> {
    let (s, t, offset) = match &args[..] {
        [Value::List(list), item] => return lists::index_of(list, item, last),
        [Value::String(s), Value::String(t)] => (s, t, None),
        [Value::String(s), Value::String(t), Value::Int(offset)] => (s, t, Some(*offset)),
        _ => return no_overload(),
    };
    let (s, t): (Vec<char>, Vec<char>) = (s.chars().collect(), t.chars().collect());
    if let Some(offset) = offset.filter(|o| *o < 0) {
        return fail(format!("index out of range: {offset}"));
    }
    if t.is_empty() {
        let end = s.len() as i64;
        return Ok(Value::Int(if last { offset.map_or(end, |o| o.min(end)) } else { offset.unwrap_or(0).min(end) }));
    }
    let offset = offset.unwrap_or(if last { s.len() as i64 - 1 } else { 0 }) as usize;
    if offset >= s.len() || t.len() > s.len() {
        return Ok(Value::Int(-1));
    }
    let matches = |i: &usize| s[*i..].starts_with(&t);
    let found = if last { (0..=offset.min(s.len() - t.len())).rev().find(matches) } else { (offset..=s.len() - t.len()).find(matches) };
    Ok(Value::Int(found.map_or(-1, |i| i as i64)))
}

fn split<'a>(s: &str, separator: &str, limit: i64) -> Value<'a> {
    let whole = |parts: Vec<String>| Value::texts(parts);
    if limit == 0 {
        return whole(Vec::new());
    }
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if separator.is_empty() {
        let mut parts: Vec<String> = s.chars().map(String::from).collect();
        if parts.len() > limit {
            let rest = parts.split_off(limit - 1).concat();
            parts.push(rest);
        }
        return whole(parts);
    }
    whole(s.splitn(limit, separator).map(str::to_owned).collect())
}

fn substring<'a>(s: &str, start: i64, end: i64) -> Res<'a> {
    let count = s.chars().count() as i64;
    if start > end {
        return fail(format!("invalid substring range. start: {start}, end: {end}"));
    }
    if start < 0 || start > count {
        return fail(format!("index out of range: {start}"));
    }
    if end < 0 || end > count {
        return fail(format!("index out of range: {end}"));
    }
    Ok(Value::text(s.chars().skip(start as usize).take((end - start) as usize).collect::<String>()))
}

fn join<'a>(items: &[Value<'a>], separator: &str) -> Res<'a> {
    let mut texts = Vec::with_capacity(items.len());
    for item in items {
        match item {
            Value::String(s) => texts.push(&**s),
            _ => return no_overload(),
        }
    }
    Ok(Value::text(texts.join(separator)))
}

fn quote(s: &str) -> String {
    let mut out = String::from('"');
    for c in s.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}
