//! Cluster addresses: an `IPAddress` object for each that is taken, in the ranges of the ready `ServiceCIDR`s
//! (upstream: `registry/core/service/ipallocator`).

use std::net::IpAddr;

use ipnet::IpNet;
use knarr_core::{Result, Status, Value, ValueExt, field, field::Path, json, time};
use knarr_schema::codec;
use knarr_store::{Error, ObjectKey, ResourceKey, Storage};

use super::{family, invalid, name_of};
use crate::call::Exchange;

const GROUP: &str = "networking.k8s.io";
const ALREADY: &str = "provided IP is already allocated";
const MISMATCH: &str = "the provided network does not match the current range";
/// How often any address is tried before the range is searched in order.
const RANDOM_TRIES: usize = 8;

/// The ranges of the configuration, and the way to those of the API.
pub struct Addresses {
    configured: Vec<IpNet>,
}

enum Refused {
    Taken,
    Failed(Status),
}

impl Addresses {
    pub fn new(configured: Vec<IpNet>) -> Self {
        Self { configured }
    }

    fn ranges(&self, storage: &Storage, wanted: &str) -> Vec<IpNet> {
        let mut ranges = self.configured.clone();
        let stored = storage.snapshot(&ResourceKey::new(GROUP, "servicecidrs"));
        for cidr in stored.iter(None, None).filter_map(|i| codec::to_value(&i.object()).ok()).filter(is_ready) {
            ranges.extend(cidr.list_at(&["spec", "cidrs"]).iter().filter_map(|c| c.as_str()?.parse::<IpNet>().ok()));
        }
        ranges.retain(|r| family(r) == wanted);
        ranges.dedup();
        ranges
    }

    /// Takes an address for a Service: the one that it wants, or any.
    ///
    /// # Errors
    /// `Invalid` when the wanted one cannot be had, `InternalError` when none is left.
    pub async fn take(&self, ex: &Exchange<'_>, service: &Value, family: &str, wanted: Option<&str>) -> Result<String> {
        let ranges = self.ranges(&ex.server.storage, family);
        match wanted {
            Some(text) => self.take_named(ex, service, &ranges, text).await,
            None => take_any(ex, service, &ranges).await,
        }
    }

    async fn take_named(&self, ex: &Exchange<'_>, service: &Value, ranges: &[IpNet], text: &str) -> Result<String> {
        let refuse = |why: String| {
            let value = service.at(&["spec", "clusterIPs"]).cloned().unwrap_or_default();
            invalid(service, &[field::Error::invalid(&Path::new("spec").child("clusterIPs"), value, format!("failed to allocate IP {text}: {why}"))])
        };
        let address: IpAddr = text.parse().map_err(|_| Status::internal(format!("failed to parse service IP {}", field::go_quote(text))))?;
        let Some(range) = ranges.iter().find(|r| r.contains(&address)) else {
            // A dry run asks the first range alone.
            let first = ranges.first().filter(|_| ex.dry_run());
            let outside = |range| format!("the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}");
            return Err(refuse(first.map_or_else(|| MISMATCH.into(), outside)));
        };
        let (first, last) = bounds(range);
        if number(address) < first || number(address) > last {
            return Err(refuse(format!("the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}")));
        }
        match create(ex, service, address).await {
            Ok(()) => Ok(text.to_owned()),
            Err(Refused::Taken) => Err(refuse(ALREADY.into())),
            Err(Refused::Failed(status)) => Err(status),
        }
    }
}

fn is_ready(cidr: &Value) -> bool {
    let ready = |c: &Value| c.str_at(&["type"]) == Some("Ready") && c.str_at(&["status"]) == Some("True");
    cidr.at(&["metadata", "deletionTimestamp"]).is_none() && cidr.list_at(&["status", "conditions"]).iter().any(ready)
}

async fn take_any(ex: &Exchange<'_>, service: &Value, ranges: &[IpNet]) -> Result<String> {
    if ex.dry_run() {
        return Ok(ranges.first().map(|r| r.network().to_string()).unwrap_or_default());
    }
    for range in ranges {
        let (first, last) = bounds(range);
        let size = last - first + 1;
        // The lower part stays for those who name their address, as long as the upper one has some (upstream:
        // `calculateRangeOffset`).
        let offset = if size <= 14 { 0 } else { (size / 16).clamp(16, 256) };
        for (start, count) in [(first + offset, size - offset), (first, offset)] {
            if let Some(taken) = take_from(ex, service, range, start, count).await? {
                return Ok(taken);
            }
        }
    }
    Err(Status::internal(format!("failed to allocate a serviceIP for Service {}: range is full", field::go_quote(name_of(service)))))
}

async fn take_from(ex: &Exchange<'_>, service: &Value, range: &IpNet, start: u128, count: u128) -> Result<Option<String>> {
    if count == 0 {
        return Ok(None);
    }
    let random = || u128::from(ex.server.env.below(u64::try_from(count).unwrap_or(u64::MAX)));
    let tries: Vec<u128> = (0..RANDOM_TRIES).map(|_| random()).collect();
    let from = random();
    // Nobody fills more than this many addresses of an IPv6 range.
    let in_order = (0..count.min(1 << 24)).map(|i| (from + i) % count);
    for offset in tries.into_iter().chain(in_order) {
        let address = address(range, start + offset);
        if ex.server.storage.get_now(&ResourceKey::new(GROUP, "ipaddresses"), &ObjectKey::new("", address.to_string())).is_some() {
            continue;
        }
        match create(ex, service, address).await {
            Ok(()) => return Ok(Some(address.to_string())),
            Err(Refused::Taken) => {}
            Err(Refused::Failed(status)) => return Err(status),
        }
    }
    Ok(None)
}

/// First and last address that may be given out: of IPv4 neither the network nor its broadcast address.
fn bounds(range: &IpNet) -> (u128, u128) {
    let (network, last) = (number(range.network()), number(range.broadcast()));
    if range.addr().is_ipv4() && last > network + 1 { (network + 1, last - 1) } else { ((network + 1).min(last), last) }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

fn address(range: &IpNet, number: u128) -> IpAddr {
    if range.addr().is_ipv4() { IpAddr::V4((number as u32).into()) } else { IpAddr::V6(number.into()) }
}

async fn create(ex: &Exchange<'_>, service: &Value, address: IpAddr) -> Result<(), Refused> {
    let name = address.to_string();
    let (resource, key) = (ResourceKey::new(GROUP, "ipaddresses"), ObjectKey::new("", &name));
    if ex.dry_run() {
        return if ex.server.storage.get_now(&resource, &key).is_some() { Err(Refused::Taken) } else { Ok(()) };
    }
    let env = &ex.server.env;
    let object = json!({
        "kind": "IPAddress", "apiVersion": "networking.k8s.io/v1",
        "metadata": {
            "name": name, "uid": env.uuid(), "creationTimestamp": time::format(env.now()), "generation": 1,
            "labels": {"ipaddress.kubernetes.io/ip-family": if address.is_ipv4() { "IPv4" } else { "IPv6" }, "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"},
        },
        "spec": {"parentRef": {"group": "", "resource": "services", "namespace": ex.namespace(), "name": name_of(service)}},
    });
    let served = ex.catalog.need(GROUP, "ipaddresses").map_err(Refused::Failed)?;
    let bytes = codec::encode_stored(&served.resource, &object).map_err(Refused::Failed)?;
    match ex.server.storage.create(&resource, &key, bytes, None).await {
        Ok(_) => Ok(()),
        Err(Error::Exists) => Err(Refused::Taken),
        Err(e) => Err(Refused::Failed(Status::internal(e))),
    }
}

/// Gives an address back. One that is free already stays free.
pub async fn release(storage: &Storage, address: &str) {
    let (resource, key) = (ResourceKey::new(GROUP, "ipaddresses"), ObjectKey::new("", address));
    while let Some(item) = storage.get_now(&resource, &key) {
        match storage.delete(&resource, &key, item.revision()).await {
            Ok(_) | Err(Error::NotFound) => return,
            Err(Error::Conflict(_)) => {}
            Err(error) => {
                tracing::error!(%error, address, "an address could not be given back");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_and_broadcast_addresses_are_not_given_out() {
        let check = |range: &str, wanted: &str| {
            let range: IpNet = range.parse().unwrap();
            let (first, last) = bounds(&range);
            assert_eq!(format!("{}-{}", address(&range, first), address(&range, last)), wanted);
        };
        check("10.96.0.0/16", "10.96.0.1-10.96.255.254");
        check("10.0.0.0/30", "10.0.0.1-10.0.0.2");
        check("fd00::/112", "fd00::1-fd00::ffff");
    }
}
