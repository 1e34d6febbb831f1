//! How often probes were tried and what came of it, for `/metrics/probes` (upstream: `prober.go:ProberResults`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use crate::pod::observed::ProbeKind;
use crate::pod::spec::PodExt;

/// What one attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Successful,
    Failed,
    Unknown,
}

impl Outcome {
    /// As the label `result` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Successful => "successful",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// One series.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Series {
    pub uid: String,
    pub namespace: String,
    pub pod: String,
    pub container: String,
    pub kind: ProbeKind,
    pub outcome: Outcome,
}

/// The counts of all pods that are here.
#[derive(Default)]
pub struct Counts(Mutex<BTreeMap<Series, u64>>);

impl Counts {
    pub fn add(&self, pod: &Pod, container: &str, kind: ProbeKind, outcome: Outcome) {
        let series = Series { uid: pod.uid().into(), namespace: pod.namespace().into(), pod: pod.name().into(), container: container.into(), kind, outcome };
        *self.0.lock().entry(series).or_default() += 1;
    }

    /// Forgets a pod that is gone.
    pub fn forget(&self, uid: &str) {
        self.0.lock().retain(|series, _| series.uid != uid);
    }

    pub fn all(&self) -> Vec<(Series, u64)> {
        self.0.lock().iter().map(|(series, n)| (series.clone(), *n)).collect()
    }
}
