//! `kubectl top`: what nodes and pods use, from the metrics API.

use std::collections::BTreeMap;

use knarr_core::quantity::Quantity;
use knarr_core::{Value, ValueExt};

use super::describe::page::text;
use super::options::{ALL_NAMESPACES, FIELD_SELECTOR, SELECTOR};
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::{Flag, switch, switch_on, text as text_flag};
use crate::kubectl::print::out;
use crate::kubectl::print::tabs;
use crate::kubectl::resources::known;
use crate::kubectl::session::{Query, with_query};

const COMMON: &[Flag] = &[
    SELECTOR,
    switch("no-headers", "Print output without headers"),
    text_flag("sort-by", "", "'cpu' or 'memory'"),
    switch_on("use-protocol-buffers", "Accepted; JSON is read"),
];

pub static VERB: Verb = Verb {
    name: "top",
    about: "Display resource (CPU/memory) usage",
    verbs: &[
        &Verb {
            name: "node",
            aliases: &["nodes", "no"],
            usage: "[NAME | -l label] [flags]",
            about: "Display resource (CPU/memory) usage of nodes",
            flags: &[COMMON, &[switch("show-capacity", "Percentages of the capacity, not of what is allocatable"), switch("show-swap", "Show swap, too")]],
            run: Some(|cx| Box::pin(nodes(cx))),
            ..Verb::NONE
        },
        &Verb {
            name: "pod",
            aliases: &["pods", "po"],
            usage: "[NAME | -l label] [flags]",
            about: "Display resource (CPU/memory) usage of pods",
            flags: &[
                COMMON,
                &[
                    ALL_NAMESPACES,
                    FIELD_SELECTOR,
                    switch("containers", "Print usage of containers within a pod"),
                    switch("sum", "Print the sum of the resource usage"),
                    switch("show-swap", "Show swap, too"),
                ],
            ],
            run: Some(|cx| Box::pin(pods(cx))),
            ..Verb::NONE
        },
    ],
    ..Verb::NONE
};

/// CPU in millicores and memory in bytes.
#[derive(Clone, Copy, Default)]
struct Usage {
    cpu: i64,
    memory: i64,
}

impl Usage {
    fn of(usage: &Value) -> Self {
        let of = |name: &str| usage.at(&[name]).and_then(Quantity::from_json).unwrap_or_else(|| Quantity::from_i64(0));
        Self { cpu: of("cpu").millis(), memory: of("memory").value() }
    }

    fn add(&mut self, other: Self) {
        self.cpu += other.cpu;
        self.memory += other.memory;
    }

    fn memory_text(self) -> String {
        format!("{}Mi", self.memory / (1 << 20))
    }
}

async fn metrics(cx: &Context, path: &str) -> Result<Vec<Value>> {
    let session = cx.session()?;
    let groups = session.get("/apis").await?;
    if !groups.list_at(&["groups"]).iter().any(|g| text(g, &["name"]) == "metrics.k8s.io") {
        return Err("Metrics API not available".into());
    }
    let mut query = Query::new();
    if let Some(selector) = cx.flags.some("selector") {
        query.push(("labelSelector", selector.to_owned()));
    }
    if let Some(selector) = cx.flags.some("field-selector") {
        query.push(("fieldSelector", selector.to_owned()));
    }
    let found = session.get(&with_query(path, &query)).await?;
    Ok(if found.get("items").is_some() { found.list_at(&["items"]).to_vec() } else { vec![found] })
}

fn check(cx: &Context) -> Result<Option<&str>> {
    if !matches!(cx.flags.text("sort-by"), "" | "cpu" | "memory") {
        return Err("--sort-by accepts only cpu or memory".into());
    }
    match cx.words() {
        [] => Ok(None),
        [_] if cx.flags.given("selector") => Err("only one of NAME or --selector can be provided".into()),
        [name] => Ok(Some(name)),
        words => Err(cx.usage(format!("unexpected arguments: [{}]", words.join(" ")))),
    }
}

fn sort<T>(cx: &Context, rows: &mut [(T, Usage)], name: impl Fn(&T) -> String) {
    match cx.flags.text("sort-by") {
        "cpu" => rows.sort_by_key(|(_, u)| std::cmp::Reverse(u.cpu)),
        "memory" => rows.sort_by_key(|(_, u)| std::cmp::Reverse(u.memory)),
        _ => rows.sort_by_key(|(t, _)| name(t)),
    }
}

async fn nodes(cx: &Context) -> Result<()> {
    let name = check(cx)?;
    let path = format!("/apis/metrics.k8s.io/v1beta1/nodes{}", name.map(|n| format!("/{n}")).unwrap_or_default());
    let found = metrics(cx, &path).await?;
    if found.is_empty() {
        return Err("metrics not available yet".into());
    }
    let list = if cx.flags.on("show-capacity") { "capacity" } else { "allocatable" };
    let nodes = cx.session()?.get(&known("nodes").path(None, None)).await?;
    let whole: BTreeMap<String, Usage> =
        nodes.list_at(&["items"]).iter().map(|n| (text(n, &["metadata", "name"]).to_owned(), Usage::of(&n["status"][list]))).collect();
    let mut rows: Vec<(String, Usage)> = found.iter().map(|m| (text(m, &["metadata", "name"]).to_owned(), Usage::of(&m["usage"]))).collect();
    sort(cx, &mut rows, Clone::clone);
    let mut table = if cx.flags.on("no-headers") { String::new() } else { "NAME\tCPU(cores)\tCPU(%)\tMEMORY(bytes)\tMEMORY(%)\n".to_owned() };
    for (name, usage) in rows {
        let all = whole.get(&name).copied().unwrap_or_default();
        let share = |part: i64, all: i64| if all > 0 { format!("{}%", part * 100 / all) } else { "<unknown>".into() };
        table += &format!("{name}\t{}m\t{}\t{}\t{}\n", usage.cpu, share(usage.cpu, all.cpu), usage.memory_text(), share(usage.memory, all.memory));
    }
    out(&tabs::layout(&table, 6, 3))
}

async fn pods(cx: &Context) -> Result<()> {
    let (flags, name) = (&cx.flags, check(cx)?);
    let session = cx.session()?;
    let all = flags.on("all-namespaces");
    let place = if all { String::new() } else { format!("/namespaces/{}", session.namespace) };
    let path = format!("/apis/metrics.k8s.io/v1beta1{place}/pods{}", name.map(|n| format!("/{n}")).unwrap_or_default());
    let found = metrics(cx, &path).await?;
    if found.is_empty() {
        return Err(if all {
            Failure::from("metrics not available yet")
        } else {
            Failure::Plain(format!("No resources found in {} namespace.", session.namespace))
        });
    }
    let containers = flags.on("containers");
    let (mut rows, mut sum) = (Vec::new(), Usage::default());
    for pod in &found {
        let (namespace, name) = (text(pod, &["metadata", "namespace"]).to_owned(), text(pod, &["metadata", "name"]).to_owned());
        let mut total = Usage::default();
        for container in pod.list_at(&["containers"]) {
            let usage = Usage::of(&container["usage"]);
            total.add(usage);
            if containers {
                rows.push(((namespace.clone(), name.clone(), text(container, &["name"]).to_owned()), usage));
            }
        }
        sum.add(total);
        if !containers {
            rows.push(((namespace, name, String::new()), total));
        }
    }
    sort(cx, &mut rows, |(ns, n, c)| format!("{ns}\0{n}\0{c}"));
    let lead = |ns: &str, pod: &str, container: &str| {
        format!("{}{pod}\t{}", if all { format!("{ns}\t") } else { String::new() }, if containers { format!("{container}\t") } else { String::new() })
    };
    let mut table = String::new();
    if !flags.on("no-headers") {
        table += &format!("{}CPU(cores)\tMEMORY(bytes)\n", lead("NAMESPACE", if containers { "POD" } else { "NAME" }, "NAME"));
    }
    for ((ns, pod, container), usage) in &rows {
        table += &format!("{}{}m\t{}\n", lead(ns, pod, container), usage.cpu, usage.memory_text());
    }
    if flags.on("sum") {
        let blank = lead("", "", "");
        table += &format!("{blank}________\t________\n{blank}{}m\t{}\n", sum.cpu, sum.memory_text());
    }
    out(&tabs::layout(&table, 6, 3))
}
