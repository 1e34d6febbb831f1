//! Kustomize: objects put together out of folders, each of which says in its `kustomization.yaml` what it takes from where and what
//! it changes. Follows `sigs.k8s.io/kustomize/api`, whose output `kubectl kustomize` prints and `-k` sends.
//!
//! ```text
//! folder ─ resources (files, other folders) ─ generators ─ components ─ patches, namespace, names, labels, … ─┐
//! parent folder ◀────────────────────────────────────────────────────────────────────────────────────────────┘
//! at the top: hashes go into names, and whoever named an object follows its new name
//! ```
//!
//! Left out: what kubectl's users cannot have without flags or programs (Helm charts, plug-ins in containers, git repositories),
//! and the deprecated `vars`. Whoever uses them is told so.

mod fields;
mod generate;
mod kustomization;
mod merge;
mod names;
mod patches;
mod replace;
mod resource;
mod transform;

use std::path::{Path, PathBuf};

use knarr_core::Value;

use super::failure::{Failure, Result, go_io};
use kustomization::Kustomization;
use resource::{Resource, Resources};

/// Names under which a folder's file is looked for.
const FILES: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];
/// A chain of folders longer than this goes in a circle.
const DEPTH_MAX: usize = 100;
const LOCAL_CONFIG: &str = "config.kubernetes.io/local-config";

/// The objects that a folder makes.
///
/// # Errors
/// What is wrong with which file.
pub fn build(folder: &str) -> Result<Vec<Value>> {
    let root = root(folder)?;
    let (target, mut resources) = (Target::load(&root, 0)?, Resources::default());
    target.accumulate(&mut resources)?;
    names::add_hashes(&mut resources);
    names::follow(&mut resources)?;
    resources.0.retain(|r| r.annotation(LOCAL_CONFIG).is_none_or(|v| v == "false"));
    target.kustomization.sort_options.sort(&mut resources)?;
    Ok(resources.0.into_iter().map(|r| r.object).collect())
}

/// The folder that the user named.
fn root(folder: &str) -> Result<PathBuf> {
    let path = std::env::current_dir()?.join(folder);
    path.canonicalize().map_err(|e| {
        let path = path.display();
        Failure::from(format!("must build at directory: not a valid directory: evalsymlink failure on '{path}' : lstat {path}: {}", go_io(&e)))
    })
}

fn absolute(base: &Path, named: &str) -> Result<PathBuf> {
    let path = base.join(named);
    path.canonicalize().map_err(|e| Failure::from(format!("{}: {}", path.display(), go_io(&e))))
}

/// One folder.
struct Target {
    root: PathBuf,
    depth: usize,
    kustomization: Kustomization,
}

impl Target {
    fn load(root: &Path, depth: usize) -> Result<Self> {
        if depth > DEPTH_MAX {
            return Err(format!("cycle detected: {} is included again and again", root.display()).into());
        }
        let found: Vec<PathBuf> = FILES.iter().map(|name| root.join(name)).filter(|p| p.is_file()).collect();
        let path = match found.as_slice() {
            [] => {
                return Err(
                    format!("unable to find one of 'kustomization.yaml', 'kustomization.yml' or 'Kustomization' in directory '{}'", root.display()).into()
                );
            }
            [one] => one,
            _ => return Err(format!("Found multiple kustomization files under: {}\n", root.display()).into()),
        };
        let text = std::fs::read_to_string(path).map_err(|e| format!("open {}: {}", path.display(), go_io(&e)))?;
        let kustomization = Kustomization::parse(&text, root)?;
        Ok(Self { root: root.to_owned(), depth, kustomization })
    }

    /// Adds what this folder makes.
    fn accumulate(&self, resources: &mut Resources) -> Result<()> {
        let own = &self.kustomization;
        for path in &own.resources {
            self.accumulate_path(path, resources).map_err(|e| wrapped("accumulating resources", &e))?;
        }
        generate::run(&self.root, own, resources)?;
        for path in &own.components {
            let component = Self::load(&absolute(&self.root, path)?, self.depth + 1)?;
            if !component.kustomization.is_component() {
                return Err(format!(
                    "accumulating components: accumulateDirectory: \"expected kind 'Component' for path '{}' but got 'Kustomization'\"",
                    component.root.display()
                )
                .into());
            }
            component.accumulate(resources)?;
        }
        self.transform(resources)
    }

    /// In the order in which kustomize runs its transformers.
    fn transform(&self, resources: &mut Resources) -> Result<()> {
        let own = &self.kustomization;
        patches::strategic(&self.root, &own.patches_strategic_merge, resources)?;
        patches::run(&self.root, &own.patches, resources)?;
        transform::namespace(&own.namespace, resources)?;
        transform::affix(&own.name_prefix, &own.name_suffix, resources);
        transform::labels(&own.labels, &own.common_labels, resources);
        transform::annotations(&own.common_annotations, resources);
        patches::run(&self.root, &own.patches_json6902, resources)?;
        transform::replicas(&own.replicas, resources)?;
        transform::images(&own.images, resources)?;
        replace::run(&self.root, &own.replacements, resources)
    }

    /// A file of objects, or another folder.
    fn accumulate_path(&self, path: &str, resources: &mut Resources) -> Result<()> {
        if path.contains("://") || path.starts_with("git@") || path.starts_with("github.com/") {
            return Err(format!("accumulation err='{path} is on another machine': only files and folders of this one are read").into());
        }
        let whole = absolute(&self.root, path).map_err(|e| wrapped(&format!("accumulating resources from '{path}'"), &e))?;
        if whole.is_dir() {
            let base = Self::load(&whole, self.depth + 1)?;
            if base.kustomization.is_component() {
                return Err(format!("expected kind != 'Component' for path '{}'", whole.display()).into());
            }
            let mut below = Resources::default();
            base.accumulate(&mut below).map_err(|e| wrapped(&format!("recursed accumulation of path '{}'", whole.display()), &e))?;
            return below.0.into_iter().try_for_each(|r| resources.append(r));
        }
        let text = std::fs::read_to_string(&whole).map_err(|e| format!("open {}: {}", whole.display(), go_io(&e)))?;
        resource::parse(&text, path)?.into_iter().try_for_each(|object| resources.append(Resource::new(object)))
    }
}

fn wrapped(what: &str, why: &Failure) -> Failure {
    let why = why.to_string();
    format!("{what}: {}", why.strip_prefix("error: ").unwrap_or(&why)).into()
}

#[cfg(test)]
mod tests;
