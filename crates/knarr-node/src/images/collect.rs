//! Removes images that nobody uses: from time to time when the disk is fuller than it should be, and all of them when it runs full
//! (upstream: `pkg/kubelet/images/image_gc_manager.go`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use knarr_runtime::cri::Image;
use tokio::time::MissedTickBehavior;

use crate::context::Context;
use crate::events::{Level, node_reference};
use crate::machine::disk_usage;

/// How often the disk is looked at (upstream: `ImageGCPeriod`).
const PERIOD: Duration = Duration::from_secs(300);

/// When each image was seen first and used last.
type Known = BTreeMap<String, (Timestamp, Timestamp)>;

/// Keeps the disk of images below its mark until the task is dropped.
pub async fn run(context: Arc<Context>) {
    let mut interval = tokio::time::interval(PERIOD);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if let Err(error) = round(&context).await {
            tracing::warn!(error, "cannot remove unused images");
            context.events.record(node_reference(&context.config.node_name, None), Level::Warning, "ImageGCFailed", &error);
        }
    }
}

async fn round(context: &Context) -> Result<(), String> {
    let (images, used) = look(context).await?;
    let (path, ..) = context.runtime.image_fs().await.map_err(|e| e.to_string())?;
    let disk = disk_usage(&path).ok_or_else(|| format!("cannot look at the file system of {}", path.display()))?;
    let known = context.images.known.lock().clone();
    let Some(wanted) = excess(disk.capacity, disk.available, context.config.image_gc_high_percent, context.config.image_gc_low_percent) else { return Ok(()) };
    let mut freed = 0;
    for image in candidates(&images, &used, &known, context.env.now(), context.config.image_gc_min_age) {
        if freed >= wanted {
            break;
        }
        context.runtime.remove_image(&image.id).await.map_err(|e| e.to_string())?;
        freed += image.size;
    }
    if freed < wanted {
        let text = still_full(disk.capacity, disk.available, freed);
        context.events.record(node_reference(&context.config.node_name, None), Level::Warning, "FreeDiskSpaceFailed", &text);
    }
    Ok(())
}

/// Removes every image that nobody uses, whatever its age.
pub async fn unused(context: &Context) {
    let (images, used) = match look(context).await {
        Ok(found) => found,
        Err(error) => return tracing::warn!(error, "cannot look for unused images"),
    };
    for image in images.iter().filter(|i| is_free(i, &used)) {
        if let Err(error) = context.runtime.remove_image(&image.id).await {
            tracing::warn!(image = image.id, %error, "cannot remove an unused image");
        }
    }
}

/// All images, and the ids of those that containers were made of; notes when each was used.
async fn look(context: &Context) -> Result<(Vec<Image>, BTreeSet<String>), String> {
    let images = context.runtime.list_images().await.map_err(|e| e.to_string())?;
    let containers = context.runtime.list_containers().await.map_err(|e| e.to_string())?;
    let mut used: BTreeSet<String> = containers.iter().map(|c| c.image.clone()).collect();
    used.extend(containers.iter().flat_map(|c| &c.mounts).filter_map(|m| m.image.clone()));
    let now = context.env.now();
    let mut known = context.images.known.lock();
    known.retain(|id, _| images.iter().any(|i| i.id == *id));
    for image in &images {
        let entry = known.entry(image.id.clone()).or_insert((now, Timestamp::UNIX_EPOCH));
        if used.contains(&image.id) {
            entry.1 = now;
        }
    }
    drop(known);
    Ok((images, used))
}

/// Bytes to free, if more of the disk is in use than `high` parts of a hundred: as many as leave `low` in use.
fn excess(capacity: u64, available: u64, high: u8, low: u8) -> Option<u64> {
    let used_percent = 100u64.saturating_sub(available.saturating_mul(100).checked_div(capacity)?);
    (used_percent >= u64::from(high)).then(|| (capacity / 100 * (100 - u64::from(low))).saturating_sub(available))
}

/// What is told when too little could be freed (upstream: `GarbageCollect`).
fn still_full(capacity: u64, available: u64, freed: u64) -> String {
    format!(
        "Insufficient free disk space on the node's image filesystem ({}% of {} used). Failed to free sufficient space by deleting unused images (freed {freed} bytes). Investigate disk usage, as it could be used by active images, logs, volumes, or other data.",
        100u64.saturating_sub(available.saturating_mul(100).checked_div(capacity).unwrap_or_default()),
        size_text(capacity)
    )
}

/// A size for people (upstream: `formatSize`).
fn size_text(bytes: u64) -> String {
    let units = [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, size)| bytes >= *size) {
        Some((unit, size)) => format!("{:.1} {unit}", bytes as f64 / *size as f64),
        None => format!("{bytes} B"),
    }
}

/// Whether an image may go: nobody uses it, and it can be pulled again. One that was loaded by hand could not be had back.
fn is_free(image: &Image, used: &BTreeSet<String>) -> bool {
    !image.pinned && !used.contains(&image.id)
}

/// What may go: free, old enough, the one that was used longest ago first.
fn candidates<'a>(images: &'a [Image], used: &BTreeSet<String>, known: &Known, now: Timestamp, min_age: Duration) -> Vec<&'a Image> {
    let old_enough = |id: &str| known.get(id).is_some_and(|(seen, _)| Duration::try_from(now.duration_since(*seen)).is_ok_and(|age| age >= min_age));
    let mut all: Vec<&Image> = images.iter().filter(|i| is_free(i, used) && old_enough(&i.id)).collect();
    all.sort_by_key(|i| known.get(&i.id).map(|(seen, used)| (*used, *seen)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::second;

    #[test]
    fn a_disk_that_stays_full_is_told_with_its_size() {
        let text = still_full(270_553_174_016, 4_058_297_610, 12);
        assert!(text.contains("(99% of 252.0 GiB used)") && text.contains("(freed 12 bytes)"), "{text}");
        assert_eq!([0, 1023, 1536, 5 << 20, 2 << 40].map(size_text), ["0 B", "1023 B", "1.5 KiB", "5.0 MiB", "2.0 TiB"]);
    }

    #[test]
    fn only_a_disk_that_is_too_full_is_cleared() {
        assert_eq!(excess(1000, 200, 85, 80), None);
        assert_eq!(excess(1000, 150, 85, 80), Some(50));
        assert_eq!(excess(1000, 10, 85, 80), Some(190));
        assert_eq!(excess(0, 0, 85, 80), None);
    }

    #[test]
    fn the_image_that_was_used_longest_ago_goes_first() {
        let image = |id: &str, pinned| Image { id: id.into(), repo_tags: vec![], repo_digests: vec![], size: 1, uid: None, username: String::new(), pinned };
        let images = [image("used", false), image("recent", false), image("old", false), image("young", false), image("pinned", true)];
        let known: Known = [("used", 0, 90), ("recent", 0, 80), ("old", 0, 10), ("young", 95, 0), ("pinned", 0, 0)]
            .into_iter()
            .map(|(id, seen, used)| (id.to_owned(), (second(seen), second(used))))
            .collect();
        let all = candidates(&images, &["used".to_owned()].into(), &known, second(100), Duration::from_secs(60));
        assert_eq!(all.iter().map(|i| i.id.as_str()).collect::<Vec<_>>(), ["old", "recent"]);
    }
}
