//! The canonical form of `Endpoints.subsets`: addresses that offer the same ports stand together, all of it sorted.
//! Upstream: `pkg/api/v1/endpoints` (`RepackSubsets`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset};

/// An address and the uid of the pod behind it: two pods may share a node's address.
type AddressKey = (String, String);
/// Sortable form of a port.
type PortKey = (String, String, i32, String);

fn address_key(a: &EndpointAddress) -> AddressKey {
    (a.ip.clone(), a.target_ref.as_ref().and_then(|t| t.uid.clone()).unwrap_or_default())
}

fn port_key(p: &EndpointPort) -> PortKey {
    (p.name.clone().unwrap_or_default(), p.protocol.clone().unwrap_or_default(), p.port, p.app_protocol.clone().unwrap_or_default())
}

/// Brings subsets into canonical form. An address that is ready in one and not ready in another subset of the same port
/// counts as not ready.
pub fn repack(subsets: &[EndpointSubset]) -> Vec<EndpointSubset> {
    let mut addresses: BTreeMap<AddressKey, &EndpointAddress> = BTreeMap::new();
    let mut by_port: BTreeMap<Option<PortKey>, (Option<&EndpointPort>, BTreeMap<AddressKey, bool>)> = BTreeMap::new();
    for subset in subsets {
        let ports: Vec<Option<&EndpointPort>> = match subset.ports.as_deref() {
            None | Some([]) => vec![None],
            Some(ports) => ports.iter().map(Some).collect(),
        };
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        for (address, ready) in ready.chain(subset.not_ready_addresses.iter().flatten().map(|a| (a, false))) {
            let key = address_key(address);
            addresses.entry(key.clone()).or_insert(address);
            for port in &ports {
                let of_port = &mut by_port.entry(port.map(port_key)).or_insert((*port, BTreeMap::new())).1;
                of_port.entry(key.clone()).and_modify(|known| *known &= ready).or_insert(ready);
            }
        }
    }
    let mut by_addresses: BTreeMap<BTreeMap<AddressKey, bool>, Vec<EndpointPort>> = BTreeMap::new();
    for (port, set) in by_port.into_values() {
        by_addresses.entry(set).or_default().extend(port.cloned());
    }
    let pick = |set: &BTreeMap<AddressKey, bool>, wanted: bool| -> Option<Vec<EndpointAddress>> {
        let all: Vec<_> = set.iter().filter(|(_, ready)| **ready == wanted).map(|(key, _)| addresses[key].clone()).collect();
        (!all.is_empty()).then_some(all)
    };
    by_addresses
        .into_iter()
        .map(|(set, mut ports)| {
            ports.sort_by_key(port_key);
            EndpointSubset { addresses: pick(&set, true), not_ready_addresses: pick(&set, false), ports: (!ports.is_empty()).then_some(ports) }
        })
        .collect()
}

/// Whether two lists of subsets say the same, but for the versions of the pods they refer to.
pub fn same(a: &[EndpointSubset], b: &[EndpointSubset]) -> bool {
    plain(a) == plain(b)
}

fn plain(subsets: &[EndpointSubset]) -> Vec<EndpointSubset> {
    let mut subsets = repack(subsets);
    for subset in &mut subsets {
        let all = subset.addresses.iter_mut().flatten().chain(subset.not_ready_addresses.iter_mut().flatten());
        all.filter_map(|a| a.target_ref.as_mut()).for_each(|t| t.resource_version = None);
    }
    subsets
}

#[cfg(test)]
mod tests {
    use knarr_core::{Value, json};

    use super::*;

    fn check(subsets: Value, wanted: Value) {
        let subsets: Vec<EndpointSubset> = serde_json::from_value(subsets).unwrap();
        assert_eq!(json!(repack(&subsets)), wanted);
    }

    #[test]
    fn addresses_with_the_same_ports_stand_together() {
        let (a, b) = (json!({"ip": "10.0.0.1"}), json!({"ip": "10.0.0.2"}));
        check(
            json!([{"addresses": [b, a], "ports": [{"port": 2}]}, {"addresses": [a, b], "ports": [{"port": 1}]}]),
            json!([{"addresses": [a, b], "ports": [{"port": 1}, {"port": 2}]}]),
        );
    }

    #[test]
    fn not_ready_trumps_ready_and_no_ports_are_kept() {
        let a = json!({"ip": "10.0.0.1"});
        check(json!([{"addresses": [a]}, {"notReadyAddresses": [a]}]), json!([{"notReadyAddresses": [a]}]));
    }
}
