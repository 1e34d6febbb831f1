//! Node selector terms, parsed once: what node affinity and volumes are matched by.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use knarr_core::selector::{LabelSelector, Operator, Requirement};

/// One of several terms, of which one must match: labels and `metadata.name`.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    labels: LabelSelector,
    fields: LabelSelector,
    empty: bool,
}

impl Term {
    pub fn new(term: &NodeSelectorTerm) -> Self {
        let expressions = term.match_expressions.as_deref().unwrap_or_default();
        let fields = term.match_fields.as_deref().unwrap_or_default();
        Self { labels: selector(expressions), fields: selector(fields), empty: expressions.is_empty() && fields.is_empty() }
    }

    /// A term without anything in it matches nothing.
    pub fn matches(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        !self.empty && self.labels.matches_map(Some(labels)) && self.fields.matches_by(|field| (field == "metadata.name").then_some(name))
    }
}

/// The terms of a node selector.
pub fn terms(selector: Option<&NodeSelector>) -> Option<Vec<Term>> {
    selector.map(|s| s.node_selector_terms.iter().map(Term::new).collect())
}

fn selector(requirements: &[NodeSelectorRequirement]) -> LabelSelector {
    let mut selector = LabelSelector::everything();
    selector.requirements = requirements
        .iter()
        .map(|r| Requirement {
            key: r.key.clone(),
            operator: match r.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                "Gt" => Operator::GreaterThan,
                _ => Operator::LessThan,
            },
            values: r.values.clone().unwrap_or_default(),
        })
        .collect();
    selector
}
