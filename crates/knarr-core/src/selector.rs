//! Label and field selectors: parsed once, asked often.
//!
//! Grammar and texts follow `k8s.io/apimachinery/pkg/labels/selector.go` and `pkg/fields/selector.go`.

use std::fmt;

use crate::{Value, names};

/// How a requirement compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// One comma-separated part of a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    /// Sorted; as given for `GreaterThan` and `LessThan`.
    pub values: Vec<String>,
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let is_in = || value.is_some_and(|v| self.values.iter().any(|w| w == v));
        let compare = |wanted: fn(&i64, &i64) -> bool| match (value.and_then(|v| v.parse().ok()), self.values.first().and_then(|v| v.parse().ok())) {
            (Some(a), Some(b)) => wanted(&a, &b),
            _ => false,
        };
        match self.operator {
            Operator::In => is_in(),
            Operator::NotIn => !is_in(),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => compare(i64::gt),
            Operator::LessThan => compare(i64::lt),
        }
    }
}

/// All requirements must hold; without any, everything matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    pub requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    pub fn everything() -> Self {
        Self::default()
    }

    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// Reads `a=b,c!=d,e in (f,g),!h`.
    ///
    /// # Errors
    /// A sentence that says which part is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { rest: text.trim() };
        let mut requirements = Vec::new();
        while !parser.rest.is_empty() {
            requirements.push(parser.requirement()?);
            parser.skip_space();
            if parser.rest.is_empty() {
                break;
            }
            if !parser.eat(",") {
                return Err(format!("found '{}', expected: ',' or 'end of string'", parser.token()));
            }
            parser.skip_space();
            if parser.rest.is_empty() {
                return Err("found '', expected: identifier after ','".into());
            }
        }
        requirements.sort_by(|a: &Requirement, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// From a map of exact matches (a Service's or a ReplicationController's selector). An empty or absent map matches everything.
    pub fn from_map(map: Option<&Value>) -> Self {
        let requirements = map.and_then(Value::as_object).map_or_else(Vec::new, |m| m.iter().map(|(k, v)| equals(k, v.as_str().unwrap_or_default())).collect());
        Self { requirements, nothing: false }
    }

    /// From `metav1.LabelSelector`: an absent one matches nothing, an empty one everything.
    ///
    /// # Errors
    /// An operator that is none.
    pub fn from_value(selector: Option<&Value>) -> Result<Self, String> {
        let Some(selector) = selector.filter(|s| !s.is_null()) else { return Ok(Self::nothing()) };
        let mut built = Self::from_map(selector.get("matchLabels"));
        for e in selector.get("matchExpressions").and_then(Value::as_array).map_or(&[][..], Vec::as_slice) {
            let operator = match e.get("operator").and_then(Value::as_str).unwrap_or_default() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                "Gt" => Operator::GreaterThan,
                "Lt" => Operator::LessThan,
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            let mut values: Vec<String> =
                e.get("values").and_then(Value::as_array).map_or_else(Vec::new, |v| v.iter().filter_map(Value::as_str).map(str::to_owned).collect());
            values.sort();
            built.requirements.push(Requirement { key: e.get("key").and_then(Value::as_str).unwrap_or_default().to_owned(), operator, values });
        }
        built.requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(built)
    }

    /// Whether labels, looked up by `get`, fulfil every requirement.
    pub fn matches_by<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(get(&r.key)))
    }

    /// Whether the labels of an object (`metadata.labels`, or none) fulfil every requirement.
    pub fn matches(&self, labels: Option<&Value>) -> bool {
        self.matches_by(|key| labels.and_then(|l| l.get(key)).and_then(Value::as_str))
    }

    /// The same for a typed object's labels.
    pub fn matches_map(&self, labels: Option<&std::collections::BTreeMap<String, String>>) -> bool {
        self.matches_by(|key| labels.and_then(|l| l.get(key)).map(String::as_str))
    }
}

fn equals(key: &str, value: &str) -> Requirement {
    Requirement { key: key.into(), operator: Operator::In, values: vec![value.into()] }
}

/// The canonical text, as `kubectl scale -o yaml` shows it in `status.selector`.
impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let (key, first) = (&r.key, r.values.first().map_or("", String::as_str));
            match r.operator {
                Operator::In if r.values.len() == 1 => write!(f, "{key}={first}")?,
                Operator::NotIn if r.values.len() == 1 => write!(f, "{key}!={first}")?,
                Operator::In => write!(f, "{key} in ({})", r.values.join(","))?,
                Operator::NotIn => write!(f, "{key} notin ({})", r.values.join(","))?,
                Operator::Exists => write!(f, "{key}")?,
                Operator::DoesNotExist => write!(f, "!{key}")?,
                Operator::GreaterThan => write!(f, "{key}>{first}")?,
                Operator::LessThan => write!(f, "{key}<{first}")?,
            }
        }
        Ok(())
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, token: &str) -> bool {
        self.skip_space();
        let found = self.rest.strip_prefix(token);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    fn token(&mut self) -> &'a str {
        self.skip_space();
        let end = self.rest.find(|c: char| c.is_whitespace() || "=!(),<>".contains(c)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        token
    }

    /// The sign that stands next, as upstream's lexer cuts it.
    fn sign(&self) -> &'a str {
        let signs = ["==", "!=", "=", "!", "(", ")", ",", "<", ">"];
        signs.into_iter().find(|s| self.rest.starts_with(s)).unwrap_or_default()
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = self.eat("!");
        let key = self.token();
        if key.is_empty() {
            return Err(format!("found '{}', expected: !, identifier, or 'end of string'", self.rest.chars().take(1).collect::<String>()));
        }
        if let Some(problem) = names::is_qualified_name(key).first() {
            return Err(format!("key: Invalid value: {}: {problem}", crate::field::go_quote(key)));
        }
        let made = |operator, values| Requirement { key: key.to_owned(), operator, values };
        self.skip_space();
        if absent {
            return Ok(made(Operator::DoesNotExist, vec![]));
        }
        if self.rest.is_empty() || self.rest.starts_with(',') {
            return Ok(made(Operator::Exists, vec![]));
        }
        for (sign, operator) in [("==", Operator::In), ("=", Operator::In), ("!=", Operator::NotIn), (">", Operator::GreaterThan), ("<", Operator::LessThan)] {
            if self.eat(sign) {
                self.skip_space();
                let value = self.token();
                if value.is_empty() && !self.rest.is_empty() && !self.rest.starts_with(',') {
                    return Err(format!("found '{}', expected: identifier", self.sign()));
                }
                check_value(key, value)?;
                if matches!(operator, Operator::GreaterThan | Operator::LessThan) && value.parse::<i64>().is_err() {
                    return Err(format!(
                        "values[0][{key}]: Invalid value: {}: for 'Gt', 'Lt' operators, the value must be an integer",
                        crate::field::go_quote(value)
                    ));
                }
                return Ok(made(operator, vec![value.to_owned()]));
            }
        }
        match self.token() {
            "in" => Ok(made(Operator::In, self.values(key)?)),
            "notin" => Ok(made(Operator::NotIn, self.values(key)?)),
            other => Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        }
    }

    fn values(&mut self, key: &str) -> Result<Vec<String>, String> {
        if !self.eat("(") {
            return Err(format!("found '{}' expected: '('", self.token()));
        }
        let Some(end) = self.rest.find(')') else { return Err("found '', expected: ',', or ')'".into()) };
        let mut values: Vec<String> = self.rest[..end].split(',').map(|v| v.trim().to_owned()).collect();
        self.rest = &self.rest[end + 1..];
        for v in &values {
            check_value(key, v)?;
        }
        values.sort();
        values.dedup();
        Ok(values)
    }
}

fn check_value(key: &str, value: &str) -> Result<(), String> {
    match names::is_label_value(value).first() {
        Some(problem) => Err(format!("values[0][{key}]: Invalid value: {}: {problem}", crate::field::go_quote(value))),
        None => Ok(()),
    }
}

/// One part of a field selector: `field=value` or `field!=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    pub field: String,
    pub value: String,
    pub negated: bool,
}

/// All terms must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    pub terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// # Errors
    /// A part without an operator, or a bad escape.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut terms = Vec::new();
        for part in split_unescaped(text) {
            if part.is_empty() {
                continue;
            }
            let (field, value, negated) = split_term(part).ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{part}'"))?;
            terms.push(FieldTerm { field: field.to_owned(), value: unescape(value)?, negated });
        }
        Ok(Self { terms })
    }

    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value that `field` must have, when the selector asks for exactly one.
    pub fn requires(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| !t.negated && t.field == field).map(|t| t.value.as_str())
    }

    /// Whether fields, looked up by `get` (absent: empty), fulfil every term.
    pub fn matches_by<'a>(&self, get: impl Fn(&str) -> &'a str) -> bool {
        self.terms.iter().all(|t| (get(&t.field) == t.value) != t.negated)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, t) in self.terms.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            write!(f, "{comma}{}{}{}", t.field, if t.negated { "!=" } else { "=" }, escape(&t.value))?;
        }
        Ok(())
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn split_term(part: &str) -> Option<(&str, &str, bool)> {
    let at = part.find(['=', '!'])?;
    let (field, rest) = part.split_at(at);
    for (sign, negated) in [("!=", true), ("==", false), ("=", false)] {
        if let Some(value) = rest.strip_prefix(sign) {
            return Some((field, value, negated));
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(e @ ('\\' | ',' | '=')) => out.push(e),
                _ => return Err(format!("invalid field selector: invalid escape sequence in {value:?}")),
            },
            '=' | ',' => return Err(format!("invalid field selector: unescaped character in value: {value:?}")),
            c => out.push(c),
        }
    }
    Ok(out)
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_selector_prints_as_it_was_meant() {
        for (text, wanted) in [("b=c,a==d", "a=d,b=c"), ("x in (b, a)", "x in (a,b)"), ("!q,p", "p,!q"), ("n notin (a)", "n!=a"), ("k>3", "k>3"), ("", "")] {
            assert_eq!(LabelSelector::parse(text).unwrap().to_string(), wanted, "{text}");
        }
        for bad in ["a=b,", "a b", ",", "a in b", "a in (b", "=", "a=-"] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn requirements_hold_together() {
        let labels = json!({"app": "web", "n": "5"});
        for (text, wanted) in [
            ("app=web", true),
            ("app!=web", false),
            ("other!=web", true),
            ("n>4,app", true),
            ("n<5", false),
            ("!other", true),
            ("app in (db,web)", true),
            ("app notin (web)", false),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap().matches(Some(&labels)), wanted, "{text}");
        }
        assert!(!LabelSelector::from_value(None).unwrap().matches(Some(&labels)));
        assert!(LabelSelector::from_value(Some(&json!({}))).unwrap().matches(Some(&labels)));
        assert!(
            LabelSelector::from_value(Some(&json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]})))
                .unwrap()
                .matches(Some(&labels))
        );
    }

    #[test]
    fn field_selectors_take_escapes() {
        let s = FieldSelector::parse("metadata.name=a\\,b,spec.nodeName!=n1").unwrap();
        assert_eq!(s.requires("metadata.name"), Some("a,b"));
        assert_eq!(s.to_string(), "metadata.name=a\\,b,spec.nodeName!=n1");
        assert!(s.matches_by(|f| if f == "metadata.name" { "a,b" } else { "n2" }));
        assert!(FieldSelector::parse("a").is_err());
    }
}
