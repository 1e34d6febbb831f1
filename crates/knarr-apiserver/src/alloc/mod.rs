//! What the server gives out when a Service is written: cluster addresses and node ports. Taken before the write, kept when it
//! succeeds, given back when it fails (upstream: `registry/core/service/storage/alloc.go`).

mod addresses;
mod ports;

use std::sync::Arc;

use ipnet::IpNet;
use knarr_core::{GroupVersionKind, Result, Status, Value, ValueExt, field, field::Path};
use knarr_kinds::core::service::allocation::{
    init_ip_families, keep_allocated, needs_cluster_ip, needs_health_check_node_port, needs_node_ports, node_ports, normalize_cluster_ips,
};
use knarr_kinds::core::service::validation::cluster_addresses;
use knarr_store::{Error, Guard, Storage};

use crate::{call::Exchange, server::Config};
use addresses::Addresses;
use ports::Ports;

/// The allocators of one server.
pub struct Allocators {
    addresses: Addresses,
    ports: Arc<Ports>,
    /// Families of the cluster, the primary one first.
    families: Vec<&'static str>,
}

/// What one write has taken and given up. What a write has taken that came to nothing goes back before it is answered
/// ([`Self::give_back`]), or, when nobody waits for the answer any more, after a drop.
#[must_use]
pub struct Reserved {
    storage: Arc<Storage>,
    ports: Arc<Ports>,
    taken_addresses: Vec<String>,
    freed_addresses: Vec<String>,
    taken_ports: Vec<u16>,
    freed_ports: Vec<u16>,
}

impl Reserved {
    pub fn new(ex: &Exchange<'_>) -> Self {
        Self {
            storage: ex.server.storage.clone(),
            ports: ex.server.allocators.ports.clone(),
            taken_addresses: Vec::new(),
            freed_addresses: Vec::new(),
            taken_ports: Vec::new(),
            freed_ports: Vec::new(),
        }
    }

    /// What the write must hold to where other servers write into the same store.
    ///
    /// # Errors
    /// [`Error::Moved`] when what was taken has been given by another server meanwhile: the write begins anew.
    pub async fn guard(&self) -> std::result::Result<Option<Guard>, Error> {
        if self.taken_ports.is_empty() { Ok(None) } else { self.ports.guard(&self.storage, &self.taken_ports).await }
    }

    /// The write succeeded: what it took stays taken, what it gave up is free.
    pub async fn commit(&mut self) {
        self.taken_addresses.clear();
        self.ports.settle(&std::mem::take(&mut self.taken_ports));
        self.ports.release(&std::mem::take(&mut self.freed_ports));
        for address in std::mem::take(&mut self.freed_addresses) {
            addresses::release(&self.storage, &address).await;
        }
    }

    /// The write has ended: what it took without a commit is free again.
    pub async fn give_back(mut self) {
        self.ports.release(&std::mem::take(&mut self.taken_ports));
        while let Some(address) = self.taken_addresses.last() {
            addresses::release(&self.storage, address).await;
            self.taken_addresses.pop();
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.ports.release(&self.taken_ports);
        if !self.taken_addresses.is_empty() {
            let (storage, taken) = (self.storage.clone(), std::mem::take(&mut self.taken_addresses));
            tokio::spawn(async move {
                for address in taken {
                    addresses::release(&storage, &address).await;
                }
            });
        }
    }
}

fn is_service(ex: &Exchange<'_>) -> bool {
    ex.served.is("", "services") && ex.call.info.subresource.is_empty()
}

fn invalid(service: &Value, errors: &[field::Error]) -> Status {
    Status::invalid(&GroupVersionKind::new("", "v1", "Service"), name_of(service), errors)
}

/// Upstream: `initIPFamilyFields` looks at what it goes by before it does.
fn check_addresses(service: &Value, old: Option<&Value>) -> Result<()> {
    let errors = cluster_addresses(service, old);
    if errors.is_empty() { Ok(()) } else { Err(invalid(service, &errors)) }
}

fn name_of(service: &Value) -> &str {
    service.str_at(&["metadata", "name"]).unwrap_or_default()
}

fn spec(service: &Value) -> &Value {
    service.at(&["spec"]).unwrap_or(&Value::Null)
}

/// Addresses that a Service holds; headless ones hold none.
fn addresses_of(service: &Value) -> Vec<String> {
    let held = spec(service).list_at(&["clusterIPs"]).iter().filter_map(Value::as_str).filter(|ip| !ip.is_empty() && *ip != "None");
    held.map(str::to_owned).collect()
}

fn is_headless(service: &Value) -> bool {
    spec(service).list_at(&["clusterIPs"]).first().and_then(Value::as_str) == Some("None")
}

fn port_numbers(service: &Value) -> Vec<u16> {
    node_ports(spec(service)).into_iter().filter_map(|p| u16::try_from(p).ok()).collect()
}

fn health_check_port(service: &Value) -> u16 {
    spec(service).i64_at(&["healthCheckNodePort"]).and_then(|p| u16::try_from(p).ok()).unwrap_or(0)
}

/// All node ports of a Service, that of its health check included.
fn all_ports(service: &Value) -> Vec<u16> {
    let mut all = port_numbers(service);
    if needs_health_check_node_port(spec(service)) {
        all.extend(Some(health_check_port(service)).filter(|p| *p != 0));
    }
    all
}

impl Allocators {
    pub fn new(config: &Config) -> Self {
        let mut families: Vec<&'static str> = Vec::new();
        for cidr in &config.service_cidrs {
            let family = family(cidr);
            if !families.contains(&family) {
                families.push(family);
            }
        }
        Self { addresses: Addresses::new(config.service_cidrs.clone()), ports: Arc::new(Ports::new(config.node_ports.clone())), families }
    }

    /// Before a create is validated.
    ///
    /// # Errors
    /// `Invalid` when what the object wants cannot be had.
    pub async fn begin_create(&self, ex: &Exchange<'_>, service: &mut Value, reserved: &mut Reserved) -> Result<()> {
        // A status that makes a Service passes by where addresses are given.
        if is_service(ex) && ex.call.info.subresource.is_empty() {
            normalize_cluster_ips(service, None);
            check_addresses(service, None)?;
            init_ip_families(service, None, &self.families).map_err(|e| invalid(service, &e))?;
            self.take_addresses(ex, service, reserved).await?;
            self.create_ports(ex, service, reserved)?;
        }
        Ok(())
    }

    /// Before an update is validated.
    ///
    /// # Errors
    /// As [`Self::begin_create`].
    pub async fn begin_update(&self, ex: &Exchange<'_>, service: &mut Value, old: &Value, reserved: &mut Reserved) -> Result<()> {
        if is_service(ex) {
            keep_allocated(service, old);
            normalize_cluster_ips(service, Some(old));
            check_addresses(service, Some(old))?;
            init_ip_families(service, Some(old), &self.families).map_err(|e| invalid(service, &e))?;
            self.update_addresses(ex, service, old, reserved).await?;
            self.update_ports(ex, service, old, reserved)?;
        }
        Ok(())
    }

    /// After a delete.
    pub async fn release(&self, ex: &Exchange<'_>, object: &Value) {
        if ex.served.is("", "services") {
            self.ports.release(&all_ports(object));
            for address in addresses_of(object) {
                addresses::release(&ex.server.storage, &address).await;
            }
        }
    }

    /// Takes what `clusterIPs` names, and any address where it names none.
    async fn take_addresses(&self, ex: &Exchange<'_>, service: &mut Value, reserved: &mut Reserved) -> Result<()> {
        if !needs_cluster_ip(spec(service)) || is_headless(service) {
            return Ok(());
        }
        let families: Vec<String> = spec(service).list_at(&["ipFamilies"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let mut held: Vec<Value> = spec(service).list_at(&["clusterIPs"]).to_vec();
        for (i, family) in families.iter().enumerate() {
            let wanted = held.get(i).and_then(Value::as_str).filter(|ip| !ip.is_empty());
            let address = self.addresses.take(ex, service, family, wanted).await?;
            if !ex.dry_run() {
                reserved.taken_addresses.push(address.clone());
            }
            if i < held.len() {
                held[i] = address.into();
            } else {
                held.push(address.into());
            }
        }
        if let Some(first) = held.first().cloned() {
            service.set(&["spec", "clusterIP"], first);
        }
        service.set(&["spec", "clusterIPs"], held);
        Ok(())
    }

    async fn update_addresses(&self, ex: &Exchange<'_>, service: &mut Value, old: &Value, reserved: &mut Reserved) -> Result<()> {
        match (needs_cluster_ip(spec(old)), needs_cluster_ip(spec(service))) {
            (false, true) => return self.take_addresses(ex, service, reserved).await,
            (true, false) => {
                reserved.freed_addresses = addresses_of(old);
                return Ok(());
            }
            (false, false) => return Ok(()),
            (true, true) if is_headless(old) => return Ok(()),
            (true, true) => {}
        }
        let count = |s: &Value| spec(s).list_at(&["ipFamilies"]).len();
        if count(old) == 1 && count(service) == 2 {
            let family = spec(service).list_at(&["ipFamilies"])[1].as_str().unwrap_or_default().to_owned();
            let mut held: Vec<Value> = spec(service).list_at(&["clusterIPs"]).to_vec();
            let wanted = held.get(1).and_then(Value::as_str).filter(|ip| !ip.is_empty());
            let address = self.addresses.take(ex, service, &family, wanted).await?;
            if !ex.dry_run() {
                reserved.taken_addresses.push(address.clone());
            }
            held.truncate(1);
            held.push(address.into());
            service.set(&["spec", "clusterIPs"], held);
        } else if count(old) == 2 && count(service) == 1 {
            reserved.freed_addresses = addresses_of(old).into_iter().skip(1).collect();
        }
        Ok(())
    }

    /// Ports of the same number (TCP and UDP) share a node port.
    fn create_ports(&self, ex: &Exchange<'_>, service: &mut Value, reserved: &mut Reserved) -> Result<()> {
        if matches!(spec(service).str_at(&["type"]), Some("NodePort" | "LoadBalancer")) {
            let allocates = needs_node_ports(spec(service));
            let mut by_port: Vec<(i64, u16)> = Vec::new();
            let count = spec(service).list_at(&["ports"]).len();
            for i in 0..count {
                let (port, wanted) = port_at(service, i);
                if wanted == 0 && !allocates {
                    continue;
                }
                let shared = by_port.iter().find(|(p, _)| *p == port).map(|(_, n)| *n);
                let number = match shared {
                    Some(shared) if wanted == 0 || wanted == shared => shared,
                    Some(_) => self.take_port(ex, service, i, wanted, reserved)?,
                    None => {
                        let named = (i..count).map(|j| port_at(service, j)).find(|(p, n)| *p == port && *n != 0).map_or(0, |(_, n)| n);
                        let number = self.take_port(ex, service, i, named, reserved)?;
                        by_port.push((port, number));
                        number
                    }
                };
                set_port(service, i, number);
            }
        }
        self.take_health_check_port(ex, service, reserved)
    }

    fn take_port(&self, ex: &Exchange<'_>, service: &Value, index: usize, wanted: u16, reserved: &mut Reserved) -> Result<u16> {
        let taken = if wanted == 0 {
            let any = self.ports.take_any(&ex.server.storage, &ex.server.env, ex.dry_run());
            any.map_err(|why| Status::internal(format!("failed to allocate a nodePort: {why}")))?
        } else {
            self.ports.take(&ex.server.storage, wanted, ex.dry_run()).map_err(|why| {
                let path = Path::new("spec").child("ports").index(index).child("nodePort");
                invalid(service, &[field::Error::invalid(&path, wanted, why)])
            })?;
            wanted
        };
        if !ex.dry_run() {
            reserved.taken_ports.push(taken);
        }
        Ok(taken)
    }

    fn take_health_check_port(&self, ex: &Exchange<'_>, service: &mut Value, reserved: &mut Reserved) -> Result<()> {
        if !needs_health_check_node_port(spec(service)) {
            return Ok(());
        }
        let wanted = health_check_port(service);
        let storage = &ex.server.storage;
        let taken = if wanted == 0 {
            self.ports
                .take_any(storage, &ex.server.env, ex.dry_run())
                .map_err(|why| Status::internal(format!("failed to allocate a HealthCheck NodePort 0: {why}")))?
        } else {
            let named = self.ports.take(storage, wanted, ex.dry_run());
            named.map_err(|why| Status::internal(format!("failed to allocate requested HealthCheck NodePort {wanted}: {why}")))?;
            wanted
        };
        if !ex.dry_run() {
            reserved.taken_ports.push(taken);
        }
        service.set(&["spec", "healthCheckNodePort"], taken);
        Ok(())
    }

    fn update_ports(&self, ex: &Exchange<'_>, service: &mut Value, old: &Value, reserved: &mut Reserved) -> Result<()> {
        let exposes = |s: &Value| matches!(spec(s).str_at(&["type"]), Some("NodePort" | "LoadBalancer"));
        let before = port_numbers(old);
        if exposes(service) {
            let allocates = needs_node_ports(spec(service));
            let mut taken_now: Vec<u16> = Vec::new();
            for i in 0..spec(service).list_at(&["ports"]).len() {
                let (_, wanted) = port_at(service, i);
                let known = before.contains(&wanted) || taken_now.contains(&wanted);
                if wanted == 0 && !allocates || wanted != 0 && known {
                    continue;
                }
                let number = self.take_port(ex, service, i, wanted, reserved)?;
                taken_now.push(number);
                set_port(service, i, number);
            }
            let after = port_numbers(service);
            reserved.freed_ports.extend(before.iter().filter(|p| !after.contains(p)));
        } else if exposes(old) {
            reserved.freed_ports.extend(before);
        }
        match (needs_health_check_node_port(spec(old)), needs_health_check_node_port(spec(service))) {
            (false, true) => self.take_health_check_port(ex, service, reserved)?,
            (true, false) => reserved.freed_ports.extend(Some(health_check_port(old)).filter(|p| *p != 0)),
            _ => {}
        }
        if ex.dry_run() {
            reserved.freed_ports.clear();
            reserved.freed_addresses.clear();
        }
        Ok(())
    }
}

fn port_at(service: &Value, index: usize) -> (i64, u16) {
    let port = &spec(service).list_at(&["ports"])[index];
    (port.i64_at(&["port"]).unwrap_or(0), port.i64_at(&["nodePort"]).and_then(|p| u16::try_from(p).ok()).unwrap_or(0))
}

fn set_port(service: &mut Value, index: usize, number: u16) {
    if let Some(port) = service.at_mut(&["spec", "ports"]).and_then(|p| p.get_mut(index)) {
        port.set(&["nodePort"], number);
    }
}

fn family(cidr: &IpNet) -> &'static str {
    if cidr.addr().is_ipv4() { "IPv4" } else { "IPv6" }
}
