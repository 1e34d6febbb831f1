//! Every resource with table columns has a cell for each.

use knarr_core::{Value, json};
use knarr_kinds::strategy;

const COLUMNS: &str = include_str!("../../knarr-schema/data/columns.json");

/// What subresources show: the API server makes their cells.
const SUBRESOURCES: &str = "autoscaling/v1/Scale";

/// Upstream gives an IPAddress one cell more than columns.
const MORE_CELLS_THAN_COLUMNS: &str = "networking.k8s.io/v1/ipaddresses";

#[test]
fn every_column_has_a_cell() {
    let columns: Value = serde_json::from_str(COLUMNS).unwrap();
    for (resource, columns) in columns.as_object().unwrap() {
        let parts: Vec<&str> = resource.split('/').collect();
        let (group, plural) = (if parts.len() == 2 { "" } else { parts[0] }, parts[parts.len() - 1]);
        if plural == "componentstatuses" || [MORE_CELLS_THAN_COLUMNS, SUBRESOURCES].contains(&resource.as_str()) {
            continue;
        }
        let object = json!({"apiVersion": resource.rsplit_once('/').unwrap().0, "metadata": {"name": "x"}});
        let cells = strategy(group, plural, "").cells(&object, jiff::Timestamp::UNIX_EPOCH);
        let cells = cells.unwrap_or_else(|| vec![json!("x"), json!("<unknown>")]);
        assert_eq!(cells.len(), columns.as_array().unwrap().len(), "{resource}: {cells:?}");
    }
}
