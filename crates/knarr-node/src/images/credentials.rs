//! Which registry credentials fit an image: `auths` of Docker's configuration, whose keys may hold a path and `*` in parts
//! of the host name; the longest fitting key comes first (upstream: `pkg/credentialprovider/keyring.go`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use knarr_runtime::cri::Auth;
use serde::Deserialize;

use crate::container::env::Data;

const DOCKER_HUB: &str = "index.docker.io";

#[derive(Clone, Debug)]
pub struct Candidate {
    key: String,
    pub auth: Auth,
    /// The secret it came from and a mark of its content; absent: the node's own.
    pub secret: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Keyring(Vec<Candidate>);

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: std::collections::BTreeMap<String, Entry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

impl Entry {
    fn into_auth(self) -> Auth {
        let decoded = STANDARD.decode(self.auth.trim()).ok().and_then(|b| String::from_utf8(b).ok()).unwrap_or_default();
        let (user, password) = decoded.split_once(':').unwrap_or_default();
        let or = |own: String, other: &str| if own.is_empty() { other.to_owned() } else { own };
        Auth {
            username: or(self.username, user),
            password: or(self.password, password),
            identity_token: self.identitytoken,
            registry_token: self.registrytoken,
        }
    }
}

impl Keyring {
    /// Adds a Secret of type `kubernetes.io/dockerconfigjson` or `kubernetes.io/dockercfg`. Content that cannot be read is left out.
    pub fn add_secret(&mut self, namespace: &str, name: &str, data: &Data) {
        let mark = |bytes: &[u8]| {
            format!("{namespace}/{name}/{:x}", bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3)))
        };
        if let Some(bytes) = data.get(".dockerconfigjson") {
            self.add_config(bytes, Some(mark(bytes)));
        } else if let Some(bytes) = data.get(".dockercfg") {
            self.add_entries(serde_json::from_slice(bytes).unwrap_or_default(), Some(mark(bytes)));
        }
    }

    /// Adds the text of a `config.json`.
    pub fn add_config(&mut self, bytes: &[u8], secret: Option<String>) {
        match serde_json::from_slice::<DockerConfig>(bytes) {
            Ok(config) => self.add_entries(config.auths, secret),
            Err(error) => tracing::warn!(%error, "registry credentials could not be read"),
        }
    }

    fn add_entries(&mut self, entries: std::collections::BTreeMap<String, Entry>, secret: Option<String>) {
        for (key, entry) in entries {
            self.0.push(Candidate { key: normal_key(&key), auth: entry.into_auth(), secret: secret.clone() });
        }
        self.0.sort_by(|a, b| b.key.cmp(&a.key));
    }

    /// The credentials that fit an image, the most special first.
    pub fn lookup(&self, image: &str) -> Vec<Candidate> {
        let target = repository(image);
        let fitting: Vec<_> = self.0.iter().filter(|c| fits(&c.key, &target)).cloned().collect();
        if fitting.is_empty() && target.starts_with("docker.io/") {
            return self.0.iter().filter(|c| c.key.starts_with(DOCKER_HUB)).cloned().collect();
        }
        fitting
    }
}

/// Host and path without scheme, `/v1/` and `/v2/`.
fn normal_key(key: &str) -> String {
    let bare = key.split_once("://").map_or(key, |(_, rest)| rest);
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let path = path.trim_matches('/');
    let path = ["v1", "v2"].iter().find_map(|v| path.strip_prefix(v).filter(|r| r.is_empty() || r.starts_with('/'))).unwrap_or(path).trim_matches('/');
    if path.is_empty() { host.to_owned() } else { format!("{host}/{path}") }
}

/// Registry and repository of an image, without tag and digest.
fn repository(image: &str) -> String {
    let name = image.split('@').next().unwrap_or(image);
    let name = match name.rsplit_once(':') {
        Some((head, tag)) if !tag.contains('/') => head,
        _ => name,
    };
    match name.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

fn fits(key: &str, target: &str) -> bool {
    let split = |s: &str| {
        let (host, path) = s.split_once('/').unwrap_or((s, ""));
        let (name, port) = host.split_once(':').unwrap_or((host, ""));
        (name.to_owned(), port.to_owned(), path.to_owned())
    };
    let ((key_host, key_port, key_path), (host, port, path)) = (split(key), split(target));
    let (key_parts, parts): (Vec<_>, Vec<_>) = (key_host.split('.').collect(), host.split('.').collect());
    key_port == port && key_parts.len() == parts.len() && key_parts.iter().zip(&parts).all(|(k, p)| glob(k, p)) && path.starts_with(&key_path)
}

/// `*` stands for any text within one part of a host name.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| (0..=rest.len()).any(|i| rest.is_char_boundary(i) && glob(tail, &rest[i..]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(keys: &[&str], image: &str) -> String {
        let mut keyring = Keyring::default();
        let auths: Vec<_> = keys.iter().map(|k| format!("\"{k}\": {{\"username\": \"{k}\", \"password\": \"p\"}}")).collect();
        keyring.add_config(format!("{{\"auths\": {{{}}}}}", auths.join(",")).as_bytes(), None);
        keyring.lookup(image).iter().map(|c| c.auth.username.clone()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_longest_fitting_key_comes_first() {
        assert_eq!(users(&["r.io", "r.io/a", "r.io/b", "x.io"], "r.io/a/img:1"), "r.io/a r.io");
        assert_eq!(users(&["*.r.io", "r.io"], "eu.r.io/img"), "*.r.io");
        assert_eq!(users(&["r.io:5000"], "r.io:5000/img@sha256:0"), "r.io:5000");
        assert_eq!(users(&["r.io:5000"], "r.io/img"), "");
    }

    #[test]
    fn docker_hub_goes_by_its_old_name() {
        assert_eq!(users(&["https://index.docker.io/v1/"], "busybox"), "https://index.docker.io/v1/");
        assert_eq!(users(&["docker.io"], "me/app:1"), "docker.io");
    }

    #[test]
    fn user_and_password_may_be_joined() {
        let mut keyring = Keyring::default();
        keyring.add_config(br#"{"auths": {"r.io": {"auth": "bWU6c2VjcmV0"}}}"#, None);
        let found = &keyring.lookup("r.io/x")[0].auth;
        assert_eq!((found.username.as_str(), found.password.as_str()), ("me", "secret"));
    }
}
