//! `kubectl plugin`, and plugins themselves: programs named `kubectl-…` on the path.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;

use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::switch;

pub static VERB: Verb = Verb {
    name: "plugin",
    usage: "[flags]",
    about: "Provides utilities for interacting with plugins",
    verbs: &[&Verb {
        name: "list",
        about: "List all visible plugin executables on a user's PATH",
        flags: &[&[switch("name-only", "Only the names, not the paths")]],
        run: Some(|cx| Box::pin(list(cx))),
        ..Verb::NONE
    }],
    ..Verb::NONE
};

fn folders() -> Vec<PathBuf> {
    let mut seen = Vec::new();
    for folder in std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()) {
        if !seen.contains(&folder) && !folder.as_os_str().is_empty() {
            seen.push(folder);
        }
    }
    seen
}

fn is_program(path: &std::path::Path) -> bool {
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Runs the plugin that the first words name, if no verb has that name. Gives its exit code.
///
/// # Errors
/// The plugin could not be started.
pub fn run_unknown(root: &Verb, args: &[String]) -> Result<Option<u8>> {
    let words: Vec<&String> = args.iter().take_while(|a| !a.starts_with('-')).collect();
    let Some(first) = words.first() else { return Ok(None) };
    if root.verbs.iter().any(|v| v.name == **first || v.aliases.contains(&first.as_str())) {
        return Ok(None);
    }
    for count in (1..=words.len()).rev() {
        let name = format!("kubectl-{}", words[..count].iter().map(|w| w.replace('-', "_")).collect::<Vec<_>>().join("-"));
        let Some(program) = folders().into_iter().map(|f| f.join(&name)).find(|p| is_program(p)) else { continue };
        let status = std::process::Command::new(&program).args(&args[count..]).status()?;
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        return match u8::try_from(code) {
            Ok(0) => Err(Failure::Exit(0)),
            code => Ok(Some(code.unwrap_or(1))),
        };
    }
    Ok(None)
}

async fn list(cx: &Context) -> Result<()> {
    let mut found = Vec::new();
    for folder in folders() {
        let mut inside: Vec<PathBuf> = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
        inside.sort();
        found.extend(inside.into_iter().filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("kubectl-")) && is_program(p)));
    }
    if found.is_empty() {
        return Err("unable to find any kubectl plugins in your PATH".into());
    }
    println!("The following compatible plugins are available:\n");
    for path in found {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        println!("{}", if cx.flags.on("name-only") { name } else { path.display().to_string() });
    }
    Ok(())
}
