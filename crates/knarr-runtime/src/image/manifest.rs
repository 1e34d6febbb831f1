//! Manifests, indexes and configs of images: OCI's, and Docker's schema 2, which differ only in media types.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Digest, ImageError};

/// What we ask registries for.
pub const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, */*";
/// Largest manifest, index or config that is read: the distribution specification asks for 4 MiB.
pub const DOCUMENT_BYTES_MAX: usize = 8 << 20;
/// Layers of an image: overlayfs takes 500.
pub const LAYERS_MAX: usize = 500;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Platform {
    /// This machine's.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { architecture: architecture.to_owned(), os: "linux".to_owned(), variant: String::new() }
    }

    /// Whether a machine of platform `self` runs images for `other`; better matches have a lower number.
    fn rank(&self, other: &Self) -> Option<u8> {
        let same = self.architecture == other.architecture && self.os == other.os;
        let variant = match (self.architecture.as_str(), other.variant.as_str()) {
            (_, "") | ("arm64", "v8") | ("amd64", "v1") => Some(0),
            // Later variants of amd64 and arm64 want instructions that may be missing.
            _ => None,
        };
        if same { variant } else { None }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Index {
    pub manifests: Vec<Descriptor>,
}

impl Index {
    /// The manifest for a platform: the first of the best.
    pub fn select(&self, platform: &Platform) -> Result<&Descriptor, ImageError> {
        let rank = |d: &Descriptor| d.platform.as_ref().map_or(Some(9), |p| platform.rank(p));
        self.manifests.iter().filter_map(|d| Some((rank(d)?, d))).min_by_key(|(rank, _)| *rank).map(|(_, d)| d).ok_or(ImageError::Platform)
    }
}

/// A manifest or an index.
pub enum Document {
    Manifest(Manifest),
    Index(Index),
}

impl Document {
    /// Tells by content which it is. One that could be both is refused: its digest would name two images (CVE-2021-41190).
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        #[derive(Deserialize)]
        struct Probe {
            #[serde(default, rename = "schemaVersion")]
            schema_version: u32,
            config: Option<serde::de::IgnoredAny>,
            layers: Option<serde::de::IgnoredAny>,
            manifests: Option<serde::de::IgnoredAny>,
        }
        let invalid = |error: serde_json::Error| ImageError::Invalid(format!("manifest: {error}"));
        let probe: Probe = serde_json::from_slice(bytes).map_err(invalid)?;
        if probe.schema_version == 1 {
            return Err(ImageError::Unsupported("manifest of schema version 1".into()));
        }
        match (probe.manifests.is_some(), probe.config.is_some() || probe.layers.is_some()) {
            (true, false) => Ok(Self::Index(serde_json::from_slice(bytes).map_err(invalid)?)),
            (false, true) => Manifest::parse(bytes).map(Self::Manifest),
            _ => Err(ImageError::Invalid("ambiguous manifest: neither manifest nor index".into())),
        }
    }
}

impl Manifest {
    fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(|e| ImageError::Invalid(format!("manifest: {e}")))?;
        if manifest.layers.len() > LAYERS_MAX {
            return Err(ImageError::Invalid(format!("{} layers, at most {LAYERS_MAX} are possible", manifest.layers.len())));
        }
        Ok(manifest)
    }
}

/// The config of an image, as far as running it needs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub config: Process,
    #[serde(default)]
    pub rootfs: RootFs,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RootFs {
    #[serde(default)]
    pub diff_ids: Vec<Digest>,
}

/// What an image wants to be run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Process {
    #[serde(default, deserialize_with = "null_is_default")]
    pub user: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub entrypoint: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub cmd: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub working_dir: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub stop_signal: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub volumes: BTreeMap<String, serde_json::Value>,
}

fn null_is_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl ImageConfig {
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        serde_json::from_slice(bytes).map_err(|e| ImageError::Invalid(format!("image config: {e}")))
    }
}

/// How a layer is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// Tells by the first bytes, since media types lie now and then.
    pub fn sniff(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_gives_the_manifest_for_this_machine() {
        let entry = |digit: &str, platform: &str| format!(r#"{{"mediaType":"m","digest":"sha256:{}","size":1,"platform":{platform}}}"#, digit.repeat(64));
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{},{},{},{}]}}"#,
            entry("1", r#"{"os":"windows","architecture":"amd64"}"#),
            entry("2", r#"{"os":"linux","architecture":"amd64","variant":"v3"}"#),
            entry("3", r#"{"os":"linux","architecture":"arm64","variant":"v8"}"#),
            entry("4", r#"{"os":"linux","architecture":"amd64"}"#),
        );
        let Ok(Document::Index(index)) = Document::parse(index.as_bytes()) else { panic!("not an index") };
        let select = |architecture: &str| {
            let platform = Platform { architecture: architecture.into(), os: "linux".into(), variant: String::new() };
            index.select(&platform).map(|d| d.digest.hex()[..1].to_owned()).map_err(|e| e.to_string())
        };
        assert_eq!(select("amd64").as_deref(), Ok("4"));
        assert_eq!(select("arm64").as_deref(), Ok("3"));
        assert_eq!(select("riscv64"), Err("no match for platform in manifest: not found".into()));
    }

    #[test]
    fn a_manifest_that_is_also_an_index_is_refused() {
        let both = br#"{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}"#;
        assert!(matches!(Document::parse(both), Err(ImageError::Invalid(_))));
        assert!(matches!(Document::parse(b"{}"), Err(ImageError::Invalid(_))));
    }
}
