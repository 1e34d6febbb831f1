//! `-o go-template`: Go's `text/template` as far as JSON needs it: fields, variables, pipelines, `if`, `with`, `range`, `else`, the
//! functions that compare, join and format, and kubectl's own `exists` and `base64decode`.

use base64::Engine as _;
use knarr_core::Value;

use super::go;
use crate::kubectl::failure::Result as VerbResult;

#[derive(Clone, Debug)]
enum Node {
    Text(String),
    Print(Pipe),
    If(Pipe, Vec<Node>, Vec<Node>),
    With(Pipe, Vec<Node>, Vec<Node>),
    Range(Pipe, Vec<Node>, Vec<Node>),
    Break,
    Continue,
}

/// Commands, each getting the value of the one before as its last argument; perhaps kept in variables.
#[derive(Clone, Debug, Default)]
struct Pipe {
    variables: Vec<String>,
    assign: bool,
    commands: Vec<Vec<Operand>>,
}

#[derive(Clone, Debug)]
enum Operand {
    Dot,
    Field(Vec<String>),
    Variable(String, Vec<String>),
    Literal(Value),
    Function(String),
    Sub(Pipe, Vec<String>),
}

/// A template, read.
#[derive(Clone, Debug)]
pub struct Template {
    text: String,
    nodes: Vec<Node>,
    missing_allowed: bool,
}

impl Template {
    pub fn parse(text: &str, missing_allowed: bool) -> VerbResult<Self> {
        let failed = |e: String| format!("error parsing template {text}, template: output:1: {e}\n");
        let tokens = lex(text).map_err(failed)?;
        let mut parser = Parser { tokens, at: 0 };
        let (nodes, end) = parser.block().map_err(failed)?;
        if let Some(end) = end {
            return Err(failed(format!("unexpected {{{{{end}}}}}")).into());
        }
        Ok(Self { text: text.to_owned(), nodes, missing_allowed })
    }

    pub fn render(&self, data: &Value) -> VerbResult<String> {
        let mut run = Run { out: String::new(), variables: vec![("$".into(), Some(data.clone()))], missing_allowed: self.missing_allowed };
        match run.nodes(&self.nodes, &Some(data.clone())) {
            Ok(_) => Ok(run.out),
            Err(e) => {
                let text = &self.text;
                // What was printed before the error stays printed, as kubectl has it.
                print!(
                    "Error executing template: template: output:1: executing \"output\": {e}. Printing more information for debugging the template:\n\ttemplate was:\n\t\t{text}\n\traw data was:\n\t\t{data}\n\tobject given to template engine was:\n\t\t{}\n\n",
                    go::sprint(data)
                );
                Err(format!("error executing template {}: template: output:1: executing \"output\": {e}", knarr_core::field::go_quote(text)).into())
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Token {
    Text(String),
    Action(String),
}

/// Text and actions, with `{{-` and `-}}` applied and comments left out.
fn lex(text: &str) -> Result<Vec<Token>, String> {
    let (mut tokens, mut rest, mut trim) = (Vec::new(), text, false);
    loop {
        let at = rest.find("{{").unwrap_or(rest.len());
        let mut before = &rest[..at];
        if trim {
            before = before.trim_start();
        }
        if at == rest.len() {
            tokens.push(Token::Text(before.to_owned()));
            return Ok(tokens);
        }
        let mut inner = &rest[at + 2..];
        if let Some(trimmed) = inner.strip_prefix('-').filter(|t| t.starts_with(char::is_whitespace)) {
            before = before.trim_end();
            inner = trimmed;
        }
        tokens.push(Token::Text(before.to_owned()));
        let end = action_end(inner).ok_or("unclosed action")?;
        let body = &inner[..end];
        let (body, trims) = match body.strip_suffix('-') {
            Some(b) if b.ends_with(char::is_whitespace) => (b, true),
            _ => (body, false),
        };
        trim = trims;
        if !body.trim().starts_with("/*") {
            tokens.push(Token::Action(body.trim().to_owned()));
        }
        rest = &inner[end + 2..];
    }
}

fn action_end(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (None, '"' | '`') => quote = Some(c),
            (None, '}') if text[i..].starts_with("}}") => return Some(i),
            (Some('"'), '\\') if !escaped => {
                escaped = true;
                continue;
            }
            (Some(q), c) if c == q && !escaped => quote = None,
            _ => {}
        }
        escaped = false;
    }
    None
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    /// Nodes up to `end` or `else`; says which, with what follows the word.
    fn block(&mut self) -> Result<(Vec<Node>, Option<String>), String> {
        let mut nodes = Vec::new();
        while let Some(token) = self.tokens.get(self.at).cloned() {
            self.at += 1;
            let action = match token {
                Token::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Token::Action(action) => action,
            };
            let (word, rest) = action.split_once(char::is_whitespace).unwrap_or((&action, ""));
            match word {
                "end" | "else" => return Ok((nodes, Some(action.clone()))),
                "if" => nodes.push(self.branch(rest, Node::If)?),
                "with" => nodes.push(self.branch(rest, Node::With)?),
                "range" => nodes.push(self.branch(rest, Node::Range)?),
                "break" => nodes.push(Node::Break),
                "continue" => nodes.push(Node::Continue),
                _ => nodes.push(Node::Print(pipe(&action)?)),
            }
        }
        Ok((nodes, None))
    }

    fn branch(&mut self, head: &str, make: fn(Pipe, Vec<Node>, Vec<Node>) -> Node) -> Result<Node, String> {
        let condition = pipe(head)?;
        let (body, end) = self.block()?;
        let otherwise = match end.as_deref() {
            Some("end") => Vec::new(),
            Some("else") => match self.block()? {
                (nodes, Some(end)) if end == "end" => nodes,
                _ => return Err("unexpected EOF".into()),
            },
            Some(chained) => {
                let chained = chained.trim_start_matches("else").trim();
                let (word, rest) = chained.split_once(char::is_whitespace).unwrap_or((chained, ""));
                match word {
                    "if" => vec![self.branch(rest, Node::If)?],
                    "with" => vec![self.branch(rest, Node::With)?],
                    _ => return Err(format!("unexpected <{word}> in else")),
                }
            }
            None => return Err("unexpected EOF".into()),
        };
        Ok(make(condition, body, otherwise))
    }
}

fn pipe(text: &str) -> Result<Pipe, String> {
    let mut words = Words { text, at: 0 };
    let found = words.pipe(false)?;
    if found.commands.is_empty() { Err("missing value for command".into()) } else { Ok(found) }
}

struct Words<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Words<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn pipe(&mut self, nested: bool) -> Result<Pipe, String> {
        let mut found = Pipe::default();
        self.declaration(&mut found);
        let mut command = Vec::new();
        loop {
            self.space();
            let Some(c) = self.rest().chars().next() else {
                if nested {
                    return Err("unclosed left paren".into());
                }
                break;
            };
            match c {
                '|' => {
                    self.at += 1;
                    if command.is_empty() {
                        return Err("missing value for command".into());
                    }
                    found.commands.push(std::mem::take(&mut command));
                }
                ')' if nested => {
                    self.at += 1;
                    break;
                }
                _ => command.push(self.operand()?),
            }
        }
        if !command.is_empty() {
            found.commands.push(command);
        }
        Ok(found)
    }

    /// `$a, $b :=` or `$a =`
    fn declaration(&mut self, pipe: &mut Pipe) {
        self.space();
        if !self.rest().starts_with('$') {
            return;
        }
        let Some(at) = self.rest().find('=') else { return };
        let (head, assign) = match self.rest()[..at].strip_suffix(':') {
            Some(head) => (head, false),
            None => (&self.rest()[..at], true),
        };
        let names: Vec<&str> = head.split(',').map(str::trim).collect();
        let good = names.iter().all(|n| n.starts_with('$') && n[1..].chars().all(|c| c == '_' || c.is_alphanumeric()));
        if good {
            pipe.variables = names.into_iter().map(str::to_owned).collect();
            pipe.assign = assign;
            self.at += at + 1;
        }
    }

    fn name(&mut self) -> String {
        let end = self.rest().find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(self.rest().len());
        let name = self.rest()[..end].to_owned();
        self.at += end;
        name
    }

    fn fields(&mut self) -> Vec<String> {
        let mut fields = Vec::new();
        while self.rest().starts_with('.') && self.rest()[1..].starts_with(|c: char| c == '_' || c.is_alphabetic()) {
            self.at += 1;
            fields.push(self.name());
        }
        fields
    }

    fn operand(&mut self) -> Result<Operand, String> {
        let rest = self.rest();
        let first = rest.chars().next().unwrap_or(' ');
        match first {
            '.' => {
                let fields = self.fields();
                if fields.is_empty() {
                    self.at += 1;
                    return Ok(Operand::Dot);
                }
                Ok(Operand::Field(fields))
            }
            '$' => {
                self.at += 1;
                let name = self.name();
                Ok(Operand::Variable(format!("${name}"), self.fields()))
            }
            '(' => {
                self.at += 1;
                let inner = self.pipe(true)?;
                Ok(Operand::Sub(inner, self.fields()))
            }
            '"' => {
                let end = action_string_end(&rest[1..]).ok_or("unterminated quoted string")?;
                self.at += end + 2;
                go::unquote(&rest[1..=end], '"').map(|s| Operand::Literal(s.into())).ok_or_else(|| "invalid syntax".into())
            }
            '`' => {
                let end = rest[1..].find('`').ok_or("unterminated raw quoted string")?;
                self.at += end + 2;
                Ok(Operand::Literal(rest[1..=end].into()))
            }
            c if c.is_ascii_digit() || ((c == '-' || c == '+') && rest[1..].starts_with(|c: char| c.is_ascii_digit())) => {
                let end = rest[1..].find(|c: char| !c.is_ascii_digit() && !".eE_x".contains(c)).map_or(rest.len(), |e| e + 1);
                self.at += end;
                let text = rest[..end].trim_start_matches('+');
                let number = text.parse::<i64>().map(Value::from).or_else(|_| text.parse::<f64>().map(Value::from));
                number.map(Operand::Literal).map_err(|_| format!("bad number syntax: \"{text}\""))
            }
            c if c == '_' || c.is_alphabetic() => {
                let name = self.name();
                Ok(match name.as_str() {
                    "true" => Operand::Literal(true.into()),
                    "false" => Operand::Literal(false.into()),
                    "nil" => Operand::Literal(Value::Null),
                    name if FUNCTIONS.contains(&name) => Operand::Function(name.to_owned()),
                    name => return Err(format!("function \"{name}\" not defined")),
                })
            }
            c => Err(format!("unexpected {c:?} in operand")),
        }
    }
}

fn action_string_end(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        match c {
            '"' if !escaped => return Some(i),
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    None
}

const FUNCTIONS: &[&str] = &[
    "and",
    "base64decode",
    "eq",
    "exists",
    "ge",
    "gt",
    "html",
    "index",
    "js",
    "le",
    "len",
    "lt",
    "ne",
    "not",
    "or",
    "print",
    "printf",
    "println",
    "slice",
    "urlquery",
];

/// A value, or none: what Go prints as `<no value>`.
type Maybe = Option<Value>;

enum Flow {
    On,
    Break,
    Continue,
}

struct Run {
    out: String,
    variables: Vec<(String, Maybe)>,
    missing_allowed: bool,
}

fn is_true(value: &Maybe) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Bool(b)) => *b,
        Some(Value::Number(n)) => n.as_f64() != Some(0.0),
        Some(Value::String(s)) => !s.is_empty(),
        Some(Value::Array(l)) => !l.is_empty(),
        Some(Value::Object(m)) => !m.is_empty(),
    }
}

impl Run {
    fn nodes(&mut self, nodes: &[Node], dot: &Maybe) -> Result<Flow, String> {
        let mark = self.variables.len();
        let outcome = self.nodes_within(nodes, dot);
        self.variables.truncate(mark);
        outcome
    }

    fn nodes_within(&mut self, nodes: &[Node], dot: &Maybe) -> Result<Flow, String> {
        for node in nodes {
            let flow = match node {
                Node::Text(text) => {
                    self.out.push_str(text);
                    Flow::On
                }
                Node::Print(pipe) => {
                    let value = self.pipe(pipe, dot)?;
                    if pipe.variables.is_empty() {
                        self.out.push_str(&printed(&value));
                    }
                    Flow::On
                }
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
                Node::If(condition, yes, no) | Node::With(condition, yes, no) => {
                    let mark = self.variables.len();
                    let value = self.pipe(condition, dot)?;
                    let inner = if matches!(node, Node::With(..)) && is_true(&value) { value.clone() } else { dot.clone() };
                    let flow = self.nodes(if is_true(&value) { yes } else { no }, &inner)?;
                    self.variables.truncate(mark);
                    flow
                }
                Node::Range(over, body, otherwise) => self.range(over, body, otherwise, dot)?,
            };
            if !matches!(flow, Flow::On) {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn range(&mut self, over: &Pipe, body: &[Node], otherwise: &[Node], dot: &Maybe) -> Result<Flow, String> {
        let plain = Pipe { variables: Vec::new(), ..over.clone() };
        let items: Vec<(Value, Value)> = match self.pipe(&plain, dot)? {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(list)) => list.into_iter().enumerate().map(|(i, v)| (Value::from(i), v)).collect(),
            Some(Value::Object(map)) => map.into_iter().map(|(k, v)| (Value::from(k), v)).collect(),
            Some(Value::Number(n)) if n.as_f64().is_some_and(|f| f.fract() == 0.0) => {
                (0..n.as_f64().unwrap_or(0.0) as i64).map(|i| (i.into(), i.into())).collect()
            }
            Some(other) => return Err(format!("range can't iterate over {}", go::sprint(&other))),
        };
        if items.is_empty() {
            return self.nodes(otherwise, dot);
        }
        for (key, item) in items {
            let mark = self.variables.len();
            match over.variables.as_slice() {
                [value] => self.variables.push((value.clone(), Some(item.clone()))),
                [index, value, ..] => {
                    self.variables.push((index.clone(), Some(key)));
                    self.variables.push((value.clone(), Some(item.clone())));
                }
                [] => {}
            }
            let flow = self.nodes(body, &Some(item))?;
            self.variables.truncate(mark);
            if matches!(flow, Flow::Break) {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn pipe(&mut self, pipe: &Pipe, dot: &Maybe) -> Result<Maybe, String> {
        let mut value: Option<Maybe> = None;
        for command in &pipe.commands {
            value = Some(self.command(command, dot, value.take())?);
        }
        let value = value.flatten();
        for name in &pipe.variables {
            match self.variables.iter_mut().rev().find(|(n, _)| pipe.assign && n == name) {
                Some((_, there)) => there.clone_from(&value),
                None => self.variables.push((name.clone(), value.clone())),
            }
        }
        Ok(value)
    }

    fn command(&mut self, command: &[Operand], dot: &Maybe, last: Option<Maybe>) -> Result<Maybe, String> {
        let Some((first, rest)) = command.split_first() else { return Err("empty command".into()) };
        let Operand::Function(name) = first else {
            if !rest.is_empty() || last.is_some() {
                return Err(format!("can't give argument to non-function {}", self.operand(first, dot)?.map(|v| go::sprint(&v)).unwrap_or_default()));
            }
            return self.operand(first, dot);
        };
        if name == "and" || name == "or" {
            let mut value = None;
            for operand in rest {
                value = self.operand(operand, dot)?;
                if is_true(&value) == (name == "or") {
                    return Ok(value);
                }
            }
            return Ok(last.unwrap_or(value));
        }
        let mut arguments = rest.iter().map(|o| self.operand(o, dot)).collect::<Result<Vec<_>, _>>()?;
        arguments.extend(last);
        call(name, &arguments).map_err(|e| format!("error calling {name}: {e}"))
    }

    fn operand(&mut self, operand: &Operand, dot: &Maybe) -> Result<Maybe, String> {
        match operand {
            Operand::Dot => Ok(dot.clone()),
            Operand::Literal(value) => Ok(Some(value.clone())),
            Operand::Field(fields) => self.fields(dot.clone(), fields),
            Operand::Variable(name, fields) => {
                let found = self.variables.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.clone());
                self.fields(found.ok_or_else(|| format!("undefined variable \"{name}\""))?, fields)
            }
            Operand::Function(name) => call(name, &[]).map_err(|e| format!("error calling {name}: {e}")),
            Operand::Sub(pipe, fields) => {
                let value = self.pipe(pipe, dot)?;
                self.fields(value, fields)
            }
        }
    }

    fn fields(&self, mut value: Maybe, fields: &[String]) -> Result<Maybe, String> {
        for field in fields {
            value = match value {
                Some(Value::Object(map)) => match map.get(field) {
                    Some(found) => Some(found.clone()),
                    None if self.missing_allowed => None,
                    None => return Err(format!("<.{field}>: map has no entry for key \"{field}\"")),
                },
                None | Some(Value::Null) if self.missing_allowed => None,
                None | Some(Value::Null) => return Err(format!("<.{field}>: nil data; no entry for key \"{field}\"")),
                Some(other) => return Err(format!("<.{field}>: can't evaluate field {field} in type {}", template_type(&other))),
            };
        }
        Ok(value)
    }
}

/// Numbers of JSON are floats here, since the object went through `json.Unmarshal`.
fn template_type(value: &Value) -> &'static str {
    if value.is_number() { "float64" } else { go::type_name(value) }
}

fn printed(value: &Maybe) -> String {
    match value {
        None | Some(Value::Null) => "<no value>".into(),
        Some(value) => sprint(value),
    }
}

/// `fmt.Sprint` where numbers are floats.
fn sprint(value: &Value) -> String {
    match value {
        Value::Number(n) => match n.as_f64() {
            Some(f) => go::float(f),
            None => n.to_string(),
        },
        Value::Array(list) => format!("[{}]", list.iter().map(sprint).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => format!("map[{}]", map.iter().map(|(k, v)| format!("{k}:{}", sprint(v))).collect::<Vec<_>>().join(" ")),
        other => go::sprint(other),
    }
}

fn call(name: &str, arguments: &[Maybe]) -> Result<Maybe, String> {
    let text = |i: usize| arguments.get(i).cloned().flatten().map(|v| sprint(&v)).unwrap_or_default();
    let wants = |n: usize| if arguments.len() < n { Err(format!("wrong number of args for {name}: want {n} got {}", arguments.len())) } else { Ok(()) };
    let some = |value: Value| Ok(Some(value));
    match name {
        "not" => {
            wants(1)?;
            some((!is_true(&arguments[0])).into())
        }
        "len" => {
            wants(1)?;
            match &arguments[0] {
                Some(Value::String(s)) => some(s.len().into()),
                Some(Value::Array(l)) => some(l.len().into()),
                Some(Value::Object(m)) => some(m.len().into()),
                other => Err(format!("len of type {}", other.as_ref().map_or("nil", template_type))),
            }
        }
        "eq" | "ne" | "lt" | "le" | "gt" | "ge" => {
            wants(2)?;
            compare(name, arguments).map(|b| Some(b.into()))
        }
        "index" => arguments[1..].iter().try_fold(arguments.first().cloned().flatten(), |value, key| index(value, key)),
        "exists" => some(exists(arguments).into()),
        "print" => some(print_all(arguments).into()),
        "println" => some((arguments.iter().map(printed).collect::<Vec<_>>().join(" ") + "\n").into()),
        "printf" => {
            wants(1)?;
            some(printf(&text(0), &arguments[1..]).into())
        }
        "base64decode" => {
            wants(1)?;
            let bytes = base64::engine::general_purpose::STANDARD.decode(text(0)).map_err(|e| format!("base64 decode failed: {e}"))?;
            some(String::from_utf8_lossy(&bytes).into_owned().into())
        }
        "slice" => {
            wants(1)?;
            let number = |i: usize| arguments.get(i).cloned().flatten().and_then(|v| v.as_u64()).and_then(|n| usize::try_from(n).ok());
            match &arguments[0] {
                Some(Value::String(s)) => some(s.get(number(1).unwrap_or(0)..number(2).unwrap_or(s.len())).ok_or("index out of range")?.into()),
                Some(Value::Array(l)) => some(l.get(number(1).unwrap_or(0)..number(2).unwrap_or(l.len())).ok_or("index out of range")?.to_vec().into()),
                _ => Err("can't slice item".into()),
            }
        }
        "html" => {
            some(print_all(arguments).replace('&', "&amp;").replace('\'', "&#39;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;").into())
        }
        "js" => {
            some(print_all(arguments).replace('\\', "\\\\").replace('\'', "\\'").replace('"', "\\\"").replace('<', "\\u003C").replace('>', "\\u003E").into())
        }
        "urlquery" => some(crate::kubectl::session::encode(&print_all(arguments)).replace("%20", "+").into()),
        other => Err(format!("function {other} is not known")),
    }
}

/// A space stands between two values when neither is text.
fn print_all(arguments: &[Maybe]) -> String {
    let mut out = String::new();
    for (i, argument) in arguments.iter().enumerate() {
        let is_text = |a: &Maybe| matches!(a, Some(Value::String(_)));
        if i > 0 && !is_text(argument) && !is_text(&arguments[i - 1]) {
            out.push(' ');
        }
        out += &printed(argument);
    }
    out
}

fn compare(name: &str, arguments: &[Maybe]) -> Result<bool, String> {
    let left = arguments[0].clone().unwrap_or_default();
    let operator = |name: &str| match name {
        "lt" => "<",
        "le" => "<=",
        "gt" => ">",
        "ge" => ">=",
        "ne" => "!=",
        _ => "==",
    };
    let one = |right: &Maybe| {
        let right = right.clone().unwrap_or_default();
        if left.is_null() || right.is_null() {
            return match name {
                "eq" => Ok(left == right),
                "ne" => Ok(left != right),
                _ => Err("invalid type for comparison".to_owned()),
            };
        }
        go::compare(operator(name), &left, &right)
    };
    if name == "eq" {
        for right in &arguments[1..] {
            if one(right)? {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    one(&arguments[1])
}

fn index(value: Maybe, key: &Maybe) -> Result<Maybe, String> {
    match (value, key) {
        (Some(Value::Object(map)), Some(Value::String(key))) => Ok(map.get(key).cloned()),
        (Some(Value::Array(list)), Some(key)) => {
            let at = key.as_f64().ok_or("cannot index slice/array with type string")?;
            list.get(at as usize).cloned().map(Some).ok_or_else(|| format!("reflect: slice index out of range: {at}"))
        }
        (None | Some(Value::Null), _) => Err("index of untyped nil".into()),
        (Some(other), _) => Err(format!("can't index item of type {}", template_type(&other))),
    }
}

fn exists(arguments: &[Maybe]) -> bool {
    let found = arguments.get(1..).unwrap_or_default().iter().try_fold(arguments.first().cloned().flatten(), |value, key| match (value, key) {
        (Some(Value::Object(map)), Some(Value::String(key))) => Some(map.get(key).cloned()),
        (Some(Value::Array(list)), Some(key)) => key.as_f64().and_then(|at| list.get(at as usize).cloned()).map(Some),
        _ => None,
    });
    found.flatten().is_some_and(|v| !v.is_null())
}

/// The verbs of `fmt.Sprintf` that make sense for JSON: `%s %v %d %q %t %f %g %x %%`, with width and precision.
fn printf(format: &str, arguments: &[Maybe]) -> String {
    let (mut out, mut next, mut chars) = (String::new(), arguments.iter(), format.chars().peekable());
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut spec = String::new();
        while let Some(c) = chars.next_if(|c| "+-# 0123456789.".contains(*c)) {
            spec.push(c);
        }
        let Some(verb) = chars.next() else {
            out += "%!(NOVERB)";
            break;
        };
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(argument) = next.next() else {
            out += &format!("%!{verb}(MISSING)");
            continue;
        };
        out += &padded(&spec, &formatted(verb, &spec, argument));
    }
    out
}

fn formatted(verb: char, spec: &str, argument: &Maybe) -> String {
    let value = argument.clone().unwrap_or_default();
    let precision = spec.split_once('.').and_then(|(_, p)| p.parse::<usize>().ok());
    match (verb, &value) {
        ('q', Value::String(s)) => knarr_core::field::go_quote(s),
        ('d', Value::Number(n)) if n.is_i64() => n.to_string(),
        ('d', Value::Number(n)) => format!("%!d(float64={})", go::float(n.as_f64().unwrap_or(0.0))),
        ('f', Value::Number(n)) => format!("{:.*}", precision.unwrap_or(6), n.as_f64().unwrap_or(0.0)),
        ('t', Value::Bool(b)) => b.to_string(),
        ('x', Value::String(s)) => knarr_core::hex::encode(s),
        ('s', Value::Number(n)) => format!("%!s(float64={})", go::float(n.as_f64().unwrap_or(0.0))),
        ('s' | 'v' | 'g', Value::Null) => {
            if verb == 's' {
                "%!s(<nil>)".into()
            } else {
                "<nil>".into()
            }
        }
        ('s', other) => {
            let text = sprint(other);
            precision.map_or(text.clone(), |p| text.chars().take(p).collect())
        }
        (_, other) => sprint(other),
    }
}

fn padded(spec: &str, text: &str) -> String {
    let width: usize = spec.split('.').next().unwrap_or_default().trim_start_matches(['-', '+', '#', ' ', '0']).parse().unwrap_or(0);
    let missing = " ".repeat(width.saturating_sub(text.chars().count()));
    if spec.starts_with('-') { format!("{text}{missing}") } else { format!("{missing}{text}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn templates_are_filled_in_as_go_does_it() {
        let data = json!({"kind": "List", "n": 3, "big": 10_000_000, "items": [{"name": "a", "on": true}, {"name": "b"}], "m": {"x-y": "z"}, "b": "aGk="});
        for (template, wanted) in [
            ("{{.kind}} {{.n}}", "List 3"),
            ("{{.missing}}|{{.missing.more}}", "<no value>|<no value>"),
            ("{{range .items}}{{.name}},{{end}}", "a,b,"),
            ("{{range $i, $e := .items}}{{$i}}{{$e.name}} {{end}}", "0a 1b "),
            ("{{range .none}}x{{else}}none{{end}}", "none"),
            ("{{if .items}}yes{{else}}no{{end}}", "yes"),
            ("{{range .items}}{{if .on}}{{.name}}{{else if eq .name \"b\"}}B{{end}}{{end}}", "aB"),
            ("{{with .m}}{{index . \"x-y\"}}{{end}}", "z"),
            ("{{len .items}} {{.m}}", "2 map[x-y:z]"),
            ("{{printf \"%s-%v|%5s|%-3s|\" .kind .n \"x\" \"y\"}}", "List-3|    x|y  |"),
            ("{{ .b | base64decode }}", "hi"),
            ("a {{- .kind -}} b", "aListb"),
            ("{{/* nothing */}}x{{\"\\n\"}}", "x\n"),
            ("{{$x := .kind}}{{$x}}", "List"),
            ("{{if and .kind (not .none)}}1{{end}}", "1"),
            ("{{if exists . \"m\" \"x-y\"}}1{{end}}", "1"),
            ("{{.big}}", "1e+07"),
        ] {
            assert_eq!(Template::parse(template, true).and_then(|t| t.render(&data)).unwrap(), wanted, "{template}");
        }
        assert!(Template::parse("{{range .a}}", true).is_err());
        assert!(Template::parse("{{nonsense}}", true).is_err());
        assert!(Template::parse("{{.a}", true).is_err());
    }
}
