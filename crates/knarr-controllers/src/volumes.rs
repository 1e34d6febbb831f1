//! Claims and volumes: which volume a claim gets ([`binder`], [`matching`], [`provision`]), what must not be deleted while it is
//! in use ([`protection`], [`class_protection`]), and claims that live and die with a pod ([`ephemeral`]).

mod binder;
mod class_protection;
mod ephemeral;
mod matching;
mod protection;
mod provision;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use knarr_client::{Informer, Project, read};
use knarr_core::{Object, Result};
use serde::Deserialize;

use crate::context::ControllerContext;

pub fn start(context: &ControllerContext) {
    protection::start(context);
    class_protection::start(context);
    binder::start(context);
    ephemeral::start(context);
}

/// What is kept of a claim.
#[derive(Debug, PartialEq, Eq)]
pub struct ClaimView {
    pub volume: Option<Box<str>>,
    /// Its phase is `Bound`.
    pub bound: bool,
    pub deleting: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wire {
    spec: WireSpec,
    status: WireStatus,
}

knarr_client::partial!(Wire);

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireSpec {
    volume_name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireStatus {
    phase: String,
}

impl Project for ClaimView {
    fn project(object: &Object) -> Result<Self> {
        let Wire { spec, status } = read::typed(object)?;
        Ok(Self {
            volume: (!spec.volume_name.is_empty()).then(|| spec.volume_name.into()),
            bound: status.phase == "Bound",
            deleting: knarr_schema::codec::meta(object).deleting,
        })
    }
}

/// The shared informer of all claims.
fn claims(context: &ControllerContext) -> Informer<ClaimView> {
    context.informer::<PersistentVolumeClaim, ClaimView>()
}
