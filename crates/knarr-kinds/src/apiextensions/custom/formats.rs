//! The string formats that a schema may name (upstream: `kube-openapi/pkg/validation/strfmt`).

use std::sync::LazyLock;

use base64::Engine;
use knarr_core::{names, time};
use regex::Regex;

fn is_match(pattern: &'static LazyLock<Regex>, text: &str) -> bool {
    pattern.is_match(text)
}

macro_rules! pattern {
    ($name:ident, $pattern:expr) => {
        static $name: LazyLock<Regex> = LazyLock::new(|| Regex::new($pattern).expect("the pattern is constant"));
    };
}

pattern!(UUID, r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$");
pattern!(EMAIL, r"^[^@\s]+@[^@\s]+$");
pattern!(MAC, r"(?i)^([0-9a-f]{2}[:-]){5}([0-9a-f]{2})$");
pattern!(HEX_COLOR, r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$");
pattern!(DATE, r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$");
pattern!(DURATION, r"^[-+]?(\d+(\.\d*)?|\.\d+)\s*(ns|us|µs|μs|ms|s|m|h|d|w|[a-z]+)((\d+(\.\d*)?|\.\d+)\s*(ns|us|µs|μs|ms|s|m|h|d|w))*$|^0$");
pattern!(
    HOSTNAME,
    r"^([a-zA-Z0-9\p{S}\p{L}]((-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?)|([a-zA-Z0-9\p{S}\p{L}](([a-zA-Z0-9-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?)(\.)){1,}([a-zA-Z0-9-\p{L}]){2,63})$"
);
pattern!(OBJECT_ID, r"^[0-9a-fA-F]{24}$");
pattern!(URI, r"^([a-zA-Z][a-zA-Z0-9+.-]*:.+|/.*)$");

/// Whether a text has a format. One that is not known is never wrong.
pub fn is_valid(format: &str, text: &str) -> bool {
    match format.replace('-', "").as_str() {
        "datetime" => text.len() > 10 && time::parse(&text.replacen(' ', "T", 1)).is_some(),
        "date" => is_match(&DATE, text),
        "duration" => is_match(&DURATION, text),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "uri" => is_match(&URI, text) && !text.contains(' '),
        "email" => is_match(&EMAIL, text),
        "hostname" => text.len() <= 255 && is_match(&HOSTNAME, text),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => text.parse::<ipnet::IpNet>().is_ok(),
        "mac" => is_match(&MAC, text),
        "uuid" => is_match(&UUID, text),
        "uuid3" => is_match(&UUID, text) && version_of(text) == Some('3'),
        "uuid4" => is_match(&UUID, text) && version_of(text) == Some('4'),
        "uuid5" => is_match(&UUID, text) && version_of(text) == Some('5'),
        "hexcolor" => is_match(&HEX_COLOR, text),
        "bsonobjectid" => is_match(&OBJECT_ID, text),
        "k8sshortname" => names::is_dns1123_label(text).is_empty(),
        "k8slongname" => names::is_dns1123_subdomain(text).is_empty(),
        _ => true,
    }
}

fn version_of(uuid: &str) -> Option<char> {
    uuid.chars().filter(|c| *c != '-').nth(12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_tell_good_from_bad() {
        for (format, good, bad) in [
            ("date-time", "2026-01-02T03:04:05Z", "2026-01-02"),
            ("date", "2026-01-02", "2026-13-02"),
            ("ipv4", "10.0.0.1", "10.0.0"),
            ("cidr", "10.0.0.0/8", "10.0.0.0"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "x"),
            ("byte", "aGk=", "*"),
            ("duration", "1h30m", "soon"),
            ("hostname", "a.example.com", "-"),
            ("uri", "https://example.com/a", "a b"),
            ("email", "a@b.c", "a"),
        ] {
            assert!(is_valid(format, good) && !is_valid(format, bad), "{format}");
        }
    }
}
