//! What happens as time passes, on virtual time.

mod support;

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use knarr_apiserver::{
    Config, ServerBuilder,
    authn::{MASTERS, User},
};
use knarr_core::{
    GroupVersionResource,
    api::{EventType, Reply, Request, Transport, Verb},
    clock::Env,
    json,
};
use knarr_schema::codec;
use knarr_store::{MemoryEngine, Storage};

fn request(verb: Verb, resource: &str) -> Request {
    Request { namespace: Some("default".into()), ..Request::new(verb, GroupVersionResource::new("", "v1", resource)) }
}

fn transport() -> impl Transport {
    transport_of(Config::default())
}

fn transport_of(config: Config) -> impl Transport {
    let env = Env::simulated(1, "2026-01-01T00:00:00Z".parse().unwrap());
    let storage = Storage::open(Arc::new(MemoryEngine::new(env.clock.clone())), env.clone()).unwrap();
    let server = ServerBuilder::new(storage).env(env).config(config).build();
    server.transport(User { name: "system:test".into(), groups: vec![MASTERS.into()], ..User::default() })
}

fn named(kind: &str, name: &str) -> knarr_core::Value {
    json!({"kind": kind, "apiVersion": "v1", "metadata": {"name": name, "namespace": "default"}, "involvedObject": {"namespace": "default"}})
}

#[tokio::test(start_paused = true)]
async fn a_watch_gets_a_bookmark_each_minute_and_ends_at_its_timeout() {
    let transport = transport();
    // Until the server has registered its own APIServices.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut create = request(Verb::Create, "configmaps");
    create.body = Some(json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}}));
    let Reply::Object(created) = transport.call(create).await.unwrap() else { panic!("an object") };
    let mut watch = request(Verb::Watch, "configmaps");
    watch.options.allow_watch_bookmarks = true;
    watch.options.timeout = Some(Duration::from_secs(100));
    let started = tokio::time::Instant::now();
    let events: Vec<_> = transport.watch(watch).await.unwrap().map(|e| (e.unwrap(), started.elapsed().as_secs())).collect().await;
    let told: Vec<_> = events.iter().map(|(e, at)| (e.event_type, *at, e.object.resource_version)).collect();
    let revision = created.resource_version;
    let bookmark = |at: u64| (EventType::Bookmark, at, revision);
    // The first one ends the state that the watch began with.
    assert_eq!(told, [(EventType::Added, 0, revision), bookmark(0), bookmark(60), bookmark(98)]);
    assert_eq!(codec::kind_of(&events[1].0.object).kind, "ConfigMap");
    assert_eq!(started.elapsed().as_secs(), 100);
}

#[tokio::test(start_paused = true)]
async fn events_are_gone_after_an_hour() {
    events_are_gone_after(transport(), Duration::from_secs(3600)).await;
}

#[tokio::test(start_paused = true)]
async fn events_are_gone_after_the_time_that_the_server_is_told() {
    let event_ttl = Duration::from_secs(300);
    events_are_gone_after(transport_of(Config { event_ttl, ..Config::default() }), event_ttl).await;
}

async fn events_are_gone_after(transport: impl Transport, time: Duration) {
    let mut create = request(Verb::Create, "events");
    create.body = Some(named("Event", "e"));
    transport.call(create).await.unwrap();
    let count = async || transport.list(request(Verb::List, "events")).await.unwrap().items.len();
    tokio::time::sleep(time - Duration::from_secs(10)).await;
    assert_eq!(count().await, 1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(count().await, 0);
}
