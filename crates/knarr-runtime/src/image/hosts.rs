//! Where images are looked for, from files that users have already: k3s' `registries.yaml` and containerd's `certs.d/HOST/hosts.toml`.
//!
//! ```yaml
//! mirrors:
//!   docker.io: {endpoint: ["https://mirror.local:5000"], rewrite: {"^library/(.*)": "proxy/library/$1"}}
//!   "*":       {endpoint: ["https://everything.local"]}
//! configs:
//!   mirror.local:5000: {auth: {username: me, password: secret}, tls: {ca_file: /ca.pem, insecure_skip_verify: false}}
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Reference;
use super::registry::{Direct, Endpoint, Endpoints, default_host, direct};
use super::toml::Toml;
use super::transport::TlsOptions;

/// k3s' place, and the one for those who have no k3s.
const REGISTRIES_FILES: [&str; 2] = ["/etc/knarr/registries.yaml", "/etc/rancher/k3s/registries.yaml"];
const CERTS_FOLDERS: [&str; 2] = ["/etc/knarr/certs.d", "/etc/containerd/certs.d"];

/// Mirrors and settings of registries. The registry itself is always asked last.
#[derive(Debug, Default)]
pub struct Hosts {
    registries: Registries,
    /// Read anew for each pull, as containerd does.
    certs: Vec<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
struct Registries {
    #[serde(default)]
    mirrors: BTreeMap<String, Mirror>,
    #[serde(default)]
    configs: BTreeMap<String, Config>,
}

#[derive(Debug, Default, Deserialize)]
struct Mirror {
    #[serde(default)]
    endpoint: Vec<String>,
    #[serde(default)]
    rewrite: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Config {
    #[serde(default)]
    auth: Option<ConfigAuth>,
    #[serde(default)]
    tls: Tls,
}

#[derive(Clone, Debug, Deserialize)]
struct ConfigAuth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    /// Both, in base64.
    #[serde(default)]
    auth: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Tls {
    #[serde(default)]
    ca_file: Option<PathBuf>,
    #[serde(default)]
    cert_file: Option<PathBuf>,
    #[serde(default)]
    key_file: Option<PathBuf>,
    #[serde(default)]
    insecure_skip_verify: bool,
}

impl Hosts {
    /// What this machine's files say; a file that cannot be read is reported and left out.
    pub fn of_machine() -> Self {
        let file = REGISTRIES_FILES.iter().map(Path::new).find(|path| path.exists());
        let text = file.map(|path| (path, std::fs::read_to_string(path).map_err(|e| e.to_string())));
        let parsed = text.map(|(path, text)| (path, text.and_then(|t| Self::parse(&t))));
        let registries = match parsed {
            None => Registries::default(),
            Some((_, Ok(hosts))) => hosts.registries,
            Some((path, Err(error))) => {
                tracing::warn!(path = %path.display(), %error, "mirrors are not used");
                Registries::default()
            }
        };
        Self { registries, certs: CERTS_FOLDERS.map(PathBuf::from).into() }
    }

    /// From the text of a `registries.yaml`.
    pub fn parse(yaml: &str) -> Result<Self, String> {
        let value = knarr_core::yaml::parse(yaml)?;
        if value.is_null() {
            return Ok(Self::default());
        }
        Ok(Self { registries: serde_json::from_value(value).map_err(|e| e.to_string())?, certs: Vec::new() })
    }

    /// Also reads `HOST/hosts.toml` below this folder.
    #[must_use]
    pub fn with_certs(mut self, folder: &Path) -> Self {
        self.certs.push(folder.to_owned());
        self
    }

    fn mirrored(&self, reference: &Reference) -> Vec<Endpoint> {
        let mirrors = &self.registries.mirrors;
        let Some(mirror) = mirrors.get(&reference.registry).or_else(|| mirrors.get("*")) else { return Vec::new() };
        mirror.endpoint.iter().filter_map(|url| Some(Endpoint { repository: mirror.rewritten(&reference.repository), ..endpoint(url, None)? })).collect()
    }

    /// Adds what is configured for an endpoint's host.
    fn configured(&self, mut endpoint: Endpoint, registry: &str) -> Endpoint {
        let host = endpoint.host().to_owned();
        let configs = &self.registries.configs;
        let own = (host == default_host(registry)).then(|| configs.get(registry)).flatten();
        let Some(config) = configs.get(&host).or(own).or_else(|| configs.get("*")) else { return endpoint };
        endpoint.auth = config.auth.as_ref().and_then(ConfigAuth::decoded).or(endpoint.auth);
        let tls = config.tls.clone();
        endpoint.tls.ca_files.extend(tls.ca_file);
        endpoint.tls.client = tls.cert_file.zip(tls.key_file).or(endpoint.tls.client);
        endpoint.tls.skip_verify |= tls.insecure_skip_verify;
        endpoint
    }

    /// The endpoints of a `hosts.toml`, if there is one.
    fn from_certs(&self, reference: &Reference) -> Option<Vec<Endpoint>> {
        let names = [reference.registry.replace(':', "_") + "_", reference.registry.clone(), "_default".to_owned()];
        let paths = self.certs.iter().flat_map(|folder| names.iter().map(move |name| folder.join(name).join("hosts.toml")));
        let path = paths.into_iter().find(|path| path.is_file())?;
        match std::fs::read_to_string(&path).map_err(|e| e.to_string()).and_then(|text| Toml::parse(&text)) {
            Ok(toml) => Some(toml_endpoints(&toml, reference)),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "mirrors are not used");
                None
            }
        }
    }
}

impl Endpoints for Hosts {
    fn of(&self, reference: &Reference) -> Vec<Endpoint> {
        let mut endpoints = self.mirrored(reference);
        match self.from_certs(reference) {
            Some(from_certs) => endpoints.extend(from_certs),
            None => endpoints.extend(Direct.of(reference)),
        }
        for endpoint in endpoints.iter_mut().filter(|e| e.repository.is_empty()) {
            endpoint.repository.clone_from(&reference.repository);
        }
        endpoints.into_iter().map(|endpoint| self.configured(endpoint, &reference.registry)).collect()
    }
}

impl Mirror {
    /// The first rule that matches changes the name. Rules are Go's, which replace as ours do.
    fn rewritten(&self, repository: &str) -> String {
        for (pattern, replacement) in &self.rewrite {
            match regex::Regex::new(pattern) {
                Ok(pattern) if pattern.is_match(repository) => return pattern.replace_all(repository, replacement.as_str()).into_owned(),
                Ok(_) => {}
                Err(error) => tracing::warn!(pattern, %error, "rewrite rule of a mirror is not used"),
            }
        }
        repository.to_owned()
    }
}

impl ConfigAuth {
    fn decoded(&self) -> Option<(String, String)> {
        use base64::Engine;
        if !self.username.is_empty() {
            return Some((self.username.clone(), self.password.clone()));
        }
        let bytes = base64::engine::general_purpose::STANDARD.decode(self.auth.trim()).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        text.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
    }
}

/// An endpoint from its address: without a path it is spoken to below `/v2`, with one exactly there.
fn endpoint(url: &str, override_path: Option<bool>) -> Option<Endpoint> {
    let url = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    let uri: http::Uri = url.parse().ok()?;
    let origin = format!("{}://{}", uri.scheme_str()?, uri.authority()?);
    let path = uri.path().trim_end_matches('/');
    let as_it_is = override_path.unwrap_or(!path.is_empty());
    let base = if as_it_is { format!("{origin}{path}") } else { format!("{origin}{path}/v2") };
    Some(Endpoint { base, repository: String::new(), auth: None, tls: TlsOptions::default(), headers: Vec::new() })
}

fn toml_endpoints(toml: &Toml, reference: &Reference) -> Vec<Endpoint> {
    let mut endpoints: Vec<Endpoint> = toml.sections("host").filter_map(|url| toml_endpoint(toml, url, &format!("host.\"{url}\""))).collect();
    let server = toml.string("server").and_then(|url| toml_endpoint(toml, url, ""));
    endpoints.push(server.unwrap_or_else(|| direct(&reference.registry)));
    endpoints
}

/// `None` for a host that is not for pulling.
fn toml_endpoint(toml: &Toml, url: &str, section: &str) -> Option<Endpoint> {
    let key = |name: &str| if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
    let capabilities = toml.strings(&key("capabilities"));
    if !capabilities.is_empty() && !capabilities.iter().any(|c| c == "pull") {
        return None;
    }
    let mut found = endpoint(url, Some(toml.boolean(&key("override_path"))))?;
    found.tls.ca_files = toml.strings(&key("ca")).into_iter().map(PathBuf::from).collect();
    found.tls.skip_verify = toml.boolean(&key("skip_verify"));
    let client = toml.strings(&key("client"));
    if let [certificate, private] = &client[..] {
        found.tls.client = Some((certificate.into(), private.into()));
    }
    found.headers = toml.table(&key("header"));
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(hosts: &Hosts, name: &str, expected: &[&str]) {
        let found: Vec<String> = hosts.of(&name.parse().unwrap()).iter().map(|e| format!("{}/{}", e.base, e.repository)).collect();
        assert_eq!(found, expected, "for {name}");
    }

    #[test]
    fn mirrors_of_k3s_come_first_and_the_registry_last() {
        let hosts = Hosts::parse(
            r#"
mirrors:
  docker.io:
    endpoint: ["https://mirror.local:5000", "http://other.local/proxy/v2"]
    rewrite: {"^library/(.*)": "hub/$1"}
  "*":
    endpoint: [everything.local]
configs:
  mirror.local:5000:
    auth: {username: me, password: secret}
    tls: {ca_file: /ca.pem, cert_file: /c.pem, key_file: /k.pem}
  docker.io:
    auth: {auth: "aHViOnB3"}
"#,
        )
        .unwrap();
        check(
            &hosts,
            "busybox",
            &["https://mirror.local:5000/v2/hub/busybox", "http://other.local/proxy/v2/hub/busybox", "https://registry-1.docker.io/v2/library/busybox"],
        );
        check(&hosts, "quay.io/a/b", &["https://everything.local/v2/a/b", "https://quay.io/v2/a/b"]);
        let endpoints = hosts.of(&"busybox".parse().unwrap());
        assert_eq!(endpoints[0].auth, Some(("me".into(), "secret".into())));
        assert_eq!(endpoints[0].tls, TlsOptions { ca_files: vec!["/ca.pem".into()], client: Some(("/c.pem".into(), "/k.pem".into())), skip_verify: false });
        assert_eq!((&endpoints[1].auth, &endpoints[2].auth), (&None, &Some(("hub".into(), "pw".into()))));
        assert!(Hosts::parse("mirrors: [1]").is_err());
        check(&Hosts::parse("").unwrap(), "a.io/b", &["https://a.io/v2/b"]);
    }

    #[test]
    fn hosts_of_containerd_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let write = |host: &str, text: &str| {
            std::fs::create_dir_all(folder.path().join(host)).unwrap();
            std::fs::write(folder.path().join(host).join("hosts.toml"), text).unwrap();
        };
        write(
            "docker.io",
            r#"
server = "https://registry-1.docker.io"  # the origin
[host."https://mirror.local:5000"]
  capabilities = ["pull", "resolve"]
  skip_verify = true
  [host."https://mirror.local:5000".header]
    x-custom = "one"
[host."http://push.local"]
  capabilities = ["push"]
[host."http://deep.local/a/v2"]
  override_path = true
  ca = "/ca.pem"
"#,
        );
        write("_default", "[host.\"http://any.local\"]\n");
        let hosts = Hosts::default().with_certs(folder.path());
        check(
            &hosts,
            "busybox",
            &["https://mirror.local:5000/v2/library/busybox", "http://deep.local/a/v2/library/busybox", "https://registry-1.docker.io/v2/library/busybox"],
        );
        let endpoints = hosts.of(&"busybox".parse().unwrap());
        assert!(endpoints[0].tls.skip_verify && endpoints[0].headers == [("x-custom".to_owned(), "one".to_owned())]);
        assert_eq!(endpoints[1].tls.ca_files, [PathBuf::from("/ca.pem")]);
        check(&hosts, "quay.io/a", &["http://any.local/v2/a", "https://quay.io/v2/a"]);
    }
}
