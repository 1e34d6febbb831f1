//! What things cost: durable writes, a restart, memory, selector lists and watches. Says little while anything else runs.
//!
//! ```sh
//! cargo run --release -p knarr-store --example measure -- writes|restart|memory|selector|watches
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use knarr_core::clock::Env;
use knarr_core::json;
use knarr_core::selector::LabelSelector;
use knarr_store::history::Limits;
use knarr_store::log::Options;
use knarr_store::{LabelMatcher, LogEngine, MemoryEngine, ObjectKey, ResourceKey, Storage, WatchFilter, WatchFrom, disk};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), &'static str> {
    match std::env::args().nth(1).as_deref() {
        Some("writes") => durable_writes().await,
        Some("restart") => restart_with_100_000_objects().await,
        Some("memory") => memory_of_an_object().await,
        Some("selector") => selector_list_of_30_among_3000().await,
        Some("watches") => fan_out_to_waiting_watchers().await,
        _ => return Err("usage: measure writes|restart|memory|selector|watches"),
    }
    Ok(())
}

fn pods() -> ResourceKey {
    ResourceKey::new("", "pods")
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

fn in_memory(limits: Limits) -> Arc<Storage> {
    let env = Env::system();
    Storage::open_with(Arc::new(MemoryEngine::new(env.clock.clone())), env, limits).unwrap()
}

fn on_disk(folder: &std::path::Path) -> Arc<Storage> {
    let env = Env::system();
    let disk = Arc::new(disk::FolderDisk::open(folder).unwrap());
    Storage::open(Arc::new(LogEngine::new(disk, env.clock.clone(), Options::default())), env).unwrap()
}

/// An object of about `size` bytes with two labels.
fn object(n: usize, size: usize) -> Bytes {
    let meta = json!({"name": format!("pod-{n}"), "namespace": "default", "labels": {"app": format!("app-{}", n % 100), "tier": "back"}});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "data": "x".repeat(size - 120)}).to_string().into()
}

/// Resident memory in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

async fn fill(s: &Arc<Storage>, count: usize, size: usize) {
    let tasks = (0..64).map(|t| {
        let s = s.clone();
        tokio::spawn(async move {
            for n in (t..count).step_by(64) {
                s.create(&pods(), &key(&format!("pod-{n}")), object(n, size), None).await.unwrap();
            }
        })
    });
    for task in futures::future::join_all(tasks).await {
        task.unwrap();
    }
}

async fn durable_writes() {
    for producers in [1, 16, 64, 256] {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let s = on_disk(folder.path());
        let each = if producers == 1 { 3000 } else { 60_000 / producers };
        let start = Instant::now();
        let tasks = (0..producers).map(|p| {
            let s = s.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                for n in 0..each {
                    let start = Instant::now();
                    s.create(&pods(), &key(&format!("{p}-{n}")), object(n, 1024), None).await.unwrap();
                    times.push(start.elapsed());
                    if producers == 1 {
                        // What a client and the handlers take between two writes.
                        std::thread::sleep(Duration::from_micros(150));
                    }
                }
                times
            })
        });
        let mut times: Vec<Duration> = futures::future::join_all(tasks).await.into_iter().flat_map(|times| times.unwrap()).collect();
        let took = start.elapsed();
        times.sort_unstable();
        println!(
            "{producers} producers: {:.0} writes/s, p50 {:?}, p99 {:?}",
            times.len() as f64 / took.as_secs_f64(),
            times[times.len() / 2],
            times[times.len() * 99 / 100]
        );
        s.stop();
    }
}

async fn restart_with_100_000_objects() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let s = on_disk(folder.path());
    fill(&s, 100_000, 2048).await;
    s.stop();
    drop(s);
    let on_disk_bytes: u64 = std::fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
    let before = resident();
    let start = Instant::now();
    let s = on_disk(folder.path());
    println!(
        "start with {} objects: {:?}, {} MB on disk, {} B resident each",
        s.snapshot(&pods()).len(),
        start.elapsed(),
        on_disk_bytes >> 20,
        (resident() - before) / 100_000
    );
    s.stop();
}

async fn memory_of_an_object() {
    let s = in_memory(Limits { changes_max: 0, ..Limits::default() });
    let before = resident();
    fill(&s, 50_000, 1000).await;
    let bytes: usize = s.snapshot(&pods()).iter(None, None).map(|i| i.size()).sum();
    println!("{} B of memory beside {} B of object", (resident() - before - bytes) / 50_000, bytes / 50_000);
}

async fn selector_list_of_30_among_3000() {
    let s = in_memory(Limits::default());
    for n in 0..3000 {
        s.create(&pods(), &key(&format!("pod-{n}")), object(n, 1000), None).await.unwrap();
    }
    let selector = LabelSelector::parse("app=app-7").unwrap();
    for _ in 0..3 {
        let start = Instant::now();
        let matcher = LabelMatcher::new(&selector);
        let found = s.snapshot(&pods()).iter(Some("default"), None).filter(|i| matcher.matches(i)).count();
        println!("selector list of {found}: {:?}", start.elapsed());
    }
}

/// Seconds of CPU that all threads of this process have used.
fn cpu_seconds() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().filter_map(|t| std::fs::read_to_string(t.unwrap().path().join("schedstat")).ok());
    threads.map(|text| text.split(' ').next().unwrap().parse::<f64>().unwrap()).sum::<f64>() / 1e9
}

async fn fan_out_to_waiting_watchers() {
    for count in [100, 1000] {
        let s = in_memory(Limits::default());
        let seen = Arc::new(AtomicUsize::new(0));
        for _ in 0..count {
            let (mut w, seen) = (s.watch(&pods(), WatchFrom::Now, WatchFilter::default()).unwrap(), seen.clone());
            tokio::spawn(async move {
                while w.next().await.is_ok() {
                    seen.fetch_add(1, Relaxed);
                }
            });
        }
        let (start, cpu, mut writing) = (Instant::now(), cpu_seconds(), Duration::ZERO);
        for n in 0..500 {
            let begin = Instant::now();
            s.create(&pods(), &key(&format!("pod-{n}")), object(n, 1000), None).await.unwrap();
            writing += begin.elapsed();
            while seen.load(Relaxed) < count * (n + 1) {
                tokio::task::yield_now().await;
            }
        }
        let deliveries = f64::from(500 * u32::try_from(count).unwrap());
        println!(
            "{count} watchers: {:.2} µs of CPU a delivery, write {:?}, write to last watcher {:?}",
            (cpu_seconds() - cpu) * 1e6 / deliveries,
            writing / 500,
            start.elapsed() / 500
        );
    }
}
