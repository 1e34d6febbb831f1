//! The cluster's keys, for those controllers that sign.

use std::sync::Arc;

use knarr_apiserver::authn::{LegacyClaims, ServiceAccountKey};
use knarr_apiserver::pki::Pki;
use knarr_controllers::ClusterKeys;
use knarr_core::clock::Env;
use knarr_core::{Result, Status};
use knarr_kinds::certificates::request::CertificateRequest;

/// Keys out of the cluster's folder.
pub struct Keys {
    pub pki: Arc<Pki>,
    pub tokens: Arc<ServiceAccountKey>,
    pub env: Env,
}

impl ClusterKeys for Keys {
    fn sign(&self, request: &CertificateRequest, usages: &[&str], seconds: i64) -> Result<String> {
        self.pki.ca.sign(request, usages, seconds, self.env.now()).map_err(Status::internal)
    }

    fn secret_token(&self, namespace: &str, account: &str, account_uid: &str, secret: &str) -> Result<String> {
        self.tokens.issue_legacy(&LegacyClaims::new(namespace, account, account_uid, secret))
    }
}
