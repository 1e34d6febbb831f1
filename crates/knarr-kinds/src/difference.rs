//! What changed between two values, as unified diff of their JSON: the tail of "may not change" errors (upstream:
//! `k8s.io/apimachinery/pkg/util/diff`).

use knarr_core::Value;

/// Lines of context around a change.
const CONTEXT: usize = 3;

/// The difference of two values. Fields are named as the API names them; upstream shows its internal names.
pub fn of(old: Option<&Value>, new: Option<&Value>) -> String {
    let pretty = |value: Option<&Value>| value.and_then(|v| serde_json::to_string_pretty(v).ok()).unwrap_or_else(|| "null".into()).replace("  ", " ");
    let (old, new) = (pretty(old), pretty(new));
    similar::TextDiff::from_lines(&old, &new).unified_diff().context_radius(CONTEXT).missing_newline_hint(false).to_string()
}
