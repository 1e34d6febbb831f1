//! Resource quantities: exact decimals with a suffix, written canonically
//! (`k8s.io/apimachinery/pkg/api/resource.Quantity`).
//!
//! A quantity is kept as nano-units in an `i128`: up to 10^29 units, where upstream holds any number. Like upstream, anything finer than a nano
//! is rounded up, away from zero, and one in binary suffixes ends at 2^63-1.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

const NANO: i128 = 1_000_000_000;

/// In which family of suffixes a quantity is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `m`, none, `k`, `M`, `G` …
    DecimalSi,
    /// `Ki`, `Mi`, `Gi` …
    BinarySi,
    /// `e3`, `e6` …
    DecimalExponent,
}

/// An amount of a resource.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    pub format: Format,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct ParseError;

impl Quantity {
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };

    pub fn from_i64(units: i64) -> Self {
        Self { nanos: i128::from(units) * NANO, format: Format::DecimalSi }
    }

    pub fn from_millis(millis: i64) -> Self {
        Self { nanos: i128::from(millis) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// An amount of memory or storage, written with binary suffixes.
    pub fn from_bytes(bytes: i64) -> Self {
        Self { nanos: i128::from(bytes) * NANO, format: Format::BinarySi }
    }

    /// Whole units, rounded up (upstream: `Value`).
    pub fn value(&self) -> i64 {
        clamp(div_up(self.nanos, NANO))
    }

    /// Thousandths, rounded up (upstream: `MilliValue`).
    pub fn millis(&self) -> i64 {
        clamp(div_up(self.nanos, NANO / 1000))
    }

    /// Whole units, if it is so many exactly (upstream: `AsInt64`).
    pub fn as_whole(&self) -> Option<i64> {
        if self.nanos % NANO == 0 { i64::try_from(self.nanos / NANO).ok() } else { None }
    }

    /// Whether nothing of it is a part of a unit.
    pub fn is_whole(&self) -> bool {
        self.nanos % NANO == 0
    }

    /// About so many units (upstream: `AsApproximateFloat64`).
    pub fn as_f64(&self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// Reads a quantity out of JSON, where it may stand as a string or as a number.
    pub fn from_json(value: &crate::Value) -> Option<Self> {
        match value {
            crate::Value::String(s) => s.parse().ok(),
            crate::Value::Number(n) => n.to_string().parse().ok(),
            _ => None,
        }
    }
}

fn clamp(n: i128) -> i64 {
    n.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

/// Division that rounds away from zero.
fn div_up(n: i128, by: i128) -> i128 {
    let (q, r) = (n / by, n % by);
    q + r.signum()
}

/// Suffixes: text, power of ten, power of two, format.
const SUFFIXES: [(&str, i32, u32, Format); 16] = [
    ("Ki", 0, 10, Format::BinarySi),
    ("Mi", 0, 20, Format::BinarySi),
    ("Gi", 0, 30, Format::BinarySi),
    ("Ti", 0, 40, Format::BinarySi),
    ("Pi", 0, 50, Format::BinarySi),
    ("Ei", 0, 60, Format::BinarySi),
    ("n", -9, 0, Format::DecimalSi),
    ("u", -6, 0, Format::DecimalSi),
    ("m", -3, 0, Format::DecimalSi),
    ("", 0, 0, Format::DecimalSi),
    ("k", 3, 0, Format::DecimalSi),
    ("M", 6, 0, Format::DecimalSi),
    ("G", 9, 0, Format::DecimalSi),
    ("T", 12, 0, Format::DecimalSi),
    ("P", 15, 0, Format::DecimalSi),
    ("E", 18, 0, Format::DecimalSi),
];

fn suffix(text: &str) -> Option<(i32, u32, Format)> {
    if let Some(&(_, ten, two, format)) = SUFFIXES.iter().find(|s| s.0 == text) {
        return Some((ten, two, format));
    }
    let power: i64 = text.strip_prefix(['e', 'E'])?.parse().ok()?;
    // Upstream cuts off what is more than 32 bits.
    Some((power as i32, 0, Format::DecimalExponent))
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, tail) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(ParseError);
        }
        let (ten, two, format) = suffix(tail).ok_or(ParseError)?;
        let magnitude = scale(whole, fraction, ten, two).min(if format == Format::BinarySi { BINARY_MAX } else { MAX });
        Ok(Self { nanos: if text.starts_with('-') { -magnitude } else { magnitude }, format })
    }
}

/// In nano-units: what is written in binary suffixes is no more than this (upstream: `maxAllowed`).
const BINARY_MAX: i128 = i64::MAX as i128 * NANO;
/// And anything no more than this.
const MAX: i128 = 10_i128.pow(38);

/// `whole.fraction * 10^ten * 2^two` in nano-units, rounded up, and [`MAX`] at most.
fn scale(whole: &str, fraction: &str, ten: i32, two: u32) -> i128 {
    let digits = format!("{}{}", whole.trim_start_matches('0'), fraction);
    let mut exponent = ten.saturating_add(9).saturating_sub(i32::try_from(fraction.len()).unwrap_or(i32::MAX));
    let digits = digits.trim_start_matches('0');
    let mut kept = digits;
    let mut lost = false;
    while kept.len() > 30 {
        lost |= !kept.ends_with('0');
        kept = &kept[..kept.len() - 1];
        exponent = exponent.saturating_add(1);
    }
    let Ok(mut n) = format!("0{kept}").parse::<i128>() else { return MAX };
    if n == 0 {
        return 0;
    }
    for _ in 0..two {
        n = match n.checked_mul(2) {
            Some(doubled) => doubled,
            None => return MAX,
        };
    }
    while exponent > 0 {
        n = match n.checked_mul(10) {
            Some(grown) if grown <= MAX => grown,
            _ => return MAX,
        };
        exponent -= 1;
    }
    while exponent < 0 && n > 0 {
        lost |= n % 10 != 0;
        n /= 10;
        exponent += 1;
    }
    if lost { n + 1 } else { n }
}

/// The canonical form: no fraction, the greatest suffix that loses nothing, at least one digit before it.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.nanos;
        if n == 0 {
            return f.write_str("0");
        }
        if self.format == Format::BinarySi && n % NANO == 0 && (n / NANO).abs() >= 1024 {
            let mut units = n / NANO;
            let mut power = 0;
            while units % 1024 == 0 && power < 6 {
                units /= 1024;
                power += 1;
            }
            return write!(f, "{units}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]);
        }
        let (mut units, mut power) = (n, -9i32);
        while units % 1000 == 0 && (power < 18 || self.format == Format::DecimalExponent) {
            units /= 1000;
            power += 3;
        }
        if self.format == Format::DecimalExponent {
            return if power == 0 { write!(f, "{units}") } else { write!(f, "{units}e{power}") };
        }
        let index = usize::try_from((power + 9) / 3).unwrap_or(0);
        write!(f, "{units}{}", ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][index])
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Add for Quantity {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_add(other.nanos), format }
    }
}

impl Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl Neg for Quantity {
    type Output = Self;
    fn neg(self) -> Self {
        Self { nanos: self.nanos.saturating_neg(), format: self.format }
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_written_canonically() {
        for (given, wanted) in [
            ("0", "0"),
            ("1", "1"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("1.5", "1500m"),
            ("0.1", "100m"),
            ("1024Mi", "1Gi"),
            ("1Gi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("1500Mi", "1500Mi"),
            ("1000k", "1M"),
            ("123456789", "123456789"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e6", "12e6"),
            ("0.5Mi", "512Ki"),
            ("500Mi", "500Mi"),
            ("-1", "-1"),
            ("+1", "1"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("1u", "1u"),
            ("1000", "1k"),
            ("128974848", "128974848"),
            ("129e6", "129e6"),
            ("512", "512"),
            ("0Ki", "0"),
            ("100Ki", "100Ki"),
            ("1.0", "1"),
            (".5", "500m"),
            ("5.", "5"),
            ("100E", "100E"),
            ("10Ei", "9223372036854775807"),
            ("12345678901234567890123", "12345678901234567890123"),
            ("12345678901234567890123Mi", "9223372036854775807"),
            ("1e+5", "100e3"),
            ("1e-100", "1e-9"),
            ("5e4294967296", "5"),
            ("1e27", "1e27"),
        ] {
            assert_eq!(given.parse::<Quantity>().unwrap().to_string(), wanted, "{given}");
        }
        let sum = |text: &str| text.parse::<Quantity>().map(|q| (q + q + q).value());
        assert_eq!(sum("1E2147483647"), Ok(i64::MAX));
        assert_eq!(sum("-1E2147483647"), Ok(i64::MIN));
        assert_eq!(sum("1e-2147483648"), Ok(1));
        assert_eq!(sum(&"9".repeat(60)), Ok(i64::MAX));
        for bad in ["", "a", "1.2.3", "1 Mi", "1mi", "--1", "1e", "Mi", ".", "1e+-5", "1e9223372036854775808"] {
            assert!(bad.parse::<Quantity>().is_err(), "{bad}");
        }
    }

    #[test]
    fn values_are_rounded_up() {
        let q: Quantity = "1500m".parse().unwrap();
        assert_eq!((q.value(), q.millis()), (2, 1500));
        assert_eq!((Quantity::from_i64(2) - q).to_string(), "500m");
        assert!("1Gi".parse::<Quantity>().unwrap() > "1G".parse().unwrap());
        for (text, is_whole) in [("2", true), ("1500m", false), ("1n", false), ("9223372036854775807", true), ("100Ei", true), ("1e19", true), ("1e99", true)] {
            assert_eq!(text.parse::<Quantity>().unwrap().is_whole(), is_whole, "{text}");
        }
    }
}
