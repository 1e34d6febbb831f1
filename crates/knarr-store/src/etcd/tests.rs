//! What only an etcd that several servers share can show. That it does what every engine does is in `crate::tests::contract`.

use std::sync::Arc;
use std::time::Duration;

use knarr_core::clock::Env;
use knarr_core::json;

use super::testing::Etcd;
use super::*;
use crate::tests::contract::increment;
use crate::tests::{bytes, create, delete, key, paths, pods, touch};
use crate::{ChangeKind, ResourceKey, SecretSealer, Storage, WatchFilter, WatchFrom, WatchItem};

async fn server(etcd: &Etcd) -> Arc<Storage> {
    Storage::open(Arc::new(etcd.engine().await), Env::system()).unwrap()
}

/// A value as etcd has it.
async fn raw(etcd: &Etcd, path: &str) -> Vec<u8> {
    let engine = etcd.engine().await;
    let ask = RangeRequest { key: path.to_owned().into(), ..RangeRequest::default() };
    let answer: RangeResponse = engine.shared.channel.read("KV/Range", &ask).await.unwrap();
    answer.kvs.first().expect("the key is there").value.to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_server_sees_what_the_others_wrote() {
    let etcd = Etcd::start();
    let (a, b) = (server(&etcd).await, server(&etcd).await);
    let mut watcher = b.watch(&pods(), WatchFrom::Now, WatchFilter::default()).unwrap();
    let created = create(&a, "default/a").await;
    b.settle().await.unwrap();
    assert_eq!(b.get_now(&pods(), &key("default/a")).unwrap().revision(), created, "acknowledged there, visible here");
    let touched = touch(&b, "default/a", "x").await;
    // A does not know it yet, or just so: the refusal brings it there.
    assert!(matches!(a.delete(&pods(), &key("default/a"), created).await, Err(Error::Conflict(there)) if there.resource_version == touched));
    assert_eq!(a.get_now(&pods(), &key("default/a")).unwrap().revision(), touched);
    delete(&a, "default/a").await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let Ok(WatchItem::Change(change)) = watcher.next().await else { panic!("no change") };
        seen.push(change.kind);
    }
    assert_eq!(seen, [ChangeKind::Added, ChangeKind::Modified, ChangeKind::Deleted]);
    assert_eq!(keys(&etcd).await, 0, "nothing is left in etcd");
}

async fn keys(etcd: &Etcd) -> usize {
    let engine = etcd.engine().await;
    let loaded = engine.loaded.lock().take().unwrap();
    loaded.kvs.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_beside_us_makes_nobody_wait() {
    let etcd = Etcd::start();
    let a = server(&etcd).await;
    let other = EtcdEngine::open(&Options { prefix: "/other".into(), ..etcd.options() }).await.unwrap();
    let other = Storage::open(Arc::new(other), Env::system()).unwrap();
    let elsewhere = create(&other, "default/a").await;
    a.settle().await.unwrap();
    assert!(a.current_revision() >= elsewhere, "a revision without an event is asked for");
    assert!(a.snapshot(&pods()).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_write_at_once_lose_nothing() {
    let etcd = Etcd::start();
    let servers = [server(&etcd).await, server(&etcd).await, server(&etcd).await];
    servers[0].create(&pods(), &key("default/n"), bytes(json!({"data": 0})), None).await.unwrap();
    for s in &servers {
        s.settle().await.unwrap();
    }
    let writers = servers.clone().map(|s| {
        tokio::spawn(async move {
            for _ in 0..40 {
                increment(&s).await;
            }
        })
    });
    for writer in writers {
        writer.await.unwrap();
    }
    for s in &servers {
        s.settle().await.unwrap();
        assert_eq!(s.get_now(&pods(), &key("default/n")).unwrap().field(&["data"]), "120");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_starts_later_finds_everything_and_no_history() {
    let etcd = Etcd::start();
    let a = server(&etcd).await;
    for i in 0..PAGE + 10 {
        create(&a, &format!("default/p{i:05}")).await;
    }
    let b = server(&etcd).await;
    assert_eq!((b.current_revision(), b.snapshot(&pods()).len()), (a.current_revision(), 1010));
    let nodes = ResourceKey::new("", "nodes");
    for resource in [&pods(), &nodes] {
        let below = b.watch(resource, WatchFrom::After(a.current_revision() - 1), WatchFilter::default());
        assert!(matches!(below, Err(Error::TooOld { .. })), "what happened before it came is not known to it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_etcd_dies_and_servers_go_on() {
    let mut etcd = Etcd::start_with("http", &[]);
    let (a, b) = (server(&etcd).await, server(&etcd).await);
    let mut watcher = b.watch(&pods(), WatchFrom::Now, WatchFilter::default()).unwrap();
    for name in ["default/a", "default/b"] {
        create(&a, name).await;
    }
    etcd.kill();
    let refused = a.create(&pods(), &key("default/c"), bytes(json!({})), None).await;
    assert!(matches!(refused, Err(Error::Engine(_))), "{refused:?}");
    assert!(a.settle().await.is_err(), "nobody can tell what is newest");
    etcd.run();
    let mut tries = 0;
    // One whose answer was lost may have been done.
    while !matches!(a.create(&pods(), &key("default/d"), bytes(json!({})), None).await, Ok(_) | Err(Error::Exists)) {
        tries += 1;
        assert!(tries < 1000, "etcd is back, and writes are refused");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    b.settle().await.unwrap();
    assert!(paths(&b.snapshot(&pods())).starts_with("default/a default/b"));
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| last != "default/d") {
        let item = tokio::time::timeout(Duration::from_secs(20), watcher.next()).await.expect("the watch goes on").unwrap();
        let WatchItem::Change(change) = item else { panic!("no change") };
        seen.push(change.item.path().to_owned());
    }
    assert_eq!(seen[..2], ["default/a", "default/b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_lie_sealed_and_others_as_kube_apiserver_writes_them() {
    let etcd = Etcd::start();
    let sealed = |key: u8| async move { SecretSealer::new(&[&[key; 32]]).map(Arc::new).unwrap() };
    let open = async |key| Storage::open(Arc::new(etcd.engine().await.with_sealer(sealed(key).await)), Env::system()).unwrap();
    let a = open(1).await;
    let secrets = ResourceKey::new("", "secrets");
    a.create(&secrets, &key("default/s"), bytes(json!({"data": "password"})), None).await.unwrap();
    a.create(&pods(), &key("default/p"), bytes(json!({"data": "plain"})), None).await.unwrap();
    let value = raw(&etcd, "/registry/secrets/default/s").await;
    assert!(value.starts_with(crate::seal::OWN_MARK.as_bytes()) && !value.windows(8).any(|w| w == b"password"));
    assert_eq!(raw(&etcd, "/registry/pods/default/p").await, bytes(json!({"data": "plain"})));
    let b = open(1).await;
    assert_eq!(b.get_now(&secrets, &key("default/s")).unwrap().field(&["data"]), "password");
    assert!(open(2).await.get_now(&secrets, &key("default/s")).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sealed_lies_there_as_kube_apiserver_seals_it() {
    use crate::seal::providers::{Keys, Method, Pattern, Provider, Rules};
    let etcd = Etcd::start();
    let keys = |name: &str| Provider::Keys(Keys::new(Method::AesGcm, [(name, &[name.as_bytes()[0]; 32][..])]).unwrap());
    let open = async |providers: Vec<Provider>| {
        let rules = Rules::new(vec![(Pattern::parse("pods"), Arc::new(providers))], None);
        Storage::open(Arc::new(etcd.engine().await.with_sealer(Arc::new(rules))), Env::system()).unwrap()
    };
    let plain = server(&etcd).await;
    plain.create(&pods(), &key("default/early"), bytes(json!({"data": "plain"})), None).await.unwrap();
    let sealing = open(vec![keys("a"), Provider::Identity]).await;
    sealing.create(&pods(), &key("default/p"), bytes(json!({"data": "password"})), None).await.unwrap();
    let value = raw(&etcd, "/registry/pods/default/p").await;
    assert!(value.starts_with(b"k8s:enc:aesgcm:v1:a:") && !value.windows(8).any(|w| w == b"password"));
    let names = |storage: Arc<Storage>| storage.snapshot(&pods()).iter(None, None).map(|i| i.path().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(open(vec![keys("b"), keys("a"), Provider::Identity]).await), ["default/early", "default/p"]);
    assert_eq!(names(open(vec![keys("a")]).await), ["default/p"], "without identity nothing may lie there unsealed");
    assert_eq!(names(open(vec![Provider::Identity]).await), ["default/early"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_past_is_compacted_by_one_server_a_round() {
    let etcd = Etcd::start();
    let (a, b) = (etcd.engine().await, etcd.engine().await);
    let storage = server(&etcd).await;
    let first = compact::propose(&a.shared, compact::Seen::default()).await.unwrap();
    let second = compact::propose(&b.shared, compact::Seen::default()).await.unwrap();
    for i in 0..5 {
        create(&storage, &format!("default/{i}")).await;
    }
    let old = storage.current_revision();
    let next = compact::propose(&a.shared, first).await.unwrap();
    assert_ne!(next, first);
    // B saw the round before: it is too late for this one and learns so.
    compact::propose(&b.shared, second).await.unwrap();
    compact::propose(&a.shared, next).await.unwrap();
    let ask = |revision: u64| RangeRequest { key: "/registry/pods/default/0".into(), revision: i64::try_from(revision).unwrap(), ..RangeRequest::default() };
    let refused = a.shared.channel.read::<RangeResponse>("KV/Range", &ask(old - 4)).await.unwrap_err();
    assert!(refused.to_string().contains("compacted"), "{refused}");
    assert!(a.shared.channel.read::<RangeResponse>("KV/Range", &ask(old + 1)).await.is_ok());
    create(&storage, "default/later").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_away_is_passed_over() {
    let etcd = Etcd::start();
    let endpoints = vec!["http://127.0.0.1:1".into(), etcd.url.clone()];
    let engine = EtcdEngine::open(&Options { endpoints, ..Options::default() }).await.unwrap();
    let storage = Storage::open(Arc::new(engine), Env::system()).unwrap();
    create(&storage, "default/a").await;
    let nobody = EtcdEngine::open(&Options { endpoints: vec!["http://127.0.0.1:1".into()], ..Options::default() }).await;
    assert!(matches!(nobody, Err(Error::Engine(why)) if why.contains("127.0.0.1:1")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_show_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = file("ca.pem", &params.self_signed(&ca_key).unwrap().pem());
    let issuer = rcgen::Issuer::new(params, ca_key);
    let leaf = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &issuer).unwrap();
        (file(&format!("{name}.pem"), &certificate.pem()), file(&format!("{name}.key"), &key.serialize_pem()))
    };
    let ((server_certificate, server_key), (certificate, key_file)) = (leaf("server"), leaf("client"));
    let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
    let flags = [flag("cert-file", &server_certificate), flag("key-file", &server_key), flag("trusted-ca-file", &ca), "--client-cert-auth".into()];
    let etcd = Etcd::start_with("https", &flags.each_ref().map(String::as_str));
    let known = Options { ca: Some(ca.clone()), certificate: Some(certificate), key: Some(key_file), ..etcd.options() };
    let storage = Storage::open(Arc::new(EtcdEngine::open(&known).await.unwrap()), Env::system()).unwrap();
    create(&storage, "default/a").await;
    assert!(EtcdEngine::open(&Options { ca: Some(ca), ..etcd.options() }).await.is_err(), "who shows nothing is not let in");
    assert!(EtcdEngine::open(&etcd.options()).await.is_err(), "whom nobody vouches for is not believed");
}
