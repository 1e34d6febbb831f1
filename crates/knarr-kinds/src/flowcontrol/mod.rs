//! FlowSchemas and PriorityLevelConfigurations (upstream: `pkg/registry/flowcontrol`).

use knarr_core::{Value, ValueExt};

use crate::strategy::{Shape, Strategy};
use crate::tree::{default_if_zero, default_to, with};

pub struct FlowSchema;

impl Strategy for FlowSchema {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation().status_keeps_metadata()
    }

    fn default(&self, schema: &mut Value) {
        default_if_zero(schema.ensure(&["spec"]), "matchingPrecedence", 1000);
    }
}

pub struct PriorityLevelConfiguration;

impl Strategy for PriorityLevelConfiguration {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation().status_keeps_metadata()
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
}
