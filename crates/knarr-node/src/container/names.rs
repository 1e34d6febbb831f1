//! What a pod's containers read of names: host name, `/etc/hosts`, `/etc/resolv.conf` (upstream: `kubelet_pods.go`,
//! `network/dns/dns.go`). Pure text; the actor writes the files.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{HostAlias, Pod, PodDNSConfig};
use knarr_core::names::{is_dns1123_label, is_dns1123_subdomain};

use crate::pod::spec::PodExt;

const HOSTNAME_BYTES_MAX: usize = 63;
/// What the kernel's `nodename` takes.
const FQDN_BYTES_MAX: usize = 64;
const NAMESERVERS_MAX: usize = 3;
const SEARCH_PATHS_MAX: usize = 32;
const SEARCH_LINE_BYTES_MAX: usize = 2048;

/// A pod's host name and, with a subdomain, its domain.
///
/// # Errors
/// A name that is not valid, in upstream's words.
pub fn hostname_and_domain(pod: &Pod, cluster_domain: &str) -> Result<(String, String), String> {
    let spec = pod.spec();
    if let Some(name) = &spec.hostname_override {
        let problems = is_dns1123_subdomain(name);
        if !problems.is_empty() {
            return Err(format!("pod HostnameOverride \"{name}\" is not a valid DNS subdomain: {}", problems.join(";")));
        }
        return Ok((shortened(pod.name(), name)?, String::new()));
    }
    let hostname = match spec.hostname.as_deref().filter(|h| !h.is_empty()) {
        Some(name) => {
            let problems = is_dns1123_label(name);
            if !problems.is_empty() {
                return Err(format!("pod Hostname \"{name}\" is not a valid DNS label: {}", problems.join(";")));
            }
            name
        }
        None => pod.name(),
    };
    let domain = match spec.subdomain.as_deref().filter(|s| !s.is_empty()) {
        Some(name) => {
            let problems = is_dns1123_label(name);
            if !problems.is_empty() {
                return Err(format!("pod Subdomain \"{name}\" is not a valid DNS label: {}", problems.join(";")));
            }
            format!("{name}.{}.svc.{cluster_domain}", pod.namespace())
        }
        None => String::new(),
    };
    Ok((shortened(pod.name(), hostname)?, domain))
}

fn shortened(pod_name: &str, hostname: &str) -> Result<String, String> {
    if hostname.len() <= HOSTNAME_BYTES_MAX {
        return Ok(hostname.into());
    }
    let cut = hostname[..HOSTNAME_BYTES_MAX].trim_end_matches(['-', '.']);
    if cut.is_empty() { Err(format!("hostname for pod \"{pod_name}\" was invalid: \"{hostname}\"")) } else { Ok(cut.into()) }
}

/// The name that the kernel is told.
///
/// # Errors
/// A full name that is too long for it.
pub fn kernel_hostname(pod: &Pod, hostname: &str, domain: &str) -> Result<String, String> {
    if domain.is_empty() || pod.spec().set_hostname_as_fqdn != Some(true) {
        return Ok(hostname.into());
    }
    let fqdn = format!("{hostname}.{domain}");
    if fqdn.len() > FQDN_BYTES_MAX {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long ({FQDN_BYTES_MAX} characters is the max, {} characters requested)",
            fqdn.len()
        ));
    }
    Ok(fqdn)
}

/// `/etc/hosts` of a pod with addresses of its own.
pub fn hosts_file(ips: &[String], hostname: &str, domain: &str, aliases: &[HostAlias]) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        let full = if domain.is_empty() { String::new() } else { format!("\t{hostname}.{domain}") };
        text.push_str(&format!("{ip}{full}\t{hostname}\n"));
    }
    text + &alias_lines(aliases)
}

/// `/etc/hosts` of a pod that shares the node's network: the node's, and the aliases.
pub fn host_network_hosts_file(of_node: &str, aliases: &[HostAlias]) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{of_node}{}", alias_lines(aliases))
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let lines = aliases.iter().map(|a| format!("{}\t{}\n", a.ip, a.hostnames.as_deref().unwrap_or_default().join("\t")));
    format!("\n# Entries added by HostAliases.\n{}", lines.collect::<String>())
}

/// What a resolver is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

impl Resolver {
    /// Reads a `resolv.conf`. Lines that make no sense are passed over.
    pub fn parse(text: &str) -> Self {
        let mut all = Self::default();
        for line in text.lines().map(str::trim).filter(|l| !l.starts_with(['#', ';'])) {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => all.servers.extend(words.next().map(str::to_owned)),
                Some("search") => all.searches = words.filter(|w| *w != ".").map(|w| w.strip_suffix('.').unwrap_or(w).to_owned()).collect(),
                Some("options") => words.for_each(|w| put_option(&mut all.options, w.to_owned())),
                _ => {}
            }
        }
        all
    }

    /// As `resolv.conf` says it.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        self.servers.iter().for_each(|s| text.push_str(&format!("nameserver {s}\n")));
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }

    fn merge(&mut self, config: &PodDNSConfig) {
        self.servers = unique(self.servers.iter().chain(config.nameservers.iter().flatten()));
        self.searches = unique(self.searches.iter().chain(config.searches.iter().flatten()));
        for option in config.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            let text = match option.value.as_deref().filter(|v| !v.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name,
            };
            put_option(&mut self.options, text);
        }
    }

    /// Cuts what resolvers do not take. Gives the warnings.
    fn fit(&mut self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.servers.len() > NAMESERVERS_MAX {
            self.servers.truncate(NAMESERVERS_MAX);
            let applied = self.servers.join(" ");
            warnings.push(format!("Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {applied}"));
        }
        let before = self.searches.len();
        self.searches.truncate(SEARCH_PATHS_MAX);
        self.searches.retain(|s| s.len() <= knarr_core::names::DNS1123_SUBDOMAIN_MAX);
        while self.searches.join(" ").len() > SEARCH_LINE_BYTES_MAX {
            self.searches.pop();
        }
        if self.searches.len() != before {
            let applied = self.searches.join(" ");
            warnings.push(format!("Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {applied}"));
        }
        warnings
    }
}

fn put_option(options: &mut Vec<String>, option: String) {
    let name = |o: &str| o.split(':').next().unwrap_or_default().to_owned();
    match options.iter_mut().find(|o| name(o) == name(&option)) {
        Some(slot) => *slot = option,
        None => options.push(option),
    }
}

fn unique<'a>(all: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut seen = BTreeMap::new();
    all.filter(|s| seen.insert((*s).clone(), ()).is_none()).cloned().collect()
}

/// A pod's resolver, and warnings about what did not fit (upstream: `GetPodDNS`).
pub fn resolver(pod: &Pod, host: Resolver, cluster_dns: &[IpAddr], cluster_domain: &str) -> (Resolver, Vec<String>) {
    let spec = pod.spec();
    let mut warnings = Vec::new();
    let mut all = match spec.dns_policy.as_deref() {
        Some("None") => Resolver::default(),
        Some("Default") => host,
        Some("ClusterFirst") if pod.host_network() => host,
        _ if cluster_dns.is_empty() => {
            let text =
                "kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" policy. Falling back to \"Default\" policy.";
            warnings.push(format!("pod: \"{}\". {text}", pod.described()));
            host
        }
        _ => Resolver {
            servers: cluster_dns.iter().map(ToString::to_string).collect(),
            searches: cluster_searches(pod, &host.searches, cluster_domain),
            options: vec!["ndots:5".into()],
        },
    };
    if let Some(config) = &spec.dns_config {
        all.merge(config);
    }
    warnings.extend(all.fit());
    (all, warnings)
}

fn cluster_searches(pod: &Pod, host: &[String], domain: &str) -> Vec<String> {
    if domain.is_empty() {
        return host.to_vec();
    }
    let own = [format!("{}.svc.{domain}", pod.namespace()), format!("svc.{domain}"), domain.to_owned()];
    unique(own.iter().chain(host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod_of;
    use knarr_core::json;

    fn resolved(spec: knarr_core::Value) -> String {
        let host = Resolver::parse("# node\nnameserver 9.9.9.9\nsearch corp.example. .\noptions timeout:2\n");
        resolver(&pod_of(spec), host, &["10.96.0.10".parse().unwrap()], "cluster.local").0.to_text()
    }

    #[test]
    fn cluster_names_are_searched_first() {
        let cluster = "search default.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.96.0.10\noptions ndots:5\n";
        assert_eq!(resolved(json!({"containers": []})), cluster);
        assert_eq!(resolved(json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"})), cluster);
    }

    #[test]
    fn other_policies_take_the_nodes_or_the_pods_own_resolver() {
        let host = "search corp.example\nnameserver 9.9.9.9\noptions timeout:2\n";
        assert_eq!(resolved(json!({"containers": [], "dnsPolicy": "Default"})), host);
        assert_eq!(resolved(json!({"containers": [], "hostNetwork": true})), host);
        let own = json!({"nameservers": ["1.1.1.1"], "searches": ["x.y"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]});
        assert_eq!(resolved(json!({"containers": [], "dnsPolicy": "None", "dnsConfig": own})), "search x.y\nnameserver 1.1.1.1\noptions ndots:2 edns0\n");
    }

    #[test]
    fn a_pods_own_settings_are_added_and_cut_where_resolvers_stop() {
        let text =
            resolved(json!({"containers": [], "dnsConfig": {"nameservers": ["1.1.1.1", "2.2.2.2", "3.3.3.3"], "options": [{"name": "ndots", "value": "1"}]}}));
        assert!(text.ends_with("nameserver 10.96.0.10\nnameserver 1.1.1.1\nnameserver 2.2.2.2\noptions ndots:1\n"), "{text}");
    }

    #[test]
    fn names_come_from_the_pod_or_its_spec() {
        let of = |spec| hostname_and_domain(&pod_of(spec), "cluster.local").unwrap();
        assert_eq!(of(json!({"containers": []})), ("p".into(), String::new()));
        assert_eq!(of(json!({"containers": [], "hostname": "h", "subdomain": "s"})), ("h".into(), "s.default.svc.cluster.local".into()));
        let pod = pod_of(json!({"containers": [], "hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true}));
        assert_eq!(kernel_hostname(&pod, "h", "s.default.svc.cluster.local").unwrap(), "h.s.default.svc.cluster.local");
    }

    #[test]
    fn hosts_name_the_pod_and_its_aliases() {
        let aliases = [HostAlias { ip: "1.2.3.4".into(), hostnames: Some(vec!["a".into(), "b".into()]) }];
        let text = hosts_file(&["10.0.0.1".into()], "h", "s.ns.svc.x", &aliases);
        assert!(text.ends_with("fe00::2\tip6-allrouters\n10.0.0.1\th.s.ns.svc.x\th\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"), "{text}");
    }
}
