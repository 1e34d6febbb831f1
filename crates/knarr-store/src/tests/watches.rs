use std::time::Duration;

use super::*;
use crate::watch::Watcher;

fn watch(s: &Storage, from: WatchFrom, filter: WatchFilter) -> Watcher {
    s.watch(&pods(), from, filter).unwrap()
}

fn indexed(node: &str) -> WatchFilter {
    WatchFilter { indexed: Some(node.into()), ..WatchFilter::default() }
}

fn namespace(name: &str) -> WatchFilter {
    WatchFilter { namespace: Some(name.into()), ..WatchFilter::default() }
}

/// Everything that is there, as text.
fn drain(watcher: &mut Watcher) -> String {
    let mut seen = Vec::new();
    loop {
        match watcher.try_next() {
            Ok(Some(WatchItem::Initial(item))) => seen.push(format!("Initial {item:?}")),
            Ok(Some(WatchItem::InitialEnd(revision))) => seen.push(format!("End {revision}")),
            Ok(Some(WatchItem::Change(change))) => seen.push(format!("{change:?}")),
            Ok(None) => return seen.join(", "),
            Err(error) => return format!("{}; {error}", seen.join(", ")),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_yields_every_write_once_and_in_order() {
    let s = storage();
    create(&s, "default/a").await;
    let (mut now, mut past, mut state) =
        (watch(&s, WatchFrom::Now, <_>::default()), watch(&s, WatchFrom::After(0), <_>::default()), watch(&s, WatchFrom::State, <_>::default()));
    touch(&s, "default/a", "x").await;
    create(&s, "other/b").await;
    delete(&s, "default/a").await;
    assert_eq!(drain(&mut now), "Modified default/a@2, Added other/b@3, Deleted default/a@4");
    assert_eq!(drain(&mut past), "Added default/a@1, Modified default/a@2, Added other/b@3, Deleted default/a@4");
    assert_eq!(drain(&mut state), "Initial default/a@1, End 1, Modified default/a@2, Added other/b@3, Deleted default/a@4");
    assert_eq!(drain(&mut watch(&s, WatchFrom::State, namespace("default"))), "End 4");
    assert_eq!(drain(&mut watch(&s, WatchFrom::State, namespace("other"))), "Initial other/b@3, End 4");
}

#[tokio::test(start_paused = true)]
async fn a_deletion_carries_the_last_state_and_every_change_the_one_before() {
    let s = storage();
    let mut w = watch(&s, WatchFrom::Now, <_>::default());
    create(&s, "default/a").await;
    touch(&s, "default/a", "x").await;
    delete(&s, "default/a").await;
    let mut before = Vec::new();
    while let Some(WatchItem::Change(c)) = w.try_next().unwrap() {
        before.push((c.previous.as_ref().map(|p| p.revision()), String::from_utf8(c.object().bytes.to_vec()).unwrap()));
    }
    assert_eq!(
        before,
        [
            (None, r#"{"metadata":{"resourceVersion":"1"}}"#.into()),
            (Some(1), r#"{"data":"x","metadata":{"resourceVersion":"2"}}"#.into()),
            (Some(2), r#"{"data":"x","metadata":{"resourceVersion":"3"}}"#.to_string()),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn an_indexed_watch_sees_objects_come_and_go_and_is_not_woken_by_others() {
    let s = storage();
    let one = |path: &str| WatchFilter { namespace: Some("default".into()), name: Some(path.into()), indexed: None };
    let (mut node, mut place, mut name) =
        (watch(&s, WatchFrom::Now, indexed("n1")), watch(&s, WatchFrom::Now, namespace("default")), watch(&s, WatchFrom::Now, one("a")));
    let waiting = tokio::spawn(async move { (matches!(node.next().await, Ok(WatchItem::Change(_))), node) });
    tokio::task::yield_now().await;
    s.create(&pods(), &key("default/a"), on_node(""), None).await.unwrap();
    s.create(&pods(), &key("other/b"), on_node("n2"), None).await.unwrap();
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    s.update(&pods(), &key("default/a"), on_node("n1"), 1, None).await.unwrap();
    let (came, mut node) = waiting.await.unwrap();
    assert!(came);
    s.update(&pods(), &key("default/a"), on_node("n2"), 3, None).await.unwrap();
    s.update(&pods(), &key("default/a"), on_node("n3"), 4, None).await.unwrap();
    assert_eq!(drain(&mut node), "Modified default/a@4", "the change by which it left is the last one");
    assert_eq!(drain(&mut place), "Added default/a@1, Modified default/a@3, Modified default/a@4, Modified default/a@5");
    assert_eq!(drain(&mut name), drain(&mut watch(&s, WatchFrom::After(0), namespace("default"))));
    assert_eq!(drain(&mut watch(&s, WatchFrom::After(0), indexed("n1"))), "Modified default/a@3, Modified default/a@4");
    assert_eq!(drain(&mut watch(&s, WatchFrom::State, one("a"))), "Initial default/a@5, End 5");
}

#[tokio::test(start_paused = true)]
async fn a_slow_watcher_is_closed_and_resumes_if_it_is_within_the_window() {
    let s = storage_with(Limits { changes_max: 3, ..Limits::default() });
    let mut slow = watch(&s, WatchFrom::Now, <_>::default());
    let mut slow_in_namespace = watch(&s, WatchFrom::Now, namespace("default"));
    for name in ["a", "b", "c", "d", "e"] {
        create(&s, &format!("default/{name}")).await;
    }
    assert_eq!(drain(&mut slow), "; watch fell out of the history");
    assert_eq!(drain(&mut slow_in_namespace), "; watch fell out of the history");
    let below = s.watch(&pods(), WatchFrom::After(1), <_>::default());
    assert!(matches!(below, Err(Error::TooOld { asked: 1, oldest: 2 })));
    assert_eq!(drain(&mut watch(&s, WatchFrom::After(2), <_>::default())), "Added default/c@3, Added default/d@4, Added default/e@5");
}

#[tokio::test(start_paused = true)]
async fn history_ages_out_also_when_nothing_happens() {
    let s = storage();
    create(&s, "default/a").await;
    touch(&s, "default/a", "x").await;
    tokio::time::sleep(Duration::from_secs(290)).await;
    assert_eq!(drain(&mut watch(&s, WatchFrom::After(1), <_>::default())), "Modified default/a@2");
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert!(matches!(s.watch(&pods(), WatchFrom::After(1), <_>::default()), Err(Error::TooOld { .. })));
    assert_eq!(drain(&mut watch(&s, WatchFrom::After(2), <_>::default())), "");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_longer_current_is_kept_within_a_limit_of_bytes() {
    let s = storage_with(Limits { superseded_bytes_max: 4000, changes_min: 2, ..Limits::default() });
    create(&s, "default/a").await;
    for i in 0..100 {
        touch(&s, "default/a", &format!("{i:0500}")).await;
    }
    let oldest = s.resource(&pods()).history.lock().oldest();
    assert!((90..100).contains(&oldest), "{oldest}");
}

/// Every change since the beginning, with the bytes before and after it, and every state that can be had.
fn told(s: &Storage) -> (Vec<String>, Vec<String>) {
    let text = |item: &Item| String::from_utf8(item.object().bytes.to_vec()).unwrap();
    let mut changes = Vec::new();
    let mut watcher = watch(s, WatchFrom::After(0), <_>::default());
    while let Some(WatchItem::Change(c)) = watcher.try_next().unwrap() {
        changes.push(format!("{c:?} {} {:?}", text(&c.item), c.previous.as_deref().map(text)));
    }
    let states = (0..=s.current_revision()).map(|r| s.snapshot_at(&pods(), r).unwrap().iter(None, None).map(|i| text(i)).collect()).collect();
    (changes, states)
}

#[tokio::test(start_paused = true)]
async fn packed_history_tells_the_same_and_takes_less() {
    let (packed, whole) = (storage_with(Limits { whole_bytes_max: 0, ..Limits::default() }), storage());
    for s in [&packed, &whole] {
        create(s, "default/a").await;
        create(s, "default/b").await;
        for i in 0..60 {
            touch(s, ["default/a", "default/b"][i % 2], &format!("{i:0500}")).await;
        }
        delete(s, "default/a").await;
        create(s, "default/a").await;
        touch(s, "default/a", "x").await;
    }
    assert_eq!(told(&packed), told(&whole));
    let kept = |s: &Storage| s.resource(&pods()).history.lock().superseded_bytes();
    assert!(kept(&packed) < kept(&whole) / 2, "{} of {}", kept(&packed), kept(&whole));
    // What leaves the ring takes with it what it had come to weigh.
    tokio::time::sleep(Duration::from_secs(320)).await;
    assert_eq!((kept(&packed), kept(&whole)), (0, 0));
}

/// Objects that are alike, some of which are written again or deleted, soon or late.
async fn note(s: &Storage, ttl: Option<Duration>) {
    let object = |n: usize, count: usize| {
        let told: String = (0..40).map(|word| format!("word {word}, ")).collect();
        bytes(json!({"metadata": {"name": format!("e{n}")}, "note": format!("{told}{n}"), "count": count}))
    };
    for n in 0..1000 {
        s.create(&pods(), &key(&format!("default/e{n}")), object(n, 1), ttl).await.unwrap();
        for earlier in [n, n.saturating_sub(400)] {
            let path = key(&format!("default/e{earlier}"));
            let expected = s.get_now(&pods(), &path).map(|there| there.revision());
            match (earlier % 50, expected) {
                (7, Some(expected)) => drop(s.update(&pods(), &path, object(earlier, 2), expected, ttl).await.unwrap()),
                (8, Some(expected)) => drop(s.delete(&pods(), &path, expected).await.unwrap()),
                _ => {}
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn objects_that_expire_are_packed_while_they_are_current_and_read_the_same() {
    let limits = Limits { whole_bytes_max: 10_000, ..Limits::default() };
    let (resting, awake) = (storage_with(limits), storage_with(limits));
    let hour = Duration::from_secs(3600);
    note(&resting, Some(hour)).await;
    note(&awake, None).await;
    assert_eq!(told(&resting), told(&awake));
    let kept = |s: &Storage| s.snapshot(&pods()).iter(None, None).map(|i| i.weight()).sum::<usize>();
    assert!(kept(&resting) * 3 < kept(&awake) * 2, "{} of {}", kept(&resting), kept(&awake));
    tokio::time::sleep(Duration::from_secs(320)).await;
    assert_eq!(resting.resource(&pods()).history.lock().superseded_bytes(), 0);
    tokio::time::sleep(hour).await;
    assert_eq!((kept(&resting), kept(&awake) > 0), (0, true));
}

#[tokio::test(start_paused = true)]
async fn a_bookmark_tells_the_newest_revision_only_to_those_who_have_seen_everything() {
    let s = storage();
    let mut w = watch(&s, WatchFrom::Now, namespace("default"));
    create(&s, "default/a").await;
    create(&s, "other/b").await;
    assert_eq!(w.revision(), 0);
    drain(&mut w);
    assert_eq!(w.revision(), 2);
    s.create(&ResourceKey::new("", "nodes"), &key("n"), bytes(json!({})), None).await.unwrap();
    assert_eq!(w.revision(), 3, "writes of other resources count as seen");
}

#[tokio::test(start_paused = true)]
async fn an_event_is_encoded_once_for_all_watchers() {
    let s = storage();
    let mut watchers: Vec<_> = (0..3).map(|_| watch(&s, WatchFrom::Now, <_>::default())).collect();
    create(&s, "default/a").await;
    let mut made = 0;
    for w in &mut watchers {
        let Ok(Some(WatchItem::Change(change))) = w.try_next() else { panic!("no change") };
        let frame = change.frame(7, || {
            made += 1;
            change.object().bytes
        });
        assert_eq!(frame, change.object().bytes);
    }
    assert_eq!(made, 1);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_leaves_nothing_behind() {
    let s = storage();
    drop((watch(&s, WatchFrom::Now, indexed("n1")), watch(&s, WatchFrom::Now, namespace("default"))));
    assert_eq!(s.resource(&pods()).history.lock().lanes(), 0);
}
