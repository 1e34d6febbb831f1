//! Image references, as far as defaulting needs them (upstream: `pkg/util/parsers.ParseImageName`, on the grammar of
//! `github.com/distribution/reference`).

/// The tag of an image reference, `latest` where neither tag nor digest stands. `None`: not a reference.
pub fn tag(image: &str) -> Option<&str> {
    let (name_and_tag, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    if digest.is_some_and(|d| !is_digest(d)) || is_hex_id(image) {
        return None;
    }
    let last = name_and_tag.rfind('/').map_or(0, |i| i + 1);
    let (name, tag) = match name_and_tag[last..].find(':') {
        Some(i) => (&name_and_tag[..last + i], Some(&name_and_tag[last + i + 1..])),
        None => (name_and_tag, None),
    };
    if !is_name(name) || tag.is_some_and(|t| !is_tag(t)) {
        return None;
    }
    Some(tag.unwrap_or(if digest.is_some() { "" } else { "latest" }))
}

/// What `imagePullPolicy` is when nobody says.
pub fn default_pull_policy(image: &str) -> &'static str {
    if tag(image) == Some("latest") { "Always" } else { "IfNotPresent" }
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    !tag.is_empty() && tag.len() <= 128 && word(tag.as_bytes()[0]) && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, hex)| {
        let parts = algorithm.split(['+', '.', '-', '_']);
        let good = parts.clone().all(|p| p.bytes().next().is_some_and(|b| b.is_ascii_alphabetic()) && p.bytes().all(|b| b.is_ascii_alphanumeric()));
        good && hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// 64 hexadecimal digits are an image id, which the grammar refuses as a name.
fn is_hex_id(image: &str) -> bool {
    image.len() == 64 && image.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn is_name(name: &str) -> bool {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" || first.to_lowercase() != first => (Some(first), rest),
        _ => (None, name),
    };
    name.len() <= 255 && domain.is_none_or(is_domain) && path.split('/').all(is_path_component)
}

fn is_domain(domain: &str) -> bool {
    if let Some((address, port)) = domain.strip_prefix('[').and_then(|d| d.split_once(']')) {
        return address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    let (host, port) = domain.split_once(':').map_or((domain, None), |(h, p)| (h, Some(p)));
    let label = |l: &str| !l.is_empty() && !l.starts_with('-') && !l.ends_with('-') && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    host.split('.').all(label) && port.is_none_or(is_port)
}

fn is_port(port: &str) -> bool {
    !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

/// Lower-case letters and digits, joined by one `.`, one or two `_`, or any number of `-`.
fn is_path_component(part: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends = bytes.first().is_some_and(|&b| word(b)) && bytes.last().is_some_and(|&b| word(b));
    ends && bytes.iter().all(|&b| word(b) || b"._-".contains(&b))
        && part
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|joint| ["", ".", "_", "__"].contains(&joint) || joint.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_of_a_reference_is_found() {
        for (image, wanted) in [
            ("i", Some("latest")),
            ("i:v1", Some("v1")),
            ("host:5000/a/b", Some("latest")),
            ("host:5000/a/b:x", Some("x")),
            ("a@sha256:0123456789012345678901234567890123456789012345678901234567890123", Some("")),
            ("a:t@sha256:0123456789012345678901234567890123456789012345678901234567890123", Some("t")),
            ("Bad", None),
            ("a b", None),
            ("", None),
            ("a__b", Some("latest")),
            ("a..b", None),
        ] {
            assert_eq!(tag(image), wanted, "{image}");
        }
        assert_eq!((default_pull_policy("i"), default_pull_policy("i:1"), default_pull_policy("B@")), ("Always", "IfNotPresent", "IfNotPresent"));
    }
}
