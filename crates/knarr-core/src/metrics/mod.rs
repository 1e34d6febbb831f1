//! Metrics of components, in the text format of Prometheus (upstream: `k8s.io/component-base/metrics`).
//!
//! What a metric is (name, type, labels, buckets) is data: a [`Desc`]. Counting takes neither a lock that anybody waits for
//! nor memory once a combination of label values is known: [`Vector::get`] finds it by its borrowed values, and all values are
//! atomic. Each component has metrics of its own, so that none is scraped twice.

mod process;

pub use process::write as write_process;

use std::collections::HashMap;
use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::RwLock;

/// Most combinations of label values of one metric. Whatever comes later is counted under [`OTHER`].
pub const SERIES_MAX: usize = 10_000;
/// The value of all labels of what is not told apart.
pub const OTHER: &str = "other";
/// Type of what [`Text`] writes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What a metric is. Labels stand in alphabetical order.
#[derive(Debug)]
pub struct Desc {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
    pub labels: &'static [&'static str],
    /// Upper bounds, ascending; of histograms only.
    pub buckets: &'static [f64],
}

impl Desc {
    pub const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, kind: Kind::Counter, help, labels, buckets: &[] }
    }

    pub const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, kind: Kind::Gauge, help, labels, buckets: &[] }
    }

    pub const fn histogram(name: &'static str, help: &'static str, labels: &'static [&'static str], buckets: &'static [f64]) -> Self {
        Self { name, kind: Kind::Histogram, help, labels, buckets }
    }
}

/// A number that is set, raised and lowered.
#[derive(Debug, Default)]
pub struct Number(AtomicU64);

impl Number {
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Relaxed);
    }

    pub fn add(&self, value: f64) {
        // The closure always gives a value, so the update cannot fail.
        let _ = self.0.fetch_update(Relaxed, Relaxed, |bits| Some((f64::from_bits(bits) + value).to_bits()));
    }

    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }
}

/// How often values of which size were seen.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    buckets: Box<[AtomicU64]>,
    beyond: AtomicU64,
    sum: Number,
}

impl Histogram {
    pub fn new(desc: &'static Desc) -> Self {
        let buckets = desc.buckets.iter().map(|_| AtomicU64::new(0)).collect();
        Self { bounds: desc.buckets, buckets, beyond: AtomicU64::new(0), sum: Number::default() }
    }

    pub fn observe(&self, value: f64) {
        let index = self.bounds.partition_point(|bound| *bound < value);
        self.buckets.get(index).unwrap_or(&self.beyond).fetch_add(1, Relaxed);
        self.sum.add(value);
    }

    pub fn observe_time(&self, took: Duration) {
        self.observe(took.as_secs_f64());
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|b| b.load(Relaxed)).sum::<u64>() + self.beyond.load(Relaxed)
    }
}

struct Entry<T> {
    values: Box<[Box<str>]>,
    what: Arc<T>,
}

struct Entries<T> {
    by_hash: HashMap<u64, Vec<Entry<T>>>,
    len: usize,
}

/// What is counted for each combination of label values.
pub struct Vector<T> {
    labels: usize,
    make: fn() -> T,
    hasher: RandomState,
    entries: RwLock<Entries<T>>,
}

impl<T> Vector<T> {
    pub fn new(labels: usize, make: fn() -> T) -> Self {
        Self { labels, make, hasher: RandomState::new(), entries: RwLock::new(Entries { by_hash: HashMap::new(), len: 0 }) }
    }

    /// What is counted for these values, in the order of the labels.
    pub fn get(&self, values: &[&str]) -> Arc<T> {
        let hash = self.hasher.hash_one(values);
        let found = self.entries.read().find(hash, values);
        found.unwrap_or_else(|| self.insert(hash, values))
    }

    #[cold]
    fn insert(&self, hash: u64, values: &[&str]) -> Arc<T> {
        let mut entries = self.entries.write();
        if let Some(known) = entries.find(hash, values) {
            return known;
        }
        let others = vec![OTHER; self.labels];
        let (hash, values) = if entries.len < SERIES_MAX { (hash, values) } else { (self.hasher.hash_one(others.as_slice()), others.as_slice()) };
        if let Some(known) = entries.find(hash, values) {
            return known;
        }
        let what = Arc::new((self.make)());
        let values = values.iter().map(|v| Box::from(*v)).collect();
        entries.by_hash.entry(hash).or_default().push(Entry { values, what: what.clone() });
        entries.len += 1;
        what
    }

    /// All of them, in the order of their label values.
    pub fn all(&self) -> Vec<(Box<[Box<str>]>, Arc<T>)> {
        let entries = self.entries.read();
        let mut all: Vec<_> = entries.by_hash.values().flatten().map(|e| (e.values.clone(), e.what.clone())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

impl<T> Entries<T> {
    fn find(&self, hash: u64, values: &[&str]) -> Option<Arc<T>> {
        let same = |e: &&Entry<T>| e.values.len() == values.len() && e.values.iter().zip(values).all(|(a, b)| **a == **b);
        self.by_hash.get(&hash)?.iter().find(same).map(|e| e.what.clone())
    }
}

/// A counter with labels.
pub struct Counters(&'static Desc, Vector<AtomicU64>);

impl Counters {
    pub fn new(desc: &'static Desc) -> Self {
        Self(desc, Vector::new(desc.labels.len(), AtomicU64::default))
    }

    pub fn add(&self, values: &[&str]) {
        self.1.get(values).fetch_add(1, Relaxed);
    }

    pub fn write(&self, out: &mut Text) {
        out.open(self.0);
        for (values, count) in self.1.all() {
            out.sample(self.0, &refs(&values), count.load(Relaxed) as f64);
        }
    }
}

/// A gauge with labels.
pub struct Gauges(&'static Desc, Vector<Number>);

impl Gauges {
    pub fn new(desc: &'static Desc) -> Self {
        Self(desc, Vector::new(desc.labels.len(), Number::default))
    }

    pub fn of(&self, values: &[&str]) -> Arc<Number> {
        self.1.get(values)
    }

    pub fn write(&self, out: &mut Text) {
        out.open(self.0);
        for (values, number) in self.1.all() {
            out.sample(self.0, &refs(&values), number.get());
        }
    }
}

/// A histogram with labels.
pub struct Histograms(&'static Desc, Vector<std::sync::OnceLock<Histogram>>);

impl Histograms {
    pub fn new(desc: &'static Desc) -> Self {
        Self(desc, Vector::new(desc.labels.len(), std::sync::OnceLock::new))
    }

    pub fn observe(&self, values: &[&str], value: f64) {
        self.1.get(values).get_or_init(|| Histogram::new(self.0)).observe(value);
    }

    pub fn write(&self, out: &mut Text) {
        out.open(self.0);
        for (values, histogram) in self.1.all() {
            if let Some(histogram) = histogram.get() {
                out.histogram(self.0, &refs(&values), histogram);
            }
        }
    }
}

/// Label values as they are handed to [`Text`].
pub fn refs(values: &[Box<str>]) -> Vec<&str> {
    values.iter().map(AsRef::as_ref).collect()
}

/// The text that is scraped.
#[derive(Debug, Default)]
pub struct Text(String);

impl Text {
    pub fn into_string(self) -> String {
        self.0
    }

    /// Says what the following samples are.
    pub fn open(&mut self, desc: &Desc) {
        let help = desc.help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a String cannot fail, here and below.
        let _ = write!(self.0, "# HELP {0} {help}\n# TYPE {0} {1}\n", desc.name, desc.kind.as_str());
    }

    /// A metric without labels, as a whole.
    pub fn single(&mut self, desc: &Desc, value: f64) {
        self.open(desc);
        self.sample(desc, &[], value);
    }

    pub fn sample(&mut self, desc: &Desc, values: &[&str], value: f64) {
        self.line(desc, "", values, None, value);
    }

    pub fn histogram(&mut self, desc: &Desc, values: &[&str], histogram: &Histogram) {
        let mut total = 0;
        for (bound, count) in histogram.bounds.iter().zip(&histogram.buckets) {
            total += count.load(Relaxed);
            self.line(desc, "_bucket", values, Some(&number(*bound)), total as f64);
        }
        total += histogram.beyond.load(Relaxed);
        self.line(desc, "_bucket", values, Some("+Inf"), total as f64);
        self.line(desc, "_sum", values, None, histogram.sum.get());
        self.line(desc, "_count", values, None, total as f64);
    }

    fn line(&mut self, desc: &Desc, suffix: &str, values: &[&str], bound: Option<&str>, value: f64) {
        let _ = write!(self.0, "{}{suffix}", desc.name);
        let labels = desc.labels.iter().copied().zip(values.iter().copied()).chain(bound.map(|b| ("le", b)));
        let mut before = '{';
        for (name, value) in labels {
            let _ = write!(self.0, "{before}{name}=\"");
            self.value(value);
            self.0.push('"');
            before = ',';
        }
        let close = if before == ',' { "}" } else { "" };
        let _ = writeln!(self.0, "{close} {}", number(value));
    }

    fn value(&mut self, value: &str) {
        for c in value.chars() {
            match c {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                c => self.0.push(c),
            }
        }
    }
}

/// A number as Prometheus reads it.
fn number(value: f64) -> String {
    match value {
        v if v.is_nan() => "NaN".into(),
        f64::INFINITY => "+Inf".into(),
        f64::NEG_INFINITY => "-Inf".into(),
        v => crate::go::float(v),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static SIZES: Desc = Desc::histogram("sizes", "Sizes.", &["a", "b"], &[0.5, 1.0, 1e6]);
    static SEEN: Desc = Desc::counter("seen_total", "Seen.", &["a"]);

    #[test]
    fn a_histogram_is_written_cumulatively() {
        let sizes = Histograms::new(&SIZES);
        for value in [0.5, 0.7, 2e6] {
            sizes.observe(&["x\"y", ""], value);
        }
        let mut text = Text::default();
        sizes.write(&mut text);
        let wanted = "# HELP sizes Sizes.\n# TYPE sizes histogram\n\
            sizes_bucket{a=\"x\\\"y\",b=\"\",le=\"0.5\"} 1\nsizes_bucket{a=\"x\\\"y\",b=\"\",le=\"1\"} 2\n\
            sizes_bucket{a=\"x\\\"y\",b=\"\",le=\"1e+06\"} 2\nsizes_bucket{a=\"x\\\"y\",b=\"\",le=\"+Inf\"} 3\n\
            sizes_sum{a=\"x\\\"y\",b=\"\"} 2.0000012e+06\nsizes_count{a=\"x\\\"y\",b=\"\"} 3\n";
        assert_eq!(text.into_string(), wanted);
    }

    #[test]
    fn too_many_combinations_fold_into_one() {
        let seen = Counters::new(&SEEN);
        for i in 0..SERIES_MAX + 5 {
            seen.add(&[&i.to_string()]);
        }
        seen.add(&["7"]);
        let mut text = Text::default();
        seen.write(&mut text);
        let text = text.into_string();
        assert!(text.contains("seen_total{a=\"7\"} 2\n"));
        assert!(text.contains("seen_total{a=\"other\"} 5\n"));
        assert_eq!(text.lines().count(), 2 + SERIES_MAX + 1);
    }

    #[test]
    fn numbers_are_written_as_go_writes_them() {
        let cases =
            [(0.0, "0"), (0.005, "0.005"), (1.0, "1"), (31_104_000.0, "3.1104e+07"), (5e-7, "5e-07"), (1e9, "1e+09"), (123_456.0, "123456"), (0.1, "0.1")];
        for (value, wanted) in cases {
            assert_eq!(number(value), wanted);
        }
        assert_eq!(number(1_234_567.0), "1.234567e+06");
        assert_eq!(number(f64::INFINITY), "+Inf");
    }
}
