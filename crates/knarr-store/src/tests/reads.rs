use std::time::Duration;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_write_happens_only_at_the_version_it_expects() {
    let s = storage();
    let a = key("default/a");
    assert_eq!(create(&s, "default/a").await, 1);
    assert!(matches!(s.create(&pods(), &a, bytes(json!({})), None).await, Err(Error::Exists)));
    assert!(matches!(s.update(&pods(), &key("default/b"), bytes(json!({})), 1, None).await, Err(Error::NotFound)));
    assert_eq!(touch(&s, "default/a", "x").await, 2);
    let Err(Error::Conflict(there)) = s.update(&pods(), &a, bytes(json!({"data": "y"})), 1, None).await else { panic!("wrote over a newer version") };
    assert_eq!(there.resource_version, 2);
    assert!(matches!(s.delete(&pods(), &a, 1).await, Err(Error::Conflict(_))));
    let last = s.delete(&pods(), &a, 2).await.unwrap();
    assert_eq!(last.bytes, bytes(json!({"data": "x", "metadata": {"resourceVersion": "3"}})), "the last state, at the deletion's revision");
    assert!(matches!(s.get(&pods(), &a, 0).await, Err(Error::NotFound)));
}

#[tokio::test(start_paused = true)]
async fn an_update_that_changes_nothing_is_no_write() {
    let s = storage();
    create(&s, "default/a").await;
    let same = s.update(&pods(), &key("default/a"), bytes(json!({})), 1, None).await.unwrap();
    assert_eq!((same.resource_version, s.current_revision()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_does_not_change_and_earlier_ones_can_be_had() {
    let s = storage();
    create(&s, "default/a").await;
    create(&s, "default/b").await;
    let before = s.snapshot(&pods());
    touch(&s, "default/a", "x").await;
    delete(&s, "default/b").await;
    create(&s, "default/c").await;
    assert_eq!((before.revision(), paths(&before).as_str()), (2, "default/a default/b"));
    assert_eq!(before.get("default/a").unwrap().revision(), 1);
    for (revision, wanted) in [(0, ""), (1, "default/a"), (2, "default/a default/b"), (4, "default/a"), (5, "default/a default/c")] {
        let at = s.snapshot_at(&pods(), revision).unwrap();
        assert_eq!((at.revision(), paths(&at).as_str()), (revision, wanted));
    }
    assert!(matches!(s.snapshot_at(&pods(), 6), Err(Error::TooLarge { asked: 6, current: 5 })));
}

#[tokio::test(start_paused = true)]
async fn a_kept_snapshot_outlives_the_history_for_its_pages() {
    let s = storage_with(Limits { changes_max: 2, ..Limits::default() });
    create(&s, "default/a").await;
    s.keep_snapshot(&pods(), &s.snapshot(&pods()));
    for name in ["default/b", "default/c", "default/d"] {
        create(&s, name).await;
    }
    assert_eq!(paths(&s.snapshot_at(&pods(), 1).unwrap()), "default/a");
    assert!(matches!(s.snapshot_at(&pods(), 0), Err(Error::TooOld { .. })));
    tokio::time::sleep(Duration::from_secs(320)).await;
    assert!(matches!(s.snapshot_at(&pods(), 1), Err(Error::TooOld { .. })));
}

#[tokio::test(start_paused = true)]
async fn pages_end_after_a_while_even_if_nothing_happened_to_what_they_show() {
    let s = storage();
    create(&s, "default/a").await;
    s.keep_snapshot(&pods(), &s.snapshot(&pods()));
    let mut lasted = 0;
    while s.snapshot_at(&pods(), 1).is_ok() {
        tokio::time::sleep(Duration::from_secs(10)).await;
        s.create(&ResourceKey::new("", "events"), &key(&format!("default/{lasted}")), bytes(json!({})), None).await.unwrap();
        lasted += 10;
        assert!(lasted < 600, "a page was served for ever");
    }
    assert!(lasted >= 300, "{lasted}");
}

#[tokio::test(start_paused = true)]
async fn a_read_waits_for_a_revision_that_is_on_its_way() {
    let s = storage();
    create(&s, "default/a").await;
    let waiting = tokio::spawn({
        let s = s.clone();
        async move { s.get(&pods(), &key("default/b"), 2).await.map(|i| i.revision()) }
    });
    tokio::task::yield_now().await;
    create(&s, "default/b").await;
    assert_eq!(waiting.await.unwrap().unwrap(), 2);
    let late = s.wait_for_revision(9, Duration::from_secs(3)).await;
    assert!(matches!(late, Err(Error::TooLarge { asked: 9, current: 2 })), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn an_object_with_a_time_to_live_is_deleted_when_it_is_over() {
    let s = storage();
    let events = ResourceKey::new("", "events");
    let hour = Duration::from_secs(3600);
    let mut watcher = s.watch(&events, WatchFrom::Now, WatchFilter::default()).unwrap();
    let seen = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let (Ok(WatchItem::Change(change)), true) = (watcher.next().await, seen.len() < 4) {
            seen.push(format!("{change:?}"));
        }
        seen.join(", ")
    });
    s.create(&events, &key("default/a"), bytes(json!({})), Some(hour)).await.unwrap();
    s.create(&events, &key("default/b"), bytes(json!({})), Some(hour)).await.unwrap();
    tokio::time::sleep(hour / 2).await;
    s.update(&events, &key("default/b"), bytes(json!({"count": 2})), 2, Some(hour)).await.unwrap();
    tokio::time::sleep(hour / 2 + Duration::from_secs(3)).await;
    assert_eq!(paths(&s.snapshot(&events)), "default/b", "a write renews it");
    tokio::time::sleep(hour / 2).await;
    assert_eq!(paths(&s.snapshot(&events)), "");
    assert_eq!(seen.await.unwrap(), "Added default/a@1, Added default/b@2, Modified default/b@3, Deleted default/a@4");
}
