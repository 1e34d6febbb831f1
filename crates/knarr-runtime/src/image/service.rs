//! Images as users of the crate see them: pull, load, look, remove. Needs no runtime; several processes may have the same store open.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use knarr_sys::netlink::NetNs;

use super::pull::blocking;
use super::registry::Endpoints;
use super::{ImageError, ImageRecord, ImageStore, Puller, archive};
use crate::cri::{Auth, Image};

/// A content store with a way to fill it.
pub struct Images {
    store: Arc<ImageStore>,
    puller: Puller,
}

type Result<T> = std::result::Result<T, ImageError>;

impl Images {
    /// Opens the store in `folder`. `network`: the network namespace that registries are reached from; absent: that of the process.
    pub async fn open(folder: &Path, endpoints: Box<dyn Endpoints>, network: Option<Arc<NetNs>>) -> Result<Self> {
        let folder = folder.to_owned();
        let store = Arc::new(blocking(move || ImageStore::open(&folder)).await?);
        Ok(Self { puller: Puller::new(store.clone(), endpoints, network), store })
    }

    pub(crate) fn store(&self) -> &Arc<ImageStore> {
        &self.store
    }

    /// Pulls and gives the image's id.
    pub async fn pull(&self, reference: &str, auth: Option<&Auth>) -> Result<String> {
        Ok(self.puller.pull(reference, auth).await?.to_string())
    }

    /// Loads images from a tarball (`docker save` or OCI layout); gives their names.
    pub async fn load(&self, file: &Path) -> Result<Vec<String>> {
        let (store, file) = (self.store.clone(), file.to_owned());
        blocking(move || archive::load(&store, &file)).await
    }

    /// The image that a name or an id stands for, if it is here.
    pub async fn status(&self, reference: &str) -> Result<Option<Image>> {
        let (store, reference) = (self.store.clone(), reference.to_owned());
        blocking(move || store.find(&reference)?.map(|record| describe(&store, &record)).transpose()).await
    }

    pub async fn list(&self) -> Result<Vec<Image>> {
        let store = self.store.clone();
        blocking(move || store.images()?.values().map(|record| describe(&store, record)).collect()).await
    }

    /// Removes a name, or an image by its id; with the last name goes the image, and with it what nobody uses.
    pub async fn remove(&self, reference: &str) -> Result<()> {
        let (store, reference) = (self.store.clone(), reference.to_owned());
        blocking(move || store.remove_image(&reference).and_then(|()| store.collect())).await
    }

    /// Removes layers that nobody uses, unless they are so young that a pull may come back for them.
    pub async fn tidy(&self) -> Result<()> {
        let store = self.store.clone();
        blocking(move || store.collect_old()).await
    }

    /// Where the images lie, and the bytes and inodes that they take.
    pub async fn usage(&self) -> Result<(PathBuf, u64, u64)> {
        let store = self.store.clone();
        blocking(move || store.usage().map(|(bytes, inodes)| (store.root().to_owned(), bytes, inodes))).await
    }
}

fn describe(store: &ImageStore, record: &ImageRecord) -> Result<Image> {
    let user = store.config(record)?.user;
    let name = user.split(':').next().unwrap_or_default();
    let uid = name.parse().ok();
    Ok(Image {
        id: record.id.to_string(),
        repo_tags: record.tags.iter().cloned().collect(),
        repo_digests: record.digests.iter().cloned().collect(),
        size: record.size,
        uid: uid.or(name.is_empty().then_some(0)),
        username: if uid.is_some() { String::new() } else { name.to_owned() },
        pinned: record.pinned,
    })
}
