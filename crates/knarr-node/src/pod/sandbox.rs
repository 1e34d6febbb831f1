//! Making and unmaking a pod's sandbox: the runtime's namespaces and the network's link belong together.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::node::v1::RuntimeClass;
use knarr_runtime::cri::{Error, SandboxState, SandboxStatus};

use super::spec::PodExt;
use crate::container::config::sandbox_config;
use crate::context::Context;
use crate::network::{HostPort, PodAttachment, Protocol};

/// What the network is told of a pod.
pub fn attachment(pod: &Pod) -> PodAttachment {
    let spec = pod.spec();
    let ports = spec
        .containers
        .iter()
        .chain(super::spec::init_containers(spec).iter().filter(|c| super::spec::is_restartable_init(c)))
        .flat_map(|c| c.ports.iter().flatten());
    let host_ports = ports.filter_map(|p| {
        Some(HostPort {
            protocol: match p.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            },
            host_ip: p.host_ip.as_deref().filter(|ip| !ip.is_empty()).and_then(|ip| ip.parse().ok()),
            host_port: p.host_port.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0)?,
            container_port: u16::try_from(p.container_port).ok()?,
        })
    });
    PodAttachment {
        namespace: pod.namespace().into(),
        name: pod.name().into(),
        uid: pod.uid().into(),
        host_ports: if pod.host_network() { Vec::new() } else { host_ports.collect() },
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
    }
}

/// Handlers of RuntimeClasses that the runtime has: one, under the name that most classes have for it.
pub const HANDLERS: [&str; 2] = ["", "runc"];

/// Whether the runtime can run the pod the way it wants to be run. What it cannot do is refused and not left out (upstream:
/// `LookupRuntimeHandler`, `userns_manager.go:GetOrCreateUserNamespaceMappings`).
async fn check_handler(context: &Context, pod: &Pod) -> Result<(), String> {
    let handler = match pod.spec().runtime_class_name.as_deref().filter(|name| !name.is_empty()) {
        None => String::new(),
        Some(name) => {
            let class = context.client.all::<RuntimeClass>().get(name).await;
            class.map_err(|e| format!("failed to get RuntimeClass {name}: {e}"))?.handler
        }
    };
    can_run(pod, &handler)
}

fn can_run(pod: &Pod, handler: &str) -> Result<(), String> {
    if !HANDLERS.contains(&handler) {
        return Err(format!("failed to get sandbox runtime: no runtime for \"{handler}\" is configured"));
    }
    match (pod.spec().host_users, handler) {
        (Some(false), "") => Err("can't set `spec.hostUsers: false`, runtime does not support user namespaces".into()),
        (Some(false), handler) => Err(format!("can't set `spec.hostUsers: false`, RuntimeClass handler \"{handler}\" does not support user namespaces")),
        _ => Ok(()),
    }
}

/// Makes a sandbox with its network. A half-made one is taken back.
///
/// # Errors
/// The text of a `FailedCreatePodSandBox` event.
pub async fn create(context: &Context, pod: &Pod, attempt: u32) -> Result<SandboxStatus, String> {
    check_handler(context, pod).await?;
    let config = sandbox_config(context, pod, attempt)?;
    let mut sandbox = context.runtime.run_pod_sandbox(&config).await.map_err(|e| e.to_string())?;
    if pod.host_network() {
        return Ok(sandbox);
    }
    let linked = match context.network.attach(&sandbox, &attachment(pod)).await {
        Ok(ips) => {
            sandbox.ips = ips.iter().map(ToString::to_string).collect();
            context.runtime.set_sandbox_ips(&sandbox.id, sandbox.ips.clone()).await.map_err(|e| e.to_string())
        }
        Err(error) => Err(format!("failed to set up the network of sandbox {}: {error}", sandbox.id)),
    };
    match linked {
        Ok(()) => Ok(sandbox),
        Err(error) => {
            for failed in [stop(context, pod, &sandbox).await.err(), remove(context, &sandbox.id).await.err()].into_iter().flatten() {
                tracing::warn!(pod = pod.described(), error = failed, "cannot take a half-made sandbox back");
            }
            Err(error)
        }
    }
}

/// Ends everything in a sandbox and gives its link back. The runtime still knows it afterwards.
///
/// # Errors
/// The network's or the runtime's; it may be called again.
pub async fn stop(context: &Context, pod: &Pod, sandbox: &SandboxStatus) -> Result<(), String> {
    if sandbox.netns.is_some() {
        context.network.detach(sandbox, &attachment(pod)).await.map_err(|e| e.to_string())?;
    }
    if sandbox.state != SandboxState::Ready {
        return Ok(());
    }
    gone_is_fine(context.runtime.stop_pod_sandbox(&sandbox.id).await)
}

/// # Errors
/// The runtime's.
pub async fn remove(context: &Context, id: &str) -> Result<(), String> {
    gone_is_fine(context.runtime.remove_pod_sandbox(id).await)
}

/// # Errors
/// The runtime's.
pub async fn remove_container(context: &Context, id: &str) -> Result<(), String> {
    gone_is_fine(context.runtime.remove_container(id).await)
}

fn gone_is_fine(result: Result<(), Error>) -> Result<(), String> {
    match result {
        Ok(()) | Err(Error::NotFound(_)) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod_of;
    use knarr_core::json;

    #[test]
    fn what_the_runtime_cannot_do_is_refused() {
        let pod = |users: Option<bool>| crate::testing::pod_of(knarr_core::json!({"containers": [], "hostUsers": users}));
        assert_eq!(can_run(&pod(None), ""), Ok(()));
        assert_eq!(can_run(&pod(Some(true)), "runc"), Ok(()));
        assert!(can_run(&pod(None), "gvisor").unwrap_err().contains("no runtime for \"gvisor\" is configured"));
        assert!(can_run(&pod(Some(false)), "").unwrap_err().contains("does not support user namespaces"));
    }

    #[test]
    fn only_ports_of_the_node_are_told_to_the_network() {
        let ports = json!([{"containerPort": 80}, {"containerPort": 53, "hostPort": 5353, "protocol": "UDP", "hostIP": "127.0.0.1"}]);
        let told = attachment(&pod_of(json!({"containers": [{"name": "a", "ports": ports}]})));
        assert_eq!(told.host_ports, [HostPort { protocol: Protocol::Udp, host_ip: Some("127.0.0.1".parse().unwrap()), host_port: 5353, container_port: 53 }]);
    }
}
