//! Which of the nodes that fit is best? Each score gives every node 0 to 100; the weighted sum decides.

use std::collections::HashMap;

use crate::cluster::Cluster;
use crate::filter::spread;
use crate::filter::tolerates;
use crate::node::NodeState;
use crate::pod::{AffinityTerm, PodInfo, Spread};

const MAX: i64 = 100;
/// Images smaller than this are no reason to go anywhere; larger than that count no more.
const IMAGE_MIN: i64 = 23 << 20;
const IMAGE_MAX: i64 = 1000 << 20;

const ZONE: &str = "topology.kubernetes.io/zone";

/// Weights of upstream's default profile.
const TAINTS: i64 = 3;
const NODE_AFFINITY: i64 = 2;
const SPREAD: i64 = 2;
const POD_AFFINITY: i64 = 2;
const FIT: i64 = 1;
const BALANCE: i64 = 1;
const IMAGES: i64 = 1;

/// The sum for each of the nodes, in their order.
pub fn sums(pod: &PodInfo, nodes: &[&NodeState], cluster: &Cluster) -> Vec<i64> {
    let mut sums = vec![0; nodes.len()];
    let mut add = |weight: i64, scores: Vec<i64>| {
        for (sum, score) in sums.iter_mut().zip(scores) {
            *sum += weight * score;
        }
    };
    let each = |score: &dyn Fn(&NodeState) -> i64| nodes.iter().map(|n| score(n)).collect::<Vec<_>>();
    add(TAINTS, normalized(each(&|n| untolerated(pod, n)), true));
    if !pod.preferred_terms.is_empty() {
        add(NODE_AFFINITY, normalized(each(&|n| preferred(pod, n)), false));
    }
    add(SPREAD, spread_scores(pod, nodes, cluster));
    if pod.has_affinity() || cluster.with_affinity > 0 {
        add(POD_AFFINITY, between(&affinity_scores(pod, nodes, cluster)));
    }
    add(FIT, each(&|n| least_allocated(pod, n)));
    add(BALANCE, each(&|n| balanced(pod, n)));
    add(IMAGES, each(&|n| images(pod, n, cluster)));
    sums
}

/// Scales so that the greatest is 100; turned round when less is better.
fn normalized(mut scores: Vec<i64>, reverse: bool) -> Vec<i64> {
    let greatest = scores.iter().copied().max().unwrap_or(0);
    for score in &mut scores {
        *score = if greatest == 0 { if reverse { MAX } else { 0 } } else { *score * MAX / greatest };
        if reverse && greatest != 0 {
            *score = MAX - *score;
        }
    }
    scores
}

/// Scales so that the least is 0 and the greatest 100.
fn between(scores: &[i64]) -> Vec<i64> {
    let (least, greatest) = (scores.iter().copied().min().unwrap_or(0), scores.iter().copied().max().unwrap_or(0));
    scores.iter().map(|s| if greatest == least { 0 } else { MAX * (s - least) / (greatest - least) }).collect()
}

fn untolerated(pod: &PodInfo, node: &NodeState) -> i64 {
    let soft = node.facts.taints.iter().filter(|t| t.effect == "PreferNoSchedule");
    let count = soft
        .filter(|taint| !pod.tolerations.iter().any(|t| t.effect.as_deref().is_none_or(|e| e.is_empty() || e == "PreferNoSchedule") && tolerates(t, taint)));
    i64::try_from(count.count()).unwrap_or(i64::MAX)
}

fn preferred(pod: &PodInfo, node: &NodeState) -> i64 {
    pod.preferred_terms.iter().filter(|(_, term)| term.matches(node.name(), &node.facts.labels)).map(|(weight, _)| weight).sum()
}

fn least_allocated(pod: &PodInfo, node: &NodeState) -> i64 {
    let free = |wanted: i64, taken: i64, there: i64| if there == 0 || wanted + taken > there { 0 } else { (there - taken - wanted) * MAX / there };
    let there = &node.facts.allocatable;
    (free(pod.weight.0, node.weight.0, there.milli_cpu) + free(pod.weight.1, node.weight.1, there.memory)) / 2
}

/// High where the pod makes the use of CPU and memory more alike (upstream: `balancedResourceScorer`). A pod that asks for nothing
/// changes nothing.
fn balanced(pod: &PodInfo, node: &NodeState) -> i64 {
    let (wanted, taken) = (&pod.requests, &node.requested);
    if wanted.milli_cpu == 0 && wanted.memory == 0 {
        return 0;
    }
    let with = evenness(node, wanted.milli_cpu + taken.milli_cpu, wanted.memory + taken.memory);
    let without = evenness(node, taken.milli_cpu, taken.memory);
    MAX / 2 + (MAX / 2 + with - without) / 2
}

/// 100 where the shares in use are the same, 50 where one is used up and the other is free.
fn evenness(node: &NodeState, cpu: i64, memory: i64) -> i64 {
    let there = &node.facts.allocatable;
    let share = |taken: i64, there: i64| (there != 0).then(|| (taken as f64 / there as f64).min(1.0));
    let deviation = match (share(cpu, there.milli_cpu), share(memory, there.memory)) {
        (Some(cpu), Some(memory)) => ((cpu - memory) / 2.0).abs(),
        _ => 0.0,
    };
    ((1.0 - deviation) * MAX as f64) as i64
}

fn images(pod: &PodInfo, node: &NodeState, cluster: &Cluster) -> i64 {
    if node.facts.images.is_empty() || pod.images.is_empty() {
        return 0;
    }
    let nodes = cluster.len().max(1) as i64;
    let size = |image: &String| Some(node.facts.images.get(image)? * cluster.nodes_with_image(image) / nodes);
    let sum: i64 = pod.images.iter().filter_map(size).sum();
    let most = IMAGE_MAX * pod.images.len() as i64;
    MAX * (sum.clamp(IMAGE_MIN, most) - IMAGE_MIN) / (most - IMAGE_MIN)
}

/// Soft spread constraints; for a pod without any, its controller's other pods are spread over the nodes and zones.
fn spread_scores(pod: &PodInfo, nodes: &[&NodeState], cluster: &Cluster) -> Vec<i64> {
    let soft: Vec<&Spread> = pod.spread.iter().filter(|s| !s.hard).collect();
    if soft.is_empty() {
        return siblings(pod, nodes, cluster);
    }
    let mut costs = vec![0.0_f64; nodes.len()];
    for constraint in soft {
        let mut counts: HashMap<&str, i64> = HashMap::new();
        for node in cluster.nodes().filter(|n| spread::counts_node(constraint, pod, n)) {
            if let Some(value) = node.label(&constraint.topology_key) {
                *counts.entry(value).or_default() += spread::matching(constraint, pod.namespace(), node);
            }
        }
        let weight = ((counts.len() + 2) as f64).ln();
        for (cost, node) in costs.iter_mut().zip(nodes) {
            let here = node.label(&constraint.topology_key).map_or(0, |value| counts.get(value).copied().unwrap_or(0));
            *cost += here as f64 * weight + (constraint.max_skew - 1) as f64;
        }
    }
    inverted(&costs)
}

/// Fewer is better: the least gets 100.
fn inverted(costs: &[f64]) -> Vec<i64> {
    let greatest = costs.iter().copied().fold(0.0, f64::max);
    let least = costs.iter().copied().fold(f64::INFINITY, f64::min);
    costs.iter().map(|c| if greatest == 0.0 { MAX } else { (MAX as f64 * (greatest + least - c) / greatest) as i64 }).collect()
}

fn siblings(pod: &PodInfo, nodes: &[&NodeState], cluster: &Cluster) -> Vec<i64> {
    if pod.controller.is_empty() {
        return vec![0; nodes.len()];
    }
    let Some(counts) = cluster.siblings(&pod.controller) else { return vec![MAX; nodes.len()] };
    let on = |node: &NodeState| counts.get(&node.place).copied().unwrap_or(0) as f64;
    let mut zones: HashMap<&str, f64> = HashMap::new();
    for node in counts.keys().map(|place| cluster.at(*place)) {
        if let Some(zone) = node.label(ZONE) {
            *zones.entry(zone).or_default() += on(node);
        }
    }
    let costs: Vec<f64> = nodes.iter().map(|n| on(n) + n.label(ZONE).and_then(|z| zones.get(z).copied()).unwrap_or(0.0)).collect();
    inverted(&costs)
}

/// Preferences of the pod for and against others, and of others for and against it.
fn affinity_scores(pod: &PodInfo, nodes: &[&NodeState], cluster: &Cluster) -> Vec<i64> {
    let labels = |namespace: &str| cluster.namespace_labels(namespace);
    let mut domains: HashMap<(&str, &str), i64> = HashMap::new();
    // A pod that prefers nothing itself is only looked at by those that do.
    let is_asked = pod.preferred_affinity.is_empty() && pod.preferred_anti_affinity.is_empty();
    for node in cluster.nodes().filter(|n| !is_asked || n.with_affinity > 0) {
        for other in node.pods().filter(|p| !is_asked || p.has_affinity()) {
            for (term, matched, weight) in attractions(pod, other) {
                if let Some(value) = node.label(&term.topology_key)
                    && term.matches(matched, &labels)
                {
                    *domains.entry((&term.topology_key, value)).or_default() += weight;
                }
            }
        }
    }
    nodes.iter().map(|n| domains.iter().filter(|((key, value), _)| n.label(key) == Some(value)).map(|(_, w)| w).sum()).collect()
}

/// The terms that may draw two pods together or apart: each with the pod that it has to match, and its weight. What another pod requires counts
/// as a preference of one (upstream: `HardPodAffinityWeight`).
fn attractions<'a>(pod: &'a PodInfo, other: &'a PodInfo) -> impl Iterator<Item = (&'a AffinityTerm, &'a PodInfo, i64)> {
    let of = |asks: &'a PodInfo, matched: &'a PodInfo| {
        let near = asks.preferred_affinity.iter().map(move |t| (t, matched, t.weight));
        near.chain(asks.preferred_anti_affinity.iter().map(move |t| (t, matched, -t.weight)))
    };
    of(pod, other).chain(of(other, pod)).chain(other.affinity.iter().map(move |t| (t, pod, 1)))
}
