//! The built-in kubectl against the stock one: both run every line of `kubectl/cases.txt` on one cluster, and what they print and
//! how they exit must be equal, once names, times and numbers that differ from call to call are taken out.

mod cluster;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use cluster::{Cluster, root, wait_for};
use regex::{Captures, Regex};

/// How many of the lines may differ still. It is lowered whenever one more is mended, and never raised.
const KNOWN_DIFFERENCES: usize = 2;
/// How many lines are run at the same time.
const THREADS: usize = 2;

/// One line of the table.
struct Case {
    line: String,
    /// It changes something, so it runs alone, each program with a name of its own.
    writes: bool,
    /// Its lines come in no particular order.
    unordered: bool,
}

impl Case {
    fn read(line: &str) -> Self {
        let text = line.trim_start_matches(['!', '~']);
        let marks = line.strip_suffix(text).unwrap_or_default();
        Self { line: text.to_owned(), writes: marks.contains('!'), unordered: marks.contains('~') }
    }

    fn args(&self, own_name: &str, fixtures: &Path) -> Vec<String> {
        let name = |word: String| if self.writes { word.replacen("NAME", own_name, 1) } else { word };
        words(&self.line)
            .into_iter()
            .map(|w| {
                name(w).replace("FIXTURES", &fixtures.display().to_string()).replace("KUSTOMIZE", &fixtures.with_file_name("kustomize").display().to_string())
            })
            .collect()
    }
}

/// Splits at spaces outside of brackets and single quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut begun) = (Vec::new(), String::new(), false);
    let (mut depth, mut quoted) = (0, false);
    for c in line.chars() {
        match c {
            '\'' if depth == 0 => {
                quoted = !quoted;
                begun = true;
                continue;
            }
            '{' | '[' | '(' if !quoted => depth += 1,
            '}' | ']' | ')' if !quoted => depth -= 1,
            ' ' if !quoted && depth <= 0 => {
                if begun || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
                continue;
            }
            _ => {}
        }
        word.push(c);
    }
    if begun || !word.is_empty() {
        words.push(word);
    }
    words
}

/// What differs from call to call, and what stands for it.
static VOLATILE: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        ("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UID"),
        (r"(?m)^[EWI]\d{4} .*memcache.*\n", ""),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
        (r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4}", "TIME"),
        (r#"(resourceVersion"?: )"?\d+"?"#, "${1}RV"),
        (r"nm-[ab]\b", "nm"),
        (r"pod-template-hash=\w+", "pod-template-hash=HASH"),
    ]
    .into_iter()
    .map(|(pattern, with)| (Regex::new(pattern).expect("a pattern"), with))
    .collect()
});
static AGE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b(\d+y)?(\d+d)?(\d+h)?(\d+m)?\d+s\b|\b\d+m(?:$|(  ))").expect("a pattern"));
static SPACES: LazyLock<Regex> = LazyLock::new(|| Regex::new(" +").expect("a pattern"));

fn normal(text: &[u8], unordered: bool) -> String {
    let mut text = String::from_utf8_lossy(text).into_owned();
    for (pattern, with) in VOLATILE.iter() {
        text = pattern.replace_all(&text, *with).into_owned();
    }
    // An age may be one letter longer in the other's answer, and move the columns.
    let line = |line: &str| match AGE.replace_all(line, |c: &Captures| format!("AGE{}", c.get(5).map_or("", |m| m.as_str()))) {
        std::borrow::Cow::Borrowed(same) => same.to_owned(),
        std::borrow::Cow::Owned(changed) => SPACES.replace_all(&changed, " ").into_owned(),
    };
    let mut lines: Vec<String> = text.split('\n').map(line).collect();
    if unordered {
        lines.sort();
    }
    lines.join("\n")
}

struct Programs {
    stock: PathBuf,
    kubeconfig: PathBuf,
    home: tempfile::TempDir,
    fixtures: PathBuf,
}

impl Programs {
    fn answer(&self, case: &Case, mut command: Command, own_name: &str) -> String {
        command.args(case.args(own_name, &self.fixtures)).env("KUBECONFIG", &self.kubeconfig).env("HOME", self.home.path()).env("NO_PROXY", "*");
        let output = command.current_dir(self.home.path()).stdin(Stdio::null()).output().expect("the program runs");
        let text = |bytes| normal(bytes, case.unordered);
        format!("{}\n--- stderr\n{}\n--- exit {:?}", text(&output.stdout), text(&output.stderr), output.status.code())
    }

    /// Both answers where they are not the same.
    fn difference(&self, case: &Case) -> Option<String> {
        let stock = self.answer(case, Command::new(&self.stock), "nm-a");
        let mut ours = Command::new(env!("CARGO_BIN_EXE_knarr"));
        ours.arg("kubectl");
        let ours = self.answer(case, ours, "nm-b");
        if stock == ours {
            return None;
        }
        let only = |of: &str, other: &str, mark: char| {
            of.lines().filter(|l| !other.lines().any(|o| o == *l)).take(6).fold(String::new(), |all, l| format!("{all}  {mark} {l}\n"))
        };
        Some(format!("{}\n{}{}", case.line, only(&stock, &ours, '-'), only(&ours, &stock, '+')))
    }
}

#[test]
fn the_built_in_kubectl_answers_as_the_stock_one_does() {
    let cluster = Cluster::start("kubectl", 1);
    let folder = root().join("tests/kubectl").canonicalize().expect("the folder");
    let programs = Programs {
        stock: std::env::var_os("KNARR_KUBECTL").expect("KNARR_KUBECTL names a stock kubectl").into(),
        kubeconfig: cluster.kubeconfig(),
        home: tempfile::tempdir().expect("a folder"),
        fixtures: folder.join("fixtures.yaml"),
    };
    cluster.kubectl(&["apply", "-f", &programs.fixtures.display().to_string()]);
    cluster.kubectl(&["config", "set-context", "--current", "--namespace=diff"]);
    wait_for("events of the pods", || cluster.kubectl(&["get", "events"]).contains("FailedScheduling"));
    let table = std::fs::read_to_string(folder.join("cases.txt")).expect("the table");
    let (writes, reads): (Vec<_>, Vec<_>) = table.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')).map(Case::read).partition(|c| c.writes);
    let (programs, total) = (&programs, writes.len() + reads.len());
    let mut differences: Vec<String> = std::thread::scope(|scope| {
        let reads = &reads;
        let part = move |part: usize| reads.iter().skip(part).step_by(THREADS).filter_map(|c| programs.difference(c)).collect::<Vec<_>>();
        let threads: Vec<_> = (0..THREADS).map(|p| scope.spawn(move || part(p))).collect();
        threads.into_iter().flat_map(|t| t.join().expect("a thread")).collect()
    });
    differences.extend(writes.iter().filter_map(|c| programs.difference(c)));
    eprintln!("{} of {total} lines differ\n{}", differences.len(), differences.join("\n"));
    assert!(differences.len() <= KNOWN_DIFFERENCES, "{} lines differ, {KNOWN_DIFFERENCES} did before", differences.len());
}
