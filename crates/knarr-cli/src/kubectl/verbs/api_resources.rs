//! `kubectl api-resources`.

use knarr_core::{Value, json};

use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::Result;
use crate::kubectl::flags::{Flag, list, switch, switch_on, text};
use crate::kubectl::print::out;
use crate::kubectl::print::{Printer, tabs};
use crate::kubectl::resources::{Discovered, discover};

const FLAGS: &[Flag] = &[
    text("api-group", "", "Limit to resources in the specified API group"),
    switch_on("namespaced", "Limit to resources with a namespace, or with =false to those without"),
    list("verbs", "Limit to resources that support the specified verbs"),
    list("categories", "Limit to resources that belong to the specified categories"),
    text("sort-by", "", "Sort by 'name' or 'kind'"),
    switch("cached", "Accepted; nothing is cached"),
    switch("no-headers", "Do not print headers"),
    text("output", "", "Output format. One of: (json, yaml, kyaml, name, wide)").short('o'),
    switch("show-managed-fields", "Accepted; there are none"),
];

pub static VERB: Verb = Verb {
    name: "api-resources",
    usage: "[flags]",
    about: "Print the supported API resources on the server",
    flags: &[FLAGS],
    run: Some(|cx| Box::pin(run(cx))),
    ..Verb::NONE
};

async fn run(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    if !cx.words().is_empty() {
        return Err(cx.usage(format!("unexpected arguments: [{}]", cx.words().join(" "))));
    }
    let sort_by = flags.text("sort-by");
    if !matches!(sort_by, "" | "name" | "kind") {
        return Err("--sort-by accepts only name or kind".into());
    }
    let output = flags.text("output");
    let (verbs, categories) = (flags.all("verbs"), flags.all("categories"));
    let mut all: Vec<Discovered> = Vec::new();
    for found in discover(cx.session()?).await?.into_iter().filter(|d| !d.verbs.is_empty()) {
        let r = &found.meant.resource;
        let known = all.iter().any(|d| d.meant.resource.group == r.group && d.meant.resource.resource == r.resource);
        let wanted = (!flags.given("api-group") || r.group == flags.text("api-group"))
            && (!flags.given("namespaced") || found.meant.namespaced == flags.on("namespaced"))
            && verbs.iter().all(|v| found.verbs.contains(v))
            && categories.iter().all(|c| found.categories.contains(c));
        // The first version that has a resource is the preferred one, or the next best.
        if !known && wanted {
            all.push(found);
        }
    }
    let key = |d: &Discovered| match sort_by {
        "name" => d.meant.resource.resource.clone(),
        "kind" => d.meant.kind.clone(),
        _ => d.meant.resource.group.clone(),
    };
    all.sort_by(|a, b| key(a).cmp(&key(b)).then_with(|| a.meant.resource.resource.cmp(&b.meant.resource.resource)));
    match output {
        "" | "wide" | "name" => table(flags.on("no-headers"), output, &all),
        _ => {
            let list: Vec<Value> = all.iter().map(object).collect();
            let whole = json!({"apiVersion": "v1", "kind": "APIResourceList", "groupVersion": "", "resources": list});
            out(&Printer::named(flags, "", &["json", "kyaml", "name", "wide", "yaml"])?.print(&whole)?)
        }
    }
}

fn object(d: &Discovered) -> Value {
    let r = &d.meant.resource;
    let mut object =
        json!({"name": r.resource, "singularName": d.singular, "namespaced": d.meant.namespaced, "version": r.version, "kind": d.meant.kind, "verbs": d.verbs});
    if !r.group.is_empty() {
        object["group"] = r.group.clone().into();
    }
    for (key, list) in [("shortNames", &d.short_names), ("categories", &d.categories)] {
        if !list.is_empty() {
            object[key] = json!(list);
        }
    }
    object
}

fn table(no_headers: bool, output: &str, all: &[Discovered]) -> Result<()> {
    let mut text = String::new();
    if output == "name" {
        all.iter().for_each(|d| text += &format!("{}\n", d.meant.group_resource()));
        return out(&text);
    }
    let wide = output == "wide";
    if !no_headers {
        text += if wide { "NAME\tSHORTNAMES\tAPIVERSION\tNAMESPACED\tKIND\tVERBS\tCATEGORIES\n" } else { "NAME\tSHORTNAMES\tAPIVERSION\tNAMESPACED\tKIND\n" };
    }
    for d in all {
        text += &format!("{}\t{}\t{}\t{}\t{}", d.meant.resource.resource, d.short_names.join(","), d.meant.api_version(), d.meant.namespaced, d.meant.kind);
        if wide {
            text += &format!("\t{}\t{}", d.verbs.join(","), d.categories.join(","));
        }
        text.push('\n');
    }
    out(&tabs::layout(&text, 6, 3))
}
