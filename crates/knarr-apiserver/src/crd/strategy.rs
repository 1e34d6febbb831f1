//! The behaviour of a custom resource: what its definition says.

use std::sync::Arc;

use knarr_core::{Value, field::ErrorList};
use knarr_kinds::{Context, Shape, Strategy, custom_cells, custom_strategy};
use knarr_schema::registry::Resource;

/// See the module.
pub struct CustomStrategy {
    resource: Arc<Resource>,
    generic: &'static dyn Strategy,
}

impl CustomStrategy {
    pub fn new(resource: Arc<Resource>, subresource: &str) -> Self {
        let has_status = resource.custom.as_ref().is_some_and(|c| c.status_subresource);
        Self { generic: custom_strategy(has_status, subresource), resource }
    }
}

impl Strategy for CustomStrategy {
    fn shape(&self) -> Shape {
        self.generic.shape()
    }

    fn prepare_for_create(&self, cx: &Context<'_>, object: &mut Value) {
        self.generic.prepare_for_create(cx, object);
    }

    fn validate_create(&self, cx: &Context<'_>, object: &Value) -> ErrorList {
        self.generic.validate_create(cx, object)
    }

    fn prepare_for_update(&self, cx: &Context<'_>, object: &mut Value, old: &Value) {
        self.generic.prepare_for_update(cx, object, old);
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> ErrorList {
        self.generic.validate_update(cx, object, old)
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
