//! One copy of what many pods have alike.
//!
//! Pods come out of templates: of ten thousand pods of one Deployment only names, uids and states differ. What they ask for is
//! kept once, found by a fingerprint and compared, so that a pool changes what things weigh and never what they mean.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// A value that others may have, too. Two of one copy are equal at a glance.
#[derive(Debug, Default)]
pub struct Shared<T>(Arc<T>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || *self.0 == *other.0
    }
}

impl<T> From<T> for Shared<T> {
    fn from(value: T) -> Self {
        Self(Arc::new(value))
    }
}

/// Tells most values that differ apart.
pub trait Fingerprint {
    fn fingerprint(&self, hasher: &mut impl Hasher);
}

impl Fingerprint for BTreeMap<String, String> {
    fn fingerprint(&self, hasher: &mut impl Hasher) {
        self.hash(hasher);
    }
}

struct Known<T> {
    by_fingerprint: BTreeMap<u64, Vec<Weak<T>>>,
    /// At so many entries those that nobody has any more are taken out.
    sweep_at: usize,
}

/// The values that somebody has.
pub struct Pool<T>(Mutex<Known<T>>);

/// Fewer entries than these are not worth a look.
const SWEEP_MIN: usize = 64;

impl<T: PartialEq + Fingerprint> Pool<T> {
    pub const fn new() -> Self {
        Self(Mutex::new(Known { by_fingerprint: BTreeMap::new(), sweep_at: SWEEP_MIN }))
    }

    /// The copy that is there, or else this value.
    pub fn share(&self, value: T) -> Shared<T> {
        let mut hasher = DefaultHasher::new();
        value.fingerprint(&mut hasher);
        let mut known = self.0.lock();
        if known.by_fingerprint.len() >= known.sweep_at {
            known.by_fingerprint.retain(|_, values| {
                values.retain(|v| v.strong_count() > 0);
                !values.is_empty()
            });
            known.sweep_at = SWEEP_MIN.max(2 * known.by_fingerprint.len());
        }
        let values = known.by_fingerprint.entry(hasher.finish()).or_default();
        if let Some(there) = values.iter().filter_map(Weak::upgrade).find(|v| **v == value) {
            return Shared(there);
        }
        values.retain(|v| v.strong_count() > 0);
        let new = Arc::new(value);
        values.push(Arc::downgrade(&new));
        Shared(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Text(String);

    impl Fingerprint for Text {
        /// All texts of one length look alike.
        fn fingerprint(&self, hasher: &mut impl Hasher) {
            self.0.len().hash(hasher);
        }
    }

    #[test]
    fn equal_values_are_one_and_others_are_not() {
        let pool = Pool::new();
        let share = |text: &str| pool.share(Text(text.into()));
        let (a, b, again) = (share("a"), share("b"), share("a"));
        assert!(Arc::ptr_eq(&a.0, &again.0));
        assert_ne!(a, b);
        assert_eq!(a, Shared::from(Text("a".into())));
    }

    #[test]
    fn what_nobody_has_is_forgotten() {
        let pool = Pool::new();
        let kept = pool.share(Text("x".repeat(7)));
        for length in 0..10 * SWEEP_MIN {
            pool.share(Text("y".repeat(length)));
        }
        assert!(pool.0.lock().by_fingerprint.len() <= SWEEP_MIN + 1);
        assert!(Arc::ptr_eq(&kept.0, &pool.share(Text("x".repeat(7))).0));
    }
}
