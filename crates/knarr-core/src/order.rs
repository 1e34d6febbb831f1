//! Sorting by an order that is none: kubectl compares some keys of YAML and some values of `--sort-by` in circles (`77` before `7u`, that before
//! `8`, that before `77`). Upstream writes these in any order; the standard library's sorts panic.

/// Sorts, stably where the order is one, whatever `is_less` says.
pub fn sorted<T>(mut items: Vec<T>, is_less: &impl Fn(&T, &T) -> bool) -> Vec<T> {
    if items.len() < 2 {
        return items;
    }
    let mut out = Vec::with_capacity(items.len());
    let right = items.split_off(items.len() / 2);
    let (mut left, mut right) = (sorted(items, is_less).into_iter().peekable(), sorted(right, is_less).into_iter().peekable());
    while let (Some(l), Some(r)) = (left.peek(), right.peek()) {
        let next = if is_less(r, l) { right.next() } else { left.next() };
        out.extend(next);
    }
    out.extend(left.chain(right));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_kept_and_equals_stay_as_they_were() {
        let items: Vec<(u32, u32)> = (0..1000).map(|i| (i * 7919 % 13, i)).collect();
        let mut wanted = items.clone();
        wanted.sort_by_key(|(key, _)| *key);
        assert_eq!(sorted(items, &|a, b| a.0 < b.0), wanted);
    }

    #[test]
    fn what_goes_in_circles_is_all_there() {
        let mut all = sorted((0..100).collect(), &|a, b| (a + 1) % 3 == b % 3);
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<i32>>());
    }
}
