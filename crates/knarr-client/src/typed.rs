//! Structs of `k8s-openapi`, made of objects and of trees and written to trees, in one place.
//!
//! The code that fills and writes these structs is generic, large, and would be generated anew in each crate that calls it. Behind
//! [`Typed`] and [`ToTree`] it is generated here alone. A kind that a component begins to use gets its name in the table below.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    apps::v1 as apps, authentication::v1 as authentication, authorization::v1 as authorization, autoscaling::v1 as autoscaling, batch::v1 as batch,
    certificates::v1 as certificates, coordination::v1 as coordination, core::v1 as core, discovery::v1 as discovery, events::v1 as events,
    networking::v1 as networking, node::v1 as node, policy::v1 as policy, rbac::v1 as rbac, scheduling::v1 as scheduling, storage::v1 as storage,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use knarr_core::{Object, Result, Status, Value};
use knarr_schema::codec;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A struct that can be made of an object. One that declares only some fields reads only those: see [`crate::partial`].
pub trait Typed: Sized {
    /// # Errors
    /// `InternalError` when the bytes are not of that type.
    fn from_object(object: &Object) -> Result<Self>;

    /// # Errors
    /// `InternalError` when the tree is not of that type.
    fn from_tree(tree: Value) -> Result<Self>;
}

/// A struct that can be written to a tree.
pub trait ToTree {
    /// # Errors
    /// `InternalError` for a value that JSON cannot say.
    fn to_tree(&self) -> Result<Value>;
}

impl<T: ToTree> ToTree for Box<T> {
    fn to_tree(&self) -> Result<Value> {
        (**self).to_tree()
    }
}

impl ToTree for BTreeMap<String, String> {
    fn to_tree(&self) -> Result<Value> {
        write(self)
    }
}

impl Typed for Value {
    fn from_object(object: &Object) -> Result<Self> {
        codec::to_value(object)
    }

    fn from_tree(tree: Value) -> Result<Self> {
        Ok(tree)
    }
}

/// What [`Typed`] is implemented by.
#[doc(hidden)]
pub fn read_object<T: DeserializeOwned>(object: &Object) -> Result<T> {
    codec::to_typed(object)
}

/// What [`Typed`] is implemented by.
#[doc(hidden)]
pub fn read_tree<T: DeserializeOwned>(tree: Value) -> Result<T> {
    codec::tree_to_typed(tree)
}

/// Lets structs of one's own, with the few fields that are asked for, be read from objects: `partial!(OnlyStatus, OnlySpec);`. They derive
/// `Deserialize`.
#[macro_export]
macro_rules! partial {
    ($($of:ty),+ $(,)?) => {$(
        impl $crate::typed::Typed for $of {
            fn from_object(object: &::knarr_core::Object) -> ::knarr_core::Result<Self> {
                $crate::typed::read_object(object)
            }

            fn from_tree(tree: ::knarr_core::Value) -> ::knarr_core::Result<Self> {
                $crate::typed::read_tree(tree)
            }
        }
    )+};
}

macro_rules! whole {
    ($($module:ident :: { $($of:ident),+ $(,)? })+) => {$($(
        partial!($module::$of);

        impl ToTree for $module::$of {
            fn to_tree(&self) -> Result<Value> {
                write(self)
            }
        }
    )+)+};
}

fn write<T: Serialize>(object: &T) -> Result<Value> {
    serde_json::to_value(object).map_err(Status::internal)
}

whole! {
    apps::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet}
    authentication::{TokenRequest, TokenReview}
    authorization::{SubjectAccessReview}
    autoscaling::{Scale}
    batch::{CronJob, Job}
    certificates::{CertificateSigningRequest, ClusterTrustBundle, PodCertificateRequest}
    coordination::{Lease}
    core::{
        ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, NodeStatus, PersistentVolume, PersistentVolumeClaim, Pod, PodStatus, PodTemplateSpec, ReplicationController,
        ResourceQuota, Secret, Service, ServiceAccount, Volume,
    }
    discovery::{EndpointSlice}
    events::{Event}
    meta::{LabelSelector}
    networking::{Ingress, IPAddress, NetworkPolicy, ServiceCIDR}
    node::{RuntimeClass}
    policy::{PodDisruptionBudget}
    rbac::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding}
    scheduling::{PriorityClass}
    storage::{CSINode, StorageClass, VolumeAttachment, VolumeAttributesClass}
}
