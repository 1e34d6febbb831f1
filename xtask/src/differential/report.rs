//! What differs: counted by kind of difference, the most frequent first; every one of them in a file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use regex::Regex;
use serde::Deserialize;
use serde_json::json;

use super::Exchange;
use super::compare::differences;

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
    reason: String,
}

pub struct Report {
    accepted: Vec<(Regex, Regex, Regex, String)>,
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
        let accepted = text.lines().map(|line| {
            let a: Accepted = serde_json::from_str(line).with_context(|| line.to_owned())?;
            Ok((Regex::new(&a.id)?, Regex::new(&a.kind)?, Regex::new(&a.upstream)?, a.reason))
        });
        Ok(Self {
            accepted: accepted.collect::<Result<_>>()?,
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
            if let Some((.., reason)) = self
                .accepted
                .iter()
                .find(|(id, kind, upstream, _)| id.is_match(&theirs.id) && kind.is_match(&difference.kind) && upstream.is_match(&difference.theirs))
            {
                *self.explained.entry(reason.clone()).or_default() += 1;
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
