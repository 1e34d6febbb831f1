//! How many pods there may be at most, how many must be available, and how replicas are spread over sets.
//! Upstream: `ResolveFenceposts`, `GetReplicaSetProportion` and others in `deployment/util`.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::history::{DESIRED_REPLICAS, MAX_REPLICAS};
use super::sets;
use crate::quantities::scaled;

/// `spec.replicas`.
pub fn wanted(d: &Deployment) -> i32 {
    d.spec.replicas.unwrap_or(1)
}

pub fn is_rolling(d: &Deployment) -> bool {
    strategy(d) == "RollingUpdate"
}

pub fn strategy(d: &Deployment) -> &str {
    d.spec.strategy.as_ref().and_then(|s| s.type_.as_deref()).unwrap_or("RollingUpdate")
}

/// `(surge, unavailable)`: absolute numbers, never both zero, so that a rollout can always move.
fn fences(d: &Deployment) -> (i32, i32) {
    let rolling = d.spec.strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
    let surge = scaled(rolling.and_then(|r| r.max_surge.as_ref()), wanted(d), true).unwrap_or(0);
    let unavailable = scaled(rolling.and_then(|r| r.max_unavailable.as_ref()), wanted(d), false).unwrap_or(0);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// Pods that a rolling deployment may have beyond the wanted number.
pub fn max_surge(d: &Deployment) -> i32 {
    if is_rolling(d) { fences(d).0 } else { 0 }
}

/// Pods of the wanted number that may be missing while rolling.
pub fn max_unavailable(d: &Deployment) -> i32 {
    if is_rolling(d) && wanted(d) > 0 { fences(d).1.min(wanted(d)) } else { 0 }
}

/// The size that the new set should have now (upstream: `NewRSNewReplicas`).
pub fn new_set_size(d: &Deployment, total: i32, new_set: i32) -> i32 {
    if !is_rolling(d) {
        return wanted(d);
    }
    let room = wanted(d) + max_surge(d) - total;
    if room <= 0 { new_set } else { new_set + room.min(wanted(d) - new_set) }
}

/// Whether the new set has everything: size, note of the wanted size, availability (upstream: `IsSaturated`).
pub fn is_saturated(d: &Deployment, new_set: Option<&ReplicaSet>) -> bool {
    new_set.is_some_and(|set| {
        let noted = sets::annotation(set, DESIRED_REPLICAS).and_then(|t| t.parse().ok());
        sets::replicas(set) == wanted(d) && noted == Some(wanted(d)) && sets::available(set) == wanted(d)
    })
}

/// How many of the replicas to add (negative: to remove) this set gets, when `added` are given out already.
pub fn proportion(set: &ReplicaSet, d: &Deployment, to_add: i32, added: i32) -> i32 {
    if sets::replicas(set) == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let (fraction, allowed) = (fraction(set, d), to_add - added);
    if to_add > 0 { fraction.min(allowed) } else { fraction.max(allowed) }
}

fn fraction(set: &ReplicaSet, d: &Deployment) -> i32 {
    let size = sets::replicas(set);
    if wanted(d) == 0 {
        return -size;
    }
    let most = wanted(d) + max_surge(d);
    let noted = sets::annotation(set, MAX_REPLICAS).and_then(|t| t.parse::<i32>().ok()).filter(|n| *n > 0);
    let most_before = noted.unwrap_or_else(|| d.status.as_ref().and_then(|s| s.replicas).unwrap_or(0));
    if most_before == 0 {
        return 0;
    }
    // Rounded half away from zero, as upstream does.
    let scaled = (f64::from(size) * f64::from(most) / f64::from(most_before)).round();
    scaled as i32 - size
}

#[cfg(test)]
mod tests {
    use knarr_core::json;

    use super::*;

    fn deployment(replicas: i32, surge: knarr_core::Value, unavailable: knarr_core::Value) -> Deployment {
        serde_json::from_value(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {},
            "spec": {"replicas": replicas, "selector": {}, "template": {},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}}))
        .unwrap()
    }

    #[test]
    fn fences_round_surge_up_and_unavailable_down_and_are_never_both_zero() {
        let of = |d: &Deployment| (max_surge(d), max_unavailable(d));
        assert_eq!(of(&deployment(10, json!("25%"), json!("25%"))), (3, 2));
        assert_eq!(of(&deployment(2, json!("0%"), json!("1%"))), (0, 1));
        assert_eq!(of(&deployment(2, json!(1), json!(5))), (1, 2));
        assert_eq!(of(&deployment(0, json!(1), json!(1))), (1, 0));
    }

    #[test]
    fn the_new_set_grows_into_the_room_that_surge_leaves() {
        let d = deployment(10, json!(3), json!(0));
        assert_eq!(new_set_size(&d, 10, 0), 3);
        assert_eq!(new_set_size(&d, 13, 5), 5);
        assert_eq!(new_set_size(&d, 0, 0), 10);
    }

    #[test]
    fn a_scaled_set_keeps_its_share() {
        let mut d = deployment(20, json!(0), json!(1));
        d.status.get_or_insert_default().replicas = Some(10);
        let set: ReplicaSet = serde_json::from_value(json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"annotations": {MAX_REPLICAS: "10"}}, "spec": {"replicas": 4, "selector": {}}}))
        .unwrap();
        assert_eq!(proportion(&set, &d, 10, 0), 4);
        assert_eq!(proportion(&set, &d, 10, 8), 2);
    }
}
