//! YAML as Kubernetes reads it: a document becomes the JSON tree that Go's `sigs.k8s.io/yaml` would make of it.
//!
//! This is the one place that knows YAML. Its characters, tokens and events ([`reader`], [`scanner`], [`parser`]) are those of goyaml
//! (`yaml/v2`): the YAML of 1.1 with goyaml's liberties, and its complaints at its lines. What a scalar means is in [`resolve`].
//! As goyaml does, a document is read to its end before anything is made of it: what is no YAML is told first.

mod builder;
mod complaint;
mod parser;
mod reader;
mod resolve;
mod scanner;
mod write;

use serde_json::Value;

use builder::Builder;
use parser::{Kind, Parser};

pub use complaint::has_surrogates;
pub use resolve::resolve;
pub use write::{in_order, to_string};

/// What a strict reader complains about beside the tree.
#[derive(Debug, Default, PartialEq)]
pub struct Document {
    pub value: Value,
    /// `line 3: key "a" already set in map`, in goyaml's words.
    pub duplicates: Vec<String>,
}

/// Reads the first document; an empty text is null.
///
/// # Errors
/// A sentence with the line, when the text is no YAML.
pub fn parse(text: &str) -> Result<Value, String> {
    parse_document(text).map(|d| d.value)
}

/// Reads the first document and tells which keys came twice (the last one wins).
///
/// # Errors
/// As [`parse`].
pub fn parse_document(text: &str) -> Result<Document, String> {
    Ok(read(text, true)?.into_iter().next().unwrap_or_default())
}

/// Reads all documents of a stream, empty ones left out.
///
/// # Errors
/// As [`parse`].
pub fn parse_all(text: &str) -> Result<Vec<Value>, String> {
    Ok(read(text, false)?.into_iter().map(|d| d.value).filter(|v| !v.is_null()).collect())
}

fn read(text: &str, first_only: bool) -> Result<Vec<Document>, String> {
    let mut documents = Vec::new();
    let mut builder = Builder::new(text);
    let mut parser = Parser::new(text);
    loop {
        let event = parser.next()?;
        if event.kind == Kind::StreamEnd {
            return Ok(documents);
        }
        documents.extend(builder.take(event)?);
        if first_only && !documents.is_empty() {
            return Ok(documents);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deep;
    use serde_json::json;

    fn check(yaml: &str, wanted: Value) {
        assert_eq!(parse(yaml).unwrap(), wanted, "{yaml}");
    }

    #[test]
    fn plain_scalars_mean_what_go_means() {
        check("a: yes", json!({"a": true}));
        check("a: off", json!({"a": false}));
        check("a: y", json!({"a": true}));
        check("a: 'yes'", json!({"a": "yes"}));
        check("a: 0644", json!({"a": 420}));
        check("a: 0o17", json!({"a": 15}));
        check("a: 0x1F", json!({"a": 31}));
        check("a: 0b11", json!({"a": 3}));
        check("a: 1_000", json!({"a": 1000}));
        check("a: 1.5", json!({"a": 1.5}));
        check("a: 1e3", json!({"a": 1000}));
        check("a: 089", json!({"a": 89}));
        check("a: ~", json!({"a": null}));
        check("a:", json!({"a": null}));
        check("a: 2020-01-02", json!({"a": "2020-01-02"}));
        check("a: 2020-01-02T03:04:05Z", json!({"a": "2020-01-02T03:04:05Z"}));
        check("a: 1.2.3", json!({"a": "1.2.3"}));
        check("a: 10Gi", json!({"a": "10Gi"}));
        check("a: 12:30", json!({"a": "12:30"}));
        check("a: -5", json!({"a": -5}));
        check("a: 18446744073709551615", json!({"a": 18446744073709551615u64}));
        check("a: !!str 5", json!({"a": "5"}));
        check("a: |\n  x\n  y\n", json!({"a": "x\ny\n"}));
    }

    #[test]
    fn texts_are_nested_as_deep_as_goyaml_reads_them() {
        let lists = |depth: usize, inner: &str| format!("{}{inner}{}", "[".repeat(depth), "]".repeat(depth));
        let blocks = |depth: usize| (0..depth).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>();
        deep::run(|| {
            assert_eq!(deep::depth(&parse(&lists(10_000, "")).unwrap()), 10_000);
            assert_eq!(parse(&lists(10_001, "")).unwrap_err(), "yaml: exceeded max depth of 10000");
            assert_eq!(deep::depth(&parse(&blocks(2_000)).unwrap()), 2_000);
            // Each holds the one before at its bottom.
            let chain = (1..40).map(|i| format!("a{i}: &a{i} {}\n", lists(1_000, &format!("*a{}", i - 1)))).collect::<String>();
            assert_eq!(parse(&format!("a0: &a0 {}\n{chain}", lists(1_000, ""))).unwrap_err(), "yaml: exceeded max depth of 10000");
        });
    }

    #[test]
    fn keys_become_strings_and_maps_merge() {
        check("1: a\ny: b\n", json!({"1": "a", "true": "b"}));
        check("x: &x {a: 1, b: 2}\nz:\n  <<: *x\n  b: 3\n", json!({"x": {"a": 1, "b": 2}, "z": {"a": 1, "b": 3}}));
        assert_eq!(
            parse_document("a: 1\na: 2\n").unwrap(),
            Document { value: json!({"a": 2}), duplicates: vec!["line 2: key \"a\" already set in map".into()] }
        );
    }

    #[test]
    fn a_stream_holds_many_documents() {
        assert_eq!(parse_all("---\na: 1\n---\n---\nb: 2\n").unwrap(), [json!({"a": 1}), json!({"b": 2})]);
        assert_eq!(parse("").unwrap(), Value::Null);
        assert_eq!(parse("{\"kind\": \"Pod\", \"n\": 1}").unwrap(), json!({"kind": "Pod", "n": 1}));
    }

    #[test]
    fn hostile_text_is_refused() {
        assert!(parse("a: [").is_err());
        assert!(parse("a: *b").is_err());
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..9 {
            bomb += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(","));
        }
        assert!(parse(&bomb).unwrap_err().contains("aliasing"));
        let long_text = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), "*a,".repeat(10_000));
        assert!(parse(&long_text).unwrap_err().contains("aliasing"));
        let nested: String = (0..200).map(|n| format!("&a{n} [")).collect();
        let names: String = (0..200).map(|n| format!("*a{n},")).collect();
        assert!(parse(&format!("[{nested}{}{}, {names}]", "x".repeat(400_000), "]".repeat(200))).unwrap_err().contains("aliasing"));
        let around: String = (0..200).map(|n| format!("&a{n} [*a{n}, ")).collect();
        assert_eq!(parse(&format!("{around}{}{}", "x,".repeat(100_000), "]".repeat(200))).unwrap_err(), "yaml: anchor 'a0' value contains itself");
    }

    #[test]
    fn what_has_no_json_is_refused_in_the_words_of_gos_encoders() {
        for (text, wanted) in [
            ("a: .nan", "json: unsupported value: NaN"),
            ("a: -.inf", "json: unsupported value: -Inf"),
            ("~: b", "unsupported map key of type: %!s(<nil>), key: <nil>, value: \"b\""),
            ("? [a]\n: b", "yaml: invalid map key: []interface {}{\"a\"}"),
            ("a: !!int b", "yaml: cannot decode !!str `b` as a !!int"),
            ("a: *b", "yaml: unknown anchor 'b' referenced"),
            ("a: &a [*a]", "yaml: anchor 'a' value contains itself"),
            ("<<: 1", "yaml: map merge requires map or sequence of maps as the value"),
            ("&a [<<: *a]", "yaml: map merge requires map or sequence of maps as the value"),
            ("&a {<<: *a}", "yaml: anchor 'a' value contains itself"),
            ("<<: !!int a", "yaml: map merge requires map or sequence of maps as the value"),
            ("a: {b: [.nan, .inf]}", "json: unsupported value: NaN"),
            ("a: &a [.inf, {~: b}]\nb: *a", "unsupported map key of type: %!s(<nil>), key: <nil>, value: \"b\""),
            ("<<: {a: .inf}", "json: unsupported value: +Inf"),
            ("a: .nan\n~: b\n~: c", "unsupported map key of type: %!s(<nil>), key: <nil>, value: \"c\""),
            ("!!float 9999999999999999999: a", "yaml: cannot decode !!int `9999999999999999999` as a !!float"),
            ("a: !!int b\n}", "yaml: line 1: did not find expected key"),
        ] {
            assert_eq!(parse(text).unwrap_err(), wanted, "{text}");
        }
        check(".inf: 1\n1.5: 2\n1000000.0: 3", json!({".inf": 1, "1.5": 2, "1e+06": 3}));
        check("a: !!binary aGk=", json!({"a": "hi"}));
        check("a: !!float 3", json!({"a": 3}));
        check("a: .nan\na: [{~: b}]\na: c", json!({"a": "c"}));
        check("a: !mine 3", json!({"a": "3"}));
        check("a: !!float 99999999999999999", json!({"a": 100_000_000_000_000_000_u64}));
        check("[!!binary 4oI=, !!binary aGl=]", json!(["\u{fffd}\u{fffd}", "hi"]));
        check("[.1_0, ._1, 0b+1, 0b-10, -0b1]", json!([0.1, "._1", 1, -2, -1]));
    }

    #[test]
    fn goyamls_liberties_are_taken() {
        check("{\na : \"b\",\nhttp://foo.com,\nomitted value:,\n}\n", json!({"a": "b", "http://foo.com": null, "omitted value:": null}));
        check("a: \"quoted \\' scalar\"", json!({"a": "quoted ' scalar"}));
        check("- !!str, xxx\n", json!(["xxx"]));
        check("[!!str, a]", json!(["a"]));
        check("a: \u{feff}b", json!({"a": "\u{feff}b"}));
        check("\u{feff}a: b", json!({"a": "b"}));
        check("\u{ff41}: b", json!({"\u{ff41}": "b"}));
    }

    #[test]
    fn a_text_may_end_without_a_line_break() {
        for (text, wanted) in [
            ("a: |\n  x", json!({"a": "x"})),
            ("a: |\n  x\n  y", json!({"a": "x\ny"})),
            ("a: |\n  x\n", json!({"a": "x\n"})),
            ("a: |\n  x\n  ", json!({"a": "x\n"})),
            ("a: |\n  x\n   ", json!({"a": "x\n "})),
            ("a: >+\n  x", json!({"a": "x"})),
            ("- |+\n   ", json!([""])),
            ("a: |\n  x\nb: 1", json!({"a": "x\n", "b": 1})),
        ] {
            check(text, wanted);
        }
    }

    #[test]
    fn an_alias_means_what_its_name_stood_for_last() {
        check("&x [&x [a], *x]", json!([["a"], ["a"]]));
        check("[&x a, &x b, *x]", json!(["a", "b", "b"]));
        assert_eq!(parse("&x [&x [*x]]").unwrap_err(), "yaml: anchor 'x' value contains itself");
        assert_eq!(parse("[!!int a, *x]").unwrap_err(), "yaml: unknown anchor 'x' referenced");
    }

    #[test]
    fn keys_that_are_no_texts_are_told_as_they_are() {
        let duplicates = |text: &str| parse_document(text).unwrap().duplicates;
        assert_eq!(duplicates("1: a\n1: b"), ["line 2: key 1 already set in map"]);
        assert_eq!(duplicates("1e6: a\n1e6: b"), ["line 2: key 1e+06 already set in map"]);
        assert_eq!(duplicates("\"\\u00a0\": a\n\"\\u00a0\": b"), ["line 2: key \"\\u00a0\" already set in map"]);
        check("!!float 99999999999999999: a\n1e90: b\n-0.0: c", json!({"1e+17": "a", ".inf": "b", "-0": "c"}));
    }

    #[test]
    fn what_is_merged_overwrites_what_stands_before_it() {
        let duplicates = |text: &str| parse_document(text).unwrap().duplicates;
        assert_eq!(duplicates("x: &x\n  a: 1\n  b: 2\ny:\n  b: 3\n  <<: *x\n"), ["line 3: key \"b\" already set in map"]);
        assert_eq!(duplicates("- &x {a: 1, a: 2}\n- *x\n"), ["line 1: key \"a\" already set in map"; 2]);
        assert_eq!(
            duplicates("x: &x\n  c: 1\n  a: 2\ny: {a: 1, <<: [*x,\n {c: 4, a: 5, c: 6}]}\n"),
            [
                "line 5: key \"a\" already set in map",
                "line 5: key \"c\" already set in map",
                "line 2: key \"c\" already set in map",
                "line 3: key \"a\" already set in map"
            ]
        );
        check("x: &x {a: 1, b: 2}\nz:\n  b: 3\n  <<: *x\n", json!({"x": {"a": 1, "b": 2}, "z": {"b": 2, "a": 1}}));
        check("z:\n  <<: [{a: 1}, {a: 2, b: 2}]\n", json!({"z": {"a": 1, "b": 2}}));
    }
}
