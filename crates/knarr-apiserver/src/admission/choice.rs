//! Which plugins run: those that are on by default, with `--enable-admission-plugins` and without `--disable-admission-plugins`.

use std::sync::Arc;

use knarr_core::field::go_quote;

use super::{Objects, Plugin, Settings, deny_external_ips::DenyServiceExternalIPs, plugins_by};

/// Plugins of upstream that can be named, whether they are here or not.
const NAMES: [&str; 39] = [
    "AlwaysAdmit",
    "AlwaysDeny",
    "AlwaysPullImages",
    "CertificateApproval",
    "CertificateSigning",
    "CertificateSubjectRestriction",
    "ClusterTrustBundleAttest",
    "DefaultIngressClass",
    "DefaultStorageClass",
    "DefaultTolerationSeconds",
    "DenyServiceExternalIPs",
    "EventRateLimit",
    "ExtendedResourceToleration",
    "ImagePolicyWebhook",
    "LimitPodHardAntiAffinityTopology",
    "LimitRanger",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionWebhook",
    "NamespaceAutoProvision",
    "NamespaceExists",
    "NamespaceLifecycle",
    "NodeDeclaredFeatureValidator",
    "NodeRestriction",
    "OwnerReferencesPermissionEnforcement",
    "PersistentVolumeClaimResize",
    "PodGroupProtection",
    "PodNodeSelector",
    "PodResizeValidator",
    "PodSecurity",
    "PodTolerationRestriction",
    "PodTopologyLabels",
    "Priority",
    "ResourceQuota",
    "RuntimeClass",
    "ServiceAccount",
    "StorageObjectInUseProtection",
    "TaintNodesByCondition",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionWebhook",
];

/// Checks of upstream's registries, which are no plugins there.
#[cfg(test)]
const UNNAMED: [&str; 2] = ["RBACEscalation", "PodCertificateSigning"];

/// Plugins that are here and off unless they are asked for.
fn optional() -> Vec<Arc<dyn Plugin>> {
    vec![Arc::new(DenyServiceExternalIPs)]
}

/// The plugins by these choices, in the order in which they run. What upstream checks
/// elsewhere ([`UNNAMED`]) cannot be named, and so not be turned off.
///
/// # Errors
/// A plugin that does not exist, that is in both lists, or that is not here.
pub fn chosen(objects: &Arc<dyn Objects>, enable: &[&str], disable: &[&str], settings: &Settings) -> Result<Vec<Arc<dyn Plugin>>, String> {
    for (flag, names) in [("enable", enable), ("disable", disable)] {
        if let Some(unknown) = names.iter().find(|n| !NAMES.contains(n)) {
            return Err(format!("{flag}-admission-plugins plugin {} is unknown", go_quote(unknown)));
        }
    }
    if let Some(both) = enable.iter().find(|n| disable.contains(n)) {
        return Err(format!("[{both}] in enable-admission-plugins and disable-admission-plugins overlapped"));
    }
    let (mut plugins, mut more) = (plugins_by(objects, settings), optional());
    let here = |name: &&str| plugins.iter().chain(&more).any(|p| p.name() == *name);
    if let Some(missing) = enable.iter().find(|n| !here(n)) {
        return Err(format!("enable-admission-plugins: plugin {} is not supported", go_quote(missing)));
    }
    more.retain(|p| enable.contains(&p.name()));
    // Those that count what was let in stay last.
    let last = plugins.len().saturating_sub(1);
    plugins.splice(last..last, more);
    plugins.retain(|p| !disable.contains(&p.name()));
    Ok(plugins)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Fixed;
    use super::*;

    #[test]
    fn plugins_are_chosen_by_name() {
        let objects: Arc<dyn Objects> = Arc::new(Fixed(Vec::new()));
        let names = |enable: &[&str], disable: &[&str]| {
            chosen(&objects, enable, disable, &Settings::default()).map(|all| all.iter().map(|p| p.name()).collect::<Vec<_>>())
        };
        let usual = names(&[], &[]).unwrap();
        assert!(usual.contains(&"RBACEscalation") && !usual.contains(&"DenyServiceExternalIPs"));
        let more = names(&["DenyServiceExternalIPs", "LimitRanger"], &["ServiceAccount", "AlwaysPullImages"]).unwrap();
        assert_eq!((more.len(), more.last()), (usual.len(), Some(&"ResourceQuota")));
        assert!(more.contains(&"DenyServiceExternalIPs") && !more.contains(&"ServiceAccount"));
        assert_eq!(names(&[], &["RBACEscalation"]), Err("disable-admission-plugins plugin \"RBACEscalation\" is unknown".into()));
        assert_eq!(names(&["Magic"], &[]), Err("enable-admission-plugins plugin \"Magic\" is unknown".into()));
        assert!(names(&["LimitRanger"], &["LimitRanger"]).unwrap_err().contains("overlapped"));
        assert_eq!(names(&["EventRateLimit"], &[]), Err("enable-admission-plugins: plugin \"EventRateLimit\" is not supported".into()));
        let known = usual.iter().filter(|n| !UNNAMED.contains(n));
        assert!(known.clone().all(|n| NAMES.contains(n)), "{:?}", known.filter(|n| !NAMES.contains(n)).collect::<Vec<_>>());
    }
}
