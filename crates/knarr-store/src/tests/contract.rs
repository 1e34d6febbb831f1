//! What every engine must do, in memory, on a disk and on etcd: the same tests on each, with the clock of the machine. Revisions are
//! compared with those that came before, since an etcd begins where it begins.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::etcd::testing::Etcd;
use crate::log::LogEngine;

/// A store, and what must live as long as it does.
struct Place {
    storage: Arc<Storage>,
    _etcd: Option<Etcd>,
    _folder: Option<tempfile::TempDir>,
}

fn in_memory() -> Place {
    let env = Env::system();
    let storage = Storage::open(Arc::new(MemoryEngine::new(env.clock.clone())), env).unwrap();
    Place { storage, _etcd: None, _folder: None }
}

fn on_disk() -> Place {
    let (env, folder) = (Env::system(), tempfile::tempdir().unwrap());
    let engine = LogEngine::at(folder.path().join("store"), env.clock.clone()).unwrap();
    Place { storage: Storage::open(Arc::new(engine), env).unwrap(), _etcd: None, _folder: Some(folder) }
}

async fn on_etcd() -> Place {
    let etcd = Etcd::start();
    let storage = Storage::open(Arc::new(etcd.engine().await), Env::system()).unwrap();
    Place { storage, _etcd: Some(etcd), _folder: None }
}

macro_rules! on_every_engine {
    ($($name:ident),* $(,)?) => {
        mod in_memory {
            $(#[tokio::test] async fn $name() { super::$name(&super::in_memory().storage).await })*
        }
        mod on_disk {
            $(#[tokio::test] async fn $name() { super::$name(&super::on_disk().storage).await })*
        }
        mod on_etcd {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $name() { super::$name(&super::on_etcd().await.storage).await })*
        }
    };
}

on_every_engine!(
    a_write_happens_only_at_the_version_it_expects,
    earlier_snapshots_can_be_had,
    a_watch_yields_every_write_once_and_in_order,
    a_deletion_carries_the_last_state,
    an_indexed_watch_sees_objects_come_and_go,
    what_has_a_time_to_live_goes_by_itself,
    no_increment_is_lost_among_many_writers,
    a_revision_that_nobody_wrote_is_refused_in_time,
);

fn text(object: &knarr_core::Object) -> String {
    String::from_utf8(object.bytes.to_vec()).unwrap()
}

async fn a_write_happens_only_at_the_version_it_expects(s: &Arc<Storage>) {
    let (a, before) = (key("default/a"), s.current_revision());
    let created = create(s, "default/a").await;
    assert!(created > before);
    assert_eq!(s.get_now(&pods(), &a).unwrap().revision(), created, "a writer sees what it wrote");
    assert!(matches!(s.create(&pods(), &a, bytes(json!({})), None).await, Err(Error::Exists)));
    assert!(matches!(s.update(&pods(), &key("default/b"), bytes(json!({})), created, None).await, Err(Error::NotFound)));
    assert!(matches!(s.delete(&pods(), &key("default/b"), created).await, Err(Error::NotFound)));
    let touched = touch(s, "default/a", "x").await;
    assert!(touched > created);
    let Err(Error::Conflict(there)) = s.update(&pods(), &a, bytes(json!({"data": "y"})), created, None).await else { panic!("wrote over a newer version") };
    assert_eq!((there.resource_version, text(&there)), (touched, format!(r#"{{"data":"x","metadata":{{"resourceVersion":"{touched}"}}}}"#)));
    assert!(matches!(s.delete(&pods(), &a, created).await, Err(Error::Conflict(_))));
    let last = s.delete(&pods(), &a, touched).await.unwrap();
    assert!(last.resource_version > touched);
    assert_eq!(text(&last), format!(r#"{{"data":"x","metadata":{{"resourceVersion":"{}"}}}}"#, last.resource_version));
    assert!(s.get_now(&pods(), &a).is_none());
}

async fn earlier_snapshots_can_be_had(s: &Arc<Storage>) {
    let a = create(s, "default/a").await;
    let b = create(s, "default/b").await;
    let before = s.snapshot(&pods());
    touch(s, "default/a", "x").await;
    let gone = delete(s, "default/b").await;
    let c = create(s, "default/c").await;
    assert_eq!((before.revision(), paths(&before).as_str()), (b, "default/a default/b"));
    for (revision, wanted) in [(a, "default/a"), (b, "default/a default/b"), (gone, "default/a"), (c, "default/a default/c")] {
        let at = s.snapshot_at(&pods(), revision).unwrap();
        assert_eq!((at.revision(), paths(&at).as_str()), (revision, wanted));
    }
    assert_eq!(s.snapshot_at(&pods(), a).unwrap().get("default/a").unwrap().revision(), a);
}

/// As many items as are wanted, as text with revisions counted from `base`.
async fn take(watcher: &mut crate::Watcher, count: usize, base: u64) -> String {
    let mut seen = Vec::new();
    while seen.len() < count {
        let item = tokio::time::timeout(Duration::from_secs(20), watcher.next()).await.expect("an item in time").unwrap();
        seen.push(match item {
            WatchItem::Initial(item) => format!("Initial {}@{}", item.path(), item.revision() - base),
            WatchItem::InitialEnd(revision) => format!("End {}", revision - base),
            WatchItem::Change(c) => format!("{:?} {}@{}", c.kind, c.item.path(), c.revision() - base),
        });
    }
    seen.join(", ")
}

async fn a_watch_yields_every_write_once_and_in_order(s: &Arc<Storage>) {
    let base = s.current_revision();
    create(s, "default/a").await;
    let watch = |from| s.watch(&pods(), from, WatchFilter::default()).unwrap();
    let (mut now, mut past, mut state) = (watch(WatchFrom::Now), watch(WatchFrom::After(base)), watch(WatchFrom::State));
    touch(s, "default/a", "x").await;
    create(s, "other/b").await;
    delete(s, "default/a").await;
    assert_eq!(take(&mut now, 3, base).await, "Modified default/a@2, Added other/b@3, Deleted default/a@4");
    assert_eq!(take(&mut past, 4, base).await, "Added default/a@1, Modified default/a@2, Added other/b@3, Deleted default/a@4");
    assert_eq!(take(&mut state, 5, base).await, "Initial default/a@1, End 1, Modified default/a@2, Added other/b@3, Deleted default/a@4");
    assert_eq!(now.revision(), base + 4);
}

async fn a_deletion_carries_the_last_state(s: &Arc<Storage>) {
    let mut watcher = s.watch(&pods(), WatchFrom::Now, WatchFilter::default()).unwrap();
    create(s, "default/a").await;
    let touched = touch(s, "default/a", "x").await;
    let deleted = delete(s, "default/a").await;
    let mut last = None;
    for _ in 0..3 {
        last = Some(watcher.next().await.unwrap());
    }
    let Some(WatchItem::Change(change)) = last else { panic!("no change") };
    assert_eq!((change.kind, change.previous.as_ref().map(|p| p.revision())), (ChangeKind::Deleted, Some(touched)));
    assert_eq!(text(&change.object()), format!(r#"{{"data":"x","metadata":{{"resourceVersion":"{deleted}"}}}}"#));
}

async fn an_indexed_watch_sees_objects_come_and_go(s: &Arc<Storage>) {
    let base = s.current_revision();
    let mut node = s.watch(&pods(), WatchFrom::Now, WatchFilter { indexed: Some("n1".into()), ..WatchFilter::default() }).unwrap();
    let at = |text: &str| key(text);
    s.create(&pods(), &at("default/a"), on_node(""), None).await.unwrap();
    s.create(&pods(), &at("other/b"), on_node("n2"), None).await.unwrap();
    s.update(&pods(), &at("default/a"), on_node("n1"), base + 1, None).await.unwrap();
    s.update(&pods(), &at("default/a"), on_node("n2"), base + 3, None).await.unwrap();
    s.update(&pods(), &at("other/b"), on_node("n1"), base + 2, None).await.unwrap();
    assert_eq!(take(&mut node, 3, base).await, "Modified default/a@3, Modified default/a@4, Modified other/b@5");
}

async fn what_has_a_time_to_live_goes_by_itself(s: &Arc<Storage>) {
    let events = ResourceKey::new("", "events");
    let mut watcher = s.watch(&events, WatchFrom::Now, WatchFilter::default()).unwrap();
    let ttl = Some(Duration::from_secs(2));
    for path in ["default/a", "default/b"] {
        s.create(&events, &key(path), bytes(json!({})), ttl).await.unwrap();
    }
    s.create(&events, &key("default/stays"), bytes(json!({})), None).await.unwrap();
    let mut gone = Vec::new();
    while gone.len() < 2 {
        let item = tokio::time::timeout(Duration::from_secs(30), watcher.next()).await.expect("they expire").unwrap();
        if let WatchItem::Change(change) = item
            && change.kind == ChangeKind::Deleted
        {
            gone.push(change.item.path().to_owned());
        }
    }
    gone.sort();
    assert_eq!(gone, ["default/a", "default/b"]);
    assert_eq!(paths(&s.snapshot(&events)), "default/stays");
}

async fn no_increment_is_lost_among_many_writers(s: &Arc<Storage>) {
    const WRITERS: usize = 8;
    const EACH: usize = 25;
    s.create(&pods(), &key("default/n"), bytes(json!({"data": 0})), None).await.unwrap();
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let s = s.clone();
            tokio::spawn(async move {
                for _ in 0..EACH {
                    increment(&s).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let item = s.get_now(&pods(), &key("default/n")).unwrap();
    assert_eq!(item.field(&["data"]), (WRITERS * EACH).to_string());
}

/// Adds one, as often as the swap is lost.
pub async fn increment(s: &Storage) {
    loop {
        let item = s.get_now(&pods(), &key("default/n")).unwrap();
        let next: u64 = item.field(&["data"]).parse::<u64>().unwrap() + 1;
        match s.update(&pods(), &key("default/n"), bytes(json!({"data": next})), item.revision(), None).await {
            Ok(_) => return,
            Err(Error::Conflict(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

async fn a_revision_that_nobody_wrote_is_refused_in_time(s: &Arc<Storage>) {
    let revision = create(s, "default/a").await;
    s.settle().await.unwrap();
    let late = s.wait_for_revision(revision + 1000, Duration::from_millis(50)).await;
    assert!(matches!(late, Err(Error::TooLarge { asked, .. }) if asked == revision + 1000), "{late:?}");
}
