//! FlowSchemas and PriorityLevelConfigurations (upstream: `pkg/registry/flowcontrol`).

mod validation;

use crate::cells::{Cells, NONE, age, name, number, text};
use crate::separation;
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt};

use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{default_if_zero, default_to, with};

pub struct FlowSchema;

impl Strategy for FlowSchema {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation().status_keeps_metadata().judges_prefix_again()
    }

    fn default(&self, schema: &mut Value) {
        default_if_zero(schema.ensure(&["spec"]), "matchingPrecedence", 1000);
    }

    fn prepare_for_status_update(&self, _cx: &Context<'_>, schema: &mut Value, old: &Value) {
        keep_all_but_status(self.shape(), schema, old);
    }

    /// In the order in which they are asked.
    fn row_rank(&self) -> Option<fn(&Value) -> i64> {
        Some(|schema| schema.i64_at(&["spec", "matchingPrecedence"]).unwrap_or_default())
    }

    fn validate_create(&self, _cx: &Context<'_>, schema: &Value) -> ErrorList {
        validation::flow_schema(schema)
    }

    fn validate_update(&self, _cx: &Context<'_>, schema: &Value, _old: &Value) -> ErrorList {
        validation::flow_schema(schema)
    }

    fn validate_status_update(&self, _cx: &Context<'_>, schema: &Value, _old: &Value) -> ErrorList {
        validation::status(schema)
    }

    fn cells(&self, schema: &Value, now: Timestamp) -> Cells {
        let dangling = schema.list_at(&["status", "conditions"]).iter().find(|c| text(c, &["type"]) == "Dangling");
        Some(vec![
            name(schema),
            text(schema, &["spec", "priorityLevelConfiguration", "name"]).into(),
            number(schema, &["spec", "matchingPrecedence"]).into(),
            schema.at(&["spec", "distinguisherMethod"]).map_or(NONE, |m| text(m, &["type"])).into(),
            age(schema, now),
            dangling.map_or("?", |c| text(c, &["status"])).into(),
        ])
    }
}

/// A write to `status` changes nothing in `metadata`, whoever wrote what (upstream: `flowSchemaStatusStrategy.PrepareForUpdate`).
fn keep_all_but_status(shape: Shape, object: &mut Value, old: &Value) {
    separation::status_update(shape, object, old);
    separation::keep_at(object, old, &["metadata", "generateName"]);
}

pub struct PriorityLevelConfiguration;

impl Strategy for PriorityLevelConfiguration {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation().status_keeps_metadata().judges_prefix_again()
    }

    fn default(&self, level: &mut Value) {
        with(level, &["spec", "exempt"], |exempt| {
            default_to(exempt, "nominalConcurrencyShares", 0);
            default_to(exempt, "lendablePercent", 0);
        });
        with(level, &["spec", "limited"], |limited| {
            default_to(limited, "nominalConcurrencyShares", 30);
            default_to(limited, "lendablePercent", 0);
            with(limited, &["limitResponse", "queuing"], |queuing| {
                default_if_zero(queuing, "handSize", 8);
                default_if_zero(queuing, "queues", 64);
                default_if_zero(queuing, "queueLengthLimit", 50);
            });
        });
    }

    fn prepare_for_status_update(&self, _cx: &Context<'_>, level: &mut Value, old: &Value) {
        keep_all_but_status(self.shape(), level, old);
    }

    fn validate_create(&self, _cx: &Context<'_>, level: &Value) -> ErrorList {
        validation::priority_level(level)
    }

    fn validate_update(&self, _cx: &Context<'_>, level: &Value, _old: &Value) -> ErrorList {
        validation::priority_level(level)
    }

    fn validate_status_update(&self, _cx: &Context<'_>, level: &Value, _old: &Value) -> ErrorList {
        validation::status(level)
    }

    fn cells(&self, level: &Value, now: Timestamp) -> Cells {
        let or_none = |value: Option<&Value>| value.map_or(NONE.into(), |v| number(v, &[]).into());
        let limited = level.at(&["spec", "limited"]);
        let queuing = |field| or_none(limited.and_then(|l| l.at(&["limitResponse", "queuing", field])));
        Some(vec![
            name(level),
            text(level, &["spec", "type"]).into(),
            or_none(limited.and_then(|l| l.at(&["nominalConcurrencyShares"]))),
            queuing("queues"),
            queuing("handSize"),
            queuing("queueLengthLimit"),
            age(level, now),
        ])
    }
}
