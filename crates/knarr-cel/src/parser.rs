//! From tokens to the tree, macros expanded (upstream: cel-go's `parser`, `ext/comprehensions` and `ext/lists`).

use crate::{
    ast::{ACCU, Entry, Expr, Field, Fold, Id, Kind, Literal, op},
    issue::Issue,
    lexer::{Lexeme, Token, lex},
};

/// How deep a tree may be.
const DEPTH_MAX: usize = 250;
/// How deep brackets and conditions may be nested.
const NESTING_MAX: usize = 80;
/// Longest expression, in characters.
const SOURCE_MAX: usize = 100_000;

const STARTS: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";
/// Words that no variable may be called: the literals and `in`, and those that the language keeps for itself.
const RESERVED: [&str; 17] =
    ["as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop", "package", "namespace", "return", "var", "void", "while"];
const KEYWORDS: [&str; 4] = ["true", "false", "null", "in"];

/// Whether a word can be no identifier.
pub fn is_reserved(word: &str) -> bool {
    RESERVED.contains(&word) || KEYWORDS.contains(&word)
}

/// A parsed expression.
#[derive(Clone, Debug)]
pub struct Parsed {
    pub root: Expr,
    /// How many ids were given.
    pub ids: usize,
}

struct Parser {
    tokens: Vec<Lexeme>,
    next: usize,
    ids: Id,
    /// Brackets that are open.
    nesting: usize,
    /// Depth of the deepest node.
    deepest: usize,
    /// Whether there is a macro `cel.bind`.
    bindings: bool,
}

type Step<T> = Result<T, Issue>;

/// Parses an expression.
///
/// # Errors
/// What is wrong with it.
pub fn parse(source: &str) -> Result<Parsed, Vec<Issue>> {
    parse_as(source, false)
}

/// The same where `cel.bind(name, value, result)` is known, too.
///
/// # Errors
/// As [`parse`].
pub fn parse_with_bindings(source: &str) -> Result<Parsed, Vec<Issue>> {
    parse_as(source, true)
}

fn parse_as(source: &str, bindings: bool) -> Result<Parsed, Vec<Issue>> {
    let size = source.chars().count();
    if size > SOURCE_MAX {
        return Err(vec![Issue { at: None, message: format!("expression code point size exceeds limit: size: {size}, limit {SOURCE_MAX}") }]);
    }
    let (tokens, mut issues) = lex(source);
    let mut parser = Parser { tokens, next: 0, ids: 0, nesting: 0, deepest: 0, bindings };
    match parser.whole() {
        Ok(_) if parser.deepest > DEPTH_MAX => {
            issues.push(too_deep());
            Err(issues)
        }
        Ok(root) if issues.is_empty() => Ok(Parsed { root, ids: parser.ids }),
        Ok(_) => Err(issues),
        Err(issue) => {
            issues.push(issue);
            Err(issues)
        }
    }
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.next].token
    }

    fn at(&self) -> usize {
        self.tokens[self.next].at
    }

    fn is(&self, symbol: &str) -> bool {
        matches!(self.peek(), Token::Symbol(s) if *s == symbol)
    }

    fn advance(&mut self) -> Lexeme {
        let lexeme = self.tokens[self.next].clone();
        if lexeme.token != Token::End {
            self.next += 1;
        }
        lexeme
    }

    fn eat(&mut self, symbol: &str) -> bool {
        let found = self.is(symbol);
        if found {
            self.next += 1;
        }
        found
    }

    fn expect(&mut self, symbol: &str) -> Step<()> {
        if self.eat(symbol) { Ok(()) } else { Err(self.mismatch(&format!("'{symbol}'"))) }
    }

    fn mismatch(&self, expecting: &str) -> Issue {
        let found = &self.tokens[self.next];
        Issue::new(found.at, format!("Syntax error: mismatched input '{}' expecting {expecting}", found.text))
    }

    fn node(&mut self, at: usize, kind: Kind) -> Expr {
        self.ids += 1;
        let mut node = Expr { id: self.ids, at, depth: 1, kind };
        node.depth += node.children().iter().map(|c| c.depth).max().unwrap_or(0);
        self.deepest = self.deepest.max(node.depth);
        node
    }

    fn call(&mut self, at: usize, function: &str, args: Vec<Expr>) -> Expr {
        self.node(at, Kind::Call { function: function.to_owned(), target: None, args })
    }

    fn member(&mut self, at: usize, target: Expr, function: &str, args: Vec<Expr>) -> Expr {
        self.node(at, Kind::Call { function: function.to_owned(), target: Some(Box::new(target)), args })
    }

    fn ident(&mut self, at: usize, name: &str) -> Expr {
        self.node(at, Kind::Ident(name.to_owned()))
    }

    fn literal(&mut self, at: usize, literal: Literal) -> Expr {
        self.node(at, Kind::Literal(literal))
    }

    fn whole(&mut self) -> Step<Expr> {
        let root = self.expr()?;
        if *self.peek() != Token::End {
            let found = &self.tokens[self.next];
            return Err(Issue::new(found.at, format!("Syntax error: extraneous input '{}' expecting <EOF>", found.text)));
        }
        Ok(root)
    }

    fn deeper<T>(&mut self, inner: impl FnOnce(&mut Self) -> Step<T>) -> Step<T> {
        if self.nesting >= NESTING_MAX {
            return Err(too_deep());
        }
        self.nesting += 1;
        let done = inner(self);
        self.nesting -= 1;
        done
    }

    fn expr(&mut self) -> Step<Expr> {
        self.deeper(|p| {
            let condition = p.logical("||", op::OR)?;
            let at = p.at();
            if !p.eat("?") {
                return Ok(condition);
            }
            let yes = p.logical("||", op::OR)?;
            p.expect(":")?;
            let no = p.expr()?;
            Ok(p.call(at, op::CONDITIONAL, vec![condition, yes, no]))
        })
    }

    /// A chain of `||` or of `&&`, made into a balanced tree so that long ones do not get deep.
    fn logical(&mut self, symbol: &'static str, function: &'static str) -> Step<Expr> {
        let below = |p: &mut Self| if symbol == "||" { p.logical("&&", op::AND) } else { p.relation() };
        let mut terms = vec![below(self)?];
        let mut places = Vec::new();
        while self.is(symbol) {
            places.push(self.at());
            self.next += 1;
            terms.push(below(self)?);
        }
        let mut terms: Vec<Option<Expr>> = terms.into_iter().map(Some).collect();
        Ok(self.balance(&mut terms, &places, function))
    }

    fn balance(&mut self, terms: &mut [Option<Expr>], places: &[usize], function: &str) -> Expr {
        if places.is_empty() {
            return terms[0].take().unwrap_or_else(|| self.literal(0, Literal::Null));
        }
        let middle = places.len() / 2;
        let (left, right) = terms.split_at_mut(middle + 1);
        let left = self.balance(left, &places[..middle], function);
        let right = self.balance(right, &places[middle + 1..], function);
        self.call(places[middle], function, vec![left, right])
    }

    /// Relations, sums and products, which all group from the left.
    fn relation(&mut self) -> Step<Expr> {
        const OPERATORS: [(&str, &str); 7] = [("<", op::LT), ("<=", op::LE), (">=", op::GE), (">", op::GT), ("==", op::EQ), ("!=", op::NE), ("in", op::IN)];
        self.chain(&OPERATORS, Self::sum)
    }

    fn sum(&mut self) -> Step<Expr> {
        self.chain(&[("+", op::ADD), ("-", op::SUB)], Self::product)
    }

    fn product(&mut self) -> Step<Expr> {
        self.chain(&[("*", op::MUL), ("/", op::DIV), ("%", op::MOD)], Self::unary)
    }

    fn chain(&mut self, operators: &[(&'static str, &'static str)], below: fn(&mut Self) -> Step<Expr>) -> Step<Expr> {
        let mut left = below(self)?;
        while let Some((_, function)) = operators.iter().find(|(symbol, _)| self.is(symbol)) {
            self.limit_chain()?;
            let at = self.at();
            self.next += 1;
            let right = below(self)?;
            left = self.call(at, function, vec![left, right]);
        }
        Ok(left)
    }

    fn limit_chain(&self) -> Step<()> {
        if self.deepest > DEPTH_MAX { Err(too_deep()) } else { Ok(()) }
    }

    fn unary(&mut self) -> Step<Expr> {
        for (symbol, function) in [("!", op::NOT), ("-", op::NEGATE)] {
            if !self.is(symbol) {
                continue;
            }
            let at = self.at();
            let mut count = 0;
            // A sign belongs to the number that follows it.
            let number_follows = |p: &Self| matches!(p.tokens.get(p.next + 1).map(|l| &l.token), Some(Token::Int(_) | Token::Float(_)));
            while self.is(symbol) && !(symbol == "-" && number_follows(self)) {
                self.next += 1;
                count += 1;
            }
            let operand = self.deeper(|p| if count == 0 { p.postfix() } else { p.unary() })?;
            return Ok(if count % 2 == 0 { operand } else { self.call(at, function, vec![operand]) });
        }
        self.postfix()
    }

    fn postfix(&mut self) -> Step<Expr> {
        let mut expr = self.primary()?;
        loop {
            let at = self.at();
            if self.eat(".") {
                let optional = self.eat("?");
                expr = self.selected(at, expr, optional)?;
            } else if self.eat("[") {
                let function = if self.eat("?") { op::OPT_INDEX } else { op::INDEX };
                let index = self.expr()?;
                self.expect("]")?;
                expr = self.call(at, function, vec![expr, index]);
            } else {
                return Ok(expr);
            }
            self.limit_chain()?;
        }
    }

    fn selected(&mut self, at: usize, operand: Expr, optional: bool) -> Step<Expr> {
        let name_at = self.at();
        let lexeme = self.advance();
        let (field, callable) = match lexeme.token {
            Token::Ident(name) => (name, true),
            Token::Quoted(name) => (name, false),
            Token::Symbol("in") => ("in".to_owned(), false),
            _ => {
                self.next = self.next.saturating_sub(usize::from(lexeme.token != Token::End));
                return Err(self.mismatch("IDENTIFIER"));
            }
        };
        if optional {
            let name = self.literal(name_at, Literal::String(field));
            return Ok(self.call(at, op::OPT_SELECT, vec![operand, name]));
        }
        let open = self.at();
        if callable && self.eat("(") {
            let args = self.arguments()?;
            return self.member_or_macro(open, operand, &field, args);
        }
        Ok(self.node(at, Kind::Select { operand: Box::new(operand), field, test: false }))
    }

    fn arguments(&mut self) -> Step<Vec<Expr>> {
        let mut args = Vec::new();
        if self.eat(")") {
            return Ok(args);
        }
        loop {
            args.push(self.expr()?);
            if self.eat(",") {
                continue;
            }
            self.expect(")")?;
            return Ok(args);
        }
    }

    fn primary(&mut self) -> Step<Expr> {
        let at = self.at();
        let token = self.peek().clone();
        match token {
            Token::Symbol("(") => {
                self.next += 1;
                let inner = self.expr()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Symbol("[") => self.list(),
            Token::Symbol("{") => self.map(),
            Token::Symbol(".") | Token::Ident(_) => self.named(),
            _ => {
                self.next += 1;
                let literal = self.scalar(token, at)?;
                Ok(self.literal(at, literal))
            }
        }
    }

    fn scalar(&mut self, token: Token, at: usize) -> Step<Literal> {
        let negative = token == Token::Symbol("-");
        let token = if negative { self.advance().token } else { token };
        let signed = |digits: &str| if negative { format!("-{digits}") } else { digits.to_owned() };
        Ok(match token {
            Token::Symbol("true") => Literal::Bool(true),
            Token::Symbol("false") => Literal::Bool(false),
            Token::Symbol("null") => Literal::Null,
            Token::Int(text) => Literal::Int(int(&text, negative).ok_or_else(|| Issue::new(at, "invalid int literal"))?),
            Token::Uint(text) => Literal::Uint(uint(&text).ok_or_else(|| Issue::new(at, "invalid uint literal"))?),
            Token::Float(text) => {
                Literal::Double(signed(&text).parse().ok().filter(|f: &f64| f.is_finite()).ok_or_else(|| Issue::new(at, "invalid double literal"))?)
            }
            Token::String(text) => Literal::String(text),
            Token::Bytes(bytes) => Literal::Bytes(bytes),
            _ => {
                self.next -= 1;
                return Err(self.mismatch(STARTS));
            }
        })
    }

    fn list(&mut self) -> Step<Expr> {
        let at = self.at();
        self.next += 1;
        let mut elements = Vec::new();
        while !self.is("]") {
            let optional = self.eat("?");
            elements.push((self.expr()?, optional));
            if !self.eat(",") {
                break;
            }
        }
        self.expect("]")?;
        Ok(self.node(at, Kind::List(elements)))
    }

    fn map(&mut self) -> Step<Expr> {
        let at = self.at();
        self.next += 1;
        let mut entries = Vec::new();
        while !self.is("}") {
            let optional = self.eat("?");
            let key = self.expr()?;
            self.expect(":")?;
            let value = self.expr()?;
            entries.push(Entry { key, value, optional });
            if !self.eat(",") {
                break;
            }
        }
        self.expect("}")?;
        Ok(self.node(at, Kind::Map(entries)))
    }

    /// A name, a call of a function, or an object made of fields.
    fn named(&mut self) -> Step<Expr> {
        let rooted = self.eat(".");
        let at = self.at();
        let Token::Ident(word) = self.peek().clone() else { return Err(self.mismatch("IDENTIFIER")) };
        self.next += 1;
        let name = if rooted { format!(".{word}") } else { word.clone() };
        let open = self.at();
        if let Some(found) = self.object(&name)? {
            return Ok(found);
        }
        if RESERVED.contains(&word.as_str()) {
            return Err(Issue::new(at, format!("reserved identifier: {word}")));
        }
        if self.eat("(") {
            let args = self.arguments()?;
            return self.call_or_macro(open, &name, args);
        }
        Ok(self.ident(at, &name))
    }

    /// `a.b.C{…}`: looks ahead for the brace behind a dotted name.
    fn object(&mut self, first: &str) -> Step<Option<Expr>> {
        let mut ahead = self.next;
        let mut name = first.to_owned();
        loop {
            match (&self.tokens[ahead].token, self.tokens.get(ahead + 1).map(|l| &l.token)) {
                (Token::Symbol("."), Some(Token::Ident(word))) => {
                    name = format!("{name}.{word}");
                    ahead += 2;
                }
                (Token::Symbol("{"), _) => break,
                _ => return Ok(None),
            }
        }
        self.next = ahead;
        let at = self.at();
        self.next += 1;
        let mut fields = Vec::new();
        while !self.is("}") {
            let optional = self.eat("?");
            let field = match self.advance().token {
                Token::Ident(name) | Token::Quoted(name) => name,
                _ => {
                    self.next = self.next.saturating_sub(1);
                    return Err(self.mismatch("{'}', ',', '?', IDENTIFIER, ESC_IDENTIFIER}"));
                }
            };
            let colon = self.at();
            self.expect(":")?;
            let value = self.expr()?;
            fields.push(Field { at: colon, name: field, value, optional });
            if !self.eat(",") {
                break;
            }
        }
        self.expect("}")?;
        Ok(Some(self.node(at, Kind::Struct { name, fields })))
    }

    fn call_or_macro(&mut self, at: usize, name: &str, mut args: Vec<Expr>) -> Step<Expr> {
        if name != "has" || args.len() != 1 {
            return Ok(self.call(at, name, args));
        }
        let arg = args.remove(0);
        match arg.kind {
            Kind::Select { operand, field, .. } => Ok(self.node(at, Kind::Select { operand, field, test: true })),
            _ => Err(Issue::new(arg.at, "invalid argument to has() macro")),
        }
    }

    fn member_or_macro(&mut self, at: usize, target: Expr, name: &str, mut args: Vec<Expr>) -> Step<Expr> {
        match (name, args.len()) {
            ("bind", 3) if self.bindings && matches!(&target.kind, Kind::Ident(name) if name == "cel") => {
                let Kind::Ident(variable) = args[0].kind.clone() else {
                    return Err(Issue::new(args[0].at, "cel.bind() variable names must be simple identifiers"));
                };
                let (result, value) = (args.remove(2), args.remove(1));
                Ok(self.bind(at, &variable, value, result))
            }
            ("all" | "exists" | "exists_one" | "existsOne" | "filter", 2) | ("map", 2 | 3) => self.one_variable(at, target, name, args),
            ("all" | "exists" | "existsOne", 3) | ("transformList" | "transformMap" | "transformMapEntry", 3 | 4) => self.two_variables(at, target, name, args),
            ("optMap" | "optFlatMap", 2) => self.optional_map(at, target, name, args),
            ("sortBy", 2) => self.sort_by(at, target, args),
            _ => Ok(self.member(at, target, name, args)),
        }
    }

    fn variable(arg: &Expr) -> Step<String> {
        match &arg.kind {
            Kind::Ident(name) if !name.starts_with('.') && name == "__result__" => {
                Err(Issue::new(arg.at, "iteration variable overwrites accumulator variable"))
            }
            Kind::Ident(name) if !name.starts_with('.') => Ok(name.clone()),
            _ => Err(Issue::new(arg.at, "argument must be a simple name")),
        }
    }

    fn fold(&mut self, at: usize, fold: Fold) -> Expr {
        self.node(at, Kind::Fold(Box::new(fold)))
    }

    /// Init, condition, step and result of `all`, `exists` and `exists_one`.
    fn quantifier(&mut self, at: usize, name: &str, predicate: Expr) -> (Expr, Expr, Expr, Expr) {
        let accu = |p: &mut Self| p.ident(at, ACCU);
        match name {
            "all" => {
                let (init, a, b, result) = (self.literal(at, Literal::Bool(true)), accu(self), accu(self), accu(self));
                let condition = self.call(at, op::NOT_STRICTLY_FALSE, vec![a]);
                (init, condition, self.call(at, op::AND, vec![b, predicate]), result)
            }
            "exists" => {
                let (init, a, b, result) = (self.literal(at, Literal::Bool(false)), accu(self), accu(self), accu(self));
                let not = self.call(at, op::NOT, vec![a]);
                let condition = self.call(at, op::NOT_STRICTLY_FALSE, vec![not]);
                (init, condition, self.call(at, op::OR, vec![b, predicate]), result)
            }
            _ => {
                let (init, condition) = (self.literal(at, Literal::Int(0)), self.literal(at, Literal::Bool(true)));
                let (a, b, c, one, wanted) = (accu(self), accu(self), accu(self), self.literal(at, Literal::Int(1)), self.literal(at, Literal::Int(1)));
                let sum = self.call(at, op::ADD, vec![a, one]);
                let step = self.call(at, op::CONDITIONAL, vec![predicate, sum, b]);
                (init, condition, step, self.call(at, op::EQ, vec![c, wanted]))
            }
        }
    }

    /// The step that adds `element` to the accumulated list, if there is a filter only when it says so.
    fn append(&mut self, at: usize, element: Expr, filter: Option<Expr>) -> Expr {
        let (accu, list) = (self.ident(at, ACCU), self.node(at, Kind::List(vec![(element, false)])));
        let step = self.call(at, op::ADD, vec![accu, list]);
        self.filtered(at, step, filter)
    }

    fn filtered(&mut self, at: usize, step: Expr, filter: Option<Expr>) -> Expr {
        let Some(filter) = filter else { return step };
        let accu = self.ident(at, ACCU);
        self.call(at, op::CONDITIONAL, vec![filter, step, accu])
    }

    fn one_variable(&mut self, at: usize, range: Expr, name: &str, mut args: Vec<Expr>) -> Step<Expr> {
        let var = match Self::variable(&args[0]) {
            Err(_) if name == "map" || name == "filter" => return Err(Issue::new(args[0].at, "argument is not an identifier")),
            other => other?,
        };
        let last = args.pop().unwrap_or_else(|| self.literal(at, Literal::Null));
        let (init, condition, step, result) = match name {
            "map" | "filter" => {
                let (init, condition) = (self.node(at, Kind::List(Vec::new())), self.literal(at, Literal::Bool(true)));
                let step = if name == "filter" {
                    let element = args.remove(0);
                    self.append(at, element, Some(last))
                } else {
                    let filter = (args.len() == 2).then(|| args.remove(1));
                    self.append(at, last, filter)
                };
                (init, condition, step, self.ident(at, ACCU))
            }
            _ => self.quantifier(at, name, last),
        };
        Ok(self.fold(at, Fold { range, var, var2: None, accu: ACCU.into(), init, condition, step, result }))
    }

    fn two_variables(&mut self, at: usize, range: Expr, name: &str, mut args: Vec<Expr>) -> Step<Expr> {
        let (var, var2) = (Self::variable(&args[0])?, Self::variable(&args[1])?);
        if var == var2 {
            return Err(Issue::new(args[1].at, format!("duplicate variable name: {var}")));
        }
        let last = args.pop().unwrap_or_else(|| self.literal(at, Literal::Null));
        let filter = (args.len() == 3).then(|| args.remove(2));
        let (init, condition, step, result) = match name {
            "transformList" => {
                let (init, condition) = (self.node(at, Kind::List(Vec::new())), self.literal(at, Literal::Bool(true)));
                (init, condition, self.append(at, last, filter), self.ident(at, ACCU))
            }
            "transformMap" | "transformMapEntry" => {
                let (init, condition) = (self.node(at, Kind::Map(Vec::new())), self.literal(at, Literal::Bool(true)));
                let mut inserted = vec![self.ident(at, ACCU)];
                if name == "transformMap" {
                    inserted.push(self.ident(at, &var));
                }
                inserted.push(last);
                let step = self.call(at, "cel.@mapInsert", inserted);
                (init, condition, self.filtered(at, step, filter), self.ident(at, ACCU))
            }
            _ => self.quantifier(at, name, last),
        };
        Ok(self.fold(at, Fold { range, var, var2: Some(var2), accu: ACCU.into(), init, condition, step, result }))
    }

    /// `result` with `name` standing for `value`: a loop that runs no time.
    fn bind(&mut self, at: usize, name: &str, value: Expr, result: Expr) -> Expr {
        let (range, condition, step) = (self.node(at, Kind::List(Vec::new())), self.literal(at, Literal::Bool(false)), self.ident(at, name));
        self.fold(at, Fold { range, var: "#unused".into(), var2: None, accu: name.to_owned(), init: value, condition, step, result })
    }

    fn optional_map(&mut self, at: usize, target: Expr, name: &str, mut args: Vec<Expr>) -> Step<Expr> {
        let Kind::Ident(var) = args[0].kind.clone() else {
            return Err(Issue::new(args[0].at, format!("{name}() variable name must be a simple identifier")));
        };
        let mapped = args.pop().unwrap_or_else(|| self.literal(at, Literal::Null));
        let has_value = self.member(at, target.clone(), "hasValue", Vec::new());
        let value = self.member(at, target, "value", Vec::new());
        let bound = self.bind(at, &var, value, mapped);
        let some = if name == "optMap" { self.call(at, "optional.of", vec![bound]) } else { bound };
        let none = self.call(at, "optional.none", Vec::new());
        Ok(self.call(at, op::CONDITIONAL, vec![has_value, some, none]))
    }

    fn sort_by(&mut self, at: usize, target: Expr, args: Vec<Expr>) -> Step<Expr> {
        const INPUT: &str = "@__sortBy_input__";
        if !matches!(args[0].kind, Kind::Ident(_)) {
            return Err(Issue::new(at, "sortBy can only be applied to a list, identifier, comprehension, call or select expression"));
        }
        let (input, again) = (self.ident(at, INPUT), self.ident(at, INPUT));
        let keys = self.one_variable(at, again, "map", args)?;
        let sorted = self.member(at, input, "@sortByAssociatedKeys", vec![keys]);
        Ok(self.bind(at, INPUT, target, sorted))
    }
}

fn too_deep() -> Issue {
    Issue { at: None, message: format!("expression recursion limit exceeded: {DEPTH_MAX}") }
}

fn int(text: &str, negative: bool) -> Option<i64> {
    let sign = if negative { "-" } else { "" };
    match text.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(&format!("{sign}{hex}"), 16).ok(),
        None => format!("{sign}{text}").parse().ok(),
    }
}

fn uint(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}
