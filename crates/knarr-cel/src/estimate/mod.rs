//! What an expression may cost at most, told from its tree and from the limits of the schema alone
//! (upstream: cel-go's `checker/cost.go`, with Kubernetes' functions in [`calls`]).
//!
//! The numbers are an interface: by them a definition is accepted or refused. So the sizes that upstream takes for
//! unlimited or for nothing are taken for that here too, also where they look odd: keys of maps and single numbers have
//! size 0.

mod calls;
mod range;

use std::collections::HashMap;

pub use range::Range;

use crate::{
    ast::{ACCU, Entry, Expr, Fold, Id, Kind, Literal},
    check::Checked,
    schema::{Decl, DeclKind},
    types::Type,
};

const LIST: Range = Range::exactly(10);
const MAP: Range = Range::exactly(30);
const OBJECT: Range = Range::exactly(40);

/// What a checked expression costs at least and at most. `root` is the declaration of its variables: whatever they are
/// called, their paths are looked up in it.
pub fn estimate(checked: &Checked, root: &Decl) -> Range {
    Estimator { checked, root, paths: HashMap::new(), sizes: HashMap::new(), entries: HashMap::new(), locals: Vec::new() }.cost(&checked.root)
}

/// Where a value stands below a variable: the variable, then fields, `@items`, `@values`, `@keys`. Empty: nowhere.
type Path = Vec<String>;

/// Sizes of what a list or map holds.
#[derive(Clone, Copy)]
struct Entries {
    is_list: bool,
    key: Range,
    value: Range,
}

impl Entries {
    fn or(self, other: Self) -> Self {
        Self { is_list: self.is_list, key: self.key.or(other.key), value: self.value.or(other.value) }
    }
}

/// A variable of a macro.
struct Local {
    name: String,
    path: Path,
    size: Option<Range>,
    entries: Option<Entries>,
}

/// An operand as functions see it.
struct Operand<'e> {
    path: Path,
    of_type: Type,
    expr: Option<&'e Expr>,
    size: Option<Range>,
}

/// A call's cost beside that of its arguments, and the size of its result where that can be told.
struct Call {
    cost: Range,
    size: Option<Range>,
}

impl Call {
    fn costs(cost: Range) -> Self {
        Self { cost, size: None }
    }

    fn with_size(cost: Range, size: Range) -> Self {
        Self { cost, size: Some(size) }
    }
}

struct Estimator<'e> {
    checked: &'e Checked,
    root: &'e Decl,
    paths: HashMap<Id, Path>,
    sizes: HashMap<Id, Range>,
    entries: HashMap<Id, Entries>,
    /// Innermost last.
    locals: Vec<Local>,
}

impl<'e> Estimator<'e> {
    fn cost(&mut self, e: &'e Expr) -> Range {
        match &e.kind {
            Kind::Literal(_) => Range::ZERO,
            Kind::Ident(name) => {
                let path = self.local(name).map_or_else(|| vec![name.clone()], |l| l.path.clone());
                self.paths.insert(e.id, path);
                Range::ONE
            }
            Kind::Select { operand, field, test } => self.select(e, operand, field, *test),
            Kind::Call { function, target, args } => self.call(e, function, target.as_deref(), args),
            Kind::List(elements) => self.list(e, elements),
            Kind::Map(entries) => self.map(e, entries),
            Kind::Struct { fields, .. } => fields.iter().fold(OBJECT, |sum, f| sum.plus(self.cost(&f.value))),
            Kind::Fold(fold) if is_binding(fold) => self.binding(e, fold),
            Kind::Fold(fold) => self.fold(e, fold),
        }
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|l| l.name == name)
    }

    fn type_of(&self, e: &Expr) -> &'e Type {
        self.checked.type_of(e)
    }

    fn path(&self, e: &Expr) -> Path {
        let local = match &e.kind {
            Kind::Ident(name) => self.local(name),
            _ => None,
        };
        local.map(|l| &l.path).or_else(|| self.paths.get(&e.id)).cloned().unwrap_or_default()
    }

    fn path_below(&self, e: &Expr, step: &str) -> Path {
        let mut path = self.path(e);
        path.push(step.to_owned());
        path
    }

    /// The size that the schema allows at a path.
    fn declared(&self, path: &[String]) -> Option<Range> {
        let (_, steps) = path.split_first()?;
        let mut decl = self.root;
        for (i, step) in steps.iter().enumerate() {
            decl = match (&decl.kind, step.as_str()) {
                (DeclKind::List { items, .. }, "@items" | "@values") => items,
                (DeclKind::Map(of), "@items" | "@values") => of,
                // A key is a text without a limit of its own, which upstream counts as nothing.
                (DeclKind::Map(_), "@keys") => return (i + 1 == steps.len()).then_some(Range::ZERO),
                // What may be of any type is as large under every name.
                (DeclKind::Map(of), _) if matches!(of.kind, DeclKind::Unknown) && of.ty.is_some() => of,
                (DeclKind::Object { fields, .. }, name) => {
                    let exposed = fields.values().find(|f| f.escaped.as_deref() == Some(name))?;
                    exposed.decl.ty.as_ref()?;
                    &exposed.decl
                }
                _ => return None,
            };
        }
        Some(Range::up_to(decl.max_elements.unwrap_or(0)))
    }

    fn size(&mut self, e: &Expr) -> Option<Range> {
        if let Some(known) = self.sizes.get(&e.id).copied().or_else(|| written_size(e)) {
            return Some(known);
        }
        if let Some(declared) = self.declared(&self.path(e)) {
            self.sizes.insert(e.id, declared);
            return Some(declared);
        }
        if self.type_of(e).is_scalar() {
            return Some(Range::ONE);
        }
        match &e.kind {
            Kind::Ident(name) => self.local(name).and_then(|l| l.size),
            _ => None,
        }
    }

    fn size_or_unknown(&mut self, e: &Expr) -> Range {
        self.size(e).unwrap_or(Range::UNKNOWN)
    }

    fn entries(&self, e: &Expr) -> Option<Entries> {
        let local = match &e.kind {
            Kind::Ident(name) => self.local(name),
            _ => None,
        };
        self.entries.get(&e.id).copied().or_else(|| local?.entries)
    }

    fn operand(&mut self, e: &'e Expr) -> Operand<'e> {
        let mut path = self.path(e);
        if path.first().is_some_and(|p| p == ACCU) {
            path.clear();
        }
        Operand { path, of_type: self.type_of(e).clone(), expr: Some(e), size: self.size(e) }
    }

    fn select(&mut self, e: &'e Expr, operand: &'e Expr, field: &str, test: bool) -> Range {
        let cost = self.cost(operand);
        if test {
            return cost;
        }
        self.paths.insert(e.id, self.path_below(operand, field));
        if matches!(self.type_of(operand), Type::Map(_) | Type::Struct(_)) { cost.plus(Range::ONE) } else { cost }
    }

    fn call(&mut self, e: &'e Expr, function: &str, target: Option<&'e Expr>, args: &'e [Expr]) -> Range {
        if let ("dyn", [arg]) = (function, args) {
            let cost = Range::ONE.plus(self.cost(arg));
            self.copy_sizes(e, arg);
            return cost;
        }
        let (mut costs, mut operands) = (Vec::with_capacity(args.len()), Vec::with_capacity(args.len()));
        for arg in args {
            costs.push(self.cost(arg));
            operands.push(self.operand(arg));
        }
        let Some(overloads) = self.checked.overloads.get(&e.id).filter(|o| !o.is_empty()) else { return Range::ZERO };
        let target_cost = target.map_or(Range::ZERO, |t| self.cost(t));
        let target = target.map(|t| self.operand(t));
        let (mut cost, mut size) = (Range::EMPTY, None);
        for overload in overloads {
            let call = self.overload(e, function, overload, target.as_ref(), &operands, &costs);
            cost = cost.or(call.cost);
            if let Some(other) = call.size {
                size = Some(size.map_or(other, |s: Range| s.or(other)));
            }
            if let ("index_list" | "index_map", [from, ..]) = (*overload, args) {
                size = self.entries(from).map(|entries| entries.value);
                let step = if *overload == "index_list" { "@items" } else { "@values" };
                self.paths.insert(e.id, self.path_below(from, step));
            }
            size = size.or_else(|| self.size(e));
        }
        self.sizes.extend(size.map(|s| (e.id, s)));
        target_cost.plus(cost)
    }

    /// One overload, with the cost of the arguments.
    fn overload(&mut self, e: &'e Expr, function: &str, overload: &str, target: Option<&Operand<'e>>, args: &[Operand<'e>], costs: &[Range]) -> Call {
        let all = costs.iter().fold(Range::ZERO, |sum, c| sum.plus(*c));
        let known = self.of_function(function, overload, target, args);
        if let Some(call) = known {
            return Call { cost: call.cost.plus(all), ..call };
        }
        match (overload, costs, args) {
            // The right side may never be looked at.
            ("logical_and" | "logical_or", [left, right], _) => Call::costs(Range { min: left.min, max: left.plus(*right).max }),
            ("conditional", [condition, yes, no], [_, first, second]) => {
                let size = first.size.unwrap_or(Range::UNKNOWN).or(second.size.unwrap_or(Range::UNKNOWN));
                self.join_entries(e, first, second);
                Call::with_size(condition.plus(yes.or(*no)), size)
            }
            ("add_string" | "add_bytes" | "add_list", _, [left, right]) => {
                let size = left.size.unwrap_or(Range::UNKNOWN).plus(right.size.unwrap_or(Range::UNKNOWN));
                self.join_entries(e, left, right);
                let cost = if overload == "add_list" { Range::ONE } else { size.scaled(calls::TRAVERSAL) };
                Call::with_size(cost.plus(all), size)
            }
            _ => Call::costs(Range::ONE.plus(all)),
        }
    }

    fn join_entries(&mut self, e: &Expr, left: &Operand<'_>, right: &Operand<'_>) {
        let entries = |o: &Operand<'_>| o.expr.and_then(|x| self.entries(x));
        if let (Some(left), Some(right)) = (entries(left), entries(right)) {
            self.entries.insert(e.id, left.or(right));
        }
    }

    fn copy_sizes(&mut self, to: &Expr, from: &Expr) {
        let (size, entries) = (self.size(from), self.entries(from));
        self.sizes.extend(size.map(|s| (to.id, s)));
        self.entries.extend(entries.map(|s| (to.id, s)));
    }

    fn list(&mut self, e: &'e Expr, elements: &'e [(Expr, bool)]) -> Range {
        let mut value = if elements.is_empty() { Range::ZERO } else { Range::EMPTY };
        let mut cost = LIST;
        for (element, _) in elements {
            cost = cost.plus(self.cost(element));
            value = value.or(self.size_or_unknown(element));
        }
        self.entries.insert(e.id, Entries { is_list: true, key: Range::ONE, value });
        cost
    }

    fn map(&mut self, e: &'e Expr, entries: &'e [Entry]) -> Range {
        let nothing = if entries.is_empty() { Range::ZERO } else { Range::EMPTY };
        let (mut key, mut value, mut cost) = (nothing, nothing, MAP);
        for entry in entries {
            cost = cost.plus(self.cost(&entry.key)).plus(self.cost(&entry.value));
            key = key.or(self.size_or_unknown(&entry.key));
            value = value.or(self.size_or_unknown(&entry.value));
        }
        self.entries.insert(e.id, Entries { is_list: false, key, value });
        cost
    }

    fn push_value_of(&mut self, name: &str, e: &Expr) {
        let local = Local { name: name.to_owned(), path: self.path(e), size: self.size(e), entries: self.entries(e) };
        self.locals.push(local);
    }

    /// The variables of a loop over `range`.
    fn push_variables(&mut self, fold: &Fold) {
        let entries = self.entries(&fold.range);
        let is_list = entries.map_or_else(|| matches!(self.type_of(&fold.range), Type::List(_)), |e| e.is_list);
        let (key, value) = (entries.map(|e| e.key), entries.map(|e| e.value));
        let mut push = |name: &str, step: &str, size| {
            let path = self.path_below(&fold.range, step);
            self.locals.push(Local { name: name.to_owned(), path, size, entries: None });
        };
        match &fold.var2 {
            Some(second) => {
                push(&fold.var, if is_list { "@indices" } else { "@keys" }, key);
                push(second, if is_list { "@items" } else { "@values" }, value);
            }
            None if is_list => push(&fold.var, "@items", value),
            None => push(&fold.var, "@keys", key),
        }
    }

    fn fold(&mut self, e: &'e Expr, fold: &'e Fold) -> Range {
        let mut cost = self.cost(&fold.range).plus(self.cost(&fold.init));
        let depth = self.locals.len();
        self.push_value_of(&fold.accu, &fold.init);
        self.push_variables(fold);
        let round = self.cost(&fold.condition).plus(self.cost(&fold.step));
        self.locals.truncate(depth + 1);
        cost = cost.plus(self.cost(&fold.result));
        self.locals.truncate(depth);
        let rounds = self.size_or_unknown(&fold.range);
        match &fold.init.kind {
            Kind::Literal(_) => {
                let size = self.size(&fold.init);
                self.sizes.extend(size.map(|s| (e.id, s)));
            }
            Kind::List(_) | Kind::Map(_) => {
                self.sizes.insert(e.id, rounds);
                let made = self.entries(&fold.step);
                self.entries.extend(made.map(|m| (e.id, m)));
            }
            _ => {}
        }
        cost.plus(rounds.times(round))
    }

    fn binding(&mut self, e: &'e Expr, fold: &'e Fold) -> Range {
        let mut cost = self.cost(&fold.range).plus(self.cost(&fold.init));
        let depth = self.locals.len();
        self.push_value_of(&fold.accu, &fold.init);
        cost = cost.plus(self.cost(&fold.result));
        self.locals.truncate(depth);
        self.copy_sizes(e, &fold.result);
        cost
    }
}

/// A loop that runs no time and only names a value.
fn is_binding(fold: &Fold) -> bool {
    matches!(&fold.range.kind, Kind::List(elements) if elements.is_empty())
        && matches!(fold.condition.kind, Kind::Literal(Literal::Bool(false)))
        && fold.accu != ACCU
}

/// The size of what stands in the expression itself.
fn written_size(e: &Expr) -> Option<Range> {
    Some(Range::exactly(match &e.kind {
        Kind::Literal(Literal::String(text)) => text.chars().count() as u64,
        Kind::Literal(Literal::Bytes(bytes)) => bytes.len() as u64,
        Kind::Literal(_) => 1,
        Kind::List(elements) => elements.len() as u64,
        Kind::Map(entries) => entries.len() as u64,
        _ => return None,
    }))
}

/// Whether the expression names a variable, or has a variable of that name in a macro, as upstream sees no difference.
pub fn uses(checked: &Checked, variable: &str) -> bool {
    let mut found = false;
    checked.root.walk(&mut |e| found |= matches!(&e.kind, Kind::Ident(name) if name.strip_prefix('.').unwrap_or(name) == variable));
    found
}

#[cfg(test)]
mod tests;
