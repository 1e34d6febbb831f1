//! JSONPath in kubectl's dialect (`k8s.io/client-go/util/jsonpath`): templates of text and `{expressions}`, with `range` and
//! `end`, filters, slices, unions and recursive descent.

use knarr_core::Value;

use super::go;

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Text(String),
    Field(String),
    Array([Param; 3]),
    Filter { left: Vec<Node>, operator: String, right: Vec<Node> },
    Int(i64),
    Float(f64),
    Bool(bool),
    Wildcard,
    Recursive,
    Union(Vec<Vec<Node>>),
    Identifier(String),
    List(Vec<Node>),
}

/// One of `[start:end:step]`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Param {
    value: i64,
    known: bool,
    derived: bool,
}

/// A template, read.
#[derive(Clone, Debug)]
pub struct JsonPath {
    text: String,
    root: Vec<Node>,
}

type Found = Result<Vec<Value>, String>;

impl JsonPath {
    /// # Errors
    /// What is wrong with the template, in client-go's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Self { text: text.to_owned(), root: Parser::new(text).template()? })
    }

    /// The results of each part of the template.
    pub fn find(&self, data: &Value) -> Result<Vec<Vec<Value>>, String> {
        let mut at = 0;
        find(&self.root, &mut at, std::slice::from_ref(data), 0)
    }

    /// The template filled in. With `as_json`, every part is a JSON list.
    ///
    /// # Errors
    /// As kubectl tells it, with the template.
    pub fn render(&self, data: &Value, as_json: bool) -> Result<String, String> {
        let results = self.find(data).map_err(|e| {
            format!(
                "error executing jsonpath {}: Error executing template: {e}. Printing more information for debugging the template:\n\ttemplate was:\n\t\t{}\n\tobject given to jsonpath engine was:\n\t\t{}\n\n\n",
                knarr_core::field::go_quote(&self.text),
                self.text,
                go::syntax(data)
            )
        })?;
        let mut out = String::new();
        for part in results {
            if as_json {
                out += &go::json_indent(&Value::Array(part));
                out.push('\n');
                continue;
            }
            let texts: Vec<String> = part.iter().map(go::text_or_json).collect();
            out += &texts.join(" ");
        }
        Ok(out)
    }
}

/// Braces and the leading dot may be left out where only one expression is meant (`RelaxedJSONPathExpression`).
pub fn relaxed(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let inner = match (text.strip_prefix('{'), text.strip_suffix('}')) {
        (Some(_), Some(_)) => &text[1..text.len() - 1],
        (None, None) => text,
        _ => return Err(format!("unexpected path string, expected a 'name1.name2' or '.name1.name2' or '{{name1.name2}}' or '{{.name1.name2}}'")),
    };
    if inner.contains(['{', '}']) {
        return Err("unexpected path string, expected a 'name1.name2' or '.name1.name2' or '{name1.name2}' or '{.name1.name2}'".into());
    }
    Ok(format!("{{.{}}}", inner.strip_prefix('.').unwrap_or(inner)))
}

/// What a node did beside giving results.
#[derive(Default)]
struct Control {
    range: bool,
    end: bool,
}

fn find(nodes: &[Node], at: &mut usize, current: &[Value], depth: usize) -> Result<Vec<Vec<Value>>, String> {
    let mut all = Vec::new();
    while let Some(node) = nodes.get(*at) {
        *at += 1;
        let mut control = Control::default();
        let results = walk(current, node, &mut control, depth)?;
        if control.end && depth > 0 {
            return Ok(all);
        }
        if !control.range {
            all.push(results);
            continue;
        }
        let body = *at;
        if results.is_empty() {
            find(nodes, at, &[Value::Null], depth + 1)?;
        }
        for value in &results {
            *at = body;
            all.extend(find(nodes, at, std::slice::from_ref(value), depth + 1)?);
        }
    }
    Ok(all)
}

fn walk(input: &[Value], node: &Node, control: &mut Control, depth: usize) -> Found {
    let each = |value: Value| Ok(vec![value; input.len()]);
    match node {
        Node::Text(text) => Ok(vec![Value::String(text.clone())]),
        Node::Int(n) => each((*n).into()),
        Node::Float(n) => each((*n).into()),
        Node::Bool(b) => each((*b).into()),
        Node::List(list) => walk_list(input, list, control, depth),
        Node::Field(name) => Ok(input.iter().filter_map(|v| v.as_object()?.get(name)).cloned().collect()),
        Node::Wildcard => Ok(input.iter().flat_map(children).collect()),
        Node::Recursive => Ok(recursive(input)),
        Node::Array(params) => array(input, params),
        Node::Union(lists) => {
            let mut all = Vec::new();
            for list in lists {
                all.extend(walk_list(input, list, control, depth)?);
            }
            Ok(all)
        }
        Node::Filter { left, operator, right } => filter(input, left, operator, right),
        Node::Identifier(name) => match name.as_str() {
            "range" => {
                control.range = true;
                Ok(input.to_vec())
            }
            "end" if depth > 0 => {
                control.end = true;
                Ok(Vec::new())
            }
            "end" => Err("not in range, nothing to end".into()),
            other => Err(format!("unrecognized identifier {other}")),
        },
    }
}

fn walk_list(input: &[Value], nodes: &[Node], control: &mut Control, depth: usize) -> Found {
    nodes.iter().try_fold(input.to_vec(), |current, node| walk(&current, node, control, depth))
}

fn children(value: &Value) -> Vec<Value> {
    match value {
        Value::Object(map) => map.values().cloned().collect(),
        Value::Array(list) => list.clone(),
        _ => Vec::new(),
    }
}

fn recursive(input: &[Value]) -> Vec<Value> {
    let mut all = Vec::new();
    for value in input {
        let inside = children(value);
        if !inside.is_empty() {
            all.push(value.clone());
            all.extend(recursive(&inside));
        }
    }
    all
}

fn array(input: &[Value], params: &[Param; 3]) -> Found {
    let mut all = Vec::new();
    for value in input {
        let list = match value {
            Value::Null => continue,
            Value::Array(list) => list,
            other => return Err(format!("{} is not array or slice", go::type_name(other))),
        };
        let length = i64::try_from(list.len()).unwrap_or(i64::MAX);
        let mut start = if params[0].known { params[0].value } else { 0 };
        if start < 0 {
            start += length;
        }
        let mut end = if params[1].known { params[1].value } else { length };
        if end < 0 || (end == 0 && params[1].derived) {
            end += length;
        }
        if end == start {
            return Ok(all);
        }
        if start >= length || start < 0 {
            return Err(format!("array index out of bounds: index {start}, length {length}"));
        }
        if end > length || end < 0 {
            return Err(format!("array index out of bounds: index {}, length {length}", end - 1));
        }
        if start > end {
            return Err(format!("starting index {start} is greater than ending index {end}"));
        }
        if params[2].known && params[2].value <= 0 {
            return Err("step must be > 0".into());
        }
        let step = if params[2].known { usize::try_from(params[2].value).unwrap_or(1) } else { 1 };
        let (from, to) = (usize::try_from(start).unwrap_or(0), usize::try_from(end).unwrap_or(0));
        all.extend(list[from..to].iter().step_by(step).cloned());
    }
    Ok(all)
}

fn filter(input: &[Value], left: &[Node], operator: &str, right: &[Node]) -> Found {
    let mut all = Vec::new();
    for value in input {
        let Value::Array(list) = value else { return Err(format!("{} is not array or slice and cannot be filtered", go::sprint(value))) };
        for item in list {
            let one = std::slice::from_ref(item);
            let found = walk_list(one, left, &mut Control::default(), 0);
            if operator == "exists" {
                if found.is_ok_and(|f| !f.is_empty()) {
                    all.push(item.clone());
                }
                continue;
            }
            let (lefts, rights) = (found?, walk_list(one, right, &mut Control::default(), 0)?);
            if lefts.len() > 1 || rights.len() > 1 {
                return Err("can only compare one element at a time".into());
            }
            if let (Some(l), Some(r)) = (lefts.first(), rights.first())
                && go::compare(operator, l, r)?
            {
                all.push(item.clone());
            }
        }
    }
    Ok(all)
}

struct Parser<'a> {
    input: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn new(input: &'a str) -> Self {
        Self { input, at: 0 }
    }

    fn rest(&self) -> &'a str {
        &self.input[self.at..]
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest().chars().next()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn template(&mut self) -> Result<Vec<Node>, String> {
        let mut nodes = Vec::new();
        while !self.rest().is_empty() {
            match self.rest().find('{') {
                Some(0) => {
                    self.at += 1;
                    nodes.push(Node::List(self.action()?));
                }
                other => {
                    let end = other.unwrap_or(self.rest().len());
                    nodes.push(Node::Text(self.rest()[..end].to_owned()));
                    self.at += end;
                }
            }
        }
        Ok(nodes)
    }

    /// What stands between braces; the opening one has been read.
    fn action(&mut self) -> Result<Vec<Node>, String> {
        let mut nodes: Vec<Node> = Vec::new();
        loop {
            if self.rest().starts_with('}') {
                self.at += 1;
                return Ok(nodes);
            }
            if self.rest().starts_with("[?(") {
                self.at += 3;
                nodes.push(self.filter()?);
                continue;
            }
            if self.rest().starts_with("..") {
                if nodes.last() == Some(&Node::Recursive) {
                    return Err("invalid multiple recursive descent".into());
                }
                self.at += 2;
                nodes.push(Node::Recursive);
                if self.rest().starts_with(|c: char| c == '_' || c.is_alphanumeric()) {
                    nodes.push(self.field());
                }
                continue;
            }
            match self.next() {
                None | Some('\n' | '\r') => return Err("unclosed action".into()),
                Some(' ' | '@' | '$') => {}
                Some('[') => nodes.extend(self.array()?),
                Some(quote @ ('"' | '\'')) => nodes.push(Node::Text(self.quoted(quote)?)),
                Some('.') => nodes.push(self.field()),
                Some(c) if c == '+' || c == '-' || c.is_ascii_digit() => {
                    self.at -= c.len_utf8();
                    nodes.push(self.number()?);
                }
                Some(c) if c == '_' || c.is_alphanumeric() => {
                    self.at -= c.len_utf8();
                    let word = self.word();
                    nodes.push(match word.as_str() {
                        "true" => Node::Bool(true),
                        "false" => Node::Bool(false),
                        _ => Node::Identifier(word),
                    });
                }
                Some(c) => return Err(format!("unrecognized character in action: U+{:04X} '{c}'", u32::from(c))),
            }
        }
    }

    fn word(&mut self) -> String {
        let end = self.rest().find(is_terminator).unwrap_or(self.rest().len());
        let word = self.rest()[..end].to_owned();
        self.at += end;
        word
    }

    fn field(&mut self) -> Node {
        let mut name = String::new();
        let mut escaped = false;
        for c in self.rest().chars() {
            if !escaped && is_terminator(c) {
                break;
            }
            self.at += c.len_utf8();
            escaped = !escaped && c == '\\';
            if c != '\\' {
                name.push(c);
            }
        }
        if name == "*" { Node::Wildcard } else { Node::Field(name) }
    }

    fn number(&mut self) -> Result<Node, String> {
        let sign = usize::from(self.rest().starts_with(['+', '-']));
        let digits = self.rest()[sign..].find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(self.rest().len() - sign);
        let text = &self.rest()[..sign + digits];
        self.at += sign + digits;
        let plain = text.strip_prefix('+').unwrap_or(text);
        if let Ok(n) = plain.parse() {
            return Ok(Node::Int(n));
        }
        plain.parse().map(Node::Float).map_err(|_| format!("cannot parse number {text}"))
    }

    fn quoted(&mut self, quote: char) -> Result<String, String> {
        let start = self.at;
        let mut escaped = false;
        loop {
            match self.next() {
                None | Some('\n') => return Err("unterminated quoted string".into()),
                Some(c) if c == quote && !escaped => break,
                Some(c) => escaped = !escaped && c == '\\',
            }
        }
        let inner = &self.input[start..self.at - 1];
        go::unquote(inner, quote).ok_or_else(|| format!("unquote string {quote}{inner}{quote} error invalid syntax"))
    }

    fn array(&mut self) -> Result<Vec<Node>, String> {
        let end = self.rest().find([']', '\n']).filter(|e| self.rest()[*e..].starts_with(']')).ok_or("unterminated array")?;
        let text = &self.rest()[..end];
        self.at += end + 1;
        let text = if text == "*" { ":" } else { text };
        if text.contains(',') {
            let parts: Result<Vec<Vec<Node>>, String> = text.split(',').map(|part| inner(&format!("[{}]", part.trim_matches(' ')))).collect();
            return Ok(vec![Node::Union(parts?)]);
        }
        if let Some(key) = text.strip_prefix('\'').and_then(|t| t.strip_suffix('\'')).filter(|k| !k.contains('\'')) {
            return inner(&format!(".{key}"));
        }
        slice(text).map(|params| vec![Node::Array(params)])
    }

    fn filter(&mut self) -> Result<Node, String> {
        let start = self.at;
        let (mut pair, mut closed, mut before) = (None, false, ' ');
        loop {
            let c = self.next().filter(|c| *c != '\n').ok_or("unterminated filter")?;
            match (c, pair) {
                ('"' | '\'', None) => pair = Some(c),
                (c, Some(p)) if c == p && before != '\\' => closed = true,
                (')', p) if p.is_some() == closed => break,
                _ => {}
            }
            before = c;
        }
        let text = self.input[start..self.at - 1].to_owned();
        if self.next() != Some(']') {
            return Err("unclosed array expect ]".into());
        }
        let is_operator = |c: char| "!<>=".contains(c);
        let split = text.find(is_operator).filter(|at| *at > 0).map(|at| {
            let length = text[at..].find(|c| !is_operator(c)).unwrap_or(text.len() - at);
            (&text[..at], &text[at..at + length], &text[at + length..])
        });
        match split {
            Some((left, operator, right)) if !right.is_empty() => Ok(Node::Filter { left: inner(left)?, operator: operator.to_owned(), right: inner(right)? }),
            _ => Ok(Node::Filter { left: inner(&text)?, operator: "exists".into(), right: Vec::new() }),
        }
    }
}

/// An expression without its braces.
fn inner(text: &str) -> Result<Vec<Node>, String> {
    let with_brace = format!("{text}}}");
    Parser::new(&with_brace).action()
}

fn is_terminator(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n' | '.' | ',' | '[' | ']' | '$' | '@' | '{' | '}')
}

fn slice(text: &str) -> Result<[Param; 3], String> {
    let parts: Vec<&str> = text.split(':').collect();
    let good = parts.len() <= 3 && parts.iter().all(|p| p.strip_prefix('-').unwrap_or(p).bytes().all(|b| b.is_ascii_digit()));
    if !good {
        return Err(format!("invalid array index {text}"));
    }
    let mut params = [Param::default(); 3];
    for (i, param) in params.iter_mut().enumerate() {
        match parts.get(i) {
            Some(part) if !part.is_empty() => {
                *param = Param { value: part.parse().map_err(|_| format!("array index {part} is not a number"))?, known: true, derived: false };
            }
            _ => {}
        }
    }
    if parts.len() == 1 {
        params[1] = Param { value: params[0].value + 1, known: true, derived: true };
    }
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    fn data() -> Value {
        json!({"kind": "List", "n": 3, "f": 1.5, "on": true, "none": null,
            "items": [
                {"metadata": {"name": "a", "labels": {"app.kubernetes.io/name": "x"}}, "status": {"c": 4, "addresses": [{"type": "IP", "address": "1"}, {"type": "Name", "address": "h"}]}},
                {"metadata": {"name": "b"}, "status": {"c": 8, "addresses": []}}]})
    }

    #[test]
    fn templates_are_filled_in_as_client_go_does_it() {
        for (template, wanted) in [
            ("plain", "plain"),
            ("{.kind}", "List"),
            ("{.n} {.f} {.on}", "3 1.5 true"),
            ("{.missing}x", "x"),
            ("{.items[*].metadata.name}", "a b"),
            ("{.items[0].metadata.name}", "a"),
            ("{.items[-1].metadata.name}", "b"),
            ("{.items[0:1].metadata.name}", "a"),
            ("{range .items[*]}{.metadata.name}{\"\\t\"}{.status.c}{\"\\n\"}{end}", "a\t4\nb\t8\n"),
            ("{range .items[*]}[{range .status.addresses[*]}{.type},{end}]{end}!", "[IP,Name,][]!"),
            ("{.items[?(@.metadata.name==\"b\")].status.c}", "8"),
            ("{.items[?(@.status.c>4)].metadata.name}", "b"),
            ("{.items[?(@.metadata.labels)].metadata.name}", "a"),
            ("{.items[0].status.addresses[?(@.type=='IP')].address}", "1"),
            ("{.items[*]['metadata.name', 'status.c']}", "a b 4 8"),
            ("{..name}", "a b"),
            ("{.items[0].metadata.labels.app\\.kubernetes\\.io/name}", "x"),
            ("{.items[0].metadata}", "{\"labels\":{\"app.kubernetes.io/name\":\"x\"},\"name\":\"a\"}"),
            ("{.none}", "null"),
            ("{$.kind}", "List"),
        ] {
            assert_eq!(JsonPath::parse(template).and_then(|p| p.render(&data(), false)).unwrap(), wanted, "{template}");
        }
        assert_eq!(JsonPath::parse("{.items[*].metadata.name}").unwrap().render(&data(), true).unwrap(), "[\n    \"a\",\n    \"b\"\n]\n");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (template, wanted) in
            [("{.a", "unclosed action"), ("{.a[}", "unterminated array"), ("{.a[x]}", "invalid array index x"), ("{'x}", "unterminated quoted string")]
        {
            assert_eq!(JsonPath::parse(template).unwrap_err(), wanted, "{template}");
        }
        let failed = |template: &str| JsonPath::parse(template).unwrap().find(&data()).unwrap_err();
        assert_eq!(failed("{.items[5].a}"), "array index out of bounds: index 5, length 2");
        assert_eq!(failed("{end}"), "not in range, nothing to end");
        assert_eq!(failed("{.items[?(@.status.c==\"4\")]}"), "incompatible types for comparison");
    }

    #[test]
    fn braces_and_dots_may_be_left_out() {
        for text in ["a.b", ".a.b", "{a.b}", "{.a.b}"] {
            assert_eq!(relaxed(text).unwrap(), "{.a.b}", "{text}");
        }
        assert!(relaxed("{.a").is_err());
    }
}
