//! The rules for names and label keys, with upstream's texts (`k8s.io/apimachinery/pkg/util/validation`).
//! Each function gives the problems found; none means that the name is good.

pub const DNS1123_LABEL_MAX: usize = 63;
pub const DNS1123_SUBDOMAIN_MAX: usize = 253;
pub const DNS1035_LABEL_MAX: usize = 63;
pub const LABEL_VALUE_MAX: usize = 63;
pub const QUALIFIED_NAME_MAX: usize = 63;

/// Names of objects say "characters" where label keys and values say "bytes".
fn too_long(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn too_many_bytes(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn is_label(s: &str) -> bool {
    let b = s.as_bytes();
    !b.is_empty() && lower_alnum(b[0]) && lower_alnum(b[b.len() - 1]) && b.iter().all(|&c| lower_alnum(c) || c == b'-')
}

/// A lower-case RFC 1123 label.
pub fn is_dns1123_label(s: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if s.len() > DNS1123_LABEL_MAX {
        problems.push(too_long(DNS1123_LABEL_MAX));
    }
    if !is_label(s) && s.split('.').all(is_label) {
        problems.push("must not contain dots".into());
    } else if !is_label(s) {
        problems.push("a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')".into());
    }
    problems
}

/// A lower-case RFC 1123 subdomain.
pub fn is_dns1123_subdomain(s: &str) -> Vec<String> {
    subdomain_problems(s, too_long)
}

fn subdomain_problems(s: &str, too_long: fn(usize) -> String) -> Vec<String> {
    let mut problems = Vec::new();
    if s.len() > DNS1123_SUBDOMAIN_MAX {
        problems.push(too_long(DNS1123_SUBDOMAIN_MAX));
    }
    if !s.split('.').all(is_label) {
        problems.push("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')".into());
    }
    problems
}

/// A DNS-1035 label, as Services have.
pub fn is_dns1035_label(s: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if s.len() > DNS1035_LABEL_MAX {
        problems.push(too_long(DNS1035_LABEL_MAX));
    }
    if !is_label(s) || !s.as_bytes()[0].is_ascii_lowercase() {
        problems.push("a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')".into());
    }
    problems
}

fn is_qualified_part(s: &str) -> bool {
    let b = s.as_bytes();
    !b.is_empty()
        && b[0].is_ascii_alphanumeric()
        && b[b.len() - 1].is_ascii_alphanumeric()
        && b.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

const QUALIFIED_NAME_TEXT: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

/// A label key, an annotation key, a finalizer: `name` or `prefix/name`.
pub fn is_qualified_name(s: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let parts: Vec<&str> = s.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                problems.push("prefix part must be non-empty".into());
            } else {
                problems.extend(subdomain_problems(prefix, too_many_bytes).into_iter().map(|p| format!("prefix part {p}")));
            }
            name
        }
        _ => {
            return vec![format!("a valid label key {QUALIFIED_NAME_TEXT} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')")];
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".into());
    } else if name.len() > QUALIFIED_NAME_MAX {
        problems.push(format!("name part {}", too_many_bytes(QUALIFIED_NAME_MAX)));
    }
    if !is_qualified_part(name) {
        problems.push(format!("name part {QUALIFIED_NAME_TEXT}"));
    }
    problems
}

/// A label's value; it may be empty.
pub fn is_label_value(s: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if s.len() > LABEL_VALUE_MAX {
        problems.push(too_many_bytes(LABEL_VALUE_MAX));
    }
    if !s.is_empty() && !is_qualified_part(s) {
        problems.push("a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')".into());
    }
    problems
}

/// A key of a ConfigMap's or Secret's data: a file name, when it is mounted.
pub fn is_config_key(s: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if s.len() > DNS1123_SUBDOMAIN_MAX {
        problems.push(format!("must be no more than {DNS1123_SUBDOMAIN_MAX} characters"));
    }
    if s.is_empty() || !s.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_')) {
        problems.push("a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')".into());
    }
    match s {
        "." | ".." => problems.push(format!("must not be '{s}'")),
        _ if s.starts_with("..") => problems.push("must not start with '..'".into()),
        _ => {}
    }
    problems
}

/// A name that stands as one segment of a path (RBAC's names).
pub fn is_path_segment(s: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if s == "." || s == ".." {
        return vec![format!("may not be '{s}'")];
    }
    for part in ["/", "%"] {
        if s.contains(part) {
            problems.push(format!("may not contain '{part}'"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names_have_no_problems() {
        for s in ["a", "a-b", "1a", "my-name"] {
            assert!(is_dns1123_label(s).is_empty(), "{s}");
        }
        assert!(is_dns1123_subdomain("a.b-c.d").is_empty());
        assert!(is_qualified_name("kubernetes.io/metadata.name").is_empty());
        assert!(is_label_value("").is_empty());
        assert!(is_config_key(".KEY_a-1").is_empty());
    }

    #[test]
    fn bad_names_have_some() {
        for s in ["", "-a", "A", "a.b", "a_b"] {
            assert!(!is_dns1123_label(s).is_empty(), "{s}");
        }
        for s in ["", ".", "a..b", "a."] {
            assert!(!is_dns1123_subdomain(s).is_empty(), "{s}");
        }
        for s in ["", "/a", "a/", "a/b/c", "-a"] {
            assert!(!is_qualified_name(s).is_empty(), "{s}");
        }
        assert!(!is_dns1035_label("1a").is_empty());
        for s in ["", "a/b", ".", "..", "..a"] {
            assert!(!is_config_key(s).is_empty(), "{s}");
        }
    }
}
