//! Looks at what the schema makes, and how fast.
//!
//! - `schema bench [WORD]`: MB/s of the codec's hot paths over golden pairs; of those only whose name has the word in it.
//! - `schema decode < bodies`: each line a body of a built-in kind, decoded as a server does: the JSON that Go would write
//!   again, a tab and the warnings; or the error.
//! - `schema openapi v2|v2.pb|PATH`: an OpenAPI document (`v2.pb` as protobuf, `PATH` of OpenAPI 3: `apis/apps/v1`).

use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use knarr_core::{Encoding, GroupVersionKind, Object};
use knarr_schema::codec::{self, FieldValidation};
use knarr_schema::openapi;
use knarr_schema::registry::Registry;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["bench"] => bench("")?,
        ["bench", word] => bench(word)?,
        ["decode"] => decode()?,
        ["openapi", "v2.pb"] => std::io::stdout().write_all(&openapi::v2_protobuf(&Registry::builtin()))?,
        ["openapi", "v2"] => println!("{}", openapi::v2(&Registry::builtin())),
        ["openapi", path] => println!("{}", openapi::v3(&Registry::builtin(), path).ok_or("no such document")?),
        _ => return Err("usage: schema bench [WORD] | schema decode | schema openapi v2|v2.pb|PATH".into()),
    }
    Ok(())
}

fn decode() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().split(b'\n') {
        let line = line?;
        let at_rest = Object { encoding: Encoding::Json, resource_version: 0, bytes: Bytes::from(line.clone()) };
        match codec::decode_json_kind(&codec::kind_of(&at_rest), &line, FieldValidation::Warn) {
            Ok(decoded) => writeln!(out, "{}\t{}", String::from_utf8_lossy(&codec::encode_json(&decoded.value)), decoded.warnings.join(", "))?,
            Err(error) => writeln!(out, "error: {}", error.message)?,
        }
    }
    Ok(())
}

/// How long each measurement runs.
const TIME: Duration = Duration::from_millis(500);

fn bench(word: &str) -> Result<(), Box<dyn std::error::Error>> {
    let start = Instant::now();
    let registry = Registry::builtin();
    println!("{:<40}{:>10.0} µs", "registry, first use", start.elapsed().as_secs_f64() * 1e6);
    for name in ["core.v1.Pod", "apps.v1.Deployment", "core.v1.Node", "discovery.k8s.io.v1.EndpointSlice"] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
        let read = |extension: &str| std::fs::read(format!("{}.{extension}", file.display()));
        let (json, protobuf) = (read("json")?, read("pb")?);
        let object = Object { encoding: Encoding::Protobuf, resource_version: 1, bytes: Bytes::from(protobuf.clone()) };
        let kind: GroupVersionKind = codec::kind_of(&object);
        let resource = registry.by_kind(&kind.group, &kind.version, &kind.kind).ok_or("not served")?;
        let tree = codec::to_value(&object).map_err(|e| e.message)?;
        println!("{name}: {} bytes of JSON, {} of protobuf", json.len(), protobuf.len());
        let rate = |what: &str, bytes: usize, run: &mut dyn FnMut() -> usize| {
            if what.contains(word) {
                rate(what, bytes, run);
            }
        };
        let mut out = Vec::new();
        rate("write_json", json.len(), &mut || {
            out.clear();
            codec::write_json(&object, &mut out);
            out.len()
        });
        rate("decode_json, strict", json.len(), &mut || codec::decode_json(resource, &json, FieldValidation::Strict).map_or(0, |d| d.warnings.len()));
        rate("decode_protobuf", protobuf.len(), &mut || codec::decode_protobuf(&protobuf).map_or(0, |d| d.0.kind.len()));
        rate("encode_protobuf", protobuf.len(), &mut || codec::encode_protobuf(&tree).map_or(0, |b| b.len()));
        rate("encode_json", json.len(), &mut || codec::encode_json(&tree).len());
        rate("with_resource_version", protobuf.len(), &mut || codec::with_resource_version(&protobuf, 123_456).bytes.len());
        rate("meta", protobuf.len(), &mut || codec::meta(&object).labels.len());
        rate("scalar spec.nodeName", protobuf.len(), &mut || codec::scalar(&object, &["spec", "nodeName"]).len());
    }
    Ok(())
}

/// Prints time per call and bytes per second.
fn rate(what: &str, bytes: usize, run: &mut dyn FnMut() -> usize) {
    let (start, mut calls) = (Instant::now(), 0_u64);
    while start.elapsed() < TIME {
        for _ in 0..16 {
            std::hint::black_box(run());
        }
        calls += 16;
    }
    let seconds = start.elapsed().as_secs_f64() / calls as f64;
    println!("  {what:<38}{:>10.2} µs{:>10.0} MB/s", seconds * 1e6, bytes as f64 / seconds / 1e6);
}
