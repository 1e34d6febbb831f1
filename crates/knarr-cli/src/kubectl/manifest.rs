//! Objects out of files: YAML or JSON, several documents in one, lists taken apart, folders, standard input.

use std::io::Read;
use std::path::{Path, PathBuf};

use knarr_core::{Value, ValueExt, yaml};

use super::session::{Failure, Result};

/// `-f`, as many verbs take it.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Files {
    /// Files or folders with the objects; `-` is standard input
    #[arg(short = 'f', long = "filename")]
    pub files: Vec<PathBuf>,
    /// Take in the folders of a folder, too
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

impl Files {
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Every object, in order.
    pub fn read(&self) -> Result<Vec<Value>> {
        if self.files.is_empty() {
            return Err("must specify one of -f and -k".into());
        }
        let mut objects = Vec::new();
        for path in &self.files {
            if path.as_os_str() == "-" {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text)?;
                objects.extend(parse("STDIN", &text)?);
            } else {
                self.read_path(path, &mut objects)?;
            }
        }
        if objects.is_empty() { Err("no objects passed to apply".into()) } else { Ok(objects) }
    }

    fn read_path(&self, path: &Path, objects: &mut Vec<Value>) -> Result<()> {
        let failed = |_: std::io::Error| Failure::from(format!("the path \"{}\" does not exist", path.display()));
        if !path.metadata().map_err(failed)?.is_dir() {
            objects.extend(parse(&path.display().to_string(), &std::fs::read_to_string(path).map_err(failed)?)?);
            return Ok(());
        }
        let mut inside: Vec<PathBuf> = std::fs::read_dir(path)?.map(|e| e.map(|e| e.path())).collect::<std::io::Result<_>>()?;
        inside.sort();
        for path in inside {
            let wanted = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
            if (path.is_dir() && self.recursive) || (path.is_file() && wanted) {
                self.read_path(&path, objects)?;
            }
        }
        Ok(())
    }
}

/// Reads one text; a `List` becomes its items.
pub fn parse(origin: &str, text: &str) -> Result<Vec<Value>> {
    let documents = yaml::parse_all(text).map_err(|e| format!("error parsing {origin}: {e}"))?;
    let mut objects = Vec::new();
    for document in documents.into_iter().filter(|d| !d.is_null()) {
        let kind = document.str_at(&["kind"]).unwrap_or_default();
        if kind.ends_with("List") && document.at(&["items"]).is_some() {
            objects.extend(document.list_at(&["items"]).iter().cloned());
        } else if kind.is_empty() {
            return Err(format!("error validating \"{origin}\": error validating data: kind not set; if you choose to ignore these errors, turn validation off with --validate=false").into());
        } else if document.str_at(&["apiVersion"]).unwrap_or_default().is_empty() {
            return Err(format!("error validating \"{origin}\": error validating data: apiVersion not set; if you choose to ignore these errors, turn validation off with --validate=false").into());
        } else {
            objects.push(document);
        }
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_and_lists_become_objects() {
        let text = "apiVersion: v1\nkind: A\n---\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: B}\n- {apiVersion: v1, kind: C}\n";
        let kinds: Vec<String> = parse("x", text).unwrap().iter().map(|o| o["kind"].as_str().unwrap().to_owned()).collect();
        assert_eq!(kinds, ["A", "B", "C"]);
        assert!(parse("x", "a: b").is_err());
    }
}
