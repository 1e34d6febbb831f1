//! What everything on the node shares: the ways to the API, the runtime, the network, the clock.

use std::sync::Arc;

use jiff::Timestamp;
use knarr_client::Client;
use knarr_core::clock::Env;
use knarr_runtime::cri::Runtime;

use crate::allocations::Allocations;
use crate::config::AgentConfig;
use crate::events::Recorder;
use crate::images::Images;
use crate::machine::Machine;
use crate::network::PodNetwork;
use crate::node::NodeView;
use crate::objects::Objects;
use crate::pod::spec::ResourceList;
use crate::probes::counts::Counts;
use crate::services::Services;
use crate::tokens::Tokens;
use crate::volumes::followed::Shared;
use crate::volumes::local::LocalVolumes;
use crate::volumes::mounter::Mounter;

pub struct Context {
    pub config: AgentConfig,
    pub client: Client,
    pub runtime: Arc<dyn Runtime>,
    pub network: Arc<dyn PodNetwork>,
    pub env: Env,
    pub mounter: Arc<dyn Mounter>,
    pub events: Arc<dyn Recorder>,
    pub objects: Objects,
    pub tokens: Tokens,
    /// All ClusterTrustBundles.
    pub trust_bundles: Shared,
    /// The PodCertificateRequests of this node.
    pub pod_certificates: Shared,
    /// All PersistentVolumes.
    pub persistent_volumes: Shared,
    pub local_volumes: LocalVolumes,
    pub services: Services,
    pub images: Images,
    pub machine: Machine,
    pub node: NodeView,
    pub allocations: Allocations,
    pub probes: Counts,
    pub started: Timestamp,
}

impl Context {
    /// What pods can use of the node.
    pub fn allocatable(&self) -> ResourceList {
        self.machine.allocatable(&self.config)
    }
}
