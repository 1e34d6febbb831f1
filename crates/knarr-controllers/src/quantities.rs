//! Numbers as specs give them: counts that may be percentages (`k8s.io/apimachinery/pkg/util/intstr`).

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// A count, or a percentage of `total`, rounded up or down. None for a text that is no percentage.
pub fn scaled(value: Option<&IntOrString>, total: i32, round_up: bool) -> Option<i32> {
    match value {
        None => Some(0),
        Some(IntOrString::Int(n)) => Some(*n),
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.strip_suffix('%')?.parse().ok()?;
            let product = percent * i64::from(total);
            let value = if round_up { product.div_euclid(100) + i64::from(product.rem_euclid(100) > 0) } else { product.div_euclid(100) };
            i32::try_from(value).ok()
        }
    }
}

/// As JSON's `omitempty` has it: zero is absent.
pub fn nonzero(n: i32) -> Option<i32> {
    (n != 0).then_some(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_asked() {
        let percent = |p: &str, up| scaled(Some(&IntOrString::String(p.into())), 10, up);
        assert_eq!((percent("25%", true), percent("25%", false), percent("x", true)), (Some(3), Some(2), None));
        assert_eq!(scaled(Some(&IntOrString::Int(7)), 10, true), Some(7));
    }
}
