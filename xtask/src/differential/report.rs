//! What differs: counted by kind of difference, the most frequent first; every one of them in a file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use regex::Regex;
use serde::Deserialize;
use serde_json::json;

use super::Exchange;
use super::compare::{Difference, differences};

/// How many kinds of difference are printed.
const PRINTED: usize = 60;

/// A difference that stays, and why (`accepted.jsonl`). All patterns must match.
#[derive(Deserialize)]
struct Accepted {
    id: String,
    kind: String,
    /// What upstream says; absent: anything.
    #[serde(default)]
    upstream: String,
    /// What the two texts differ in: they are the same when all of it is taken away. Absent: anything.
    alike: Option<String>,
    reason: String,
}

/// The same, ready to be asked.
struct Explanation {
    id: Regex,
    kind: Regex,
    upstream: Regex,
    alike: Option<Regex>,
    reason: String,
}

impl Explanation {
    fn new(line: &str) -> Result<Self> {
        let Accepted { id, kind, upstream, alike, reason } = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let alike = alike.as_deref().map(Regex::new).transpose()?;
        Ok(Self { id: Regex::new(&id)?, kind: Regex::new(&kind)?, upstream: Regex::new(&upstream)?, alike, reason })
    }

    fn covers(&self, id: &str, difference: &Difference) -> bool {
        let Difference { kind, theirs, ours } = difference;
        let alike = |alike: &Regex| alike.replace_all(theirs, "") == alike.replace_all(ours, "");
        self.id.is_match(id) && self.kind.is_match(kind) && self.upstream.is_match(theirs) && self.alike.as_ref().is_none_or(alike)
    }
}

pub struct Report {
    accepted: Vec<Explanation>,
    compared: usize,
    different: usize,
    explained: BTreeMap<String, usize>,
    kinds: BTreeMap<String, (usize, String)>,
    lines: Vec<String>,
}

impl Report {
    pub fn new(repository: &Path) -> Result<Self> {
        let path = repository.join("conformance/differential/accepted.jsonl");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(Self {
            accepted: text.lines().map(Explanation::new).collect::<Result<_>>()?,
            compared: 0,
            different: 0,
            explained: BTreeMap::new(),
            kinds: BTreeMap::new(),
            lines: Vec::new(),
        })
    }

    pub fn add(&mut self, theirs: &Exchange, ours: &Exchange) {
        self.compared += 1;
        let mut unexplained = false;
        for difference in differences(&theirs.answer, &ours.answer) {
            if let Some(explanation) = self.accepted.iter().find(|a| a.covers(&theirs.id, &difference)) {
                *self.explained.entry(explanation.reason.clone()).or_default() += 1;
                continue;
            }
            unexplained = true;
            self.lines.push(
                json!({"id": theirs.id, "kind": difference.kind, "request": theirs.request, "body": theirs.body, "upstream": difference.theirs, "knarr": difference.ours})
                    .to_string(),
            );
            let counted = self.kinds.entry(difference.kind).or_insert_with(|| (0, theirs.id.clone()));
            counted.0 += 1;
        }
        self.different += usize::from(unexplained);
    }

    /// Prints the summary; gives the number of answers with an unexplained difference.
    pub fn print(&self, file: &Path) -> Result<usize> {
        fs::write(file, self.lines.join("\n"))?;
        let mut kinds: Vec<_> = self.kinds.iter().collect();
        kinds.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
        for (kind, (count, example)) in kinds.iter().take(PRINTED) {
            println!("{count:6}  {kind}  ({example})");
        }
        for (reason, count) in &self.explained {
            println!("{count:6}  accepted: {reason}");
        }
        println!("{} answers compared, {} the same, {} different; see {}", self.compared, self.compared - self.different, self.different, file.display());
        Ok(self.different)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_covers_what_it_names_and_no_more() {
        let line = r#"{"id": "^a ", "kind": "message$", "upstream": "\\{\\}", "alike": "\\{\\}|null", "reason": "empty"}"#;
        let explanation = Explanation::new(line).unwrap();
        let covers = |id: &str, theirs: &str, ours: &str| {
            let difference = Difference { kind: "body .message".into(), theirs: theirs.into(), ours: ours.into() };
            explanation.covers(id, &difference)
        };
        assert!(covers("a b", "x: {}", "x: null"));
        assert!(!covers("a b", "x: {}, y", "x: null, z") && !covers("b", "x: {}", "x: null") && !covers("a b", "x: 1", "x: null"));
    }
}
