//! The transport over the network: Kubernetes' wire over TLS, HTTP/2 where the server offers it.
//!
//! ```text
//! Request → url → pool (one multiplexed connection, more when its streams run out) → frames → Object
//! ```
//!
//! It asks for protobuf and takes JSON (custom resources have no other form). It goes straight to the server it was
//! given and never through a proxy that some environment variable names.

mod config;
mod error;
mod frames;
mod pool;
mod url;

pub use config::{Config, Identity};
pub use error::Error;
pub use pool::{Body, Upgraded};

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use http_body_util::{BodyExt, BodyStream};
use knarr_core::api::{List, Reply, Request, Transport, Verb, Watch};
use knarr_core::{Result, Status};

use crate::client::Client;

const ACCEPT_OBJECTS: &str = "application/vnd.kubernetes.protobuf,application/json";
const ACCEPT_EVENTS: &str = "application/vnd.kubernetes.protobuf;stream=watch,application/json;stream=watch";
const ACCEPT_JSON: &str = "application/json";
/// How often a request that the server puts off (429 or 503 with `Retry-After`) is sent again (upstream: 10).
const RETRIES_MAX: u32 = 10;

/// A connection to one API server, as one user. Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub struct TlsTransport(Arc<pool::Pool>);

impl TlsTransport {
    /// Reads certificates and keys; connects on first use.
    ///
    /// # Errors
    /// A URL, certificate or key that cannot be read.
    pub fn new(config: Config) -> std::result::Result<Self, Error> {
        Ok(Self(Arc::new(pool::Pool::new(config)?)))
    }

    /// A client over this transport.
    pub fn client(&self) -> Client {
        Client::new(Arc::new(self.clone()))
    }

    /// The server's URL as it was configured.
    pub fn server(&self) -> &str {
        &self.0.config().server
    }

    /// Sends any HTTP request. Its URI needs only path and query; credentials and host are added. The answer comes as
    /// soon as its headers are there, whatever its code.
    ///
    /// # Errors
    /// No connection, or one that broke.
    pub async fn request(&self, request: http::Request<Bytes>) -> std::result::Result<http::Response<Body>, Error> {
        self.0.send(request).await
    }

    /// The same, with the whole body of the answer.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn fetch(&self, request: http::Request<Bytes>) -> std::result::Result<http::Response<Bytes>, Error> {
        let (head, body) = self.request(request).await?.into_parts();
        Ok(http::Response::from_parts(head, body.collect().await?.to_bytes()))
    }

    /// Sends a request with upgrade headers over a connection of its own (HTTP/1.1). With status 101 the connection
    /// comes back as a stream; with any other the response is all there is.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn upgrade(&self, request: http::Request<Bytes>) -> std::result::Result<(http::Response<Bytes>, Option<Upgraded>), Error> {
        self.0.upgrade(request).await
    }

    /// Uses another client certificate from now on (it was renewed). Connections under the old one are let go.
    ///
    /// # Errors
    /// A certificate or key that cannot be read.
    pub fn set_identity(&self, certificate_pem: &[u8], key_pem: &[u8]) -> std::result::Result<(), Error> {
        self.0.set_identity(certificate_pem, key_pem)
    }

    fn http_request(&self, request: &Request) -> Result<http::Request<Bytes>> {
        let method = match request.verb {
            Verb::Get | Verb::List | Verb::Watch => http::Method::GET,
            Verb::Create => http::Method::POST,
            Verb::Update => http::Method::PUT,
            Verb::Patch(_) => http::Method::PATCH,
            Verb::Delete | Verb::DeleteCollection => http::Method::DELETE,
        };
        let accept = match request.verb {
            Verb::Watch => ACCEPT_EVENTS,
            // A deletion answers with an object or with a `Status`: JSON tells them apart.
            Verb::Delete | Verb::DeleteCollection => ACCEPT_JSON,
            _ => ACCEPT_OBJECTS,
        };
        let mut builder = http::Request::builder().method(method).uri(url::path_and_query(request)).header(ACCEPT, accept);
        if request.body.is_some() {
            let content_type = if let Verb::Patch(kind) = request.verb { kind.content_type() } else { ACCEPT_JSON };
            builder = builder.header(CONTENT_TYPE, content_type);
        }
        let body = request.body.as_ref().map(ToString::to_string).unwrap_or_default();
        builder.body(body.into()).map_err(Status::internal)
    }

    /// Sends until the server takes it; gives a successful response.
    async fn send(&self, request: &Request) -> Result<http::Response<Body>> {
        let mut tries = 0;
        loop {
            let response = self.request(self.http_request(request)?).await.map_err(|e| e.to_status(request))?;
            if response.status().is_success() {
                return Ok(response);
            }
            let put_off = matches!(response.status().as_u16(), 429 | 503).then(|| retry_after(&response)).flatten();
            match put_off {
                Some(wait) if tries < RETRIES_MAX => {
                    tries += 1;
                    tokio::time::sleep(wait).await;
                }
                _ => return Err(failure(response).await),
            }
        }
    }

    async fn receive(&self, request: &Request) -> Result<(frames::ContentType, Bytes)> {
        let work = async {
            let response = self.send(request).await?;
            let content_type = frames::ContentType::of(response.headers());
            let body = response.into_body().collect().await.map_err(|e| e.to_status(request))?;
            Ok((content_type, body.to_bytes()))
        };
        let limit = self.0.config().timeout;
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(Error::Timeout(limit).to_status(request)))
    }
}

fn retry_after(response: &http::Response<Body>) -> Option<Duration> {
    let seconds: u64 = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds.max(1)))
}

async fn failure(response: http::Response<Body>) -> Status {
    let code = response.status();
    let content_type = frames::ContentType::of(response.headers());
    match response.into_body().collect().await {
        Ok(body) => frames::failure(content_type, &body.to_bytes(), code.as_u16()),
        Err(error) => Status::new(code.as_u16(), knarr_core::Reason::Unknown, error.to_string()),
    }
}

impl Transport for TlsTransport {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Reply>> {
        async move {
            let (content_type, body) = self.receive(&request).await?;
            frames::reply(content_type, body)
        }
        .boxed()
    }

    fn list(&self, request: Request) -> BoxFuture<'_, Result<List>> {
        async move {
            let (content_type, body) = self.receive(&request).await?;
            frames::list(content_type, body)
        }
        .boxed()
    }

    fn watch(&self, request: Request) -> BoxFuture<'_, Result<Watch>> {
        async move {
            let response = self.send(&request).await?;
            let mut decoder = frames::EventDecoder::new(frames::ContentType::of(response.headers()));
            let body = BodyStream::new(response.into_body());
            let events = body.map(move |chunk| match chunk {
                Ok(frame) => decoder.feed(frame.into_data().unwrap_or_default()),
                Err(error) => vec![Err(error.to_status(&request))],
            });
            Ok(events.flat_map(futures::stream::iter).boxed())
        }
        .boxed()
    }
}

/// A buffer that gives whole pieces back without copying them.
type Buffer = BytesMut;

#[cfg(test)]
mod tests;
