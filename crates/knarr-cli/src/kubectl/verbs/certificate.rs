//! `kubectl certificate approve` and `deny`.

use knarr_core::{Value, ValueExt, json, time};

use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::switch;
use crate::kubectl::manifest;
use crate::kubectl::print::out;
use crate::kubectl::print::{self, Printer};
use crate::kubectl::select::{Info, Selection};

pub static VERB: Verb = Verb {
    name: "certificate",
    usage: "SUBCOMMAND",
    about: "Modify certificate resources",
    verbs: &[
        &Verb {
            name: "approve",
            usage: "(-f FILENAME | NAME) [flags]",
            about: "Approve a certificate signing request",
            flags: &[&[switch("force", "Update the CSR even if it is already approved")], manifest::FLAGS, print::FLAGS],
            run: Some(|cx| Box::pin(decide(cx, "Approved"))),
            ..Verb::NONE
        },
        &Verb {
            name: "deny",
            usage: "(-f FILENAME | NAME) [flags]",
            about: "Deny a certificate signing request",
            flags: &[&[switch("force", "Update the CSR even if it is already denied")], manifest::FLAGS, print::FLAGS],
            run: Some(|cx| Box::pin(decide(cx, "Denied"))),
            ..Verb::NONE
        },
    ],
    ..Verb::NONE
};

/// Writes that lost against others are made anew this often.
const CONFLICTS_MAX: usize = 10;

async fn decide(cx: &Context, kind: &str) -> Result<()> {
    let flags = &cx.flags;
    if cx.words().is_empty() && !manifest::named(flags) {
        return Err("one or more CSRs must be specified as <name> or -f <filename>".into());
    }
    let words: Vec<String> =
        if cx.words().is_empty() { Vec::new() } else { std::iter::once("certificatesigningrequests".to_owned()).chain(cx.words().iter().cloned()).collect() };
    let mut printer = Printer::of(flags, if kind == "Approved" { "approved" } else { "denied" })?;
    let found = Selection::of(cx.session()?, flags).objects(&words).await?;
    let mut failures = found.failures;
    for info in found.infos {
        match one(cx, kind, &info).await {
            Ok(object) => out(&printer.print(&object)?)?,
            Err(e) => failures.push(e),
        }
    }
    Failure::all(failures)
}

async fn one(cx: &Context, kind: &str, info: &Info) -> Result<Value> {
    let session = cx.session()?;
    let mut object = info.object.clone();
    for _ in 0..CONFLICTS_MAX {
        let mut conditions = object.list_at(&["status", "conditions"]).to_vec();
        if conditions.iter().any(|c| c["type"] == kind) && !cx.flags.on("force") {
            return Ok(object);
        }
        conditions.retain(|c| c["type"] != kind);
        let word = if kind == "Approved" { "Approve" } else { "Deny" };
        conditions.push(json!({"type": kind, "status": "True", "reason": format!("Kubectl{word}"), "message": format!("This CSR was {} by kubectl certificate {}.", kind.to_lowercase(), word.to_lowercase()), "lastUpdateTime": time::format(jiff::Timestamp::now())}));
        object.set(&["status", "conditions"], conditions);
        match session.put(&format!("{}/approval", info.path()), &object).await {
            Err(Failure::Server(status)) if status.is_conflict() => object = session.get(&info.path()).await?,
            other => return other,
        }
    }
    Err(format!("{} changes too often", info.title()).into())
}
