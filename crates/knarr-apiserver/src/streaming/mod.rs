//! Requests that become streams: `exec`, `attach`, `portforward`, `log` and the proxies of pods, nodes and services. The
//! server authorizes and admits them, then hands them on whole.

pub mod backend;
mod links;
mod log_answer;
mod log_socket;
pub(crate) mod socket;
pub(crate) mod stream_options;
pub(crate) mod target;
pub(crate) mod trust;

pub use backend::redirected;

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    authn::User,
    http::{Body, RequestBody},
    request::RequestInfo,
};

/// What is known of a request when it is handed on.
pub struct Connect {
    pub user: Arc<User>,
    /// `info.rest` is the path behind `…/proxy/`.
    pub info: RequestInfo,
}

/// Serves the requests that connect to something.
#[async_trait]
pub trait Streaming: Send + Sync {
    /// The request still has its body and, in its extensions, hyper's `OnUpgrade`.
    async fn connect(&self, connect: Connect, request: http::Request<RequestBody>) -> knarr_core::Result<http::Response<Body>>;
}
