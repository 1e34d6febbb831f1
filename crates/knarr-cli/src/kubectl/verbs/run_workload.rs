//! `knarr run`: what `kubectl run` did until 1.17, with the same flags. An image becomes a Deployment (`--restart=Always`), a Job
//! (`OnFailure`), a CronJob (`--schedule`) or a Pod (`Never`), and with `--expose` a Service beside it.

use futures::StreamExt;
use knarr_core::{Value, ValueExt, json};

use super::expose::{COMMON, OVERRIDES, attach, check_run, make, overridden, pod_of, run_service};
use super::generate::resource_list;
use super::pods::pods_matching;
use super::writes::DryRun;
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::Result;
use crate::kubectl::flags::{Flags, int, many, switch, switch_on, text, time};
use crate::kubectl::print::{self, Printer};
use crate::kubectl::resources::known;
use crate::kubectl::session::{Session, with_query};

const MANAGER: &str = "knarr-run";

pub static VERB: Verb = Verb {
    name: "run",
    usage: "NAME --image=image [--replicas=replicas] [--expose --port=port] [--env=\"key=value\"] [--limits=list] [--requests=list] [--labels=list] [--restart=policy] [--schedule=time] [--dry-run=server|client] [--overrides=inline-json] [--command] -- [COMMAND] [args...] [flags]",
    about: "Run an image on the cluster: a Deployment, and with --expose a Service",
    flags: &[
        &[
            text("image", "", "The image for the container to run"),
            int("replicas", "1", "Number of replicas"),
            many("annotations", "Annotations to apply to the pods"),
            text("image-pull-policy", "", "The image pull policy for the container"),
            many("env", "Environment variables to set in the container"),
            text("port", "", "The port that this container exposes"),
            int("hostport", "-1", "The node's port that leads to the container's"),
            text("labels", "", "Comma separated labels to apply to the objects; run=NAME when there are none").short('l'),
            text("limits", "", "Limits of the container, as cpu=200m,memory=512Mi"),
            text("requests", "", "What the container asks for, as cpu=100m,memory=256Mi"),
            text("serviceaccount", "", "Service account of the pods"),
            text("schedule", "", "A schedule in the form of cron: makes a CronJob"),
            switch("stdin", "Keep stdin open on the container in the pod").short('i'),
            switch("tty", "Allocate a TTY for the container in the pod").short('t'),
            switch("attach", "Wait for the pod to start running, and then attach to it"),
            switch("leave-stdin-open", "Leave stdin open after the first attach completes"),
            switch("rm", "Delete what was made after the attached container ends"),
            switch("expose", "Create a ClusterIP service for the pods"),
            switch("command", "Use the extra arguments as the command field in the container"),
            switch("privileged", "Run the container in privileged mode"),
            switch("quiet", "Suppress prompt messages").short('q'),
            text("restart", "Always", "The restart policy: Always makes a Deployment, OnFailure a Job, Never a Pod"),
            time("pod-running-timeout", "1m0s", "How long to wait until the pod is running"),
            switch_on("wait", "Accepted; with --rm the objects are gone afterwards"),
        ],
        OVERRIDES,
        COMMON,
        print::FLAGS,
    ],
    run: Some(|cx| Box::pin(run(cx))),
    ..Verb::NONE
};

/// What the policy of restarts and the schedule make of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Workload {
    Deployment,
    Job,
    CronJob,
    Pod,
}

impl Workload {
    fn of(flags: &Flags) -> Result<Self> {
        let policy = flags.text("restart");
        let workload = match (flags.some("schedule"), policy) {
            (Some(_), "Never" | "OnFailure") => Self::CronJob,
            // Nothing was said: the pods of a CronJob cannot be restarted always.
            (Some(_), _) if !flags.given("restart") => Self::CronJob,
            (Some(_), _) => return Err("--restart=Always cannot be used with --schedule".into()),
            (None, "OnFailure") => Self::Job,
            (None, "Never") => Self::Pod,
            (None, _) => Self::Deployment,
        };
        if workload != Self::Deployment && flags.int("replicas") != 1 {
            return Err(format!("--restart={policy} requires that --replicas=1, found {}", flags.int("replicas")).into());
        }
        Ok(workload)
    }

    /// Plural names of resources.
    fn resource(self) -> &'static str {
        match self {
            Self::Deployment => "deployments",
            Self::Job => "jobs",
            Self::CronJob => "cronjobs",
            Self::Pod => "pods",
        }
    }

    /// The workload of a pod.
    fn object(self, flags: &Flags, pod: Value) -> Value {
        let (name, labels) = (pod["metadata"]["name"].clone(), pod["metadata"]["labels"].clone());
        let mut template = json!({"metadata": pod["metadata"], "spec": pod["spec"]});
        template.remove(&["metadata", "name"]);
        let metadata = json!({"name": name, "labels": labels});
        match self {
            Self::Pod => pod,
            Self::Deployment => {
                // The only policy that there is, and the default of DNS.
                template.remove(&["spec", "restartPolicy"]);
                template.remove(&["spec", "dnsPolicy"]);
                json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {"replicas": flags.int("replicas"),
                    "selector": {"matchLabels": labels}, "strategy": {}, "template": template}, "status": {}})
            }
            Self::Job => json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": template}, "status": {}}),
            Self::CronJob => {
                if !flags.given("restart") {
                    template.set(&["spec", "restartPolicy"], "OnFailure");
                }
                json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata, "spec": {"schedule": flags.text("schedule"),
                    "jobTemplate": {"metadata": {}, "spec": {"template": template}}}, "status": {}})
            }
        }
    }
}

/// What only these flags say of a pod.
fn furnish(flags: &Flags, pod: &mut Value) -> Result<()> {
    for (flag, key) in [("limits", "limits"), ("requests", "requests")] {
        let list = resource_list(flags.text(flag))?;
        if !list.is_empty() {
            pod["spec"]["containers"][0]["resources"][key] = Value::Object(list);
        }
    }
    if flags.int("hostport") >= 0 {
        if flags.some("port").is_none() {
            return Err("--hostport requires --port to be specified".into());
        }
        pod["spec"]["containers"][0]["ports"][0]["hostPort"] = flags.int("hostport").into();
    }
    if let Some(account) = flags.some("serviceaccount") {
        pod["spec"]["serviceAccountName"] = account.into();
    }
    Ok(())
}

async fn run(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    let dry_run = DryRun::of(flags)?;
    let attached = if flags.given("attach") { flags.on("attach") } else { flags.on("stdin") || flags.on("tty") };
    check_run(cx, dry_run, attached)?;
    let workload = Workload::of(flags)?;
    if attached && (workload == Workload::CronJob || flags.int("replicas") != 1) {
        return Err("-i/--stdin, -t/--tty and --attach require that there is one pod: --replicas=1 and no --schedule".into());
    }
    let mut pod = pod_of(cx)?;
    furnish(flags, &mut pod)?;
    let labels = pod["metadata"]["labels"].clone();
    let mut printer = Printer::of(flags, &dry_run.note("created"))?;
    let made = make(cx, &mut printer, overridden(cx, workload.object(flags, pod))?, MANAGER).await?;
    if flags.on("expose") {
        make(cx, &mut printer, run_service(cx, labels)?, MANAGER).await?;
    }
    if !attached {
        return Ok(());
    }
    let session = cx.session()?;
    let outcome = match workload {
        Workload::Pod => attach(cx, &made).await,
        _ => attach(cx, &first_pod(cx, session, &made).await?).await,
    };
    if flags.on("rm") {
        remove(session, workload, &made, flags).await?;
    }
    outcome
}

/// The first pod of a workload, as soon as there is one.
async fn first_pod(cx: &Context, session: &Session, made: &Value) -> Result<Value> {
    let selector = super::pods::selector_of(made)?.to_string();
    let late = || "timed out waiting for the condition".into();
    let appeared = async {
        loop {
            if let Some(pod) = pods_matching(session, &session.namespace, &selector).await?.into_iter().next() {
                return Ok(pod);
            }
            let path = known("pods").path(Some(&session.namespace), None);
            let mut events = session.watch(&with_query(&path, &[("watch", "true".into()), ("labelSelector", selector.clone())]), false).await?;
            // Whatever happens, the list tells what there is now.
            events.next().await.transpose()?;
        }
    };
    super::options::within(cx.flags.limit("pod-running-timeout"), appeared, late).await
}

async fn remove(session: &Session, workload: Workload, made: &Value, flags: &Flags) -> Result<()> {
    let name = made.str_at(&["metadata", "name"]).unwrap_or_default();
    let meant = known(workload.resource());
    session.delete(&meant.path(Some(&session.namespace), Some(name)), &json!({"propagationPolicy": "Background"})).await?;
    if !flags.on("quiet") {
        println!("{} \"{name}\" deleted from {} namespace", meant.title, session.namespace);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubectl::command;

    /// The objects that a command line makes, without any server.
    fn made(line: &str) -> Result<Value> {
        let line: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let cx = command::read(&crate::kubectl::KNARR, &line).ok().flatten().ok_or("not read")?;
        let workload = Workload::of(&cx.flags)?;
        let mut pod = pod_of(&cx)?;
        furnish(&cx.flags, &mut pod)?;
        Ok(workload.object(&cx.flags, pod))
    }

    #[test]
    fn an_image_becomes_a_deployment_of_so_many_pods() {
        let line =
            "run web --image=nginx --replicas=3 --port=80 --env=A=b --requests=cpu=100m --limits=cpu=200m,memory=512Mi --serviceaccount=robot -- serve --fast";
        let wanted = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"run": "web"}}, "spec": {
            "replicas": 3, "selector": {"matchLabels": {"run": "web"}}, "strategy": {},
            "template": {"metadata": {"labels": {"run": "web"}}, "spec": {"serviceAccountName": "robot", "containers": [{"name": "web", "image": "nginx",
                "args": ["serve", "--fast"], "env": [{"name": "A", "value": "b"}], "ports": [{"containerPort": 80}],
                "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "200m", "memory": "512Mi"}}}]}}}, "status": {}});
        assert_eq!(made(line).unwrap(), wanted);
    }

    #[test]
    fn the_policy_of_restarts_and_the_schedule_choose_the_kind() {
        let kind = |line: &str| made(line).map(|o| o["kind"].as_str().unwrap().to_owned()).map_err(|e| e.to_string());
        assert_eq!(kind("run a --image=i --restart=OnFailure").unwrap(), "Job");
        assert_eq!(kind("run a --image=i --restart=Never").unwrap(), "Pod");
        let job = made("run a --image=i --labels=x=y --schedule=@hourly --command -- date").unwrap();
        assert_eq!((&job["kind"], &job["spec"]["schedule"]), (&json!("CronJob"), &json!("@hourly")));
        assert_eq!(job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["restartPolicy"], "OnFailure");
        assert_eq!(job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["command"], json!(["date"]));
        assert_eq!(kind("run a --image=i --restart=Never --replicas=2").unwrap_err(), "error: --restart=Never requires that --replicas=1, found 2");
        assert!(kind("run a --image=i --hostport=80").is_err());
    }
}
