//! Kubeconfig files: where clusters are and who asks. Read, merged and written as kubectl does it
//! (upstream: `k8s.io/client-go/tools/clientcmd`).

mod file;

pub use file::{Locked, default_paths};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue};
use knarr_core::{Value, yaml};
use serde::{Deserialize, Serialize};

use crate::tls::{Config, Identity};

/// What can be wrong with a kubeconfig.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("error loading config file \"{}\": {why}", path.display())]
    Unreadable { path: PathBuf, why: String },
    #[error("invalid configuration: {0}")]
    Invalid(String),
    #[error("{}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Cluster {
    pub server: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_server_name: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure_skip_tls_verify: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_authority: Option<String>,
    /// Base64 of PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_authority_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_url: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub disable_compression: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct User {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    #[serde(rename = "tokenFile", skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
    #[serde(rename = "as", skip_serializing_if = "Option::is_none")]
    pub impersonate: Option<String>,
    #[serde(rename = "as-uid", skip_serializing_if = "Option::is_none")]
    pub impersonate_uid: Option<String>,
    #[serde(rename = "as-groups", skip_serializing_if = "Vec::is_empty")]
    pub impersonate_groups: Vec<String>,
    #[serde(rename = "as-user-extra", skip_serializing_if = "BTreeMap::is_empty")]
    pub impersonate_extra: BTreeMap<String, Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_provider: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Context {
    pub cluster: String,
    pub user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<Value>,
}

/// A named entry, and the file it came from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry<T> {
    pub value: T,
    pub origin: Option<PathBuf>,
}

/// One kubeconfig, or several merged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kubeconfig {
    pub current_context: String,
    pub clusters: BTreeMap<String, Entry<Cluster>>,
    pub users: BTreeMap<String, Entry<User>>,
    pub contexts: BTreeMap<String, Entry<Context>>,
    pub preferences: Option<Value>,
    pub extensions: Vec<Value>,
}

/// What command line flags set over the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    pub context: Option<String>,
    pub cluster: Option<String>,
    pub user: Option<String>,
    pub namespace: Option<String>,
    pub server: Option<String>,
    pub token: Option<String>,
    pub certificate_authority: Option<String>,
    pub client_certificate: Option<String>,
    pub client_key: Option<String>,
    pub insecure_skip_tls_verify: Option<bool>,
    pub tls_server_name: Option<String>,
    pub impersonate: Option<String>,
    pub impersonate_uid: Option<String>,
    pub impersonate_groups: Vec<String>,
}

impl Kubeconfig {
    /// Reads one document.
    ///
    /// # Errors
    /// A sentence: no YAML, or not of this form.
    pub fn parse(text: &str, origin: Option<&Path>) -> Result<Self, String> {
        let value = yaml::parse(text)?;
        if value.is_null() {
            return Ok(Self::default());
        }
        let wire: Wire = serde_json::from_value(value).map_err(|e| e.to_string())?;
        Ok(wire.into_config(origin))
    }

    /// # Errors
    /// `Unreadable`, with the path.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let unreadable = |why: String| Error::Unreadable { path: path.to_owned(), why };
        let text = std::fs::read_to_string(path).map_err(|e| unreadable(e.to_string()))?;
        Self::parse(&text, Some(path)).map_err(unreadable)
    }

    /// Reads and merges files; of each entry the first file's one counts. Files that do not exist are left out.
    ///
    /// # Errors
    /// `Unreadable` for a file that is there but cannot be read.
    pub fn load(paths: &[PathBuf]) -> Result<Self, Error> {
        let mut merged = Self::default();
        for path in paths.iter().filter(|p| p.exists()) {
            merged.merge(Self::read(path)?);
        }
        Ok(merged)
    }

    /// Adds what is not there yet.
    pub fn merge(&mut self, other: Self) {
        if self.current_context.is_empty() {
            self.current_context = other.current_context;
        }
        for (name, entry) in other.clusters {
            self.clusters.entry(name).or_insert(entry);
        }
        for (name, entry) in other.users {
            self.users.entry(name).or_insert(entry);
        }
        for (name, entry) in other.contexts {
            self.contexts.entry(name).or_insert(entry);
        }
        self.preferences = self.preferences.take().or(other.preferences);
        self.extensions.extend(other.extensions);
    }

    /// Puts a cluster, a user and a context of one name there, and makes that context the current one.
    pub fn upsert(&mut self, name: &str, cluster: Cluster, user: User) {
        let context = Context { cluster: name.into(), user: name.into(), ..Context::default() };
        self.clusters.insert(name.into(), Entry { value: cluster, origin: None });
        self.users.insert(name.into(), Entry { value: user, origin: None });
        self.contexts.insert(name.into(), Entry { value: context, origin: None });
        self.current_context = name.into();
    }

    /// Takes cluster, user and context of that name out.
    pub fn remove(&mut self, name: &str) {
        self.clusters.remove(name);
        self.users.remove(name);
        self.contexts.remove(name);
        if self.current_context == name {
            self.current_context.clear();
        }
    }

    /// The context that counts under these overrides.
    ///
    /// # Errors
    /// A context that was asked for and does not exist.
    pub fn context(&self, overrides: &Overrides) -> Result<Context, Error> {
        let name = overrides.context.as_deref().unwrap_or(&self.current_context);
        let found = self.contexts.get(name).map(|e| e.value.clone());
        let mut context = match found {
            Some(context) => context,
            None if overrides.context.is_some() => return Err(Error::Invalid(format!("context \"{name}\" does not exist"))),
            None => Context::default(),
        };
        for (field, wanted) in [(&mut context.cluster, &overrides.cluster), (&mut context.user, &overrides.user)] {
            if let Some(wanted) = wanted {
                field.clone_from(wanted);
            }
        }
        context.namespace = overrides.namespace.clone().or(context.namespace).filter(|n| !n.is_empty());
        Ok(context)
    }

    /// How to reach the server of the chosen context as its user.
    ///
    /// # Errors
    /// Names that do not exist, files that cannot be read, data that is no base64.
    pub fn client_config(&self, overrides: &Overrides) -> Result<Config, Error> {
        let context = self.context(overrides)?;
        let cluster = entry(&self.clusters, &context.cluster, "cluster")?;
        let user = entry(&self.users, &context.user, "auth info")?;
        let server = overrides.server.clone().or_else(|| cluster.map(|c| c.value.server.clone())).filter(|s| !s.is_empty());
        let mut config = Config::new(server.ok_or_else(|| Error::Invalid("no configuration has been provided, try setting KUBECONFIG".into()))?);
        if !config.server.contains("://") {
            config.server = format!("http://{}", config.server);
        }
        apply_cluster(&mut config, cluster, overrides)?;
        apply_user(&mut config, user, overrides)?;
        Ok(config)
    }

    /// The document, as kubectl would write it.
    pub fn to_yaml(&self) -> String {
        yaml::to_string(&serde_json::to_value(Wire::from(self)).unwrap_or_default())
    }
}

fn entry<'a, T>(all: &'a BTreeMap<String, Entry<T>>, name: &str, what: &str) -> Result<Option<&'a Entry<T>>, Error> {
    match all.get(name) {
        None if !name.is_empty() => Err(Error::Invalid(format!("{what} \"{name}\" does not exist"))),
        found => Ok(found),
    }
}

/// Bytes that stand in the file as base64, or in a file of their own.
fn data(inline: Option<&String>, path: Option<&String>, origin: Option<&Path>) -> Result<Option<Vec<u8>>, Error> {
    if let Some(text) = inline.filter(|t| !t.is_empty()) {
        return STANDARD.decode(text.trim()).map(Some).map_err(|e| Error::Invalid(format!("data is no base64: {e}")));
    }
    let Some(path) = path.filter(|p| !p.is_empty()) else { return Ok(None) };
    let path = resolve(path, origin);
    std::fs::read(&path).map(Some).map_err(|e| Error::Unreadable { path, why: e.to_string() })
}

/// Relative paths count from the folder of the kubeconfig they stand in.
fn resolve(path: &str, origin: Option<&Path>) -> PathBuf {
    origin.and_then(Path::parent).map_or_else(|| PathBuf::from(path), |folder| folder.join(path))
}

fn apply_cluster(config: &mut Config, cluster: Option<&Entry<Cluster>>, overrides: &Overrides) -> Result<(), Error> {
    if let Some(Entry { value, origin }) = cluster {
        config.tls_server_name.clone_from(&value.tls_server_name);
        config.insecure = value.insecure_skip_tls_verify;
        config.certificate_authority = data(value.certificate_authority_data.as_ref(), value.certificate_authority.as_ref(), origin.as_deref())?;
    }
    if let Some(path) = &overrides.certificate_authority {
        config.certificate_authority = data(None, Some(path), None)?;
    }
    config.insecure = overrides.insecure_skip_tls_verify.unwrap_or(config.insecure);
    config.tls_server_name = overrides.tls_server_name.clone().or(config.tls_server_name.take());
    Ok(())
}

fn apply_user(config: &mut Config, user: Option<&Entry<User>>, overrides: &Overrides) -> Result<(), Error> {
    let mut user = user.cloned().unwrap_or_default();
    if overrides.client_certificate.is_some() {
        user.value.client_certificate.clone_from(&overrides.client_certificate);
        user.value.client_certificate_data = None;
        user.value.client_key.clone_from(&overrides.client_key);
        user.value.client_key_data = None;
        user.origin = None;
    }
    let Entry { value: user, origin } = user;
    let certificate = data(user.client_certificate_data.as_ref(), user.client_certificate.as_ref(), origin.as_deref())?;
    let key = data(user.client_key_data.as_ref(), user.client_key.as_ref(), origin.as_deref())?;
    config.client_certificate = certificate.zip(key);
    config.identity = match (&overrides.token, user.token_file, user.token, user.username) {
        (Some(token), ..) => Identity::Token(token.clone()),
        (None, Some(path), ..) if !path.is_empty() => Identity::TokenFile(resolve(&path, origin.as_deref())),
        (None, _, Some(token), _) if !token.is_empty() => Identity::Token(token),
        (None, _, _, Some(username)) if !username.is_empty() => Identity::Basic { username, password: user.password.unwrap_or_default() },
        _ => Identity::None,
    };
    let mut header = |name: &str, value: &str| -> Result<(), Error> {
        let name = HeaderName::try_from(name).map_err(|e| Error::Invalid(e.to_string()))?;
        config.headers.push((name, HeaderValue::from_str(value).map_err(|e| Error::Invalid(e.to_string()))?));
        Ok(())
    };
    let impersonated = overrides.impersonate.is_some();
    if let Some(name) = overrides.impersonate.as_ref().or(user.impersonate.as_ref()) {
        header("impersonate-user", name)?;
    }
    if let Some(uid) = overrides.impersonate_uid.as_ref().or(user.impersonate_uid.as_ref()) {
        header("impersonate-uid", uid)?;
    }
    let groups = if impersonated || !overrides.impersonate_groups.is_empty() { &overrides.impersonate_groups } else { &user.impersonate_groups };
    for group in groups {
        header("impersonate-group", group)?;
    }
    for (key, values) in &user.impersonate_extra {
        for value in values {
            header(&format!("impersonate-extra-{key}"), value)?;
        }
    }
    Ok(())
}

#[derive(Serialize, Deserialize)]
struct NamedCluster {
    name: String,
    #[serde(default)]
    cluster: Cluster,
}

#[derive(Serialize, Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: User,
}

#[derive(Serialize, Deserialize)]
struct NamedContext {
    name: String,
    #[serde(default)]
    context: Context,
}

/// The document as it stands in a file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Wire {
    #[serde(rename = "apiVersion", default = "v1")]
    api_version: String,
    #[serde(default = "config_kind")]
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    preferences: Option<Value>,
    #[serde(default)]
    clusters: Option<Vec<NamedCluster>>,
    #[serde(default)]
    users: Option<Vec<NamedUser>>,
    #[serde(default)]
    contexts: Option<Vec<NamedContext>>,
    #[serde(default)]
    current_context: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    extensions: Vec<Value>,
}

fn v1() -> String {
    "v1".into()
}

fn config_kind() -> String {
    "Config".into()
}

impl Wire {
    fn into_config(self, origin: Option<&Path>) -> Kubeconfig {
        fn entries<T>(all: impl Iterator<Item = (String, T)>, origin: Option<&Path>) -> BTreeMap<String, Entry<T>> {
            let mut entries = BTreeMap::new();
            for (name, value) in all {
                entries.entry(name).or_insert_with(|| Entry { value, origin: origin.map(Path::to_owned) });
            }
            entries
        }
        Kubeconfig {
            current_context: self.current_context.unwrap_or_default(),
            clusters: entries(self.clusters.into_iter().flatten().map(|n| (n.name, n.cluster)), origin),
            users: entries(self.users.into_iter().flatten().map(|n| (n.name, n.user)), origin),
            contexts: entries(self.contexts.into_iter().flatten().map(|n| (n.name, n.context)), origin),
            preferences: self.preferences.filter(|p| p.as_object().is_some_and(|p| !p.is_empty())),
            extensions: self.extensions,
        }
    }
}

impl From<&Kubeconfig> for Wire {
    fn from(config: &Kubeconfig) -> Self {
        let own = |name: &String| name.clone();
        Self {
            api_version: v1(),
            kind: config_kind(),
            preferences: config.preferences.clone(),
            clusters: Some(config.clusters.iter().map(|(n, e)| NamedCluster { name: own(n), cluster: e.value.clone() }).collect()),
            users: Some(config.users.iter().map(|(n, e)| NamedUser { name: own(n), user: e.value.clone() }).collect()),
            contexts: Some(config.contexts.iter().map(|(n, e)| NamedContext { name: own(n), context: e.value.clone() }).collect()),
            current_context: Some(config.current_context.clone()),
            extensions: config.extensions.clone(),
        }
    }
}

/// How a pod reaches its own cluster: the files and variables that every container has.
///
/// # Errors
/// Not inside a pod, or files that cannot be read.
pub fn in_cluster(variable: impl Fn(&str) -> Option<String>) -> Result<Config, Error> {
    const FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
    let (host, port) = variable("KUBERNETES_SERVICE_HOST")
        .zip(variable("KUBERNETES_SERVICE_PORT"))
        .ok_or_else(|| Error::Invalid("unable to load in-cluster configuration, KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be defined".into()))?;
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let mut config = Config::new(format!("https://{host}:{port}"));
    config.certificate_authority = data(None, Some(&format!("{FOLDER}/ca.crt")), None)?;
    config.identity = Identity::TokenFile(Path::new(FOLDER).join("token"));
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const FIRST: &str = "
apiVersion: v1
kind: Config
current-context: a
clusters:
- name: one
  cluster: {server: 'https://10.0.0.1:6443', certificate-authority-data: QUJD}
contexts:
- name: a
  context: {cluster: one, user: me, namespace: web}
users:
- name: me
  user: {token: secret, as: root, as-groups: [g]}
";

    fn first() -> Kubeconfig {
        Kubeconfig::parse(FIRST, None).unwrap()
    }

    #[test]
    fn a_context_leads_to_server_and_user() {
        let config = first().client_config(&Overrides::default()).unwrap();
        assert_eq!((config.server.as_str(), config.certificate_authority.as_deref()), ("https://10.0.0.1:6443", Some(&b"ABC"[..])));
        assert_eq!(config.identity, Identity::Token("secret".into()));
        let headers: Vec<_> = config.headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        assert_eq!(headers, [("impersonate-user", "root"), ("impersonate-group", "g")]);
    }

    #[test]
    fn the_first_file_of_a_list_wins_entry_by_entry() {
        let mut merged = first();
        merged.merge(
            Kubeconfig::parse("current-context: b\nclusters:\n- {name: one, cluster: {server: other}}\n- {name: two, cluster: {server: two}}", None).unwrap(),
        );
        assert_eq!(merged.current_context, "a");
        assert_eq!(merged.clusters["one"].value.server, "https://10.0.0.1:6443");
        assert_eq!(merged.clusters["two"].value.server, "two");
    }

    #[test]
    fn flags_go_before_files() {
        let overrides = Overrides { server: Some("https://else:1".into()), token: Some("t".into()), namespace: Some("n".into()), ..Overrides::default() };
        let config = first().client_config(&overrides).unwrap();
        assert_eq!((config.server.as_str(), config.identity), ("https://else:1", Identity::Token("t".into())));
        assert_eq!(first().context(&overrides).unwrap().namespace.as_deref(), Some("n"));
        let wrong = Overrides { context: Some("nope".into()), ..Overrides::default() };
        assert_eq!(first().client_config(&wrong).unwrap_err().to_string(), "invalid configuration: context \"nope\" does not exist");
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let mut config = first();
        config.upsert(
            "knarr",
            Cluster { server: "https://127.0.0.1:6443".into(), ..Cluster::default() },
            User { token: Some("yes".into()), ..User::default() },
        );
        let text = config.to_yaml();
        assert_eq!(Kubeconfig::parse(&text, None).unwrap(), config);
        assert!(text.contains("\n- cluster:\n    certificate-authority-data: QUJD\n    server: https://10.0.0.1:6443\n  name: one\n"), "{text}");
        config.remove("knarr");
        assert_eq!(config.current_context, "");
        // What knarr has no name for is kept as it came, be it as odd as a name that no YAML looks for before a colon.
        let odd = json!({"command": "x", "env": [{"n".repeat(2000): null, "name": "A", "value": [["b"]]}]});
        let user = yaml::to_string(&json!({"users": [{"name": "u", "user": {"exec": odd}}]}));
        let config = Kubeconfig::parse(&user, None).unwrap();
        assert_eq!(Kubeconfig::parse(&config.to_yaml(), None).unwrap(), config);
        assert_eq!(yaml::parse(&config.to_yaml()).unwrap()["users"][0]["user"]["exec"], odd);
    }
}
