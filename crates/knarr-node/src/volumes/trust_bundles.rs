//! `clusterTrustBundle` sources of projected volumes: the trust anchors of one ClusterTrustBundle, or of all of a signer
//! that a selector chooses, each anchor once (upstream: `pkg/kubelet/clustertrustbundle`, KEP-3257).

use std::collections::BTreeSet;

use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::ClusterTrustBundleProjection;
use knarr_client::ToTree;
use knarr_client::{Key, read};
use knarr_core::pem;
use knarr_core::selector::LabelSelector;

use super::followed::{Followed, State};

/// The PEM blocks of all anchors that the projection selects.
///
/// # Errors
/// Nothing is selected though something must be, or the API has not answered yet.
pub async fn anchors(bundles: &Followed, wanted: &ClusterTrustBundleProjection) -> Result<Vec<u8>, String> {
    let selected = bundles.read(|state| select(state, wanted)).await.ok_or("ClusterTrustBundle informer has not yet synced")??;
    Ok(normalize(selected.iter().map(|b| b.spec.trust_bundle.as_str())))
}

fn select(state: &State, wanted: &ClusterTrustBundleProjection) -> Result<Vec<ClusterTrustBundle>, String> {
    let optional = wanted.optional == Some(true);
    if let Some(name) = &wanted.name {
        return match state.objects.get(&Key::new("", name)) {
            Some(object) => Ok(vec![read::typed(object).map_err(|e| e.message)?]),
            None if optional => Ok(Vec::new()),
            None => Err(format!("while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io \"{name}\" not found")),
        };
    }
    let signer = wanted.signer_name.as_deref().ok_or("ClusterTrustBundle projection requires either name or signerName to be set")?;
    let selector = wanted.label_selector.as_ref().and_then(|s| s.to_tree().ok());
    // No selector selects nothing, an empty one everything.
    let selector = match &selector {
        None => LabelSelector::nothing(),
        Some(selector) => LabelSelector::from_value(Some(selector)).map_err(|e| format!("while parsing label selector: {e}"))?,
    };
    let all = state.objects.values().filter_map(|o| read::typed::<ClusterTrustBundle>(o).ok());
    let found: Vec<_> = all.filter(|b| b.spec.signer_name.as_deref() == Some(signer) && selector.matches_map(b.metadata.labels.as_ref())).collect();
    if found.is_empty() && !optional {
        return Err("combination of signerName and labelSelector matched zero ClusterTrustBundles".into());
    }
    Ok(found)
}

/// Every certificate once, in an order that does not change with that of the bundles.
fn normalize<'a>(bundles: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let anchors: BTreeSet<Vec<u8>> = bundles.flat_map(|bundle| pem::blocks(bundle.as_bytes())).map(|block| block.der).collect();
    anchors.iter().map(|der| pem::encode("CERTIFICATE", der)).collect::<String>().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_client::client::json_object;
    use knarr_core::json;

    fn state() -> State {
        let bundle = |name: &str, signer: &str, alive: &str, der: &[u8]| {
            let text = format!("a comment\n{}", pem::encode("CERTIFICATE", der));
            let mut object = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundle",
                "metadata": {"name": name, "labels": {"alive": alive}}, "spec": {"trustBundle": text}});
            if !signer.is_empty() {
                object["spec"]["signerName"] = json!(signer);
            }
            (Key::new("", name), json_object(&object))
        };
        let mut state = State::default();
        state.objects.extend([
            bundle("a", "x.y/z", "true", b"one"),
            bundle("b", "x.y/z", "false", b"two"),
            bundle("c", "x.y/z", "true", b"one"),
            bundle("d", "", "true", b"three"),
        ]);
        state
    }

    fn chosen(wanted: knarr_core::Value) -> Result<usize, String> {
        let wanted: ClusterTrustBundleProjection = serde_json::from_value(wanted).unwrap();
        let bundles = select(&state(), &wanted)?;
        let text = String::from_utf8(normalize(bundles.iter().map(|b| b.spec.trust_bundle.as_str()))).unwrap();
        assert!(!text.contains("comment"));
        Ok(text.matches("BEGIN").count())
    }

    #[test]
    fn anchors_are_selected_by_name_or_by_signer_and_labels_and_come_once() {
        assert_eq!(chosen(json!({"path": "p", "name": "d"})), Ok(1));
        assert!(chosen(json!({"path": "p", "name": "e"})).is_err());
        assert_eq!(chosen(json!({"path": "p", "name": "e", "optional": true})), Ok(0));
        assert_eq!(chosen(json!({"path": "p", "signerName": "x.y/z", "labelSelector": {}})), Ok(2));
        assert_eq!(chosen(json!({"path": "p", "signerName": "x.y/z", "labelSelector": {"matchLabels": {"alive": "true"}}})), Ok(1));
        assert_eq!(chosen(json!({"path": "p", "signerName": "x.y/z", "optional": true})), Ok(0));
        assert!(chosen(json!({"path": "p", "signerName": "x.y/z"})).is_err());
    }
}
