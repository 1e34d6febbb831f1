//! Everything that one node needs, started together: what the agent of a node calls.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use knarr_client::SharedInformers;
use knarr_core::clock::Env;
use knarr_sys::netlink::{self, RouteSocket, route};
use tokio_util::sync::CancellationToken;

use crate::dns;
use crate::nodes::local::Outer;
use crate::nodes::{self, NodeRoutes};
use crate::pods::link::LOOPBACK;
use crate::pods::{self, PodNetwork};
use crate::policy::{self, Enforcer};
use crate::proxy::{self, ServiceProxy};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Pods(#[from] pods::Error),
    #[error(transparent)]
    Nodes(#[from] nodes::Error),
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    #[error(transparent)]
    Dns(#[from] dns::Error),
}

/// What a node's network is to be like.
#[derive(Clone, Debug)]
pub struct Config {
    pub node_name: String,
    /// The agent's own folder; pod addresses are kept in `network` below it.
    pub folder: PathBuf,
    /// Pods of all nodes live here.
    pub cluster_cidrs: Vec<IpNet>,
    /// ClusterIPs come from here.
    pub service_cidrs: Vec<IpNet>,
    /// `cluster.local`
    pub cluster_domain: String,
    /// The ClusterIP of `kube-system/kube-dns`. Empty runs no DNS.
    pub cluster_dns: Vec<IpAddr>,
    /// Where the node's own resolvers are written down.
    pub resolv_conf: PathBuf,
    /// The proxy's `/healthz`, usually on port 10256.
    pub proxy_health_address: Option<SocketAddr>,
    /// The proxy's `/metrics`, usually on port 10249.
    pub proxy_metrics_address: Option<SocketAddr>,
}

impl Config {
    /// kubeadm's usual addresses, with no health and metrics served.
    pub fn new(node_name: impl Into<String>, folder: impl Into<PathBuf>) -> Self {
        let net = |address: [u8; 4], prefix_len| IpNet::new_assert(IpAddr::from(address), prefix_len);
        Self {
            node_name: node_name.into(),
            folder: folder.into(),
            cluster_cidrs: vec![net([10, 244, 0, 0], 16)],
            service_cidrs: vec![net([10, 96, 0, 0], 12)],
            cluster_domain: "cluster.local".into(),
            cluster_dns: vec![[10, 96, 0, 10].into()],
            resolv_conf: "/etc/resolv.conf".into(),
            proxy_health_address: None,
            proxy_metrics_address: None,
        }
    }

    fn dns(&self, in_own_namespace: bool) -> dns::Config {
        dns::Config {
            resolv_conf: self.resolv_conf.clone(),
            loopback_resolvers: !in_own_namespace,
            ..dns::Config::new(&self.cluster_domain, &self.cluster_dns)
        }
    }

    fn pods(&self) -> pods::Config {
        pods::Config::new(self.folder.join("network"), &self.cluster_cidrs)
    }
}

/// A node's running network.
pub struct NodeNetwork {
    pub pods: PodNetwork,
    pub proxy: ServiceProxy,
    pub policies: Enforcer,
    pub routes: NodeRoutes,
}

/// Starts the network of the calling thread's network namespace; everything but packet rules, links and routes ends with
/// `stop`. `outer` comes from [`crate::nodes::local::LocalNode::enter`] for a node in a namespace of its own.
///
/// # Errors
/// The kernel refuses something that nothing works without.
pub fn start(config: &Config, informers: &SharedInformers, outer: Option<Outer>, env: &Env, stop: &CancellationToken) -> Result<NodeNetwork, Error> {
    let dns = config.dns(outer.is_some());
    let pods = PodNetwork::new(config.pods())?;
    route_services(&config.service_cidrs)?;
    let proxy = proxy::Config {
        own_fronts: dns::own_fronts(&dns),
        health_address: config.proxy_health_address,
        metrics_address: config.proxy_metrics_address,
        ..proxy::Config::new(&config.node_name, &config.cluster_cidrs)
    };
    let proxy = proxy::start(proxy, informers, env.clone(), stop.clone())?;
    dns::start(&dns, informers, env.clone(), stop)?;
    let routes = nodes::start(&config.node_name, informers, pods.clone(), outer, stop.clone())?;
    let policies = policy::start(&config.node_name, policy::TABLE_DEFAULT, informers, stop.clone())?;
    Ok(NodeNetwork { pods, proxy, policies, routes })
}

/// Without a default route the machine's own processes could not even try to reach a ClusterIP: the kernel looks for a way
/// before it translates the address. Any way will do.
///
/// # Errors
/// The kernel's refusal.
pub fn route_services(service_cidrs: &[IpNet]) -> Result<(), netlink::Error> {
    let mut socket = RouteSocket::open()?;
    for cidr in service_cidrs.iter().filter(|c| matches!(c, IpNet::V4(_))) {
        if socket.path_to(cidr.addr())?.is_none() {
            socket.apply(&[route::set_route(&route::Route::direct(*cidr, LOOPBACK))])?;
        }
    }
    Ok(())
}

/// Takes all that [`start`] and its pods made away from the calling thread's network namespace. For the end of a profile; all
/// is tried, and the first failure told.
///
/// # Errors
/// The kernel's refusal.
pub fn remove(config: &Config) -> Result<(), Error> {
    let way = |cidr: &IpNet| route::delete_route(&route::Route::direct(*cidr, LOOPBACK));
    let services = || RouteSocket::open()?.remove(&config.service_cidrs.iter().map(way).collect::<Vec<_>>());
    let done: [Result<(), Error>; 6] = [
        policy::remove(policy::TABLE_DEFAULT).map_err(Error::from),
        proxy::remove(proxy::TABLE_DEFAULT).map_err(Error::from),
        dns::remove(&config.dns(false)).map_err(Error::from),
        nodes::remove().map_err(Error::from),
        services().map_err(Error::from),
        pods::remove(&config.pods()).map_err(Error::from),
    ];
    done.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Node, Service};
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use knarr_client::fake::FakeApi;
    use knarr_core::json;

    use super::*;
    use crate::testbed::Machine;

    #[test]
    fn a_node_without_a_way_to_the_outside_has_pods_services_and_names_and_leaves_nothing() {
        let (machine, folder) = (Machine::new(), tempfile::tempdir().unwrap());
        let before = machine.traces();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (env, stop, api) = (Env::system(), CancellationToken::new(), FakeApi::new(Env::system()));
        let node = json!({"metadata": {"name": "here"}, "spec": {"podCIDR": "10.244.0.0/24"}});
        api.seed::<Node>(&serde_json::from_value(node).unwrap());
        let service =
            json!({"metadata": {"namespace": "a", "name": "s"}, "spec": {"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ports": [{"port": 80}]}});
        api.seed::<Service>(&serde_json::from_value(service).unwrap());
        let slice = json!({"metadata": {"namespace": "a", "name": "s-1", "labels": {"kubernetes.io/service-name": "s"}}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.244.0.2"], "nodeName": "here"}], "ports": [{"name": "", "protocol": "TCP", "port": 80}]});
        api.seed::<EndpointSlice>(&serde_json::from_value(slice).unwrap());
        let config = Config { resolv_conf: "/nonexistent".into(), ..Config::new("here", folder.path()) };
        let network = machine.run(|| {
            let _guard = runtime.enter();
            let informers = SharedInformers::new(api.client(), env.clone(), stop.clone());
            start(&config, &informers, None, &env, &stop).unwrap()
        });
        network.pods.restore_now(&[]).unwrap();
        runtime.block_on(async {
            network.routes.synced().wait_for(|n| *n > 0).await.unwrap();
            network.proxy.synced().wait_for(|s| s.times > 0).await.unwrap();
        });
        let (server, client) = (machine.pod(&network.pods, "server"), machine.pod(&network.pods, "client"));
        server.serve_tcp(80, "server");
        assert_eq!(client.ask("10.96.0.5:80").unwrap(), "server 10.244.0.3");
        assert_eq!(machine.ask("10.96.0.5:80").unwrap(), "server 10.244.0.1");
        // A query without a question: any answer will do.
        // It answers as soon as it knows everything.
        let dns = client.udp("10.96.0.10:53");
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while dns.send(&[0; 12]).and_then(|_| dns.recv(&mut [0; 512])).ok() != Some(12) {
            assert!(std::time::Instant::now() < until, "nobody answers");
        }
        stop.cancel();
        drop((network, server, client));
        machine.run(|| remove(&config).unwrap());
        assert_eq!(machine.traces(), before);
    }
}
