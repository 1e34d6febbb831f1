//! `kubectl kustomize`: prints what a folder's `kustomization.yaml` puts together.

use knarr_core::yaml;

use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::Result;
use crate::kubectl::flags::{list, many, switch, text};
use crate::kubectl::kustomize;
use crate::kubectl::print::out;

pub static VERB: Verb = Verb {
    name: "kustomize",
    usage: "DIR [flags]",
    about: "Build a kustomization target from a directory or URL",
    flags: &[&[
        text("output", "", "If specified, write output to this path").short('o'),
        text("load-restrictor", "LoadRestrictionsRootOnly", "Accepted; files of other folders may be read"),
        switch("as-current-user", "Accepted; no functions are run"),
        switch("enable-alpha-plugins", "Accepted; there are no plugins"),
        switch("enable-helm", "Accepted; Helm charts are not rendered"),
        text("helm-command", "helm", "Accepted; Helm charts are not rendered"),
        list("helm-api-versions", "Accepted; Helm charts are not rendered"),
        switch("helm-debug", "Accepted; Helm charts are not rendered"),
        text("helm-kube-version", "", "Accepted; Helm charts are not rendered"),
        many("env", "Accepted; no functions are run").short('e'),
        many("mount", "Accepted; no functions are run"),
        switch("network", "Accepted; no functions are run"),
        text("network-name", "bridge", "Accepted; no functions are run"),
        text("reorder", "", "Reorder the resources just before output: 'legacy' or 'none'"),
    ]],
    run: Some(|cx| Box::pin(run(cx))),
    ..Verb::NONE
};

async fn run(cx: &Context) -> Result<()> {
    let folder = match cx.words() {
        [] => ".",
        [one] => one,
        _ => return Err("specify one path to kustomization.yaml".into()),
    };
    let objects = kustomize::build(folder)?;
    let text = objects.iter().map(yaml::to_string).collect::<Vec<_>>().join("---\n");
    match cx.flags.some("output") {
        Some(path) => Ok(std::fs::write(path, text)?),
        None => out(&text),
    }
}
