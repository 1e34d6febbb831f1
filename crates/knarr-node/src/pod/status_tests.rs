use super::*;
use crate::pod::observed::{ProbeKind, Verdict};
use crate::testing::{containers, pod_of, sandbox, second};
use knarr_core::json;

struct Case {
    pod: Pod,
    old: PodStatus,
    observed: Observed,
    reasons: BTreeMap<String, (String, String)>,
    verdicts: Verdicts,
    terminal: bool,
    could_run: bool,
    agent_started: Timestamp,
}

fn case(spec: knarr_core::Value, seen: &str) -> Case {
    let pod = pod_of(spec);
    let observed =
        Observed::new(if seen == "nothing" { vec![] } else { vec![sandbox(0, true)] }, if seen == "nothing" { vec![] } else { containers(&pod, seen) });
    Case {
        pod,
        old: PodStatus::default(),
        observed,
        reasons: BTreeMap::new(),
        verdicts: Verdicts::default(),
        terminal: false,
        could_run: false,
        agent_started: second(0),
    }
}

impl Case {
    fn status(&self) -> PodStatus {
        generate(&Input {
            pod: &self.pod,
            old: &self.old,
            observed: &self.observed,
            reasons: &self.reasons,
            verdicts: &self.verdicts,
            terminal: self.terminal,
            could_run: self.could_run,
            prepared: true,
            failure: None,
            disruption: None,
            resize_conditions: &[],
            host_ips: &["192.0.2.1".into()],
            now: second(200),
            agent_started: self.agent_started,
        })
        .status
    }

    /// `Phase; condition=Status …; container: state …` in one line.
    fn text(&self) -> String {
        let status = self.status();
        let mut text = vec![status.phase.clone().unwrap()];
        for c in status.conditions.iter().flatten().filter(|c| c.status != "True") {
            text.push(format!("{}={} {} {}", c.type_, c.status, c.reason.as_deref().unwrap_or("-"), c.message.as_deref().unwrap_or("-")));
        }
        for s in status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten()) {
            let state = |state: &k8s_openapi::api::core::v1::ContainerState| match (&state.running, &state.waiting, &state.terminated) {
                (Some(_), ..) => "running".to_owned(),
                (_, Some(w), _) => format!("waiting({})", w.reason.as_deref().unwrap_or_default()),
                (.., Some(t)) => format!("{}({})", t.reason.as_deref().unwrap_or_default(), t.exit_code),
                _ => "-".into(),
            };
            let last = s.last_state.as_ref().filter(|l| **l != Default::default()).map(|l| format!(" last {}", state(l))).unwrap_or_default();
            let ready = if s.ready { " ready" } else { "" };
            let started = if s.started == Some(true) { " started" } else { "" };
            text.push(format!("{} {}{last}{started}{ready} x{}", s.name, state(s.state.as_ref().unwrap()), s.restart_count));
        }
        text.join("; ")
    }
}

#[test]
fn a_new_pod_is_pending_and_its_containers_are_being_created() {
    let spec = json!({"containers": [{"name": "b"}, {"name": "a"}]});
    assert_eq!(
        case(spec, "nothing").text(),
        "Pending; PodReadyToStartContainers=False PodSandboxNotReady no pod sandbox exists; \
         Ready=False ContainersNotReady containers with unready status: [b a]; \
         ContainersReady=False ContainersNotReady containers with unready status: [b a]; \
         a waiting(ContainerCreating) x0; b waiting(ContainerCreating) x0"
    );
}

#[test]
fn a_pod_with_all_containers_running_is_ready() {
    let case = case(json!({"containers": [{"name": "a"}]}), "a:running");
    assert_eq!(case.text(), "Running; a running started ready x0");
    let status = case.status();
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.1"));
    assert_eq!((status.host_ip.as_deref(), status.qos_class.as_deref()), (Some("192.0.2.1"), Some("BestEffort")));
    let of_container = &status.container_statuses.unwrap()[0];
    assert_eq!((of_container.container_id.as_deref(), of_container.image_id.as_str()), (Some("knarr://a-0"), "x@sha256:1"));
    let names: Vec<_> = status.conditions.unwrap().into_iter().map(|c| c.type_).collect();
    assert_eq!(names, ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]);
}

#[test]
fn init_containers_hold_the_pod_in_pending() {
    let spec = json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]});
    let unready =
        "Ready=False ContainersNotReady containers with unready status: [a]; ContainersReady=False ContainersNotReady containers with unready status: [a]";
    assert_eq!(
        case(spec.clone(), "i:running").text(),
        format!(
            "Pending; Initialized=False ContainersNotInitialized containers with incomplete status: [i j]; {unready}; i running started x0; j waiting(PodInitializing) x0; a waiting(PodInitializing) x0"
        )
    );
    assert_eq!(case(spec, "i:exited(0) j:exited(0) a:running").text(), "Running; i Completed(0) ready x0; j Completed(0) ready x0; a running started ready x0");
    let never = json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]});
    assert!(case(never, "i:exited(1)").text().starts_with("Failed; "));
}

#[test]
fn a_crashing_container_waits_in_back_off() {
    let mut case = case(json!({"containers": [{"name": "a"}]}), "a:exited(1) a:exited(1)");
    case.reasons.insert("a".into(), ("CrashLoopBackOff".into(), "back-off 10s".into()));
    assert!(case.text().ends_with("a waiting(CrashLoopBackOff) last Error(1) x1"), "{}", case.text());
    assert!(case.text().starts_with("Running; "));
}

#[test]
fn a_terminal_phase_is_told_only_when_nothing_runs_any_more() {
    let mut case = case(json!({"restartPolicy": "Never", "containers": [{"name": "a"}]}), "a:exited(0)");
    case.pod.status = Some(PodStatus { phase: Some("Running".into()), ..Default::default() });
    case.could_run = true;
    assert!(case.text().starts_with("Running; Ready=False PodCompleted -"), "{}", case.text());
    case.could_run = false;
    assert!(case.text().starts_with("Succeeded; Ready=False PodCompleted -"));
    case.pod.status = Some(PodStatus { phase: Some("Failed".into()), ..Default::default() });
    assert!(case.text().starts_with("Failed; "), "a terminal phase never changes");
}

#[test]
fn a_readiness_probe_holds_readiness_back_until_it_succeeds() {
    let mut case = case(json!({"containers": [{"name": "a", "readinessProbe": {}}]}), "a:running");
    case.verdicts.set(ProbeKind::Readiness, "a-0", Verdict::Failure);
    assert!(case.text().ends_with("a running started x0"));
    case.verdicts.set(ProbeKind::Readiness, "a-0", Verdict::Success);
    assert_eq!(case.text(), "Running; a running started ready x0");
}

#[test]
fn a_new_agent_believes_what_the_pod_was_until_it_knows_better() {
    let mut case = case(json!({"containers": [{"name": "a", "readinessProbe": {}}]}), "a:running");
    case.agent_started = second(150);
    assert!(case.text().ends_with("a running started x0"), "it was not ready");
    let ready = PodCondition { type_: "Ready".into(), status: "True".into(), ..Default::default() };
    case.pod.status = Some(PodStatus { conditions: Some(vec![ready]), ..Default::default() });
    assert_eq!(case.text(), "Running; a running started ready x0");
    case.verdicts.set(ProbeKind::Readiness, "a-0", Verdict::Failure);
    assert!(case.text().ends_with("a running started x0"));
}

#[test]
fn a_startup_probe_holds_started_back() {
    let mut case = case(json!({"containers": [{"name": "a", "startupProbe": {}}]}), "a:running");
    case.verdicts.set(ProbeKind::Startup, "a-0", Verdict::Unknown);
    assert!(case.text().ends_with("a running x0"));
    case.verdicts.set(ProbeKind::Startup, "a-0", Verdict::Success);
    assert!(case.text().ends_with("a running started ready x0"));
}

#[test]
fn readiness_gates_are_asked_too() {
    let mut case = case(json!({"readinessGates": [{"conditionType": "x.io/y"}], "containers": [{"name": "a"}]}), "a:running");
    assert!(case.text().contains("Ready=False ReadinessGatesNotReady corresponding condition of pod readiness gate \"x.io/y\" does not exist."));
    let gate = PodCondition { type_: "x.io/y".into(), status: "True".into(), ..Default::default() };
    case.pod.status = Some(PodStatus { conditions: Some(vec![gate]), ..Default::default() });
    assert_eq!(case.text(), "Running; a running started ready x0");
}

#[test]
fn a_transition_time_moves_only_with_its_condition() {
    let mut case = case(json!({"containers": [{"name": "a"}]}), "a:running");
    case.old = case.status();
    case.old.conditions.iter_mut().flatten().for_each(|c| c.last_transition_time = Some(time(second(5))));
    case.old.start_time = Some(time(second(3)));
    let status = case.status();
    assert!(status.conditions.iter().flatten().all(|c| c.last_transition_time == Some(time(second(5)))));
    assert_eq!(status.start_time, Some(time(second(3))));
}

#[test]
fn what_never_ran_has_failed_once_the_pod_is_terminated() {
    let case = case(json!({"containers": [{"name": "a"}]}), "nothing");
    let status = terminate(&case.pod, case.status(), second(300));
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    let terminated = status.container_statuses.unwrap()[0].state.clone().unwrap().terminated.unwrap();
    assert_eq!((terminated.exit_code, terminated.reason.as_deref()), (137, Some("ContainerStatusUnknown")));
}
