//! Watches a target while it works on an input: one that never comes back, or takes all memory, cannot be caught from within. The
//! watcher keeps the input in a file and ends the process.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// An input that takes longer never comes back, however many others want the processors.
const WALL_MAX: Duration = Duration::from_secs(600);
/// How far the process may grow during one input.
const GROWTH_MAX: u64 = 1 << 30;
const PERIOD: Duration = Duration::from_millis(100);
/// How often the clock of the processor is read: it is a file of the kernel's, which takes longer than most inputs.
const CLOCK_PERIOD: Duration = Duration::from_millis(50);

/// See the module.
pub struct Watcher {
    current: Arc<Mutex<Option<Current>>>,
    is_over: Arc<AtomicBool>,
    /// When the clock of the processor was read last, and what it said.
    clock: Cell<(Instant, Duration)>,
}

struct Current {
    input: Vec<u8>,
    began: Instant,
    /// Of the process, when the watcher first saw it at this input.
    memory: Option<u64>,
}

impl Watcher {
    pub fn start(name: &str) -> Self {
        let watcher = Self { current: Arc::default(), is_over: Arc::default(), clock: Cell::new((Instant::now(), cpu())) };
        let (current, is_over, name) = (watcher.current.clone(), watcher.is_over.clone(), name.to_owned());
        std::thread::spawn(move || {
            while !is_over.load(SeqCst) {
                std::thread::sleep(PERIOD);
                let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(current) = current.as_mut() else { continue };
                let memory = memory();
                let grown = memory.saturating_sub(*current.memory.get_or_insert(memory));
                let what = match (current.began.elapsed() > WALL_MAX, grown > GROWTH_MAX) {
                    (true, _) => format!("has not come back after {WALL_MAX:?}"),
                    (_, true) => format!("has taken {} MiB", grown >> 20),
                    _ => continue,
                };
                eprintln!("{name} {what} with {} bytes, kept in {}", current.input.len(), keep(&name, &current.input));
                std::process::abort();
            }
        });
        watcher
    }

    pub fn begin(&self, input: &[u8]) {
        if self.clock.get().0.elapsed() > CLOCK_PERIOD {
            self.clock.set((Instant::now(), cpu()));
        }
        let current = Current { input: input.to_vec(), began: Instant::now(), memory: None };
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(current);
    }

    /// Whether the input has taken more than this of a processor. Work before it may count, as long as [`CLOCK_PERIOD`].
    pub fn end(&self, max: Duration) -> Option<Duration> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).take();
        current.filter(|c| c.began.elapsed() > max)?;
        Some(cpu().saturating_sub(self.clock.get().1)).filter(|cpu| *cpu > max)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.is_over.store(true, SeqCst);
    }
}

/// What this thread has taken of a processor.
pub fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0))
}

/// What this process has in memory.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// Keeps an input in a file; gives its path.
pub fn keep(name: &str, input: &[u8]) -> String {
    let file = std::env::temp_dir().join(format!("knarr-fuzz-{}-{}", name.replace([' ', '/'], "-"), std::process::id()));
    match std::fs::write(&file, input) {
        Ok(()) => file.display().to_string(),
        Err(error) => error.to_string(),
    }
}
