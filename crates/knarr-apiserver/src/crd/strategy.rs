//! The behaviour of a custom resource: what its definition says.

use std::sync::{Arc, LazyLock, OnceLock};

use knarr_core::{
    Result, Value, ValueExt,
    field::{self, Error, ErrorList, ErrorType, Path},
};
use knarr_kinds::{
    Context, Shape, Strategy,
    custom::{Expressions, Schema, drop_nulls, fill_defaults, prune, validate},
    custom_cells, custom_strategy,
};
use knarr_schema::{
    codec::{self, FieldValidation},
    registry::Resource,
    types::{self, TypeId},
};

/// See the module.
#[derive(Clone)]
pub struct CustomStrategy {
    resource: Arc<Resource>,
    generic: &'static dyn Strategy,
    /// Read when the first object comes.
    schema: Arc<OnceLock<Schema>>,
    /// Compiled when the first object is written.
    expressions: Arc<OnceLock<Option<Expressions>>>,
    has_defaults: Arc<OnceLock<bool>>,
}

/// Errors after which rules could say nothing sensible (upstream: `hasBlockingErr`).
const BLOCKING: [ErrorType; 5] = [ErrorType::NotSupported, ErrorType::Required, ErrorType::TooLong, ErrorType::TooMany, ErrorType::TypeInvalid];

static OBJECT_META: LazyLock<Option<TypeId>> = LazyLock::new(|| types::by_name("apimachinery.pkg.apis.meta.v1.ObjectMeta"));

impl CustomStrategy {
    pub fn new(resource: Arc<Resource>) -> Self {
        Self { generic: generic(&resource, ""), resource, schema: Arc::default(), expressions: Arc::default(), has_defaults: Arc::default() }
    }

    /// The same for a subresource.
    #[must_use]
    pub fn of_subresource(&self, subresource: &str) -> Self {
        Self { generic: generic(&self.resource, subresource), ..self.clone() }
    }

    fn schema(&self) -> &Schema {
        self.schema.get_or_init(|| match &self.resource.custom {
            Some(custom) if custom.schema.is_given() => {
                let mut schema = Schema::new(&custom.schema.whole());
                schema.preserves_unknown |= custom.preserve_unknown_fields;
                schema
            }
            _ => Schema::anything(),
        })
    }

    fn expressions(&self) -> Option<&Expressions> {
        let source = self.resource.custom.as_ref().map(|c| &c.schema);
        self.expressions.get_or_init(|| Expressions::new(&source?.whole(), true)).as_ref()
    }

    /// A patch may have changed what the object says it is (upstream: `customResourceValidator.ValidateTypeMeta`).
    fn type_errors(&self, object: &Value) -> ErrorList {
        let gvk = self.resource.gvk();
        let wanted = [("kind", gvk.kind.clone()), ("apiVersion", gvk.api_version())];
        let differs = |(key, wanted): (&str, String)| {
            let found = object.str_at(&[key]).unwrap_or_default();
            (found != wanted).then(|| Error::invalid(&Path::new(key), found, format!("must be {wanted}")))
        };
        wanted.into_iter().filter_map(differs).collect()
    }

    /// Everything that the definition asks of an object. Rules are not looked at for an object that is no good anyway.
    fn errors(&self, cx: &Context<'_>, object: &Value, old: Option<&Value>) -> ErrorList {
        let mut errors = self.type_errors(object);
        errors.extend(validate(object, old, self.schema()));
        let Some(expressions) = self.expressions() else { return errors };
        if errors.iter().any(|e| BLOCKING.contains(&e.kind)) {
            const WHY: &str = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
            errors.push(Error::invalid(&Path::root(), Value::Null, WHY));
            return errors;
        }
        let found = expressions.evaluate(&Path::root(), object, old, self.schema(), true);
        if let Some(warnings) = cx.warnings {
            found.warnings.into_iter().for_each(|w| warnings.warn(w));
        }
        errors.extend(found.errors);
        errors
    }

    /// Whether the schema declares defaults: then objects that were stored before it did get them when they are read.
    pub fn has_defaults(&self) -> bool {
        *self.has_defaults.get_or_init(|| self.schema().has_defaults())
    }

    /// An object from the store, which the definition may not have known in its present form.
    pub fn complete(&self, object: &mut Value) {
        drop_nulls(object, self.schema());
        fill_defaults(object, self.schema());
    }

    /// Drops what the schema does not know or does not allow to be null, and brings `metadata` into its form. Gives what a
    /// client should be told.
    ///
    /// # Errors
    /// `BadRequest` for metadata that is none, and for unknown fields under `Strict`.
    pub fn conform(&self, object: &mut Value, validation: FieldValidation) -> Result<Vec<String>> {
        let told = self.conform_applied(object, validation)?;
        drop_nulls(object, self.schema());
        Ok(told)
    }

    /// The same for what apply made, which is not decoded: a null that may not be one stays, and is an error later.
    ///
    /// # Errors
    /// As for [`Self::conform`].
    pub fn conform_applied(&self, object: &mut Value, validation: FieldValidation) -> Result<Vec<String>> {
        let refuse = |why: &str| codec::not_handled(&self.resource.kind, &self.resource.version, &self.resource.kind, why);
        let mut unknown: Vec<String> = Vec::new();
        if let (Some(type_id), Some(metadata)) = (*OBJECT_META, object.at(&["metadata"]).cloned()) {
            let conformed = codec::conform(type_id, &metadata).map_err(|why| refuse(&why))?;
            unknown.extend(conformed.warnings.iter().map(|w| w.replacen("unknown field \"", "unknown field \"metadata.", 1)));
            object.set(&["metadata"], conformed.value);
        }
        unknown.extend(prune(object, self.schema()).iter().map(|path| format!("unknown field {}", field::go_quote(path))));
        match validation {
            FieldValidation::Strict if !unknown.is_empty() => Err(refuse(&format!("strict decoding error: {}", unknown.join(", ")))),
            FieldValidation::Ignore => Ok(Vec::new()),
            _ => Ok(unknown),
        }
    }
}

fn generic(resource: &Resource, subresource: &str) -> &'static dyn Strategy {
    custom_strategy(resource.custom.as_ref().is_some_and(|c| c.status_subresource), subresource)
}

impl Strategy for CustomStrategy {
    fn shape(&self) -> Shape {
        self.generic.shape()
    }

    fn default(&self, object: &mut Value) {
        fill_defaults(object, self.schema());
    }

    fn prepare_for_create(&self, cx: &Context<'_>, object: &mut Value) {
        self.generic.prepare_for_create(cx, object);
    }

    fn validate_create(&self, cx: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = self.generic.validate_create(cx, object);
        errors.extend(self.errors(cx, object, None));
        errors
    }

    fn prepare_for_update(&self, cx: &Context<'_>, object: &mut Value, old: &Value) {
        self.generic.prepare_for_update(cx, object, old);
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> ErrorList {
        let mut errors = self.generic.validate_update(cx, object, old);
        errors.extend(self.errors(cx, object, Some(old)));
        errors
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        self.generic.warnings(object, old)
    }

    fn domain_finalizers(&self) -> bool {
        self.generic.domain_finalizers()
    }

    fn repeats_causes(&self) -> bool {
        self.generic.repeats_causes()
    }

    fn allow_create_on_update(&self) -> bool {
        self.generic.allow_create_on_update()
    }

    fn allow_unconditional_update(&self) -> bool {
        self.generic.allow_unconditional_update()
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Option<Vec<Value>> {
        Some(custom_cells(&self.resource.columns, object, now))
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        self.generic.validate_name(name)
    }
}
