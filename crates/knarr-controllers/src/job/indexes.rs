//! [`Indexes`]: which completions of an indexed Job are over, kept as ranges so that a Job of a hundred thousand completions
//! stays small. In a status it reads `0-3,5,7,8`. Upstream: `orderedIntervals` in `indexed_job_utils.go`.

use std::fmt;

/// A set of indexes, as ascending ranges (both ends belong to them) that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Reads what a status or a rule says. Indexes that are too high and ranges that cannot be read are left out.
    pub fn parse(text: &str, completions: i32) -> Self {
        let range = |part: &str| -> Option<(i32, i32)> {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some((first.parse().ok()?, last.parse::<i32>().ok()?.min(completions - 1)))
        };
        text.split(',').filter_map(range).filter(|(first, last)| *first < completions && first <= last).collect()
    }

    /// This and `more`.
    pub fn with(&self, more: impl IntoIterator<Item = i32>) -> Self {
        self.0.iter().copied().chain(more.into_iter().map(|i| (i, i))).collect()
    }

    pub fn union(&self, other: &Self) -> Self {
        self.0.iter().chain(&other.0).copied().collect()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn total(&self) -> i32 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub fn has(&self, index: i32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// How many indexes are in both.
    pub fn common(&self, other: &Self) -> i32 {
        let (mut mine, mut theirs) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut count = 0;
        while let (Some(a), Some(b)) = (mine.peek(), theirs.peek()) {
            count += (a.1.min(b.1) - a.0.max(b.0) + 1).max(0);
            if a.1 < b.1 {
                mine.next()
            } else {
                theirs.next()
            };
        }
        count
    }

    /// The first `count` indexes below `completions` that are not in the set.
    pub fn missing(&self, count: usize, completions: i32) -> Vec<i32> {
        let ends = self.0.iter().map(|(_, last)| last + 1);
        let starts = std::iter::once(0).chain(ends);
        let gaps = starts.zip(self.0.iter().map(|(first, _)| *first).chain([completions]));
        gaps.flat_map(|(from, to)| from..to.min(completions)).take(count).collect()
    }
}

impl FromIterator<(i32, i32)> for Indexes {
    fn from_iter<T: IntoIterator<Item = (i32, i32)>>(ranges: T) -> Self {
        let mut ranges: Vec<(i32, i32)> = ranges.into_iter().collect();
        ranges.sort_unstable();
        let mut merged: Vec<(i32, i32)> = Vec::new();
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if first <= before.1 + 1 => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (first, last)) in self.0.iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            match last - first {
                0 => write!(out, "{comma}{first}")?,
                1 => write!(out, "{comma}{first},{last}")?,
                _ => write!(out, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_reads_back_as_it_was_written() {
        for text in ["", "0", "0,1", "0-2", "0-2,4,6-9", "3,5,6"] {
            assert_eq!(Indexes::parse(text, 100).to_string(), text);
        }
        assert_eq!(Indexes::parse("0-2,4-8,20", 6).to_string(), "0-2,4,5");
        assert_eq!(Indexes::parse("0,x,2-", 6).to_string(), "0");
    }

    #[test]
    fn sets_are_united_counted_and_asked() {
        let set = Indexes::parse("1-3,7", 100).with([5, 4, 9]);
        assert_eq!((set.to_string().as_str(), set.total()), ("1-5,7,9", 7));
        assert!(set.has(5) && set.has(9) && !set.has(0) && !set.has(6) && !set.has(10));
        assert_eq!(set.union(&Indexes::parse("0,6-8", 100)).to_string(), "0-9");
        assert_eq!(set.common(&Indexes::parse("0-2,5-7", 100)), 4);
        assert_eq!(set.missing(4, 12), [0, 6, 8, 10]);
        assert_eq!(set.missing(9, 8), [0, 6]);
        assert_eq!(Indexes::default().missing(2, 8), [0, 1]);
    }
}
