//! The rules in CEL of a definition: their form, whether they compile, and what they may cost
//! (upstream: `cel_validation.go` and the end of `ValidateCustomResourceDefinitionOpenAPISchema`).

use std::sync::Arc;

use knarr_cel::schema::{Decl, DeclKind};
use knarr_core::{
    Value, ValueExt,
    field::{Error, ErrorList, Path},
};

use super::shown;
use crate::{
    apiextensions::custom::{Compiled, Schema, cardinality_max, compile, find_field_path},
    at::At,
};

const RULES: &str = "x-kubernetes-validations";
/// Most that one expression may cost, however often it runs for one object.
const EXPRESSION_MAX: u64 = 10_000_000;
/// Most that all expressions of a schema may cost together.
const SCHEMA_MAX: u64 = 100_000_000;
/// So many of the dearest are named when all together cost too much.
const NAMED_MAX: usize = 4;
const REASONS: [&str; 4] = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// A place in a schema as rules see it.
pub struct Node<'s> {
    schema: &'s Value,
    decl: Arc<Decl>,
    /// How often its data can stand in one object; none when nothing limits that.
    times: Option<u64>,
}

impl<'s> Node<'s> {
    pub fn root(schema: &'s Value) -> Self {
        Self { schema, decl: Arc::new(declared(schema, true)), times: Some(1) }
    }

    fn below(&self, schema: &'s Value, decl: Option<&Arc<Decl>>) -> Self {
        // What cannot be seen from above may still have rules of its own.
        let decl = decl.filter(|d| d.ty.is_some()).cloned().unwrap_or_else(|| Arc::new(declared(schema, false)));
        let times = self.times.and_then(|n| Some(n.saturating_mul(elements_max(self.schema)?)));
        Self { schema, decl, times }
    }

    pub fn property(&self, name: &str, schema: &'s Value) -> Self {
        let decl = match &self.decl.kind {
            DeclKind::Object { fields, .. } => fields.get(name).map(|f| &f.decl),
            _ => None,
        };
        self.below(schema, decl)
    }

    pub fn items(&self, schema: &'s Value) -> Self {
        let decl = match &self.decl.kind {
            DeclKind::List { items, .. } => Some(items),
            _ => None,
        };
        self.below(schema, decl)
    }

    pub fn additional(&self, schema: &'s Value) -> Self {
        let decl = match &self.decl.kind {
            DeclKind::Map(of) => Some(of),
            _ => None,
        };
        self.below(schema, decl)
    }

    /// What an expression costs for one object.
    fn cost(&self, once: u64) -> u64 {
        once.saturating_mul(self.times.unwrap_or_else(|| cardinality_max(&self.decl)))
    }
}

fn declared(schema: &Value, is_root: bool) -> Decl {
    Decl::build(schema, is_root, "selfType")
}

/// How often what is in a value can be in it; none when there is no limit.
fn elements_max(schema: &Value) -> Option<u64> {
    let max = |key: &str| schema.at(&[key]).and_then(Value::as_i64).map(|n| n.max(0).unsigned_abs());
    match schema.str_at(&["type"]).unwrap_or_default() {
        "object" if schema.at(&["additionalProperties"]).is_some() => max("maxProperties"),
        "array" => max("maxItems"),
        _ => Some(1),
    }
}

/// What all expressions of a schema cost.
#[derive(Default)]
pub struct Total {
    sum: u64,
    /// The dearest first.
    dearest: Vec<(Path, u64)>,
}

impl Total {
    fn add(&mut self, path: Path, cost: u64) {
        self.sum = self.sum.saturating_add(cost);
        if cost >= SCHEMA_MAX / 100 {
            self.dearest.push((path, cost));
            self.dearest.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
            self.dearest.truncate(NAMED_MAX);
        }
    }

    /// What is wrong when it is too much.
    pub fn errors(&self, schema: &Path, e: &mut ErrorList) {
        if self.sum <= SCHEMA_MAX {
            return;
        }
        const PART: &str = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
        e.extend(self.dearest.iter().map(|(path, _)| Error::forbidden(path, PART)));
        let why = too_expensive("x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema", self.sum, SCHEMA_MAX);
        e.push(Error::forbidden(schema, why));
    }
}

fn too_expensive(what: &str, cost: u64, max: u64) -> String {
    let factor = cost as f64 / max as f64;
    let factor = match factor {
        f if f > 100.0 => "more than 100x".to_owned(),
        f if f < 1.5 => format!("{f:.6}x"),
        f => format!("{f:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

fn has_line_breaks(text: &str) -> bool {
    text.contains(['\n', '\r'])
}

/// What can be told without compiling.
pub fn form(at: &At, schema: &Value, e: &mut ErrorList) {
    let rules = at.get(RULES);
    if rules.len() == 0 {
        return;
    }
    let structure = Schema::new(schema);
    for rule in rules.items() {
        let (expression, message, made) = (rule.get("rule"), rule.get("message"), rule.get("messageExpression"));
        let (trimmed, said) = (expression.str().trim(), message.str().trim());
        if trimmed.is_empty() {
            e.push(expression.required("rule is not specified"));
        } else if !message.str().is_empty() && said.is_empty() {
            e.push(message.invalid("must be non-empty if specified"));
        } else if has_line_breaks(said) {
            e.push(message.invalid("must not contain line breaks"));
        } else if has_line_breaks(trimmed) && said.is_empty() {
            e.push(message.required("message must be specified if rule contains line breaks"));
        }
        if !made.str().is_empty() && made.str().trim().is_empty() {
            e.push(made.required("messageExpression must be non-empty if specified"));
        }
        rule.get("reason").if_set_one_of(e, &REASONS);
        let path = rule.get("fieldPath");
        if path.str().is_empty() {
            continue;
        }
        if path.str().trim().is_empty() {
            e.push(path.invalid("must be non-empty if specified"));
        }
        if has_line_breaks(path.str()) {
            e.push(path.invalid("must not contain line breaks"));
        }
        if find_field_path(path.str(), &structure, true).is_err() {
            e.push(path.invalid("must be a valid path"));
        }
    }
}

/// Compiles the rules of a node and adds up what they cost.
pub fn check(at: &At, schema: &Value, node: &Node<'_>, uncorrelated: Option<&str>, costs_may_stay: bool, total: &mut Total, e: &mut ErrorList) {
    let rules = at.get(RULES);
    if rules.len() == 0 {
        return;
    }
    if node.decl.ty.is_none() {
        const WHY: &str =
            "internal error: failed to construct type information for x-kubernetes-validations rules: unable to convert structural schema to CEL declarations";
        return e.push(Error::internal(&rules.path(), WHY));
    }
    for (rule, compiled) in rules.items().zip(compile(schema, &Schema::new(schema), &node.decl)) {
        let (once, message) = compiled.costs(&node.decl);
        let cost = node.cost(once);
        let place = rule.get("rule");
        if !costs_may_stay && cost > EXPRESSION_MAX {
            e.push(place.forbidden(too_expensive("estimated rule cost", cost, EXPRESSION_MAX)));
        }
        total.add(place.path(), cost);
        let whole = || rule.value().map(shown::rule).unwrap_or_default();
        if let Err(why) = &compiled.program {
            e.push(place.invalid(why.clone()).showing(whole()));
        }
        let made = rule.get("messageExpression");
        match &compiled.message_program {
            Err(why) => e.push(made.invalid(why.clone()).showing(whole())),
            Ok(Some(_)) => {
                if !costs_may_stay && message > EXPRESSION_MAX {
                    e.push(made.forbidden(too_expensive("estimated messageExpression cost", message, EXPRESSION_MAX)));
                }
                total.add(made.path(), message);
            }
            Ok(None) => {}
        }
        transition(&rule, &compiled, uncorrelated, e);
    }
}

fn transition(rule: &At, compiled: &Compiled, uncorrelated: Option<&str>, e: &mut ErrorList) {
    let (expression, optional) = (rule.get("rule"), rule.get("optionalOldSelf"));
    if !compiled.uses_old_self {
        if optional.is_set() {
            e.push(optional.invalid("may not be set if oldSelf is not used in rule"));
        }
    } else if let Some(path) = uncorrelated {
        e.push(expression.invalid(format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {path}")));
    }
}
