//! Answers of others, kept for a short while as they came.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::packet;

/// Answers kept at most; beyond it the older half goes.
const ENTRIES_MAX: usize = 4_000;
/// Longest time that an answer is kept, whatever it says (CoreDNS in kubeadm's setting: 30 s).
const KEPT_MAX: Duration = Duration::from_secs(30);
const NO_ERROR: u8 = 0;
const NX_DOMAIN: u8 = 3;

struct Entry {
    packet: Box<[u8]>,
    ttls: Box<[usize]>,
    since: Instant,
    until: Instant,
}

#[derive(Default)]
struct Generations {
    young: HashMap<Vec<u8>, Entry>,
    old: HashMap<Vec<u8>, Entry>,
}

#[derive(Default)]
pub(super) struct Cache(Mutex<Generations>);

impl Cache {
    /// The answer to `query`, made to fit it: its id, its spelling of the name, the time that is left.
    pub fn get(&self, key: &[u8], query: &[u8]) -> Option<Vec<u8>> {
        let now = Instant::now();
        let generations = self.0.lock();
        let entry = generations.young.get(key).or_else(|| generations.old.get(key)).filter(|e| e.until > now)?;
        let mut packet = entry.packet.to_vec();
        packet::age(&mut packet, &entry.ttls, u32::try_from(now.duration_since(entry.since).as_secs()).unwrap_or(u32::MAX));
        drop(generations);
        packet::set_id(&mut packet, packet::id(query)?);
        let question = packet::question(query)?;
        packet.get_mut(packet::HEADER_LEN..packet::HEADER_LEN + question.len())?.copy_from_slice(question);
        Some(packet)
    }

    /// Keeps an answer, if it may be kept.
    pub fn put(&self, key: Vec<u8>, answer: &[u8]) {
        if packet::is_truncated(answer) || !matches!(packet::rcode(answer), NO_ERROR | NX_DOMAIN) {
            return;
        }
        let Some((seconds, ttls)) = packet::lifetime(answer).filter(|(seconds, _)| *seconds > 0) else { return };
        let since = Instant::now();
        let until = since + KEPT_MAX.min(Duration::from_secs(seconds.into()));
        let mut generations = self.0.lock();
        if generations.young.len() >= ENTRIES_MAX / 2 {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(key, Entry { packet: answer.into(), ttls: ttls.into(), since, until });
    }
}
