//! What the files of a `configMap`, `secret`, `downwardAPI` or `projected` volume hold (upstream: `pkg/volume/{configmap,
//! secret,downwardapi,projected}`).

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ClusterTrustBundleProjection, DownwardAPIVolumeFile, KeyToPath, Pod, PodCertificateProjection, ServiceAccountTokenProjection, Volume, VolumeProjection,
};

use super::atomic::{FileData, Payload};
use super::followed::{Followed, State};
use super::pod_certificates::{Credential, PodCertificate};
use super::trust_bundles;
use crate::container::env::Data;
use crate::container::fields;
use crate::context::Context;
use crate::objects::{Changes, Kind, Watched};
use crate::pod::spec::{PodExt, init_containers};
use tokio::sync::watch;

const DEFAULT_MODE: i32 = 0o644;

/// One thing that files are made of.
pub enum Source {
    Object { kind: Kind, name: String, held: Arc<Watched>, items: Vec<KeyToPath>, optional: bool },
    Downward(Vec<DownwardAPIVolumeFile>),
    Token(ServiceAccountTokenProjection),
    TrustBundle(ClusterTrustBundleProjection, Arc<Followed>),
    Certificate(PodCertificateProjection, PodCertificate),
}

/// A volume whose files come from the API.
pub struct Recipe {
    pub volume: String,
    pub plugin: &'static str,
    default_mode: u32,
    sources: Vec<Source>,
}

/// Files, and when they have to be made anew though nothing changed.
pub struct Made {
    pub payload: Payload,
    pub renew_at: Option<Timestamp>,
}

fn object(context: &Context, namespace: &str, kind: Kind, name: &str, items: Option<&Vec<KeyToPath>>, optional: Option<bool>) -> Source {
    let held = context.objects.watch(kind, namespace, name);
    Source::Object { kind, name: name.into(), held, items: items.cloned().unwrap_or_default(), optional: optional == Some(true) }
}

fn mode(default: Option<i32>) -> u32 {
    u32::try_from(default.unwrap_or(DEFAULT_MODE)).unwrap_or(DEFAULT_MODE as u32)
}

impl Recipe {
    /// The recipe of a volume, if its files come from the API. Objects that it names are followed from now on.
    pub fn of(context: &Arc<Context>, pod: &Pod, volume: &Volume) -> Option<Self> {
        let ns = pod.namespace();
        let (plugin, default_mode, sources) = if let Some(v) = &volume.config_map {
            ("kubernetes.io~configmap", v.default_mode, vec![object(context, ns, Kind::ConfigMap, &v.name, v.items.as_ref(), v.optional)])
        } else if let Some(v) = &volume.secret {
            let name = v.secret_name.as_deref().unwrap_or_default();
            ("kubernetes.io~secret", v.default_mode, vec![object(context, ns, Kind::Secret, name, v.items.as_ref(), v.optional)])
        } else if let Some(v) = &volume.downward_api {
            ("kubernetes.io~downward-api", v.default_mode, vec![Source::Downward(v.items.clone().unwrap_or_default())])
        } else if let Some(v) = &volume.projected {
            let sources = v.sources.iter().flatten().filter_map(|s| projected(context, pod, s)).collect();
            ("kubernetes.io~projected", v.default_mode, sources)
        } else {
            return None;
        };
        Some(Self { volume: volume.name.clone(), plugin, default_mode: mode(default_mode), sources })
    }

    /// Whether its files must not reach a disk.
    pub fn is_secret(&self) -> bool {
        self.plugin == "kubernetes.io~secret" || self.plugin == "kubernetes.io~projected"
    }

    /// Cursors into what its files depend on. They have seen everything so far.
    pub fn signals(&self) -> impl Iterator<Item = Signal> {
        self.sources.iter().filter_map(|source| match source {
            Source::Object { held, .. } => Some(Signal::Object(held.clone(), held.changes())),
            Source::TrustBundle(_, held) => Some(Signal::TrustBundles(held.changes())),
            Source::Certificate(_, held) => Some(Signal::Certificate(held.changes())),
            Source::Downward(_) | Source::Token(_) => None,
        })
    }

    /// # Errors
    /// What is missing, in the words of a `FailedMount` event.
    pub async fn make(&self, context: &Context, pod: &Pod) -> Result<Made, String> {
        let mut made = Made { payload: Payload::new(), renew_at: None };
        let mut errors = Vec::new();
        for source in &self.sources {
            if let Err(error) = self.add(context, pod, source, &mut made).await {
                errors.push(error);
            }
        }
        match errors.as_slice() {
            [] => Ok(made),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }

    async fn add(&self, context: &Context, pod: &Pod, source: &Source, made: &mut Made) -> Result<(), String> {
        match source {
            Source::Object { kind, name, held, items, optional } => {
                let data = match held.data().await? {
                    Some(data) => data,
                    None if *optional => Data::new(),
                    None => return Err(format!("{} \"{name}\" not found", if *kind == Kind::Secret { "secret" } else { "configmap" })),
                };
                made.payload.extend(object_files(*kind, data, items, self.default_mode, *optional)?);
            }
            Source::Downward(items) => {
                for item in items {
                    let data = downward(context, pod, item)?.into_bytes();
                    made.payload.insert(item.path.clone(), FileData { data, mode: item.mode.map_or(self.default_mode, |m| mode(Some(m))), user: None });
                }
            }
            Source::Token(projection) => {
                let (token, renew_at) = context.tokens.get(pod, projection).await?;
                made.payload.insert(projection.path.clone(), self.owned_file(pod, token.into_bytes()));
                made.renew_at = Some(made.renew_at.map_or(renew_at, |at| at.min(renew_at)));
            }
            Source::TrustBundle(projection, held) => {
                let data = trust_bundles::anchors(held, projection).await?;
                made.payload.insert(projection.path.clone(), self.owned_file(pod, data));
            }
            Source::Certificate(projection, held) => {
                let pair = held.bundle()?;
                let (key, chain) = (&pair.0, &pair.1);
                let files = [
                    (&projection.credential_bundle_path, format!("{key}{chain}")),
                    (&projection.key_path, key.clone()),
                    (&projection.certificate_chain_path, chain.clone()),
                ];
                for (path, text) in files {
                    if let Some(path) = path.as_ref().filter(|p| !p.is_empty()) {
                        made.payload.insert(path.clone(), self.owned_file(pod, text.into_bytes()));
                    }
                }
            }
        }
        Ok(())
    }

    /// A file for the pod's one user alone, if it has one.
    fn owned_file(&self, pod: &Pod, data: Vec<u8>) -> FileData {
        let user = token_user(pod);
        let in_group = pod.spec().security_context.as_ref().is_some_and(|s| s.fs_group.is_some());
        let mode = if user.is_some() || in_group { 0o600 } else { self.default_mode };
        FileData { data, mode, user }
    }
}

/// Something that a volume's files depend on, and how much of it has been seen.
pub enum Signal {
    Object(Arc<Watched>, Changes),
    TrustBundles(watch::Receiver<State>),
    Certificate(watch::Receiver<Credential>),
}

impl Signal {
    /// Waits for the next change.
    pub fn changed(&mut self) -> BoxFuture<'_, ()> {
        match self {
            Self::Object(watched, changes) => watched.changed(changes).boxed(),
            Self::TrustBundles(receiver) => next(receiver).boxed(),
            Self::Certificate(receiver) => next(receiver).boxed(),
        }
    }
}

async fn next<T: Send + Sync>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn projected(context: &Arc<Context>, pod: &Pod, source: &VolumeProjection) -> Option<Source> {
    let namespace = pod.namespace();
    if let Some(s) = &source.config_map {
        Some(object(context, namespace, Kind::ConfigMap, &s.name, s.items.as_ref(), s.optional))
    } else if let Some(s) = &source.secret {
        Some(object(context, namespace, Kind::Secret, &s.name, s.items.as_ref(), s.optional))
    } else if let Some(s) = &source.downward_api {
        Some(Source::Downward(s.items.clone().unwrap_or_default()))
    } else if let Some(s) = &source.service_account_token {
        Some(Source::Token(s.clone()))
    } else if let Some(s) = &source.cluster_trust_bundle {
        Some(Source::TrustBundle(s.clone(), context.trust_bundles.follow()))
    } else {
        source.pod_certificate.as_ref().map(|s| Source::Certificate(s.clone(), PodCertificate::start(context, pod, s)))
    }
}

fn object_files(kind: Kind, data: Data, items: &[KeyToPath], default_mode: u32, optional: bool) -> Result<Payload, String> {
    let file = |data: Vec<u8>, mode: u32| FileData { data, mode, user: None };
    if items.is_empty() {
        return Ok(data.into_iter().map(|(name, data)| (name, file(data, default_mode))).collect());
    }
    let mut files = Payload::new();
    for item in items {
        match data.get(&item.key) {
            Some(data) => drop(files.insert(item.path.clone(), file(data.clone(), item.mode.map_or(default_mode, |m| mode(Some(m)))))),
            None if optional => {}
            None if kind == Kind::Secret => return Err(format!("references non-existent secret key: {}", item.key)),
            None => return Err(format!("configmap references non-existent config key: {}", item.key)),
        }
    }
    Ok(files)
}

fn downward(context: &Context, pod: &Pod, item: &DownwardAPIVolumeFile) -> Result<String, String> {
    if let Some(field) = &item.field_ref {
        fields::metadata_field(pod, &field.field_path)
    } else if let Some(field) = &item.resource_field_ref {
        fields::resource_field(pod, field, None, &context.allocatable())
    } else {
        Ok(String::new())
    }
}

/// The one user that all containers run as, if there is one (upstream: `FsUserFrom`).
fn token_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec();
    let of_pod = spec.security_context.as_ref().and_then(|s| s.run_as_user);
    let mut users = init_containers(spec).iter().chain(&spec.containers).map(|c| c.security_context.as_ref().and_then(|s| s.run_as_user).or(of_pod));
    let first = users.next()??;
    users.all(|u| u == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(key: &str, path: &str) -> KeyToPath {
        KeyToPath { key: key.into(), path: path.into(), ..Default::default() }
    }

    #[test]
    fn keys_become_files_where_the_items_say() {
        let data: Data = [("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())].into();
        let names = |items: &[KeyToPath], optional| {
            object_files(Kind::ConfigMap, data.clone(), items, 0o644, optional).map(|p| p.into_keys().collect::<Vec<_>>().join(" "))
        };
        assert_eq!(names(&[], false), Ok("a b".into()));
        assert_eq!(names(&[item("a", "x/y")], false), Ok("x/y".into()));
        assert_eq!(names(&[item("c", "x")], true), Ok(String::new()));
        assert_eq!(names(&[item("c", "x")], false), Err("configmap references non-existent config key: c".into()));
    }

    #[test]
    fn a_token_belongs_to_the_user_that_all_containers_share() {
        let user = |spec| token_user(&crate::testing::pod_of(spec));
        use knarr_core::json;
        assert_eq!(user(json!({"securityContext": {"runAsUser": 7}, "containers": [{"name": "a"}, {"name": "b"}]})), Some(7));
        assert_eq!(user(json!({"securityContext": {"runAsUser": 7}, "containers": [{"name": "a"}, {"name": "b", "securityContext": {"runAsUser": 8}}]})), None);
        assert_eq!(user(json!({"containers": [{"name": "a"}]})), None);
    }
}
