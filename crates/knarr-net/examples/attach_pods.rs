//! How long it takes to link pods to the network and to unlink them, in network namespaces of its own.
//!
//! ```text
//! cargo run -p knarr-net --example attach_pods -- [pods, default 200]
//! ```
//!
//! Needs CAP_NET_ADMIN and CAP_SYS_ADMIN. The pods' namespaces exist before the clock starts, as a pool would have them.

use std::error::Error;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use knarr_net::pods::{Config, PodNetwork, Sandbox};
use knarr_sys::netlink::NetNs;

fn shown(mut times: Vec<Duration>) -> String {
    let sum: Duration = times.iter().sum();
    times.sort_unstable();
    format!("p50 {:?}, p99 {:?}, together {sum:?}", times[times.len() / 2], times[times.len() * 99 / 100])
}

fn main() -> Result<(), Box<dyn Error>> {
    let pods: usize = std::env::args().nth(1).map_or(Ok(200), |a| a.parse())?;
    NetNs::anonymous()?.enter()?;
    let folder = std::env::temp_dir().join(format!("knarr-attach-{}", std::process::id()));
    let network = PodNetwork::new(Config::new(&folder, &["10.244.0.0/16".parse()?]))?;
    network.restore_now(&[])?;
    network.set_pod_cidr("10.244.0.0/20".parse()?)?;
    let namespaces = (0..pods).map(|_| NetNs::anonymous()).collect::<Result<Vec<_>, _>>()?;
    let sandboxes: Vec<_> = namespaces
        .iter()
        .enumerate()
        .map(|(n, ns)| Sandbox { id: format!("pod{n}"), netns: format!("/proc/self/fd/{}", ns.as_fd().as_raw_fd()).into(), ..Sandbox::default() })
        .collect();
    let mut times = Vec::new();
    for sandbox in &sandboxes {
        let began = Instant::now();
        network.attach_now(sandbox)?;
        times.push(began.elapsed());
    }
    println!("attach: {}", shown(times));
    let mut times = Vec::new();
    for sandbox in &sandboxes {
        let began = Instant::now();
        network.detach_now(&sandbox.id)?;
        times.push(began.elapsed());
    }
    println!("detach: {}", shown(times));
    let began = Instant::now();
    network.bury_now()?;
    println!("bury all links: {:?}", began.elapsed());
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
