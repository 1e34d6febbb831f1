//! Containers of every kind: what they share, what only some may have, and that names and ports do not clash.

use std::collections::BTreeSet;

use knarr_core::field::ErrorList;
use knarr_core::names;

use super::{Pod, env, probes, resources, security, volumes};
use crate::at::At;
use crate::pod::resources::is_sidecar;
use crate::rules;

const RESTART_RULES_MAX: i64 = 20;
const EXIT_CODES_MAX: i64 = 255;

/// All containers of a spec.
pub fn validate(pod: &Pod, e: &mut ErrorList) {
    regular(pod, e);
    init(pod, e);
    ephemeral(pod, e);
}

fn regular(pod: &Pod, e: &mut ErrorList) {
    let containers = pod.spec.get("containers");
    if containers.is_empty() {
        e.push(containers.required(""));
        return;
    }
    let mut names = BTreeSet::new();
    for container in containers.items() {
        common(pod, &container, e);
        unique_name(&container, &mut names, e);
        probes::lifecycle(&container.get("lifecycle"), pod, e);
        probes::all(&container, pod, e);
        restart_policy(&container, e);
    }
    let mut ports = BTreeSet::new();
    containers.items().for_each(|c| host_ports(&c, &mut ports, e));
}

fn init(pod: &Pod, e: &mut ErrorList) {
    let (regular, containers) = (pod.spec.get("containers"), pod.spec.get("initContainers"));
    let mut names: BTreeSet<&str> = regular.items().map(|c| c.str_of("name")).collect();
    for (i, container) in containers.items().enumerate() {
        common(pod, &container, e);
        // Upstream does not look at the rules of an init container that has no policy.
        if container.get("restartPolicy").is_set() {
            restart_policy(&container, e);
        } else if !container.get("restartPolicyRules").is_empty() {
            e.push(container.get("restartPolicy").required(RULES_WITHOUT_POLICY));
        }
        unique_init_name(&container, &mut names, e);
        // Upstream counts the ports of each init container alone, and so always from item 0.
        host_ports(&containers.index(0).with_value(container.value()), &mut BTreeSet::new(), e);
        let sidecar = container.value().is_some_and(is_sidecar);
        if sidecar {
            probes::lifecycle(&container.get("lifecycle"), pod, e);
            probes::all(&container, pod, e);
        } else {
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                let place = container.get(field);
                if place.is_set() {
                    e.push(place.forbidden("may not be set for init containers without restartPolicy=Always"));
                }
            }
        }
        if !sidecar && !pod.options.restart_of_init_containers {
            for policy in containers.index(i).get("resizePolicy").items().filter(|p| p.str_of("restartPolicy") == "RestartContainer") {
                e.push(policy.get("restartPolicy").invalid("must not be set to 'RestartContainer' for non-sidecar initContainers"));
            }
        }
    }
}

/// What an ephemeral container may not have: it cannot be restarted, resized or reached.
const NOT_EPHEMERAL: [&str; 9] =
    ["ports", "restartPolicy", "restartPolicyRules", "resources", "resizePolicy", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"];

fn ephemeral(pod: &Pod, e: &mut ErrorList) {
    let others: BTreeSet<&str> =
        ["containers", "initContainers"].iter().flat_map(|k| pod.spec.get(k).items().map(|c| c.str_of("name")).collect::<Vec<_>>()).collect();
    let mut names = others.clone();
    for container in pod.spec.get("ephemeralContainers").items() {
        common(pod, &container, e);
        image_without_spaces(&container, e);
        unique_name(&container, &mut names, e);
        let target = container.get("targetContainerName");
        if !target.is_empty() && !others.contains(target.str()) {
            e.push(target.not_found());
        }
        for field in NOT_EPHEMERAL {
            if !container.get(field).is_empty() {
                e.push(container.get(field).forbidden("cannot be set for an Ephemeral Container"));
            }
        }
        for mount in container.get("volumeMounts").items() {
            for field in ["subPath", "subPathExpr"] {
                if !mount.get(field).is_empty() {
                    e.push(mount.get(field).forbidden("cannot be set for an Ephemeral Container"));
                }
            }
        }
    }
}

fn unique_name<'v>(container: &At<'v, '_>, names: &mut BTreeSet<&'v str>, e: &mut ErrorList) {
    if !names.insert(container.str_of("name")) {
        e.push(container.get("name").duplicate());
    }
}

/// Init containers count a missing name only when a container has it too.
fn unique_init_name<'v>(container: &At<'v, '_>, names: &mut BTreeSet<&'v str>, e: &mut ErrorList) {
    let name = container.str_of("name");
    if !name.is_empty() || names.contains(name) {
        unique_name(container, names, e);
    }
}

/// What holds for every container (upstream: `validateContainerCommon`).
fn common(pod: &Pod, container: &At, e: &mut ErrorList) {
    container.get("name").name(e, names::is_dns1123_label);
    container.get("image").require(e);
    container.get("terminationMessagePolicy").one_of(e, &["File", "FallbackToLogsOnError"]);
    ports(&container.get("ports"), e);
    env::validate(&container.get("env"), e);
    env::sources(&container.get("envFrom"), e);
    volumes::mounts(pod, container, e);
    volumes::devices(pod, container, e);
    pull_policy(&container.get("imagePullPolicy"), e);
    resources::container(pod, &container.get("resources"), e);
    resize_policy(pod, &container.get("resizePolicy"), e);
    security::container(pod, &container.get("securityContext"), e);
}

pub fn pull_policy(policy: &At, e: &mut ErrorList) {
    policy.one_of(e, &["Always", "IfNotPresent", "Never"]);
}

pub fn image_without_spaces(container: &At, e: &mut ErrorList) {
    let image = container.get("image");
    if image.str().trim() != image.str() {
        e.push(image.invalid("must not have leading or trailing whitespace"));
    }
}

fn ports(ports: &At, e: &mut ErrorList) {
    let mut names = BTreeSet::new();
    for port in ports.items() {
        let name = port.get("name");
        if !name.is_empty() {
            let problems = rules::port_name(name.str());
            if !problems.is_empty() {
                name.problems(e, problems);
            } else if !names.insert(name.str()) {
                e.push(name.duplicate());
            }
        }
        let number = port.get("containerPort");
        if number.is_empty() {
            e.push(number.required(""));
        } else {
            number.problems(e, rules::port_number(number.int()));
        }
        let host_port = port.get("hostPort");
        if !host_port.is_empty() {
            host_port.problems(e, rules::port_number(host_port.int()));
        }
        port.get("protocol").one_of(e, &["SCTP", "TCP", "UDP"]);
    }
}

/// No two containers take the same port of the host.
fn host_ports(container: &At, taken: &mut BTreeSet<String>, e: &mut ErrorList) {
    for port in container.get("ports").items() {
        let number = port.get("hostPort");
        if !number.is_empty() {
            let key = format!("{}/{}/{}", port.str_of("protocol"), port.str_of("hostIP"), number.int());
            if taken.contains(&key) {
                e.push(number.duplicate_as(key));
            } else {
                taken.insert(key);
            }
        }
    }
}

fn resize_policy(pod: &Pod, policies: &At, e: &mut ErrorList) {
    let mut names = BTreeSet::new();
    let never = pod.spec.str_of("restartPolicy") == "Never";
    for policy in policies.items() {
        let (resource, restart) = (policy.get("resourceName"), policy.get("restartPolicy"));
        if !names.insert(resource.str()) {
            e.push(policy.duplicate_as(resource.str()));
        }
        // Upstream names the list, not the item.
        policies.with_value(resource.value()).one_of(e, &["cpu", "memory"]);
        policies.with_value(restart.value()).one_of(e, &["NotRequired", "RestartContainer"]);
        if never && restart.str() != "NotRequired" {
            e.push(policies.invalid_as(restart.str(), "must be 'NotRequired' when pod `restartPolicy` is 'Never'"));
        }
    }
}

const RULES_WITHOUT_POLICY: &str = "must specify restartPolicy when restart rules are used";

/// Upstream: `validateContainerRestartPolicy`.
fn restart_policy(container: &At, e: &mut ErrorList) {
    let (policy, restart_rules) = (container.get("restartPolicy"), container.get("restartPolicyRules"));
    if !policy.is_set() && !restart_rules.is_empty() {
        e.push(policy.required(RULES_WITHOUT_POLICY));
    }
    policy.if_set_one_of(e, &["Always", "Never", "OnFailure"]);
    if restart_rules.len() as i64 > RESTART_RULES_MAX {
        e.push(restart_rules.too_many(RESTART_RULES_MAX));
    }
    for rule in restart_rules.items() {
        let action = rule.get("action");
        if !["Restart", "RestartAllContainers"].contains(&action.str()) {
            e.push(action.not_supported(&["Restart", "RestartAllContainers"]));
        }
        let codes = rule.get("exitCodes");
        if !codes.is_set() {
            e.push(codes.required("must be specified"));
            continue;
        }
        let operator = codes.get("operator");
        if !["In", "NotIn"].contains(&operator.str()) {
            e.push(operator.not_supported(&["In", "NotIn"]));
        }
        if codes.get("values").len() as i64 > EXIT_CODES_MAX {
            e.push(codes.get("values").too_many(EXIT_CODES_MAX));
        }
    }
}
