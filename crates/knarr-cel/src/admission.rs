//! Expressions of admission: match conditions of webhooks and policies, and all that policies evaluate
//! (upstream: `apiserver/pkg/admission/plugin/cel`).
//!
//! A caller fills an [`Input`] for a request and asks what was compiled before: [`MatchConditions`] for a webhook, or an
//! [`Evaluator`] for the expressions of a policy with its variables.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock},
};

use serde_json::Value as Json;

use crate::{
    Env, MATCH_CONDITIONS_BUDGET, PER_CALL_LIMIT, Program, Type, Value,
    authz::{Authorizer, Check, Question},
    compile,
    env::TypeProvider,
    eval::Activation,
    mutation,
    schema::{Decl, Types},
    types,
    value::{Error, Res},
};

/// Which variables there are beside `object`, `oldObject`, `request` and `namespaceObject`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Declarations {
    pub params: bool,
    pub authorizer: bool,
    /// Whether `Object{…}` and `JSONPatch{…}` can be made.
    pub patch_types: bool,
    /// Whether there is `variables`.
    pub composed: bool,
}

/// What a request offers to expressions.
pub struct Input<'a> {
    /// `null` on delete.
    pub object: &'a Json,
    /// `null` on create.
    pub old_object: &'a Json,
    /// How the two are read; none for plain JSON.
    pub decl: Option<&'a Decl>,
    pub params: Option<&'a Json>,
    /// An `AdmissionRequest` without object and oldObject.
    pub request: &'a Json,
    /// The namespace of the object, `null` if it has none.
    pub namespace: &'a Json,
    pub authorizer: Option<&'a dyn Authorizer>,
}

static FIXED: LazyLock<Types> = LazyLock::new(fixed_types);

fn fixed_types() -> Types {
    let text = || Type::String;
    let texts = || types::list(Type::String);
    let table: [(&str, Vec<(&str, Type)>); 9] = [
        ("kubernetes.GroupVersionKind", vec![("group", text()), ("version", text()), ("kind", text())]),
        ("kubernetes.GroupVersionResource", vec![("group", text()), ("version", text()), ("resource", text())]),
        ("kubernetes.UserInfo", vec![("username", text()), ("uid", text()), ("groups", texts()), ("extra", types::map(text(), texts()))]),
        (
            "kubernetes.AdmissionRequest",
            vec![
                ("kind", types::object("kubernetes.GroupVersionKind")),
                ("resource", types::object("kubernetes.GroupVersionResource")),
                ("subResource", text()),
                ("requestKind", types::object("kubernetes.GroupVersionKind")),
                ("requestResource", types::object("kubernetes.GroupVersionResource")),
                ("requestSubResource", text()),
                ("name", text()),
                ("namespace", text()),
                ("operation", text()),
                ("userInfo", types::object("kubernetes.UserInfo")),
                ("dryRun", Type::Bool),
                ("options", Type::Dyn),
            ],
        ),
        ("kubernetes.NamespaceSpec", vec![("finalizers", texts())]),
        (
            "kubernetes.NamespaceCondition",
            vec![("status", text()), ("type", text()), ("lastTransitionTime", Type::Timestamp), ("message", text()), ("reason", text())],
        ),
        ("kubernetes.NamespaceStatus", vec![("conditions", types::list(types::object("kubernetes.NamespaceCondition"))), ("phase", text())]),
        (
            "kubernetes.NamespaceMetadata",
            vec![
                ("name", text()),
                ("generateName", text()),
                ("namespace", text()),
                ("labels", types::map(text(), text())),
                ("annotations", types::map(text(), text())),
                ("UID", text()),
                ("creationTimestamp", Type::Timestamp),
                ("deletionGracePeriodSeconds", Type::Int),
                ("deletionTimestamp", Type::Timestamp),
                ("generation", Type::Int),
                ("resourceVersion", text()),
                ("finalizers", texts()),
            ],
        ),
        (
            "kubernetes.Namespace",
            vec![
                ("metadata", types::object("kubernetes.NamespaceMetadata")),
                ("spec", types::object("kubernetes.NamespaceSpec")),
                ("status", types::object("kubernetes.NamespaceStatus")),
            ],
        ),
    ];
    Types(table.into_iter().map(|(name, fields)| (name.to_owned(), fields.into_iter().map(|(f, t)| (f.to_owned(), t)).collect())).collect())
}

/// The object type of users, for expressions about them alone.
pub(crate) fn user_types() -> Types {
    Types(FIXED.0.iter().filter(|(name, _)| *name == "kubernetes.UserInfo").map(|(name, fields)| (name.clone(), fields.clone())).collect())
}

/// How a namespace is read: its times are timestamps.
static NAMESPACE: LazyLock<Decl> = LazyLock::new(|| {
    let time = serde_json::json!({"type": "string", "format": "date-time", "nullable": true});
    let any = serde_json::json!({"x-kubernetes-preserve-unknown-fields": true});
    let meta = serde_json::json!({"type": "object", "properties": {
        "creationTimestamp": time, "deletionTimestamp": time, "labels": any, "annotations": any, "name": any, "generateName": any,
    }});
    Decl::build(&serde_json::json!({"type": "object", "nullable": true, "properties": {"metadata": meta}}), false, "kubernetes.Namespace")
});

const VARIABLES: &str = "kubernetes.variables";

/// The object types of admission, and the variables of one policy.
struct AdmissionTypes {
    variables: BTreeMap<String, Type>,
    patch_types: bool,
    /// Object types of schemas, for checks of a policy against the kinds that it matches.
    schemas: Option<Arc<Types>>,
}

impl TypeProvider for AdmissionTypes {
    fn has_type(&self, name: &str) -> bool {
        name == VARIABLES || FIXED.has_type(name) || self.patch_types && mutation::has_type(name) || self.schemas.as_ref().is_some_and(|s| s.has_type(name))
    }

    fn field(&self, type_name: &str, field: &str) -> Option<Type> {
        if type_name == VARIABLES {
            return self.variables.get(field).cloned();
        }
        if self.patch_types && mutation::has_type(type_name) {
            return mutation::field(type_name, field);
        }
        FIXED.field(type_name, field).or_else(|| self.schemas.as_ref()?.field(type_name, field))
    }
}

/// Types of `object` and `params` in a check against schemas; both are dynamic otherwise.
#[derive(Clone, Default)]
pub struct Schemas {
    pub object: Option<Type>,
    pub params: Option<Type>,
    pub types: Option<Arc<Types>>,
}

/// The environment of admission expressions.
pub fn environment(declared: Declarations, variables: &BTreeMap<String, Type>, schemas: &Schemas) -> Env {
    let object = schemas.object.clone().unwrap_or(Type::Dyn);
    let mut names = vec![
        ("object", object.clone()),
        ("oldObject", object),
        ("request", types::object("kubernetes.AdmissionRequest")),
        ("namespaceObject", types::object("kubernetes.Namespace")),
    ];
    if declared.params {
        names.push(("params", schemas.params.clone().unwrap_or(Type::Dyn)));
    }
    if declared.authorizer {
        names.push(("authorizer", types::object("kubernetes.authorization.Authorizer")));
        names.push(("authorizer.requestResource", types::object("kubernetes.authorization.ResourceCheck")));
    }
    if declared.composed {
        names.push(("variables", types::object(VARIABLES)));
    }
    let types = AdmissionTypes { variables: variables.clone(), patch_types: declared.patch_types, schemas: schemas.types.clone() };
    Env::new(names, Arc::new(types))
}

/// A compiled expression, or why it cannot be compiled.
pub struct Compiled {
    pub expression: String,
    pub program: Result<Program, String>,
}

impl Compiled {
    /// Compiles an expression that must give one of these types; none: any.
    pub fn new(expression: &str, env: &Env, results: &[Type]) -> Self {
        let program =
            compile(expression, env).map_err(|why| format!("compilation failed: {why}")).and_then(|p| match wrong_result(p.checked().result_type(), results) {
                Some(why) => Err(why),
                None => Ok(p),
            });
        Self { expression: expression.to_owned(), program }
    }

    pub fn result_type(&self) -> Option<&Type> {
        self.program.as_ref().ok().map(|p| p.checked().result_type())
    }
}

/// A type as Go's `String` shows it.
pub fn go_type(t: &Type) -> String {
    let params: Vec<String> = t.params().into_iter().map(go_type).collect();
    if params.is_empty() { t.runtime_name().to_owned() } else { format!("{}({})", t.runtime_name(), params.join(", ")) }
}

fn wrong_result(found: &Type, wanted: &[Type]) -> Option<String> {
    if wanted.is_empty() || wanted.contains(found) {
        return None;
    }
    let shown: Vec<String> = wanted.iter().map(go_type).collect();
    let found = go_type(found);
    Some(match &shown[..] {
        [one] => format!("must evaluate to {one} but got {found}"),
        several => format!("must evaluate to one of [{}] but got {found}", several.join(" ")),
    })
}

/// The variables of a policy, compiled in order: each may use those before it.
#[derive(Default)]
pub struct Composition {
    pub variables: Vec<(String, Compiled)>,
    pub types: BTreeMap<String, Type>,
}

impl Composition {
    /// Compiles `spec.variables`.
    pub fn new(variables: &[Json], declared: Declarations, schemas: &Schemas) -> Self {
        let mut composition = Self::default();
        for variable in variables {
            let text = |key: &str| variable.get(key).and_then(Json::as_str).unwrap_or_default();
            composition.add(text("name"), text("expression"), declared, schemas);
        }
        composition
    }

    /// Adds one variable; later expressions see it.
    pub fn add(&mut self, name: &str, expression: &str, declared: Declarations, schemas: &Schemas) {
        let env = environment(Declarations { composed: true, ..declared }, &self.types, schemas);
        let compiled = Compiled::new(expression, &env, &[]);
        self.types.insert(name.to_owned(), compiled.result_type().cloned().unwrap_or(Type::Dyn));
        self.variables.push((name.to_owned(), compiled));
    }
}

/// One request on its way through the expressions of one policy or webhook.
pub struct Evaluator<'a> {
    input: &'a Input<'a>,
    composition: Option<&'a Composition>,
    /// Question that `authorizer.requestResource` starts with.
    resource: Question,
    cache: RefCell<HashMap<String, Res<'a>>>,
    /// What variables have cost since it was last asked for.
    spent: Cell<u64>,
    params: Option<&'a Json>,
}

/// What one expression gave.
pub type Evaluated<'a> = Result<Value<'a>, String>;

/// That no more may be evaluated.
pub const OUT_OF_BUDGET: &str = "validation failed due to running out of cost budget, no further validation rules will be run";

impl<'a> Evaluator<'a> {
    pub fn new(input: &'a Input<'a>, composition: Option<&'a Composition>) -> Self {
        let text = |path: &[&str]| path.iter().try_fold(input.request, |v, key| v.get(key)).and_then(Json::as_str).unwrap_or_default().to_owned();
        let resource = Question {
            group: text(&["requestResource", "group"]),
            resource: text(&["requestResource", "resource"]),
            subresource: text(&["requestSubResource"]),
            namespace: text(&["namespace"]),
            name: text(&["name"]),
            ..Question::default()
        };
        Self { input, composition, resource, cache: RefCell::default(), spent: Cell::new(0), params: input.params }
    }

    /// Evaluates one expression within a budget, which it lowers.
    ///
    /// # Errors
    /// [`OUT_OF_BUDGET`] when the budget does not suffice: nothing more may be evaluated then.
    pub fn evaluate(&self, compiled: &Compiled, budget: &mut u64) -> Result<Evaluated<'a>, String> {
        let program = match &compiled.program {
            Ok(program) => program,
            Err(why) => return Ok(Err(format!("compilation error: {why}"))),
        };
        let outcome = program.eval(self, self.input.authorizer, PER_CALL_LIMIT);
        let cost = self.spent.take().saturating_add(outcome.cost);
        *budget = budget.checked_sub(cost).ok_or(OUT_OF_BUDGET)?;
        Ok(outcome.value.map_err(|e| format!("expression '{}' resulted in error: {e}", compiled.expression)))
    }
}

impl<'a> Activation<'a> for Evaluator<'a> {
    fn variable(&self, name: &str) -> Option<Value<'a>> {
        let read = |json: &'a Json| if json.is_null() { Ok(Value::Null) } else { Value::from_json(json, self.input.decl) };
        let check = |check: Check| self.input.authorizer.is_some().then(|| Value::Authz(Arc::new(check)));
        Some(match name {
            "object" => read(self.input.object).unwrap_or_else(|_| Value::plain(self.input.object)),
            "oldObject" => read(self.input.old_object).unwrap_or_else(|_| Value::plain(self.input.old_object)),
            "params" => self.params.map_or(Value::Null, Value::plain),
            "request" => Value::plain(self.input.request),
            "namespaceObject" => Value::from_json(self.input.namespace, Some(&NAMESPACE)).unwrap_or(Value::Null),
            "authorizer" => return check(Check::Authorizer(Question::default())),
            "authorizer.requestResource" => return check(Check::Resource(self.resource.clone())),
            "variables" => Value::Variables,
            _ => return None,
        })
    }

    fn composed(&self, name: &str) -> Option<Res<'a>> {
        let (_, compiled) = self.composition?.variables.iter().find(|(n, _)| n == name)?;
        if let Some(known) = self.cache.borrow().get(name) {
            return Some(known.clone());
        }
        let value = match &compiled.program {
            Err(why) => Err(Error::new(format!("composited variable {} fails to compile: {why}", knarr_core::field::go_quote(name)))),
            Ok(program) => {
                let outcome = program.eval(self, self.input.authorizer, PER_CALL_LIMIT);
                self.spent.set(self.spent.get().saturating_add(outcome.cost));
                outcome.value.map_err(|e| Error { message: format!("composited variable {} fails to evaluate: {e}", knarr_core::field::go_quote(name)), ..e })
            }
        };
        self.cache.borrow_mut().insert(name.to_owned(), value.clone());
        Some(value)
    }
}

/// Several errors in one sentence (Go: `utilerrors.NewAggregate`).
pub fn aggregate(errors: &[String]) -> String {
    let mut unique: Vec<&str> = Vec::new();
    for error in errors {
        if !unique.contains(&error.as_str()) {
            unique.push(error);
        }
    }
    match &unique[..] {
        [one] => (*one).to_owned(),
        several => format!("[{}]", several.join(", ")),
    }
}

/// What match conditions say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matched {
    Yes,
    /// The condition of this name is false: the webhook or policy is passed over.
    No(String),
}

/// The `matchConditions` of a webhook or policy, compiled.
///
/// ```
/// use knarr_cel::admission::{Declarations, Evaluator, Input, MatchConditions, Matched};
/// use serde_json::json;
///
/// let conditions = json!([{"name": "only-leases", "expression": "request.resource.resource == 'leases'"}]);
/// let compiled = MatchConditions::new(conditions.as_array().unwrap(), Declarations { authorizer: true, ..Declarations::default() });
/// assert!(compiled.errors().next().is_none());
/// let (object, none) = (json!({}), json!(null));
/// let request = json!({"resource": {"group": "", "version": "v1", "resource": "pods"}});
/// let input = Input { object: &object, old_object: &none, decl: None, params: None, request: &request, namespace: &none, authorizer: None };
/// assert_eq!(compiled.matches(&Evaluator::new(&input, None)), Ok(Matched::No("only-leases".into())));
/// ```
pub struct MatchConditions(Vec<(String, Compiled)>);

impl MatchConditions {
    /// Compiles conditions: objects with `name` and `expression`.
    pub fn new(conditions: &[Json], declared: Declarations) -> Self {
        Self::composed(conditions, declared, &BTreeMap::new())
    }

    /// The same for a policy, whose conditions see its variables.
    pub fn composed(conditions: &[Json], declared: Declarations, variables: &BTreeMap<String, Type>) -> Self {
        let env = environment(declared, variables, &Schemas::default());
        let text = |c: &Json, key: &str| c.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
        Self(conditions.iter().map(|c| (text(c, "name"), Compiled::new(&text(c, "expression"), &env, &[Type::Bool]))).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Index of each condition that cannot be compiled, and why: detail of an `Invalid` at `matchConditions[i].expression`.
    pub fn errors(&self) -> impl Iterator<Item = (usize, &str)> {
        self.0.iter().enumerate().filter_map(|(i, (_, c))| Some((i, c.program.as_ref().err()?.as_str())))
    }

    /// Whether all conditions hold. One that is false decides, whatever errors others have.
    ///
    /// # Errors
    /// What failed, in upstream's words. The failure policy decides what becomes of the request: `Ignore` passes the webhook
    /// or policy over, `Fail` refuses the request.
    pub fn matches(&self, evaluator: &Evaluator<'_>) -> Result<Matched, String> {
        let mut budget = MATCH_CONDITIONS_BUDGET;
        let mut results = Vec::with_capacity(self.0.len());
        for (name, compiled) in &self.0 {
            results.push((name, evaluator.evaluate(compiled, &mut budget)?));
        }
        if let Some((name, _)) = results.iter().find(|(_, r)| matches!(r, Ok(Value::Bool(false)))) {
            return Ok(Matched::No((*name).clone()));
        }
        let errors: Vec<String> = results.into_iter().filter_map(|(_, r)| r.err()).collect();
        if errors.is_empty() { Ok(Matched::Yes) } else { Err(aggregate(&errors)) }
    }
}
