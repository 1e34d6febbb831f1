//! What can go wrong between us and the server, before there is an answer.

use std::io;
use std::time::Duration;

use knarr_core::api::Request;
use knarr_core::{Reason, Status};

/// No answer, and why. Go's words where users know them by heart.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Config(String),
    #[error("dial tcp {address}: {source}")]
    Connect { address: String, source: io::Error },
    #[error("tls: {0}")]
    Tls(io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("context deadline exceeded (no answer within {0:?})")]
    Timeout(Duration),
}

impl Error {
    /// Nobody listens there.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused)
    }

    /// As the API would say it: 503 (retriable), or 504 after a time limit.
    pub fn to_status(&self, request: &Request) -> Status {
        let message = format!("{} {}: {self}", request.verb.as_str(), request.resource.group_resource());
        match self {
            Self::Timeout(_) => Status::new(504, Reason::Timeout, message),
            Self::Config(_) => Status::internal(message),
            _ => Status::service_unavailable(message),
        }
    }
}
