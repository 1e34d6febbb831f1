//! The inputs of JSONTestSuite and of the YAML test suite, and what Kubernetes' parsers say of each (`conformance/suites` writes it
//! down): ours must take and refuse the same, and read the same out of what they take.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use knarr_core::{Value, deep, go, yaml};
use knarr_schema::codec;

/// A name and what is wrong there.
type Difference = (String, String);

/// Compares all lines; `read` is our parser, and `in_words` says whether it is to refuse in upstream's words.
fn differences(lines: &str, in_words: bool, read: impl Fn(&[u8]) -> Result<Value, String>) -> Vec<Difference> {
    let mut found = Vec::new();
    for line in lines.lines() {
        let line = codec::parse_json(line.as_bytes()).expect("JSON");
        let text = |field: &str| line.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut input = STANDARD.decode(text("input")).expect("base64");
        if let Some(times) = line.get("times").and_then(Value::as_u64) {
            input = input.repeat(usize::try_from(times).expect("a length"));
            input.push(b'\n');
        }
        let shown = || String::from_utf8_lossy(&input).chars().take(200).collect::<String>();
        match (read(&input), line.get("value"), text("error")) {
            (Ok(ours), Some(wanted), _) => {
                let wanted = codec::parse_json(wanted.to_string().as_bytes()).expect("JSON");
                let ours = codec::parse_json(go::json_compact(&ours).as_bytes()).expect("JSON");
                if ours != wanted {
                    found.push((text("name"), format!("{:?} is read as {ours}, and upstream as {wanted}", shown())));
                }
            }
            (Err(why), Some(wanted), _) => found.push((text("name"), format!("{:?} is refused ({why}), and upstream reads {wanted}", shown()))),
            (Ok(ours), None, why) => found.push((text("name"), format!("{:?} is read as {ours}, and upstream says {why}", shown()))),
            (Err(ours), None, why) if in_words && ours != why => {
                found.push((text("name"), format!("{:?} is refused ({ours}), and upstream says {why}", shown())))
            }
            (Err(_), None, _) => {}
        }
    }
    found
}

#[test]
fn json_is_read_as_upstream_reads_it() {
    let found = deep::run(|| differences(include_str!("suites/json.jsonl"), false, codec::parse_json));
    assert!(found.is_empty(), "{} differences: {found:#?}", found.len());
}

#[test]
fn yaml_is_read_as_upstream_reads_it() {
    let found = deep::run(|| differences(include_str!("suites/yaml.jsonl"), true, |input| yaml::parse(&String::from_utf8_lossy(input))));
    assert!(found.is_empty(), "{} differences: {found:#?}", found.len());
}
