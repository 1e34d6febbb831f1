//! JSONPath as printer columns use it: kubectl's dialect without `range` and text (upstream: `k8s.io/client-go/util/jsonpath`).
//!
//! A path is a list of steps; each step takes the values found so far to the values it finds in them. Keys that are missing
//! find nothing.

use std::cmp::Ordering;

use knarr_core::Value;

/// A parsed path: `.status.conditions[?(@.type=="Ready")].status`.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Wildcard,
    /// `..`: the value and everything below it.
    Recursive,
    Slice(Slice),
    Union(Vec<JsonPath>),
    /// Items for which the comparison holds; without one, for which the left path finds something.
    Filter(JsonPath, Option<(Comparison, JsonPath)>),
    Literal(Value),
}

/// `[start:end:step]`; `[i]` is the slice of one that must exist.
#[derive(Clone, Debug, PartialEq)]
struct Slice {
    start: Option<i64>,
    end: Option<i64>,
    step: Option<i64>,
    single: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl JsonPath {
    /// Parses a path without its braces.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        Parser { text, at: 0 }.steps().map(Self)
    }

    /// The values that the path finds, or nothing where an index is out of bounds.
    pub fn find<'a>(&'a self, root: &'a Value) -> Vec<&'a Value> {
        self.walk(vec![root]).unwrap_or_default()
    }

    fn walk<'a>(&'a self, from: Vec<&'a Value>) -> Option<Vec<&'a Value>> {
        self.0.iter().try_fold(from, |values, step| step.walk(values))
    }
}

impl Step {
    fn walk<'a>(&'a self, from: Vec<&'a Value>) -> Option<Vec<&'a Value>> {
        let mut found = Vec::new();
        for value in from {
            match self {
                Self::Field(name) => found.extend(value.get(name)),
                Self::Wildcard => found.extend(children(value)),
                Self::Recursive => descend(value, &mut found),
                Self::Slice(slice) => slice.walk(value, &mut found)?,
                Self::Union(paths) => {
                    for path in paths {
                        found.extend(path.walk(vec![value])?);
                    }
                }
                Self::Filter(left, test) => {
                    for item in value.as_array()? {
                        if holds(left, test.as_ref(), item)? {
                            found.push(item);
                        }
                    }
                }
                Self::Literal(literal) => found.push(literal),
            }
        }
        Some(found)
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(list) => list.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    }
}

fn descend<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    if value.is_array() || value.is_object() {
        found.push(value);
        children(value).into_iter().for_each(|child| descend(child, found));
    }
}

impl Slice {
    fn walk<'a>(&self, value: &'a Value, found: &mut Vec<&'a Value>) -> Option<()> {
        let list = value.as_array()?;
        let length = i64::try_from(list.len()).ok()?;
        let from_end = |i: i64| if i < 0 { i + length } else { i };
        let start = from_end(self.start.unwrap_or(0));
        let end = if self.single { start + 1 } else { from_end(self.end.unwrap_or(length)).min(length) };
        if self.single && !(0..length).contains(&start) {
            return None;
        }
        let step = usize::try_from(self.step.unwrap_or(1)).ok().filter(|s| *s > 0)?;
        let range = usize::try_from(start.max(0)).ok()?..usize::try_from(end.max(start).max(0)).ok()?;
        found.extend(range.step_by(step).filter_map(|i| list.get(i)));
        Some(())
    }
}

fn holds(left: &JsonPath, test: Option<&(Comparison, JsonPath)>, item: &Value) -> Option<bool> {
    let found = left.walk(vec![item])?;
    let Some((comparison, right)) = test else { return Some(!found.is_empty()) };
    let Some(left) = found.first() else { return Some(false) };
    let right = right.walk(vec![item])?;
    let Some(right) = right.first() else { return Some(false) };
    let order = compare(left, right);
    Some(match comparison {
        Comparison::Equal => order == Some(Ordering::Equal),
        Comparison::NotEqual => order != Some(Ordering::Equal),
        Comparison::Less => order == Some(Ordering::Less),
        Comparison::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        Comparison::Greater => order == Some(Ordering::Greater),
        Comparison::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
    })
}

fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn steps(mut self) -> Result<Vec<Step>, String> {
        let mut steps = Vec::new();
        while let Some(c) = self.rest().chars().next() {
            match c {
                ' ' | '@' | '$' => self.at += 1,
                '.' if self.rest().starts_with("..") => {
                    if steps.last() == Some(&Step::Recursive) {
                        return Err("invalid multiple recursive descent".into());
                    }
                    self.at += 2;
                    steps.push(Step::Recursive);
                    if self.rest().starts_with(|c: char| c == '_' || c.is_alphanumeric()) {
                        steps.push(self.field());
                    }
                }
                '.' => {
                    self.at += 1;
                    steps.push(self.field());
                }
                '[' if self.rest().starts_with("[?(") => steps.push(self.filter()?),
                '[' => steps.extend(self.array()?),
                '"' | '\'' => steps.push(Step::Literal(self.quoted(c)?.into())),
                c if c == '-' || c == '+' || c.is_ascii_digit() => steps.push(self.number()?),
                c if c == '_' || c.is_alphabetic() => match self.word() {
                    "true" => steps.push(Step::Literal(true.into())),
                    "false" => steps.push(Step::Literal(false.into())),
                    other => return Err(format!("unrecognized identifier {other}")),
                },
                other => return Err(format!("unrecognized character in action: U+{:04X} '{other}'", other as u32)),
            }
        }
        Ok(steps)
    }

    /// Characters up to the next one that ends a name; a backslash takes the next one with it.
    fn word(&mut self) -> &'a str {
        let mut end = self.rest().len();
        let mut chars = self.rest().char_indices();
        while let Some((i, c)) = chars.next() {
            if c == '\\' {
                chars.next();
            } else if " \t\r\n.,[]$@{}".contains(c) {
                end = i;
                break;
            }
        }
        let word = &self.rest()[..end];
        self.at += end;
        word
    }

    fn field(&mut self) -> Step {
        match self.word() {
            "*" => Step::Wildcard,
            name => Step::Field(name.replace('\\', "")),
        }
    }

    fn number(&mut self) -> Result<Step, String> {
        let end = self.rest().char_indices().skip(1).find(|(_, c)| *c != '.' && !c.is_ascii_digit()).map_or(self.rest().len(), |(i, _)| i);
        let text = &self.rest()[..end];
        self.at += end;
        let number = text.trim_start_matches('+');
        let literal = number.parse::<i64>().map(Value::from).or_else(|_| number.parse::<f64>().map(Value::from));
        literal.map(Step::Literal).map_err(|_| format!("cannot parse number {text}"))
    }

    fn quoted(&mut self, quote: char) -> Result<String, String> {
        let inside = &self.rest()[1..];
        let mut out = String::new();
        let mut chars = inside.char_indices();
        while let Some((i, c)) = chars.next() {
            if c == quote {
                self.at += i + 2;
                return Ok(out);
            }
            out.push(if c == '\\' { chars.next().map_or('\\', |(_, next)| next) } else { c });
        }
        Err("unterminated quoted string".into())
    }

    fn array(&mut self) -> Result<Vec<Step>, String> {
        let end = self.rest().find(']').ok_or("unterminated array")?;
        let inside = &self.rest()[1..end];
        self.at += end + 1;
        if inside.contains(',') {
            let paths: Result<Vec<JsonPath>, String> = inside.split(',').map(|part| JsonPath::parse(&format!("[{}]", part.trim()))).collect();
            return Ok(vec![Step::Union(paths?)]);
        }
        if let Some(key) = inside.strip_prefix('\'').and_then(|k| k.strip_suffix('\'')).filter(|k| !k.contains('\'')) {
            return JsonPath::parse(&format!(".{key}")).map(|path| path.0);
        }
        slice(inside).map(|s| vec![Step::Slice(s)])
    }

    fn filter(&mut self) -> Result<Step, String> {
        let start = self.at + "[?(".len();
        let mut quote = None;
        let mut end = None;
        for (i, c) in self.text[start..].char_indices() {
            match (quote, c) {
                (None, '"' | '\'') => quote = Some(c),
                (Some(q), c) if c == q => quote = None,
                (None, ')') => {
                    end = Some(start + i);
                    break;
                }
                _ => {}
            }
        }
        let end = end.ok_or("unterminated filter")?;
        if !self.text[end..].starts_with(")]") {
            return Err("unclosed array expect ]".into());
        }
        self.at = end + 2;
        let inside = &self.text[start..end];
        let Some(operator) = inside.find(['!', '<', '>', '=']).filter(|i| *i > 0) else {
            return Ok(Step::Filter(JsonPath::parse(inside)?, None));
        };
        let (left, rest) = inside.split_at(operator);
        let length = rest.find(|c: char| !"!<>=".contains(c)).unwrap_or(rest.len());
        let comparison = match &rest[..length] {
            "==" | "=" => Comparison::Equal,
            "!=" => Comparison::NotEqual,
            "<" => Comparison::Less,
            "<=" => Comparison::LessOrEqual,
            ">" => Comparison::Greater,
            ">=" => Comparison::GreaterOrEqual,
            other => return Err(format!("unrecognized filter operator {other}")),
        };
        Ok(Step::Filter(JsonPath::parse(left)?, Some((comparison, JsonPath::parse(&rest[length..])?))))
    }
}

fn slice(text: &str) -> Result<Slice, String> {
    let text = if text == "*" { ":" } else { text };
    let number = |part: &str| match part {
        "" => Ok(None),
        digits => digits.parse::<i64>().map(Some).map_err(|_| format!("invalid array index {text}")),
    };
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [one] => Ok(Slice { start: number(one)?, end: None, step: None, single: true }),
        [start, end] => Ok(Slice { start: number(start)?, end: number(end)?, step: None, single: false }),
        [start, end, step] => Ok(Slice { start: number(start)?, end: number(end)?, step: number(step)?, single: false }),
        _ => Err(format!("invalid array index {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_find_what_kubectl_finds() {
        let o = json!({"spec": {"a": 1, "l": [{"n": "x", "v": 1}, {"n": "y", "v": 2}], "k.e": "dot"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        for (path, wanted) in [
            (".spec.a", json!([1])),
            (".spec.missing", json!([])),
            (".spec.l[0].n", json!(["x"])),
            (".spec.l[-1].n", json!(["y"])),
            (".spec.l[7].n", json!([])),
            (".spec.l[*].v", json!([1, 2])),
            (".spec.l[0,1].n", json!(["x", "y"])),
            (".spec.l[1:].n", json!(["y"])),
            (".spec.k\\.e", json!(["dot"])),
            (".spec['k\\.e']", json!(["dot"])),
            ("$.status.conditions[?(@.type==\"Ready\")].status", json!(["True"])),
            (".status.conditions[?(@.type=='Other')].status", json!([])),
            (".spec.l[?(@.v>1)].n", json!(["y"])),
            ("..n", json!(["x", "y"])),
        ] {
            assert_eq!(json!(JsonPath::parse(path).unwrap().find(&o)), wanted, "{path}");
        }
        for bad in [".a[", "%", ".a[b]", "[?(@.a"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }
}
