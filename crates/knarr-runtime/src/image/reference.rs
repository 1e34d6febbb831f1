//! Names of images, read as Docker reads them: `busybox` is `docker.io/library/busybox:latest`.

use std::fmt;
use std::str::FromStr;

use super::{Digest, ImageError};

/// Longest repository name, registry included.
const NAME_LENGTH_MAX: usize = 255;
/// Longest tag.
const TAG_LENGTH_MAX: usize = 128;
const DEFAULT_REGISTRY: &str = "docker.io";

/// A full image name. With a digest, the tag is only decoration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Host and port, `docker.io` when the name has none.
    pub registry: String,
    pub repository: String,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

impl Reference {
    /// Registry and repository, as in `repoDigests`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Name and tag; `None` for a reference by digest.
    pub fn tagged(&self) -> Option<String> {
        match (&self.digest, &self.tag) {
            (None, Some(tag)) => Some(format!("{}:{tag}", self.name())),
            _ => None,
        }
    }

    /// Name and a digest.
    pub fn with_digest(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.name())
    }

    /// What a registry is asked for: the digest, or else the tag.
    pub fn selector(&self) -> &str {
        self.digest.as_ref().map_or_else(|| self.tag.as_deref().unwrap_or("latest"), Digest::as_str)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.digest {
            Some(digest) => write!(f, "{}@{digest}", self.name()),
            None => write!(f, "{}:{}", self.name(), self.tag.as_deref().unwrap_or("latest")),
        }
    }
}

impl FromStr for Reference {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        parse(text).ok_or_else(|| ImageError::Reference(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Reference> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().ok()?)),
        None => (text, None),
    };
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    let (registry, repository) = split_registry(name);
    let sound = is_registry(&registry) && is_repository(&repository) && tag.is_none_or(is_tag) && registry.len() + repository.len() < NAME_LENGTH_MAX;
    let tag = match (tag, &digest) {
        (None, None) => Some("latest"),
        (tag, _) => tag,
    };
    // Sixty-four digits are an id, not a name.
    let is_id = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    (sound && !is_id).then(|| Reference { registry, repository, tag: tag.map(str::to_owned), digest })
}

/// The first part is a registry when it looks like a host: a dot, a port, or `localhost`, or an upper-case letter.
fn split_registry(name: &str) -> (String, String) {
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase()) => (first, rest),
        _ => (DEFAULT_REGISTRY, name),
    };
    let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
    let official = registry == DEFAULT_REGISTRY && !repository.contains('/');
    (registry.to_owned(), if official { format!("library/{repository}") } else { repository.to_owned() })
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, "")) => (address, None),
            Some((address, port)) => match port.strip_prefix(':') {
                Some(port) => (address, Some(port)),
                None => return false,
            },
            None => return false,
        },
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let label = |l: &str| !l.is_empty() && !l.starts_with('-') && !l.ends_with('-') && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let address = text.starts_with('[') && host.parse::<std::net::Ipv6Addr>().is_ok();
    (address || host.split('.').all(label)) && port.is_none_or(|p| !p.is_empty() && p.parse::<u16>().is_ok())
}

fn is_repository(text: &str) -> bool {
    !text.is_empty() && text.split('/').all(is_path_component)
}

/// Lower-case letters and digits, held together by `.`, `_`, `__` or any number of `-`.
fn is_path_component(part: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends = bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric);
    ends && part
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|glue| matches!(glue, "" | "." | "_" | "__") || glue.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    !tag.is_empty() && tag.len() <= TAG_LENGTH_MAX && word(tag.as_bytes()[0]) && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let found = text.parse::<Reference>().map_or_else(|e| e.to_string(), |r| r.to_string());
        assert_eq!(found, expected, "for {text}");
    }

    #[test]
    fn names_are_completed_as_docker_does() {
        let digest = format!("sha256:{}", "a".repeat(64));
        check("busybox", "docker.io/library/busybox:latest");
        check("busybox:1.37", "docker.io/library/busybox:1.37");
        check("grafana/loki", "docker.io/grafana/loki:latest");
        check("index.docker.io/busybox", "docker.io/library/busybox:latest");
        check("registry.k8s.io/e2e-test-images/agnhost:2.66.1", "registry.k8s.io/e2e-test-images/agnhost:2.66.1");
        check("localhost/a", "localhost/a:latest");
        check("127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b:c");
        check("[::1]:5000/a:b", "[::1]:5000/a:b");
        check(&format!("busybox@{digest}"), &format!("docker.io/library/busybox@{digest}"));
        check(&format!("busybox:1@{digest}"), &format!("docker.io/library/busybox@{digest}"));
        check("a__b/c---d", "docker.io/a__b/c---d:latest");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            "Busybox",
            "a//b",
            "a:",
            "a:-b",
            "a@sha256:123",
            "-a",
            "a___b",
            "a..b",
            "x.io:port/a",
            " a",
            "a b",
            "../a",
            "x.io/../a",
            &"a".repeat(64),
            &"a/".repeat(200),
        ] {
            check(text, &format!("invalid reference format: {text:?}"));
        }
    }
}
