//! The tree of verbs: which there are, what they take, what runs. Help, completion and the wording of wrong command lines follow
//! from it.

use std::cell::OnceCell;

use futures::future::LocalBoxFuture;

use super::failure::{Failure, Result};
use super::flags::{Flag, Flags, Kind};
use super::session::{self, Session};

/// Runs a verb.
pub type Run = for<'a> fn(&'a Context) -> LocalBoxFuture<'a, Result<()>>;

/// A verb.
pub struct Verb {
    pub name: &'static str,
    pub aliases: &'static [&'static str],
    /// What follows its name in the usage line.
    pub usage: &'static str,
    pub about: &'static str,
    pub flags: &'static [&'static [Flag]],
    pub verbs: &'static [&'static Verb],
    /// Absent: it is only there for the verbs under it.
    pub run: Option<Run>,
}

impl Verb {
    /// Without anything; for the rest of a struct literal.
    pub const NONE: Self = Self { name: "", aliases: &[], usage: "[flags]", about: "", flags: &[], verbs: &[], run: None };

    fn answers_to(&self, word: &str) -> bool {
        self.name == word || self.aliases.contains(&word)
    }

    /// The flags that this verb reads, the common ones among them. Its own win.
    pub fn all_flags(&self) -> Vec<Flag> {
        let mut all: Vec<Flag> = session::GLOBAL.to_vec();
        for own in self.flags.iter().flat_map(|f| f.iter()) {
            all.retain(|f| f.name != own.name);
            if let Some(short) = own.short {
                all.iter_mut().filter(|f| f.short == Some(short)).for_each(|f| f.short = None);
            }
            all.push(*own);
        }
        all.push(super::flags::switch("help", "Help for this verb").short('h'));
        all
    }

    /// What `--help` prints.
    pub fn help(&self, path: &str) -> String {
        let mut out = format!("{}\n", self.about);
        if !self.aliases.is_empty() {
            out += &format!("\nAliases:\n{}, {}\n", self.name, self.aliases.join(", "));
        }
        if !self.verbs.is_empty() {
            out += "\nAvailable Commands:\n";
            let width = self.verbs.iter().map(|v| v.name.len()).max().unwrap_or(0);
            for verb in self.verbs {
                out += &format!("  {:width$}   {}\n", verb.name, verb.about);
            }
        }
        let own: Vec<&Flag> = self.flags.iter().flat_map(|f| f.iter()).collect();
        if !own.is_empty() {
            out += "\nOptions:\n";
            out += &flag_help(&own);
        }
        out += &format!("\nUsage:\n  {path} {}\n", if self.run.is_none() { "[command]" } else { self.usage });
        if path == "kubectl" {
            out += "\nUse \"kubectl <command> --help\" for more information about a given command.\n";
        }
        out + "Use \"kubectl options\" for a list of global command-line options (applies to all commands).\n"
    }
}

/// Flags with what they are for.
pub fn flag_help(flags: &[&Flag]) -> String {
    let mut out = String::new();
    let mut sorted = flags.to_vec();
    sorted.sort_by_key(|f| f.name);
    for flag in sorted {
        let short = flag.short.map_or_else(|| "    ".to_owned(), |s| format!("-{s}, "));
        let default = match flag.kind {
            Kind::Text => format!("'{}'", flag.default),
            Kind::Many | Kind::List => format!("[{}]", flag.default),
            _ => flag.default.to_owned(),
        };
        out += &format!("    {short}--{}={default}:\n\t{}\n\n", flag.name, flag.help);
    }
    out
}

/// A verb with its command line.
pub struct Context {
    pub verb: &'static Verb,
    /// `kubectl rollout status`
    pub path: String,
    pub flags: Flags,
    session: OnceCell<Session>,
}

impl Context {
    /// The connection, made when it is first needed.
    pub fn session(&self) -> Result<&Session> {
        if let Some(session) = self.session.get() {
            return Ok(session);
        }
        let opened = Session::open(&self.flags)?;
        Ok(self.session.get_or_init(|| opened))
    }

    /// Whether warnings of the server count as errors, and there were some.
    pub fn warnings(&self) -> Result<()> {
        self.session.get().map_or(Ok(()), Session::warnings)
    }

    /// The words that are no flags.
    pub fn words(&self) -> &[String] {
        &self.flags.words
    }

    pub fn usage(&self, message: impl Into<String>) -> Failure {
        Failure::Usage { path: self.path.clone(), message: message.into() }
    }
}

/// Finds the verb that a command line begins with and reads the rest.
pub fn read(root: &'static Verb, line: &[String]) -> Result<Option<Context>> {
    let (mut verb, mut path) = (root, root.name.to_owned());
    let mut rest: Vec<String> = line.to_vec();
    while let Some(at) = next_word(verb, &rest) {
        let Some(next) = verb.verbs.iter().find(|v| v.answers_to(&rest[at])) else { break };
        verb = next;
        path += &format!(" {}", next.name);
        rest.remove(at);
    }
    let flags = Flags::parse(&verb.all_flags(), &rest).map_err(|e| Failure::Plain(format!("error: {e}\nSee '{path} --help' for usage.")))?;
    if flags.on("help") {
        print!("{}", verb.help(&path));
        return Ok(None);
    }
    if verb.run.is_none() {
        return without_verb(root, verb, &path, flags).map(|()| None);
    }
    Ok(Some(Context { verb, path, flags, session: OnceCell::new() }))
}

fn without_verb(root: &'static Verb, verb: &Verb, path: &str, flags: Flags) -> Result<()> {
    match flags.words.first() {
        None if std::ptr::eq(root, verb) => {
            print!("{}", verb.help(path));
            Ok(())
        }
        None => {
            eprint!("{}", verb.help(path));
            Err(Failure::Exit(1))
        }
        Some(word) if std::ptr::eq(root, verb) => {
            let mut text = format!("error: unknown command \"{word}\" for \"{path}\"");
            let near = suggestions(verb, word);
            if !near.is_empty() {
                text += "\n\nDid you mean this?\n";
                near.iter().for_each(|n| text += &format!("\t{n}\n"));
            }
            Err(Failure::Plain(text.trim_end().to_owned()))
        }
        Some(_) => Err(Failure::Usage { path: path.to_owned(), message: format!("unknown command {}", knarr_core::field::go_quote(&flags.words.join(" "))) }),
    }
}

/// Place of the first word that is neither a flag nor a flag's value.
fn next_word(verb: &Verb, line: &[String]) -> Option<usize> {
    let known = verb.all_flags();
    let mut at = 0;
    while at < line.len() {
        let word = &line[at];
        if word == "--" {
            return None;
        }
        if !word.starts_with('-') || word == "-" {
            return Some(at);
        }
        let flag = match word.strip_prefix("--") {
            Some(long) => known.iter().find(|f| f.name == long),
            None if word.len() == 2 => known.iter().find(|f| f.short == word.chars().nth(1)),
            None => None,
        };
        at += if flag.is_some_and(|f| f.bare.is_none()) { 2 } else { 1 };
    }
    None
}

fn suggestions(verb: &Verb, typed: &str) -> Vec<&'static str> {
    let near = |name: &str| distance(&typed.to_lowercase(), name) <= 2 || name.starts_with(&typed.to_lowercase());
    let mut found: Vec<&str> = verb.verbs.iter().filter(|v| near(v.name)).map(|v| v.name).collect();
    for (words, name) in SUGGEST_FOR {
        if words.contains(&typed) && !found.contains(name) {
            found.push(name);
        }
    }
    found
}

/// Words that people try for a verb.
const SUGGEST_FOR: &[(&[&str], &str)] = &[(&["list", "ls"], "get"), (&["rm"], "delete")];

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let next = (diagonal + usize::from(ca != *cb)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_s_flags_are_unambiguous() {
        fn check(verb: &'static Verb, path: &str) {
            let all = verb.all_flags();
            for (i, flag) in all.iter().enumerate() {
                assert!(all[..i].iter().all(|f| f.name != flag.name), "{path}: --{} twice", flag.name);
                assert!(flag.short.is_none() || all[..i].iter().all(|f| f.short != flag.short), "{path}: -{:?} twice", flag.short);
                assert!(!flag.help.is_empty() && !verb.about.is_empty(), "{path}: --{} without help", flag.name);
            }
            assert!(verb.run.is_some() || !verb.verbs.is_empty(), "{path} does nothing");
            verb.verbs.iter().for_each(|v| check(v, &format!("{path} {}", v.name)));
        }
        check(&crate::kubectl::ROOT, "kubectl");
    }

    #[test]
    fn flags_may_stand_before_the_verb() {
        let line = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let context = read(&crate::kubectl::ROOT, &line("-n a rollout --kubeconfig x status deploy/web")).unwrap().unwrap();
        assert_eq!(
            (context.path.as_str(), context.words(), context.flags.text("namespace")),
            ("kubectl rollout status", ["deploy/web".to_owned()].as_slice(), "a")
        );
        let failed = |text: &str| read(&crate::kubectl::ROOT, &line(text)).err().map(|e| e.to_string()).unwrap_or_default();
        assert_eq!(failed("gett"), "error: unknown command \"gett\" for \"kubectl\"\n\nDid you mean this?\n\tset\n\tget");
        assert_eq!(failed("get --nonsense"), "error: unknown flag: --nonsense\nSee 'kubectl get --help' for usage.");
        assert_eq!(failed("rollout nonsense"), "error: unknown command \"nonsense\"\nSee 'kubectl rollout -h' for help and examples");
    }
}
