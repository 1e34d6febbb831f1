//! Semantic versions, read as `blang/semver` reads them, with the lenient reading of `library/semverlib.go`.

use std::cmp::Ordering;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Semver {
    pub major: u64,
    pub minor: u64,
    pub patch: u64,
    pre: Vec<String>,
}

impl Semver {
    pub fn cmp(&self, other: &Self) -> Ordering {
        let numbers = |v: &Self| (v.major, v.minor, v.patch);
        numbers(self).cmp(&numbers(other)).then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            _ => self.pre.iter().zip(&other.pre).map(|(a, b)| compare_pre(a, b)).find(|o| o.is_ne()).unwrap_or(self.pre.len().cmp(&other.pre.len())),
        })
    }
}

fn compare_pre(a: &str, b: &str) -> Ordering {
    match (a.parse::<u64>(), b.parse::<u64>()) {
        (Ok(a), Ok(b)) => a.cmp(&b),
        (Ok(_), Err(_)) => Ordering::Less,
        (Err(_), Ok(_)) => Ordering::Greater,
        _ => a.cmp(b),
    }
}

/// Reads a version.
///
/// # Errors
/// Why it is none.
pub fn parse(text: &str, normalize: bool) -> Result<Semver, String> {
    if normalize { strict(&normalized(text)?) } else { strict(text) }
}

fn normalized(text: &str) -> Result<String, String> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let mut parts: Vec<String> = text
        .splitn(3, '.')
        .map(|p| {
            let bare = p.trim_start_matches('0');
            if p.len() < 2 {
                p.to_owned()
            } else if bare.starts_with(|c: char| c.is_ascii_digit()) {
                bare.to_owned()
            } else {
                format!("0{bare}")
            }
        })
        .collect();
    if parts.len() < 3 && parts.last().is_some_and(|p| p.contains(['+', '-'])) {
        return Err("short version cannot contain PreRelease/Build meta data".into());
    }
    while parts.len() < 3 {
        parts.push("0".into());
    }
    Ok(parts.join("."))
}

fn strict(text: &str) -> Result<Semver, String> {
    if text.is_empty() {
        return Err("Version string empty".into());
    }
    let parts: Vec<&str> = text.splitn(3, '.').collect();
    let [major, minor, rest] = parts[..] else { return Err("No Major.Minor.Patch elements found".into()) };
    let (rest, build) = rest.split_once('+').map_or((rest, None), |(r, b)| (r, Some(b)));
    let (patch, pre) = rest.split_once('-').map_or((rest, None), |(p, pre)| (p, Some(pre)));
    let identifier = |s: &&str| !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let pre: Vec<&str> = pre.map(|p| p.split('.').collect()).unwrap_or_default();
    for id in &pre {
        if !identifier(id) {
            return Err(format!("Invalid character(s) found in prerelease {}", knarr_core::field::go_quote(id)));
        }
        if id.len() > 1 && id.starts_with('0') && id.chars().all(|c| c.is_ascii_digit()) {
            return Err(format!("Numeric PreRelease version must not contain leading zeroes {}", knarr_core::field::go_quote(id)));
        }
    }
    if !build.into_iter().flat_map(|b| b.split('.')).all(|b| identifier(&b)) {
        return Err("Invalid character(s) found in build meta data".into());
    }
    Ok(Semver {
        major: number(major, "Major")?,
        minor: number(minor, "Minor")?,
        patch: number(patch, "Patch")?,
        pre: pre.into_iter().map(str::to_owned).collect(),
    })
}

fn number(text: &str, which: &str) -> Result<u64, String> {
    let quoted = knarr_core::field::go_quote(text);
    if !text.chars().all(|c| c.is_ascii_digit()) {
        return Err(format!("Invalid character(s) found in {} number {quoted}", which.to_lowercase()));
    }
    if text.len() > 1 && text.starts_with('0') {
        return Err(format!("{which} number must not contain leading zeroes {quoted}"));
    }
    text.parse().map_err(|_| format!("strconv.ParseUint: parsing {quoted}: invalid syntax"))
}
