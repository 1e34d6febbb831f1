//! What can be set of the audit log, and kube-apiserver's names and defaults for it (upstream: `server/options/audit.go`).

use std::{fmt::Display, path::PathBuf, str::FromStr, time::Duration};

use knarr_core::field::go_quote;

/// Whether a request waits until its event has been written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Events are gathered and sent later; what does not fit is lost.
    Batch,
    Blocking,
    /// A request whose beginning cannot be written down is refused.
    BlockingStrict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Legacy,
}

#[derive(Clone, Debug)]
pub struct BatchSettings {
    pub mode: Mode,
    /// Events that may wait.
    pub buffer_size: usize,
    pub max_size: usize,
    pub max_wait: Duration,
    /// Batches a second, and how many may come at once; absent: any.
    pub throttle: Option<(f64, u32)>,
}

/// Limits on sizes, when truncating is on.
#[derive(Clone, Copy, Debug)]
pub struct TruncateSettings {
    pub enabled: bool,
    pub max_batch_bytes: usize,
    pub max_event_bytes: usize,
}

impl Default for TruncateSettings {
    fn default() -> Self {
        Self { enabled: false, max_batch_bytes: 10 << 20, max_event_bytes: 100 << 10 }
    }
}

#[derive(Clone, Debug)]
pub struct LogSettings {
    /// Empty: no log. `-`: standard output.
    pub path: String,
    pub format: Format,
    pub max_age_days: u32,
    pub max_backups: usize,
    pub max_size_mb: u64,
    pub compress: bool,
    pub batch: BatchSettings,
    pub truncate: TruncateSettings,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            path: String::new(),
            format: Format::Json,
            max_age_days: 366,
            max_backups: 100,
            max_size_mb: 100,
            compress: false,
            // A file gains nothing by batches.
            batch: BatchSettings { mode: Mode::Blocking, buffer_size: 10_000, max_size: 1, max_wait: Duration::ZERO, throttle: None },
            truncate: TruncateSettings::default(),
        }
    }
}

impl LogSettings {
    pub fn is_on(&self) -> bool {
        !self.path.is_empty()
    }
}

#[derive(Clone, Debug)]
pub struct WebhookSettings {
    pub config_file: Option<PathBuf>,
    pub initial_backoff: Duration,
    pub batch: BatchSettings,
    pub truncate: TruncateSettings,
}

impl Default for WebhookSettings {
    fn default() -> Self {
        Self {
            config_file: None,
            initial_backoff: Duration::from_secs(10),
            batch: BatchSettings { mode: Mode::Batch, buffer_size: 10_000, max_size: 400, max_wait: Duration::from_secs(30), throttle: Some((10.0, 15)) },
            truncate: TruncateSettings::default(),
        }
    }
}

impl WebhookSettings {
    pub fn is_on(&self) -> bool {
        self.config_file.is_some()
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub policy_file: Option<PathBuf>,
    pub log: LogSettings,
    pub webhook: WebhookSettings,
}

/// The flags that [`Settings::from_flags`] reads.
pub const FLAGS: &[&str] = &[
    "audit-policy-file",
    "audit-log-path",
    "audit-log-format",
    "audit-log-maxage",
    "audit-log-maxbackup",
    "audit-log-maxsize",
    "audit-log-compress",
    "audit-log-version",
    "audit-log-mode",
    "audit-log-batch-buffer-size",
    "audit-log-batch-max-size",
    "audit-log-batch-max-wait",
    "audit-log-batch-throttle-enable",
    "audit-log-batch-throttle-qps",
    "audit-log-batch-throttle-burst",
    "audit-log-truncate-enabled",
    "audit-log-truncate-max-batch-size",
    "audit-log-truncate-max-event-size",
    "audit-webhook-config-file",
    "audit-webhook-initial-backoff",
    "audit-webhook-version",
    "audit-webhook-mode",
    "audit-webhook-batch-buffer-size",
    "audit-webhook-batch-max-size",
    "audit-webhook-batch-max-wait",
    "audit-webhook-batch-throttle-enable",
    "audit-webhook-batch-throttle-qps",
    "audit-webhook-batch-throttle-burst",
    "audit-webhook-truncate-enabled",
    "audit-webhook-truncate-max-batch-size",
    "audit-webhook-truncate-max-event-size",
];

/// Values of flags by name.
struct Flags<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Flags<'_> {
    fn read<T>(&self, name: &str, into: &mut T, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<(), String> {
        if let Some(text) = (self.0)(name) {
            *into = parse(&text).map_err(|why| format!("invalid argument {} for \"--{name}\" flag: {why}", go_quote(&text)))?;
        }
        Ok(())
    }

    fn number<T: FromStr>(&self, name: &str, into: &mut T) -> Result<(), String>
    where
        T::Err: Display,
    {
        self.read(name, into, |text| text.parse().map_err(|e: T::Err| e.to_string()))
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    knarr_core::go::duration(text).ok_or_else(|| format!("time: invalid duration {}", go_quote(text)))
}

impl Settings {
    /// Reads kube-apiserver's flags; what is not given keeps its default.
    ///
    /// # Errors
    /// A value that the flag does not take.
    pub fn from_flags(get: &dyn Fn(&str) -> Option<String>) -> Result<Self, String> {
        let (flags, mut all) = (Flags(get), Self::default());
        let path = |text: &str| Ok(Some(PathBuf::from(text)).filter(|p| !p.as_os_str().is_empty()));
        flags.read("audit-policy-file", &mut all.policy_file, path)?;
        let log = &mut all.log;
        flags.number("audit-log-path", &mut log.path)?;
        flags.read("audit-log-format", &mut log.format, |text| match text {
            "json" => Ok(Format::Json),
            "legacy" => Ok(Format::Legacy),
            _ => Err(format!("invalid audit log format {text}, allowed formats are [\"legacy\" \"json\"]")),
        })?;
        flags.number("audit-log-maxage", &mut log.max_age_days)?;
        flags.number("audit-log-maxbackup", &mut log.max_backups)?;
        flags.number("audit-log-maxsize", &mut log.max_size_mb)?;
        flags.number("audit-log-compress", &mut log.compress)?;
        batch(&flags, "log", &mut log.batch)?;
        truncate(&flags, "log", &mut log.truncate)?;
        let webhook = &mut all.webhook;
        flags.read("audit-webhook-config-file", &mut webhook.config_file, path)?;
        flags.read("audit-webhook-initial-backoff", &mut webhook.initial_backoff, duration)?;
        batch(&flags, "webhook", &mut webhook.batch)?;
        truncate(&flags, "webhook", &mut webhook.truncate)?;
        for plugin in ["log", "webhook"] {
            let mut version = String::from("audit.k8s.io/v1");
            flags.read(&format!("audit-{plugin}-version"), &mut version, |text| Ok(text.to_owned()))?;
            if version != "audit.k8s.io/v1" {
                return Err("invalid group version, allowed versions are [\"audit.k8s.io/v1\"]".into());
            }
        }
        all.validate()?;
        Ok(all)
    }

    /// # Errors
    /// Values that do not fit together.
    pub fn validate(&self) -> Result<(), String> {
        let used =
            [("log", self.log.is_on(), &self.log.batch, self.log.truncate), ("webhook", self.webhook.is_on(), &self.webhook.batch, self.webhook.truncate)];
        for (plugin, _, batch, truncate) in used.into_iter().filter(|(_, on, ..)| *on) {
            let positive =
                |what: &str, n: f64| if n > 0.0 { Ok(()) } else { Err(format!("invalid audit batch {plugin} {what} {n}, must be a positive number")) };
            if batch.mode == Mode::Batch {
                positive("buffer size", batch.buffer_size as f64)?;
                positive("max batch size", batch.max_size as f64)?;
                if let Some((qps, burst)) = batch.throttle {
                    positive("throttle QPS", qps)?;
                    positive("throttle burst", f64::from(burst))?;
                }
            }
            if truncate.max_event_bytes == 0 {
                return Err(format!("invalid audit truncate {plugin} max event size 0, must be a positive number"));
            }
            if truncate.max_batch_bytes < truncate.max_event_bytes {
                let (batch, event) = (truncate.max_batch_bytes, truncate.max_event_bytes);
                return Err(format!("invalid audit truncate {plugin} max batch size {batch}, must be greater than max event size ({event})"));
            }
        }
        Ok(())
    }
}

fn batch(flags: &Flags<'_>, plugin: &str, into: &mut BatchSettings) -> Result<(), String> {
    let name = |rest: &str| format!("audit-{plugin}-{rest}");
    flags.read(&name("mode"), &mut into.mode, |text| match text {
        "batch" => Ok(Mode::Batch),
        "blocking" => Ok(Mode::Blocking),
        "blocking-strict" => Ok(Mode::BlockingStrict),
        _ => Err(format!("invalid audit {plugin} mode {text}, allowed modes are \"batch,blocking,blocking-strict\"")),
    })?;
    flags.number(&name("batch-buffer-size"), &mut into.buffer_size)?;
    flags.number(&name("batch-max-size"), &mut into.max_size)?;
    flags.read(&name("batch-max-wait"), &mut into.max_wait, duration)?;
    let mut enabled = into.throttle.is_some();
    let (mut qps, mut burst) = into.throttle.unwrap_or_default();
    flags.number(&name("batch-throttle-enable"), &mut enabled)?;
    flags.number(&name("batch-throttle-qps"), &mut qps)?;
    flags.number(&name("batch-throttle-burst"), &mut burst)?;
    into.throttle = enabled.then_some((qps, burst));
    Ok(())
}

fn truncate(flags: &Flags<'_>, plugin: &str, into: &mut TruncateSettings) -> Result<(), String> {
    let name = |rest: &str| format!("audit-{plugin}-truncate-{rest}");
    flags.number(&name("enabled"), &mut into.enabled)?;
    flags.number(&name("max-batch-size"), &mut into.max_batch_bytes)?;
    flags.number(&name("max-event-size"), &mut into.max_event_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: &[(&str, &str)]) -> Result<Settings, String> {
        let flags: Vec<(String, String)> = flags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Settings::from_flags(&move |name| flags.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()))
    }

    #[test]
    fn flags_are_read_and_held_against_each_other() {
        let given = [("audit-log-path", "-"), ("audit-log-maxsize", "5"), ("audit-log-mode", "blocking-strict"), ("audit-webhook-batch-max-wait", "1m30s")];
        let settings = read(&given).unwrap();
        assert_eq!((settings.log.path.as_str(), settings.log.max_size_mb, settings.log.batch.mode), ("-", 5, Mode::BlockingStrict));
        assert_eq!((settings.webhook.batch.max_wait, settings.webhook.batch.throttle), (Duration::from_secs(90), Some((10.0, 15))));
        assert_eq!(read(&[("audit-webhook-batch-throttle-enable", "false")]).unwrap().webhook.batch.throttle, None);
        let refused = |flags: &[(&str, &str)]| read(flags).unwrap_err();
        assert!(refused(&[("audit-log-maxage", "-1")]).starts_with("invalid argument \"-1\" for \"--audit-log-maxage\" flag"));
        assert!(refused(&[("audit-log-mode", "never")]).contains("allowed modes are"));
        assert!(refused(&[("audit-log-path", "-"), ("audit-log-truncate-max-batch-size", "7")]).contains("must be greater than max event size"));
        assert_eq!(refused(&[("audit-log-version", "audit.k8s.io/v1beta1")]), "invalid group version, allowed versions are [\"audit.k8s.io/v1\"]");
    }

    #[test]
    fn every_flag_is_read() {
        for name in FLAGS {
            let bad = if name.ends_with("file") || name.ends_with("path") { continue } else { "?" };
            assert!(read(&[(name, bad)]).is_err(), "{name}");
        }
    }
}
