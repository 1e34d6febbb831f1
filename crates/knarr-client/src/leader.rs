//! Leader election over Leases: of several processes one works, the others wait
//! (upstream: `k8s.io/client-go/tools/leaderelection`).

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use knarr_core::clock::Env;
use knarr_core::{Result, Status};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::{Api, Client};

/// Whose lease, and how fast.
#[derive(Clone, Debug)]
pub struct Settings {
    pub namespace: String,
    pub name: String,
    /// Who we are: host name and something unique.
    pub identity: String,
    /// Others may take over when the lease was not renewed for this long.
    pub lease_duration: Duration,
    /// The leader gives up when it could not renew for this long.
    pub renew_deadline: Duration,
    pub retry_period: Duration,
}

impl Settings {
    /// Upstream's times: 15 s, 10 s, 2 s.
    pub fn new(namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// Takes part in an election.
pub struct Election {
    settings: Settings,
    leases: Api<Lease>,
    env: Env,
    /// The lease as it was last seen, and when it was seen to change: only our own clock counts.
    seen: Option<(Option<LeaseSpec>, Instant)>,
}

impl Election {
    pub fn new(client: &Client, settings: Settings, env: Env) -> Self {
        Self { leases: client.within(&settings.namespace), settings, env, seen: None }
    }

    /// Waits until we lead; then gives a token that is cancelled when we no longer do. The lease is given back when `stop`
    /// is cancelled.
    pub async fn lead(mut self, stop: CancellationToken) -> Option<CancellationToken> {
        loop {
            match self.try_once().await {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, lease = self.settings.name, "could not take the lease"),
            }
            tokio::select! {
                () = tokio::time::sleep(self.pause()) => {}
                () = stop.cancelled() => return None,
            }
        }
        let lost = CancellationToken::new();
        tokio::spawn(self.renew(lost.clone(), stop));
        Some(lost)
    }

    /// Upstream's jitter: up to 1.2 times more, so that candidates do not meet.
    fn pause(&self) -> Duration {
        let spread = u64::try_from(self.settings.retry_period.as_millis()).unwrap_or(u64::MAX).saturating_mul(12) / 10;
        self.settings.retry_period + Duration::from_millis(self.env.below(spread.max(1)))
    }

    async fn renew(mut self, lost: CancellationToken, stop: CancellationToken) {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.settings.retry_period) => {}
                () = stop.cancelled() => {
                    lost.cancel();
                    self.release().await;
                    return;
                }
            }
            match tokio::time::timeout(self.settings.renew_deadline, self.try_once()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => break,
                Ok(Err(error)) => tracing::warn!(%error, lease = self.settings.name, "could not renew the lease"),
                Err(_) => {}
            }
            if renewed.elapsed() >= self.settings.renew_deadline {
                break;
            }
        }
        lost.cancel();
    }

    /// Takes or renews the lease; tells whether it is ours.
    async fn try_once(&mut self) -> Result<bool> {
        let now = MicroTime(self.env.now());
        let Some(mut lease) = self.leases.find(&self.settings.name).await? else {
            return match self.leases.create(&self.fresh(now)).await {
                Ok(lease) => Ok(self.observe(lease.spec)),
                Err(e) if e.is_already_exists() => Ok(false),
                Err(e) => Err(e),
            };
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let ours = spec.holder_identity.as_deref() == Some(&self.settings.identity);
        let held = spec.holder_identity.as_deref().is_some_and(|h| !h.is_empty());
        self.observe(lease.spec.clone());
        if held && !ours && !self.has_expired(&spec) {
            return Ok(false);
        }
        let transitions = spec.lease_transitions.unwrap_or_default();
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.settings.identity.clone()),
            lease_duration_seconds: Some(seconds(self.settings.lease_duration)),
            acquire_time: if ours { spec.acquire_time.clone() } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(if ours { transitions } else { transitions + 1 }),
            ..spec
        });
        match self.leases.update(&lease).await {
            Ok(lease) => Ok(self.observe(lease.spec)),
            Err(e) if e.is_conflict() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Remembers when the lease changed; tells whether it is ours.
    fn observe(&mut self, spec: Option<LeaseSpec>) -> bool {
        let ours = spec.as_ref().and_then(|s| s.holder_identity.as_deref()) == Some(&self.settings.identity);
        if self.seen.as_ref().is_none_or(|(known, _)| *known != spec) {
            self.seen = Some((spec, Instant::now()));
        }
        ours
    }

    fn has_expired(&self, spec: &LeaseSpec) -> bool {
        let duration = spec.lease_duration_seconds.map_or(self.settings.lease_duration, |s| Duration::from_secs(s.unsigned_abs().into()));
        self.seen.as_ref().is_some_and(|(_, at)| at.elapsed() > duration)
    }

    fn fresh(&self, now: MicroTime) -> Lease {
        Lease {
            metadata: ObjectMeta { name: Some(self.settings.name.clone()), namespace: Some(self.settings.namespace.clone()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.settings.identity.clone()),
                lease_duration_seconds: Some(seconds(self.settings.lease_duration)),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            }),
        }
    }

    /// Lets others take over at once.
    async fn release(&mut self) {
        if let Err(error) = self.give_back().await {
            tracing::warn!(%error, lease = self.settings.name, "could not give the lease back");
        }
    }

    async fn give_back(&self) -> Result<(), Status> {
        let mut lease = self.leases.get(&self.settings.name).await?;
        let Some(spec) = lease.spec.as_mut().filter(|s| s.holder_identity.as_deref() == Some(&self.settings.identity)) else { return Ok(()) };
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        self.leases.update(&lease).await.map(drop)
    }
}

fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeApi;

    #[tokio::test(start_paused = true)]
    async fn one_leads_and_the_next_follows_when_it_stops() {
        let env = Env::simulated(1, jiff::Timestamp::UNIX_EPOCH);
        let api = FakeApi::new(env.clone());
        let election = |who: &str| Election::new(&api.client(), Settings::new("kube-system", "boss", who), env.clone());
        let (stop_a, stop_b) = (CancellationToken::new(), CancellationToken::new());
        let a = election("a").lead(stop_a.clone()).await.unwrap();
        let b = tokio::spawn(election("b").lead(stop_b));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!a.is_cancelled() && !b.is_finished());
        stop_a.cancel();
        b.await.unwrap().unwrap();
        assert!(a.is_cancelled());
        let spec = api.read::<Lease>("kube-system", "boss").unwrap().spec.unwrap();
        assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("b"), Some(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_cannot_renew_gives_up_before_another_takes_over() {
        let env = Env::simulated(1, jiff::Timestamp::UNIX_EPOCH);
        let api = FakeApi::new(env.clone());
        let election = Election::new(&api.client(), Settings::new("kube-system", "boss", "a"), env);
        let lost = election.lead(CancellationToken::new()).await.unwrap();
        api.fail(|_| Some(Status::service_unavailable("down")));
        let start = Instant::now();
        lost.cancelled().await;
        assert!(start.elapsed() < Duration::from_secs(15));
    }
}
