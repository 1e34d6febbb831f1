//! What the log promises when the power goes, the disk fails, or bits flip. A failing case names its seed and its step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use knarr_core::clock::{Clock, Env};
use knarr_core::json;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{LogEngine, Options, Space};
use crate::disk::faulty::{Faults, FaultyDisk};
use crate::engine::Engine;
use crate::tests::{bytes, env, key, paths, pods};
use crate::*;

/// Small enough that a short story has many snapshots and files.
const SMALL: Options = Options { log_bytes_max: 1500, space: Space { step: 1024, reserve: 512, ballast: 4096 }, threads: false };

/// A server's life on a disk.
struct Life {
    engine: Arc<LogEngine>,
    storage: Arc<Storage>,
}

struct Ticking(Mutex<i64>);

impl Clock for Ticking {
    fn now(&self) -> jiff::Timestamp {
        let mut ms = self.0.lock();
        *ms += 7;
        jiff::Timestamp::UNIX_EPOCH + Duration::from_millis(*ms as u64)
    }
}

impl Life {
    fn begin(disk: &FaultyDisk) -> Result<Self> {
        Self::begin_with(disk, SMALL)
    }

    fn begin_with(disk: &FaultyDisk, options: Options) -> Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(Ticking(Mutex::new(0)));
        let engine = Arc::new(LogEngine::new(Arc::new(disk.clone()), clock.clone(), options));
        let storage = Storage::open(engine.clone(), Env { clock, ..env() })?;
        Ok(Self { engine, storage })
    }

    /// Writes several in one group; gives the answers.
    async fn write(&self, writes: &[(String, Write)]) -> Vec<Result<Arc<Item>>> {
        let resource = self.storage.resource(&pods());
        let answers: Vec<_> = writes.iter().map(|(path, write)| self.storage.submit(&resource, path, write.clone())).collect();
        self.engine.flush();
        futures::future::join_all(answers).await
    }

    async fn create(&self, path: &str) -> Result<u64> {
        let write = Write::Create { bytes: body(path), ttl: None };
        self.write(&[(path.into(), write)]).await.remove(0).map(|item| item.revision())
    }

    fn state(&self) -> State {
        self.storage.snapshot(&pods()).iter(None, None).map(|i| (i.path().into(), (i.revision(), i.object().bytes))).collect()
    }

    /// Random writes, most of which succeed.
    fn invent(&self, random: &mut StdRng) -> Vec<(String, Write)> {
        let count = random.random_range(1..5);
        let invent = |_| {
            let path = format!("default/{}", random.random_range(0..8));
            let bytes = body(&"x".repeat(random.random_range(0..600)));
            let write = match self.storage.get_now(&pods(), &key(&path)).map(|i| i.revision()) {
                None => Write::Create { bytes, ttl: None },
                Some(expected) if random.random_ratio(1, 3) => Write::Delete { expected },
                Some(expected) => Write::Update { bytes, expected, ttl: None },
            };
            (path, write)
        };
        (0..count).map(invent).collect()
    }
}

type State = BTreeMap<String, (u64, Bytes)>;

fn body(text: &str) -> Bytes {
    bytes(json!({"data": text}))
}

/// What clients know: everything that was acknowledged, and what the last group would have done had it been.
#[derive(Default)]
struct Known {
    acknowledged: State,
    revision: u64,
    in_doubt: Vec<(String, Write)>,
}

impl Known {
    /// Writes until the power goes or `rounds` are over.
    async fn live(&mut self, life: &Life, rounds: usize, random: &mut StdRng) {
        for _ in 0..rounds {
            let writes = life.invent(random);
            let answers = life.write(&writes).await;
            if answers.iter().any(|a| matches!(a, Err(Error::Engine(_)))) {
                self.in_doubt = writes;
                return;
            }
            for ((path, write), answer) in writes.iter().zip(answers) {
                self.acknowledge(path, write, answer);
            }
        }
    }

    fn acknowledge(&mut self, path: &str, write: &Write, answer: Result<Arc<Item>>) {
        let Ok(item) = answer else { return };
        assert_eq!(item.revision(), self.revision + 1, "revisions have no gaps and do not repeat");
        self.revision = item.revision();
        match write {
            Write::Delete { .. } => drop(self.acknowledged.remove(path)),
            _ => drop(self.acknowledged.insert(path.into(), (item.revision(), item.object().bytes))),
        }
    }

    /// After a start: everything acknowledged is there, and of the group in doubt all or nothing.
    async fn check(&mut self, life: &Life, story: &str) {
        let found = life.state();
        let revision = life.storage.current_revision();
        if revision == self.revision {
            assert_eq!(found, self.acknowledged, "{story}: an acknowledged write is lost, or half a group is there");
        } else {
            let mut after = self.with_doubtful().await;
            assert_eq!(revision, after.revision, "{story}: half a group is there");
            assert_eq!(found, after.acknowledged, "{story}: the group in doubt is not as it was");
            std::mem::swap(self, &mut after);
        }
        self.in_doubt.clear();
        self.check_history(life, story);
    }

    /// What would be known if the group in doubt had happened, by doing it on a good disk.
    async fn with_doubtful(&self) -> Self {
        let mut next = Self { acknowledged: self.acknowledged.clone(), revision: self.revision, in_doubt: Vec::new() };
        for (path, write) in &self.in_doubt {
            let there = next.acknowledged.get(path).map(|(revision, _)| *revision);
            let happens = match write {
                Write::Create { .. } => there.is_none(),
                Write::Update { expected, .. } | Write::Delete { expected } => there == Some(*expected),
            };
            if !happens {
                continue;
            }
            next.revision += 1;
            match write {
                Write::Create { bytes, .. } | Write::Update { bytes, .. } => {
                    let object = knarr_schema::codec::with_resource_version(bytes, next.revision);
                    next.acknowledged.insert(path.clone(), (next.revision, object.bytes));
                }
                Write::Delete { .. } => drop(next.acknowledged.remove(path)),
            }
        }
        next
    }

    /// A watch that resumes sees the writes that made the state, each with the one before.
    fn check_history(&self, life: &Life, story: &str) {
        let oldest = life.storage.resource(&pods()).history.lock().oldest();
        let mut state: State =
            life.storage.snapshot_at(&pods(), oldest).unwrap().iter(None, None).map(|i| (i.path().into(), (i.revision(), i.object().bytes))).collect();
        let mut watcher = life.storage.watch(&pods(), WatchFrom::After(oldest), WatchFilter::default()).unwrap();
        let mut last = oldest;
        while let Ok(Some(WatchItem::Change(c))) = watcher.try_next() {
            assert!(c.revision() > last, "{story}: out of order");
            last = c.revision();
            assert_eq!(c.previous.as_ref().map(|p| p.revision()), state.get(c.item.path()).map(|(r, _)| *r), "{story}");
            match c.kind {
                ChangeKind::Deleted => drop(state.remove(c.item.path())),
                _ => drop(state.insert(c.item.path().into(), (c.revision(), c.object().bytes))),
            }
        }
        assert_eq!(state, self.acknowledged, "{story}: the history does not lead to the state");
    }
}

/// One story: lives that each end with a power cut at a step of their own, then one that must find everything. Gives whether the
/// first cut was reached, and counts cuts.
async fn power_cuts(seed: u64, first_cut: u64, cuts: &mut u64) -> bool {
    let mut random = StdRng::seed_from_u64(seed);
    let mut known = Known::default();
    let mut cut_at = first_cut;
    // Every third story is told on a disk that runs full now and then.
    let capacity = seed.is_multiple_of(3).then_some(24_000);
    let mut disk = FaultyDisk::new(Faults { cut_at: Some(cut_at), capacity, ..Faults::default() });
    let mut reached = false;
    for life_number in 0..4 {
        let story = format!("seed {seed}, first cut at {first_cut}, life {life_number}, cut at {cut_at}");
        // The power may go during a start, too.
        if let Ok(life) = Life::begin(&disk) {
            known.check(&life, &story).await;
            known.live(&life, 12, &mut random).await;
        }
        reached |= life_number == 0 && disk.steps() > first_cut;
        *cuts += u64::from(disk.is_cut());
        cut_at = random.random_range(0..60);
        let faults = Faults { cut_at: (life_number < 2).then_some(cut_at), capacity, ..Faults::default() };
        disk = if random.random_ratio(1, 5) { disk.restart(faults) } else { disk.reboot(faults, || random.random()) };
    }
    let life = Life::begin(&disk).unwrap();
    known.check(&life, &format!("seed {seed}, first cut at {first_cut}, at the end")).await;
    reached
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_at_any_step_loses_no_acknowledged_write() {
    let number = |variable: &str| std::env::var(variable).ok().map(|text| text.parse::<u64>().expect("a number"));
    let (wanted, first) = (number("KNARR_CRASH_CUTS").unwrap_or(6000), number("KNARR_CRASH_SEED").unwrap_or(0));
    let mut cuts = 0;
    for seed in first.. {
        let mut cut_at = 0;
        while power_cuts(seed, cut_at, &mut cuts).await {
            cut_at += 1;
        }
        assert!(cut_at > 20, "the story of seed {seed} is too short to mean anything: {cut_at} steps");
        if cuts >= wanted {
            println!("{cuts} power cuts in the stories of seeds {first} to {seed}: nothing acknowledged was lost");
            return;
        }
    }
}

/// The ways in which so many unsynced parts may survive: all of them where they are few, else none, all, all but one, one alone,
/// the first, the last, and some at random.
fn survivals(parts: usize, random: &mut StdRng) -> Vec<Vec<bool>> {
    if parts <= 6 {
        return (0..1_u32 << parts).map(|bits| (0..parts).map(|i| bits >> i & 1 == 1).collect()).collect();
    }
    let mut ways = vec![vec![false; parts], vec![true; parts]];
    for i in 0..parts {
        ways.push((0..parts).map(|j| j == i).collect());
        ways.push((0..parts).map(|j| j != i).collect());
        ways.push((0..parts).map(|j| j < i).collect());
        ways.push((0..parts).map(|j| j > i).collect());
    }
    ways.extend((0..16).map(|_| (0..parts).map(|_| random.random()).collect()));
    ways
}

/// At each step of each commit, among them those that begin a new file and write a snapshot, what was not synced is torn in every
/// way there is, or lost.
#[tokio::test(start_paused = true)]
async fn a_commit_torn_or_lost_in_any_way_at_any_point_is_whole_or_absent() {
    let mut random = StdRng::seed_from_u64(5);
    let groups: Vec<Vec<(String, Write)>> = {
        let life = Life::begin(&FaultyDisk::new(Faults::default())).unwrap();
        let mut groups = Vec::new();
        for _ in 0..9 {
            groups.push(life.invent(&mut random));
            life.write(&groups[groups.len() - 1]).await;
        }
        groups
    };
    let (mut cut_at, mut ways) = (0, 0);
    loop {
        let disk = FaultyDisk::new(Faults { cut_at: Some(cut_at), ..Faults::default() });
        let mut known = Known::default();
        if let Ok(life) = Life::begin(&disk) {
            for writes in &groups {
                let answers = life.write(writes).await;
                if answers.iter().any(|a| matches!(a, Err(Error::Engine(_)))) {
                    known.in_doubt.clone_from(writes);
                    break;
                }
                for ((path, write), answer) in writes.iter().zip(answers) {
                    known.acknowledge(path, write, answer);
                }
            }
        }
        if !disk.is_cut() {
            break;
        }
        for survival in survivals(disk.unsynced(), &mut random) {
            let mut left = survival.iter();
            let after = disk.reboot_with(Faults::default(), || left.next().copied().unwrap_or(false));
            let story = format!("cut at {cut_at}, surviving {survival:?}");
            let life = Life::begin(&after).unwrap_or_else(|e| panic!("{story}: {e}"));
            let mut known = Known { acknowledged: known.acknowledged.clone(), revision: known.revision, in_doubt: known.in_doubt.clone() };
            known.check(&life, &story).await;
            let next = life.create("default/next").await.unwrap_or_else(|e| panic!("{story}: {e}"));
            assert_eq!(next, known.revision + 1, "{story}: the next revision");
            ways += 1;
        }
        cut_at += 1;
    }
    println!("{cut_at} points, {ways} ways to lose or tear what was not synced");
    assert!(cut_at > 40 && ways > 500, "{cut_at} points, {ways} ways");
}

#[tokio::test(start_paused = true)]
async fn after_a_failed_sync_nothing_is_acknowledged_and_nothing_acknowledged_is_lost() {
    for seed in 0..200 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut known = Known::default();
        let disk = FaultyDisk::new(Faults { fail_sync: Some(random.random_range(0..20)), ..Faults::default() });
        let Ok(life) = Life::begin(&disk) else { continue };
        known.live(&life, 15, &mut random).await;
        if let Some(failure) = life.storage.failure() {
            assert_eq!(life.storage.failed().await, failure);
            assert!(matches!(life.create("default/later").await, Err(Error::Engine(_))));
        }
        drop(life);
        // The process starts anew and reads what the failed sync left in memory; then the power goes.
        let disk = disk.restart(Faults::default());
        known.check(&Life::begin(&disk).unwrap(), &format!("seed {seed}, restarted")).await;
        let disk = disk.reboot(Faults::default(), || random.random());
        known.check(&Life::begin(&disk).unwrap(), &format!("seed {seed}, rebooted")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_flipped_bit_is_found_wherever_it_is() {
    let disk = FaultyDisk::new(Faults::default());
    {
        let life = Life::begin_with(&disk, Options { log_bytes_max: 1 << 20, ..SMALL }).unwrap();
        for i in 0..20 {
            life.create(&format!("default/{i}")).await.unwrap();
        }
    }
    let state = Life::begin(&disk.restart(Faults::default())).unwrap().state();
    let name = super::files::log_name(1);
    let mut len = 0;
    disk.tamper(&name, |bytes| len = bytes.iter().rposition(|b| *b != 0).unwrap());
    for at in 0..len {
        let damaged = disk.restart(Faults::default());
        damaged.tamper(&name, |bytes| bytes[at] ^= 1 << (at % 8));
        match Life::begin(&damaged) {
            Err(error) => assert!(error.to_string().contains(&name), "{error}"),
            // Padding carries nothing.
            Ok(life) => assert_eq!(life.state(), state, "byte {at}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_sector_that_has_become_zero_is_found_unless_it_may_never_have_been_written() {
    let disk = FaultyDisk::new(Faults::default());
    let mut ends = Vec::new();
    {
        let life = Life::begin_with(&disk, Options { log_bytes_max: 1 << 20, ..SMALL }).unwrap();
        let name = super::files::log_name(1);
        for i in 0..20 {
            life.create(&format!("default/{i:0400}")).await.unwrap();
            disk.tamper(&name, |bytes| ends.push(bytes.iter().rposition(|b| *b != 0).unwrap()));
        }
    }
    let last_frame = ends[ends.len() - 2] + 1;
    for sector in 0..last_frame / 512 {
        let damaged = disk.restart(Faults::default());
        damaged.tamper(&super::files::log_name(1), |bytes| bytes[sector * 512..][..512].fill(0));
        assert!(Life::begin(&damaged).is_err(), "sector {sector}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_file_is_noticed() {
    let disk = FaultyDisk::new(Faults::default());
    let life = Life::begin(&disk).unwrap();
    for i in 0..100 {
        life.create(&format!("default/{i}")).await.unwrap();
    }
    drop(life);
    let files = super::files::Files::find(&disk).unwrap();
    let ([.., before, last], [.., newest]) = (&files.logs[..], &files.states[..]) else { panic!("too few files: {files:?}") };
    let remove = |name: String| crate::disk::Disk::remove(&disk, &name).unwrap();
    remove(super::files::state_name(*newest));
    remove(super::files::log_name(*before));
    let error = Life::begin(&disk).err().unwrap().to_string();
    assert!(error.contains(&super::files::log_name(*last)) && error.contains("but the file before ends at"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_writes_but_takes_deletions_and_recovers_by_them() {
    let disk = FaultyDisk::new(Faults { capacity: Some(40_000), ..Faults::default() });
    let life = Life::begin(&disk).unwrap();
    let big = |n: usize| (format!("default/{n}"), Write::Create { bytes: body(&"x".repeat(1000)), ttl: None });
    let mut made = Vec::new();
    for n in 0..100 {
        if let Ok(item) = life.write(&[big(n)]).await.remove(0) {
            made.push(item);
        }
    }
    assert!((10..40).contains(&made.len()), "{}", made.len());
    assert!(matches!(life.write(&[big(200)]).await.remove(0), Err(Error::NoSpace)));
    assert_eq!(life.storage.failure(), None);
    for item in &made {
        life.write(&[(item.path().into(), Write::Delete { expected: item.revision() })]).await.remove(0).unwrap();
    }
    let mut tries = 0;
    while life.write(&[big(200)]).await.remove(0).is_err() {
        tries += 1;
        assert!(tries < 500, "there is space, but nobody finds it");
    }
    drop(life);
    let life = Life::begin(&disk.reboot(Faults::default(), || 0)).unwrap();
    assert_eq!(paths(&life.storage.snapshot(&pods())), "default/200");
}

#[tokio::test(start_paused = true)]
async fn the_disk_holds_a_few_times_the_state_however_often_it_is_written() {
    let disk = FaultyDisk::new(Faults::default());
    let life = Life::begin_with(&disk, Options { log_bytes_max: 10_000, ..SMALL }).unwrap();
    let mut most = 0;
    for n in 0..3000 {
        let path = format!("default/{}", n % 20);
        let bytes = body(&format!("{n:0500}"));
        let write = match life.storage.get_now(&pods(), &key(&path)).map(|i| i.revision()) {
            None => Write::Create { bytes, ttl: None },
            Some(expected) => Write::Update { bytes, expected, ttl: None },
        };
        life.write(&[(path, write)]).await.remove(0).unwrap();
        most = most.max(disk.used());
    }
    let state = 20 * 600;
    assert!(most < 6 * state, "{most} bytes for a state of {state}");
}

#[tokio::test(start_paused = true)]
async fn watches_resume_after_a_restart() {
    let disk = FaultyDisk::new(Faults::default());
    let life = Life::begin(&disk).unwrap();
    let nodes = ResourceKey::new("", "nodes");
    let resource = life.storage.resource(&nodes);
    let quiet = life.storage.submit(&resource, "n1", Write::Create { bytes: body(""), ttl: None });
    life.engine.flush();
    quiet.await.unwrap();
    let mut random = StdRng::seed_from_u64(1);
    let mut known = Known { revision: 1, ..Known::default() };
    known.live(&life, 50, &mut random).await;
    drop(life);
    let life = Life::begin(&disk).unwrap();
    known.check(&life, "restarted").await;
    let oldest = life.storage.resource(&pods()).history.lock().oldest();
    assert!(oldest > 1 && oldest + 5 < known.revision, "there is a snapshot, and history after it: {oldest} of {}", known.revision);
    life.storage.watch(&nodes, WatchFrom::After(1), WatchFilter::default()).expect("nothing happened to nodes since");
}

#[tokio::test(start_paused = true)]
async fn writes_that_wait_share_a_sync() {
    let disk = FaultyDisk::new(Faults::default());
    let life = Life::begin_with(&disk, Options { threads: false, ..Options::default() }).unwrap();
    let writes: Vec<_> = (0..500).map(|n| (format!("default/{n}"), Write::Create { bytes: body(""), ttl: None })).collect();
    let before = disk.steps();
    assert!(life.write(&writes).await.iter().all(std::result::Result::is_ok));
    assert_eq!(disk.steps() - before, 3, "zeros ahead, the frame, one sync");
}

#[tokio::test]
async fn many_writers_get_revisions_without_gaps() {
    let life = Life::begin_with(&FaultyDisk::new(Faults::default()), Options { threads: true, ..Options::default() }).unwrap();
    let all = (0..500).map(|n| {
        let storage = life.storage.clone();
        tokio::spawn(async move { storage.create(&pods(), &key(&format!("default/{n}")), body(""), None).await.unwrap().resource_version })
    });
    let mut revisions: Vec<_> = futures::future::join_all(all).await.into_iter().map(|r| r.unwrap()).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=500).collect::<Vec<_>>());
    life.engine.stop();
    assert!(matches!(life.storage.create(&pods(), &key("default/late"), body(""), None).await, Err(Error::Engine(_))));
}

#[tokio::test(start_paused = true)]
async fn secrets_cannot_be_read_on_the_disk_and_can_be_sealed_later() {
    let (disk, secrets) = (FaultyDisk::new(Faults::default()), ResourceKey::new("", "secrets"));
    let sealed_by = |key: u8| Some(Arc::new(SecretSealer::new(&[&[key; 32]]).unwrap()));
    let life = |sealer: Option<Arc<SecretSealer>>| {
        let clock: Arc<dyn Clock> = Arc::new(Ticking(Mutex::new(0)));
        let mut engine = LogEngine::new(Arc::new(disk.clone()), clock.clone(), SMALL);
        if let Some(sealer) = sealer {
            engine = engine.with_sealer(sealer);
        }
        let engine = Arc::new(engine);
        Storage::open(engine.clone(), Env { clock, ..env() }).map(|storage| (engine, storage))
    };
    let holds = |text: &str| {
        let mut found = false;
        for name in crate::disk::Disk::list(&disk).unwrap() {
            disk.tamper(&name, |bytes| found |= bytes.windows(text.len()).any(|w| w == text.as_bytes()));
        }
        found
    };
    let write = async |(engine, storage): &(Arc<LogEngine>, Arc<Storage>), path: &str, text: &str| {
        let written = storage.submit(&storage.resource(&secrets), path, Write::Create { bytes: body(text), ttl: None });
        engine.flush();
        written.await.unwrap();
    };
    write(&life(None).unwrap(), "default/early", "in the open").await;
    assert!(holds("in the open"));
    let sealing = life(sealed_by(1)).unwrap();
    for n in 0..60 {
        write(&sealing, &format!("default/{n}"), "top secret").await;
    }
    drop(sealing);
    assert!(!holds("top secret") && !holds("in the open"), "a snapshot has sealed what was there before");
    let error = life(sealed_by(2)).err().unwrap().to_string();
    assert!(error.ends_with("if it is sealed, this is not the key"), "{error}");
    let (_, storage) = life(sealed_by(1)).unwrap();
    assert_eq!(storage.snapshot(&secrets).len(), 61);
}

#[tokio::test(start_paused = true)]
async fn keys_that_seal_give_way_to_others() {
    use crate::seal::providers::{Keys, Method, Pattern, Provider, Rules};
    let (disk, maps) = (FaultyDisk::new(Faults::default()), ResourceKey::new("", "configmaps"));
    let provider = |(method, name): &(Method, &str)| Provider::Keys(Keys::new(*method, [(*name, &[name.as_bytes()[0]; 32][..])]).unwrap());
    let life = |keys: &[(Method, &str)]| {
        let rules = Rules::new(vec![(Pattern::parse("*.*"), Arc::new(keys.iter().map(provider).collect()))], None);
        let clock: Arc<dyn Clock> = Arc::new(Ticking(Mutex::new(0)));
        let engine = Arc::new(LogEngine::new(Arc::new(disk.clone()), clock.clone(), SMALL).with_sealer(Arc::new(rules)));
        Storage::open(engine.clone(), Env { clock, ..env() }).map(|storage| (engine, storage))
    };
    let write = async |(engine, storage): &(Arc<LogEngine>, Arc<Storage>), path: &str| {
        let written = storage.submit(&storage.resource(&maps), path, Write::Create { bytes: body("top secret"), ttl: None });
        engine.flush();
        written.await.unwrap();
    };
    let (old, new) = ((Method::AesGcm, "a"), (Method::Secretbox, "b"));
    write(&life(&[old]).unwrap(), "default/early").await;
    assert!(life(&[new]).is_err(), "the old key is still wanted");
    let both = life(&[new, old]).unwrap();
    for n in 0..60 {
        write(&both, &format!("default/{n}")).await;
    }
    drop(both);
    let (_, storage) = life(&[new]).unwrap();
    assert_eq!(storage.snapshot(&maps).len(), 61, "a snapshot has sealed all of it with the new key");
}

/// Bytes of the store's files that nobody has written in good order: they are read, or refused with the name of the file; what is read
/// was written once.
#[tokio::test(start_paused = true)]
async fn fuzz_files_of_the_store() {
    use crate::disk::Disk;
    let disk = FaultyDisk::new(Faults::default());
    let mut written = std::collections::HashSet::new();
    {
        let life = Life::begin(&disk).unwrap();
        let mut random = StdRng::seed_from_u64(3);
        for _ in 0..14 {
            let writes = life.invent(&mut random);
            for item in life.write(&writes).await.into_iter().flatten() {
                written.insert((item.path().to_owned(), item.object().bytes));
            }
        }
    }
    let names: Vec<String> = disk.list().unwrap().into_iter().filter(|n| n != super::files::BALLAST).collect();
    let mut contents = BTreeMap::new();
    for name in &names {
        disk.tamper(name, |bytes| drop(contents.insert(name.clone(), bytes.clone())));
    }
    // The first byte chooses the file that is replaced by the others.
    let seeds = names.iter().enumerate().map(|(i, name)| {
        let end = contents[name].iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
        [&[i as u8], &contents[name][..end]].concat()
    });
    let target = knarr_fuzz::Target { name: "files of the store", form: knarr_fuzz::Form::Bytes, seeds: seeds.collect(), words: &["rfnk", "\0\0\0\0"] };
    let runtime = tokio::runtime::Handle::current();
    knarr_fuzz::fuzz(target, |input| {
        let _within = runtime.enter();
        let Some((file, bytes)) = input.split_first() else { return String::new() };
        let name = &names[usize::from(*file) % names.len()];
        let damaged = disk.restart(Faults::default());
        damaged.tamper(name, |now| *now = bytes.to_vec());
        match Life::begin(&damaged) {
            Err(error) => error.to_string(),
            Ok(life) => {
                for (path, (_, bytes)) in life.state() {
                    assert!(written.contains(&(path.clone(), bytes)), "{path} was never written like that");
                }
                "opened".into()
            }
        }
    });
}

/// Bodies of frames behind good checksums: what a record says of lengths, names and kinds is not believed.
#[tokio::test(start_paused = true)]
async fn fuzz_records_of_the_store() {
    use super::files::{LOG_MAGIC, log_name};
    use super::frame::{self, FileHeader};
    use crate::disk::Disk;
    let disk = FaultyDisk::new(Faults::default());
    {
        let life = Life::begin_with(&disk, Options { log_bytes_max: 1 << 20, ..SMALL }).unwrap();
        let create = |path: &str| (path.to_owned(), Write::Create { bytes: body("x"), ttl: Some(Duration::from_secs(5)) });
        life.write(&[create("default/a"), create("default/b")]).await;
        let expected = life.storage.get_now(&pods(), &key("default/a")).unwrap().revision();
        life.write(&[("default/a".into(), Write::Delete { expected })]).await;
    }
    let mut whole = Vec::new();
    disk.tamper(&log_name(1), |bytes| whole = bytes.clone());
    let end = whole.iter().rposition(|b| *b != 0).unwrap();
    // The first frame's body, and all of them.
    let seeds = vec![[&[2], &whole[64 + 48..end]].concat(), [&[1], &whole[64 + 48..whole.len().min(64 + 48 + 64)]].concat()];
    let target = knarr_fuzz::Target { name: "records of the store", form: knarr_fuzz::Form::Bytes, seeds, words: &["pods", "default/a", "\u{7f}"] };
    let runtime = tokio::runtime::Handle::current();
    knarr_fuzz::fuzz(target, |input| {
        let _within = runtime.enter();
        let Some((count, body)) = input.split_first() else { return String::new() };
        let disk = FaultyDisk::new(Faults::default());
        let header = FileHeader { magic: LOG_MAGIC, revision: 1, time_ms: 1, seed: 99 };
        let mut frame = Vec::new();
        frame::begin(&mut frame);
        frame.extend(body);
        frame::seal(&mut frame, 99, frame::FILE_HEADER, 1, u32::from(*count), 1);
        let file = disk.create(&log_name(1)).unwrap();
        file.write_at(&header.encode(), 0).unwrap();
        file.write_at(&frame, frame::FILE_HEADER).unwrap();
        match Life::begin(&disk) {
            Err(error) => error.to_string(),
            Ok(life) => format!("opened with {}", "o".repeat(life.state().len().min(5))),
        }
    });
}
