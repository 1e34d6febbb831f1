//! Leases for objects that expire. Granting one costs etcd a write of its own, so many objects share one that lives a little
//! longer than each was promised (upstream: `etcd3.leaseManager`).

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::message::{LeaseGrantRequest, LeaseGrantResponse};
use crate::grpc::{Channel, Failure};

/// A lease takes new objects for this share of a time to live, and no longer than this.
const REUSE_SHARE: f64 = 0.05;
const REUSE_MAX: Duration = Duration::from_secs(60);
/// How many objects hang on one lease: they are deleted in one go.
const OBJECTS_MAX: usize = 1000;

/// The lease that was granted last.
#[derive(Default)]
pub struct Leases(Mutex<Option<Lease>>);

struct Lease {
    id: i64,
    until: Instant,
    objects: usize,
}

impl Lease {
    /// Whether an object that is to live from now on for `ttl` fits: it ends neither too early nor much too late.
    fn fits(&self, now: Instant, ttl: Duration, reuse: Duration) -> bool {
        self.objects < OBJECTS_MAX && now + ttl <= self.until && self.until <= now + ttl + reuse
    }
}

impl Leases {
    /// A lease that lasts at least this long.
    ///
    /// # Errors
    /// etcd grants none.
    pub async fn for_ttl(&self, channel: &Channel, ttl: Duration) -> Result<i64, Failure> {
        let mut last = self.0.lock().await;
        let (now, reuse) = (Instant::now(), ttl.mul_f64(REUSE_SHARE).min(REUSE_MAX));
        if let Some(lease) = last.as_mut().filter(|l| l.fits(now, ttl, reuse)) {
            lease.objects += 1;
            return Ok(lease.id);
        }
        let granted = Duration::from_secs((ttl + reuse).as_secs().max(1));
        let ask = LeaseGrantRequest { ttl: i64::try_from(granted.as_secs()).unwrap_or(i64::MAX) };
        let answer: LeaseGrantResponse = channel.call("Lease/LeaseGrant", &ask).await?;
        if !answer.error.is_empty() {
            return Err(Failure::Lost(answer.error));
        }
        *last = Some(Lease { id: answer.id, until: now + granted, objects: 1 });
        Ok(answer.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_shared_by_what_ends_at_about_the_same_time() {
        let (now, hour, minute) = (Instant::now(), Duration::from_secs(3600), Duration::from_secs(60));
        let lease = Lease { id: 1, until: now + hour + minute, objects: 1 };
        assert!(lease.fits(now, hour, minute) && lease.fits(now + minute, hour, minute));
        assert!(!lease.fits(now + minute + minute, hour, minute), "it would end too early");
        assert!(!lease.fits(now, minute, Duration::from_secs(3)), "it would live far too long");
        assert!(!Lease { objects: OBJECTS_MAX, ..lease }.fits(now, hour, minute));
    }
}
