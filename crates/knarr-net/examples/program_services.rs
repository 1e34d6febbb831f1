//! How long it takes to bring many Services into the kernel, and one change after that, in a network namespace of its own.
//!
//! ```text
//! cargo run -p knarr-net --example program_services -- [Services, default 10000] [endpoints of each, default 2]
//! ```
//!
//! Needs CAP_NET_ADMIN and CAP_SYS_ADMIN. Times are those of the proxy: from knowing the objects to the kernel's
//! acknowledgement.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use knarr_client::SharedInformers;
use knarr_client::fake::FakeApi;
use knarr_core::clock::Env;
use knarr_core::{Value, json};
use knarr_net::proxy::{self, ServiceProxy, Synced};
use knarr_sys::netlink::NetNs;
use tokio_util::sync::CancellationToken;

const CHANGES: usize = 200;

fn service(number: usize) -> Value {
    let address = format!("10.{}.{}.{}", 96 + number / 65_536, number / 256 % 256, number % 256);
    json!({"metadata": {"namespace": "bench", "name": format!("s{number}")}, "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
        "ports": [{"name": "http", "protocol": "TCP", "port": 80}]}})
}

fn slice(number: usize, endpoints: usize, shift: usize) -> Value {
    let address = |n: usize| {
        let n = (number * endpoints + n + shift) % (1 << 22);
        json!({"addresses": [format!("172.{}.{}.{}", 16 + n / 65_536, n / 256 % 256, n % 256)], "nodeName": "elsewhere"})
    };
    json!({"metadata": {"namespace": "bench", "name": format!("s{number}-1"), "labels": {"kubernetes.io/service-name": format!("s{number}")}}, "addressType": "IPv4",
        "endpoints": (0..endpoints).map(address).collect::<Vec<_>>(), "ports": [{"name": "http", "protocol": "TCP", "port": 8080}]})
}

async fn next(proxy: &ServiceProxy, change: impl FnOnce()) -> Result<Synced, Box<dyn Error>> {
    let mut synced = proxy.synced();
    synced.borrow_and_update();
    change();
    synced.changed().await?;
    let last = *synced.borrow();
    Ok(last)
}

fn shown(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    format!("p50 {:?}, p99 {:?}, most {:?}", times[times.len() / 2], times[times.len() * 99 / 100], times[times.len() - 1])
}

async fn run(services: usize, endpoints: usize) -> Result<(), Box<dyn Error>> {
    let (env, stop) = (Env::system(), CancellationToken::new());
    let api = FakeApi::new(env.clone());
    for number in 0..services {
        api.seed::<Service>(&serde_json::from_value(service(number))?);
        api.seed::<EndpointSlice>(&serde_json::from_value(slice(number, endpoints, 0))?);
    }
    let informers = SharedInformers::new(api.client(), env.clone(), stop.clone());
    let config = proxy::Config::new("here", &["172.16.0.0/12".parse()?]);
    let proxy = proxy::start(config.clone(), &informers, env.clone(), stop.child_token())?;
    let all = proxy.synced().wait_for(|s| s.times > 0).await?.took;
    println!("{services} Services with {endpoints} endpoints each: {all:?}");

    let mut times = Vec::new();
    for change in 0..CHANGES {
        let number = change * 37 % services;
        let new: EndpointSlice = serde_json::from_value(slice(number, endpoints, change + 1))?;
        let name = format!("s{number}-1");
        let synced = next(&proxy, || api.change::<EndpointSlice>("bench", &name, |s| *s = new)).await?;
        times.push(synced.took);
    }
    println!("one Service with other endpoints: {}", shown(times));
    restart(&api, config, &env).await?;
    stop.cancel();
    Ok(())
}

/// A second proxy finds the table as it should be.
async fn restart(api: &Arc<FakeApi>, config: proxy::Config, env: &Env) -> Result<(), Box<dyn Error>> {
    let stop = CancellationToken::new();
    let informers = SharedInformers::new(api.client(), env.clone(), stop.clone());
    let proxy = proxy::start(config, &informers, env.clone(), stop.clone())?;
    println!("a restart that finds everything right: {:?}", proxy.synced().wait_for(|s| s.times > 0).await?.took);
    stop.cancel();
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse());
    let (services, endpoints) = (arguments.next().unwrap_or(Ok(10_000))?, arguments.next().unwrap_or(Ok(2))?);
    NetNs::anonymous()?.enter()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(services, endpoints))
}
