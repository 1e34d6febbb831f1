//! Images for containers: looked up, pulled as the policy says, with the credentials that the pod and the node have, and
//! with growing pauses after failures (upstream: `pkg/kubelet/images`, `pkg/credentialprovider`).

pub mod collect;
mod credentials;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};
use knarr_runtime::cri::{Error, Image};
use parking_lot::Mutex;

pub use credentials::Keyring;

use crate::backoff::{Backoff, go_duration};
use crate::container::security::ImageUser;
use crate::context::Context;
use crate::events::{Level, container_reference, pod_reference};
use crate::objects::Kind;
use crate::pod::spec::PodExt;

/// An image that a container can be made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    pub id: String,
    /// As the runtime names it: a tag.
    pub name: String,
    /// Repository digest, or the id.
    pub reference: String,
    pub user: ImageUser,
}

impl Ready {
    fn new(image: Image, asked: &str) -> Self {
        Self {
            name: image.repo_tags.first().cloned().unwrap_or_else(|| asked.to_owned()),
            reference: image.repo_digests.first().cloned().unwrap_or_else(|| image.id.clone()),
            user: ImageUser { uid: image.uid, name: image.username },
            id: image.id,
        }
    }
}

/// Why there is no image now: reason and message of the waiting container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    pub reason: &'static str,
    pub message: String,
    /// When it makes sense to try again; absent: at once (the pause is told then).
    pub retry_at: Option<Timestamp>,
}

#[derive(Clone)]
struct Failed {
    backoff: Backoff,
    message: String,
}

/// What the node remembers of pulls, by pod uid and image.
#[derive(Default)]
pub struct Images {
    failed: Mutex<BTreeMap<(String, String), Failed>>,
    /// When each image was seen first and used last.
    known: Mutex<BTreeMap<String, (Timestamp, Timestamp)>>,
    /// Image id to the credentials that pulled it; no entry: everybody may use it.
    restricted: Mutex<BTreeMap<String, Vec<String>>>,
}

impl Images {
    /// Forgets the failures of a pod that is gone.
    pub fn forget(&self, pod_uid: &str) {
        self.failed.lock().retain(|(uid, _), _| uid != pod_uid);
    }
}

/// The image of a container, pulled if its policy says so.
///
/// # Errors
/// Why the container has to wait.
pub async fn ensure(context: &Context, pod: &Pod, container: &Container) -> Result<Ready, Missing> {
    let image = container.image.as_deref().unwrap_or_default();
    let policy = container.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
    let event = |level, reason: &str, message: &str| context.events.record(container_reference(pod, &container.name), level, reason, message);
    if !is_reference(image) {
        let message = format!("Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid reference format");
        event(Level::Warning, "InspectFailed", &message);
        return Err(Missing { reason: "InvalidImageName", message, retry_at: None });
    }
    if policy != "Always" {
        match context.runtime.image_status(image).await {
            Ok(Some(found)) => {
                if may_use(context, pod, image, &found.id).await {
                    let message = format!("Container image \"{image}\" already present on machine and can be accessed by the pod");
                    event(Level::Normal, "Pulled", &message);
                    return Ok(Ready::new(found, image));
                }
            }
            Ok(None) => {}
            Err(error) => {
                let message = format!("Failed to inspect image \"{image}\": {error}");
                event(Level::Warning, "InspectFailed", &message);
                return Err(Missing { reason: "ImageInspectError", message, retry_at: None });
            }
        }
        if policy == "Never" {
            let message = format!("Container image \"{image}\" is not present with pull policy of Never");
            event(Level::Warning, "ErrImageNeverPull", &message);
            return Err(Missing { reason: "ErrImageNeverPull", message, retry_at: None });
        }
    }
    pull(context, pod, image, &event).await
}

async fn pull(context: &Context, pod: &Pod, image: &str, event: &(impl Fn(Level, &str, &str) + Sync)) -> Result<Ready, Missing> {
    let key = (pod.uid().to_owned(), image.to_owned());
    let now = context.env.now();
    let failed = context.images.failed.lock().get(&key).cloned();
    if let Some((failed, until)) = failed.as_ref().and_then(|f| Some((f, f.backoff.until(now)?))) {
        let message = format!("Back-off pulling image \"{image}\"");
        event(Level::Normal, "BackOff", &message);
        return Err(Missing { reason: "ImagePullBackOff", message: format!("{message}: {}", failed.message), retry_at: Some(until) });
    }
    event(Level::Normal, "Pulling", &format!("Pulling image \"{image}\""));
    let (keyring, missing_secrets) = keyring_of(context, pod).await;
    match pull_with(context, image, &keyring).await {
        Ok((id, used)) => {
            context.images.failed.lock().remove(&key);
            remember(context, &id, used);
            let found = context.runtime.image_status(&id).await.ok().flatten();
            let found = found.unwrap_or_else(|| Image {
                id: id.clone(),
                repo_tags: vec![],
                repo_digests: vec![],
                size: 0,
                uid: None,
                username: String::new(),
                pinned: false,
            });
            let took = go_duration(SignedDuration::from_millis(i64::try_from(context.env.now().duration_since(now).as_millis()).unwrap_or_default()));
            event(
                Level::Normal,
                "Pulled",
                &format!("Successfully pulled image \"{image}\" in {took} ({took} including waiting). Image size: {} bytes.", found.size),
            );
            Ok(Ready::new(found, image))
        }
        Err(error) => {
            event(Level::Warning, "Failed", &format!("Failed to pull image \"{image}\": {error}"));
            if !missing_secrets.is_empty() {
                let text =
                    format!("Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.", missing_secrets.join(", "));
                context.events.record(pod_reference(pod), Level::Warning, "FailedToRetrieveImagePullSecret", &text);
            }
            let now = context.env.now();
            let backoff = Backoff::next(failed.map(|f| f.backoff), now, now);
            context.images.failed.lock().insert(key, Failed { backoff, message: format!("ErrImagePull: {error}") });
            Err(Missing { reason: "ErrImagePull", message: error, retry_at: None })
        }
    }
}

/// Tries the fitting credentials one after the other, or none if there are none. Gives the image id and what opened the door.
async fn pull_with(context: &Context, image: &str, keyring: &Keyring) -> Result<(String, Option<String>), String> {
    let candidates = keyring.lookup(image);
    let text = |e: Error| e.to_string();
    if candidates.is_empty() {
        return context.runtime.pull_image(image, None).await.map(|id| (id, None)).map_err(text);
    }
    let mut errors = Vec::new();
    for candidate in candidates {
        match context.runtime.pull_image(image, Some(&candidate.auth)).await {
            Ok(id) => return Ok((id, candidate.secret.clone())),
            Err(error) => errors.push(text(error)),
        }
    }
    errors.dedup();
    Err(if errors.len() == 1 { errors.remove(0) } else { format!("[{}]", errors.join(", ")) })
}

/// The pod's pull secrets and the node's own credentials, and the names of secrets that could not be had.
async fn keyring_of(context: &Context, pod: &Pod) -> (Keyring, Vec<String>) {
    let mut keyring = Keyring::default();
    let mut missing = Vec::new();
    for reference in pod.spec().image_pull_secrets.iter().flatten().filter(|r| !r.name.is_empty()) {
        let held: Arc<_> = context.objects.watch(Kind::Secret, pod.namespace(), &reference.name);
        match held.data().await {
            Ok(Some(data)) => keyring.add_secret(pod.namespace(), &reference.name, &data),
            _ => missing.push(reference.name.clone()),
        }
    }
    if let Some(text) = context.config.docker_config.as_ref().and_then(|path| std::fs::read(path).ok()) {
        keyring.add_config(&text, None);
    }
    (keyring, missing)
}

/// Remembers that an image was pulled by a secret, so that a pod without it may not use the image unasked; one that was
/// pulled without is everybody's (upstream: `KubeletEnsureSecretPulledImages`).
fn remember(context: &Context, id: &str, secret: Option<String>) {
    let mut restricted = context.images.restricted.lock();
    match secret {
        None => drop(restricted.remove(id)),
        Some(secret) => {
            let all = restricted.entry(id.to_owned()).or_default();
            if !all.contains(&secret) {
                all.push(secret);
            }
        }
    }
}

async fn may_use(context: &Context, pod: &Pod, image: &str, id: &str) -> bool {
    let Some(allowed) = context.images.restricted.lock().get(id).cloned() else { return true };
    let (keyring, _) = keyring_of(context, pod).await;
    keyring.lookup(image).iter().any(|c| c.secret.as_ref().is_some_and(|s| allowed.contains(s)))
}

/// Whether a text can name an image (upstream: `distribution/reference`).
fn is_reference(image: &str) -> bool {
    let (name, digest) = image.split_once('@').map_or((image, None), |(n, d)| (n, Some(d)));
    if digest.is_some_and(|d| d.split_once(':').is_none_or(|(kind, hex)| kind.is_empty() || hex.len() < 32 || !hex.bytes().all(|b| b.is_ascii_hexdigit()))) {
        return false;
    }
    let (name, tag) = match name.rsplit_once(':') {
        Some((head, tag)) if !tag.contains('/') => (head, Some(tag)),
        _ => (name, None),
    };
    let tag_is_good =
        |t: &str| !t.is_empty() && t.len() <= 128 && !t.starts_with(['.', '-']) && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if tag.is_some_and(|t| !tag_is_good(t)) {
        return false;
    }
    let path = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" || host.bytes().any(|b| b.is_ascii_uppercase()) => path,
        _ => name,
    };
    let part_is_good = |p: &str| {
        let ends = |c: Option<u8>| c.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        ends(p.bytes().next()) && ends(p.bytes().last()) && p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
    };
    path.split('/').all(part_is_good)
}

#[cfg(test)]
mod tests {
    use super::is_reference;

    #[test]
    fn references_are_told_from_nonsense() {
        let digest = format!("r.io/x@sha256:{}", "0".repeat(64));
        for good in ["busybox", "busybox:1.36", "r.io:5000/a/b-c:v1", "localhost/x", digest.as_str(), "a/b_c.d"] {
            assert!(is_reference(good), "{good}");
        }
        for bad in ["", "Busybox", "a b", "x:", "x@sha256:0", "/x", "x//y", "-x", "x:a b"] {
            assert!(!is_reference(bad), "{bad}");
        }
    }
}
