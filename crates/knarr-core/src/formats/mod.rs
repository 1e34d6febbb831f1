//! The string formats that a schema or an expression may name (upstream: `kube-openapi/pkg/validation/strfmt`, which asks Go's packages). What is good and what is bad of
//! each was asked of upstream (`fixtures/formats.tsv`).

mod mail;
mod numbers;
pub mod uri;

use std::net::Ipv6Addr;
use std::sync::LazyLock;

use jiff::civil::Date;
use regex::Regex;

use crate::{go, ip, names};

macro_rules! pattern {
    ($name:ident, $pattern:expr) => {
        static $name: LazyLock<Regex> = LazyLock::new(|| Regex::new($pattern).expect("the pattern is constant"));
    };
}

pattern!(BYTES, r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})$");
pattern!(DURATION_PART, r"([0-9]+)[\t\n\f\r ]*([A-Za-zµ]+)");
pattern!(HEX_COLOR, r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$");
pattern!(
    HOSTNAME,
    r"^([a-zA-Z0-9\p{S}\p{L}]((-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?)|([a-zA-Z0-9\p{S}\p{L}](([a-zA-Z0-9-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?)(\.)){1,}([a-zA-Z\p{L}]){2,63})$"
);
pattern!(OBJECT_ID, r"^[0-9a-fA-F]{24}$");
pattern!(
    RGB_COLOR,
    r"^rgb\([\t\n\f\r ]*C[\t\n\f\r ]*,[\t\n\f\r ]*C[\t\n\f\r ]*,[\t\n\f\r ]*C[\t\n\f\r ]*\)$"
        .replace('C', "(0|[1-9][0-9]?|1[0-9]{1,2}|2[0-4][0-9]|25[0-5])")
        .as_str()
);
pattern!(SSN, r"^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$");
pattern!(TIME, r"^([0-9]{2}):([0-9]{2}):([0-9]{2})(.[0-9]+)?(z|[+-][0-9]{2}:[0-9]{2})$");
pattern!(UUID, r"^[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?([0-9a-fA-F])[0-9a-fA-F]{3}-?([0-9a-fA-F])[0-9a-fA-F]{3}-?[0-9a-fA-F]{12}$");

/// The formats of texts that there are. A schema may write them with hyphens anywhere.
const NAMES: &[&str] = &[
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
    "k8sshortname",
    "k8slongname",
];

/// Whether there is such a format of texts.
pub fn is_known(format: &str) -> bool {
    NAMES.contains(&format.replace('-', "").as_str())
}

/// Whether a text has a format. One that is not known is never wrong.
pub fn is_valid(format: &str, text: &str) -> bool {
    match format.replace('-', "").as_str() {
        "bsonobjectid" => OBJECT_ID.is_match(text),
        "uri" => uri::check(text).is_ok(),
        "email" => mail::is_address(text),
        "hostname" => text.len() <= 255 && HOSTNAME.is_match(text) && text.split('.').all(|label| label.len() <= 63),
        "ipv4" => text.contains('.') && ip::parse_sloppy(text).is_some(),
        "ipv6" => text.contains(':') && text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => ip::parse_cidr_sloppy(text).is_some(),
        "mac" => is_mac(text),
        "uuid" => UUID.is_match(text),
        "uuid3" => is_uuid(text, "3", false),
        "uuid4" => is_uuid(text, "4", true),
        "uuid5" => is_uuid(text, "5", true),
        "isbn" => numbers::is_isbn10(text) || numbers::is_isbn13(text),
        "isbn10" => numbers::is_isbn10(text),
        "isbn13" => numbers::is_isbn13(text),
        "creditcard" => numbers::is_credit_card(text),
        "ssn" => text.len() == 11 && SSN.is_match(text),
        "hexcolor" => HEX_COLOR.is_match(text),
        "rgbcolor" => RGB_COLOR.is_match(text),
        "byte" => BYTES.is_match(text),
        "date" => is_date(text),
        "duration" => is_duration(text),
        "datetime" => is_date_time(text),
        "k8sshortname" => names::is_dns1123_label(text).is_empty(),
        "k8slongname" => names::is_dns1123_subdomain(text).is_empty(),
        _ => true,
    }
}

/// 6, 8 or 20 bytes: two digits each between colons or hyphens, four between points, or joined (`net.ParseMAC` of Go 1.26).
fn is_mac(text: &str) -> bool {
    let parts = |separator: char, digits: usize| {
        let mut parts = 0;
        let whole = text.split(separator).all(|part| {
            parts += 1;
            part.len() == digits && part.bytes().all(|b| b.is_ascii_hexdigit())
        });
        if whole { parts * digits / 2 } else { 0 }
    };
    let joined = if text.bytes().all(|b| b.is_ascii_hexdigit()) && text.len().is_multiple_of(2) { text.len() / 2 } else { 0 };
    [joined, parts(':', 2), parts('-', 2), parts('.', 4)].iter().any(|bytes| matches!(bytes, 6 | 8 | 20))
}

/// The later versions also say who has defined them.
fn is_uuid(text: &str, version: &str, says_variant: bool) -> bool {
    let variant = |v: &str| !says_variant || matches!(v, "8" | "9" | "a" | "b" | "A" | "B");
    UUID.captures(text).is_some_and(|found| &found[1] == version && variant(&found[2]))
}

fn is_date(text: &str) -> bool {
    let number = |at: std::ops::Range<usize>| text.get(at).filter(|d| d.bytes().all(|b| b.is_ascii_digit())).and_then(|d| d.parse::<i16>().ok());
    let is_cut = text.len() == 10 && text.as_bytes()[4] == b'-' && text.as_bytes()[7] == b'-';
    let date = number(0..4).zip(number(5..7)).zip(number(8..10)).filter(|_| is_cut);
    date.is_some_and(|((year, month), day)| Date::new(year, month as i8, day as i8).is_ok())
}

/// A date and a time, of which the date alone must be in the calendar; only seconds of a minute, minutes of an hour and hours of a day.
fn is_date_time(text: &str) -> bool {
    let lower = text.to_lowercase();
    let mut parts = lower.split('t');
    let (Some(date), Some(time)) = (parts.next(), parts.next()) else { return false };
    is_date(date) && TIME.captures(time).is_some_and(|t| &t[1] <= "23" && &t[2] <= "59" && &t[3] <= "59")
}

/// Units of Scala's durations by what they are called; whatever begins with the last name counts, too.
const UNITS: [&[&str]; 8] =
    [&["ns", "nano"], &["us", "µs", "micro"], &["ms", "milli"], &["s", "sec"], &["m", "min"], &["h", "hr", "hour"], &["d", "day"], &["w", "wk", "week"]];

/// What Go reads, or has a number with a unit anywhere, and no number beyond 64 bits before a word.
fn is_duration(text: &str) -> bool {
    if go::parse_duration(text).is_ok() {
        return true;
    }
    let is_unit = |word: &str| UNITS.iter().any(|names| names.contains(&word) || names.last().is_some_and(|last| word.starts_with(last)));
    let mut found = false;
    for part in DURATION_PART.captures_iter(text) {
        if part[1].parse::<i64>().is_err() {
            return false;
        }
        found |= is_unit(&part[2].to_lowercase());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As they are called here.
    fn names(list: &str) -> impl Iterator<Item = String> {
        list.split(' ').map(|name| name.replace('-', ""))
    }

    /// Each line is a text as JSON, and after a tab the formats that upstream finds it to have.
    fn differences(answers: &str) -> Vec<String> {
        let mut differences = Vec::new();
        for line in answers.lines() {
            let (text, good) = line.split_once('\t').unwrap();
            let text: String = serde_json::from_str(text).unwrap();
            let good: Vec<String> = names(good).collect();
            let wrong = NAMES.iter().filter(|f| is_valid(f, &text) != good.iter().any(|g| g == *f));
            differences.extend(wrong.map(|f| format!("{f}: {text:?} is {}", if good.iter().any(|g| g == f) { "good" } else { "bad" })));
        }
        differences
    }

    #[test]
    fn texts_have_the_formats_that_upstream_finds() {
        let answers = include_str!("../../fixtures/formats.tsv");
        assert!(NAMES.iter().all(|f| answers.lines().any(|line| names(line.split_once('\t').unwrap().1).any(|good| good == *f))));
        assert_eq!(differences(answers), Vec::<String>::new());
    }

    #[test]
    fn a_format_that_nobody_knows_is_never_wrong() {
        assert!(is_valid("soon", "") && is_valid("date-time", "2026-01-02T03:04:05Z") && !is_valid("date-time", "2026-01-02"));
    }
}
