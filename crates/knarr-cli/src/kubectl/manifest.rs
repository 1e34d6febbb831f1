//! Objects out of files: YAML or JSON, several documents in one, lists taken apart, folders, patterns, addresses on the web,
//! standard input.

use std::io::Read;
use std::path::{Path, PathBuf};

use knarr_core::field::go_quote;
use knarr_core::{Value, ValueExt, yaml};

use super::failure::{Failure, Result, go_io};
use super::flags::{Flag, Flags, list, switch, text};

/// `-f`, `-R`, as many verbs take them.
pub const FLAGS: &[Flag] = &[
    list("filename", "Filename, directory, or URL to files with the objects").short('f'),
    switch("recursive", "Process the directory used in -f, --filename recursively").short('R'),
    text("kustomize", "", "Process the kustomization directory; cannot be used together with -f or -R").short('k'),
];

/// One object of a file, and where it stood.
#[derive(Clone, Debug)]
pub struct Read1 {
    pub source: String,
    pub object: Value,
}

/// Whether files were named.
pub fn named(flags: &Flags) -> bool {
    flags.given("filename") || flags.given("kustomize")
}

/// A file must be named.
pub fn require(flags: &Flags) -> Result<()> {
    if named(flags) { Ok(()) } else { Err("must specify one of -f and -k".into()) }
}

/// Every object, in order, and what could not be read.
pub async fn read(flags: &Flags) -> (Vec<Read1>, Vec<Failure>) {
    if let Some(folder) = flags.some("kustomize") {
        return kustomized(flags, folder);
    }
    let (mut objects, mut failures) = (Vec::new(), Vec::new());
    for path in flags.all("filename") {
        let outcome = match path.as_str() {
            "-" => stdin(),
            p if p.starts_with("http://") || p.starts_with("https://") => web(p).await.map(|text| (p.to_owned(), text)),
            p => match files(p, flags.on("recursive")) {
                Ok(paths) => {
                    for path in paths {
                        match one_file(&path) {
                            Ok(found) => objects.extend(found),
                            Err(e) => failures.push(e),
                        }
                    }
                    continue;
                }
                Err(e) => Err(e),
            },
        };
        match outcome.and_then(|(source, text)| parse(&source, &text)) {
            Ok(found) => objects.extend(found),
            Err(e) => failures.push(e),
        }
    }
    (objects, failures)
}

/// What `-k` names.
fn kustomized(flags: &Flags, folder: &str) -> (Vec<Read1>, Vec<Failure>) {
    if flags.given("filename") {
        return (Vec::new(), vec!["only one of -f or -k can be specified".into()]);
    }
    if flags.on("recursive") {
        return (Vec::new(), vec!["the -k flag can't be used with -f or -R".into()]);
    }
    match super::kustomize::build(folder) {
        Ok(objects) => (objects.into_iter().map(|object| Read1 { source: folder.to_owned(), object }).collect(), Vec::new()),
        Err(e) => (Vec::new(), vec![e]),
    }
}

fn stdin() -> Result<(String, String)> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(("STDIN".into(), text))
}

async fn web(url: &str) -> Result<String> {
    let (origin, path) = url.find("://").and_then(|at| url[at + 3..].find('/').map(|p| url.split_at(at + 3 + p))).unwrap_or((url, "/"));
    let transport = knarr_client::TlsTransport::new(knarr_client::tls::Config::new(origin)).map_err(|e| e.to_string())?;
    let request = http::Request::get(path).body(bytes::Bytes::new()).map_err(|e| e.to_string())?;
    let response = transport.fetch(request).await.map_err(|e| e.to_string())?;
    if !response.status().is_success() {
        let code = response.status();
        return Err(format!("unable to read URL {}, server reported {code}, status code={}", go_quote(url), code.as_u16()).into());
    }
    Ok(String::from_utf8_lossy(response.body()).into_owned())
}

fn one_file(path: &Path) -> Result<Vec<Read1>> {
    let source = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|e| format!("open {source}: {}", go_io(&e)))?;
    parse(&source, &text)
}

/// The files that a path means: itself, what a pattern matches, or what a folder holds.
fn files(path: &str, recursive: bool) -> Result<Vec<PathBuf>> {
    let missing = || Failure::from(format!("the path {} does not exist", go_quote(path)));
    if Path::new(path).exists() {
        let found = walk(Path::new(path), recursive, true)?;
        return if found.is_empty() { Err(format!("error reading [{path}]: recognized file extensions are [.json .yaml .yml]").into()) } else { Ok(found) };
    }
    let matches = glob(path);
    if matches.is_empty() { Err(missing()) } else { Ok(matches) }
}

fn walk(path: &Path, recursive: bool, named: bool) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        let wanted = named || path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        return Ok(if wanted { vec![path.to_owned()] } else { Vec::new() });
    }
    let mut inside: Vec<PathBuf> = std::fs::read_dir(path)?.map(|e| e.map(|e| e.path())).collect::<std::io::Result<_>>()?;
    inside.sort();
    let mut found = Vec::new();
    for entry in inside.iter().filter(|e| recursive || !e.is_dir()) {
        found.extend(walk(entry, recursive, false)?);
    }
    Ok(found)
}

/// `*` and `?` in the last part of a path.
fn glob(pattern: &str) -> Vec<PathBuf> {
    let path = Path::new(pattern);
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else { return Vec::new() };
    if !name.contains(['*', '?', '[']) {
        return Vec::new();
    }
    let expression = format!("^{}$", regex::escape(name).replace("\\*", "[^/]*").replace("\\?", "[^/]").replace("\\[", "[").replace("\\]", "]"));
    let Ok(matcher) = regex::Regex::new(&expression) else { return Vec::new() };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        entries.filter(|e| e.file_name().to_str().is_some_and(|n| matcher.is_match(n))).map(|e| path.with_file_name(e.file_name())).collect();
    found.sort();
    found
}

/// Reads one text; a `List` becomes its items.
pub fn parse(source: &str, text: &str) -> Result<Vec<Read1>> {
    let documents = yaml::parse_all(text).map_err(|e| format!("error parsing {source}: error converting YAML to JSON: {e}"))?;
    let mut objects = Vec::new();
    for document in documents.into_iter().filter(|d| !d.is_null()) {
        if document.get("items").is_some_and(Value::is_array) && document.str_at(&["kind"]).is_some_and(|k| k.ends_with("List")) {
            objects.extend(document.list_at(&["items"]).iter().map(|item| Read1 { source: source.to_owned(), object: item.clone() }));
            continue;
        }
        let missing: Vec<&str> = [("apiVersion", "apiVersion not set"), ("kind", "kind not set")]
            .into_iter()
            .filter(|(key, _)| document.str_at(&[key]).unwrap_or_default().is_empty())
            .map(|(_, why)| why)
            .collect();
        let why = match missing.as_slice() {
            [] => {
                objects.push(Read1 { source: source.to_owned(), object: document });
                continue;
            }
            [one] => (*one).to_owned(),
            several => format!("[{}]", several.join(", ")),
        };
        return Err(format!(
            "error validating {}: error validating data: {why}; if you choose to ignore these errors, turn validation off with --validate=false",
            go_quote(source)
        )
        .into());
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_and_lists_become_objects() {
        let text = "apiVersion: v1\nkind: A\n---\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: B}\n- {apiVersion: v1, kind: C}\n";
        let kinds: Vec<String> = parse("x", text).unwrap().iter().map(|o| o.object["kind"].as_str().unwrap().to_owned()).collect();
        assert_eq!(kinds, ["A", "B", "C"]);
        assert_eq!(
            parse("x", "a: b").unwrap_err().to_string(),
            "error: error validating \"x\": error validating data: [apiVersion not set, kind not set]; if you choose to ignore these errors, turn validation off with --validate=false"
        );
    }

    #[test]
    fn folders_and_patterns_name_files() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.json", "c.txt"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let names = |path: &str| files(path, false).map(|f| f.iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect::<Vec<_>>());
        let path = folder.path().display().to_string();
        assert_eq!(names(&path).unwrap(), ["a.json", "b.yaml"]);
        assert_eq!(names(&format!("{path}/*.yaml")).unwrap(), ["b.yaml"]);
        assert!(names(&format!("{path}/none.yaml")).is_err());
    }
}
