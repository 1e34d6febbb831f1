//! kubectl, built in. One file a verb in [`verbs`]; what they share is here: the session (who talks to which server, in which
//! namespace), names of resources, manifests, printers. Output and flags are kubectl's.

mod manifest;
mod print;
mod resources;
mod session;
mod verbs;

use std::process::ExitCode;

use clap::Parser;

pub use session::{Failure, Global, Result, Session};

#[derive(Parser)]
#[command(name = "kubectl", about = "Controls the cluster", disable_help_subcommand = true)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: verbs::Verb,
}

/// Runs kubectl with these arguments (its own name not among them); gives its exit code.
pub async fn main(args: Vec<String>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(std::iter::once("kubectl".to_owned()).chain(args)) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version go to standard output and are no failure; clap knows which.
            let code = if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
            print!("{}", if error.use_stderr() { String::new() } else { error.to_string() });
            eprint!("{}", if error.use_stderr() { error.to_string() } else { String::new() });
            return code;
        }
    };
    let outcome = match Session::open(&arguments.global) {
        Ok(session) => verbs::run(arguments.verb, &session).await,
        Err(failure) => Err(failure),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
