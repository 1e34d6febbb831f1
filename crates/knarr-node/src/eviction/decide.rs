//! Which shortage is acted on, and which pod goes first. Pure (upstream: `eviction/helpers.go`).

use std::cmp::Reverse;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use knarr_core::quantity::Quantity;

use crate::pod::resources::pod_requests;
use crate::pod::spec::{PodExt, amount};

/// What is watched; the first in this order is acted on first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    Memory,
    NodeFs,
    NodeFsInodes,
    ImageFs,
    ImageFsInodes,
    Pid,
}

impl Signal {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "memory.available" => Self::Memory,
            "nodefs.available" => Self::NodeFs,
            "nodefs.inodesFree" => Self::NodeFsInodes,
            "imagefs.available" => Self::ImageFs,
            "imagefs.inodesFree" => Self::ImageFsInodes,
            "pid.available" => Self::Pid,
            _ => return None,
        })
    }

    /// The resource that runs short, as messages name it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::NodeFs | Self::ImageFs => "ephemeral-storage",
            Self::NodeFsInodes | Self::ImageFsInodes => "inodes",
            Self::Pid => "pids",
        }
    }

    /// Place of the node's condition: memory, disk, process ids.
    pub fn condition(self) -> usize {
        match self {
            Self::Memory => 0,
            Self::Pid => 2,
            _ => 1,
        }
    }

    pub fn is_disk(self) -> bool {
        self.condition() == 1
    }
}

/// The least that has to be there.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    pub signal: Signal,
    least: Least,
}

#[derive(Clone, Debug, PartialEq)]
enum Least {
    Amount(u64),
    /// Parts of a hundred of the capacity.
    Percent(f64),
}

/// What is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    pub signal: Signal,
    pub available: u64,
    pub capacity: u64,
}

impl Threshold {
    fn amount(&self, capacity: u64) -> u64 {
        match self.least {
            Least::Amount(amount) => amount,
            Least::Percent(percent) => (capacity as f64 * percent / 100.0) as u64,
        }
    }

    pub fn is_met(&self, seen: &Observation) -> bool {
        self.signal == seen.signal && seen.available < self.amount(seen.capacity)
    }
}

/// Reads `evictionHard`. What cannot be read is left out and said.
pub fn thresholds(config: &BTreeMap<String, String>) -> Vec<Threshold> {
    let read = |(name, text): (&String, &String)| {
        let least = match text.strip_suffix('%') {
            Some(percent) => percent.parse::<f64>().ok().map(Least::Percent),
            None => text.parse::<Quantity>().ok().and_then(|q| u64::try_from(q.value()).ok()).map(Least::Amount),
        };
        let threshold = Signal::parse(name).zip(least).map(|(signal, least)| Threshold { signal, least });
        if threshold.is_none() {
            tracing::warn!(signal = name, value = text, "an eviction threshold cannot be understood");
        }
        threshold
    };
    config.iter().filter_map(read).filter(|t| t.least != Least::Amount(0) && t.least != Least::Percent(0.0)).collect()
}

/// What a pod uses of what may run short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub memory: u64,
    pub disk: u64,
    pub processes: u64,
}

/// The smallest goes first: those above their requests, then those of low priority, then those furthest above (upstream:
/// `rankMemoryPressure`, `rankDiskPressureFunc`, `rankPIDPressure`).
pub fn rank(pod: &Pod, usage: &Usage, signal: Signal) -> impl Ord + use<> {
    let priority = pod.spec().priority.unwrap_or(0);
    let requests = pod_requests(pod.spec());
    let (used, requested) = match signal {
        Signal::Memory => (usage.memory, amount(Some(&requests), "memory").value()),
        Signal::Pid => (usage.processes, 0),
        _ => (usage.disk, amount(Some(&requests), "ephemeral-storage").value()),
    };
    let over = i64::try_from(used).unwrap_or(i64::MAX) - requested;
    let within = signal != Signal::Pid && over <= 0;
    (within, priority, Reverse(over))
}

/// Text of the eviction (upstream: `evictionMessage`).
pub fn message(threshold: &Threshold, seen: Option<&Observation>, pod: &Pod, usage: &Usage) -> String {
    let resource = threshold.signal.resource();
    let bytes = |n: u64| Quantity::from_bytes(i64::try_from(n).unwrap_or(i64::MAX)).to_string();
    let mut text = format!("The node was low on resource: {resource}. ");
    if let Some(seen) = seen {
        text.push_str(&format!("Threshold quantity: {}, available: {}. ", bytes(threshold.amount(seen.capacity)), bytes(seen.available)));
    }
    let used = match threshold.signal {
        Signal::Memory => usage.memory,
        Signal::NodeFs | Signal::ImageFs => usage.disk,
        _ => return text,
    };
    let request = amount(Some(&pod_requests(pod.spec())), resource);
    if i64::try_from(used).is_ok_and(|used| used > request.value()) {
        text.push_str(&format!("Pod {} was using {}, request is {request}, has larger consumption of {resource}. ", pod.name(), bytes(used)));
    }
    text
}

#[cfg(test)]
mod tests {
    use knarr_core::{Value, json};

    use super::*;
    use crate::testing::pod_of;

    fn threshold(name: &str, text: &str) -> Threshold {
        thresholds(&[(name.to_owned(), text.to_owned())].into()).remove(0)
    }

    #[test]
    fn a_threshold_is_an_amount_or_a_part() {
        let seen = |signal, available| Observation { signal, available, capacity: 1000 };
        assert!(threshold("nodefs.available", "10%").is_met(&seen(Signal::NodeFs, 99)));
        assert!(!threshold("nodefs.available", "10%").is_met(&seen(Signal::NodeFs, 100)));
        assert!(threshold("memory.available", "1Ki").is_met(&seen(Signal::Memory, 1023)));
        assert!(!threshold("memory.available", "1Ki").is_met(&seen(Signal::Pid, 1)));
        assert_eq!(thresholds(&[("x".to_owned(), "1".to_owned()), ("pid.available".to_owned(), "0%".to_owned())].into()), []);
    }

    #[test]
    fn who_uses_more_than_asked_for_goes_first() {
        let pod = |name: &str, memory: Option<&str>, priority: i64| {
            let requests = memory.map_or(json!({}), |m| json!({"memory": m}));
            let mut spec: Value = json!({"containers": [{"name": "a", "resources": {"requests": requests}}]});
            spec["priority"] = json!(priority);
            let mut pod = pod_of(spec);
            pod.metadata.name = Some(name.into());
            pod
        };
        let using = |memory| Usage { memory, ..Default::default() };
        let mut all = [
            (pod("modest", Some("1Gi"), 0), using(1 << 20)),
            (pod("important", None, 1000), using(1 << 30)),
            (pod("small", None, 0), using(1 << 10)),
            (pod("big", None, 0), using(1 << 25)),
        ];
        all.sort_by_cached_key(|(pod, usage)| rank(pod, usage, Signal::Memory));
        assert_eq!(all.map(|(pod, _)| pod.metadata.name.unwrap()), ["big", "small", "important", "modest"]);
    }

    #[test]
    fn the_message_tells_what_ran_short_and_who_used_it() {
        let pod = pod_of(json!({"containers": [{"name": "a"}]}));
        let seen = Observation { signal: Signal::Memory, available: 50 << 20, capacity: 1 << 30 };
        assert_eq!(
            message(&threshold("memory.available", "100Mi"), Some(&seen), &pod, &Usage { memory: 1 << 20, ..Default::default() }),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Pod p was using 1Mi, request is 0, has larger consumption of memory. "
        );
    }
}
