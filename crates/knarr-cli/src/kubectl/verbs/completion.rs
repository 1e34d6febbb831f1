//! `kubectl completion`: scripts for shells, made from the tree of verbs.

use crate::kubectl::ROOT;
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::Result;
use crate::kubectl::print::out;

pub static VERB: Verb = Verb {
    name: "completion",
    usage: "SHELL",
    about: "Output shell completion code for the specified shell (bash, zsh, fish, or powershell)",
    run: Some(|cx| Box::pin(run(cx))),
    ..Verb::NONE
};

async fn run(cx: &Context) -> Result<()> {
    match cx.words() {
        [shell] => out(&script(shell).ok_or_else(|| cx.usage(format!("unsupported shell type {}", knarr_core::field::go_quote(shell))))?),
        [] => Err(cx.usage("Shell not specified.")),
        _ => Err(cx.usage("Too many arguments. Expected only the shell type.")),
    }
}

/// The script of a shell.
pub fn script(shell: &str) -> Option<String> {
    match shell {
        "bash" => Some(bash()),
        // zsh reads bash's completions through its own bridge.
        "zsh" => Some(format!("#compdef kubectl\nautoload -U +X bashcompinit && bashcompinit\n{}", bash())),
        "fish" => Some(fish()),
        _ => None,
    }
}

/// Every verb's path with the words that may follow it.
fn each(verb: &'static Verb, path: &str, found: &mut Vec<(String, Vec<String>, Vec<String>)>) {
    let verbs = verb.verbs.iter().map(|v| v.name.to_owned()).collect();
    let flags = verb.all_flags().iter().map(|f| format!("--{}", f.name)).collect();
    found.push((path.to_owned(), verbs, flags));
    for inner in verb.verbs {
        each(inner, &format!("{path} {}", inner.name).trim().to_owned(), found);
    }
}

/// Verbs whose words are a type and names of objects.
const OBJECTS: &[&str] = &["get", "describe", "delete", "edit", "label", "annotate", "patch", "scale", "expose", "autoscale", "explain"];

fn bash() -> String {
    let mut all = Vec::new();
    each(&ROOT, "", &mut all);
    let cases: String =
        all.iter().map(|(path, verbs, flags)| format!("    \"{path}\") words=\"{}\"; flags=\"{}\" ;;\n", verbs.join(" "), flags.join(" "))).collect();
    format!(
        r#"# Completion of kubectl for bash.
__kubectl_words() {{
    local words flags
    case "$1" in
{cases}    esac
    echo "$words"
    echo "$flags"
}}
__kubectl_complete() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" path="" next word verb="" types=0 i
    for ((i = 1; i < COMP_CWORD; i++)); do
        word="${{COMP_WORDS[i]}}"
        [[ "$word" == -* ]] && continue
        next="${{path:+$path }}$word"
        if [[ " $(__kubectl_words "$path" | head -1) " == *" $word "* ]]; then path="$next"; verb="$word"; else types=$((types + 1)); fi
    done
    if [[ "$current" == -* ]]; then
        COMPREPLY=($(compgen -W "$(__kubectl_words "$path" | tail -1)" -- "$current"))
        return
    fi
    local words="$(__kubectl_words "$path" | head -1)"
    if [[ -z "$words" && " {objects} " == *" $verb "* ]]; then
        if ((types == 0)); then words="$("${{COMP_WORDS[0]}}" api-resources -o name 2>/dev/null)"
        else words="$("${{COMP_WORDS[0]}}" get "${{COMP_WORDS[COMP_CWORD - 1]}}" -o "jsonpath={{.items[*].metadata.name}}" 2>/dev/null)"; fi
    elif [[ -z "$words" && " logs exec attach port-forward cp debug " == *" $verb "* ]]; then
        words="$("${{COMP_WORDS[0]}}" get pods -o "jsonpath={{.items[*].metadata.name}}" 2>/dev/null)"
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F __kubectl_complete kubectl
"#,
        objects = OBJECTS.join(" ")
    )
}

fn fish() -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let mut text = String::from("# Completion of kubectl for fish.\ncomplete -c kubectl -f\n");
    for verb in ROOT.verbs {
        text += &format!("complete -c kubectl -n __fish_use_subcommand -a {} -d {}\n", verb.name, quoted(verb.about));
        for inner in verb.verbs {
            text += &format!("complete -c kubectl -n '__fish_seen_subcommand_from {}' -a {} -d {}\n", verb.name, inner.name, quoted(inner.about));
        }
        for flag in verb.flags.iter().flat_map(|f| f.iter()) {
            let short = flag.short.map(|s| format!(" -s {s}")).unwrap_or_default();
            text += &format!("complete -c kubectl -n '__fish_seen_subcommand_from {}' -l {}{short} -d {}\n", verb.name, flag.name, quoted(flag.help));
        }
    }
    for verb in OBJECTS {
        text += &format!("complete -c kubectl -n '__fish_seen_subcommand_from {verb}' -a '(kubectl api-resources -o name 2>/dev/null)'\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_gets_every_verb() {
        for shell in ["bash", "zsh", "fish"] {
            let text = script(shell).unwrap();
            assert!(ROOT.verbs.iter().all(|v| text.contains(v.name)), "{shell}");
        }
        assert!(script("nonsense").is_none());
    }
}
