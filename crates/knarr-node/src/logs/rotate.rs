//! Keeps containers' logs small: a file that has grown too large is moved aside, the runtime goes on in a new one, older ones are
//! compressed, and the oldest go (upstream: `pkg/kubelet/logs/container_log_manager.go`).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use tokio::time::MissedTickBehavior;

use crate::agent::Pods;
use crate::container::config::pod_log_dir;
use crate::context::Context;
use crate::pod::spec::PodExt;

/// How often sizes are looked at (upstream: `containerLogMonitorInterval`).
const LOOK_EVERY: Duration = Duration::from_secs(10);
const COMPRESSED: &str = ".gz";
const HALF_DONE: &str = ".tmp";

/// Rotates logs until the task is dropped.
pub async fn run(context: Arc<Context>, pods: Arc<Pods>) {
    let mut interval = tokio::time::interval(LOOK_EVERY);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        for handle in pods.all() {
            let view = handle.view.borrow().clone();
            for seen in view.observed.running() {
                let path = pod_log_dir(&context, &view.pod).join(&seen.log_path);
                if fs::metadata(&path).is_ok_and(|m| m.len() >= context.config.container_log_bytes_max)
                    && let Err(error) = rotate(&context, &seen.id, path).await
                {
                    tracing::warn!(pod = view.pod.described(), container = seen.name, error, "cannot rotate a log");
                }
            }
        }
    }
}

async fn rotate(context: &Context, id: &str, path: PathBuf) -> Result<(), String> {
    let (keep, now, log) = (context.config.container_log_files_max, context.env.now(), path.clone());
    let tidied = tokio::task::spawn_blocking(move || tidy(&log, keep));
    tidied.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    let aside = move_aside(&path, now).map_err(|e| e.to_string())?;
    if let Err(error) = context.runtime.reopen_container_log(id).await {
        // The container would write on to a file that nobody reads.
        fs::rename(&aside, &path).map_err(|e| e.to_string())?;
        return Err(error.to_string());
    }
    Ok(())
}

/// Removes a log that nobody asks for any more, and all that it once was.
pub fn remove(log: &Path) {
    for path in rotated(log).unwrap_or_default().iter().map(PathBuf::as_path).chain([log]) {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => tracing::warn!(path = %path.display(), %error, "cannot remove a log"),
            _ => {}
        }
    }
}

/// Removes what was left half done, compresses what was moved aside before, and removes the oldest, so that with the file in use and
/// the one that is about to be moved aside there are at most `keep`.
fn tidy(log: &Path, keep: usize) -> io::Result<()> {
    let mut old = rotated(log)?;
    for half in old.iter().filter(|p| p.to_string_lossy().ends_with(HALF_DONE)) {
        fs::remove_file(half)?;
    }
    old.retain(|p| !p.to_string_lossy().ends_with(HALF_DONE));
    let surplus = (old.len() + 2).saturating_sub(keep);
    for path in old.drain(..surplus.min(old.len())) {
        fs::remove_file(path)?;
    }
    old.iter().filter(|p| !p.to_string_lossy().ends_with(COMPRESSED)).try_for_each(|p| compress(p))
}

/// Files that once were this log, the oldest first: their names end in their time.
fn rotated(log: &Path) -> io::Result<Vec<PathBuf>> {
    let Some((folder, name)) = log.parent().zip(log.file_name()) else { return Ok(Vec::new()) };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut all: Vec<PathBuf> = fs::read_dir(folder)?.flatten().map(|e| e.path()).collect();
    all.retain(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix)));
    all.sort();
    Ok(all)
}

fn compress(path: &Path) -> io::Result<()> {
    let beside = |suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
    let (half, whole) = (beside(HALF_DONE), beside(COMPRESSED));
    let mut writer = GzEncoder::new(File::create(&half)?, Compression::default());
    io::copy(&mut File::open(path)?, &mut writer)?;
    writer.finish()?.sync_all()?;
    fs::rename(half, whole)?;
    fs::remove_file(path)
}

fn move_aside(log: &Path, now: Timestamp) -> io::Result<PathBuf> {
    let aside = PathBuf::from(format!("{}.{}", log.display(), now.strftime("%Y%m%d-%H%M%S")));
    fs::rename(log, &aside)?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::testing::second;

    #[test]
    fn old_logs_are_compressed_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        for n in 0..6 {
            fs::write(&log, format!("{n}")).unwrap();
            tidy(&log, 4).unwrap();
            move_aside(&log, second(n)).unwrap();
        }
        fs::write(&log, "now").unwrap();
        let names: Vec<String> = rotated(&log).unwrap().iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect();
        assert_eq!(names, ["0.log.20231114-221323.gz", "0.log.20231114-221324.gz", "0.log.20231114-221325"]);
        let mut text = String::new();
        flate2::read::GzDecoder::new(File::open(dir.path().join(&names[0])).unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "3");
        fs::write(dir.path().join("0.log.20231114-221326.tmp"), "half").unwrap();
        tidy(&log, 4).unwrap();
        assert!(!dir.path().join("0.log.20231114-221326.tmp").exists());
    }
}
