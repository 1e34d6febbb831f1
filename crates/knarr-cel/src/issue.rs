//! What is wrong with an expression, shown as CEL compilers do: place, message, the line and a pointer below it.

/// One thing wrong at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// Offset in characters; none for the expression as a whole.
    pub at: Option<usize>,
    pub message: String,
}

impl Issue {
    pub fn new(at: usize, message: impl Into<String>) -> Self {
        Self { at: Some(at), message: message.into() }
    }
}

/// Longest line that is shown.
const SNIPPET_MAX: usize = 16384;
/// More issues than these are counted, not shown.
const SHOWN_MAX: usize = 100;

/// The issues as text (upstream: cel-go's `Errors.ToDisplayString`).
pub fn display(source: &str, issues: &[Issue]) -> String {
    let mut placed: Vec<(usize, usize, &Issue)> = issues.iter().take(SHOWN_MAX).map(|i| with_place(source, i)).collect();
    placed.sort_by_key(|(line, column, _)| (*line, *column));
    let mut shown: Vec<String> = placed.iter().map(|(line, column, issue)| one(source, *line, *column, &issue.message)).collect();
    if issues.len() > SHOWN_MAX {
        shown.push(format!("{} more errors were truncated", issues.len() - SHOWN_MAX));
    }
    shown.join("\n")
}

fn with_place<'a>(source: &str, issue: &'a Issue) -> (usize, usize, &'a Issue) {
    let Some(at) = issue.at else { return (0, 0, issue) };
    let before = source.chars().take(at);
    let (mut line, mut column) = (1, 0);
    for c in before {
        if c == '\n' {
            (line, column) = (line + 1, 0);
        } else {
            column += 1;
        }
    }
    (line, column, issue)
}

fn one(source: &str, line: usize, column: usize, message: &str) -> String {
    let head = format!("ERROR: <input>:{line}:{}: {message}", column + 1);
    let Some(text) = line.checked_sub(1).and_then(|n| source.split('\n').nth(n)).filter(|l| l.len() <= SNIPPET_MAX) else { return head };
    let text = text.replace('\t', " ");
    let mut chars = text.chars();
    let lead: String = chars.by_ref().take(column).map(|c| if c.len_utf8() > 1 { '\u{ff0e}' } else { '.' }).collect();
    let mark = if chars.next().is_some_and(|c| c.len_utf8() > 1) { '\u{ff3e}' } else { '^' };
    format!("{head}\n | {text}\n | {lead}{mark}")
}
