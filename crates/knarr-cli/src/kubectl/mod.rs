//! kubectl, built in. One file a verb in [`verbs`]; what they share is here: flags, the session (who talks to which server, in
//! which namespace), names of resources, manifests, printers. Output, flags and errors are kubectl's.

pub mod command;
pub mod failure;
pub mod flags;
mod kustomize;
mod manifest;
pub mod print;
mod resources;
mod select;
pub mod session;
mod stream;
mod verbs;

use std::process::ExitCode;

use command::Verb;
use failure::Failure;

/// kubectl itself.
pub static ROOT: Verb = Verb { name: "kubectl", about: "kubectl controls the Kubernetes cluster manager.", verbs: verbs::ALL, ..Verb::NONE };

/// Verbs of knarr's own that speak kubectl's language.
pub static KNARR: Verb = Verb { name: "knarr", about: "A complete Kubernetes in one binary.", verbs: &[&verbs::run_workload::VERB], ..Verb::NONE };

/// Runs kubectl, or verbs like its, with these arguments (its own name not among them); gives its exit code.
pub async fn main(root: &'static Verb, args: Vec<String>) -> ExitCode {
    match run(root, args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let text = failure.to_string();
            if !text.is_empty() {
                eprint!("{text}{}", if text.ends_with('\n') { "" } else { "\n" });
            }
            ExitCode::from(failure.code())
        }
    }
}

async fn run(root: &'static Verb, args: Vec<String>) -> failure::Result<()> {
    // Whoever builds TLS without a provider of its own uses this one. A second call changes nothing.
    drop(rustls::crypto::ring::default_provider().install_default());
    if let Some(code) = verbs::plugin::run_unknown(root, &args)? {
        return Err(Failure::Exit(code));
    }
    let Some(context) = command::read(root, &args)? else { return Ok(()) };
    if let Some(run) = context.verb.run {
        run(&context).await?;
    }
    context.warnings()
}

/// The name that this program was called by, as kubectl puts it into some messages.
pub fn program_name() -> String {
    let name = std::env::args().next().unwrap_or_default();
    let name = name.rsplit('/').next().unwrap_or_default();
    if name.starts_with("kubectl") { name.to_owned() } else { "kubectl".into() }
}

/// This machine's architecture as Go names it.
pub fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
