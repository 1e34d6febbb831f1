//! Which strategy serves which resource: one line a kind.

use crate::admissionregistration::{AdmissionPolicy, AdmissionPolicyBinding, WebhookConfiguration};
use crate::apiextensions::CustomResourceDefinition;
use crate::apiextensions::customresource::CustomResource;
use crate::apiregistration::ApiService;
use crate::apps::{controllerrevision::ControllerRevision, daemonset::DaemonSet, deployment::Deployment, replicaset::ReplicaSet, statefulset::StatefulSet};
use crate::autoscaling::HorizontalPodAutoscaler;
use crate::batch::{cronjob::CronJob, job::Job};
use crate::certificates::{Approval, CertificateSigningRequest, ClusterTrustBundle, PodCertificateRequest};
use crate::coordination::{Lease, LeaseCandidate};
use crate::core::config::{ConfigMap, Secret};
use crate::core::endpoints::Endpoints;
use crate::core::event::Event;
use crate::core::limitrange::LimitRange;
use crate::core::namespace::{Finalize, Namespace};
use crate::core::node::Node;
use crate::core::persistentvolume::PersistentVolume;
use crate::core::persistentvolumeclaim::PersistentVolumeClaim;
use crate::core::replicationcontroller::ReplicationController;
use crate::core::resourcequota::ResourceQuota;
use crate::core::service::Service;
use crate::core::serviceaccount::ServiceAccount;
use crate::discovery::EndpointSlice;
use crate::flowcontrol::{FlowSchema, PriorityLevelConfiguration};
use crate::networking::ingress::{Ingress, IngressClass};
use crate::networking::networkpolicy::NetworkPolicy;
use crate::networking::servicecidr::{IpAddress, ServiceCidr};
use crate::pod::{EphemeralContainers, Pod, PodTemplate, Resize};
use crate::policy::PodDisruptionBudget;
use crate::rbac::{Binding, Role};
use crate::resource::{DeviceClass, DeviceTaintRule, ResourceClaim, ResourceClaimTemplate, ResourceSlice};
use crate::scheduling::{PriorityClass, RuntimeClass};
use crate::storage::csi::{CsiDriver, CsiNode, CsiStorageCapacity};
use crate::storage::storageclass::{StorageClass, VolumeAttributesClass};
use crate::storage::volumeattachment::VolumeAttachment;
use crate::storagemigration::StorageVersionMigration;
use crate::strategy::{Plain, Shape, StatusOf, Strategy};

type Entry = &'static dyn Strategy;

/// One resource: group, plural name, strategy of the object, strategy of its status.
struct Row(&'static str, &'static str, Entry, Entry);

/// A line of the table: a resource and its strategy, which serves its status too.
macro_rules! row {
    ($group:literal, $resource:literal, $strategy:expr) => {
        Row($group, $resource, &$strategy, &StatusOf(&$strategy))
    };
}

static TABLE: &[Row] = &[
    row!("", "configmaps", ConfigMap),
    row!("", "endpoints", Endpoints),
    row!("", "events", Event { strict: false }),
    row!("", "limitranges", LimitRange),
    row!("", "namespaces", Namespace),
    row!("", "nodes", Node),
    row!("", "persistentvolumeclaims", PersistentVolumeClaim),
    row!("", "persistentvolumes", PersistentVolume),
    row!("", "pods", Pod),
    row!("", "podtemplates", PodTemplate),
    row!("", "replicationcontrollers", ReplicationController),
    row!("", "resourcequotas", ResourceQuota),
    row!("", "secrets", Secret),
    row!("", "serviceaccounts", ServiceAccount),
    row!("", "services", Service),
    row!("admissionregistration.k8s.io", "mutatingadmissionpolicies", AdmissionPolicy { mutating: true }),
    row!("admissionregistration.k8s.io", "mutatingadmissionpolicybindings", AdmissionPolicyBinding { mutating: true }),
    row!("admissionregistration.k8s.io", "mutatingwebhookconfigurations", WebhookConfiguration { mutating: true }),
    row!("admissionregistration.k8s.io", "validatingadmissionpolicies", AdmissionPolicy { mutating: false }),
    row!("admissionregistration.k8s.io", "validatingadmissionpolicybindings", AdmissionPolicyBinding { mutating: false }),
    row!("admissionregistration.k8s.io", "validatingwebhookconfigurations", WebhookConfiguration { mutating: false }),
    row!("apiextensions.k8s.io", "customresourcedefinitions", CustomResourceDefinition),
    row!("apiregistration.k8s.io", "apiservices", ApiService),
    row!("apps", "controllerrevisions", ControllerRevision),
    row!("apps", "daemonsets", DaemonSet),
    row!("apps", "deployments", Deployment),
    row!("apps", "replicasets", ReplicaSet),
    row!("apps", "statefulsets", StatefulSet),
    row!("autoscaling", "horizontalpodautoscalers", HorizontalPodAutoscaler),
    row!("batch", "cronjobs", CronJob),
    row!("batch", "jobs", Job),
    row!("certificates.k8s.io", "certificatesigningrequests", CertificateSigningRequest),
    row!("certificates.k8s.io", "clustertrustbundles", ClusterTrustBundle),
    row!("certificates.k8s.io", "podcertificaterequests", PodCertificateRequest),
    row!("coordination.k8s.io", "leasecandidates", LeaseCandidate),
    row!("coordination.k8s.io", "leases", Lease),
    row!("discovery.k8s.io", "endpointslices", EndpointSlice),
    row!("events.k8s.io", "events", Event { strict: true }),
    row!("flowcontrol.apiserver.k8s.io", "flowschemas", FlowSchema),
    row!("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations", PriorityLevelConfiguration),
    row!("networking.k8s.io", "ingressclasses", IngressClass),
    row!("networking.k8s.io", "ingresses", Ingress),
    row!("networking.k8s.io", "ipaddresses", IpAddress),
    row!("networking.k8s.io", "networkpolicies", NetworkPolicy),
    row!("networking.k8s.io", "servicecidrs", ServiceCidr),
    row!("node.k8s.io", "runtimeclasses", RuntimeClass),
    row!("policy", "poddisruptionbudgets", PodDisruptionBudget),
    row!("rbac.authorization.k8s.io", "clusterrolebindings", Binding { namespaced: false }),
    row!("rbac.authorization.k8s.io", "clusterroles", Role { namespaced: false }),
    row!("rbac.authorization.k8s.io", "rolebindings", Binding { namespaced: true }),
    row!("rbac.authorization.k8s.io", "roles", Role { namespaced: true }),
    row!("resource.k8s.io", "deviceclasses", DeviceClass),
    row!("resource.k8s.io", "devicetaintrules", DeviceTaintRule),
    row!("resource.k8s.io", "resourceclaims", ResourceClaim),
    row!("resource.k8s.io", "resourceclaimtemplates", ResourceClaimTemplate),
    row!("resource.k8s.io", "resourceslices", ResourceSlice),
    row!("scheduling.k8s.io", "priorityclasses", PriorityClass),
    row!("storage.k8s.io", "csidrivers", CsiDriver),
    row!("storage.k8s.io", "csinodes", CsiNode),
    row!("storage.k8s.io", "csistoragecapacities", CsiStorageCapacity),
    row!("storage.k8s.io", "storageclasses", StorageClass),
    row!("storage.k8s.io", "volumeattachments", VolumeAttachment),
    row!("storage.k8s.io", "volumeattributesclasses", VolumeAttributesClass),
    row!("storagemigration.k8s.io", "storageversionmigrations", StorageVersionMigration),
];

static PLAIN: Plain = Plain(Shape::PLAIN);

/// The strategy of a built-in resource (`subresource` empty) or of one of its subresources. A subresource without a strategy of
/// its own has that of its resource; an unknown resource has the plain one. Custom resources: [`custom_strategy`].
pub fn strategy(group: &str, resource: &str, subresource: &str) -> Entry {
    match (group, resource, subresource) {
        ("", "pods", "ephemeralcontainers") => return &EphemeralContainers,
        ("", "pods", "resize") => return &Resize,
        ("", "namespaces", "finalize") => return &Finalize,
        ("certificates.k8s.io", "certificatesigningrequests", "approval") => return &Approval,
        _ => {}
    }
    match TABLE.iter().find(|row| row.0 == group && row.1 == resource) {
        Some(Row(_, _, _, status)) if subresource == "status" => *status,
        Some(Row(_, _, main, _)) => *main,
        None => &PLAIN,
    }
}

/// The strategy of a custom resource, whose definition says whether it has a status subresource.
pub fn custom_strategy(status_subresource: bool, subresource: &str) -> Entry {
    static WITH_STATUS: CustomResource = CustomResource { status_subresource: true };
    static WITHOUT_STATUS: CustomResource = CustomResource { status_subresource: false };
    static STATUS: StatusOf = StatusOf(&CustomResource { status_subresource: true });
    match (status_subresource, subresource) {
        (true, "status") => &STATUS,
        (true, _) => &WITH_STATUS,
        (false, _) => &WITHOUT_STATUS,
    }
}
