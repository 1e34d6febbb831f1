//! How many DNS queries a node answers, and what each costs, in a network namespace of its own.
//!
//! ```text
//! cargo run -p knarr-net --example dns_load -- [seconds, default 3] [names, default 1000]
//! ```
//!
//! Needs CAP_NET_ADMIN and CAP_SYS_ADMIN. The clients run in the same process; their processor time is taken off.

use std::error::Error;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, Service};
use knarr_client::SharedInformers;
use knarr_client::fake::FakeApi;
use knarr_core::clock::Env;
use knarr_core::json;
use knarr_net::dns::{self, Config};
use knarr_sys::netlink::NetNs;
use nix::sys::resource::{Usage, UsageWho, getrusage};
use tokio_util::sync::CancellationToken;

const CLIENTS: usize = 2;
/// Queries of one client on their way at one time.
const WINDOW: usize = 32;

fn query(number: usize) -> Vec<u8> {
    let mut packet = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [format!("s{number}").as_str(), "bench", "svc", "cluster", "local"] {
        packet.push(label.len() as u8);
        packet.extend(label.bytes());
    }
    packet.extend([0, 0, 1, 0, 1]);
    packet
}

fn cpu(usage: &Usage) -> Duration {
    let one = |t: nix::sys::time::TimeVal| Duration::from_secs(t.tv_sec() as u64) + Duration::from_micros(t.tv_usec() as u64);
    one(usage.user_time()) + one(usage.system_time())
}

/// Asks until told to stop; gives its own processor time.
fn client(server: IpAddr, queries: &[Vec<u8>], answered: &AtomicU64, stop: &AtomicBool) -> std::io::Result<Duration> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect((server, dns::PORT))?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let (mut buffer, mut next) = ([0; 512], 0);
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..WINDOW {
            socket.send(&queries[next % queries.len()])?;
            next += 1;
        }
        for _ in 0..WINDOW {
            if socket.recv(&mut buffer).is_ok() {
                answered.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    Ok(cpu(&getrusage(UsageWho::RUSAGE_THREAD)?))
}

async fn serve(names: usize) -> Result<(Config, CancellationToken), Box<dyn Error>> {
    let (env, stop) = (Env::system(), CancellationToken::new());
    let api = FakeApi::new(env.clone());
    api.seed::<Namespace>(&serde_json::from_value(json!({"metadata": {"name": "bench"}}))?);
    for number in 0..names {
        let address = format!("10.97.{}.{}", number / 256 % 256, number % 256);
        let spec = json!({"clusterIP": address, "clusterIPs": [address], "ports": [{"port": 80}]});
        api.seed::<Service>(&serde_json::from_value(json!({"metadata": {"namespace": "bench", "name": format!("s{number}")}, "spec": spec}))?);
    }
    let informers = SharedInformers::new(api.client(), env.clone(), stop.clone());
    let config = Config::new("cluster.local", &["10.96.0.10".parse()?]);
    dns::start(&config, &informers, env, &stop)?;
    informers.wait_synced().await;
    Ok((config, stop))
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<usize>());
    let (seconds, names) = (arguments.next().unwrap_or(Ok(3))?, arguments.next().unwrap_or(Ok(1000))?);
    NetNs::anonymous()?.enter()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (config, stop) = runtime.block_on(serve(names))?;
    let queries: Vec<_> = (0..names).map(query).collect();
    let (answered, ended, before) = (Arc::new(AtomicU64::new(0)), AtomicBool::new(false), cpu(&getrusage(UsageWho::RUSAGE_SELF)?));
    let began = Instant::now();
    let clients = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| client(config.addresses[0], &queries, &answered, &ended))).collect();
        std::thread::sleep(Duration::from_secs(seconds as u64));
        ended.store(true, Ordering::Relaxed);
        clients.into_iter().map(|c| c.join().unwrap_or(Ok(Duration::ZERO))).sum::<std::io::Result<Duration>>()
    })?;
    let (count, took) = (answered.load(Ordering::Relaxed), began.elapsed());
    let server = cpu(&getrusage(UsageWho::RUSAGE_SELF)?).saturating_sub(before).saturating_sub(clients);
    println!(
        "{:.0} answers a second, {:.1} µs of processor time each (clients: {:.1})",
        count as f64 / took.as_secs_f64(),
        server.as_secs_f64() * 1e6 / count as f64,
        clients.as_secs_f64() * 1e6 / count as f64
    );
    stop.cancel();
    Ok(())
}
