//! `kubectl create`: from files, and the generators under it.

use knarr_core::{Value, ValueExt, json};

use super::generate as make;
use super::options::{DRY_RUN, FIELD_MANAGER, SAVE_CONFIG, SELECTOR, VALIDATE};
use super::writes::{DryRun, create, save_config, write_query};
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::{Flag, Flags, int, list, many, switch, text, time};
use crate::kubectl::manifest;
use crate::kubectl::print::out;
use crate::kubectl::print::{self, Printer};
use crate::kubectl::resources::known;
use crate::kubectl::resources::{builtin_kind, find};
use crate::kubectl::select::{Info, Selection, place};
use crate::kubectl::session::{Session, namespace};

const COMMON: &[Flag] = &[DRY_RUN, FIELD_MANAGER, SAVE_CONFIG, VALIDATE];
const FROM_FILES: &[Flag] = &[
    SELECTOR,
    switch("edit", "Edit the object before it is made"),
    switch("windows-line-endings", "Accepted; line ends are the platform's"),
    text("raw", "", "Raw URI to POST to the server"),
];
const DATA: &[Flag] = &[
    list("from-file", "Key file, as path or KEY=path"),
    many("from-literal", "A key and its value, as KEY=value"),
    list("from-env-file", "A file with lines of KEY=value"),
    switch("append-hash", "Append a hash of the object to its name"),
];

pub static VERB: Verb = Verb {
    name: "create",
    usage: "-f FILENAME [flags]",
    about: "Create a resource from a file or from stdin",
    flags: &[FROM_FILES, COMMON, manifest::FLAGS, print::FLAGS],
    verbs: &[
        &Verb {
            name: "clusterrole",
            usage: "NAME --verb=verb --resource=resource.group [flags]",
            about: "Create a cluster role",
            flags: &[ROLE, CLUSTER_ROLE, COMMON, print::FLAGS],
            run: Some(|cx| Box::pin(role(cx, true))),
            ..Verb::NONE
        },
        &Verb {
            name: "clusterrolebinding",
            usage: "NAME --clusterrole=NAME [--user=username] [--group=groupname] [--serviceaccount=namespace:serviceaccountname] [flags]",
            about: "Create a cluster role binding for a particular cluster role",
            flags: &[BINDING, COMMON, print::FLAGS],
            run: Some(|cx| Box::pin(generated(cx, "", |f, n, _| make::binding(f, n, true)))),
            ..Verb::NONE
        },
        &Verb {
            name: "configmap",
            aliases: &["cm"],
            usage: "NAME [--from-file=[key=]source] [--from-literal=key1=value1] [flags]",
            about: "Create a config map from a local file, directory or literal value",
            flags: &[DATA, COMMON, print::FLAGS],
            run: Some(|cx| Box::pin(generated(cx, "configmap", |f, n, _| make::config_map(f, n)))),
            ..Verb::NONE
        },
        &Verb {
            name: "cronjob",
            aliases: &["cj"],
            usage: "NAME --image=image --schedule='0/5 * * * ?' -- [COMMAND] [args...] [flags]",
            about: "Create a cron job with the specified name",
            flags: &[
                &[
                    text("image", "", "Image name to run"),
                    text("schedule", "", "A schedule in the Cron format the job should be run with"),
                    text("restart", "", "The job's restart policy. Supported values: OnFailure, Never"),
                ],
                COMMON,
                print::FLAGS,
            ],
            run: Some(|cx| Box::pin(cron_job(cx))),
            ..Verb::NONE
        },
        &Verb {
            name: "deployment",
            aliases: &["deploy"],
            usage: "NAME --image=image -- [COMMAND] [args...] [flags]",
            about: "Create a deployment with the specified name",
            flags: &[
                &[
                    list("image", "Image names to run"),
                    int("port", "-1", "The containerPort that this deployment exposes"),
                    int("replicas", "1", "Number of replicas to create").short('r'),
                ],
                COMMON,
                print::FLAGS,
            ],
            run: Some(|cx| Box::pin(deployment(cx))),
            ..Verb::NONE
        },
        &Verb {
            name: "ingress",
            aliases: &["ing"],
            usage: "NAME --rule=host/path=service:port[,tls[=secret]] [flags]",
            about: "Create an ingress with the specified name",
            flags: &[
                &[
                    text("class", "", "Ingress class to be used"),
                    many("rule", "Rule in format host/path=service:port[,tls=secretname]"),
                    text("default-backend", "", "Default service for backend, in format of svcname:port"),
                    many("annotation", "Annotation to insert in the ingress object, in the format annotation=value"),
                ],
                COMMON,
                print::FLAGS,
            ],
            run: Some(|cx| Box::pin(generated(cx, "ingress", |f, n, _| make::ingress(f, n)))),
            ..Verb::NONE
        },
        &Verb {
            name: "job",
            usage: "NAME --image=image [--from=cronjob/name] -- [COMMAND] [args...] [flags]",
            about: "Create a job with the specified name",
            flags: &[
                &[text("image", "", "Image name to run"), text("from", "", "The name of the resource to create a Job from (only cronjob is supported)")],
                COMMON,
                print::FLAGS,
            ],
            run: Some(|cx| Box::pin(job(cx))),
            ..Verb::NONE
        },
        &Verb {
            name: "namespace",
            aliases: &["ns"],
            usage: "NAME [flags]",
            about: "Create a namespace with the specified name",
            flags: &[COMMON, print::FLAGS],
            run: Some(|cx| Box::pin(generated(cx, "", |_, n, _| Ok(make::namespace(n))))),
            ..Verb::NONE
        },
        &Verb {
            name: "poddisruptionbudget",
            aliases: &["pdb"],
            usage: "NAME --selector=SELECTOR --min-available=N [flags]",
            about: "Create a pod disruption budget with the specified name",
            flags: &[
                &[
                    text("min-available", "", "The minimum number or percentage of available pods this budget requires"),
                    text("max-unavailable", "", "The maximum number or percentage of unavailable pods this budget requires"),
                    text("selector", "", "A label selector to use for this budget"),
                ],
                COMMON,
                print::FLAGS,
            ],
            run: Some(|cx| Box::pin(generated(cx, "poddisruptionbudgets", |f, n, _| make::disruption_budget(f, n)))),
            ..Verb::NONE
        },
        &Verb {
            name: "priorityclass",
            aliases: &["pc"],
            usage: "NAME --value=VALUE --global-default=BOOL [flags]",
            about: "Create a priority class with the specified name",
            flags: &[
                &[
                    int("value", "0", "The value of this priority class"),
                    switch("global-default", "Make this PriorityClass the default priority"),
                    text("description", "", "Text that usually provides guidelines on when this priority class should be used"),
                    text("preemption-policy", "PreemptLowerPriority", "The policy for preempting pods with lower priority"),
                ],
                COMMON,
                print::FLAGS,
            ],
            run: Some(|cx| Box::pin(generated(cx, "priorityclass", |f, n, _| Ok(make::priority_class(f, n))))),
            ..Verb::NONE
        },
        &Verb {
            name: "quota",
            aliases: &["resourcequota"],
            usage: "NAME [--hard=key1=value1,key2=value2] [--scopes=Scope1,Scope2] [flags]",
            about: "Create a quota with the specified name",
            flags: &[
                &[
                    text("hard", "", "A comma-delimited set of resource=quantity pairs that define a hard limit"),
                    text("scopes", "", "A comma-delimited set of quota scopes"),
                ],
                COMMON,
                print::FLAGS,
            ],
            run: Some(|cx| Box::pin(generated(cx, "quota", |f, n, _| make::quota(f, n)))),
            ..Verb::NONE
        },
        &Verb {
            name: "role",
            usage: "NAME --verb=verb --resource=resource.group/subresource [--resource-name=resourcename] [flags]",
            about: "Create a role with single rule",
            flags: &[ROLE, COMMON, print::FLAGS],
            run: Some(|cx| Box::pin(role(cx, false))),
            ..Verb::NONE
        },
        &Verb {
            name: "rolebinding",
            usage: "NAME --clusterrole=NAME|--role=NAME [--user=username] [--group=groupname] [--serviceaccount=namespace:serviceaccountname] [flags]",
            about: "Create a role binding for a particular role or cluster role",
            flags: &[&[text("role", "", "Role this RoleBinding should reference")], BINDING, COMMON, print::FLAGS],
            run: Some(|cx| Box::pin(generated(cx, "rolebinding", |f, n, _| make::binding(f, n, false)))),
            ..Verb::NONE
        },
        &Verb { name: "secret", usage: "[flags]", about: "Create a secret using a specified subcommand", verbs: SECRETS, ..Verb::NONE },
        &Verb { name: "service", aliases: &["svc"], usage: "[flags]", about: "Create a service using a specified subcommand", verbs: SERVICES, ..Verb::NONE },
        &Verb {
            name: "serviceaccount",
            aliases: &["sa"],
            usage: "NAME [flags]",
            about: "Create a service account with the specified name",
            flags: &[COMMON, print::FLAGS],
            run: Some(|cx| Box::pin(generated(cx, "serviceaccount", |_, n, _| Ok(make::service_account(n))))),
            ..Verb::NONE
        },
        &Verb {
            name: "token",
            usage: "SERVICE_ACCOUNT_NAME [flags]",
            about: "Request a service account token",
            flags: &[
                &[
                    list("audience", "Audience of the requested token"),
                    time("duration", "0s", "Requested lifetime of the issued token"),
                    text("bound-object-kind", "", "Kind of an object to bind the token to"),
                    text("bound-object-name", "", "Name of an object to bind the token to"),
                    text("bound-object-uid", "", "UID of an object to bind the token to"),
                ],
                print::FLAGS,
            ],
            run: Some(|cx| Box::pin(token(cx))),
            ..Verb::NONE
        },
    ],
    run: Some(|cx| Box::pin(run(cx))),
    ..Verb::NONE
};

const ROLE: &[Flag] = &[
    list("verb", "Verb that applies to the resources contained in the rule"),
    list("resource", "Resource that the rule applies to"),
    many("resource-name", "Resource in the white list that the rule applies to"),
];
const CLUSTER_ROLE: &[Flag] = &[
    list("non-resource-url", "A partial url that user should have access to"),
    many("aggregation-rule", "An aggregation label selector for combining ClusterRoles"),
];
const BINDING: &[Flag] = &[
    text("clusterrole", "", "ClusterRole this binding should reference"),
    many("user", "Usernames to bind to the role"),
    many("group", "Groups to bind to the role"),
    many("serviceaccount", "Service accounts to bind to the role, in the format <namespace>:<name>"),
];
const SECRETS: &[&Verb] = &[
    &Verb {
        name: "docker-registry",
        usage: "NAME --docker-username=user --docker-password=password --docker-email=email [flags]",
        about: "Create a secret for use with a Docker registry",
        flags: &[
            &[
                text("docker-username", "", "Username for Docker registry authentication"),
                text("docker-password", "", "Password for Docker registry authentication"),
                text("docker-email", "", "Email for Docker registry"),
                text("docker-server", "https://index.docker.io/v1/", "Server location for Docker registry"),
                list("from-file", "Key file, as path or KEY=path"),
                switch("append-hash", "Append a hash of the secret to its name"),
            ],
            COMMON,
            print::FLAGS,
        ],
        run: Some(|cx| Box::pin(generated(cx, "secret", |f, n, _| make::secret_docker(f, n)))),
        ..Verb::NONE
    },
    &Verb {
        name: "generic",
        usage: "NAME [--type=string] [--from-file=[key=]source] [--from-literal=key1=value1] [flags]",
        about: "Create a secret from a local file, directory, or literal value",
        flags: &[&[text("type", "", "The type of secret to create")], DATA, COMMON, print::FLAGS],
        run: Some(|cx| Box::pin(generated(cx, "secret", |f, n, _| make::secret(f, n)))),
        ..Verb::NONE
    },
    &Verb {
        name: "tls",
        usage: "NAME --cert=path/to/cert/file --key=path/to/key/file [flags]",
        about: "Create a TLS secret",
        flags: &[
            &[
                text("cert", "", "Path to PEM encoded public key certificate"),
                text("key", "", "Path to private key associated with given certificate"),
                switch("append-hash", "Append a hash of the secret to its name"),
            ],
            COMMON,
            print::FLAGS,
        ],
        run: Some(|cx| Box::pin(generated(cx, "secret", |f, n, _| make::secret_tls(f, n)))),
        ..Verb::NONE
    },
];
const TCP: Flag = list("tcp", "Port pairs can be specified as '<port>:<targetPort>'");
const SERVICES: &[&Verb] = &[
    &Verb {
        name: "clusterip",
        usage: "NAME [--tcp=<port>:<targetPort>] [flags]",
        about: "Create a ClusterIP service",
        flags: &[&[TCP, text("clusterip", "", "Assign your own ClusterIP or set to 'None' for a 'headless' service")], COMMON, print::FLAGS],
        run: Some(|cx| Box::pin(generated(cx, "ClusterIP service", |f, n, _| make::service(f, n, "ClusterIP")))),
        ..Verb::NONE
    },
    &Verb {
        name: "externalname",
        usage: "NAME --external-name external.name [flags]",
        about: "Create an ExternalName service",
        flags: &[&[TCP, text("external-name", "", "External name of service")], COMMON, print::FLAGS],
        run: Some(|cx| Box::pin(generated(cx, "ExternalName service", |f, n, _| make::service(f, n, "ExternalName")))),
        ..Verb::NONE
    },
    &Verb {
        name: "loadbalancer",
        usage: "NAME [--tcp=port:targetPort] [flags]",
        about: "Create a LoadBalancer service",
        flags: &[&[TCP], COMMON, print::FLAGS],
        run: Some(|cx| Box::pin(generated(cx, "LoadBalancer service", |f, n, _| make::service(f, n, "LoadBalancer")))),
        ..Verb::NONE
    },
    &Verb {
        name: "nodeport",
        usage: "NAME [--tcp=port:targetPort] [flags]",
        about: "Create a NodePort service",
        flags: &[&[TCP, int("node-port", "0", "Port used to expose the service on each node in a cluster")], COMMON, print::FLAGS],
        run: Some(|cx| Box::pin(generated(cx, "NodePort service", |f, n, _| make::service(f, n, "NodePort")))),
        ..Verb::NONE
    },
];

async fn run(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    let dry_run = DryRun::of(flags)?;
    if !cx.words().is_empty() {
        return Err(cx.usage(format!("Unexpected args: [{}]", cx.words().join(" "))));
    }
    if !manifest::named(flags) {
        eprintln!("error: must specify one of -f and -k\n");
        eprint!("{}", cx.verb.help(&cx.path));
        return Err(Failure::Exit(1));
    }
    let session = cx.session()?;
    let (objects, mut failures) = manifest::read(flags).await;
    if let Some(raw) = flags.some("raw") {
        Failure::all(failures)?;
        for read in objects {
            println!("{}", session.post(raw, &read.object).await?);
        }
        return Ok(());
    }
    if objects.is_empty() && failures.is_empty() {
        return Err("no objects passed to create".into());
    }
    let selector = flags.some("selector").map(knarr_core::selector::LabelSelector::parse).transpose()?;
    let mut printer = Printer::of(flags, &dry_run.note("created"))?;
    for read in objects {
        let outcome = async {
            let mut info = place(session, read).await?;
            if selector.as_ref().is_some_and(|s| !s.matches(info.object.at(&["metadata", "labels"]))) {
                return Ok(());
            }
            if flags.on("edit") {
                info.object = super::edit::by_hand(&info.object)?;
            }
            save_config(flags, &mut info.object);
            if dry_run == DryRun::Client {
                return out(&printer.print(&info.object)?);
            }
            let made = create(session, &info, &write_query(flags, "kubectl-create", dry_run)?).await.map_err(|e| e.when("creating", &info.source))?;
            out(&printer.print(&made)?)
        };
        failures.extend(outcome.await.err());
    }
    Failure::all(failures)
}

/// The one word that is the name; what follows `--` is a command.
fn name_of(cx: &Context) -> Result<(String, Vec<String>)> {
    let words = cx.words();
    let before = cx.flags.dash.unwrap_or(words.len());
    match words {
        [name, command @ ..] if before == 1 => Ok((name.clone(), command.to_vec())),
        _ => Err(cx.usage(format!("exactly one NAME is required, got {}", words.len().min(before)))),
    }
}

fn only_name(cx: &Context) -> Result<String> {
    match cx.words() {
        [name] => Ok(name.clone()),
        words => Err(cx.usage(format!("exactly one NAME is required, got {}", words.len()))),
    }
}

/// Flags without which cobra would not even begin.
fn required(cx: &Context, names: &[&str]) -> Result<()> {
    let missing: Vec<String> = names.iter().filter(|n| !cx.flags.given(n)).map(|n| format!("\"{n}\"")).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("required flag(s) {} not set", missing.join(", ")).into()) }
}

async fn generated(cx: &Context, what: &str, generate: impl Fn(&Flags, &str, &[String]) -> Result<Value>) -> Result<()> {
    if cx.verb.name == "externalname" {
        required(cx, &["external-name"])?;
    }
    if cx.verb.name == "clusterrolebinding" {
        required(cx, &["clusterrole"])?;
    }
    let name = only_name(cx)?;
    make_it(cx, what, generate(&cx.flags, &name, &[])?).await
}

/// Sends a generated object, or only shows it.
pub async fn make_it(cx: &Context, what: &str, mut object: Value) -> Result<()> {
    let flags = &cx.flags;
    let dry_run = DryRun::of(flags)?;
    let mut printer = Printer::of(flags, &dry_run.note("created"))?;
    let text = |key: &str| object.str_at(&[key]).unwrap_or_default().to_owned();
    let (group, version) = text("apiVersion").rsplit_once('/').map_or((String::new(), text("apiVersion")), |(g, v)| (g.to_owned(), v.to_owned()));
    let meant = builtin_kind(&group, &version, &text("kind")).unwrap_or_else(|| known("pods"));
    if meant.namespaced && flags.given("namespace") {
        object.set(&["metadata", "namespace"], namespace(flags)?);
    }
    save_config(flags, &mut object);
    if dry_run == DryRun::Client {
        return out(&printer.print(&object)?);
    }
    let session = cx.session()?;
    let info = Info { meant, namespace: session.namespace.clone(), name: String::new(), object: make::to_send(&object), source: String::new() };
    let made = create(session, &info, &write_query(flags, "kubectl-create", dry_run)?).await.map_err(|e| failed(what, e))?;
    out(&printer.print(&made)?)
}

/// `failed to create deployment: …`, as the generators put it.
fn failed(what: &str, failure: Failure) -> Failure {
    match failure {
        Failure::Server(status) if !what.is_empty() && what != "rolebinding" && what != "role" && what != "clusterrole" => {
            let glue = if what == "secret" || what == "service account" { " " } else { ": " };
            Failure::Other(format!("failed to create {what}{glue}{}", status.message))
        }
        other => other,
    }
}

async fn deployment(cx: &Context) -> Result<()> {
    required(cx, &["image"])?;
    let (name, command) = name_of(cx)?;
    make_it(cx, "deployment", make::deployment(&cx.flags, &name, &command)?).await
}

async fn cron_job(cx: &Context) -> Result<()> {
    required(cx, &["image", "schedule"])?;
    let (name, command) = name_of(cx)?;
    make_it(cx, "cronjob", make::cron_job(&cx.flags, &name, &command)).await
}

async fn job(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    let (name, command) = name_of(cx)?;
    if flags.text("image").is_empty() == flags.text("from").is_empty() {
        return Err("either --image or --from must be specified".into());
    }
    if flags.given("from") && !command.is_empty() {
        return Err("cannot specify --from and command".into());
    }
    let object = match flags.some("from") {
        None => make::job(flags, &name, &command),
        Some(from) => {
            let infos = Selection::of(cx.session()?, flags).objects(&[from.to_owned()]).await?.all()?;
            match infos.as_slice() {
                [cron] if cron.meant.kind == "CronJob" => make::job_from(&name, &cron.object),
                [other] => return Err(format!("unknown object type *v1.{}", other.meant.kind).into()),
                _ => return Err("from must be an existing cronjob".into()),
            }
        }
    };
    make_it(cx, "job", object).await
}

/// Verbs that a rule may name without a warning.
const VERBS: &[&str] =
    &["*", "get", "delete", "list", "create", "update", "patch", "watch", "proxy", "deletecollection", "use", "bind", "escalate", "impersonate"];

/// Verbs that only some resources have.
const SPECIAL: &[(&str, &[(&str, &str)])] = &[
    ("use", &[("extensions", "podsecuritypolicies"), ("policy", "podsecuritypolicies")]),
    ("bind", &[("rbac.authorization.k8s.io", "roles"), ("rbac.authorization.k8s.io", "clusterroles")]),
    ("escalate", &[("rbac.authorization.k8s.io", "roles"), ("rbac.authorization.k8s.io", "clusterroles")]),
    ("impersonate", &[("", "users"), ("", "serviceaccounts"), ("", "groups"), ("authentication.k8s.io", "userextras")]),
];

async fn role(cx: &Context, cluster: bool) -> Result<()> {
    let flags = &cx.flags;
    let name = only_name(cx)?;
    let mut verbs: Vec<String> = Vec::new();
    for verb in flags.all("verb") {
        if verb == "*" {
            verbs = vec![verb];
            break;
        }
        if !verbs.contains(&verb) {
            verbs.push(verb);
        }
    }
    let urls = if cluster { flags.all("non-resource-url") } else { Vec::new() };
    let aggregation = if cluster { flags.all("aggregation-rule") } else { Vec::new() };
    if !aggregation.is_empty() {
        if !verbs.is_empty() || flags.given("resource") || !urls.is_empty() {
            return Err("aggregation rule must be specified without other rules".into());
        }
        let mut selector = json!({});
        for pair in aggregation.iter().flat_map(|a| a.split(',')) {
            let (key, value) = pair.split_once('=').ok_or_else(|| format!("{pair} must be formatted as key=value"))?;
            selector.set(&["matchLabels", key], value);
        }
        let object = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "aggregationRule": {"clusterRoleSelectors": [selector]}, "rules": null});
        return make_it(cx, "clusterrole", object).await;
    }
    if verbs.is_empty() {
        return Err("at least one verb must be specified".into());
    }
    let rules = rules(cx, &verbs, &urls).await?;
    let kind = if cluster { "ClusterRole" } else { "Role" };
    make_it(cx, "role", json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "rules": rules})).await
}

async fn rules(cx: &Context, verbs: &[String], urls: &[String]) -> Result<Vec<Value>> {
    let flags = &cx.flags;
    let session = cx.session()?;
    let resources = flags.all("resource");
    if resources.is_empty() && urls.is_empty() {
        return Err(if cx.verb.name == "clusterrole" {
            "one of resource or nonResourceURL must be specified"
        } else {
            "at least one resource must be specified"
        }
        .into());
    }
    if urls.is_empty() {
        for verb in verbs.iter().filter(|v| !VERBS.contains(&v.as_str())) {
            eprintln!("Warning: '{verb}' is not a standard resource verb");
        }
    }
    let mut names: Vec<String> = Vec::new();
    flags.all("resource-name").into_iter().for_each(|n| {
        if !names.contains(&n) {
            names.push(n)
        }
    });
    let mut groups: std::collections::BTreeMap<String, Vec<String>> = std::collections::BTreeMap::new();
    for text in &resources {
        let (main, sub) = text.split_once('/').map_or((text.as_str(), None), |(m, s)| (m, Some(s)));
        let (plain, group) = main.split_once('.').map_or((main, ""), |(r, g)| (r, g));
        if plain.is_empty() {
            return Err("resource must be specified if apiGroup/subresource specified".into());
        }
        let (resource, group) = resolve_resource(session, plain, group, verbs).await?;
        let entry = groups.entry(group).or_default();
        let full = sub.map_or(resource.clone(), |s| format!("{resource}/{s}"));
        if !entry.contains(&full) {
            entry.push(full);
        }
    }
    let mut rules: Vec<Value> = groups
        .into_iter()
        .map(|(group, resources)| {
            let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources});
            if !names.is_empty() {
                rule["resourceNames"] = json!(names);
            }
            rule
        })
        .collect();
    if !urls.is_empty() {
        rules.push(json!({"verbs": verbs, "nonResourceURLs": urls}));
    }
    Ok(rules)
}

async fn resolve_resource(session: &Session, plain: &str, group: &str, verbs: &[String]) -> Result<(String, String)> {
    if plain == "*" {
        return Ok((plain.to_owned(), group.to_owned()));
    }
    let asked = if group.is_empty() { plain.to_owned() } else { format!("{plain}.{group}") };
    let found = find(session, &asked).await;
    let (resource, of_group) = match &found {
        Ok(meant) => (meant.resource.resource.clone(), meant.resource.group.clone()),
        Err(_) => (plain.to_owned(), group.to_owned()),
    };
    if let Some((verb, allowed)) = SPECIAL.iter().find(|(v, _)| verbs.iter().any(|w| w == v)) {
        if !allowed.iter().any(|(g, r)| *g == of_group && *r == resource) {
            return Err(format!("can not perform '{verb}' on '{resource}' in group '{of_group}'").into());
        }
        return Ok((resource, of_group));
    }
    found.map_err(|e| Failure::Plain(e.message()))?;
    Ok((resource, of_group))
}

async fn token(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    let name = only_name(cx)?;
    let session = cx.session()?;
    let mut spec = json!({});
    if flags.given("audience") {
        spec["audiences"] = json!(flags.all("audience"));
    }
    let seconds = flags.seconds("duration");
    if flags.given("duration") {
        if seconds <= 0.0 {
            return Err("duration must be positive".into());
        }
        if seconds.fract() != 0.0 {
            return Err("duration cannot be expressed in units less than seconds".into());
        }
        spec["expirationSeconds"] = (seconds as i64).into();
    }
    match (flags.some("bound-object-kind"), flags.some("bound-object-name")) {
        (None, None) if flags.given("bound-object-uid") => return Err("--bound-object-uid can only be set if --bound-object-kind is provided".into()),
        (None, None) => {}
        (None, Some(_)) => return Err("--bound-object-name can only be set if --bound-object-kind is provided".into()),
        (Some(_), None) => return Err("--bound-object-name is required if --bound-object-kind is provided".into()),
        (Some(kind), Some(object)) => {
            if !["Node", "Pod", "Secret"].contains(&kind) {
                return Err("supported --bound-object-kind values are Node, Pod, Secret".into());
            }
            spec["boundObjectRef"] = json!({"kind": kind, "apiVersion": "v1", "name": object});
            if let Some(uid) = flags.some("bound-object-uid") {
                spec["boundObjectRef"]["uid"] = uid.into();
            }
        }
    }
    let path = format!("{}/token", known("serviceaccounts").path(Some(&session.namespace), Some(&name)));
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let answer = session.post(&path, &request).await.map_err(|e| match e {
        Failure::Server(s) => Failure::Other(format!("failed to create token: {}", s.message)),
        other => other,
    })?;
    let token = answer.str_at(&["status", "token"]).unwrap_or_default();
    if token.is_empty() {
        return Err("failed to create token: no token in server response".into());
    }
    if flags.given("output") {
        return out(&Printer::of(flags, "")?.print(&answer)?);
    }
    println!("{token}");
    Ok(())
}
