//! Times and durations as the API writes them.

use std::time::Duration;

use jiff::Timestamp;

/// RFC 3339, whole seconds, UTC (`metav1.Time`).
pub fn format(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// RFC 3339 with six decimals, UTC (`metav1.MicroTime`).
pub fn format_micro(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// RFC 3339 with nine decimals, UTC: log lines.
pub fn format_nano(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string()
}

/// Reads RFC 3339 with any offset and any number of decimals.
pub fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// An age as kubectl prints it (`k8s.io/apimachinery/pkg/util/duration.HumanDuration`).
pub fn human_duration(age: Duration) -> String {
    let seconds = age.as_secs();
    let pair = |a: u64, ua: &str, b: u64, ub: &str| if b == 0 { format!("{a}{ua}") } else { format!("{a}{ua}{b}{ub}") };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 192 => pair(days, "d", hours % 24, "h"),
        () if hours < 24 * 365 * 2 => format!("{days}d"),
        () if hours < 24 * 365 * 8 => pair(days / 365, "y", days % 365, "d"),
        () => format!("{}y", days / 365),
    }
}

/// The age of something made at `since`, or `<unknown>` without one; a future time is `<invalid>`.
pub fn age(since: Option<&str>, now: Timestamp) -> String {
    match since.and_then(parse) {
        None => "<unknown>".into(),
        Some(at) => match Duration::try_from(now.duration_since(at)) {
            Ok(age) => human_duration(age),
            Err(_) if at.duration_since(now).as_secs() < 2 => "0s".into(),
            Err(_) => "<invalid>".into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        for (seconds, wanted) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (9 * 3600, "9h"),
            (172_800, "2d"),
            (172_800 + 3600, "2d1h"),
            (86_400 * 10, "10d"),
        ] {
            assert_eq!(human_duration(Duration::from_secs(seconds)), wanted, "{seconds}");
        }
    }

    #[test]
    fn times_are_written_in_utc() {
        let at = parse("2026-01-02T03:04:05.678901+01:00").unwrap();
        assert_eq!(format(at), "2026-01-02T02:04:05Z");
        assert_eq!(format_micro(at), "2026-01-02T02:04:05.678901Z");
    }
}
