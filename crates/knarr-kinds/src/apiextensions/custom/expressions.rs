//! `x-kubernetes-validations`: the rules in CEL of a schema, compiled once and evaluated for each object
//! (upstream: `apiextensions-apiserver/pkg/apiserver/schema/cel`, KEP-2876).

use std::{collections::BTreeMap, sync::Arc};

use knarr_cel::{
    Env, PER_CALL_LIMIT, Program, RUNTIME_BUDGET, Type, Value as CelValue, compile as compile_cel,
    estimate::{estimate, uses},
    eval::Activation,
    schema::{Decl, DeclKind, REQUEST_BYTES_MAX, Types},
    types,
};
use knarr_core::{
    Value, ValueExt,
    field::{Error, ErrorList, Path},
};

use super::{
    correlate::{Below, Correlation, same_item},
    field_path,
    schema::Schema,
};

/// Longest message that a `messageExpression` may make, in bytes (upstream: `MaxEvaluatedMessageExpressionSizeBytes`).
const MESSAGE_BYTES_MAX: usize = 5 * 1024;
/// Name of the type of `self`, which no expression can write.
const SELF_TYPE: &str = "selfType";
const OUT_OF_BUDGET: &str = "validation failed due to running out of cost budget, no further validation rules will be run";

/// One rule with what its expressions became.
pub struct Compiled {
    rule: String,
    message: String,
    message_source: String,
    reason: String,
    /// Where the error shall be shown, below the node.
    field_path: Option<Path>,
    optional_old_self: bool,
    /// None: the rule is empty.
    pub program: Result<Option<Program>, String>,
    /// None: there is no such expression, or the rule itself is broken.
    pub message_program: Result<Option<Program>, String>,
    pub uses_old_self: bool,
}

impl Compiled {
    /// What the two expressions cost at most, each time they run.
    pub fn costs(&self, decl: &Decl) -> (u64, u64) {
        let most = |program: &Result<Option<Program>, String>| match program {
            Ok(Some(program)) => estimate(program.checked(), decl).max,
            _ => 0,
        };
        (most(&self.program), most(&self.message_program))
    }

    /// As errors name the rule.
    fn shown(&self) -> &str {
        if self.message.is_empty() { self.rule.trim() } else { self.message.trim() }
    }

    fn default_message(&self) -> String {
        if self.message.is_empty() { format!("failed rule: {}", self.rule.trim()) } else { self.message.trim().to_owned() }
    }
}

/// Most often that data of a declaration can stand in one request, if nothing above limits it.
pub fn cardinality_max(decl: &Decl) -> u64 {
    (REQUEST_BYTES_MAX / (decl.min_size + 1)).unsigned_abs()
}

/// Compiles the rules of one node. `decl` is how expressions see it.
pub fn compile(source: &Value, schema: &Schema, decl: &Decl) -> Vec<Compiled> {
    let Some(of_self) = decl.ty.clone() else { return Vec::new() };
    let types = Arc::new(Types::of([decl]));
    let env = |old_self: Type| Env::new([("self", of_self.clone()), ("oldSelf", old_self)], types.clone());
    let (plain, optional) = (env(of_self.clone()), env(types::optional(of_self.clone())));
    let one = |rule: &Value| {
        let is_optional = rule.bool_at(&["optionalOldSelf"]) == Some(true);
        compile_rule(rule, schema, if is_optional { &optional } else { &plain }, is_optional)
    };
    source.list_at(&["x-kubernetes-validations"]).iter().map(one).collect()
}

fn compile_rule(source: &Value, schema: &Schema, env: &Env, optional_old_self: bool) -> Compiled {
    let text = |key: &str| source.str_at(&[key]).unwrap_or_default().to_owned();
    let (rule, made_message, field_path) = (text("rule"), text("messageExpression"), text("fieldPath"));
    let program =
        if rule.trim().is_empty() { Ok(None) } else { typed(&rule, env, &Type::Bool, "compilation failed", "cel expression must evaluate to a bool") };
    let is_fine = matches!(program, Ok(Some(_)));
    let message_program = if is_fine && !made_message.is_empty() {
        typed(&made_message, env, &Type::String, "messageExpression compilation failed", "messageExpression must evaluate to a string")
    } else {
        Ok(None)
    };
    Compiled {
        uses_old_self: matches!(&program, Ok(Some(p)) if uses(p.checked(), "oldSelf")),
        field_path: field_path::find(&field_path, schema, true).ok().filter(|_| !field_path.is_empty()).map(|f| f.path),
        message: text("message"),
        message_source: made_message,
        reason: text("reason"),
        rule,
        optional_old_self,
        program,
        message_program,
    }
}

fn typed(source: &str, env: &Env, wanted: &Type, failed: &str, other: &str) -> Result<Option<Program>, String> {
    let program = compile_cel(source, env).map_err(|why| format!("{failed}: {why}"))?;
    if program.checked().result_type() == wanted { Ok(Some(program)) } else { Err(other.to_owned()) }
}

/// The rules of a node and of all nodes below it that have some.
pub struct Expressions {
    rules: Result<Vec<Compiled>, &'static str>,
    decl: Arc<Decl>,
    properties: BTreeMap<String, Expressions>,
    additional: Option<Box<Expressions>>,
    items: Option<Box<Expressions>>,
}

impl Expressions {
    /// Compiles all rules of `openAPIV3Schema`. None when there are no rules.
    pub fn new(source: &Value, is_root: bool) -> Option<Self> {
        if !has_rules(source) {
            return None;
        }
        Self::node(source, &Arc::new(Decl::build(source, is_root, SELF_TYPE)))
    }

    fn node(source: &Value, decl: &Arc<Decl>) -> Option<Self> {
        if !has_rules(source) {
            return None;
        }
        let own = source.list_at(&["x-kubernetes-validations"]);
        let rules = match (&decl.ty, own) {
            (_, []) => Ok(Vec::new()),
            (None, _) => Err("failed to convert to declType for CEL validation rules"),
            (Some(_), _) => Ok(compile(source, &Schema::new(source), decl)),
        };
        let child = |decl: &Arc<Decl>, source: Option<&Value>| Self::node(source?, decl).map(Box::new);
        let (mut properties, mut additional, mut items) = (BTreeMap::new(), None, None);
        match &decl.kind {
            DeclKind::List { items: of, .. } => items = child(of, source.get("items")),
            DeclKind::Map(of) => additional = child(of, source.get("additionalProperties")),
            DeclKind::Object { fields, .. } => {
                // What expressions cannot see has no rules either.
                for (name, field) in fields.iter().filter(|(_, f)| f.decl.ty.is_some()) {
                    let below = source.at(&["properties", name]).and_then(|s| Self::node(s, &field.decl));
                    properties.extend(below.map(|b| (name.clone(), b)));
                }
            }
            _ => {}
        }
        Some(Self { rules, decl: decl.clone(), properties, additional, items })
    }

    /// Evaluates all rules of an object, which stands at `at`. `old` is what it was before the update, if it was. Warnings
    /// tell what is wrong and may stay so.
    pub fn evaluate(&self, at: &Path, object: &Value, old: Option<&Value>, schema: &Schema, ratchets: bool) -> Evaluation {
        let mut run = Run { errors: ErrorList::new(), warnings: Vec::new(), budget: RUNTIME_BUDGET };
        let root = Below::root(object, old.filter(|_| ratchets), schema);
        // An error that ends it all is in the list already.
        let _ = run.node(self, schema, at, object, old, root.correlation());
        Evaluation { errors: run.errors, warnings: run.warnings, cost: RUNTIME_BUDGET - run.budget }
    }
}

fn has_rules(source: &Value) -> bool {
    let below = ["items", "additionalProperties"].into_iter().filter_map(|key| source.get(key));
    let properties = source.get("properties").and_then(Value::as_object).into_iter().flat_map(|p| p.values());
    !source.list_at(&["x-kubernetes-validations"]).is_empty() || below.chain(properties).any(has_rules)
}

/// What rules said of an object.
#[derive(Debug, Default)]
pub struct Evaluation {
    pub errors: ErrorList,
    pub warnings: Vec<String>,
    pub cost: u64,
}

/// That the budget is used up: nothing more is evaluated.
struct Exhausted;

struct Run {
    errors: ErrorList,
    warnings: Vec<String>,
    budget: u64,
}

/// The two variables of one node.
struct Variables<'a> {
    own: CelValue<'a>,
    old: Option<CelValue<'a>>,
}

impl<'a> Activation<'a> for Variables<'a> {
    fn variable(&self, name: &str) -> Option<CelValue<'a>> {
        match name {
            "self" => Some(self.own.clone()),
            "oldSelf" => self.old.clone(),
            _ => None,
        }
    }
}

/// A broken place below is told when an expression comes to it.
fn cel_value<'a>(value: &'a Value, decl: &'a Decl) -> CelValue<'a> {
    CelValue::from_json(value, Some(decl)).unwrap_or_else(|_| CelValue::plain(value))
}

impl Run {
    fn node(
        &mut self,
        here: &Expressions,
        schema: &Schema,
        at: &Path,
        value: &Value,
        old: Option<&Value>,
        before: Correlation<'_, '_>,
    ) -> Result<(), Exhausted> {
        if value.is_null() {
            return Ok(());
        }
        let old = old.filter(|o| !o.is_null());
        self.rules(here, schema, at, value, old, before)?;
        match value {
            Value::Array(list) => {
                let (Some(below), Some(of_items)) = (&here.items, schema.items.as_deref()) else { return Ok(()) };
                for (i, item) in list.iter().enumerate() {
                    let old_item = old.and_then(|o| same_item(schema, o, item));
                    self.node(below, of_items, &at.index(i), item, old_item, before.index(i).correlation())?;
                }
                Ok(())
            }
            Value::Object(map) => self.object(here, schema, at, map, old, before),
            _ => Ok(()),
        }
    }

    fn object(
        &mut self,
        here: &Expressions,
        schema: &Schema,
        at: &Path,
        map: &serde_json::Map<String, Value>,
        old: Option<&Value>,
        before: Correlation<'_, '_>,
    ) -> Result<(), Exhausted> {
        for (key, value) in map {
            let old = old.and_then(|o| o.get(key));
            let (below, of_value, at) = match (&here.additional, here.properties.get(key)) {
                (Some(below), _) => (&**below, schema.additional_schema(), at.key(key)),
                (None, Some(below)) => (below, schema.properties.get(key), at.child(key)),
                (None, None) => continue,
            };
            if let Some(of_value) = of_value {
                self.node(below, of_value, &at, value, old, before.key(key).correlation())?;
            }
        }
        Ok(())
    }

    fn rules(
        &mut self,
        here: &Expressions,
        schema: &Schema,
        at: &Path,
        value: &Value,
        old: Option<&Value>,
        before: Correlation<'_, '_>,
    ) -> Result<(), Exhausted> {
        let kind = schema.type_name();
        let rules = match &here.rules {
            Ok(rules) if rules.is_empty() => return Ok(()),
            Ok(rules) => rules,
            Err(why) => {
                self.errors.push(Error::invalid(at, kind, format!("rule compiler initialization error: {why}")));
                return Ok(());
            }
        };
        if self.budget == 0 {
            self.errors.push(Error::invalid(at, kind, OUT_OF_BUDGET));
            return Err(Exhausted);
        }
        let own = cel_value(value, &here.decl);
        let was = old.map(|o| cel_value(o, &here.decl));
        for rule in rules {
            let program = match &rule.program {
                Ok(Some(program)) => program,
                Ok(None) => continue,
                Err(why) => {
                    self.errors.push(Error::invalid(at, kind, format!("rule compile error: {why}")));
                    continue;
                }
            };
            if rule.uses_old_self && was.is_none() && !rule.optional_old_self {
                continue;
            }
            let old = if rule.optional_old_self { Some(was.clone().map_or(CelValue::NONE, CelValue::some)) } else { was.clone() };
            let variables = Variables { own: own.clone(), old };
            self.rule(rule, program, &variables, Place { at, kind, value, before })?;
        }
        Ok(())
    }

    /// Takes a cost from the budget.
    fn spend(&mut self, cost: u64) -> Result<(), Exhausted> {
        self.budget = self.budget.checked_sub(cost).ok_or(Exhausted)?;
        Ok(())
    }

    fn rule<'a>(&mut self, rule: &Compiled, program: &Program, variables: &Variables<'a>, place: Place<'_>) -> Result<(), Exhausted> {
        let outcome = program.eval(variables, None, PER_CALL_LIMIT);
        if self.spend(outcome.cost).is_err() {
            self.errors.push(Error::invalid(place.at, place.kind, OUT_OF_BUDGET));
            return Err(Exhausted);
        }
        let shown = rule.shown();
        let error = match outcome.value {
            Ok(CelValue::Bool(true)) => return Ok(()),
            Ok(_) => return self.broken(rule, variables, place),
            Err(e) if e.cancelled => {
                let why = format!("'{e}': no further validation rules will be run due to call cost exceeds limit for rule: {shown}");
                self.errors.push(Error::invalid(place.at, place.kind, why));
                return Err(Exhausted);
            }
            Err(e) if e.message.starts_with("no such overload") => {
                format!("'{e}': call arguments did not match a supported operator, function or macro signature for rule: {shown}")
            }
            Err(e) => format!("{e} evaluating rule: {shown}"),
        };
        self.errors.push(Error::invalid(place.at, place.kind, error));
        Ok(())
    }

    /// The rule is not kept.
    fn broken<'a>(&mut self, rule: &Compiled, variables: &Variables<'a>, place: Place<'_>) -> Result<(), Exhausted> {
        let at = rule.field_path.as_ref().map_or_else(|| place.at.clone(), |below| place.at.child(below.as_str()));
        let message = match &rule.message_program {
            Ok(Some(program)) => match self.message(rule, program, variables) {
                Ok(message) => message,
                Err(why) => {
                    self.blame(rule, place, Error::invalid(&at, place.kind, why));
                    return Err(Exhausted);
                }
            },
            _ => None,
        };
        let detail = message.unwrap_or_else(|| rule.default_message());
        let omitted = matches!(place.kind, "object" | "array");
        let error = match rule.reason.as_str() {
            "FieldValueForbidden" => Error::forbidden(&at, detail),
            "FieldValueRequired" => Error::required(&at, detail),
            "FieldValueDuplicate" if omitted => Error::duplicate_omitted(&at),
            "FieldValueDuplicate" => Error::duplicate(&at, place.value.clone()),
            _ if omitted => Error::invalid_omitted(&at, detail),
            _ => Error::invalid(&at, place.value.clone(), detail),
        };
        self.blame(rule, place, error);
        Ok(())
    }

    /// Nobody is blamed for what an update left as it was, unless the rule is about the change.
    fn blame(&mut self, rule: &Compiled, place: Place<'_>, error: Error) {
        if !rule.uses_old_self && place.before.is_unchanged() { self.warnings.push(error.to_string()) } else { self.errors.push(error) }
    }

    /// The message that the rule makes; none when it makes no good one.
    ///
    /// # Errors
    /// When it costs too much.
    fn message<'a>(&mut self, rule: &Compiled, program: &Program, variables: &Variables<'a>) -> Result<Option<String>, String> {
        let outcome = program.eval(variables, None, PER_CALL_LIMIT);
        if self.spend(outcome.cost).is_err() {
            return Err("messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run".into());
        }
        match outcome.value {
            Err(e) if e.cancelled => Err(format!(
                "no further validation rules will be run due to call cost exceeds limit for messageExpression: {}",
                knarr_core::field::go_quote(&rule.message_source)
            )),
            Ok(CelValue::String(text)) => {
                let text = text.trim();
                let usable = !text.is_empty() && text.len() <= MESSAGE_BYTES_MAX && !text.contains('\n');
                Ok(usable.then(|| text.to_owned()))
            }
            _ => Ok(None),
        }
    }
}

/// What a rule is evaluated for.
#[derive(Clone, Copy)]
struct Place<'p> {
    at: &'p Path,
    /// The type that the schema names.
    kind: &'p str,
    value: &'p Value,
    before: Correlation<'p, 'p>,
}

#[cfg(test)]
#[path = "expressions_tests.rs"]
mod tests;
