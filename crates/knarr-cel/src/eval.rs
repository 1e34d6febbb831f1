//! The evaluator: walks the checked tree, counts what it costs, and ends when a limit is reached
//! (upstream: cel-go's `interpreter` and `runtimecost.go`).

use std::collections::BTreeMap;

use crate::{
    ast::{ACCU, Entry, Expr, Fold, Kind, Literal, op},
    authz::Authorizer,
    check::Checked,
    library::{self, Impl},
    runtime_cost,
    value::{Error, Key, List, Made, Map, Res, Value},
};

/// Where the values of variables come from.
pub trait Activation<'a> {
    fn variable(&self, name: &str) -> Option<Value<'a>>;

    /// A field of [`Value::Variables`].
    fn composed(&self, name: &str) -> Option<Res<'a>> {
        let _ = name;
        None
    }
}

/// Variables by name.
impl<'a> Activation<'a> for [(&str, Value<'a>)] {
    fn variable(&self, name: &str) -> Option<Value<'a>> {
        self.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone())
    }
}

impl<'a, const N: usize> Activation<'a> for [(&str, Value<'a>); N] {
    fn variable(&self, name: &str) -> Option<Value<'a>> {
        self.as_slice().variable(name)
    }
}

/// A compiled expression.
#[derive(Debug)]
pub struct Program {
    checked: Checked,
    /// By id, for calls.
    implementations: Vec<Option<Impl>>,
    /// By id: literals of literals, which cost nothing.
    constant: Vec<bool>,
}

/// What an evaluation gave, and what it cost.
#[derive(Debug)]
pub struct Outcome<'a> {
    pub value: Res<'a>,
    pub cost: u64,
}

const TOO_EXPENSIVE: &str = "operation cancelled: actual cost limit exceeded";

impl Program {
    pub fn new(checked: Checked) -> Self {
        let size = checked.types.len();
        let (mut implementations, mut constant) = (vec![None; size], vec![false; size]);
        checked.root.walk(&mut |e| {
            if let Kind::Call { function, .. } = &e.kind {
                implementations[e.id] = library::find(function.strip_prefix('.').unwrap_or(function));
            }
            constant[e.id] = is_constant(e);
        });
        Self { checked, implementations, constant }
    }

    pub fn checked(&self) -> &Checked {
        &self.checked
    }

    /// Evaluates, for at most `limit` units of cost.
    pub fn eval<'a>(&self, variables: &dyn Activation<'a>, authorizer: Option<&dyn Authorizer>, limit: u64) -> Outcome<'a> {
        let mut run = Run { program: self, variables, authorizer, scopes: Vec::new(), cost: 0, limit, free_name: false };
        let value = run.eval(&self.checked.root);
        Outcome { value, cost: run.cost }
    }
}

fn is_constant(e: &Expr) -> bool {
    match &e.kind {
        Kind::Literal(_) => true,
        Kind::List(items) => items.iter().all(|(item, optional)| !optional && is_constant(item)),
        Kind::Map(entries) => entries.iter().all(|entry| !entry.optional && is_constant(&entry.key) && is_constant(&entry.value)),
        _ => false,
    }
}

struct Run<'e, 'a> {
    program: &'e Program,
    variables: &'e dyn Activation<'a>,
    authorizer: Option<&'e dyn Authorizer>,
    /// Innermost last. An accumulator may hold an error.
    scopes: Vec<(&'e str, Res<'a>)>,
    cost: u64,
    limit: u64,
    /// The next name is read as part of something that is charged already.
    free_name: bool,
}

impl<'e, 'a> Run<'e, 'a> {
    fn charge(&mut self, cost: u64) -> Result<(), Error> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit { Err(Error { message: TOO_EXPENSIVE.into(), cancelled: true }) } else { Ok(()) }
    }

    fn eval(&mut self, e: &'e Expr) -> Res<'a> {
        match &e.kind {
            Kind::Literal(literal) => Ok(literal_value(literal)),
            Kind::Ident(name) => self.ident(name),
            Kind::Select { operand, field, test } => self.select(operand, field, *test),
            Kind::Call { function, target, args } => self.call(e, function, target.as_deref(), args),
            Kind::List(elements) => self.list(e, elements),
            Kind::Map(entries) => self.map(e, entries),
            Kind::Struct { name, fields } => self.object(name, fields),
            Kind::Fold(fold) => self.fold(fold),
        }
    }

    fn ident(&mut self, name: &str) -> Res<'a> {
        let name = name.strip_prefix('.').unwrap_or(name);
        let is_free = std::mem::take(&mut self.free_name);
        let local = self.scopes.iter().rev().find(|(n, _)| *n == name).map(|(_, value)| value.clone());
        let variable = local.or_else(|| self.variables.variable(name).map(Ok));
        if let Some(value) = variable {
            self.charge(u64::from(!is_free))?;
            return value;
        }
        // Types are constants.
        crate::env::type_named(name).map(|t| Value::Type(t.into())).ok_or_else(|| Error::new(format!("no such attribute(s): {name}")))
    }

    /// One more step of a path is cheaper than a look into a computed value.
    fn step_cost(operand: &Expr) -> u64 {
        let is_path = match &operand.kind {
            Kind::Ident(_) | Kind::Select { test: false, .. } => true,
            Kind::Call { function, .. } => matches!(function.as_str(), op::INDEX | op::OPT_INDEX | op::OPT_SELECT | op::CONDITIONAL),
            _ => false,
        };
        if is_path { 1 } else { 2 }
    }

    /// Evaluates what stands in the place of another value: a path from a variable costs no more than its steps there.
    fn in_place(&mut self, e: &'e Expr) -> Res<'a> {
        self.free_name = is_path_of_variable(e);
        self.eval(e)
    }

    fn select(&mut self, operand: &'e Expr, field: &str, test: bool) -> Res<'a> {
        let value = self.eval(operand)?;
        self.charge(if test { Self::step_cost(operand) - 1 } else { Self::step_cost(operand) })?;
        if test {
            return Ok(Value::Bool(match value {
                Value::Optional(None) => false,
                Value::Optional(Some(inner)) => self.field(&inner, field)?.is_some(),
                other => self.field(&other, field)?.is_some(),
            }));
        }
        match value {
            Value::Optional(None) => Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => Ok(Value::Optional(self.field(&inner, field)?.map(std::sync::Arc::new))),
            other => self.field(&other, field)?.ok_or_else(|| Error::no_key(field)),
        }
    }

    fn field(&mut self, value: &Value<'a>, field: &str) -> Result<Option<Value<'a>>, Error> {
        match value {
            Value::Map(map) => map.get(&Value::text(field)),
            Value::Object(made) => Ok(made.fields.get(field).cloned()),
            Value::Variables => self.variables.composed(field).transpose(),
            _ => Err(Error::no_overload()),
        }
    }

    fn call(&mut self, e: &'e Expr, function: &'e str, target: Option<&'e Expr>, args: &'e [Expr]) -> Res<'a> {
        if target.is_none() {
            match (function, args) {
                (op::AND, [left, right]) => return self.logical(left, right, false),
                (op::OR, [left, right]) => return self.logical(left, right, true),
                (op::CONDITIONAL, [condition, yes, no]) => return self.conditional(condition, yes, no),
                (op::INDEX, [operand, index]) => return self.index(operand, index, false),
                (op::OPT_INDEX, [operand, index]) => return self.index(operand, index, true),
                (op::OPT_SELECT, [operand, field]) => return self.optional_select(operand, field),
                (op::NOT_STRICTLY_FALSE, [arg]) => return self.not_strictly_false(arg),
                _ => {}
            }
        }
        if matches!(function, "or" | "orValue")
            && let (Some(target), [other]) = (target, args)
        {
            return self.or_else(target, other, function == "orValue");
        }
        self.plain_call(e, function, target, args)
    }

    fn plain_call(&mut self, e: &'e Expr, function: &'e str, target: Option<&'e Expr>, args: &'e [Expr]) -> Res<'a> {
        let mut values = Vec::with_capacity(args.len() + 1);
        let consumes = matches!(function, op::ADD | "cel.@mapInsert") && args.first().is_some_and(|a| matches!(&a.kind, Kind::Ident(name) if name == ACCU));
        let mut failed = None;
        for arg in target.into_iter().chain(args) {
            match self.eval(arg) {
                Ok(value) => values.push(value),
                Err(e) if e.cancelled || target.iter().count() + args.len() > 2 => return Err(e),
                // A call of few arguments is charged also when it does not come about.
                Err(e) => {
                    failed = failed.or(Some(e));
                    values.push(Value::Null);
                }
            }
        }
        if consumes && let Some((_, held)) = self.scopes.iter_mut().rev().find(|(n, _)| *n == ACCU) {
            // The step writes it anew: let go, so that it need not be copied.
            *held = Ok(Value::Null);
        }
        let overload = match self.program.checked.overloads.get(&e.id).map(Vec::as_slice) {
            Some([one]) => one,
            _ => "",
        };
        let free = self.costs_nothing(function, target, args);
        if !free {
            self.charge(runtime_cost::before(function, overload, &values))?;
        }
        let result = match (failed, self.program.implementations[e.id]) {
            (Some(error), _) => Err(error),
            (None, Some(implementation)) => implementation(self.authorizer, values),
            (None, None) => Err(Error::no_overload()),
        };
        if !free {
            self.charge(runtime_cost::after(function, overload, &result))?;
        }
        result
    }

    /// What is worked out when a program is planned: membership in a list of constants, conversions of constants.
    fn costs_nothing(&self, function: &str, target: Option<&Expr>, args: &[Expr]) -> bool {
        match (function, args) {
            (op::IN, [_, list]) => matches!(list.kind, Kind::List(_)) && self.program.constant[list.id],
            ("bool" | "bytes" | "double" | "duration" | "int" | "string" | "timestamp" | "type" | "uint", [arg]) => {
                target.is_none() && matches!(arg.kind, Kind::Literal(_))
            }
            _ => false,
        }
    }

    /// `&&` and `||`: a decisive side hides the other's error.
    fn logical(&mut self, left: &'e Expr, right: &'e Expr, decisive: bool) -> Res<'a> {
        let first = self.eval(left);
        match &first {
            Ok(Value::Bool(b)) if *b == decisive => return Ok(Value::Bool(decisive)),
            Err(e) if e.cancelled => return first,
            _ => {}
        }
        let second = self.eval(right);
        match (first, second) {
            (_, Ok(Value::Bool(b))) if b == decisive => Ok(Value::Bool(decisive)),
            (_, Err(e)) if e.cancelled => Err(e),
            (Ok(Value::Bool(_)), Ok(Value::Bool(_))) => Ok(Value::Bool(!decisive)),
            (Err(e), _) | (_, Err(e)) => Err(e),
            _ => Err(Error::no_overload()),
        }
    }

    fn conditional(&mut self, condition: &'e Expr, yes: &'e Expr, no: &'e Expr) -> Res<'a> {
        match self.eval(condition)? {
            Value::Bool(true) => self.in_place(yes),
            Value::Bool(false) => self.in_place(no),
            _ => Err(Error::no_overload()),
        }
    }

    fn not_strictly_false(&mut self, arg: &'e Expr) -> Res<'a> {
        let value = match self.eval(arg) {
            Ok(Value::Bool(b)) => b,
            Err(e) if e.cancelled => return Err(e),
            _ => true,
        };
        self.charge(1)?;
        Ok(Value::Bool(value))
    }

    fn or_else(&mut self, target: &'e Expr, other: &'e Expr, unwrap: bool) -> Res<'a> {
        match self.eval(target)? {
            Value::Optional(Some(inner)) if unwrap => Ok((*inner).clone()),
            Value::Optional(Some(inner)) => Ok(Value::Optional(Some(inner))),
            Value::Optional(None) => self.eval(other),
            _ => Err(Error::no_overload()),
        }
    }

    fn optional_select(&mut self, operand: &'e Expr, field: &'e Expr) -> Res<'a> {
        let Kind::Literal(Literal::String(name)) = &field.kind else { return Err(Error::no_overload()) };
        let value = self.eval(operand)?;
        self.charge(Self::step_cost(operand))?;
        let inner = match value {
            Value::Optional(None) => return Ok(Value::NONE),
            Value::Optional(Some(inner)) => (*inner).clone(),
            other => other,
        };
        Ok(Value::Optional(self.field(&inner, name)?.map(std::sync::Arc::new)))
    }

    fn index(&mut self, operand: &'e Expr, index: &'e Expr, optional: bool) -> Res<'a> {
        let value = self.eval(operand)?;
        let at = self.in_place(index)?;
        self.charge(Self::step_cost(operand))?;
        let (value, optional) = match value {
            Value::Optional(None) => return Ok(Value::NONE),
            Value::Optional(Some(inner)) => ((*inner).clone(), true),
            other => (other, optional),
        };
        let found = self.item(&value, &at);
        match (found, optional) {
            (Ok(found), true) => Ok(Value::Optional(found.map(std::sync::Arc::new))),
            (Ok(Some(found)), false) => Ok(found),
            (Ok(None), false) => Err(match value {
                Value::List(_) => Error::new(format!("index out of bounds: {}", at.shown())),
                _ => Error::no_key(at.shown()),
            }),
            (Err(e), _) => Err(e),
        }
    }

    fn item(&mut self, value: &Value<'a>, at: &Value<'a>) -> Result<Option<Value<'a>>, Error> {
        match value {
            Value::List(list) => {
                let Some(Key::Number(n)) = Key::of(at) else { return Err(Error::new(format!("unsupported index type '{}' in list", at.type_of()))) };
                match usize::try_from(n) {
                    Ok(n) if n < list.len() => list.get(n).map(Some),
                    _ => Ok(None),
                }
            }
            Value::Map(map) => map.get(at),
            Value::Object(_) | Value::Variables => match at {
                Value::String(name) => self.field(value, name),
                _ => Err(Error::no_overload()),
            },
            _ => Err(Error::no_overload()),
        }
    }

    fn element(&mut self, e: &'e Expr, optional: bool) -> Result<Option<Value<'a>>, Error> {
        match (self.eval(e)?, optional) {
            (Value::Optional(inner), true) => Ok(inner.map(|v| (*v).clone())),
            (value, true) => Err(Error::new(format!("cannot initialize optional list element from non-optional value {}", value.shown()))),
            (value, false) => Ok(Some(value)),
        }
    }

    fn list(&mut self, e: &Expr, elements: &'e [(Expr, bool)]) -> Res<'a> {
        let mut values = Vec::with_capacity(elements.len());
        for (element, optional) in elements {
            values.extend(self.element(element, *optional)?);
        }
        if !self.program.constant[e.id] || elements.is_empty() {
            self.charge(if self.program.constant[e.id] { 0 } else { 10 })?;
        }
        Ok(Value::List(List::new(values)))
    }

    fn map(&mut self, e: &Expr, entries: &'e [Entry]) -> Res<'a> {
        let mut values = BTreeMap::new();
        for entry in entries {
            let key = self.eval(&entry.key)?;
            let Some(value) = self.element(&entry.value, entry.optional)? else { continue };
            let k = Key::of(&key).ok_or_else(|| Error::new(format!("unsupported key type: {}", key.type_of())))?;
            values.insert(k, (key, value));
        }
        self.charge(if self.program.constant[e.id] { 0 } else { 30 })?;
        Ok(Value::Map(Map::new(values)))
    }

    fn object(&mut self, name: &str, fields: &'e [crate::ast::Field]) -> Res<'a> {
        let mut made = Made { type_name: name.strip_prefix('.').unwrap_or(name).into(), fields: BTreeMap::new() };
        for field in fields {
            if let Some(value) = self.element(&field.value, field.optional)? {
                made.fields.insert(field.name.clone(), value);
            }
        }
        self.charge(40)?;
        Ok(Value::Object(made.into()))
    }

    fn fold(&mut self, fold: &'e Fold) -> Res<'a> {
        let range = self.eval(&fold.range)?;
        let init = self.eval(&fold.init);
        if let Err(e) = &init
            && e.cancelled
        {
            return init;
        }
        let depth = self.scopes.len();
        self.scopes.push((&fold.accu, init));
        let done = self.rounds(fold, &range, depth);
        self.scopes.truncate(depth + 1);
        let result = done.and_then(|()| self.eval(&fold.result));
        self.scopes.truncate(depth);
        result
    }

    fn rounds(&mut self, fold: &'e Fold, range: &Value<'a>, depth: usize) -> Result<(), Error> {
        let two = fold.var2.as_deref();
        match range {
            Value::List(list) => {
                for i in 0..list.len() {
                    let item = list.get(i);
                    let (first, second) = if two.is_some() { (Ok(Value::Int(i as i64)), item) } else { (item, Ok(Value::Null)) };
                    if !self.round(fold, first, second, depth)? {
                        break;
                    }
                }
            }
            Value::Map(map) if two.is_some() => {
                for (key, value) in map.entries()? {
                    if !self.round(fold, Ok(key), Ok(value), depth)? {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                for key in map.keys() {
                    if !self.round(fold, Ok(key), Ok(Value::Null), depth)? {
                        break;
                    }
                }
            }
            _ => return Err(Error::no_overload()),
        }
        Ok(())
    }

    /// One round; false when the loop has come to its end.
    fn round(&mut self, fold: &'e Fold, first: Res<'a>, second: Res<'a>, depth: usize) -> Result<bool, Error> {
        self.scopes.truncate(depth + 1);
        self.scopes.push((&fold.var, first));
        if let Some(name) = &fold.var2 {
            self.scopes.push((name, second));
        }
        match self.eval(&fold.condition) {
            Ok(Value::Bool(false)) => return Ok(false),
            Err(e) if e.cancelled => return Err(e),
            _ => {}
        }
        let step = self.eval(&fold.step);
        if let Err(e) = &step
            && e.cancelled
        {
            return Err(e.clone());
        }
        self.scopes[depth].1 = step;
        Ok(true)
    }
}

/// A variable, or steps from one.
fn is_path_of_variable(e: &Expr) -> bool {
    match &e.kind {
        Kind::Ident(_) => true,
        Kind::Select { operand, test: false, .. } => is_path_of_variable(operand),
        Kind::Call { function, target: None, args } if matches!(function.as_str(), op::INDEX | op::OPT_INDEX | op::OPT_SELECT) => {
            args.first().is_some_and(is_path_of_variable)
        }
        _ => false,
    }
}

fn literal_value<'a>(literal: &Literal) -> Value<'a> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(b) => Value::Bool(*b),
        Literal::Int(n) => Value::Int(*n),
        Literal::Uint(n) => Value::Uint(*n),
        Literal::Double(f) => Value::Double(*f),
        Literal::String(s) => Value::text(s.as_str()),
        Literal::Bytes(b) => Value::Bytes(b.as_slice().into()),
    }
}
