//! Text in, text out: `name type` becomes records.

use std::sync::Arc;

use knarr_client::Project;
use knarr_client::read::Key;
use knarr_core::{Encoding, Object, Value, json};

use super::*;

#[derive(Default)]
struct Fake {
    services: Vec<Arc<Item<Service>>>,
    slices: Vec<Arc<Item<Slice>>>,
}

fn item<P: Project>(namespace: &str, name: &str, value: &Value) -> Arc<Item<P>> {
    let object = Object { encoding: Encoding::Json, resource_version: 1, bytes: value.to_string().into() };
    Arc::new(Item { key: Key::new(namespace, name), view: P::project(&object).unwrap(), object })
}

impl Directory for Fake {
    fn generation(&self) -> u64 {
        0
    }
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Item<Service>>> {
        self.services.iter().find(|s| s.key == Key::new(namespace, name)).cloned()
    }
    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<Item<Slice>>> {
        self.slices.iter().filter(|s| s.key.namespace() == namespace && *s.view.service == *service).cloned().collect()
    }
    fn has_namespace(&self, name: &str) -> bool {
        name == "a"
    }
    fn services_at(&self, address: IpAddr) -> Vec<Arc<Item<Service>>> {
        self.services.iter().filter(|s| s.view.cluster_ips.contains(&address)).cloned().collect()
    }
    fn slices_at(&self, address: IpAddr) -> Vec<Arc<Item<Slice>>> {
        self.slices.iter().filter(|s| s.view.endpoints.iter().any(|e| e.address == address)).cloned().collect()
    }
}

fn cluster() -> Fake {
    let ports = json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    let slice = |service: &str, endpoints: Value| {
        item(
            "a",
            service,
            &json!({"metadata": {"labels": {"kubernetes.io/service-name": service}}, "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "http", "protocol": "TCP", "port": 8080}, {"name": "dns", "protocol": "UDP", "port": 5353}]}),
        )
    };
    Fake {
        services: vec![
            item("a", "web", &json!({"spec": {"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ports": ports}})),
            item("a", "dual", &json!({"spec": {"clusterIP": "10.96.0.6", "clusterIPs": ["10.96.0.6", "fd00::6"], "ports": ports}})),
            item("a", "db", &json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"], "ports": ports}})),
            item("a", "idle", &json!({"spec": {"clusterIP": "None", "ports": ports}})),
            item("a", "ext", &json!({"spec": {"type": "ExternalName", "externalName": "example.com"}})),
        ],
        slices: vec![
            slice(
                "db",
                json!([{"addresses": ["10.244.0.1"], "hostname": "db-0"}, {"addresses": ["10.244.0.2"]}, {"addresses": ["10.244.0.3"], "conditions": {"ready": false}}]),
            ),
            slice("web", json!([{"addresses": ["10.244.0.7"]}])),
        ],
    }
}

fn show(record: &Record) -> String {
    format!("{} {}", record.record_type(), record.data)
}

fn ask(question: &str) -> Vec<String> {
    let (name, wanted) = question.split_once(' ').unwrap();
    let zone = Zone::new("cluster.local", Some("10.96.0.10".parse().unwrap())).unwrap();
    match zone.resolve(&cluster(), &Name::from_ascii(format!("{name}.")).unwrap(), wanted.parse().unwrap()) {
        Outcome::Found { answers, additionals } => answers.iter().map(show).chain(additionals.iter().map(|r| format!("+ {} {}", r.name, show(r)))).collect(),
        Outcome::Alias { record, .. } => vec![show(&record)],
        other => vec![format!("{other:?}")],
    }
}

fn check(question: &str, wanted: &[&str]) {
    assert_eq!(ask(question), wanted, "{question}");
}

#[test]
fn a_service_has_its_cluster_ips() {
    check("web.a.svc.cluster.local A", &["A 10.96.0.5"]);
    check("WEB.a.Svc.cluster.LOCAL A", &["A 10.96.0.5"]);
    check("web.a.svc.cluster.local AAAA", &["NoData"]);
    check("dual.a.svc.cluster.local AAAA", &["AAAA fd00::6"]);
    check("web.a.svc.cluster.local MX", &["NoData"]);
}

#[test]
fn a_headless_service_has_its_ready_endpoints() {
    check("db.a.svc.cluster.local A", &["A 10.244.0.1", "A 10.244.0.2"]);
    check("db-0.db.a.svc.cluster.local A", &["A 10.244.0.1"]);
    check("10-244-0-2.db.a.svc.cluster.local A", &["A 10.244.0.2"]);
    check("10-244-0-3.db.a.svc.cluster.local A", &["NxDomain"]);
    check("10-244-0-7.web.a.svc.cluster.local A", &["A 10.244.0.7"]);
    check("idle.a.svc.cluster.local A", &["NxDomain"]);
}

#[test]
fn ports_have_service_records_with_the_addresses_of_their_targets() {
    check("_http._tcp.web.a.svc.cluster.local SRV", &["SRV 0 100 80 web.a.svc.cluster.local.", "+ web.a.svc.cluster.local. A 10.96.0.5"]);
    check(
        "_dns._udp.db.a.svc.cluster.local SRV",
        &[
            "SRV 0 50 5353 db-0.db.a.svc.cluster.local.",
            "SRV 0 50 5353 10-244-0-2.db.a.svc.cluster.local.",
            "+ db-0.db.a.svc.cluster.local. A 10.244.0.1",
            "+ 10-244-0-2.db.a.svc.cluster.local. A 10.244.0.2",
        ],
    );
    check("_http._udp.web.a.svc.cluster.local SRV", &["NxDomain"]);
    check("http.tcp.web.a.svc.cluster.local SRV", &["NxDomain"]);
}

#[test]
fn addresses_have_names_and_strange_ones_are_left_to_others() {
    check("5.0.96.10.in-addr.arpa PTR", &["PTR web.a.svc.cluster.local."]);
    check("1.0.244.10.in-addr.arpa PTR", &["PTR db-0.db.a.svc.cluster.local."]);
    check("2.0.244.10.in-addr.arpa PTR", &["PTR 10-244-0-2.db.a.svc.cluster.local."]);
    check("1.0.0.127.in-addr.arpa PTR", &["NotOurs"]);
    check("0.244.10.in-addr.arpa PTR", &["NotOurs"]);
    check("5.0.96.10.in-addr.arpa A", &["NoData"]);
}

#[test]
fn an_external_name_is_an_alias() {
    check("ext.a.svc.cluster.local A", &["CNAME example.com."]);
    check("x.ext.a.svc.cluster.local A", &["NxDomain"]);
}

#[test]
fn pods_have_names_made_of_their_addresses() {
    check("10-244-0-9.a.pod.cluster.local A", &["A 10.244.0.9"]);
    check("10-244-0-9.b.pod.cluster.local A", &["NxDomain"]);
    check("nonsense.a.pod.cluster.local A", &["NxDomain"]);
}

#[test]
fn names_between_exist_and_others_do_not() {
    for name in ["svc.cluster.local", "a.svc.cluster.local", "a.pod.cluster.local", "dns.cluster.local"] {
        check(&format!("{name} A"), &["NoData"]);
    }
    for name in ["b.svc.cluster.local", "none.a.svc.cluster.local", "x.cluster.local", "google.com.a.svc.cluster.local", "a.b.c.d.e.svc.cluster.local"] {
        check(&format!("{name} A"), &["NxDomain"]);
    }
    check("example.com A", &["NotOurs"]);
    check("xcluster.local A", &["NotOurs"]);
}

#[test]
fn the_zone_describes_itself() {
    check("dns-version.cluster.local TXT", &["TXT 1.1.0"]);
    check("cluster.local NS", &["NS ns.dns.cluster.local.", "+ ns.dns.cluster.local. A 10.96.0.10"]);
    check("ns.dns.cluster.local A", &["A 10.96.0.10"]);
    check("cluster.local SOA", &["SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 30"]);
}
