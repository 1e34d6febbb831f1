//! Probes and lifecycle hooks.

use knarr_core::field::ErrorList;

use super::Pod;
use crate::at::At;
use crate::rules;

const SIGNALS: [&str; 65] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGRTMAX",
    "SIGRTMAX-1",
    "SIGRTMAX-10",
    "SIGRTMAX-11",
    "SIGRTMAX-12",
    "SIGRTMAX-13",
    "SIGRTMAX-14",
    "SIGRTMAX-2",
    "SIGRTMAX-3",
    "SIGRTMAX-4",
    "SIGRTMAX-5",
    "SIGRTMAX-6",
    "SIGRTMAX-7",
    "SIGRTMAX-8",
    "SIGRTMAX-9",
    "SIGRTMIN",
    "SIGRTMIN+1",
    "SIGRTMIN+10",
    "SIGRTMIN+11",
    "SIGRTMIN+12",
    "SIGRTMIN+13",
    "SIGRTMIN+14",
    "SIGRTMIN+15",
    "SIGRTMIN+2",
    "SIGRTMIN+3",
    "SIGRTMIN+4",
    "SIGRTMIN+5",
    "SIGRTMIN+6",
    "SIGRTMIN+7",
    "SIGRTMIN+8",
    "SIGRTMIN+9",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

/// The three probes of a container.
pub fn all(container: &At, pod: &Pod, e: &mut ErrorList) {
    let liveness = container.get("livenessProbe");
    if liveness.is_set() {
        probe(&liveness, pod, e);
        must_succeed_once(&liveness, e);
    }
    let readiness = container.get("readinessProbe");
    if readiness.is_set() {
        probe(&readiness, pod, e);
        let grace = readiness.get("terminationGracePeriodSeconds");
        if grace.is_set() {
            e.push(grace.invalid("must not be set for readinessProbes"));
        }
    }
    let startup = container.get("startupProbe");
    if startup.is_set() {
        probe(&startup, pod, e);
        must_succeed_once(&startup, e);
    }
}

fn must_succeed_once(probe: &At, e: &mut ErrorList) {
    let threshold = probe.get("successThreshold");
    if threshold.int() != 1 {
        e.push(threshold.invalid_as(threshold.int(), "must be 1"));
    }
}

fn probe(probe: &At, pod: &Pod, e: &mut ErrorList) {
    handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], pod, e);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        probe.get(field).nonnegative(e);
    }
    let grace = probe.get("terminationGracePeriodSeconds");
    if grace.is_set() && grace.int() <= 0 {
        e.push(grace.invalid("must be greater than 0"));
    }
}

/// Hooks after start and before stop.
pub fn lifecycle(lifecycle: &At, pod: &Pod, e: &mut ErrorList) {
    for hook in ["postStart", "preStop"] {
        let place = lifecycle.get(hook);
        if place.is_set() {
            handler(&place, &["exec", "httpGet", "tcpSocket", "sleep"], pod, e);
        }
    }
    let signal = lifecycle.get("stopSignal");
    if signal.is_set() {
        match pod.os() {
            "" => e.push(signal.forbidden("may not be set for containers with empty `spec.os.name`")),
            "windows" => signal.if_set_one_of(e, &["SIGKILL", "SIGTERM"]),
            _ => signal.if_set_one_of(e, &SIGNALS),
        }
    }
}

/// Exactly one way to act.
fn handler(place: &At, kinds: &[&str], pod: &Pod, e: &mut ErrorList) {
    let mut found = false;
    for kind in kinds {
        let action = place.get(kind);
        if !action.is_set() {
            continue;
        }
        if found {
            e.push(action.forbidden("may not specify more than 1 handler type"));
            continue;
        }
        found = true;
        match *kind {
            "exec" => action.get("command").require(e),
            "httpGet" => http_get(&action, e),
            "tcpSocket" => port_number_or_name(&action.get("port"), e),
            "grpc" => grpc(&action, e),
            _ => sleep(&action, pod, e),
        }
    }
    if !found {
        e.push(place.required("must specify a handler type"));
    }
}

fn http_get(action: &At, e: &mut ErrorList) {
    action.get("path").require(e);
    port_number_or_name(&action.get("port"), e);
    let scheme = action.get("scheme");
    if !["HTTP", "HTTPS"].contains(&scheme.str()) {
        e.push(scheme.not_supported(&["HTTP", "HTTPS"]));
    }
    let headers = action.get("httpHeaders");
    for header in headers.items() {
        let name = header.str_of("name");
        e.extend(rules::http_header(name).into_iter().map(|p| headers.invalid_as(name, p)));
    }
}

fn grpc(action: &At, e: &mut ErrorList) {
    let port = action.get("port");
    port.problems(e, rules::port_number(port.int()));
}

fn sleep(action: &At, pod: &Pod, e: &mut ErrorList) {
    let (seconds, grace) = (action.get("seconds").int(), pod.grace_seconds());
    if !(0..=grace).contains(&seconds) {
        e.push(action.invalid_as(seconds, format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})")));
    }
}

/// A port by number or by name (upstream: `ValidatePortNumOrName`).
pub fn port_number_or_name(port: &At, e: &mut ErrorList) {
    match port.value() {
        Some(knarr_core::Value::String(name)) => port.problems(e, rules::port_name(name)),
        _ => e.extend(rules::port_number(port.int()).into_iter().map(|p| port.invalid_as(port.int(), p))),
    }
}
