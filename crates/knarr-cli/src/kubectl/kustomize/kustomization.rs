//! `kustomization.yaml`, as its users write it.

use std::collections::BTreeMap;
use std::path::Path;

use knarr_core::{Value, ValueExt, yaml};
use serde::Deserialize;

use super::resource::Resources;
use crate::kubectl::failure::Result;

/// Fields that are deprecated, and what stands in their place.
const DEPRECATED: &[(&str, &str)] =
    &[("bases", "resources"), ("commonLabels", "labels"), ("imageTags", "images"), ("patchesJson6902", "patches"), ("patchesStrategicMerge", "patches")];
/// Fields that would need programs, or that are not carried out.
const UNSUPPORTED: &[&str] =
    &["helmCharts", "helmChartInflationGenerator", "helmGlobals", "generators", "transformers", "validators", "vars", "configurations", "crds"];

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Kustomization {
    kind: String,
    pub resources: Vec<String>,
    bases: Vec<String>,
    pub components: Vec<String>,
    pub name_prefix: String,
    pub name_suffix: String,
    pub namespace: String,
    pub common_labels: BTreeMap<String, String>,
    pub labels: Vec<Label>,
    pub common_annotations: BTreeMap<String, String>,
    pub patches: Vec<Patch>,
    pub patches_strategic_merge: Vec<String>,
    pub patches_json6902: Vec<Patch>,
    pub images: Vec<Image>,
    image_tags: Vec<Image>,
    pub replicas: Vec<Replica>,
    pub replacements: Vec<Value>,
    pub config_map_generator: Vec<Generator>,
    pub secret_generator: Vec<Generator>,
    pub generator_options: GeneratorOptions,
    pub sort_options: SortOptions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Label {
    pub pairs: BTreeMap<String, String>,
    pub include_selectors: bool,
    pub include_templates: bool,
    pub fields: Vec<FieldSpec>,
}

/// A field that somebody names himself.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct FieldSpec {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub path: String,
    pub create: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Patch {
    pub path: String,
    pub patch: String,
    pub target: Option<Selector>,
    pub options: PatchOptions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PatchOptions {
    pub allow_name_change: bool,
    pub allow_kind_change: bool,
}

/// Which objects are meant: every part is a regular expression for the whole of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Selector {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub name: String,
    pub namespace: String,
    pub label_selector: String,
    pub annotation_selector: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Image {
    pub name: String,
    pub new_name: String,
    pub new_tag: String,
    pub tag_suffix: String,
    pub digest: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Replica {
    pub name: String,
    pub count: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Generator {
    pub name: String,
    pub namespace: String,
    pub behavior: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub files: Vec<String>,
    pub literals: Vec<String>,
    pub envs: Vec<String>,
    env: String,
    pub options: GeneratorOptions,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GeneratorOptions {
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub disable_name_suffix_hash: bool,
    pub immutable: bool,
}

impl GeneratorOptions {
    /// These, and what the folder says of all its generators.
    pub fn over(&self, all: &Self) -> Self {
        let merged = |all: &BTreeMap<String, String>, own: &BTreeMap<String, String>| all.clone().into_iter().chain(own.clone()).collect();
        Self {
            labels: merged(&all.labels, &self.labels),
            annotations: merged(&all.annotations, &self.annotations),
            disable_name_suffix_hash: self.disable_name_suffix_hash || all.disable_name_suffix_hash,
            immutable: self.immutable || all.immutable,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SortOptions {
    order: String,
    legacy_sort_options: Option<LegacySortOptions>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LegacySortOptions {
    order_first: Vec<String>,
    order_last: Vec<String>,
}

/// Kinds that others need, in order, and kinds that look at all others.
const ORDER_FIRST: &[&str] = &[
    "Namespace",
    "ResourceQuota",
    "StorageClass",
    "CustomResourceDefinition",
    "ServiceAccount",
    "PodSecurityPolicy",
    "Role",
    "ClusterRole",
    "RoleBinding",
    "ClusterRoleBinding",
    "ConfigMap",
    "Secret",
    "Endpoints",
    "Service",
    "LimitRange",
    "PriorityClass",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Deployment",
    "StatefulSet",
    "CronJob",
    "PodDisruptionBudget",
];
const ORDER_LAST: &[&str] = &["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"];

impl SortOptions {
    /// # Errors
    /// An order that there is not.
    pub fn sort(&self, resources: &mut Resources) -> Result<()> {
        match (self.order.as_str(), &self.legacy_sort_options) {
            ("fifo", None) => Ok(()),
            ("fifo", Some(_)) => Err("the field 'sortOptions.legacySortOptions' is set but the selected sort order is 'fifo', not 'legacy'".into()),
            // kubectl sorts unless it is told not to.
            ("legacy" | "", options) => {
                let owned = |kinds: &[&str]| kinds.iter().map(|k| (*k).to_owned()).collect::<Vec<_>>();
                let (first, last) = options.as_ref().map_or_else(|| (owned(ORDER_FIRST), owned(ORDER_LAST)), |o| (o.order_first.clone(), o.order_last.clone()));
                let rank = |kind: &str| {
                    let place = |list: &[String]| list.iter().position(|k| k == kind).map(|at| at as i64);
                    place(&first).map(|at| at - first.len() as i64).or_else(|| place(&last).map(|at| at + 1)).unwrap_or(0)
                };
                resources.0.sort_by_cached_key(|r| {
                    let id = r.id();
                    (rank(&id.kind), format!("{}_{}_{}", id.group, id.version, id.kind), id.namespace, id.name)
                });
                Ok(())
            }
            _ => Err("the field 'sortOptions.order' must be one of [fifo, legacy]".into()),
        }
    }
}

impl Kustomization {
    /// # Errors
    /// No YAML, a field of a wrong type, or nothing at all.
    pub fn parse(text: &str, root: &Path) -> Result<Self> {
        let value = yaml::parse(text).map_err(|e| format!("invalid Kustomization: {e}"))?;
        let fields = value.as_object().filter(|m| m.keys().any(|k| k != "apiVersion" && k != "kind")).ok_or("kustomization.yaml is empty")?;
        for (old, new) in DEPRECATED.iter().filter(|(old, _)| fields.contains_key(*old)) {
            eprintln!("# Warning: '{old}' is deprecated. Please use '{new}' instead. Run 'kustomize edit fix' to update your Kustomization automatically.");
        }
        if let Some(field) = UNSUPPORTED.iter().find(|f| fields.contains_key(**f)) {
            return Err(format!("{}: the field '{field}' is not supported by this kubectl", root.display()).into());
        }
        let (api_version, kind) = (value.str_at(&["apiVersion"]).unwrap_or_default(), value.str_at(&["kind"]).unwrap_or_default());
        if !matches!(kind, "" | "Kustomization" | "Component") {
            return Err(format!("Failed to read kustomization file under {}:\nkind should be Kustomization or Component", root.display()).into());
        }
        let wanted = if kind == "Component" { "kustomize.config.k8s.io/v1alpha1" } else { "kustomize.config.k8s.io/v1beta1" };
        if !api_version.is_empty() && api_version != wanted {
            let kind = if kind.is_empty() { "Kustomization" } else { kind };
            return Err(format!("Failed to read kustomization file under {}:\napiVersion for {kind} should be {wanted}", root.display()).into());
        }
        let mut own: Self = serde_json::from_value(stringly(value)).map_err(|e| format!("invalid Kustomization: {e}"))?;
        own.resources.append(&mut own.bases);
        own.images.append(&mut own.image_tags);
        for generator in own.config_map_generator.iter_mut().chain(&mut own.secret_generator) {
            if !generator.env.is_empty() {
                generator.envs.push(std::mem::take(&mut generator.env));
            }
        }
        Ok(own)
    }

    pub fn is_component(&self) -> bool {
        self.kind == "Component"
    }
}

/// YAML's authors write `newTag: 1.27` and `count: "3"`: what must be text or a number is made so. Empty fields count as absent.
fn stringly(mut value: Value) -> Value {
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, v| !v.is_null());
    }
    for (list, key) in [("images", "newTag"), ("images", "digest"), ("images", "tagSuffix")] {
        for item in value.at_mut(&[list]).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(scalar) = item.get(key).filter(|v| v.is_number() || v.is_boolean()).map(ToString::to_string) {
                item[key] = scalar.into();
            }
        }
    }
    value
}
