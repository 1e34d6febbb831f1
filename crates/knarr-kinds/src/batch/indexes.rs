//! Lists of indexes in words: `0-3,5` (upstream: `validateIndexesFormat`).

use knarr_core::field::go_quote;

/// How many indexes a list names, all below `completions`.
///
/// # Errors
/// What is wrong with the list.
pub fn count(list: &str, completions: i64) -> Result<i64, String> {
    let (mut last, mut total) = (None, 0);
    for part in list.split(',').filter(|_| !list.is_empty()) {
        let (low, high) = interval(part, completions)?;
        if let Some(last) = last.filter(|last| *last >= low) {
            return Err(format!("non-increasing order, previous: {last}, current: {low}"));
        }
        total += high - low + 1;
        last = Some(high);
    }
    Ok(total)
}

fn interval(text: &str, completions: i64) -> Result<(i64, i64), String> {
    let parts: Vec<&str> = text.split('-').collect();
    if parts.len() > 2 {
        return Err(format!("the fragment {} violates the requirement that an index interval can have at most two parts separated by '-'", go_quote(text)));
    }
    let index = |text: &str| {
        let index = text.parse::<i64>().map_err(|_| format!("cannot convert string to integer for index: {}", go_quote(text)))?;
        if index >= completions { Err(format!("too large index: {}", go_quote(text))) } else { Ok(index) }
    };
    let low = index(parts[0])?;
    let Some(high) = parts.get(1) else { return Ok((low, low)) };
    let high = index(high)?;
    if low >= high { Err(format!("non-increasing order, previous: {low}, current: {high}")) } else { Ok((low, high)) }
}

/// The first index that two lists share. Parts that cannot be read count as absent.
pub fn overlap(a: &str, b: &str, completions: i64) -> Option<i64> {
    let read = |list: &str| -> Vec<(i64, i64)> { list.split(',').filter_map(|part| interval(part, completions).ok()).collect() };
    let (a, b) = (read(a), read(b));
    let (mut i, mut j) = (0, 0);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        if x.0 <= y.1 && y.0 <= x.1 {
            return Some(x.0.max(y.0));
        }
        if x.0 <= y.0 {
            i += 1;
        } else {
            j += 1;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_ordered_and_below_completions() {
        assert_eq!((count("", 3), count("0-2,4", 5)), (Ok(0), Ok(4)));
        assert_eq!(count("3", 3), Err("too large index: \"3\"".into()));
        assert_eq!(count("2,1", 3), Err("non-increasing order, previous: 2, current: 1".into()));
        assert_eq!(count("x", 3), Err("cannot convert string to integer for index: \"x\"".into()));
    }

    #[test]
    fn an_index_cannot_both_fail_and_succeed() {
        assert_eq!((overlap("0-2,7", "5-9", 10), overlap("0-2", "3", 10)), (Some(7), None));
    }
}
