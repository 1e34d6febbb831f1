//! The whole server: objects in a fake API, queries over real sockets.

use std::net::UdpSocket;

use futures::FutureExt;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use knarr_client::fake::FakeApi;
use knarr_core::json;

use super::respond::{Step, Transport};
use super::*;
use crate::testbed::Machine;

struct World {
    runtime: tokio::runtime::Runtime,
    api: Arc<FakeApi>,
    responder: Arc<Responder>,
    stop: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn seeded() -> Arc<FakeApi> {
    let api = FakeApi::new(Env::system());
    let typed = |v| serde_json::from_value(v).unwrap();
    api.seed::<Namespace>(&serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap());
    api.seed::<Service>(&typed(
        json!({"metadata": {"namespace": "a", "name": "web"}, "spec": {"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ports": [{"port": 80}]}}),
    ));
    api.seed::<Service>(&typed(json!({"metadata": {"namespace": "a", "name": "ext"}, "spec": {"type": "ExternalName", "externalName": "out.example"}})));
    api.seed::<Service>(&typed(json!({"metadata": {"namespace": "a", "name": "many"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}})));
    let endpoints: Vec<_> = (0..200).map(|n| json!({"addresses": [format!("10.244.0.{n}")]})).collect();
    let slice = json!({"metadata": {"namespace": "a", "name": "many-1", "labels": {"kubernetes.io/service-name": "many"}}, "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "", "port": 80}]});
    api.seed::<EndpointSlice>(&serde_json::from_value(slice).unwrap());
    api
}

/// A server whose resolvers are `upstream`.
fn world(upstream: Vec<SocketAddr>) -> World {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (env, stop) = (Env::system(), CancellationToken::new());
    let guard = runtime.enter();
    let api = seeded();
    let informers = SharedInformers::new(api.client(), env.clone(), stop.clone());
    let informed = Arc::new(Informed::new(&informers));
    runtime.block_on(informers.wait_synced());
    let responder = Arc::new(Responder {
        zone: Zone::new("cluster.local", None).unwrap(),
        directory: informed,
        upstream: Upstream::fixed(upstream, env.clone()),
        prepared: Prepared::default(),
        is_ready: Box::new(|| true),
        env,
    });
    drop(guard);
    World { runtime, api, responder, stop }
}

fn query(name: &str, wanted: RecordType, edns: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), wanted));
    if let Some(size) = edns {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

impl World {
    fn ask(&self, packet: &[u8], transport: Transport) -> Message {
        let bytes = match self.responder.begin(packet, transport) {
            Step::Reply(answer) => answer,
            Step::Wait(pending) => self.runtime.block_on(self.responder.finish(pending)),
            Step::Ignore => panic!("no answer"),
        };
        Message::from_vec(&bytes).unwrap()
    }

    fn ask_name(&self, name: &str) -> Message {
        self.ask(&query(name, RecordType::A, None), Transport::Udp)
    }
}

/// A resolver that knows one address for every name, and counts.
fn resolver() -> (SocketAddr, Arc<std::sync::atomic::AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (address, asked) = (socket.local_addr().unwrap(), Arc::new(std::sync::atomic::AtomicUsize::new(0)));
    let counter = asked.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((len, client)) = socket.recv_from(&mut buffer) {
            let request = Message::from_vec(&buffer[..len]).unwrap();
            counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let mut response = Message::response(request.metadata.id, OpCode::Query);
            response.add_queries(request.queries.clone());
            response.add_answer(Record::from_rdata(request.queries[0].name().clone(), 300, RData::A(A([192, 0, 2, 7].into()))));
            drop(socket.send_to(&response.to_vec().unwrap(), client));
        }
    });
    (address, asked)
}

#[test]
fn names_of_the_cluster_are_answered_with_authority_and_others_by_the_resolvers_once() {
    let (address, asked) = resolver();
    let world = world(vec![address]);
    let own = world.ask_name("web.a.svc.cluster.local.");
    assert!(own.metadata.authoritative && own.metadata.id == 77 && own.answers.len() == 1);
    for spelling in ["www.example.", "WWW.example."] {
        let other = world.ask_name(spelling);
        assert_eq!((other.metadata.id, other.answers.len(), other.metadata.authoritative), (77, 1, false));
        assert_eq!(other.queries[0].name().to_ascii(), spelling);
    }
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[test]
fn a_question_that_was_answered_is_answered_again_until_something_changes() {
    let world = world(Vec::new());
    let (asked, mut out) = (query("web.a.svc.cluster.local.", RecordType::A, Some(1232)), Vec::new());
    assert!(!world.responder.again(&asked, &mut out));
    let Step::Reply(first) = world.responder.begin(&asked, Transport::Udp) else { panic!() };
    assert!(world.responder.again(&asked, &mut out));
    assert_eq!(out, first);
    assert!(!world.responder.again(&query("web.a.svc.cluster.local.", RecordType::A, None), &mut out));
    let before = world.responder.directory.generation();
    world.api.change::<Service>("a", "web", |s| s.spec.as_mut().unwrap().cluster_ips = Some(vec!["10.96.0.9".into()]));
    let begun = std::time::Instant::now();
    while world.responder.directory.generation() == before {
        assert!(begun.elapsed().as_secs() < 60, "the change is not seen");
        std::thread::yield_now();
    }
    assert!(!world.responder.again(&asked, &mut out));
    assert_eq!(world.ask(&asked, Transport::Udp).answers[0].data.to_string(), "10.96.0.9");
    // Addresses of several endpoints change places.
    let many = query("many.a.svc.cluster.local.", RecordType::A, None);
    world.ask(&many, Transport::Udp);
    assert!(!world.responder.again(&many, &mut out));
}

#[test]
fn a_search_list_gets_quick_negative_answers_that_may_be_kept() {
    let world = world(Vec::new());
    for name in ["www.example.com.a.svc.cluster.local.", "www.example.com.svc.cluster.local.", "www.example.com.cluster.local."] {
        let answer = world.ask_name(name);
        assert_eq!((answer.metadata.response_code, answer.authorities.len()), (ResponseCode::NXDomain, 1), "{name}");
    }
    let nothing = world.ask(&query("web.a.svc.cluster.local.", RecordType::AAAA, None), Transport::Udp);
    assert_eq!((nothing.metadata.response_code, nothing.answers.len(), nothing.authorities.len()), (ResponseCode::NoError, 0, 1));
}

#[test]
fn without_resolvers_other_names_fail_at_once() {
    let world = world(Vec::new());
    let Step::Wait(pending) = world.responder.begin(&query("www.example.", RecordType::A, None), Transport::Udp) else { panic!("no name of ours") };
    let answer = world.runtime.block_on(async { world.responder.finish(pending).now_or_never() }).expect("nobody is waited for");
    assert_eq!(Message::from_vec(&answer).unwrap().metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn an_alias_comes_with_the_records_of_its_target() {
    let (address, _) = resolver();
    let answer = world(vec![address]).ask_name("ext.a.svc.cluster.local.");
    let types: Vec<_> = answer.answers.iter().map(Record::record_type).collect();
    assert_eq!(types, [RecordType::CNAME, RecordType::A]);
    let alone = world(Vec::new()).ask_name("ext.a.svc.cluster.local.");
    assert_eq!(alone.answers.len(), 1);
}

#[test]
fn a_long_answer_is_cut_to_what_the_client_takes_and_whole_over_tcp() {
    let world = world(Vec::new());
    let ask = |edns, transport| {
        let packet = query("many.a.svc.cluster.local.", RecordType::A, edns);
        let Step::Reply(bytes) = world.responder.begin(&packet, transport) else { panic!() };
        let message = Message::from_vec(&bytes).unwrap();
        (bytes.len(), message.answers.len(), message.metadata.truncation, message.edns.is_some())
    };
    let (len, answers, truncated, _) = ask(None, Transport::Udp);
    assert!(len <= 512 && answers > 20 && truncated, "{len} {answers}");
    let (len, answers, truncated, edns) = ask(Some(4096), Transport::Udp);
    assert!(len <= 1232 && answers > 60 && truncated && edns, "{len} {answers}");
    assert_eq!(ask(None, Transport::Tcp).1, 200);
}

#[test]
fn what_is_no_proper_query_is_refused_in_the_proper_way() {
    let world = world(Vec::new());
    let mut update = query("web.a.svc.cluster.local.", RecordType::A, None);
    update[2] = 5 << 3;
    let Step::Reply(answer) = world.responder.begin(&update, Transport::Udp) else { panic!() };
    assert!(matches!(packet::rcode(&answer), 1 | 4));
    assert!(matches!(world.responder.begin(&[0; 5], Transport::Udp), Step::Ignore));
    let mut response = query("web.a.svc.cluster.local.", RecordType::A, None);
    response[2] |= 0x80;
    assert!(matches!(world.responder.begin(&response, Transport::Udp), Step::Ignore));
    assert!(matches!(world.responder.begin(&[&[0, 7][..], &[0; 2], &[0xff; 20]].concat(), Transport::Udp), Step::Reply(_)));
    let transfer = world.ask(&query("cluster.local.", RecordType::AXFR, None), Transport::Tcp);
    assert_eq!(transfer.metadata.response_code, ResponseCode::Refused);
}

#[test]
fn pods_ask_the_address_on_their_node_and_two_servers_share_it() {
    let (machine, folder) = (Machine::new(), tempfile::tempdir().unwrap());
    let cidr: IpNet = "10.244.0.0/16".parse().unwrap();
    let network = machine.run(|| crate::pods::PodNetwork::new(crate::pods::Config::new(folder.path(), &[cidr]))).unwrap();
    network.set_pod_cidr("10.244.1.0/24".parse().unwrap()).unwrap();
    let before = machine.traces();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (env, api) = (Env::system(), seeded());
    let config = Config { resolv_conf: "/nonexistent".into(), ..Config::new("cluster.local", &["10.96.0.10".parse().unwrap()]) };
    let start_one = || {
        let stop = CancellationToken::new();
        machine.run(|| {
            let _guard = runtime.enter();
            let informers = SharedInformers::new(api.client(), env.clone(), stop.clone());
            start(&config, &informers, env.clone(), &stop).unwrap();
            runtime.block_on(informers.wait_synced());
        });
        stop
    };
    let sockets = || machine.run(|| std::fs::read_to_string("/proc/thread-self/net/udp").unwrap().matches(":0035 ").count());
    // A server binds in its own time, after the informers that it shares with others know everything.
    let until_servers_are = |count: usize| {
        let (begun, wanted) = (std::time::Instant::now(), count * sockets_of_a_server());
        while sockets() != wanted {
            assert!(begun.elapsed().as_secs() < 60, "{} sockets, not {wanted}", sockets());
            std::thread::yield_now();
        }
    };
    let first = start_one();
    let second = start_one();
    until_servers_are(2);
    let pod = machine.pod(&network, "a");
    let ask = || {
        let socket = pod.udp("10.96.0.10:53");
        socket.send(&query("web.a.svc.cluster.local.", RecordType::A, None)).unwrap();
        let mut buffer = [0; 512];
        socket.recv(&mut buffer).map(|len| Message::from_vec(&buffer[..len]).unwrap().answers.len()).map_err(|e| e.kind())
    };
    assert_eq!((0..20).map(|_| ask().unwrap()).sum::<usize>(), 20);
    first.cancel();
    until_servers_are(1);
    assert_eq!((0..20).map(|_| ask().unwrap()).sum::<usize>(), 20);
    second.cancel();
    drop(pod);
    network.detach_now("a").unwrap();
    network.bury_now().unwrap();
    machine.run(|| remove(&config)).unwrap();
    assert_eq!(machine.traces(), before);
}
