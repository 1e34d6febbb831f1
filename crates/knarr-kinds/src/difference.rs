//! What changed between two values, as unified diff of what upstream shows of them: the tail of "may not change" errors (upstream:
//! `k8s.io/apimachinery/pkg/util/diff`). The lines that belong together are found as Python's difflib finds them, whose port
//! upstream uses: longest runs first, frequent lines passed over.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::Range;

use knarr_core::Value;
use knarr_schema::internal::{self, Step};

use crate::at::type_of;

/// Lines of context around a change.
const CONTEXT: usize = 3;
/// In texts of this many lines a line does not count that makes more than a hundredth of them.
const LONG_TEXT: usize = 200;

/// The difference of two values that stand at this place of an object.
pub fn of(object: &Value, steps: &[Step<'_>], old: Option<&Value>, new: Option<&Value>) -> String {
    let pretty = |value| type_of(object).and_then(|root| internal::pretty(root, steps, value)).unwrap_or_else(|| "null".into());
    unified(&pretty(old), &pretty(new))
}

/// A run of equal lines: where it begins in either text, and its length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    old: usize,
    new: usize,
    length: usize,
}

/// Lines of the old text that the lines of the new one stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    equal: bool,
    old: Range<usize>,
    new: Range<usize>,
}

fn unified(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.split('\n').collect(), new.split('\n').collect());
    let mut out = String::new();
    for hunk in hunks(steps(&old, &new)) {
        let (Some(first), Some(last)) = (hunk.first(), hunk.last()) else { continue };
        let (a, b) = (first.old.start..last.old.end, first.new.start..last.new.end);
        // Writing to memory cannot fail.
        let _ = writeln!(out, "@@ -{} +{} @@", range(&a), range(&b));
        for step in hunk {
            let mut lines = |mark: char, lines: &[&str]| lines.iter().for_each(|line| out.extend([mark.to_string().as_str(), line, "\n"]));
            if step.equal {
                lines(' ', &old[step.old]);
            } else {
                lines('-', &old[step.old]);
                lines('+', &new[step.new]);
            }
        }
    }
    out
}

fn range(lines: &Range<usize>) -> String {
    match lines.len() {
        1 => (lines.start + 1).to_string(),
        0 => format!("{},0", lines.start),
        length => format!("{},{length}", lines.start + 1),
    }
}

/// Changes with what stands around them; what is far from any change is left out.
fn hunks(mut steps: Vec<Part>) -> Vec<Vec<Part>> {
    if let Some(first) = steps.first_mut().filter(|s| s.equal) {
        let skipped = first.old.len().saturating_sub(CONTEXT);
        (first.old.start, first.new.start) = (first.old.start + skipped, first.new.start + skipped);
    }
    if let Some(last) = steps.last_mut().filter(|s| s.equal) {
        let skipped = last.old.len().saturating_sub(CONTEXT);
        (last.old.end, last.new.end) = (last.old.end - skipped, last.new.end - skipped);
    }
    let (mut all, mut hunk) = (Vec::new(), Vec::new());
    for step in steps {
        if step.equal && step.old.len() > 2 * CONTEXT {
            let (o, n) = (step.old.start, step.new.start);
            hunk.push(Part { equal: true, old: o..o + CONTEXT, new: n..n + CONTEXT });
            all.push(std::mem::take(&mut hunk));
            hunk.push(Part { equal: true, old: step.old.end - CONTEXT..step.old.end, new: step.new.end - CONTEXT..step.new.end });
        } else {
            hunk.push(step);
        }
    }
    if hunk.iter().any(|s| !s.equal) {
        all.push(hunk);
    }
    all
}

fn steps(old: &[&str], new: &[&str]) -> Vec<Part> {
    let (mut at, mut all) = (Run::default(), Vec::new());
    for run in runs(old, new) {
        if at.old < run.old || at.new < run.new {
            all.push(Part { equal: false, old: at.old..run.old, new: at.new..run.new });
        }
        if run.length > 0 {
            all.push(Part { equal: true, old: run.old..run.old + run.length, new: run.new..run.new + run.length });
        }
        at = Run { old: run.old + run.length, new: run.new + run.length, length: 0 };
    }
    all
}

/// The equal runs in order, neighbours joined, with an empty one at the end.
fn runs(old: &[&str], new: &[&str]) -> Vec<Run> {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (i, line) in new.iter().enumerate() {
        places.entry(line).or_default().push(i);
    }
    if new.len() >= LONG_TEXT {
        let most = new.len() / 100 + 1;
        places.retain(|_, found| found.len() <= most);
    }
    let (mut open, mut found) = (vec![(0..old.len(), 0..new.len())], Vec::new());
    while let Some((a, b)) = open.pop() {
        let run = longest(old, new, &places, a.clone(), b.clone());
        if run.length > 0 {
            open.push((a.start..run.old, b.start..run.new));
            open.push((run.old + run.length..a.end, run.new + run.length..b.end));
            found.push(run);
        }
    }
    found.sort_unstable();
    let mut joined: Vec<Run> = Vec::new();
    for run in found {
        match joined.last_mut() {
            Some(last) if last.old + last.length == run.old && last.new + last.length == run.new => last.length += run.length,
            _ => joined.push(run),
        }
    }
    joined.push(Run { old: old.len(), new: new.len(), length: 0 });
    joined
}

/// The longest equal run within these parts, the first of several; grown over lines that do not count.
fn longest(old: &[&str], new: &[&str], places: &HashMap<&str, Vec<usize>>, a: Range<usize>, b: Range<usize>) -> Run {
    let mut best = Run { old: a.start, new: b.start, length: 0 };
    let mut lengths: HashMap<usize, usize> = HashMap::new();
    for i in a.clone() {
        let mut next = HashMap::new();
        for &j in places.get(old[i]).into_iter().flatten().filter(|j| b.contains(j)) {
            let length = j.checked_sub(1).and_then(|before| lengths.get(&before)).unwrap_or(&0) + 1;
            next.insert(j, length);
            if length > best.length {
                best = Run { old: i + 1 - length, new: j + 1 - length, length };
            }
        }
        lengths = next;
    }
    while best.old > a.start && best.new > b.start && old[best.old - 1] == new[best.new - 1] {
        best = Run { old: best.old - 1, new: best.new - 1, length: best.length + 1 };
    }
    while best.old + best.length < a.end && best.new + best.length < b.end && old[best.old + best.length] == new[best.new + best.length] {
        best.length += 1;
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_shown_with_what_stands_around_them() {
        let old = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\nk";
        let new = "a\nb\nc\nd\ne\nX\ng\nh\ni\nj\nk\nl";
        assert_eq!(unified(old, new), "@@ -3,9 +3,10 @@\n c\n d\n e\n-f\n+X\n g\n h\n i\n j\n k\n+l\n");
        assert_eq!(unified("a", "a"), "");
        assert_eq!(unified("a", "b"), "@@ -1 +1 @@\n-a\n+b\n");
    }

    #[test]
    fn the_first_of_equal_runs_is_kept() {
        assert_eq!(unified("x\n{\nk\n}\ny", "x\n{\nk\n}\n{\nk\n}\ny"), "@@ -2,4 +2,7 @@\n {\n k\n }\n+{\n+k\n+}\n y\n");
    }
}
