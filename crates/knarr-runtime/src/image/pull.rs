//! Pulling an image: what its name stands for, then the layers that are missing, side by side.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, TryStreamExt};
use knarr_sys::netlink::NetNs;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::manifest::{Descriptor, Document, ImageConfig, Manifest, Platform};
use super::registry::{Endpoints, Repository};
use super::store::{ImageRecord, ImageStore};
use super::transport::{TlsOptions, Transport};
use super::unpack::Bounds;
use super::{Digest, ImageError, Reference, ingest};
use crate::cri::Auth;

/// Layers of one image that are transferred at once, as containerd does.
const LAYERS_AT_ONCE: usize = 3;
/// Network chunks that wait for the unpacking side: 16 KiB to 64 KiB each.
const CHUNKS_MAX: usize = 64;
/// An index may lead to an index; no deeper.
const INDEX_DEPTH_MAX: usize = 2;

/// Pulls images into a store.
pub struct Puller {
    store: Arc<ImageStore>,
    endpoints: Box<dyn Endpoints>,
    network: Option<Arc<NetNs>>,
    /// One client for each way to speak TLS.
    transports: Mutex<HashMap<TlsOptions, Transport>>,
    /// Pulls under way: a second one of the same name waits for the first.
    running: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Puller {
    /// `network`: the network namespace that registries are reached from; absent: that of the process.
    pub fn new(store: Arc<ImageStore>, endpoints: Box<dyn Endpoints>, network: Option<Arc<NetNs>>) -> Self {
        Self { store, endpoints, network, transports: Mutex::default(), running: Mutex::default() }
    }

    fn transport(&self, tls: &TlsOptions) -> Transport {
        self.transports.lock().entry(tls.clone()).or_insert_with(|| Transport::new(tls.clone(), self.network.clone())).clone()
    }

    /// Pulls and gives the image id. The error's text is what kubelet shows behind ErrImagePull.
    pub async fn pull(&self, name: &str, auth: Option<&Auth>) -> Result<Digest, ImageError> {
        let reference: Reference = name.parse()?;
        let turn = self.running.lock().entry(reference.to_string()).or_default().clone();
        let result = {
            let _turn = turn.lock().await;
            self.pull_reference(&reference, auth).await
        };
        drop(turn);
        self.running.lock().retain(|_, turn| Arc::strong_count(turn) > 1);
        result.map_err(|error| ImageError::Registry(format!("failed to pull and unpack image \"{reference}\": {error}")))
    }

    async fn pull_reference(&self, reference: &Reference, auth: Option<&Auth>) -> Result<Digest, ImageError> {
        let lock = blocking({
            let store = self.store.clone();
            move || store.lock_shared()
        })
        .await?;
        let mut last = ImageError::NotFound(reference.to_string());
        for endpoint in self.endpoints.of(reference) {
            let transport = self.transport(&endpoint.tls);
            let repository = Repository::new(&transport, endpoint.clone(), reference, auth);
            match self.pull_from(&repository, reference).await {
                Ok(id) => {
                    drop(lock);
                    return Ok(id);
                }
                Err(error) => {
                    tracing::debug!(%reference, endpoint = endpoint.base, %error, "pull failed");
                    last = error;
                }
            }
        }
        Err(last)
    }

    async fn pull_from(&self, repository: &Repository<'_>, reference: &Reference) -> Result<Digest, ImageError> {
        let resolving = |error| ImageError::Registry(format!("failed to resolve reference \"{reference}\": {error}"));
        let (digest, bytes) = repository.manifest(reference.selector()).await.map_err(resolving)?;
        let (manifest, manifests) = self.resolve(repository, digest.clone(), bytes).await?;
        let config = self.config(repository, &manifest.config).await?;
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(ImageError::Invalid(format!("{} layers but {} diff ids", manifest.layers.len(), config.rootfs.diff_ids.len())));
        }
        let layers = manifest.layers.iter().zip(&config.rootfs.diff_ids);
        stream::iter(layers.map(Ok::<_, ImageError>))
            .try_for_each_concurrent(LAYERS_AT_ONCE, |(layer, diff_id)| self.layer(repository, layer, diff_id))
            .await?;
        let record = ImageRecord {
            id: manifest.config.digest.clone(),
            tags: reference.tagged().into_iter().collect(),
            digests: BTreeSet::from([reference.with_digest(&digest)]),
            manifests,
            layers: config.rootfs.diff_ids,
            size: manifest.config.size + manifest.layers.iter().map(|l| l.size).sum::<u64>(),
            pinned: false,
        };
        let (store, id) = (self.store.clone(), record.id.clone());
        blocking(move || store.add_image(record)).await?;
        self.sync_later();
        Ok(id)
    }

    /// Follows indexes down to a manifest; all documents on the way are kept.
    async fn resolve(&self, repository: &Repository<'_>, mut digest: Digest, mut bytes: Bytes) -> Result<(Manifest, BTreeSet<Digest>), ImageError> {
        let mut seen = BTreeSet::new();
        for _ in 0..=INDEX_DEPTH_MAX {
            self.store.put_blob(&digest, &bytes)?;
            seen.insert(digest.clone());
            match Document::parse(&bytes)? {
                Document::Manifest(manifest) => return Ok((manifest, seen)),
                Document::Index(index) => {
                    let selected = index.select(&Platform::host())?.digest.clone();
                    (digest, bytes) = repository.manifest(selected.as_str()).await?;
                }
            }
        }
        Err(ImageError::Invalid("indexes are nested too deeply".to_owned()))
    }

    async fn config(&self, repository: &Repository<'_>, descriptor: &Descriptor) -> Result<ImageConfig, ImageError> {
        let bytes = if self.store.has_blob(&descriptor.digest) {
            Bytes::from(self.store.blob(&descriptor.digest)?)
        } else {
            repository.small_blob(&descriptor.digest).await?
        };
        self.store.put_blob(&descriptor.digest, &bytes)?;
        ImageConfig::parse(&bytes)
    }

    async fn layer(&self, repository: &Repository<'_>, layer: &Descriptor, diff_id: &Digest) -> Result<(), ImageError> {
        if self.store.layer(diff_id).is_some() {
            return Ok(());
        }
        if layer.media_type.contains("encrypted") {
            return Err(ImageError::Unsupported(format!("layer of type {}", layer.media_type)));
        }
        let lock = blocking({
            let (store, id) = (self.store.clone(), diff_id.clone());
            move || store.lock_layer(&id)
        })
        .await?;
        if self.store.layer(diff_id).is_some() {
            return Ok(());
        }
        let (sender, receiver) = mpsc::channel::<Bytes>(CHUNKS_MAX);
        let (store, digest, id) = (self.store.clone(), layer.digest.clone(), diff_id.clone());
        let unpacking = blocking(move || unpack_layer(&store, ChannelReader { receiver, chunk: Bytes::new() }, &digest, &id));
        // The sender goes along, so that the unpacking side sees the end.
        let transfer = repository.blob(&layer.digest, layer.size, sender);
        let (transferred, unpacked) = tokio::join!(transfer, unpacking);
        drop(lock);
        // A broken transfer is the cause of a broken archive.
        transferred.and(unpacked)
    }

    /// Layers are usable at once; that they are safe on disk is noted when it is so.
    fn sync_later(&self) {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = store.sync() {
                tracing::warn!(%error, "image layers are not synced to disk");
            }
        });
    }
}

/// Unpacks a layer and makes it known.
pub(super) fn unpack_layer(store: &ImageStore, source: impl Read + Send, digest: &Digest, diff_id: &Digest) -> Result<(), ImageError> {
    let folder = store.begin_layer()?;
    let unpacked = ingest::ingest(source, digest, diff_id, &folder.path().join("fs"), Bounds::default())?;
    store.commit_layer(folder, diff_id, unpacked)
}

/// Runs file work where it may take its time.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ImageError> + Send + 'static) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(ImageError::Io("image store".to_owned(), io::Error::other(error.to_string()))))
}

struct ChannelReader {
    receiver: mpsc::Receiver<Bytes>,
    chunk: Bytes,
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.chunk.len());
        buffer[..n].copy_from_slice(&self.chunk.split_to(n));
        Ok(n)
    }
}
