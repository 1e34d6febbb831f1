//! kubectl's verbs: a file each, a line each here.

mod api_resources;
mod apply;
mod auth;
mod certificate;
mod change;
pub mod completion;
mod config;
mod cp;
mod create;
mod debug;
mod debug_profiles;
mod delete;
mod describe;
mod diff;
mod drain;
mod dump;
mod edit;
mod edit_fields;
mod events;
mod exec;
mod explain;
mod expose;
mod forward;
mod generate;
mod get;
mod kustomize;
mod logs;
mod options;
mod patch;
pub mod plugin;
mod pods;
mod proxy;
mod proxy_files;
mod replace;
mod rollout;
pub mod run_workload;
mod scale;
mod set;
mod top;
mod version;
mod wait;
mod writes;

use super::command::Verb;

/// Every verb, in the order that help shows them.
pub const ALL: &[&Verb] = &[
    &create::VERB,
    &expose::EXPOSE,
    &expose::RUN,
    &set::VERB,
    &explain::VERB,
    &get::VERB,
    &edit::VERB,
    &delete::VERB,
    &rollout::VERB,
    &scale::VERB,
    &expose::AUTOSCALE,
    &certificate::VERB,
    &version::CLUSTER_INFO,
    &top::VERB,
    &drain::CORDON,
    &drain::UNCORDON,
    &drain::DRAIN,
    &drain::TAINT,
    &describe::VERB,
    &logs::VERB,
    &exec::ATTACH,
    &exec::EXEC,
    &forward::VERB,
    &proxy::VERB,
    &cp::VERB,
    &auth::VERB,
    &debug::VERB,
    &events::VERB,
    &diff::VERB,
    &apply::VERB,
    &patch::VERB,
    &replace::VERB,
    &wait::VERB,
    &kustomize::VERB,
    &edit_fields::LABEL,
    &edit_fields::ANNOTATE,
    &completion::VERB,
    &api_resources::VERB,
    &version::API_VERSIONS,
    &config::VERB,
    &plugin::VERB,
    &version::VERSION,
    &version::OPTIONS,
];
