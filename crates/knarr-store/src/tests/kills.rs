//! A real process on a real disk, killed at any moment.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;

const FOLDER: &str = "KNARR_STORE_KILLED_IN";

fn open(folder: &std::path::Path) -> Arc<Storage> {
    let env = Env::system();
    Storage::open(Arc::new(LogEngine::at(folder, env.clock.clone()).unwrap()), env).unwrap()
}

/// The process that is killed: writes until then, and tells what was acknowledged. Does nothing when run as a test.
#[tokio::test]
async fn killed_process() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let s = open(folder.as_ref());
    for n in s.current_revision().. {
        let writes = (0..4).map(|i| {
            let s = s.clone();
            async move {
                let path = format!("default/{}", (n * 4 + i) % 50);
                match s.get_now(&pods(), &key(&path)) {
                    Some(item) => s.update(&pods(), &key(&path), bytes(json!({"n": n})), item.revision(), None).await,
                    None => s.create(&pods(), &key(&path), bytes(json!({"n": n})), None).await,
                }
            }
        });
        for object in futures::future::join_all(writes).await.into_iter().flatten() {
            println!("acknowledged {} {}", object.resource_version, String::from_utf8_lossy(&object.bytes));
        }
    }
}

#[tokio::test]
async fn a_killed_process_has_lost_no_acknowledged_write() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = std::collections::BTreeMap::new();
    for round in 0..12_u64 {
        let program = std::env::current_exe().unwrap();
        let mut child = Command::new(program)
            .args(["--exact", "tests::kills::killed_process", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(std::io::Result::ok);
        if round % 4 == 0 {
            // While it starts, most likely.
            std::thread::sleep(Duration::from_millis(3 * round));
        }
        let mut told: Vec<String> = lines.by_ref().take(usize::try_from(round % 4 * 17 + round).unwrap()).collect();
        child.kill().unwrap();
        told.extend(lines);
        child.wait().unwrap();
        for line in told {
            // The last line may be cut; what was cut was acknowledged all the same, but cannot be compared.
            let Some((revision, bytes)) = line.strip_prefix("acknowledged ").and_then(|l| l.split_once(' ')) else { continue };
            if bytes.ends_with('}') {
                let before = acknowledged.insert(revision.parse::<u64>().unwrap(), bytes.to_owned());
                assert_eq!(before, None, "revision {revision} was given twice");
            }
        }
        let s = open(folder.path());
        let last = acknowledged.last_key_value().map_or(0, |(r, _)| *r);
        assert!(s.current_revision() >= last, "round {round}: {} of {last}", s.current_revision());
        for item in s.snapshot(&pods()).iter(None, None) {
            if let Some(known) = acknowledged.get(&item.revision()) {
                assert_eq!(known.as_bytes(), &item.object().bytes[..], "round {round}");
            }
        }
        s.stop();
    }
    assert!(acknowledged.len() > 100, "{}", acknowledged.len());
}
