//! Container lifecycle hooks (upstream: `pkg/kubelet/lifecycle/handlers.go`).

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};

use crate::context::Context;
use crate::events::{Level, pod_reference};
use crate::pod::spec::PodExt;
use crate::probes::http::{Target, get};

/// Longer than any hook may take: upstream sets no time for them but the grace period around a preStop hook.
const NO_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

/// Runs a hook to its end.
///
/// # Errors
/// What went wrong, for the container's status. It may hold secrets, so it goes into no event.
pub async fn run(context: &Context, pod: &Pod, container: &Container, container_id: &str, pod_ip: &str, hook: &LifecycleHandler) -> Result<(), String> {
    let at = format!("for Container \"{}\" in Pod \"{}\" failed", container.name, pod.described());
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let shown = command.join(" ");
        return match context.runtime.exec_sync(container_id, &command, NO_TIMEOUT).await {
            Ok(output) if output.exit_code == 0 => Ok(()),
            Ok(output) => {
                let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
                Err(format!("Exec lifecycle hook ([{shown}]) {at} - error: command '{shown}' exited with {}: {text}, message: {text:?}", output.exit_code))
            }
            Err(error) => Err(format!("Exec lifecycle hook ([{shown}]) {at} - error: {error}, message: \"\"")),
        };
    }
    if let Some(action) = &hook.http_get {
        let path = action.path.as_deref().unwrap_or_default();
        let result = match Target::new(action, container, pod_ip, "kube-lifecycle/1.37") {
            Ok(target) => http_hook(context, pod, target).await,
            Err(error) => Err(error),
        };
        return result.map_err(|error| format!("HTTP lifecycle hook ({path}) {at} - error: {error}"));
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err("Cannot run handler: invalid handler".into())
}

/// Any answer is a good one. A plain server behind an HTTPS hook is asked again without TLS.
async fn http_hook(context: &Context, pod: &Pod, mut target: Target) -> Result<(), String> {
    if target.host.is_empty() {
        return Err("failed to find networking container".into());
    }
    match get(&target).await {
        Err(error) if target.tls && error.contains("server gave HTTP response to HTTPS client") => {
            target.tls = false;
            target.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("authorization"));
            get(&target).await?;
            let text = format!("request to HTTPS lifecycle hook {} got HTTP response, retry with HTTP succeeded", target.authority());
            context.events.record(pod_reference(pod), Level::Warning, "LifecycleHTTPFallback", &text);
            Ok(())
        }
        other => other.map(drop),
    }
}
