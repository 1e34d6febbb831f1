//! Least and most of a size or a cost. Sums and products stop at the largest number instead of wrapping around.

/// Least and most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub min: u64,
    pub max: u64,
}

impl Range {
    pub const ZERO: Self = Self::exactly(0);
    pub const ONE: Self = Self::exactly(1);
    /// Anything at all.
    pub const UNKNOWN: Self = Self { min: 0, max: u64::MAX };
    /// What a union begins with.
    pub const EMPTY: Self = Self { min: u64::MAX, max: 0 };

    pub const fn exactly(n: u64) -> Self {
        Self { min: n, max: n }
    }

    pub const fn up_to(max: u64) -> Self {
        Self { min: 0, max }
    }

    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    #[must_use]
    pub fn times(self, other: Self) -> Self {
        Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    /// Times a factor, rounded up.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self { min: scaled(self.min, factor), max: scaled(self.max, factor) }
    }

    /// The smallest range that has both in it.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

fn scaled(n: u64, factor: f64) -> u64 {
    // The cast stops at the largest number by itself.
    (n as f64 * factor).ceil() as u64
}
