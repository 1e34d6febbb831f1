//! `kubectl exec` and `kubectl attach`.

use knarr_core::{Value, ValueExt};

use super::pods::{container_names, default_container, pod_of};
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::Result;
use crate::kubectl::flags::{Flag, list, switch, text, time};
use crate::kubectl::session::Session;
use crate::kubectl::stream::{DETACH_KEYS, Streams, detach_keys, is_terminal};

const FLAGS: &[Flag] = &[
    text("container", "", "Container name; the default is the pod's own, or its first").short('c'),
    switch("stdin", "Pass stdin to the container").short('i'),
    switch("tty", "Stdin is a TTY").short('t'),
    switch("quiet", "Only print output from the remote session").short('q'),
    time("pod-running-timeout", "1m0s", "How long to wait until at least one pod is running"),
];

pub(super) const DETACH: Flag = text("detach-keys", DETACH_KEYS, "The keys that detach from a container");

pub static EXEC: Verb = Verb {
    name: "exec",
    usage: "(POD | TYPE/NAME) [-c CONTAINER] [flags] -- COMMAND [args...]",
    about: "Execute a command in a container",
    flags: &[FLAGS, &[list("filename", "A file with the object to exec into").short('f')]],
    run: Some(|cx| Box::pin(exec(cx))),
    ..Verb::NONE
};

pub static ATTACH: Verb = Verb {
    name: "attach",
    usage: "(POD | TYPE/NAME) -c CONTAINER [flags]",
    about: "Attach to a running container",
    flags: &[FLAGS, &[DETACH]],
    run: Some(|cx| Box::pin(attach(cx))),
    ..Verb::NONE
};

async fn exec(cx: &Context) -> Result<()> {
    let (flags, words) = (&cx.flags, cx.words());
    let before = flags.dash.unwrap_or(words.len());
    if flags.dash.is_none() && words.len() > 1 {
        return Err(cx.usage("exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead"));
    }
    let (target, command) = words.split_at(before);
    if target.is_empty() && !flags.given("filename") {
        return Err("pod, type/name or --filename must be specified".into());
    }
    if command.is_empty() {
        return Err("you must specify at least one command for the container".into());
    }
    let session = cx.session()?;
    let pod = pod_of(session, flags, target).await?;
    let phase = pod.object.str_at(&["status", "phase"]).unwrap_or_default();
    if phase == "Succeeded" || phase == "Failed" {
        return Err(format!("cannot exec into a container in a completed pod; current phase is {phase}").into());
    }
    let container = container(cx, &pod.object)?;
    streams(cx, &pod.namespace, &pod.name, container, Some(command.to_vec())).run(session).await
}

/// The container that the flags name or that is meant; several without a default are told of.
fn container(cx: &Context, pod: &Value) -> Result<Option<String>> {
    let names = container_names(pod);
    if let Some(named) = cx.flags.some("container") {
        if !names.iter().any(|n| n == named) {
            let name = pod.str_at(&["metadata", "name"]).unwrap_or_default();
            return Err(format!("container {named} is not valid for pod {name} out of: {}", described(pod)).into());
        }
        return Ok(Some(named.to_owned()));
    }
    let default = default_container(pod);
    if names.len() > 1
        && pod.str_at(&["metadata", "annotations", "kubectl.kubernetes.io/default-container"]).is_none()
        && !cx.flags.on("quiet")
        && let Some(default) = &default
    {
        eprintln!("Defaulted container \"{default}\" out of: {}", described(pod));
    }
    Ok(default)
}

/// All containers with what they are: `a, b (init), c (ephem)`.
pub fn described(pod: &Value) -> String {
    let mut all = Vec::new();
    for (list, note) in [("containers", ""), ("ephemeralContainers", " (ephem)"), ("initContainers", " (init)")] {
        all.extend(pod.list_at(&["spec", list]).iter().filter_map(|c| c.str_at(&["name"])).map(|n| format!("{n}{note}")));
    }
    all.join(", ")
}

fn streams(cx: &Context, namespace: &str, pod: &str, container: Option<String>, command: Option<Vec<String>>) -> Streams {
    let flags = &cx.flags;
    let stdin = flags.on("stdin");
    let mut tty = flags.on("tty");
    if tty && !(stdin && is_terminal()) {
        tty = false;
        if !flags.on("quiet") {
            eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
        }
    }
    Streams { namespace: namespace.to_owned(), pod: pod.to_owned(), container, command, stdin, tty, quiet: flags.on("quiet"), detach: Vec::new() }
}

/// Joins the streams of a container that runs, and says how to come back (`AttachOptions.Run`).
pub(super) async fn join(session: &Session, streams: Streams, pod: &Value) -> Result<()> {
    if !streams.quiet {
        eprintln!(
            "All commands and output from this session will be recorded in container logs, including credentials and sensitive information passed through the command prompt.\nIf you don't see a command prompt, try pressing enter."
        );
    }
    streams.run(session).await?;
    if !streams.quiet && streams.stdin && streams.tty {
        let (name, container) = (&streams.pod, streams.container.as_deref().unwrap_or_default());
        let again = format!("kubectl attach {name} -c {container} -n {} -i -t", streams.namespace);
        let ephemeral = pod.list_at(&["spec", "ephemeralContainers"]).iter().any(|c| c.str_at(&["name"]) == Some(container));
        if ephemeral {
            println!("Session ended, the ephemeral container will not be restarted but may be reattached using '{again}' if it is still running");
        } else {
            println!("Session ended, resume using '{again}' command");
        }
    }
    Ok(())
}

async fn attach(cx: &Context) -> Result<()> {
    let words = cx.words();
    if words.is_empty() {
        return Err("at least 1 argument is required for attach".into());
    }
    if words.len() > 2 {
        return Err(format!("expected POD, TYPE/NAME, or TYPE NAME, (at most 2 arguments) saw {}: [{}]", words.len(), words.join(" ")).into());
    }
    let session = cx.session()?;
    let pod = pod_of(session, &cx.flags, words).await?;
    let phase = pod.object.str_at(&["status", "phase"]).unwrap_or_default();
    if phase == "Succeeded" || phase == "Failed" {
        return Err(format!("cannot attach a container in a completed pod; current phase is {phase}").into());
    }
    let container = container(cx, &pod.object)?;
    let mut streams = streams(cx, &pod.namespace, &pod.name, container.clone(), None);
    let has_tty = pod.object.list_at(&["spec", "containers"]).iter().any(|c| c.str_at(&["name"]) == container.as_deref() && c.bool_at(&["tty"]) == Some(true));
    if streams.tty && !has_tty {
        streams.tty = false;
        if !streams.quiet {
            eprintln!("error: Unable to use a TTY - container {} did not allocate one", container.clone().unwrap_or_default());
        }
    } else if !streams.tty && has_tty && streams.stdin {
        // The container's own terminal echoes and edits.
        streams.tty = is_terminal();
    }
    if streams.stdin && streams.tty {
        streams.detach = detach_keys(cx.flags.text("detach-keys"))?;
    }
    join(session, streams, &pod.object).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn containers_are_described_with_what_they_are() {
        let pod = json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "b"}], "ephemeralContainers": [{"name": "c"}]}});
        assert_eq!(described(&pod), "a, c (ephem), b (init)");
    }
}
