//! What ResourceQuotas count, and whether a write still fits in them: shared by admission, which charges each write, and by
//! the controller, which counts anew (upstream: `k8s.io/apiserver/pkg/quota/v1`, `k8s.io/kubernetes/pkg/quota/v1/evaluator/core`).

mod pod;
mod scope;

use std::collections::BTreeMap;

use jiff::Timestamp;
use knarr_core::{GroupResource, Value, ValueExt, quantity::Quantity};

pub use pod::unset_for;
pub use scope::{has_deadline, is_in_scope};

/// Amounts by the name under which a quota limits them.
pub type Amounts = BTreeMap<String, Quantity>;

/// Resources that no quota counts.
const IGNORED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];
/// Resources that are also counted under their bare name.
const PLAIN_NAMES: [&str; 4] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];
const SERVICES: [&str; 4] = ["count/services", "services", "services.loadbalancers", "services.nodeports"];
const CLAIMS: [&str; 2] = ["persistentvolumeclaims", "requests.storage"];
const OF_CLASS: &str = ".storageclass.storage.k8s.io/";
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// The name under which a quota counts all objects of a resource: `count/deployments.apps`.
pub fn count_name(resource: &GroupResource) -> String {
    format!("count/{resource}")
}

/// Whether a quota's entry of this name is about this resource.
pub fn is_about(name: &str, resource: &GroupResource) -> bool {
    let (group, plural) = (resource.group.as_str(), resource.resource.as_str());
    if IGNORED.contains(&(group, plural)) {
        return false;
    }
    let own = match (group, plural) {
        ("", "pods") => pod::is_about(name),
        ("", "services") => SERVICES.contains(&name),
        ("", "persistentvolumeclaims") => {
            let by_class = |kind: &&str| name.strip_suffix(*kind).is_some_and(|rest| rest.ends_with(OF_CLASS));
            CLAIMS.contains(&name) || CLAIMS.iter().any(|kind| by_class(&kind))
        }
        ("", plain) if PLAIN_NAMES.contains(&plain) => name == plain,
        _ => false,
    };
    own || name == count_name(resource)
}

/// What one object takes of everything that quotas can limit.
pub fn usage(resource: &GroupResource, object: &Value, now: Timestamp) -> Amounts {
    let mut used = Amounts::from([(count_name(resource), Quantity::from_i64(1))]);
    match (resource.group.as_str(), resource.resource.as_str()) {
        ("", "pods") => pod::add_usage(&mut used, object, now),
        ("", "services") => add_service(&mut used, object),
        ("", "persistentvolumeclaims") => add_claim(&mut used, object),
        ("", plain) if PLAIN_NAMES.contains(&plain) => add(&mut used, plain, Quantity::from_i64(1)),
        _ => {}
    }
    used
}

fn add_service(used: &mut Amounts, service: &Value) {
    let ports = service.list_at(&["spec", "ports"]);
    let kind = service.str_at(&["spec", "type"]).unwrap_or_default();
    let allocates = service.bool_at(&["spec", "allocateLoadBalancerNodePorts"]) != Some(false);
    let node_ports = match kind {
        "NodePort" => ports.len(),
        "LoadBalancer" if allocates => ports.len(),
        "LoadBalancer" => ports.iter().filter(|p| p.i64_at(&["nodePort"]).is_some_and(|n| n != 0)).count(),
        _ => 0,
    };
    add(used, "services", Quantity::from_i64(1));
    add(used, "services.nodeports", Quantity::from_i64(i64::try_from(node_ports).unwrap_or(i64::MAX)));
    add(used, "services.loadbalancers", Quantity::from_i64(i64::from(kind == "LoadBalancer")));
}

fn add_claim(used: &mut Amounts, claim: &Value) {
    let class = claim.str_at(&["metadata", "annotations", CLASS_ANNOTATION]).or_else(|| claim.str_at(&["spec", "storageClassName"])).unwrap_or_default();
    let mut both = |name: &str, amount: Quantity| {
        add(used, name, amount);
        if !class.is_empty() {
            add(used, &format!("{class}{OF_CLASS}{name}"), amount);
        }
    };
    both("persistentvolumeclaims", Quantity::from_i64(1));
    let storage = |path: &[&str]| claim.at(path).and_then(Quantity::from_json);
    if let Some(wanted) = storage(&["spec", "resources", "requests", "storage"]) {
        both("requests.storage", storage(&["status", "allocatedResources", "storage"]).map_or(wanted, |given| given.max(wanted)));
    }
}

fn add(used: &mut Amounts, name: &str, amount: Quantity) {
    used.entry(name.to_owned()).and_modify(|sum| *sum += amount).or_insert(amount);
}

/// A map of quantities, as `hard` and `used` are.
pub fn amounts(map: Option<&Value>) -> Amounts {
    map.and_then(Value::as_object).into_iter().flatten().filter_map(|(name, amount)| Some((name.clone(), Quantity::from_json(amount)?))).collect()
}

/// The same as a tree.
pub fn to_value(amounts: &Amounts) -> Value {
    amounts.iter().map(|(name, amount)| (name.clone(), Value::from(amount.to_string()))).collect::<knarr_core::Map<_, _>>().into()
}

/// One write as quotas see it.
pub struct Charge<'a> {
    pub resource: &'a GroupResource,
    pub object: &'a Value,
    /// The stored object, on update.
    pub old: Option<&'a Value>,
    /// A change of status is counted but never refused.
    pub is_status: bool,
    pub now: Timestamp,
}

impl Charge<'_> {
    /// What a quota's `status.used` becomes; none when the write does not touch it.
    ///
    /// # Errors
    /// Why the write must not be, in upstream's words.
    pub fn on(&self, quota: &Value) -> Result<Option<Amounts>, String> {
        let (hard, used) = (amounts(quota.at(&["status", "hard"])), amounts(quota.at(&["status", "used"])));
        let about: Vec<&str> = hard.keys().map(String::as_str).filter(|name| is_about(name, self.resource)).collect();
        if about.is_empty() || !is_in_scope(quota, self.resource, self.object) {
            return Ok(None);
        }
        let name = quota.str_at(&["metadata", "name"]).unwrap_or_default();
        if self.resource.group.is_empty() && self.resource.resource == "pods" {
            unset_for(&about, self.object).map_err(|why| format!("failed quota: {name}: {why}"))?;
        }
        if about.iter().any(|n| !used.contains_key(*n)) {
            return Err(format!("status unknown for quota: {name}, resources: {}", about.join(",")));
        }
        let mut wanted = usage(self.resource, self.object, self.now);
        let negative: Vec<&str> = wanted.iter().filter(|(_, amount)| amount.is_negative()).map(|(n, _)| n.as_str()).collect();
        if !negative.is_empty() {
            return Err(format!("quota usage is negative for resource(s): {}", negative.join(",")));
        }
        if let Some(old) = self.old.filter(|old| is_in_scope(quota, self.resource, old)) {
            let before = usage(self.resource, old, self.now);
            for (name, amount) in &mut wanted {
                let grown = *amount - before.get(name).copied().unwrap_or(Quantity::ZERO);
                *amount = grown.max(Quantity::ZERO);
            }
        }
        wanted.retain(|name, amount| !amount.is_zero() && hard.contains_key(name));
        if wanted.is_empty() {
            return Ok(None);
        }
        let mut after = used.clone();
        wanted.iter().for_each(|(name, amount)| add(&mut after, name, *amount));
        let exceeded: Vec<&String> = wanted.keys().filter(|n| after[*n] > hard[*n]).collect();
        if exceeded.is_empty() || self.is_status {
            return Ok(Some(after));
        }
        let list = |of: &Amounts| exceeded.iter().filter_map(|n| Some(format!("{n}={}", of.get(*n)?))).collect::<Vec<_>>().join(",");
        Err(format!("exceeded quota: {name}, requested: {}, used: {}, limited: {}", list(&wanted), list(&used), list(&hard)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    fn quota(hard: Value, used: Value) -> Value {
        json!({"metadata": {"name": "q"}, "status": {"hard": hard, "used": used}})
    }

    fn charge(resource: &str, object: &Value, quota: &Value) -> Result<Option<Amounts>, String> {
        let resource = GroupResource::new("", resource);
        Charge { resource: &resource, object, old: None, is_status: false, now: Timestamp::UNIX_EPOCH }.on(quota)
    }

    #[test]
    fn names_are_about_resources() {
        let about = |name: &str, group: &str, plural: &str| is_about(name, &GroupResource::new(group, plural));
        assert!(about("count/deployments.apps", "apps", "deployments") && !about("deployments", "apps", "deployments"));
        assert!(about("secrets", "", "secrets") && about("count/secrets", "", "secrets"));
        assert!(about("gold.storageclass.storage.k8s.io/requests.storage", "", "persistentvolumeclaims"));
        assert!(about("requests.nvidia.com/gpu", "", "pods") && !about("requests.storage", "", "pods"));
        assert!(!about("count/events", "", "events"));
    }

    #[test]
    fn a_write_that_fits_is_charged_and_one_that_does_not_is_refused() {
        let service = json!({"spec": {"type": "NodePort", "ports": [{}, {}]}});
        let open = quota(json!({"services": "2", "services.nodeports": "2"}), json!({"services": "1", "services.nodeports": "0"}));
        let after = charge("services", &service, &open).unwrap().unwrap();
        assert_eq!(to_value(&after), json!({"services": "2", "services.nodeports": "2"}));
        let full = quota(json!({"services": "2", "services.nodeports": "1"}), json!({"services": "1", "services.nodeports": "0"}));
        let text = "exceeded quota: q, requested: services.nodeports=2, used: services.nodeports=0, limited: services.nodeports=1";
        assert_eq!(charge("services", &service, &full), Err(text.to_owned()));
        assert_eq!(charge("secrets", &json!({}), &full), Ok(None));
        let unknown = quota(json!({"services": "1"}), json!({}));
        assert_eq!(charge("services", &service, &unknown), Err("status unknown for quota: q, resources: services".to_owned()));
    }

    #[test]
    fn an_update_is_charged_by_what_it_adds() {
        let resource = GroupResource::new("", "services");
        let (old, new) = (json!({"spec": {"type": "ClusterIP", "ports": [{}]}}), json!({"spec": {"type": "NodePort", "ports": [{}]}}));
        let of = |old, new| Charge { resource: &resource, object: new, old: Some(old), is_status: false, now: Timestamp::UNIX_EPOCH };
        let full = quota(json!({"services": "1", "services.nodeports": "1"}), json!({"services": "1", "services.nodeports": "0"}));
        assert_eq!(to_value(&of(&old, &new).on(&full).unwrap().unwrap()), json!({"services": "1", "services.nodeports": "1"}));
        assert_eq!(of(&new, &old).on(&full), Ok(None));
    }
}
