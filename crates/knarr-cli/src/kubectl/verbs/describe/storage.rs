//! The pages of volumes, claims and storage classes.

use knarr_core::{Value, ValueExt};

use super::page::{Page, date, format_labels, int, or, since, text, texts, title_bool};
use super::{Asker, volumes};
use crate::kubectl::failure::Result;
use crate::kubectl::resources::known;

/// `RWO,ROX`, each once.
fn access_modes(modes: &[String]) -> String {
    let known = [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    known.iter().filter(|(name, _)| modes.iter().any(|m| m == name)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

fn class_of(object: &Value) -> String {
    let annotated = object.str_at(&["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]);
    annotated.unwrap_or_else(|| text(object, &["spec", "storageClassName"])).to_owned()
}

fn status(page: &mut Page, object: &Value) {
    match object.str_at(&["metadata", "deletionTimestamp"]) {
        Some(at) => page.field(0, "Status", format!("Terminating (lasts {})", since(Some(at)))),
        None => page.field(0, "Status", text(object, &["status", "phase"])),
    }
}

fn finalizers(page: &mut Page, object: &Value) {
    page.field(0, "Finalizers", format!("[{}]", texts(object, &["metadata", "finalizers"]).join(" ")));
}

pub async fn volume(asker: &Asker<'_>, object: &Value) -> String {
    let mut page = Page::default();
    page.cluster_head(object);
    finalizers(&mut page, object);
    page.field(0, "StorageClass", class_of(object));
    status(&mut page, object);
    let claim = object.at(&["spec", "claimRef"]).map(|c| format!("{}/{}", text(c, &["namespace"]), text(c, &["name"])));
    page.field(0, "Claim", claim.unwrap_or_default());
    page.field(0, "Reclaim Policy", text(object, &["spec", "persistentVolumeReclaimPolicy"]));
    page.field(0, "Access Modes", access_modes(&texts(object, &["spec", "accessModes"])));
    page.some(0, "VolumeMode", object.str_at(&["spec", "volumeMode"]));
    page.field(0, "Capacity", or(object, &["spec", "capacity", "storage"], "0"));
    affinity(&mut page, object.at(&["spec", "nodeAffinity", "required"]));
    page.field(0, "Message", text(object, &["status", "message"]));
    page.line(0, "Source:");
    volumes::source(&mut page, object.at(&["spec"]).unwrap_or(&Value::Null));
    page.events(asker.events(object).await.as_deref());
    page.finish()
}

fn affinity(page: &mut Page, required: Option<&Value>) {
    let Some(required) = required else { return page.field(0, "Node Affinity", "<none>") };
    page.field(0, "Node Affinity", "");
    let terms = required.list_at(&["nodeSelectorTerms"]);
    page.field(1, "Required Terms", if terms.is_empty() { "<none>" } else { "" });
    for (i, term) in terms.iter().enumerate() {
        page.part(2, format!("Term {i}:\t"));
        let expressions = term.list_at(&["matchExpressions"]);
        if expressions.is_empty() {
            page.line(0, "<none>");
        }
        for (i, e) in expressions.iter().enumerate() {
            if i > 0 {
                page.part(2, "\t");
            }
            let values = texts(e, &["values"]);
            let list = if values.is_empty() { String::new() } else { format!(" [{}]", values.join(", ")) };
            page.line(0, format!("{} {}{list}", text(e, &["key"]), text(e, &["operator"]).to_lowercase()));
        }
    }
}

pub async fn claim(asker: &Asker<'_>, object: &Value) -> Result<String> {
    let mut users = users(asker, object).await?;
    users.sort();
    let mut page = Page::default();
    page.field(0, "Name", text(object, &["metadata", "name"]));
    page.field(0, "Namespace", text(object, &["metadata", "namespace"]));
    page.field(0, "StorageClass", class_of(object));
    status(&mut page, object);
    let bound = text(object, &["spec", "volumeName"]);
    page.field(0, "Volume", bound);
    page.labels("Labels", object.at(&["metadata", "labels"]));
    page.annotations("Annotations", object.at(&["metadata", "annotations"]));
    finalizers(&mut page, object);
    let when_bound = |value: String| if bound.is_empty() { String::new() } else { value };
    page.field(0, "Capacity", when_bound(or(object, &["status", "capacity", "storage"], "0")));
    page.field(0, "Access Modes", when_bound(access_modes(&texts(object, &["status", "accessModes"]))));
    page.some(0, "VolumeMode", object.str_at(&["spec", "volumeMode"]));
    if let Some(source) = object.at(&["spec", "dataSource"]) {
        page.line(0, "DataSource:");
        page.some(1, "APIGroup", source.str_at(&["apiGroup"]));
        page.field(1, "Kind", text(source, &["kind"]));
        page.field(1, "Name", text(source, &["name"]));
    }
    page.several("Used By", &users);
    let conditions = object.list_at(&["status", "conditions"]);
    if !conditions.is_empty() {
        page.line(0, "Conditions:");
        page.line(1, "Type\tStatus\tLastProbeTime\tLastTransitionTime\tReason\tMessage");
        page.line(1, "----\t------\t-----------------\t------------------\t------\t-------");
        for c in conditions {
            let (probed, changed) = (date(c.str_at(&["lastProbeTime"])), date(c.str_at(&["lastTransitionTime"])));
            page.line(
                1,
                format!("{} \t{} \t{probed} \t{changed} \t{} \t{}", text(c, &["type"]), text(c, &["status"]), text(c, &["reason"]), text(c, &["message"])),
            );
        }
    }
    page.events(asker.events(object).await.as_deref());
    Ok(page.finish())
}

/// The pods that use a claim, and those that own it.
async fn users(asker: &Asker<'_>, claim: &Value) -> Result<Vec<String>> {
    let pods = asker.list(&known("pods").path(Some(text(claim, &["metadata", "namespace"])), None), &[]).await?;
    let name = text(claim, &["metadata", "name"]);
    let uses = |pod: &Value| pod.list_at(&["spec", "volumes"]).iter().any(|v| v.str_at(&["persistentVolumeClaim", "claimName"]) == Some(name));
    let owns = |pod: &Value| {
        claim.list_at(&["metadata", "ownerReferences"]).iter().any(|o| text(o, &["kind"]) == "Pod" && o.at(&["uid"]) == pod.at(&["metadata", "uid"]))
    };
    Ok(pods.iter().filter(|p| uses(p) || owns(p)).map(|p| text(p, &["metadata", "name"]).to_owned()).collect())
}

pub async fn class(asker: &Asker<'_>, object: &Value) -> String {
    let mut page = Page::default();
    page.field(0, "Name", text(object, &["metadata", "name"]));
    let default = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
    let is_default = default.iter().any(|a| object.str_at(&["metadata", "annotations", a]) == Some("true"));
    page.field(0, "IsDefaultClass", if is_default { "Yes" } else { "No" });
    page.field(0, "Annotations", format_labels(object.at(&["metadata", "annotations"])));
    page.field(0, "Provisioner", text(object, &["provisioner"]));
    page.field(0, "Parameters", format_labels(object.at(&["parameters"])));
    page.field(0, "AllowVolumeExpansion", object.bool_at(&["allowVolumeExpansion"]).map_or("<unset>", title_bool));
    let options = texts(object, &["mountOptions"]);
    if options.is_empty() {
        page.field(0, "MountOptions", "<none>");
    } else {
        page.line(0, "MountOptions:");
        options.iter().for_each(|o| page.line(1, o));
    }
    page.some(0, "ReclaimPolicy", object.str_at(&["reclaimPolicy"]));
    page.some(0, "VolumeBindingMode", object.str_at(&["volumeBindingMode"]));
    if object.at(&["allowedTopologies"]).is_some() {
        topologies(&mut page, object.list_at(&["allowedTopologies"]));
    }
    page.events(asker.events(object).await.as_deref());
    page.finish()
}

fn topologies(page: &mut Page, terms: &[Value]) {
    page.field(0, "AllowedTopologies", if terms.is_empty() { "<none>" } else { "" });
    for (i, term) in terms.iter().enumerate() {
        page.part(1, format!("Term {i}:\t"));
        let expressions = term.list_at(&["matchLabelExpressions"]);
        if expressions.is_empty() {
            page.line(0, "<none>");
        }
        for (i, e) in expressions.iter().enumerate() {
            if i > 0 {
                page.part(1, "\t");
            }
            let values = texts(e, &["values"]);
            let list = if values.is_empty() { String::new() } else { format!(" [{}]", values.join(", ")) };
            page.line(0, format!("{} in{list}", text(e, &["key"])));
        }
    }
}

pub async fn attributes_class(asker: &Asker<'_>, object: &Value) -> String {
    let mut page = Page::default();
    page.field(0, "Name", text(object, &["metadata", "name"]));
    page.field(0, "Annotations", format_labels(object.at(&["metadata", "annotations"])));
    page.field(0, "DriverName", text(object, &["driverName"]));
    page.field(0, "Parameters", format_labels(object.at(&["parameters"])));
    page.events(asker.events(object).await.as_deref());
    page.finish()
}

pub async fn csi_node(asker: &Asker<'_>, object: &Value) -> String {
    let mut page = Page::default();
    page.cluster_head(object);
    page.field(0, "CreationTimestamp", date(object.str_at(&["metadata", "creationTimestamp"])));
    page.line(0, "Spec:");
    if object.at(&["spec", "drivers"]).is_some() {
        page.line(1, "Drivers:");
    }
    for driver in object.list_at(&["spec", "drivers"]) {
        page.line(2, format!("{}:", text(driver, &["name"])));
        page.field(3, "Node ID", text(driver, &["nodeID"]));
        if driver.at(&["allocatable", "count"]).is_some() {
            page.line(3, "Allocatables:");
            page.field(4, "Count", int(driver, &["allocatable", "count"]));
        }
        if driver.at(&["topologyKeys"]).is_some() {
            page.field(3, "Topology Keys", format!("[{}]", texts(driver, &["topologyKeys"]).join(" ")));
        }
    }
    page.events(asker.events(object).await.as_deref());
    page.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_modes_have_short_names_in_one_order() {
        assert_eq!(access_modes(&["ReadWriteMany".into(), "ReadWriteOnce".into()]), "RWO,RWX");
    }
}
