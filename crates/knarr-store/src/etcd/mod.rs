//! The engine of several API servers: an etcd that the operator runs. etcd decides and makes durable; the cache follows it by one
//! watch over everything.
//!
//! ```text
//! write ──▶ Txn: if the key is still at the expected revision ──▶ etcd
//! cache ◀── Watch /registry/ … in the order of revisions      ◀───┘
//! answer ◀─ when the cache has come to the write's revision
//! ```
//!
//! Keys and values are kube-apiserver's (protobuf, JSON for custom resources, no resource version inside): knarr starts on the data
//! of a kube-apiserver, and one could start on knarr's; `etcdctl` and backup tools find what they know. Our own objects at rest have
//! that form anyway, so nothing is converted. Only what is sealed carries a mark of its own.
//!
//! - A resource version is etcd's revision, also that of a list.
//! - A write is answered when the cache of this server shows it. Also a refusal: whoever reads after a conflict finds what it
//!   conflicted with.
//! - A read that must see what other servers have acknowledged asks etcd for its revision, one question for all who ask at the
//!   same time, and waits for the cache to come there ([`Engine::newest`]).
//! - Objects with a time to live hang on leases, many on one.
//! - What is older than five minutes is compacted by whichever server comes first, in the way of kube-apiserver.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use knarr_core::Object;
use knarr_schema::codec;
use parking_lot::Mutex;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::cache::{Cache, Resource};
use crate::engine::{Engine, Request};
use crate::grpc::{Channel, Endpoint, Failure, Service};
use crate::guard::Guard;
use crate::item::{Entry, Item};
use crate::seal::{MARK, Sealer};
use crate::world::Snapshot;
use crate::{Error, Result, Write};

mod compact;
mod follow;
mod lease;
pub(crate) mod message;
mod place;
pub mod testing;
#[cfg(test)]
mod tests;

use lease::Leases;
use message::{Compare, DeleteRangeRequest, KeyValue, Operation, PutRequest, RangeRequest, RangeResponse, TxnRequest, TxnResponse};
use place::Places;

/// A member that is cut off from its leader says so instead of waiting.
const SERVICE: Service = Service { package: "etcdserverpb", metadata: &[("hasleader", "true")] };
/// kube-apiserver's `--etcd-prefix`.
pub const PREFIX: &str = "/registry";
/// How many objects come at once when a server starts.
const PAGE: i64 = 1000;
/// How long a write that etcd has taken may be on its way to the cache.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Within this time the event of a write is there already, mostly: only then is etcd asked how far it is.
const PROMPT: Duration = Duration::from_millis(5);

/// Which etcd, and who we are there.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `https://host:2379`, any number of members.
    pub endpoints: Vec<String>,
    /// Where the objects stand; empty: [`PREFIX`].
    pub prefix: String,
    /// Files in PEM: who signed etcd's certificate, and our own certificate with its key.
    pub ca: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// See the module.
pub struct EtcdEngine {
    shared: Arc<Shared>,
    loaded: Mutex<Option<Loaded>>,
    sealer: Option<Arc<dyn Sealer>>,
    questions: OnceLock<mpsc::UnboundedSender<Question>>,
    tasks: Mutex<Vec<AbortHandle>>,
}

/// Everything as it was at one revision.
struct Loaded {
    revision: u64,
    kvs: Vec<KeyValue>,
}

/// Who wants to know etcd's newest revision.
type Question = oneshot::Sender<Result<u64>>;

/// What the engine's tasks share.
struct Shared {
    channel: Channel,
    places: Places,
    leases: Leases,
    sealer: OnceLock<Arc<dyn Sealer>>,
    cache: OnceLock<Arc<Cache>>,
    arrivals: Arrivals,
    /// Told when somebody waits for a revision without an event.
    hurry: Notify,
    /// Why the cache does not follow, while it does not.
    trouble: Mutex<Option<String>>,
    is_closed: AtomicBool,
}

/// Those who wait for the cache to come to a revision.
#[derive(Default)]
struct Arrivals(Mutex<BTreeMap<u64, Vec<oneshot::Sender<()>>>>);

impl Arrivals {
    /// Waits for a revision. Register first, then look whether it has come.
    fn expect(&self, revision: u64) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.0.lock().entry(revision).or_default().push(sender);
        receiver
    }

    /// The cache has come to this revision.
    fn come(&self, revision: u64) {
        let mut waiting = self.0.lock();
        let later = waiting.split_off(&(revision + 1));
        let arrived = std::mem::replace(&mut *waiting, later);
        drop(waiting);
        for sender in arrived.into_values().flatten() {
            // Whoever has gone away does not want to know.
            sender.send(()).ok();
        }
    }
}

impl EtcdEngine {
    /// Connects and reads everything. Needs a running tokio runtime.
    ///
    /// # Errors
    /// Bad addresses or certificates, and no etcd that answers.
    pub async fn open(options: &Options) -> Result<Self> {
        let endpoints = options.endpoints.iter().map(|e| Endpoint::parse(e)).collect::<std::result::Result<Vec<_>, _>>().map_err(Error::Engine)?;
        let prefix = if options.prefix.is_empty() { PREFIX } else { &options.prefix };
        let shared = Arc::new(Shared {
            channel: Channel::new(SERVICE, endpoints, Some(Arc::new(tls(options)?))),
            places: Places::new(prefix),
            leases: Leases::default(),
            sealer: OnceLock::new(),
            cache: OnceLock::new(),
            arrivals: Arrivals::default(),
            hurry: Notify::new(),
            trouble: Mutex::default(),
            is_closed: AtomicBool::new(false),
        });
        let loaded = shared.load().await.map_err(|e| Error::Engine(e.to_string()))?;
        Ok(Self { shared, loaded: Mutex::new(Some(loaded)), sealer: None, questions: OnceLock::new(), tasks: Mutex::default() })
    }

    /// The same engine, which seals some objects. All servers need the same key.
    #[must_use]
    pub fn with_sealer(mut self, sealer: Arc<dyn Sealer>) -> Self {
        self.shared.sealer.set(sealer.clone()).ok();
        self.sealer = Some(sealer);
        self
    }
}

/// How etcd is told from others, and we from others.
fn tls(options: &Options) -> Result<rustls::ClientConfig> {
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| Error::Engine(e.to_string()))?;
    let mut roots = rustls::RootCertStore::empty();
    if let Some(file) = &options.ca {
        for certificate in certificates(file)? {
            roots.add(certificate).map_err(|e| Error::Engine(format!("{}: {e}", file.display())))?;
        }
    }
    let builder = builder.with_root_certificates(roots);
    let mut config = match (&options.certificate, &options.key) {
        (Some(certificate), Some(key)) => {
            let bad = |e: &dyn std::fmt::Display| Error::Engine(format!("{}: {e}", key.display()));
            let key = PrivateKeyDer::from_pem_file(key).map_err(|e| bad(&e))?;
            builder.with_client_auth_cert(certificates(certificate)?, key).map_err(|e| bad(&e))?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => return Err(Error::Engine("etcd's client certificate and its key must be given together".into())),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    read.map_err(|e| Error::Engine(format!("{}: {e}", file.display())))
}

impl Engine for EtcdEngine {
    fn start(&self, cache: Arc<Cache>) -> Result<()> {
        let Some(loaded) = self.loaded.lock().take() else { return Err(Error::Engine("started twice".into())) };
        self.shared.fill(&cache, loaded);
        self.shared.cache.set(cache.clone()).map_err(|_| Error::Engine("started twice".into()))?;
        let (sender, questions) = mpsc::unbounded_channel();
        self.questions.set(sender).ok();
        *self.tasks.lock() = vec![
            tokio::spawn(follow::run(self.shared.clone(), cache)).abort_handle(),
            tokio::spawn(compact::run(self.shared.clone())).abort_handle(),
            tokio::spawn(answer_questions(self.shared.clone(), questions)).abort_handle(),
        ];
        Ok(())
    }

    fn submit(&self, request: Request) {
        let shared = self.shared.clone();
        if shared.is_closed.load(SeqCst) {
            request.reply.send(Err(Error::Engine("the store was closed".into()))).ok();
            return;
        }
        tokio::spawn(async move {
            let Request { resource, path, write, guard, reply } = request;
            // A writer that has gone away does not want to know.
            reply.send(shared.write(&resource, &path, write, guard).await).ok();
        });
    }

    fn sealer(&self) -> Option<Arc<dyn Sealer>> {
        self.sealer.clone()
    }

    fn failure(&self) -> Option<String> {
        self.shared.trouble.lock().clone()
    }

    fn newest(&self) -> Option<BoxFuture<'static, Result<u64>>> {
        let (sender, answer) = oneshot::channel();
        let asked = self.questions.get().is_some_and(|q| q.send(sender).is_ok());
        let closed = || Error::Engine("the store was closed".into());
        Some(async move { if asked { answer.await.unwrap_or_else(|_| Err(closed())) } else { Err(closed()) } }.boxed())
    }

    fn guard(&self, name: &'static str) -> Option<BoxFuture<'static, Result<(u64, u64)>>> {
        let shared = self.shared.clone();
        let read = async move {
            let ask = RangeRequest { key: shared.places.guard(name), ..RangeRequest::default() };
            let answer: RangeResponse = shared.channel.read("KV/Range", &ask).await.map_err(|e| refused(&e))?;
            let changed = answer.kvs.first().map_or(0, |kv| u64::try_from(kv.mod_revision).unwrap_or(0));
            Ok((changed, message::revision(answer.header.as_ref())))
        };
        Some(read.boxed())
    }

    fn past(&self, resource: Arc<Resource>, revision: u64) -> Option<BoxFuture<'static, Result<Snapshot>>> {
        let shared = self.shared.clone();
        Some(async move { shared.past(&resource, revision).await }.boxed())
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn hurry(&self) {
        self.shared.hurry.notify_one();
    }

    fn stop(&self) {
        self.shared.is_closed.store(true, SeqCst);
        self.tasks.lock().drain(..).for_each(|task| task.abort());
        // What etcd has taken is durable: its writers get their answers, though this cache will not show it any more.
        self.shared.arrivals.come(u64::MAX - 1);
    }
}

/// Asks etcd for its newest revision, once for all who want to know it when the question is sent.
async fn answer_questions(shared: Arc<Shared>, mut questions: mpsc::UnboundedReceiver<Question>) {
    let mut waiting = Vec::new();
    while questions.recv_many(&mut waiting, usize::MAX).await > 0 {
        let (key, _) = shared.places.range();
        let question = RangeRequest { key, count_only: true, ..RangeRequest::default() };
        let answer = shared.channel.read::<RangeResponse>("KV/Range", &question).await;
        let answer = answer.map(|a| message::revision(a.header.as_ref())).map_err(|e| refused(&e));
        for asker in waiting.drain(..) {
            asker.send(answer.clone()).ok();
        }
    }
}

fn refused(failure: &Failure) -> Error {
    if failure.is_no_space() { Error::NoSpace } else { Error::Engine(format!("etcd: {failure}")) }
}

impl Shared {
    /// Everything at one revision.
    async fn load(&self) -> std::result::Result<Loaded, Failure> {
        self.read_range(self.places.range(), 0).await
    }

    /// A resource as it was.
    async fn past(&self, resource: &Resource, revision: u64) -> Result<Snapshot> {
        let loaded = self.read_range(self.places.range_of(&resource.key), revision).await;
        let loaded = loaded.map_err(|e| if e.is_compacted() { Error::TooOld { asked: revision, oldest: 0 } } else { refused(&e) })?;
        let items = loaded.kvs.iter().filter_map(|kv| {
            let (_, path) = self.places.find(&kv.key).filter(|(key, _)| *key == resource.key)?;
            Some(Entry::new(resource.make_item(&path, self.object(&resource.key, kv)?, 0, None)))
        });
        Ok(Snapshot { revision, set: items.collect() })
    }

    /// A range at one revision, in pages; 0: the newest.
    async fn read_range(&self, (mut key, range_end): (Bytes, Bytes), revision: u64) -> std::result::Result<Loaded, Failure> {
        let mut loaded = Loaded { revision, kvs: Vec::new() };
        loop {
            let revision = i64::try_from(loaded.revision).unwrap_or(i64::MAX);
            let ask = RangeRequest { key, range_end: range_end.clone(), limit: PAGE, revision, ..RangeRequest::default() };
            let page: RangeResponse = self.channel.read("KV/Range", &ask).await?;
            if loaded.revision == 0 {
                loaded.revision = message::revision(page.header.as_ref());
            }
            let last = page.kvs.last().map(|kv| kv.key.clone());
            loaded.kvs.extend(page.kvs);
            match last {
                Some(last) if page.more => key = [&last[..], &[0]].concat().into(),
                _ => return Ok(loaded),
            }
        }
    }

    fn fill(&self, cache: &Cache, loaded: Loaded) {
        let mut loader = cache.load();
        for kv in loaded.kvs {
            let Some((key, path)) = self.places.find(&kv.key) else { continue };
            if let Some(object) = self.object(&key, &kv) {
                let resource = loader.resource(&key);
                loader.put(&resource, &path, object, 0);
            }
        }
        loader.finish_without_history(loaded.revision);
    }

    /// The object that a key holds.
    fn object(&self, resource: &crate::ResourceKey, kv: &KeyValue) -> Option<Object> {
        let revision = u64::try_from(kv.mod_revision).ok()?;
        let place = String::from_utf8_lossy(&kv.key);
        if !kv.value.starts_with(MARK.as_bytes()) {
            let taken = self.sealer.get().is_none_or(|s| s.takes_plain(resource));
            if !taken {
                tracing::error!(key = %place, "is not taken: it lies unsealed, and no provider of its resource is identity");
            }
            return taken.then(|| codec::with_resource_version(&kv.value, revision));
        }
        let opened = self.sealer.get().and_then(|s| s.open(resource, &place, &kv.value));
        if opened.is_none() {
            tracing::error!(key = %place, "cannot be read: it was sealed with another key");
        }
        opened.map(|bytes| codec::with_resource_version(&bytes, revision))
    }

    /// What is stored of an object.
    fn value(&self, resource: &crate::ResourceKey, key: &Bytes, bytes: &Bytes) -> Result<Bytes> {
        let Some(sealer) = self.sealer.get().filter(|s| s.seals(resource)) else { return Ok(bytes.clone()) };
        let sealed = sealer.seal(resource, &String::from_utf8_lossy(key), bytes).ok_or_else(|| Error::Engine("there is no randomness to seal with".into()))?;
        Ok(sealed.into())
    }

    /// One write, from the question to etcd until the cache shows what came of it.
    async fn write(&self, resource: &Resource, path: &str, write: Write, guard: Option<Guard>) -> Result<Arc<Item>> {
        let key = self.places.key(&resource.key, path);
        let (expected, operation, bytes) = match write {
            Write::Create { bytes, ttl } => (0, self.put(resource, &key, &bytes, ttl).await?, Some(bytes)),
            Write::Update { bytes, expected, ttl } => (expected, self.put(resource, &key, &bytes, ttl).await?, Some(bytes)),
            Write::Delete { expected } => (expected, Operation::DeleteRange(DeleteRangeRequest { key: key.clone(), prev_kv: true }), None),
        };
        let mut ask = TxnRequest {
            compare: vec![Compare::is_at(key.clone(), i64::try_from(expected).unwrap_or(i64::MAX))],
            success: vec![operation.into()],
            failure: vec![Operation::Range(RangeRequest { key, ..RangeRequest::default() }).into()],
        };
        let is_guarded = guard.is_some();
        if let Some(guard) = guard {
            let key = self.places.guard(guard.name);
            ask.compare.push(Compare::is_at(key.clone(), i64::try_from(guard.expected).unwrap_or(i64::MAX)));
            ask.success.push(Operation::Put(PutRequest { key, value: guard.value, lease: 0 }).into());
        }
        let answer: TxnResponse = self.channel.call("KV/Txn", &ask).await.map_err(|e| refused(&e))?;
        let (revision, succeeded) = (answer.revision(), answer.succeeded);
        let found = answer.found();
        self.arrive(if succeeded { revision } else { found.as_ref().map_or(revision, |kv| u64::try_from(kv.mod_revision).unwrap_or(0)) }).await;
        if !succeeded {
            let there = found.as_ref().map_or(0, |kv| u64::try_from(kv.mod_revision).unwrap_or(0));
            if is_guarded && there == expected {
                return Err(Error::Moved);
            }
            return Err(match found {
                None => Error::NotFound,
                Some(_) if bytes.is_some() && expected == 0 => Error::Exists,
                Some(kv) => self.object(&resource.key, &kv).map_or_else(|| Error::Engine("the stored object cannot be read".into()), Error::Conflict),
            });
        }
        // The one that everybody reads, unless it was written again meanwhile.
        if let Some(shown) = self.cache.get().and_then(|c| c.get(resource, path)).filter(|item| item.revision() == revision) {
            return Ok(shown);
        }
        let bytes = match bytes {
            Some(bytes) => bytes,
            // Its last state carries the deletion's revision.
            None => found.and_then(|kv| self.object(&resource.key, &kv)).ok_or_else(|| Error::Engine("the deleted object cannot be read".into()))?.bytes,
        };
        Ok(resource.make_item(path, codec::with_resource_version(&bytes, revision), 0, None))
    }

    async fn put(&self, resource: &Resource, key: &Bytes, bytes: &Bytes, ttl: Option<Duration>) -> Result<Operation> {
        let lease = match ttl {
            Some(ttl) => self.leases.for_ttl(&self.channel, ttl).await.map_err(|e| refused(&e))?,
            None => 0,
        };
        Ok(Operation::Put(PutRequest { key: key.clone(), value: self.value(&resource.key, key, bytes)?, lease }))
    }

    /// Waits until the cache shows a revision. If it does not come (etcd is away), the answer is given all the same: it is true.
    async fn arrive(&self, revision: u64) {
        let arrived = self.arrivals.expect(revision);
        if self.is_closed.load(SeqCst) || self.cache.get().is_none_or(|c| c.revision() >= revision) {
            return;
        }
        tokio::pin!(arrived);
        if timeout(PROMPT, &mut arrived).await.is_err() {
            self.hurry.notify_one();
            if timeout(ARRIVAL_TIMEOUT, arrived).await.is_err() {
                tracing::warn!(revision, "a write was answered that the cache does not show yet");
            }
        }
    }
}
