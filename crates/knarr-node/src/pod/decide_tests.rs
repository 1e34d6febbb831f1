use super::*;
use crate::testing::{containers, pod_of, sandbox};
use knarr_core::json;

/// `spec`, what runs (`name:state` separated by blanks), verdicts (`liveness:name:failure`) → the plan in one line.
fn plan(spec: knarr_core::Value, seen: &str, verdicts: &str) -> String {
    let pod = pod_of(spec);
    let sandboxes = if seen == "nothing" { vec![] } else { vec![sandbox(0, seen != "dead sandbox")] };
    let seen = if seen == "nothing" || seen == "dead sandbox" { "" } else { seen };
    let observed = Observed::new(sandboxes, containers(&pod, seen));
    let mut said = Verdicts::default();
    for word in verdicts.split_whitespace() {
        let parts: Vec<&str> = word.split(':').collect();
        let kind = if parts[0] == "liveness" { ProbeKind::Liveness } else { ProbeKind::Startup };
        let verdict = if parts[2] == "failure" { Verdict::Failure } else { Verdict::Success };
        said.set(kind, &observed.find(parts[1]).unwrap().id.clone(), verdict);
    }
    let (actuated, forced) = Default::default();
    let plan = decide(&View { pod: &pod, observed: &observed, verdicts: &said, restarting_all: false, actuated: &actuated, forced: &forced });
    let mut words = Vec::new();
    match (plan.kill_pod, plan.create_sandbox) {
        (true, true) => words.push(format!("sandbox {}", plan.attempt)),
        (true, false) => words.push("end".into()),
        _ => {}
    }
    words.extend(plan.kill.iter().map(|k| format!("kill {} ({})", k.name, k.message)));
    words.extend(plan.start.iter().map(|(role, name)| format!("start {role:?} {name}")));
    words.join("; ")
}

#[test]
fn a_new_pod_gets_a_sandbox_and_all_its_containers() {
    assert_eq!(plan(json!({"containers": [{"name": "a"}, {"name": "b"}]}), "nothing", ""), "sandbox 0; start Regular a; start Regular b");
    assert_eq!(plan(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}), "nothing", ""), "sandbox 0; start Init i");
}

#[test]
fn a_running_pod_is_left_alone() {
    assert_eq!(plan(json!({"containers": [{"name": "a"}, {"name": "b"}]}), "a:running b:running", ""), "");
}

#[test]
fn ended_containers_run_again_as_their_policy_says() {
    let spec = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]});
    assert_eq!(plan(spec("Always"), "a:exited(0) b:running", ""), "start Regular a");
    assert_eq!(plan(spec("OnFailure"), "a:exited(0) b:running", ""), "");
    assert_eq!(plan(spec("OnFailure"), "a:exited(1) b:running", ""), "start Regular a");
    assert_eq!(plan(spec("Never"), "a:exited(1) b:running", ""), "");
    assert_eq!(plan(spec("Never"), "a:exited(1) b:exited(0)", ""), "end");
}

#[test]
fn a_lost_sandbox_is_made_again_unless_the_pod_is_done() {
    let spec = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a"}]});
    assert_eq!(plan(spec("Always"), "dead sandbox", ""), "sandbox 1; start Regular a");
    assert_eq!(plan(spec("Never"), "dead sandbox", ""), "sandbox 1; start Regular a", "it never ran");
}

#[test]
fn init_containers_run_one_after_the_other() {
    let spec = json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]});
    assert_eq!(plan(spec.clone(), " ", ""), "start Init i");
    assert_eq!(plan(spec.clone(), "i:running", ""), "");
    assert_eq!(plan(spec.clone(), "i:exited(0)", ""), "start Init j");
    assert_eq!(plan(spec.clone(), "i:exited(1)", ""), "start Init i");
    assert_eq!(plan(spec.clone(), "i:exited(0) j:exited(0)", ""), "start Regular a");
    assert_eq!(plan(spec.clone(), "j:exited(0)", ""), "start Regular a", "the first one was collected");
    assert_eq!(plan(spec, "i:exited(0) j:exited(0) a:running", ""), "");
    let never = json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]});
    assert_eq!(plan(never, "i:exited(1)", ""), "end");
}

#[test]
fn a_sidecar_lets_the_next_one_start_once_it_has_started_up() {
    let spec = json!({"initContainers": [{"name": "s", "restartPolicy": "Always", "startupProbe": {}}, {"name": "j"}], "containers": [{"name": "a"}]});
    assert_eq!(plan(spec.clone(), "s:running", ""), "");
    assert_eq!(plan(spec.clone(), "s:running", "startup:s:success"), "start Init j");
    assert_eq!(plan(spec.clone(), "s:running", "startup:s:failure"), "kill s (Init container s failed startup probe); start Sidecar s");
    assert_eq!(plan(spec.clone(), "s:running j:exited(0)", "startup:s:success"), "start Regular a");
    assert_eq!(plan(spec, "s:exited(0) j:exited(0) a:running", ""), "start Sidecar s");
}

#[test]
fn sidecars_do_not_keep_a_finished_pod_alive() {
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "a"}]});
    assert_eq!(plan(spec.clone(), "s:running a:exited(0)", ""), "end");
    assert_eq!(plan(spec, "s:exited(1) a:exited(0)", ""), "end");
}

#[test]
fn failed_probes_end_the_container() {
    let spec = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a", "livenessProbe": {}}, {"name": "b"}]});
    let wanted = "kill a (Container a failed liveness probe, will be restarted); start Regular a";
    assert_eq!(plan(spec("Always"), "a:running b:running", "liveness:a:failure"), wanted);
    assert_eq!(plan(spec("Never"), "a:running b:running", "liveness:a:failure"), "kill a (Container a failed liveness probe)");
}

#[test]
fn a_new_image_replaces_the_container() {
    let spec = json!({"containers": [{"name": "a", "image": "x:2"}]});
    assert_eq!(plan(spec, "a:running!stale", ""), "kill a (Container a definition changed, will be restarted); start Regular a");
}

#[test]
fn ephemeral_containers_start_once() {
    let spec = json!({"containers": [{"name": "a"}], "ephemeralContainers": [{"name": "d"}]});
    assert_eq!(plan(spec.clone(), "a:running", ""), "start Ephemeral d");
    assert_eq!(plan(spec, "a:running d:exited(1)", ""), "");
}
