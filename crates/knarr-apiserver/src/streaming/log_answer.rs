//! A node refuses a log in plain text. Clients of the API expect a `Status`, which carries that text to the user (upstream:
//! `GenericHttpResponseChecker`).

use http::{Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use knarr_core::{
    Result, Status,
    status::{Details, Reason},
};

use crate::http::Body;

/// Most bytes of a refusal that are told on (upstream: `maxReadLength`).
const TEXT_BYTES_MAX: usize = 50_000;

/// The answer of a node that was asked for the log of the pod `name`.
///
/// # Errors
/// Every answer that is not a log, in the node's own words.
pub async fn checked(name: &str, answer: Response<Body>) -> Result<Response<Body>> {
    let code = answer.status();
    if (StatusCode::OK..=StatusCode::PARTIAL_CONTENT).contains(&code) {
        return Ok(answer);
    }
    let text = Limited::new(answer.into_body(), TEXT_BYTES_MAX).collect().await.map_err(Status::internal)?.to_bytes();
    Err(refusal(name, code, &String::from_utf8_lossy(&text)))
}

fn refusal(name: &str, code: StatusCode, text: &str) -> Status {
    let (reason, message) = match code {
        StatusCode::INTERNAL_SERVER_ERROR => return Status::internal(text),
        StatusCode::BAD_REQUEST => return Status::bad_request(text),
        StatusCode::NOT_FOUND => (Reason::NotFound, "the server could not find the requested resource".to_owned()),
        StatusCode::UNAUTHORIZED => (Reason::Unauthorized, "the server has asked for the client to provide credentials".to_owned()),
        StatusCode::FORBIDDEN => (Reason::Forbidden, text.to_owned()),
        StatusCode::SERVICE_UNAVAILABLE => (Reason::ServiceUnavailable, "the server is currently unable to handle the request".to_owned()),
        _ if code.is_server_error() => (Reason::InternalError, format!("an error on the server ({text:?}) has prevented the request from succeeding")),
        _ => (Reason::Unknown, format!("the server responded with the status code {} but did not return more information", code.as_u16())),
    };
    // Upstream leaves the verb out here, too, but not the blank behind it.
    let message = format!("{message} ( pods/log {name})");
    Status::new(code.as_u16(), reason, message).with_details(Details { name: name.to_owned(), kind: "pods/log".to_owned(), ..Details::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn of(code: StatusCode, body: &str) -> Result<Response<Body>> {
        checked("p", Response::builder().status(code).body(Body::from(body.to_owned())).unwrap()).await
    }

    #[tokio::test]
    async fn what_a_node_refuses_reaches_the_user_in_its_words() {
        let waiting = "container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image";
        let refused = of(StatusCode::BAD_REQUEST, waiting).await.err().unwrap();
        assert_eq!((refused.code, refused.reason, refused.message.as_str()), (400, Reason::BadRequest, waiting));
        let broken = of(StatusCode::INTERNAL_SERVER_ERROR, "no disk").await.err().unwrap();
        assert_eq!((broken.code, broken.message.as_str()), (500, "Internal error occurred: no disk"));
        let absent = of(StatusCode::NOT_FOUND, "gone").await.err().unwrap();
        assert_eq!((absent.code, absent.message.as_str()), (404, "the server could not find the requested resource ( pods/log p)"));
    }

    #[tokio::test]
    async fn a_log_passes_as_it_is() {
        let log = of(StatusCode::OK, "line\n").await.unwrap_or_else(|refused| panic!("{}", refused.message));
        assert_eq!(log.into_body().collect().await.unwrap().to_bytes(), "line\n");
    }
}
