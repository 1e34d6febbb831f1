//! Names, addresses and ports of a pod as seen from outside.

use knarr_core::field::ErrorList;
use knarr_core::names;

use super::Pod;
use crate::at::At;
use crate::rules;

const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_CHARACTERS_MAX: usize = 2048;
const HOST_NAME_MAX: i64 = 64;

/// On the host's network a container's port is the host's.
pub fn host_ports(pod: &Pod, e: &mut ErrorList) {
    if !pod.spec.get("hostNetwork").bool() {
        return;
    }
    for container in pod.spec.get("containers").items() {
        for port in container.get("ports").items() {
            let (host, own) = (port.get("hostPort"), port.get("containerPort").int());
            if (pod.options.is_pod || host.int() != 0) && host.int() != own {
                e.push(host.invalid_as(host.int(), "must match `containerPort` when `hostNetwork` is true"));
            }
        }
    }
}

/// Upstream: `validatePodDNSConfig`.
pub fn dns_config(spec: &At, e: &mut ErrorList) {
    let config = spec.get("dnsConfig");
    let (servers, searches) = (config.get("nameservers"), config.get("searches"));
    if spec.str_of("dnsPolicy") == "None" {
        if !config.is_set() {
            e.push(config.required("must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if servers.is_empty() {
            e.push(servers.required("must provide at least one DNS nameserver when `dnsPolicy` is None"));
            return;
        }
    }
    if servers.len() > NAMESERVERS_MAX {
        e.push(servers.invalid(format!("must not have more than {NAMESERVERS_MAX} nameservers")));
    }
    for server in servers.items() {
        server.problems(e, rules::ip(server.str()));
    }
    if searches.len() > SEARCHES_MAX {
        e.push(searches.invalid(format!("must not have more than {SEARCHES_MAX} search paths")));
    }
    if searches.strings().collect::<Vec<_>>().join(" ").len() > SEARCH_CHARACTERS_MAX {
        e.push(searches.invalid(format!("must not have more than {SEARCH_CHARACTERS_MAX} characters (including spaces) in the search list")));
    }
    for search in searches.items().filter(|s| s.str() != ".") {
        let name = search.str().strip_suffix('.').unwrap_or(search.str());
        e.extend(rules::dns_subdomain_with_underscore(name).into_iter().map(|p| search.invalid_as(name, p)));
    }
    for option in config.get("options").items() {
        if option.get("name").is_empty() {
            e.push(option.required("must not be empty"));
        }
    }
}

/// Entries for the pod's hosts file.
pub fn host_aliases(aliases: &At, e: &mut ErrorList) {
    for alias in aliases.items() {
        let ip = alias.get("ip");
        ip.problems(e, rules::ip(ip.str()));
        for name in alias.get("hostnames").items() {
            name.problems(e, names::is_dns1123_subdomain(name.str()));
        }
    }
}

/// Upstream: `validatePodHostName`.
pub fn host_name_override(spec: &At, e: &mut ErrorList) {
    let name = spec.get("hostnameOverride");
    if !name.is_set() {
        return;
    }
    for (field, is) in [("setHostnameAsFQDN", spec.get("setHostnameAsFQDN").bool()), ("hostNetwork", spec.get("hostNetwork").bool())] {
        if is {
            e.push(name.forbidden(format!("may not be specified when {field} is true")));
        }
    }
    if name.str().len() as i64 > HOST_NAME_MAX {
        e.push(name.too_long(HOST_NAME_MAX));
    }
    name.problems(e, names::is_dns1123_subdomain(name.str()));
}
