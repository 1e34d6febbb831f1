//! Images from tarballs: `docker save` archives and OCI layouts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::Deserialize;

use super::manifest::{Compression, DOCUMENT_BYTES_MAX, Document, ImageConfig, Index, Manifest, Platform};
use super::pull::unpack_layer;
use super::store::{ImageRecord, ImageStore};
use super::{Digest, ImageError, Reference};

/// Links inside an archive that lead to links.
const LINKS_MAX: usize = 8;
/// Names in an archive.
const ENTRIES_MAX: usize = 100_000;

/// Loads every image of an archive; gives their names (or ids, for those without).
pub fn load(store: &ImageStore, path: &Path) -> Result<Vec<String>, ImageError> {
    let _lock = store.lock_shared()?;
    let archive = Archive::open(path).map_err(ImageError::io(format!("{}", path.display())))?;
    let names = if archive.entries.contains_key("index.json") && archive.entries.contains_key("oci-layout") {
        load_layout(store, &archive)?
    } else if archive.entries.contains_key("manifest.json") {
        load_docker(store, &archive)?
    } else {
        return Err(ImageError::Invalid("neither a docker archive (manifest.json) nor an OCI layout (oci-layout, index.json)".to_owned()));
    };
    store.sync()?;
    Ok(names)
}

/// What cannot be read is quoted at length by the tar crate.
fn no_archive(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::Other {
        return io::Error::other("no tar archive, or a damaged one; `docker save` writes archives of images, and OCI layouts in tar files are taken, too");
    }
    error
}

/// A tarball with its table of contents.
struct Archive {
    file: File,
    entries: BTreeMap<String, Content>,
}

enum Content {
    Bytes { offset: u64, size: u64 },
    Link(String),
}

impl Archive {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut head = [0u8; 4];
        let n = file.read(&mut head)?;
        file.seek(SeekFrom::Start(0))?;
        if Compression::sniff(&head[..n]) == Compression::Gzip {
            let mut plain = tempfile::tempfile()?;
            io::copy(&mut flate2::read::MultiGzDecoder::new(file), &mut plain)?;
            plain.seek(SeekFrom::Start(0))?;
            file = plain;
        }
        let mut entries = BTreeMap::new();
        for entry in tar::Archive::new(&file).entries_with_seek()? {
            let entry = entry.map_err(no_archive)?;
            let name = plain_name(&entry.path()?);
            let content = match entry.link_name()? {
                Some(target) if entry.header().entry_type().is_hard_link() => Content::Link(plain_name(&target)),
                Some(target) => Content::Link(plain_name(&Path::new(&name).parent().unwrap_or(Path::new("")).join(target))),
                None => Content::Bytes { offset: entry.raw_file_position(), size: entry.size() },
            };
            entries.insert(name, content);
            if entries.len() > ENTRIES_MAX {
                return Err(io::Error::other("too many entries"));
            }
        }
        Ok(Self { file, entries })
    }

    fn reader(&self, name: &str) -> Result<Section<'_>, ImageError> {
        let mut name = plain_name(Path::new(name));
        for _ in 0..LINKS_MAX {
            match self.entries.get(&name) {
                Some(Content::Bytes { offset, size }) => return Ok(Section { file: &self.file, at: *offset, end: offset + size }),
                Some(Content::Link(target)) => name.clone_from(target),
                None => break,
            }
        }
        Err(ImageError::Invalid(format!("archive has no {name}")))
    }

    fn small(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        let mut reader = self.reader(name)?.take(DOCUMENT_BYTES_MAX as u64);
        reader.read_to_end(&mut bytes).map_err(ImageError::io(name))?;
        Ok(bytes)
    }

    fn blob(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let bytes = self.small(&blob_name(digest))?;
        digest.verify(&bytes, "blob")?;
        Ok(bytes)
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// `./a/../b` is `b`.
fn plain_name(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            std::path::Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    parts.join("/")
}

struct Section<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        let n = self.file.read_at(&mut buffer[..want], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

fn load_docker(store: &ImageStore, archive: &Archive) -> Result<Vec<String>, ImageError> {
    let images: Vec<DockerImage> = serde_json::from_slice(&archive.small("manifest.json")?).map_err(|e| ImageError::Invalid(format!("manifest.json: {e}")))?;
    let mut names = Vec::new();
    for image in images {
        let bytes = archive.small(&image.config)?;
        let id = Digest::of(&bytes);
        let config = ImageConfig::parse(&bytes)?;
        if config.rootfs.diff_ids.len() != image.layers.len() {
            return Err(ImageError::Invalid(format!("{} layers but {} diff ids", image.layers.len(), config.rootfs.diff_ids.len())));
        }
        let mut size = bytes.len() as u64;
        for (layer, diff_id) in image.layers.iter().zip(&config.rootfs.diff_ids) {
            size += load_layer(store, archive, layer, None, diff_id)?;
        }
        store.put_blob(&id, &bytes)?;
        let tags = image.repo_tags.unwrap_or_default().iter().map(|t| t.parse::<Reference>().map(|r| r.to_string())).collect::<Result<BTreeSet<_>, _>>()?;
        names.extend(if tags.is_empty() { vec![id.to_string()] } else { tags.iter().cloned().collect() });
        store.add_image(ImageRecord { id, tags, digests: BTreeSet::new(), manifests: BTreeSet::new(), layers: config.rootfs.diff_ids, size, pinned: true })?;
    }
    Ok(names)
}

/// Unpacks a layer where it is missing; gives its size in the archive.
fn load_layer(store: &ImageStore, archive: &Archive, name: &str, digest: Option<&Digest>, diff_id: &Digest) -> Result<u64, ImageError> {
    let reader = archive.reader(name)?;
    let size = reader.end - reader.at;
    if store.layer(diff_id).is_some() {
        return Ok(size);
    }
    // A docker archive tells no digest of the packed layer: that of the unpacked one has to do.
    let own = digest.cloned().map_or_else(|| digest_of(archive.reader(name)?), Ok)?;
    let _lock = store.lock_layer(diff_id)?;
    unpack_layer(store, reader, &own, diff_id)?;
    Ok(size)
}

fn digest_of(mut reader: Section<'_>) -> Result<Digest, ImageError> {
    let mut hasher = super::digest::Hasher::default();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match reader.read(&mut buffer).map_err(ImageError::io("layer"))? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

const NAME_ANNOTATIONS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

fn load_layout(store: &ImageStore, archive: &Archive) -> Result<Vec<String>, ImageError> {
    let index: Index = serde_json::from_slice(&archive.small("index.json")?).map_err(|e| ImageError::Invalid(format!("index.json: {e}")))?;
    let mut names = Vec::new();
    for entry in &index.manifests {
        let (manifest, manifests) = match layout_manifest(store, archive, &entry.digest) {
            Err(ImageError::Platform) if index.manifests.len() > 1 => continue,
            other => other?,
        };
        // A bare tag ("latest") names no image.
        let tag = NAME_ANNOTATIONS.iter().filter_map(|key| entry.annotations.get(*key)).find(|name| name.contains(['/', ':']));
        let reference = tag.map(|t| t.parse::<Reference>()).transpose()?;
        let config = ImageConfig::parse(&archive.blob(&manifest.config.digest)?)?;
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(ImageError::Invalid(format!("{} layers but {} diff ids", manifest.layers.len(), config.rootfs.diff_ids.len())));
        }
        for (layer, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
            load_layer(store, archive, &blob_name(&layer.digest), Some(&layer.digest), diff_id)?;
        }
        store.put_blob(&manifest.config.digest, &archive.blob(&manifest.config.digest)?)?;
        let record = ImageRecord {
            id: manifest.config.digest.clone(),
            tags: reference.iter().filter_map(Reference::tagged).collect(),
            digests: reference.iter().map(|r| r.with_digest(&entry.digest)).collect(),
            manifests,
            layers: config.rootfs.diff_ids,
            size: manifest.config.size + manifest.layers.iter().map(|l| l.size).sum::<u64>(),
            pinned: true,
        };
        names.push(reference.map_or_else(|| record.id.to_string(), |r| r.to_string()));
        store.add_image(record)?;
    }
    if names.is_empty() { Err(ImageError::Platform) } else { Ok(names) }
}

fn layout_manifest(store: &ImageStore, archive: &Archive, digest: &Digest) -> Result<(Manifest, BTreeSet<Digest>), ImageError> {
    let mut seen = BTreeSet::new();
    let mut digest = digest.clone();
    for _ in 0..=2 {
        let bytes = archive.blob(&digest)?;
        store.put_blob(&digest, &bytes)?;
        seen.insert(digest.clone());
        match Document::parse(&bytes)? {
            Document::Manifest(manifest) => return Ok((manifest, seen)),
            Document::Index(index) => digest = index.select(&Platform::host())?.digest.clone(),
        }
    }
    Err(ImageError::Invalid("indexes are nested too deeply".to_owned()))
}
