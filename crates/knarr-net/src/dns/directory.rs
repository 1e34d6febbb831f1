//! What DNS knows: the informers' own stores, and one small index from addresses to the slices that have them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use knarr_client::read::Key;
use knarr_client::{Informer, Item, Project, SharedInformers};
use parking_lot::RwLock;

use crate::view::{self, SLICES_BY_SERVICE, Service, Slice};

/// Index of Services by ClusterIP.
const SERVICES_BY_IP: &str = "cluster-ip";

/// Looks objects up for names. Answers are of this moment.
pub(super) trait Directory: Send + Sync + 'static {
    /// Counts the changes. Whoever reads the count first and then looks something up has it as of that count, or newer.
    fn generation(&self) -> u64;
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Item<Service>>>;
    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<Item<Slice>>>;
    fn has_namespace(&self, name: &str) -> bool;
    /// Services that have a ClusterIP.
    fn services_at(&self, address: IpAddr) -> Vec<Arc<Item<Service>>>;
    /// Slices that have an endpoint with an address.
    fn slices_at(&self, address: IpAddr) -> Vec<Arc<Item<Slice>>>;
}

/// The directory of a running cluster.
pub(super) struct Informed {
    services: Informer<Service>,
    slices: Informer<Slice>,
    namespaces: Informer<()>,
    /// Which slices have an address. Ordered, since that takes the least memory for many addresses with one slice each.
    by_address: Arc<RwLock<BTreeSet<(IpAddr, Key)>>>,
    generation: Arc<AtomicU64>,
}

/// Counts the changes that can change an answer.
fn count<P: Project + PartialEq>(informer: &Informer<P>, generation: &Arc<AtomicU64>) {
    let generation = generation.clone();
    informer.on_change(move |change| {
        if change.old.as_ref().map(|i| &i.view) != change.new.as_ref().map(|i| &i.view) {
            generation.fetch_add(1, Ordering::Release);
        }
    });
}

impl Informed {
    pub fn new(informers: &SharedInformers) -> Self {
        let services: Informer<Service> = informers.all::<k8s_openapi::api::core::v1::Service, _>();
        services.store().add_index(SERVICES_BY_IP, |item| item.view.cluster_ips.iter().map(ToString::to_string).collect());
        let slices = view::slices(informers);
        let by_address: Arc<RwLock<BTreeSet<(IpAddr, Key)>>> = Arc::default();
        let index = by_address.clone();
        slices.on_change(move |change| {
            let mut index = index.write();
            for old in change.old.iter().flat_map(|i| &i.view.endpoints) {
                index.remove(&(old.address, change.key().clone()));
            }
            index.extend(change.new.iter().flat_map(|i| &i.view.endpoints).map(|e| (e.address, change.key().clone())));
        });
        let namespaces: Informer<()> = informers.all::<k8s_openapi::api::core::v1::Namespace, _>();
        let generation = Arc::default();
        count(&services, &generation);
        count(&slices, &generation);
        count(&namespaces, &generation);
        Self { services, slices, namespaces, by_address, generation }
    }

    /// Waits until everything that existed at the start is known.
    pub async fn wait_synced(&self) {
        futures::join!(self.services.wait_synced(), self.slices.wait_synced(), self.namespaces.wait_synced());
    }

    /// Whether everything that existed at the start is known.
    pub fn has_synced(&self) -> bool {
        self.services.has_synced() && self.slices.has_synced() && self.namespaces.has_synced()
    }
}

impl Directory for Informed {
    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Item<Service>>> {
        self.services.store().find(namespace, name)
    }

    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<Item<Slice>>> {
        self.slices.store().by_index(SLICES_BY_SERVICE, &format!("{namespace}/{service}"))
    }

    fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.store().find("", name).is_some()
    }

    fn services_at(&self, address: IpAddr) -> Vec<Arc<Item<Service>>> {
        self.services.store().by_index(SERVICES_BY_IP, &address.to_string())
    }

    fn slices_at(&self, address: IpAddr) -> Vec<Arc<Item<Slice>>> {
        let index = self.by_address.read();
        let keys = index.range((address, Key::parse(""))..).take_while(|(a, _)| *a == address);
        keys.filter_map(|(_, key)| self.slices.store().get(key)).collect()
    }
}
