//! Which port of a pod a Service's port leads to. Upstream: `FindPort`, `getEndpointPorts`.

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointPort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use knarr_client::read;
use serde::Deserialize;

use crate::pods::PodItem;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wire {
    spec: WireSpec,
}

knarr_client::partial!(Wire);

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireSpec {
    containers: Vec<WireContainer>,
    init_containers: Vec<WireContainer>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireContainer {
    restart_policy: String,
    ports: Vec<WirePort>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WirePort {
    name: String,
    protocol: String,
    container_port: i32,
}

/// The named ports of one pod, read when first asked for.
pub struct PodPorts<'a> {
    pod: &'a PodItem,
    read: Option<Vec<WirePort>>,
}

impl<'a> PodPorts<'a> {
    pub fn of(pod: &'a PodItem) -> Self {
        Self { pod, read: None }
    }

    /// The number that a Service's port leads to; none when the pod has no port of that name.
    pub fn number(&mut self, port: &ServicePort) -> Option<i32> {
        match &port.target_port {
            Some(IntOrString::Int(number)) if *number != 0 => Some(*number),
            Some(IntOrString::String(name)) => self.named(name, protocol(port)),
            _ => Some(port.port),
        }
    }

    fn named(&mut self, name: &str, protocol: &str) -> Option<i32> {
        let ports = self.read.get_or_insert_with(|| {
            let Wire { spec } = read::typed(&self.pod.object).unwrap_or_default();
            let sidecars = spec.init_containers.into_iter().filter(|c| c.restart_policy == "Always");
            spec.containers.into_iter().chain(sidecars).flat_map(|c| c.ports).collect()
        });
        let is_it = |p: &&WirePort| p.name == name && (p.protocol == protocol || p.protocol.is_empty() && protocol == "TCP");
        ports.iter().find(is_it).map(|p| p.container_port)
    }
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

/// The ports of a Service as one pod has them. Ports that the pod does not have are left out.
pub fn endpoint_ports(service: &Service, pod: &PodItem) -> Vec<EndpointPort> {
    let mut pod = PodPorts::of(pod);
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let port = |p: &ServicePort| {
        pod.number(p).map(|number| EndpointPort {
            name: Some(p.name.clone().unwrap_or_default()),
            port: Some(number),
            protocol: Some(protocol(p).to_owned()),
            app_protocol: p.app_protocol.clone(),
        })
    };
    ports.iter().filter_map(port).collect()
}

/// Ports as a key by which slices are grouped: their order does not matter.
pub fn key(ports: &[EndpointPort]) -> String {
    let text = |p: &EndpointPort| format!("{:?}/{:?}/{:?}/{:?}", p.name.as_deref().unwrap_or_default(), p.port, p.protocol, p.app_protocol);
    let mut all: Vec<String> = ports.iter().map(text).collect();
    all.sort();
    all.join(",")
}
