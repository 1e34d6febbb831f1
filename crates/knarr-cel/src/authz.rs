//! Questions to the authorizer that expressions may ask (upstream: `apiserver/pkg/cel/library/authz.go`).

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// A service account (namespace, name) instead of the user of the request.
    pub service_account: Option<(String, String)>,
    /// Set for questions about a path; then all that names a resource is empty.
    pub path: Option<String>,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub field_selector: String,
    pub label_selector: String,
    pub verb: String,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub allowed: bool,
    pub reason: String,
    pub error: Option<String>,
}

/// Who answers.
pub trait Authorizer {
    fn authorize(&self, question: &Question) -> Answer;
}

/// How far a question has been put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    Authorizer(Question),
    Path(Question),
    Group(Question),
    Resource(Question),
    Decision(Answer),
}

impl Check {
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Authorizer(_) => "kubernetes.authorization.Authorizer",
            Self::Path(_) => "kubernetes.authorization.PathCheck",
            Self::Group(_) => "kubernetes.authorization.GroupCheck",
            Self::Resource(_) => "kubernetes.authorization.ResourceCheck",
            Self::Decision(_) => "kubernetes.authorization.Decision",
        }
    }
}
