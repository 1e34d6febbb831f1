//! What the files of a `configMap`, `secret`, `downwardAPI` or `projected` volume hold (upstream: `pkg/volume/{configmap,
//! secret,downwardapi,projected}`).

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, ServiceAccountTokenProjection, Volume, VolumeProjection};

use super::atomic::{FileData, Payload};
use crate::container::env::Data;
use crate::container::fields;
use crate::context::Context;
use crate::objects::{Kind, Watched};
use crate::pod::spec::{PodExt, init_containers};

const DEFAULT_MODE: i32 = 0o644;

/// One thing that files are made of.
pub enum Source {
    Object {
        kind: Kind,
        name: String,
        held: Arc<Watched>,
        items: Vec<KeyToPath>,
        optional: bool,
    },
    Downward(Vec<DownwardAPIVolumeFile>),
    Token(ServiceAccountTokenProjection),
    /// A kind of source that this node does not serve, by name.
    Unsupported(&'static str),
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
    pub fn of(context: &Context, pod: &Pod, volume: &Volume) -> Option<Self> {
        let ns = pod.namespace();
        let (plugin, default_mode, sources) = if let Some(v) = &volume.config_map {
            ("kubernetes.io~configmap", v.default_mode, vec![object(context, ns, Kind::ConfigMap, &v.name, v.items.as_ref(), v.optional)])
        } else if let Some(v) = &volume.secret {
            let name = v.secret_name.as_deref().unwrap_or_default();
            ("kubernetes.io~secret", v.default_mode, vec![object(context, ns, Kind::Secret, name, v.items.as_ref(), v.optional)])
        } else if let Some(v) = &volume.downward_api {
            ("kubernetes.io~downward-api", v.default_mode, vec![Source::Downward(v.items.clone().unwrap_or_default())])
        } else if let Some(v) = &volume.projected {
            let sources = v.sources.iter().flatten().filter_map(|s| projected(context, ns, s)).collect();
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

    /// The objects that its files depend on.
    pub fn watched(&self) -> impl Iterator<Item = &Arc<Watched>> {
        self.sources.iter().filter_map(|s| if let Source::Object { held, .. } = s { Some(held) } else { None })
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
                let user = token_user(pod);
                let in_group = pod.spec().security_context.as_ref().is_some_and(|s| s.fs_group.is_some());
                let mode = if user.is_some() || in_group { 0o600 } else { self.default_mode };
                made.payload.insert(projection.path.clone(), FileData { data: token.into_bytes(), mode, user });
                made.renew_at = Some(made.renew_at.map_or(renew_at, |at| at.min(renew_at)));
            }
            Source::Unsupported(what) => return Err(format!("{what} projection is not supported by this node")),
        }
        Ok(())
    }
}

fn projected(context: &Context, namespace: &str, source: &VolumeProjection) -> Option<Source> {
    if let Some(s) = &source.config_map {
        Some(object(context, namespace, Kind::ConfigMap, &s.name, s.items.as_ref(), s.optional))
    } else if let Some(s) = &source.secret {
        Some(object(context, namespace, Kind::Secret, &s.name, s.items.as_ref(), s.optional))
    } else if let Some(s) = &source.downward_api {
        Some(Source::Downward(s.items.clone().unwrap_or_default()))
    } else if let Some(s) = &source.service_account_token {
        Some(Source::Token(s.clone()))
    } else if source.cluster_trust_bundle.is_some() {
        Some(Source::Unsupported("ClusterTrustBundle"))
    } else if source.pod_certificate.is_some() {
        Some(Source::Unsupported("PodCertificate"))
    } else {
        None
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
