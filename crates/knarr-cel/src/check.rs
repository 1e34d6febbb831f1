//! The type checker: resolves names and overloads and gives every node its type (upstream: cel-go's `checker/checker.go`).

use std::{collections::HashMap, sync::Arc};

use crate::{
    ast::{Expr, Fold, Id, Kind, Literal, op},
    env::{self, Env, Overload},
    issue::Issue,
    parser::Parsed,
    types::{self, Bindings, Type, all_assignable, assignable, most_general},
};

/// An expression that has passed the checker.
#[derive(Debug)]
pub struct Checked {
    pub root: Expr,
    /// By id.
    pub types: Vec<Type>,
    /// Overloads that a call may turn out to be, by id.
    pub overloads: HashMap<Id, Vec<&'static str>>,
}

impl Checked {
    pub fn type_of(&self, e: &Expr) -> &Type {
        &self.types[e.id]
    }

    pub fn result_type(&self) -> &Type {
        self.type_of(&self.root)
    }
}

struct Checker<'e> {
    env: &'e Env,
    /// Innermost last.
    scopes: Vec<(String, Type)>,
    types: Vec<Option<Type>>,
    overloads: HashMap<Id, Vec<&'static str>>,
    bound: Bindings,
    variables: usize,
    issues: Vec<Issue>,
}

/// Checks an expression.
///
/// # Errors
/// All that is wrong with it.
pub fn check(parsed: Parsed, env: &Env) -> Result<Checked, Vec<Issue>> {
    let Parsed { mut root, ids } = parsed;
    let mut checker =
        Checker { env, scopes: Vec::new(), types: vec![None; ids + 1], overloads: HashMap::new(), bound: Bindings::new(), variables: 0, issues: Vec::new() };
    checker.check(&mut root);
    let Checker { types, overloads, bound, mut issues, .. } = checker;
    let types: Vec<Type> = types.into_iter().map(|t| t.map_or(Type::Dyn, |t| t.substitute(&bound, true))).collect();
    let checked = Checked { root, types, overloads };
    if issues.is_empty() {
        mixed_literals(&checked, &checked.root, &mut issues);
        issues.extend(literal_issues(&checked));
    }
    if issues.is_empty() { Ok(checked) } else { Err(issues) }
}

impl Checker<'_> {
    fn issue(&mut self, e: &Expr, message: String) {
        self.issues.push(Issue::new(e.at, message));
    }

    fn set(&mut self, e: &Expr, t: Type) -> Type {
        self.types[e.id] = Some(t.clone());
        t
    }

    fn fresh(&mut self) -> Type {
        self.variables += 1;
        types::param(&format!("_var{}", self.variables - 1))
    }

    fn check(&mut self, e: &mut Expr) -> Type {
        let t = match &mut e.kind {
            Kind::Literal(literal) => literal_type(literal),
            Kind::Ident(_) => self.ident(e),
            Kind::Select { .. } => self.select(e),
            Kind::Call { .. } => self.call(e),
            Kind::List(_) => self.list(e),
            Kind::Map(_) => self.map(e),
            Kind::Struct { .. } => self.object(e),
            Kind::Fold(fold) => self.fold(fold),
        };
        self.set(e, t)
    }

    fn variable(&self, name: &str) -> Option<Type> {
        let name = name.strip_prefix('.').unwrap_or(name);
        let local = self.scopes.iter().rev().find(|(n, _)| n == name).map(|(_, t)| t);
        local.or_else(|| self.env.variables.get(name)).cloned()
    }

    /// A variable, or a type as a value.
    fn resolve(&self, name: &str) -> Option<Type> {
        let type_value = || {
            let bare = name.strip_prefix('.').unwrap_or(name);
            let named = env::type_named(bare).or_else(|| self.env.types.has_type(bare).then(|| types::object(bare)))?;
            Some(Type::Type(Some(Arc::new(named))))
        };
        self.variable(name).or_else(type_value)
    }

    fn ident(&mut self, e: &Expr) -> Type {
        let Kind::Ident(name) = &e.kind else { return Type::Error };
        if let Some(t) = self.resolve(name) {
            return t;
        }
        self.issue(e, format!("undeclared reference to '{name}' (in container '')"));
        Type::Error
    }

    fn select(&mut self, e: &mut Expr) -> Type {
        if let Some(name) = e.qualified_name()
            && (self.env.variables.contains_key(&name) || self.variable(name.split('.').next().unwrap_or_default()).is_none())
            && let Some(t) = self.resolve(&name)
        {
            e.kind = Kind::Ident(name);
            return t;
        }
        let at = e.at;
        let Kind::Select { operand, field, test } = &mut e.kind else { return Type::Error };
        let t = self.field(at, operand, field, false);
        if *test { Type::Bool } else { t.substitute(&self.bound, false) }
    }

    /// The type of a field of what the operand turns out to be.
    fn field(&mut self, at: usize, operand: &mut Expr, field: &str, optional: bool) -> Type {
        let operand_type = self.check(operand).substitute(&self.bound, false);
        let unwrapped = operand_type.unwrap_optional();
        let was_optional = unwrapped.is_some();
        let target = unwrapped.unwrap_or(&operand_type);
        let result = match target {
            Type::Map(of) => of.1.clone(),
            Type::Struct(name) => self.env.types.field(name, field).unwrap_or_else(|| {
                let known = self.env.types.has_type(name);
                let why = if known { format!("undefined field '{field}'") } else { format!("unexpected failed resolution of '{name}'") };
                self.issues.push(Issue::new(at, why));
                Type::Error
            }),
            Type::Param(_) => {
                assignable(&mut self.bound, &Type::Dyn, target);
                Type::Dyn
            }
            Type::Dyn | Type::Error => Type::Dyn,
            other => {
                self.issues.push(Issue::new(at, format!("type '{other}' does not support field selection")));
                Type::Dyn
            }
        };
        if was_optional || optional { types::optional(result) } else { result }
    }

    fn call(&mut self, e: &mut Expr) -> Type {
        let (id, at) = (e.id, e.at);
        let Kind::Call { function, target, args } = &mut e.kind else { return Type::Error };
        if function == op::OPT_SELECT
            && let [operand, field] = &mut args[..]
        {
            let Kind::Literal(Literal::String(name)) = field.kind.clone() else { return Type::Error };
            self.check(field);
            let t = self.field(at, operand, &name, true);
            self.overloads.insert(id, vec!["select_optional_field"]);
            return t.substitute(&self.bound, false);
        }
        let mut arg_types: Vec<Type> = args.iter_mut().map(|a| self.check(a)).collect();
        if let Some(receiver) = target {
            let qualified = receiver.qualified_name().map(|prefix| format!("{prefix}.{function}"));
            if let Some(name) = qualified.filter(|n| env::function(n).is_some()) {
                (*function, *target) = (name, None);
            } else {
                arg_types.insert(0, self.check(receiver));
            }
        }
        let name = function.strip_prefix('.').unwrap_or(function).to_owned();
        let Some(overloads) = env::function(&name) else {
            self.issues.push(Issue::new(at, format!("undeclared reference to '{function}' (in container '')")));
            return Type::Error;
        };
        let member = target.is_some();
        if (name == op::AND || name == op::OR) && !member {
            let places: Vec<usize> = args.iter().map(|a| a.at).collect();
            return self.logical(id, &name, &arg_types, &places);
        }
        self.resolve_overload(id, at, &name, overloads, member, &arg_types)
    }

    fn logical(&mut self, id: Id, name: &str, args: &[Type], places: &[usize]) -> Type {
        self.overloads.insert(id, vec![if name == op::AND { "logical_and" } else { "logical_or" }]);
        let mut result = Type::Bool;
        for (t, at) in args.iter().zip(places) {
            if !assignable(&mut self.bound, t, &Type::Bool) {
                let shown = t.substitute(&self.bound, false);
                self.issues.push(Issue::new(*at, format!("expected type 'bool' but found '{shown}'")));
                result = Type::Error;
            }
        }
        result
    }

    fn resolve_overload(&mut self, id: Id, at: usize, name: &str, overloads: &'static [Overload], member: bool, args: &[Type]) -> Type {
        let mut result: Option<Type> = None;
        let mut matching = Vec::new();
        for overload in overloads.iter().filter(|o| o.member == member) {
            let mut fresh = Bindings::new();
            for param in &overload.params {
                let variable = self.fresh();
                fresh.insert(param.clone(), variable);
            }
            let wanted: Vec<Type> = overload.args.iter().map(|t| t.substitute(&fresh, false)).collect();
            if !all_assignable(&mut self.bound, &args.iter().collect::<Vec<_>>(), &wanted.iter().collect::<Vec<_>>()) {
                continue;
            }
            matching.push(overload.id.as_str());
            let t = overload.result.substitute(&fresh, false).substitute(&self.bound, false);
            result = Some(match result {
                None => t,
                Some(found) if found.is_dyn() || found == t => found,
                Some(_) => Type::Dyn,
            });
        }
        let Some(result) = result else {
            let shown: Vec<String> = args.iter().map(|t| t.substitute(&self.bound, true).to_string()).collect();
            let (target, rest) = if member { (format!("{}.", shown[0]), &shown[1..]) } else { (String::new(), &shown[..]) };
            self.issues.push(Issue::new(at, format!("found no matching overload for '{name}' applied to '{target}({})'", rest.join(", "))));
            return Type::Error;
        };
        self.overloads.insert(id, matching);
        result
    }

    /// The type of all elements of a list or map literal so far.
    fn join(&mut self, before: Option<Type>, t: Type) -> Option<Type> {
        let Some(before) = before else { return Some(t) };
        Some(if assignable(&mut self.bound, &before, &t) { most_general(&before, &t) } else { Type::Dyn })
    }

    fn mismatch(&mut self, e: &Expr, expected: &Type, found: &Type) {
        self.issue(e, format!("expected type '{expected}' but found '{found}'"));
    }

    fn element(&mut self, e: &mut Expr, optional: bool) -> Type {
        let t = self.check(e);
        if !optional {
            return t;
        }
        match t.unwrap_optional() {
            Some(inner) => inner.clone(),
            None => {
                if !t.is_dyn() {
                    self.mismatch(e, &types::optional(t.clone()), &t);
                }
                t
            }
        }
    }

    fn list(&mut self, e: &mut Expr) -> Type {
        let Kind::List(elements) = &mut e.kind else { return Type::Error };
        let mut of = None;
        for (element, optional) in elements {
            let t = self.element(element, *optional);
            of = self.join(of, t);
        }
        types::list(of.unwrap_or_else(|| self.fresh()))
    }

    fn map(&mut self, e: &mut Expr) -> Type {
        let Kind::Map(entries) = &mut e.kind else { return Type::Error };
        let (mut keys, mut values) = (None, None);
        for entry in entries {
            let key = self.check(&mut entry.key);
            keys = self.join(keys, key);
            let value = self.element(&mut entry.value, entry.optional);
            values = self.join(values, value);
        }
        match (keys, values) {
            (Some(keys), Some(values)) => types::map(keys, values),
            _ => {
                let key = self.fresh();
                types::map(key, self.fresh())
            }
        }
    }

    fn object(&mut self, e: &mut Expr) -> Type {
        let at = e.at;
        let Kind::Struct { name, fields } = &mut e.kind else { return Type::Error };
        let name = name.strip_prefix('.').unwrap_or(name).to_owned();
        if !self.env.types.has_type(&name) {
            let why = if env::type_named(&name).is_some() {
                format!("'{name}' is not a message type")
            } else {
                format!("undeclared reference to '{name}' (in container '')")
            };
            self.issues.push(Issue::new(at, why));
            return Type::Error;
        }
        for field in fields {
            let value = self.element(&mut field.value, field.optional);
            let Some(wanted) = self.env.types.field(&name, &field.name) else {
                self.issues.push(Issue::new(field.at, format!("undefined field '{}'", field.name)));
                continue;
            };
            if !assignable(&mut self.bound, &wanted, &value) {
                let (name, value) = (&field.name, value.substitute(&self.bound, false));
                self.issues.push(Issue::new(field.at, format!("expected type of field '{name}' is '{wanted}' but provided type is '{value}'")));
            }
        }
        types::object(&name)
    }

    fn fold(&mut self, fold: &mut Fold) -> Type {
        let range = self.check(&mut fold.range);
        let accu = self.check(&mut fold.init);
        let range = range.substitute(&self.bound, false);
        let depth = self.scopes.len();
        self.scopes.push((fold.accu.clone(), accu.clone()));
        let two = fold.var2.is_some();
        let (first, second) = match &range {
            Type::List(of) if two => (Type::Int, (**of).clone()),
            Type::List(of) => ((**of).clone(), Type::Dyn),
            Type::Map(of) => (of.0.clone(), of.1.clone()),
            Type::Dyn | Type::Error | Type::Param(_) => {
                assignable(&mut self.bound, &Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let why = format!("expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)");
                self.issue(&fold.range, why);
                (Type::Error, Type::Error)
            }
        };
        self.scopes.push((fold.var.clone(), first));
        self.scopes.extend(fold.var2.iter().map(|name| (name.clone(), second.clone())));
        let condition = self.check(&mut fold.condition);
        self.expect(&fold.condition, &Type::Bool, &condition);
        let step = self.check(&mut fold.step);
        self.expect(&fold.step, &accu, &step);
        self.scopes.truncate(depth + 1);
        let result = self.check(&mut fold.result);
        self.scopes.truncate(depth);
        result.substitute(&self.bound, false)
    }

    fn expect(&mut self, e: &Expr, wanted: &Type, found: &Type) {
        if !assignable(&mut self.bound, wanted, found) {
            let (wanted, found) = (wanted.substitute(&self.bound, false), found.substitute(&self.bound, false));
            self.mismatch(e, &wanted, &found);
        }
    }
}

fn literal_type(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}

/// Elements of list and map literals must all be of the same type, except in what is formatted (upstream:
/// `ValidateHomogeneousAggregateLiterals`).
fn mixed_literals(checked: &Checked, e: &Expr, issues: &mut Vec<Issue>) {
    let type_of = |e: &Expr, optional: bool| {
        let t = checked.type_of(e);
        if optional { t.unwrap_optional().unwrap_or(t).clone() } else { t.clone() }
    };
    let mut mismatch = |e: &Expr, expected: &Type, found: &Type| issues.push(Issue::new(e.at, format!("expected type '{expected}' but found '{found}'")));
    match &e.kind {
        Kind::Call { function, .. } if function == "format" => return,
        Kind::List(elements) => {
            let mut types = elements.iter().map(|(e, optional)| (e, type_of(e, *optional)));
            if let Some((_, first)) = types.next()
                && let Some((other, found)) = types.find(|(_, t)| *t != first)
            {
                mismatch(other, &first, &found);
            }
        }
        Kind::Map(entries) => {
            for entry in entries.iter().skip(1) {
                let (key, value) = (type_of(&entry.key, false), type_of(&entry.value, entry.optional));
                let (first_key, first_value) = (type_of(&entries[0].key, false), type_of(&entries[0].value, entries[0].optional));
                if key != first_key {
                    mismatch(&entry.key, &first_key, &key);
                }
                if value != first_value {
                    mismatch(&entry.value, &first_value, &value);
                }
            }
        }
        _ => {}
    }
    e.children().into_iter().for_each(|child| mixed_literals(checked, child, issues));
}

/// Durations, timestamps and patterns that can be seen to be wrong (upstream: cel-go's `cel/validator.go`).
fn literal_issues(checked: &Checked) -> Vec<Issue> {
    let mut issues = Vec::new();
    checked.root.walk(&mut |e| {
        if let Kind::Call { function, args, .. } = &e.kind
            && let Some(Expr { at, kind: Kind::Literal(Literal::String(text)), .. }) = args.first()
        {
            let broken = match function.as_str() {
                "duration" => crate::time::parse_duration(text).is_none(),
                "timestamp" => crate::time::parse_timestamp(text).is_none(),
                "matches" => crate::library::strings::compile(text).is_err(),
                _ => false,
            };
            if broken {
                issues.push(Issue::new(*at, format!("invalid {function} argument")));
            }
        }
    });
    issues
}
