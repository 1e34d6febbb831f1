//! Names of signals.

/// Real-time signals that are free for programs, as Linux' glibc and musl count them.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// `SIGTERM`, `term`, `15`, `SIGRTMIN+3`, `RTMAX-1`.
pub fn parse(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=*REAL_TIME.end()).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let plain = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |base: i32, text: &str| {
        let offset = if text.is_empty() { Some(0) } else { text.parse::<i32>().ok() };
        offset.map(|o| base + o).filter(|n| REAL_TIME.contains(n))
    };
    if let Some(rest) = plain.strip_prefix("RTMIN") {
        return real_time(*REAL_TIME.start(), rest);
    }
    if let Some(rest) = plain.strip_prefix("RTMAX") {
        return real_time(*REAL_TIME.end(), rest);
    }
    format!("SIG{plain}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_all_their_names() {
        let names = ["SIGTERM", "quit", "9", "SIGRTMIN+3", "RTMAX-14", "SIGWINCH", "SIGNOTHING", "0", "65", "RTMIN+99"];
        assert_eq!(names.map(parse), [Some(15), Some(3), Some(9), Some(37), Some(50), Some(28), None, None, None, None]);
    }
}
