//! The content store: manifests, configs and unpacked layers on disk. Several agents of one machine may share it.
//!
//! ```text
//! blobs/sha256/HEX      manifests, indexes, configs
//! layers/HEX/fs         an unpacked layer, named by its diff id;  layers/HEX/layer.json  its size
//! images/HEX.json       one record per image, named by the digest of its config
//! leases/NAME.json      layers that a container uses, whatever happens to its image
//! ingest/               layers being unpacked
//! lock                  shared while something is added, exclusive while unreferenced things are removed
//! ```

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::manifest::{ImageConfig, Process};
use super::unpack::Unpacked;
use super::{Digest, ImageError, Reference};

/// Layers that no image names stay so long: a pull that broke off finds them again.
const ORPHAN_AGE: Duration = Duration::from_secs(3600);
/// A folder time younger than this may hide a second change within the clock's tick.
const TIME_TICK: Duration = Duration::from_millis(50);

/// One image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Digest of the config.
    pub id: Digest,
    /// Full names with tags.
    pub tags: BTreeSet<String>,
    /// Full names with digests.
    pub digests: BTreeSet<String>,
    /// Digests of manifests and indexes that lead here.
    pub manifests: BTreeSet<Digest>,
    /// Diff ids, lowest first.
    pub layers: Vec<Digest>,
    /// Bytes as they were transferred.
    pub size: u64,
    /// It was loaded by hand, and no registry may have it: it goes only when somebody says so.
    #[serde(default)]
    pub pinned: bool,
}

/// What is known of an unpacked layer.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct LayerInfo {
    pub bytes: u64,
    pub entries: u64,
    /// The boot in which it was unpacked: after a power cut, unsynced layers of another boot are not trusted.
    boot: u128,
    synced: bool,
}

#[derive(Serialize, Deserialize)]
struct Lease {
    layers: Vec<Digest>,
    /// A folder that lives as long as the user of the lease.
    owner: PathBuf,
}

/// Images by id, as they were when the folder had this time.
type Cache = Option<(SystemTime, Arc<BTreeMap<Digest, ImageRecord>>)>;

/// See the module's text.
pub struct ImageStore {
    root: PathBuf,
    boot: u128,
    cache: Mutex<Cache>,
    changing: Mutex<()>,
}

/// Holds the store's lock; dropping it lets go.
pub struct StoreLock(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

impl ImageStore {
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        for folder in ["blobs/sha256", "blobs/sha512", "layers", "images", "leases", "ingest"] {
            fs::create_dir_all(root.join(folder)).map_err(ImageError::io(format!("{}", root.join(folder).display())))?;
        }
        let store = Self { root: root.to_owned(), boot: boot_id(), cache: Mutex::new(None), changing: Mutex::new(()) };
        store.distrust_unsynced()?;
        Ok(store)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// While held, nothing is collected.
    pub fn lock_shared(&self) -> Result<StoreLock, ImageError> {
        self.lock(FlockArg::LockShared).map_err(ImageError::io("image store lock"))
    }

    fn lock(&self, how: FlockArg) -> io::Result<StoreLock> {
        let file = File::options().create(true).truncate(false).write(true).open(self.root.join("lock"))?;
        Flock::lock(file, how).map(StoreLock).map_err(|(_, errno)| errno.into())
    }

    /// Held while one layer is being unpacked, so that two agents do not unpack it twice.
    pub fn lock_layer(&self, diff_id: &Digest) -> Result<StoreLock, ImageError> {
        let file = File::options().create(true).truncate(false).write(true).open(self.root.join("ingest").join(format!("{}.lock", diff_id.hex())));
        let file = file.map_err(ImageError::io("layer lock"))?;
        Flock::lock(file, FlockArg::LockExclusive).map(StoreLock).map_err(|(_, errno)| ImageError::Io("layer lock".into(), errno.into()))
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm()).join(digest.hex())
    }

    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_path(digest).exists()
    }

    /// Keeps bytes whose digest the caller has checked.
    pub fn put_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<(), ImageError> {
        let path = self.blob_path(digest);
        if path.exists() {
            return Ok(());
        }
        replace(&path, bytes).map_err(ImageError::io(format!("blob {digest}")))
    }

    /// Reads a blob, and checks it again: disks forget.
    pub fn blob(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let bytes = fs::read(self.blob_path(digest)).map_err(ImageError::io(format!("blob {digest}")))?;
        digest.verify(&bytes, "stored blob")?;
        Ok(bytes)
    }

    fn layer_folder(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    /// The folder that overlayfs uses.
    pub fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.layer_folder(diff_id).join("fs")
    }

    pub fn layer(&self, diff_id: &Digest) -> Option<LayerInfo> {
        read_json(&self.layer_folder(diff_id).join("layer.json")).ok()
    }

    /// An empty folder to unpack a layer into: `fs` below what is given.
    pub fn begin_layer(&self) -> Result<tempfile::TempDir, ImageError> {
        let folder = tempfile::Builder::new().prefix("layer-").tempdir_in(self.root.join("ingest")).map_err(ImageError::io("layer folder"))?;
        fs::create_dir(folder.path().join("fs")).map_err(ImageError::io("layer folder"))?;
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(folder.path().join("fs"), fs::Permissions::from_mode(0o755)).map_err(ImageError::io("layer folder"))?;
        Ok(folder)
    }

    /// Makes an unpacked layer known. One that somebody else has finished meanwhile wins.
    pub fn commit_layer(&self, folder: tempfile::TempDir, diff_id: &Digest, unpacked: Unpacked) -> Result<(), ImageError> {
        let info = LayerInfo { bytes: unpacked.bytes, entries: unpacked.entries, boot: self.boot, synced: false };
        write_json(&folder.path().join("layer.json"), &info).map_err(ImageError::io("layer.json"))?;
        match fs::rename(folder.path(), self.layer_folder(diff_id)) {
            Ok(()) => {
                // The folder has moved; there is nothing left to delete.
                let _moved = folder.keep();
                Ok(())
            }
            Err(_) if self.layer(diff_id).is_some() => Ok(()),
            Err(error) => Err(ImageError::Io(format!("layer {diff_id}"), error)),
        }
    }

    /// Flushes the disk and marks new layers as safe. Slow: call it in the background after a pull.
    pub fn sync(&self) -> Result<(), ImageError> {
        let failed = || ImageError::io("syncing layers");
        let fresh: Vec<_> = self.layer_ids()?.into_iter().filter_map(|id| self.layer(&id).filter(|l| !l.synced).map(|l| (id, l))).collect();
        if fresh.is_empty() {
            return Ok(());
        }
        nix::unistd::syncfs(&File::open(&self.root).map_err(failed())?).map_err(io::Error::from).map_err(failed())?;
        for (id, info) in fresh {
            write_json(&self.layer_folder(&id).join("layer.json"), &LayerInfo { synced: true, ..info }).map_err(failed())?;
        }
        Ok(())
    }

    /// Drops layers that another boot left unsynced, and records of images that lack a layer.
    fn distrust_unsynced(&self) -> Result<(), ImageError> {
        let Ok(_lock) = self.lock(FlockArg::LockExclusiveNonblock) else { return Ok(()) };
        for id in self.layer_ids()? {
            if self.layer(&id).is_none_or(|info| !info.synced && info.boot != self.boot) {
                tracing::warn!(layer = %id, "image layer was not synced before the last boot ended: dropped");
                self.discard(&self.layer_folder(&id))?;
            }
        }
        for (id, record) in self.images()?.iter() {
            if !self.has_blob(id) || record.layers.iter().any(|layer| self.layer(layer).is_none()) {
                tracing::warn!(image = %id, "image is incomplete: dropped");
                fs::remove_file(self.record_path(id)).map_err(ImageError::io("image record"))?;
            }
        }
        Ok(())
    }

    fn layer_ids(&self) -> Result<Vec<Digest>, ImageError> {
        let names = file_names(&self.root.join("layers")).map_err(ImageError::io("layers"))?;
        Ok(names.iter().filter_map(|name| format!("{}:{name}", if name.len() == 128 { "sha512" } else { "sha256" }).parse().ok()).collect())
    }

    fn record_path(&self, id: &Digest) -> PathBuf {
        self.root.join("images").join(format!("{}.json", id.hex()))
    }

    /// All images by id.
    pub fn images(&self) -> Result<Arc<BTreeMap<Digest, ImageRecord>>, ImageError> {
        let folder = self.root.join("images");
        let time = folder.metadata().and_then(|m| m.modified()).map_err(ImageError::io("images"))?;
        if let Some((cached, images)) = &*self.cache.lock()
            && *cached == time
        {
            return Ok(images.clone());
        }
        let names = file_names(&folder).map_err(ImageError::io("images"))?;
        let records = names.iter().filter(|n| n.ends_with(".json")).filter_map(|name| read_json::<ImageRecord>(&folder.join(name)).ok());
        let images = Arc::new(records.map(|r| (r.id.clone(), r)).collect::<BTreeMap<_, _>>());
        let settled = SystemTime::now().duration_since(time).is_ok_and(|age| age > TIME_TICK);
        *self.cache.lock() = settled.then(|| (time, images.clone()));
        Ok(images)
    }

    /// The image that an id, a name with a tag or one with a digest stands for.
    pub fn find(&self, text: &str) -> Result<Option<ImageRecord>, ImageError> {
        let images = self.images()?;
        let id = text.parse::<Digest>().or_else(|_| format!("sha256:{text}").parse());
        if let Ok(id) = id {
            return Ok(images.get(&id).or_else(|| images.values().find(|r| r.manifests.contains(&id))).cloned());
        }
        let reference: Reference = text.parse()?;
        let name = reference.to_string();
        Ok(images.values().find(|r| r.tags.contains(&name) || r.digests.contains(&name)).cloned())
    }

    pub fn config(&self, record: &ImageRecord) -> Result<Process, ImageError> {
        Ok(ImageConfig::parse(&self.blob(&record.id)?)?.config)
    }

    /// Adds an image, or new names to one that is here. Its tags are taken from whoever had them.
    pub fn add_image(&self, record: ImageRecord) -> Result<(), ImageError> {
        self.change(|images| {
            let mut record = record;
            for other in images.values().filter(|other| other.id != record.id && !other.tags.is_disjoint(&record.tags)) {
                let tags = other.tags.difference(&record.tags).cloned().collect();
                self.write_record(&ImageRecord { tags, ..other.clone() })?;
            }
            if let Some(old) = images.get(&record.id) {
                record.tags.extend(old.tags.iter().cloned());
                record.digests.extend(old.digests.iter().cloned());
                record.manifests.extend(old.manifests.iter().cloned());
                record.pinned |= old.pinned;
            }
            self.write_record(&record)
        })
    }

    /// Takes a name away; the last one takes the image with it, and so does an id. Layers go with the next [`Self::collect`].
    pub fn remove_image(&self, text: &str) -> Result<(), ImageError> {
        self.change(|_| {
            let Some(mut record) = self.find(text)? else { return Ok(()) };
            let name = text.parse::<Reference>().map(|r| r.to_string()).unwrap_or_default();
            let named = record.tags.remove(&name) || record.digests.remove(&name);
            if named && !record.tags.is_empty() {
                return self.write_record(&record);
            }
            fs::remove_file(self.record_path(&record.id)).map_err(ImageError::io(format!("image {}", record.id)))
        })
    }

    fn write_record(&self, record: &ImageRecord) -> Result<(), ImageError> {
        write_json(&self.record_path(&record.id), record).map_err(ImageError::io(format!("image {}", record.id)))
    }

    /// Runs a change of image records alone on this machine.
    fn change(&self, change: impl FnOnce(&BTreeMap<Digest, ImageRecord>) -> Result<(), ImageError>) -> Result<(), ImageError> {
        let _alone = self.changing.lock();
        let file = File::options().create(true).truncate(false).write(true).open(self.root.join("images.lock")).map_err(ImageError::io("images.lock"))?;
        let _lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| ImageError::Io("images.lock".into(), errno.into()))?;
        *self.cache.lock() = None;
        let result = self.images().and_then(|images| change(&images));
        *self.cache.lock() = None;
        result
    }

    /// Keeps layers from being collected until [`Self::release`], or until `owner` (a folder) is gone.
    pub fn lease(&self, name: &str, layers: &[Digest], owner: &Path) -> Result<(), ImageError> {
        let lease = Lease { layers: layers.to_vec(), owner: owner.to_owned() };
        write_json(&self.lease_path(name), &lease).map_err(ImageError::io(format!("lease {name}")))
    }

    pub fn release(&self, name: &str) -> Result<(), ImageError> {
        match fs::remove_file(self.lease_path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ImageError::Io(format!("lease {name}"), error)),
            _ => Ok(()),
        }
    }

    fn lease_path(&self, name: &str) -> PathBuf {
        self.root.join("leases").join(format!("{name}.json"))
    }

    /// Removes layers and blobs that no image and no lease names. Does nothing while somebody adds something.
    pub fn collect(&self) -> Result<(), ImageError> {
        let Ok(_lock) = self.lock(FlockArg::LockExclusiveNonblock) else { return Ok(()) };
        let leased = self.live_leases()?;
        let images = self.images()?;
        let used: HashSet<&Digest> = images.values().flat_map(|r| &r.layers).chain(leased.iter().flat_map(|l| &l.layers)).collect();
        for id in self.layer_ids()?.iter().filter(|id| !used.contains(id)) {
            self.discard(&self.layer_folder(id))?;
        }
        let kept: HashSet<&str> = images.values().flat_map(|r| r.manifests.iter().chain([&r.id])).map(Digest::hex).collect();
        for name in file_names(&self.root.join("blobs/sha256")).map_err(ImageError::io("blobs"))? {
            if !kept.contains(name.as_str()) {
                fs::remove_file(self.root.join("blobs/sha256").join(name)).map_err(ImageError::io("blob"))?;
            }
        }
        for name in file_names(&self.root.join("ingest")).map_err(ImageError::io("ingest"))? {
            remove_any(&self.root.join("ingest").join(name)).map_err(ImageError::io("ingest"))?;
        }
        Ok(())
    }

    /// As [`Self::collect`], but spares what a pull that broke off may come back for.
    pub fn collect_old(&self) -> Result<(), ImageError> {
        let young = |time: io::Result<SystemTime>| time.is_ok_and(|t| t.elapsed().is_ok_and(|age| age < ORPHAN_AGE));
        let layers = file_names(&self.root.join("layers")).map_err(ImageError::io("layers"))?;
        let busy = layers.iter().any(|name| young(self.root.join("layers").join(name).metadata().and_then(|m| m.modified())));
        if busy { Ok(()) } else { self.collect() }
    }

    fn live_leases(&self) -> Result<Vec<Lease>, ImageError> {
        let mut leases = Vec::new();
        for name in file_names(&self.root.join("leases")).map_err(ImageError::io("leases"))? {
            let path = self.root.join("leases").join(&name);
            let Ok(lease) = read_json::<Lease>(&path) else { continue };
            if lease.owner.exists() {
                leases.push(lease);
            } else {
                remove_any(&path).map_err(ImageError::io("stale lease"))?;
            }
        }
        Ok(leases)
    }

    /// Moves a folder out of the way at once, then deletes it.
    fn discard(&self, folder: &Path) -> Result<(), ImageError> {
        let trash = tempfile::Builder::new().prefix("trash-").tempdir_in(self.root.join("ingest")).map_err(ImageError::io("trash"))?;
        fs::rename(folder, trash.path().join("layer")).map_err(ImageError::io(format!("{}", folder.display())))
    }

    /// Bytes and inodes of all layers.
    pub fn usage(&self) -> Result<(u64, u64), ImageError> {
        let infos = self.layer_ids()?.into_iter().filter_map(|id| self.layer(&id));
        Ok(infos.fold((0, 0), |(bytes, inodes), info| (bytes + info.bytes, inodes + info.entries)))
    }
}

fn boot_id() -> u128 {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap_or(0)
}

fn file_names(folder: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn remove_any(path: &Path) -> io::Result<()> {
    knarr_sys::tree::remove(path)
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    serde_json::from_slice(&fs::read(path)?).map_err(io::Error::from)
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    replace(path, &serde_json::to_vec(value)?)
}

/// Writes a file so that readers see the old or the new content, never half of one.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(store: &ImageStore, id: &[u8], tags: &[&str], layers: &[&[u8]]) -> ImageRecord {
        store.put_blob(&Digest::of(id), id).unwrap();
        for layer in layers {
            let folder = store.begin_layer().unwrap();
            fs::write(folder.path().join("fs/file"), layer).unwrap();
            store.commit_layer(folder, &Digest::of(layer), Unpacked { entries: 1, bytes: 2 }).unwrap();
        }
        let tags = tags.iter().map(|t| t.parse::<Reference>().unwrap().to_string()).collect();
        let layers = layers.iter().map(|l| Digest::of(l)).collect();
        ImageRecord { id: Digest::of(id), tags, digests: BTreeSet::new(), manifests: BTreeSet::new(), layers, size: 1, pinned: false }
    }

    fn has(store: &ImageStore, layer: &[u8]) -> bool {
        store.layer_path(&Digest::of(layer)).join("file").exists()
    }

    #[test]
    fn a_tag_moves_and_layers_go_with_their_last_user() {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(folder.path()).unwrap();
        store.add_image(record(&store, b"one", &["a:1", "b:1"], &[b"base", b"one"])).unwrap();
        store.add_image(record(&store, b"two", &["a:1"], &[b"base", b"two"])).unwrap();
        assert_eq!(store.find("a:1").unwrap().unwrap().id, Digest::of(b"two"));
        assert_eq!(store.find("b:1").unwrap().unwrap().tags.len(), 1);
        assert_eq!(store.find(Digest::of(b"one").as_str()).unwrap().unwrap().id, Digest::of(b"one"));
        assert_eq!(store.usage().unwrap(), (6, 3));

        store.lease("container", &[Digest::of(b"one")], folder.path()).unwrap();
        store.remove_image("b:1").unwrap();
        store.collect().unwrap();
        assert_eq!(store.find("b:1").unwrap(), None);
        assert!(has(&store, b"base") && has(&store, b"one") && has(&store, b"two"), "one is leased");
        store.release("container").unwrap();
        let adding = store.lock_shared().unwrap();
        store.collect().unwrap();
        assert!(has(&store, b"one"), "nothing is collected while something is added");
        drop(adding);
        store.collect().unwrap();
        assert!(has(&store, b"base") && !has(&store, b"one") && !store.has_blob(&Digest::of(b"one")));
    }

    #[test]
    fn layers_that_were_not_synced_do_not_survive_a_boot() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = ImageStore::open(folder.path()).unwrap();
        store.add_image(record(&store, b"safe", &["safe"], &[b"s"])).unwrap();
        store.sync().unwrap();
        store.add_image(record(&store, b"lost", &["lost"], &[b"s", b"l"])).unwrap();
        store.boot += 1;
        store.distrust_unsynced().unwrap();
        assert!(store.find("safe").unwrap().is_some() && has(&store, b"s"));
        assert!(store.find("lost").unwrap().is_none() && !has(&store, b"l"));
    }

    #[test]
    fn an_abandoned_lease_holds_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(folder.path()).unwrap();
        store.add_image(record(&store, b"one", &["a"], &[b"one"])).unwrap();
        store.lease("container", &[Digest::of(b"one")], &folder.path().join("gone")).unwrap();
        store.remove_image("a").unwrap();
        store.collect().unwrap();
        assert!(!has(&store, b"one"));
    }
}
