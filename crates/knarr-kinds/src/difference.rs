//! What changed between two values, as unified diff of what upstream shows of them: the tail of "may not change" errors (upstream:
//! `k8s.io/apimachinery/pkg/util/diff`).

use knarr_core::Value;
use knarr_schema::internal::{self, Step};

use crate::at::type_of;

/// Lines of context around a change.
const CONTEXT: usize = 3;

/// The difference of two values that stand at this place of an object.
pub fn of(object: &Value, steps: &[Step<'_>], old: Option<&Value>, new: Option<&Value>) -> String {
    let pretty = |value| type_of(object).and_then(|root| internal::pretty(root, steps, value)).unwrap_or_else(|| "null".into());
    let (old, new) = (pretty(old), pretty(new));
    similar::TextDiff::from_lines(&old, &new).unified_diff().context_radius(CONTEXT).missing_newline_hint(false).to_string()
}
