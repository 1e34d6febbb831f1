//! Who asks, and whether they may (upstream: `pkg/kubelet/server/auth.go`, `cmd/kubelet/app/auth.go`). A client certificate that the
//! TLS layer has verified names its user; a token is asked about by TokenReview. What the user may do, the API server says
//! (SubjectAccessReview). Both answers are remembered for upstream's times.

use std::collections::{BTreeMap, BTreeSet};

use http::header::AUTHORIZATION;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;

use super::{Body, plain};
use crate::context::Context;

const TOKEN_LIFE: SignedDuration = SignedDuration::from_mins(2);
const ALLOWED_LIFE: SignedDuration = SignedDuration::from_mins(5);
const DENIED_LIFE: SignedDuration = SignedDuration::from_secs(30);
/// Answers that are remembered; when there are more, all are forgotten.
const REMEMBERED_MAX: usize = 4096;

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: BTreeSet<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// User, verb, subresource.
type Question = (User, &'static str, &'static str);

#[derive(Default)]
pub struct Auth {
    tokens: Mutex<BTreeMap<String, (User, Timestamp)>>,
    decisions: Mutex<BTreeMap<Question, (bool, Timestamp)>>,
}

impl Auth {
    /// # Errors
    /// The answer to a request that is not allowed.
    pub async fn check(&self, context: &Context, request: &Request<Incoming>, certificate: Option<&CertificateDer<'static>>) -> Result<(), Response<Body>> {
        let user = self.user(context, request, certificate).await?;
        let verb = verb(request.method());
        let wanted = subresources(request.uri().path());
        for subresource in wanted {
            let allowed = self.is_allowed(context, &user, verb, subresource).await.map_err(|why| {
                tracing::warn!(user = user.name, %why, "cannot ask whether a user may use the node API");
                plain(StatusCode::INTERNAL_SERVER_ERROR, "Authorization error")
            })?;
            if allowed {
                return Ok(());
            }
        }
        let first = wanted.first().copied().unwrap_or_default();
        Err(plain(StatusCode::FORBIDDEN, format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{first}])\n", user.name)))
    }

    async fn user(&self, context: &Context, request: &Request<Incoming>, certificate: Option<&CertificateDer<'static>>) -> Result<User, Response<Body>> {
        let unauthorized = || plain(StatusCode::UNAUTHORIZED, "Unauthorized");
        if let Some(user) = certificate.and_then(|c| of_certificate(c)) {
            return Ok(user);
        }
        let token = request.headers().get(AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Bearer ")).map(str::trim);
        let token = token.filter(|t| !t.is_empty()).ok_or_else(unauthorized)?;
        let now = context.env.now();
        if let Some((user, until)) = self.tokens.lock().get(token)
            && now < *until
        {
            return Ok(user.clone());
        }
        let user = review(context, token).await.map_err(|why| {
            tracing::debug!(%why, "a token was refused");
            unauthorized()
        })?;
        let mut tokens = self.tokens.lock();
        if tokens.len() >= REMEMBERED_MAX {
            tokens.clear();
        }
        tokens.insert(token.to_owned(), (user.clone(), now + TOKEN_LIFE));
        Ok(user)
    }

    async fn is_allowed(&self, context: &Context, user: &User, verb: &'static str, subresource: &'static str) -> Result<bool, knarr_core::Status> {
        let question = (user.clone(), verb, subresource);
        let now = context.env.now();
        if let Some((allowed, until)) = self.decisions.lock().get(&question)
            && now < *until
        {
            return Ok(*allowed);
        }
        let allowed = ask(context, user, verb, subresource).await?;
        let mut decisions = self.decisions.lock();
        if decisions.len() >= REMEMBERED_MAX {
            decisions.clear();
        }
        decisions.insert(question, (allowed, now + if allowed { ALLOWED_LIFE } else { DENIED_LIFE }));
        Ok(allowed)
    }
}

/// Common name and organizations of a certificate.
fn of_certificate(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate.as_ref()).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: BTreeSet<String> = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    groups.insert("system:authenticated".into());
    Some(User { name, groups, ..Default::default() })
}

async fn review(context: &Context, token: &str) -> Result<User, String> {
    let review = TokenReview { spec: TokenReviewSpec { token: token.into(), audiences: None }, ..Default::default() };
    let status = context.client.all::<TokenReview>().create(&review).await.map_err(|e| e.to_string())?.status.unwrap_or_default();
    if status.authenticated != Some(true) {
        return Err(status.error.unwrap_or_else(|| "not authenticated".into()));
    }
    let user = status.user.unwrap_or_default();
    Ok(User {
        name: user.username.unwrap_or_default(),
        uid: user.uid.unwrap_or_default(),
        groups: user.groups.unwrap_or_default().into_iter().collect(),
        extra: user.extra.unwrap_or_default(),
    })
}

async fn ask(context: &Context, user: &User, verb: &str, subresource: &str) -> Result<bool, knarr_core::Status> {
    let attributes = ResourceAttributes {
        verb: Some(verb.into()),
        version: Some("v1".into()),
        resource: Some("nodes".into()),
        subresource: Some(subresource.into()),
        name: Some(context.config.node_name.clone()),
        ..Default::default()
    };
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            uid: (!user.uid.is_empty()).then(|| user.uid.clone()),
            groups: Some(user.groups.iter().cloned().collect()),
            extra: (!user.extra.is_empty()).then(|| user.extra.clone()),
            resource_attributes: Some(attributes),
            ..Default::default()
        },
        ..Default::default()
    };
    let answer = context.client.all::<SubjectAccessReview>().create(&review).await?;
    Ok(answer.status.is_some_and(|s| s.allowed))
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// The subresources of `nodes` any one of which opens a path.
fn subresources(path: &str) -> &'static [&'static str] {
    match path.trim_start_matches('/').split('/').next().unwrap_or_default() {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "checkpoint" => &["checkpoint"],
        "statusz" => &["statusz"],
        "pods" | "runningpods" => &["pods", "proxy"],
        "healthz" => &["healthz", "proxy"],
        "configz" => &["configz", "proxy"],
        _ => &["proxy"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_opened_by_the_rights_on_the_node() {
        assert_eq!(subresources("/metrics/resource"), ["metrics"]);
        assert_eq!(subresources("/pods"), ["pods", "proxy"]);
        assert_eq!(subresources("/exec/a/b/c"), ["proxy"]);
        assert_eq!(subresources("/logsx"), ["proxy"]);
    }

    #[test]
    fn a_certificate_names_its_user() {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "kube-apiserver-kubelet-client");
        parameters.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
        let key = rcgen::KeyPair::generate().unwrap();
        let user = of_certificate(parameters.self_signed(&key).unwrap().der()).unwrap();
        assert_eq!(user.name, "kube-apiserver-kubelet-client");
        assert!(user.groups.contains("system:masters") && user.groups.contains("system:authenticated"));
    }
}
