//! What every component tells of the process that it runs in (upstream: the process collector and `RegisterBuildInfo`).

use super::{Desc, Text};
use crate::Value;

/// Ticks of a second in `/proc`: `USER_HZ`, which is 100 on every architecture that we run on.
const TICKS: f64 = 100.0;

static CPU: Desc = Desc::counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", &[]);
static MAX_FDS: Desc = Desc::gauge("process_max_fds", "Maximum number of open file descriptors.", &[]);
static OPEN_FDS: Desc = Desc::gauge("process_open_fds", "Number of open file descriptors.", &[]);
static RESIDENT: Desc = Desc::gauge("process_resident_memory_bytes", "Resident memory size in bytes.", &[]);
static STARTED: Desc = Desc::gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", &[]);
static VIRTUAL: Desc = Desc::gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", &[]);
static TASKS: Desc = Desc::gauge("go_goroutines", "Number of goroutines that currently exist: tasks, here.", &[]);
static BUILD: Desc = Desc::gauge(
    "kubernetes_build_info",
    "A metric with a constant '1' value: the release that is served, and how it was built.",
    &["build_date", "compiler", "git_commit", "git_tree_state", "git_version", "go_version", "major", "minor", "platform"],
);

/// Writes `process_*`, `go_goroutines` and `kubernetes_build_info`; `version` is what `/version` says. What the system does
/// not tell is left out.
pub fn write(out: &mut Text, version: &Value) {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{file}")).unwrap_or_default();
    let facts = Facts::read(&read("self/stat"), &read("self/status"), &read("self/limits"), &read("stat"));
    let open = std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64);
    let tasks = tokio::runtime::Handle::try_current().ok().map(|h| h.metrics().num_alive_tasks() as f64);
    let all = [
        (&TASKS, tasks),
        (&CPU, facts.cpu),
        (&MAX_FDS, facts.max_fds),
        (&OPEN_FDS, open),
        (&RESIDENT, facts.resident),
        (&STARTED, facts.started),
        (&VIRTUAL, facts.virtual_size),
    ];
    for (desc, value) in all {
        if let Some(value) = value {
            out.single(desc, value);
        }
    }
    let text = |key: &str| version.get(key).and_then(Value::as_str).unwrap_or_default();
    let keys = ["buildDate", "compiler", "gitCommit", "gitTreeState", "gitVersion", "goVersion", "major", "minor", "platform"];
    out.open(&BUILD);
    out.sample(&BUILD, &keys.map(text), 1.0);
}

#[derive(Debug, Default, PartialEq)]
struct Facts {
    cpu: Option<f64>,
    max_fds: Option<f64>,
    resident: Option<f64>,
    started: Option<f64>,
    virtual_size: Option<f64>,
}

impl Facts {
    /// Reads `/proc/self/stat`, `/proc/self/status`, `/proc/self/limits` and `/proc/stat`.
    fn read(stat: &str, status: &str, limits: &str, system: &str) -> Self {
        // The program's name, in parentheses, may contain anything; what follows is counted from the third field on.
        let fields: Vec<&str> = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
        let field = |number: usize| fields.get(number - 3).and_then(|f| f.parse::<f64>().ok());
        let kilobytes = |key: &str| {
            let rest = status.lines().find_map(|l| l.strip_prefix(key))?;
            rest.split_whitespace().next()?.parse::<f64>().ok().map(|k| k * 1024.0)
        };
        let limit = limits.lines().find_map(|l| l.strip_prefix("Max open files")).and_then(|l| l.split_whitespace().next());
        let booted = system.lines().find_map(|l| l.strip_prefix("btime ")).and_then(|b| b.trim().parse::<f64>().ok());
        Self {
            cpu: field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS),
            max_fds: limit.and_then(|l| if l == "unlimited" { Some(f64::INFINITY) } else { l.parse().ok() }),
            resident: kilobytes("VmRSS:"),
            started: field(22).zip(booted).map(|(ticks, booted)| booted + ticks / TICKS),
            virtual_size: kilobytes("VmSize:"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_tells_what_the_process_takes() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 9 0 1000 999 25 1";
        let facts = Facts::read(stat, "Name:\ta\nVmSize:\t  20 kB\nVmRSS:\t  10 kB\n", "Max open files   1024   4096   files\n", "cpu 1\nbtime 500\n");
        let wanted = Facts { cpu: Some(2.0), max_fds: Some(1024.0), resident: Some(10_240.0), started: Some(510.0), virtual_size: Some(20_480.0) };
        assert_eq!(facts, wanted);
        assert_eq!(Facts::read("", "", "", ""), Facts::default());
    }
}
