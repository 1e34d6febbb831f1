//! Turns the tables of `data/` into two files that a running process reads without parsing them: `types.bin`, in which
//! `src/types/load.rs` finds a type when it is first asked for, and `resources.json`, one entry for each served resource.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

use serde_json::{Value, json};

#[path = "src/types/hash.rs"]
mod hash;

/// Slots of the two hash tables: powers of two, at most half full.
const NAME_SLOTS: usize = 4096;
const KIND_SLOTS: usize = 2048;

fn main() {
    let data = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("set by cargo")).join("data");
    let out = PathBuf::from(env::var("OUT_DIR").expect("set by cargo"));
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/types/hash.rs");
    for table in ["schema", "unregistered", "discovery", "columns", "columndescriptions", "storageversions", "fieldselectors"] {
        println!("cargo:rerun-if-changed=data/{table}.json");
    }
    let mut schema = read(&data, "schema");
    // Kinds that every server answers with though no scheme registers them in these versions.
    let unregistered = read(&data, "unregistered");
    for section in ["types", "kinds"] {
        let more = unregistered[section].as_object().expect("a section").clone();
        schema[section].as_object_mut().expect("a section").extend(more);
    }
    let (blob, layout) = types(&schema);
    write(&out, "types.bin", &blob);
    write(&out, "layout.rs", layout.as_bytes());
    write(&out, "resources.json", &resources(&data, &schema["kinds"]));
}

fn read(data: &Path, table: &str) -> Value {
    serde_json::from_slice(&fs::read(data.join(format!("{table}.json"))).expect("table is readable")).expect("table is JSON")
}

fn write(out: &Path, name: &str, bytes: &[u8]) {
    fs::write(out.join(name), bytes).expect("OUT_DIR is writable");
}

fn text(v: &Value) -> &str {
    v.as_str().expect("a string in the table")
}

// ---- types.bin: offsets of types, slots of names, slots of kinds, then the records they point to

fn types(schema: &Value) -> (Vec<u8>, String) {
    let types = schema["types"].as_object().expect("types");
    let kinds = schema["kinds"].as_object().expect("kinds");
    let ids: BTreeMap<&str, u16> = types.keys().enumerate().map(|(i, name)| (name.as_str(), u16::try_from(i).expect("few types"))).collect();
    let records_start = types.len() * 4 + NAME_SLOTS * 2 + KIND_SLOTS * 4;

    let (mut offsets, mut records) = (Vec::new(), Records::default());
    let (mut name_slots, mut kind_slots) = (vec![u16::MAX; NAME_SLOTS], vec![u32::MAX; KIND_SLOTS]);
    for (name, described) in types {
        offsets.push(records.end(records_start));
        *free(&mut name_slots, hash::of(&[name]), &u16::MAX) = ids[name.as_str()];
        records.one_type(name, described, &ids);
    }
    let kinds_start = records.end(records_start);
    for (key, name) in kinds {
        let parts: Vec<&str> = key.splitn(3, '/').collect();
        *free(&mut kind_slots, hash::of(&parts), &u32::MAX) = records.end(records_start);
        parts.iter().for_each(|p| records.text(p));
        records.u16(ids[text(name)]);
    }

    let mut blob = Vec::new();
    offsets.iter().for_each(|o| blob.extend(o.to_le_bytes()));
    name_slots.iter().for_each(|s| blob.extend(s.to_le_bytes()));
    kind_slots.iter().for_each(|s| blob.extend(s.to_le_bytes()));
    blob.extend(records.bytes);
    let layout = format!(
        "const TYPE_COUNT: usize = {};\nconst NAME_SLOTS: usize = {NAME_SLOTS};\nconst KIND_SLOTS: usize = {KIND_SLOTS};\nconst KIND_COUNT: usize = {};\nconst KINDS_START: usize = {kinds_start};\n",
        types.len(),
        kinds.len(),
    );
    (blob, layout)
}

fn map_type(mt: &Value) -> u8 {
    match mt.as_str() {
        Some("atomic") => 128,
        Some("granular") => 64,
        _ => 0,
    }
}

/// The first free slot for a hash.
fn free<'a, T: PartialEq>(slots: &'a mut [T], hash: u32, empty: &T) -> &'a mut T {
    let mut at = hash as usize & (slots.len() - 1);
    while slots[at] != *empty {
        at = (at + 1) & (slots.len() - 1);
    }
    &mut slots[at]
}

#[derive(Default)]
struct Records {
    bytes: Vec<u8>,
}

impl Records {
    fn end(&self, start: usize) -> u32 {
        u32::try_from(start + self.bytes.len()).expect("a small table")
    }

    fn u16(&mut self, n: u16) {
        self.bytes.extend(n.to_le_bytes());
    }

    fn text(&mut self, s: &str) {
        self.u16(u16::try_from(s.len()).expect("short texts"));
        self.bytes.extend(s.as_bytes());
    }

    fn texts(&mut self, list: &Value) {
        let list = list.as_array().map_or(&[][..], Vec::as_slice);
        self.bytes.push(u8::try_from(list.len()).expect("short lists"));
        list.iter().for_each(|s| self.text(text(s)));
    }

    /// JSON text, or nothing.
    fn json(&mut self, v: Option<&Value>) {
        self.bytes.push(u8::from(v.is_some()));
        if let Some(v) = v {
            self.text(&v.to_string());
        }
    }

    fn shape(&mut self, code: &str, ids: &BTreeMap<&str, u16>) {
        let (first, rest) = code.split_at(1);
        self.bytes.push(match code {
            "TM" => b'M',
            _ if first == "@" && code.ends_with('*') => b'*',
            _ => code.as_bytes()[0],
        });
        match first {
            "[" | "{" => self.shape(rest, ids),
            "@" => self.u16(ids[rest.trim_end_matches('*')]),
            _ => {}
        }
    }

    fn one_type(&mut self, name: &str, t: &Value, ids: &BTreeMap<&str, u16>) {
        self.text(name);
        self.bytes.push(u8::from(t["mt"] == "atomic"));
        self.json(t.get("un"));
        self.bytes.push(u8::from(t.get("alias").is_some()));
        if let Some(alias) = t.get("alias") {
            return self.shape(text(alias), ids);
        }
        let fields = t["f"].as_array().expect("fields");
        self.bytes.push(u8::try_from(fields.len()).expect("few fields"));
        // Conversion of upstream sets kind and apiVersion of these again after each decode: they are not on the wire.
        let nested_kind = |f: &Value| if f[0] == "volumeClaimTemplates" { ["PersistentVolumeClaim", "v1"] } else { ["", ""] };
        fields.iter().for_each(|f| self.field(f, nested_kind(f), ids));
    }

    fn field(&mut self, f: &Value, nested_kind: [&str; 2], ids: &BTreeMap<&str, u16>) {
        self.text(&format!("\"{}\":", text(&f[0])));
        nested_kind.iter().for_each(|s| self.text(s));
        self.bytes.push(f[1].as_u64().and_then(|n| u8::try_from(n).ok()).expect("small numbers"));
        self.shape(text(&f[2]), ids);
        let x = &f[4];
        self.bytes.push(f[3].as_u64().and_then(|n| u8::try_from(n).ok()).expect("flags") | map_type(&x["mt"]));
        self.bytes.push(x["lt"].as_str().map_or(b'-', |lt| lt.as_bytes()[0]));
        self.texts(&x["mk"]);
        self.text(x["ps"].as_str().unwrap_or_default());
        self.text(x["pk"].as_str().unwrap_or_default());
        self.text(x["go"].as_str().unwrap_or_default());
        self.json(x.get("df"));
        self.json(x.get("idf"));
        self.texts(&x["en"]);
        self.texts(&x["ien"]);
    }
}

// ---- resources.json: what several tables say of one resource, joined, in discovery's order

fn resources(data: &Path, kinds: &Value) -> Vec<u8> {
    let (columns, storage, selectors) = (read(data, "columns"), read(data, "storageversions"), read(data, "fieldselectors"));
    let descriptions = read(data, "columndescriptions");
    let mut all: Vec<Value> = Vec::new();
    for (key, entry) in ordered(&fs::read_to_string(data.join("discovery.json")).expect("discovery.json is readable")) {
        let parts: Vec<&str> = key.split('/').collect();
        // The core group has no name in the keys.
        let (group, rest) = if parts[0] == "v1" { ("", &parts[..]) } else { (parts[0], &parts[1..]) };
        let version = rest[0];
        // A version that looks like the stable one needs no lines of its own in the other tables.
        let stable = format!("{}v1/{}", if group.is_empty() { String::new() } else { format!("{group}/") }, rest[1]);
        let known = |table: &Value| if table[&key].is_null() { stable.clone() } else { key.clone() };
        if let Some(sub) = rest.get(2) {
            // What is shown of a subresource that is a kind of its own.
            let shown = entry["responseGroupVersion"].as_str().map_or_else(String::new, |group_version| format!("{group_version}/{}", text(&entry["kind"])));
            all.last_mut().expect("a resource precedes its subresources")["subresources"].as_array_mut().expect("a list").push(json!({
                "name": sub, "kind": entry["kind"], "verbs": entry["verbs"], "response": entry["responseGroupVersion"],
                "columns": described(&columns[&shown], &descriptions, &shown),
            }));
            continue;
        }
        let list_kind = format!("{}List", text(&entry["kind"]));
        let has_list = kinds.get(format!("{group}/{version}/{list_kind}")).is_some();
        all.push(json!({
            "group": group, "version": version, "plural": rest[1], "singular": entry["singular"], "kind": entry["kind"],
            "list_kind": if has_list { list_kind } else { String::new() },
            "namespaced": entry["namespaced"], "verbs": entry["verbs"],
            "short_names": or_empty(&entry["shortNames"]), "categories": or_empty(&entry["categories"]), "subresources": [],
            "columns": described(&columns[known(&columns)], &descriptions, &known(&columns)), "selectable_fields": or_empty(&selectors[known(&selectors)]),
            "deprecated": deprecated(&entry, group, version), "lenient": entry["lenient"] == true,
            "storage": storage.get(known(&storage)).cloned().unwrap_or_else(|| json!(if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") })),
        }));
    }
    serde_json::to_vec(&all).expect("a tree is JSON")
}

/// What requests for a kind are told that is on its way out, and the release without it (upstream: `deprecation.WarningMessage`).
fn deprecated(entry: &Value, group: &str, version: &str) -> Value {
    let Some(since) = entry["deprecated"]["since"].as_str() else { return Value::Null };
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let mut warning = format!("{group_version} {} is deprecated in v{since}+", text(&entry["kind"]));
    let removed = entry["deprecated"]["removed"].as_str().unwrap_or_default();
    if !removed.is_empty() {
        warning += &format!(", unavailable in v{removed}+");
    }
    if let Some(instead) = entry["deprecated"]["use"].as_str() {
        warning += &format!("; use {instead}");
    }
    json!({"warning": warning, "removed": removed})
}

/// The columns of a resource, each with what it says of itself: texts are numbered, for most are shared.
fn described(columns: &Value, descriptions: &Value, key: &str) -> Value {
    let mut columns = or_empty(columns);
    for (i, column) in columns.as_array_mut().expect("a list").iter_mut().enumerate() {
        let text = descriptions["columns"][key][i].as_u64().map(|n| descriptions["texts"][n as usize].clone());
        column.as_array_mut().expect("a column").push(text.unwrap_or_else(|| json!("")));
    }
    columns
}

fn or_empty(v: &Value) -> Value {
    if v.is_null() { json!([]) } else { v.clone() }
}

/// The entries of a table in its own order, which a JSON map would lose: one entry a line.
fn ordered(table: &str) -> impl Iterator<Item = (String, Value)> {
    table.lines().filter_map(|line| {
        let (key, entry) = line.trim_end_matches(',').strip_prefix('"')?.split_once("\":")?;
        Some((key.to_owned(), serde_json::from_str(entry).expect("an entry is JSON")))
    })
}
