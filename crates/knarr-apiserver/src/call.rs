//! One request as values, whichever way it came in (the wire or this process), and its answer before anybody encodes it.
//! The edges ([`crate::http`], [`crate::transport`]) make the first and write the second.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use knarr_core::{
    Object, Result, Status, Value,
    api::{Options, PatchType},
};
use parking_lot::Mutex;

use crate::{
    audit::Record,
    authn::User,
    catalog::{Catalog, Served},
    flowcontrol::Seat,
    http::Media,
    read::{Page, Watching},
    request::{Query, RequestInfo},
    server::Inner,
};

/// What a request carries.
#[derive(Debug, Default)]
pub enum Input {
    #[default]
    None,
    Tree(Value),
    Encoded {
        media: Media,
        bytes: Bytes,
    },
}

impl Input {
    pub fn is_empty(&self) -> bool {
        match self {
            Self::None => true,
            Self::Tree(_) => false,
            Self::Encoded { bytes, .. } => bytes.is_empty(),
        }
    }
}

/// One request, read but not yet decided.
pub struct Call {
    pub user: Arc<User>,
    pub info: Arc<RequestInfo>,
    pub options: Options,
    pub query: Query,
    pub input: Input,
    /// Set for the verb `patch`.
    pub patch: Option<PatchType>,
    pub user_agent: String,
    /// Where it is written down, if it is.
    pub record: Option<Arc<Record>>,
}

impl Call {
    /// Who owns the fields that this write sets: `fieldManager`, else the user agent up to its slash
    /// (upstream: `managerOrUserAgent`).
    pub fn manager(&self) -> &str {
        match &self.options.field_manager {
            Some(name) => name,
            None => self.user_agent.split('/').next().unwrap_or_default(),
        }
    }
}

/// A good answer.
pub enum Outcome {
    /// A stored object, in its stored version.
    Object {
        served: Arc<Served>,
        object: Object,
        code: u16,
    },
    /// Something that is not stored: a review, a `Status` of success.
    Value {
        value: Value,
        code: u16,
    },
    /// What an object of this resource shows as its scale.
    Scale {
        served: Arc<Served>,
        scale: Value,
        code: u16,
    },
    List {
        served: Arc<Served>,
        page: Page,
    },
    Watch {
        served: Arc<Served>,
        watching: Box<Watching>,
    },
}

impl Outcome {
    /// Hands the seat of the request to a watch, which needs it until its first state is told. Of anything else it comes back.
    pub fn hold(&mut self, server: &Inner, call: &Call, seat: Option<Seat>) -> Option<Seat> {
        let Self::Watch { watching, .. } = self else { return seat };
        watching.hold(seat, server.flow.register(&call.info));
        None
    }

    /// The status code of the answer.
    pub fn code(&self) -> u16 {
        match self {
            Self::Object { code, .. } | Self::Value { code, .. } | Self::Scale { code, .. } => *code,
            Self::List { .. } | Self::Watch { .. } => 200,
        }
    }

    pub fn value(value: Value) -> Self {
        Self::Value { value, code: 200 }
    }
}

/// A refusal, with the token that lets an expired list go on.
#[derive(Clone, Debug)]
pub struct Failure {
    pub status: Status,
    pub continue_token: Option<String>,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self { status, continue_token: None }
    }
}

/// A request being answered: what it asks, what it asks it of, and what is said beside the answer.
pub struct Exchange<'a> {
    pub server: &'a Inner,
    pub catalog: Arc<Catalog>,
    pub served: Arc<Served>,
    pub call: &'a Call,
    warnings: Mutex<Vec<String>>,
    annotations: Mutex<Vec<(String, String)>>,
    labels_defaulted: AtomicBool,
}

impl<'a> Exchange<'a> {
    pub fn new(server: &'a Inner, catalog: Arc<Catalog>, served: Arc<Served>, call: &'a Call) -> Self {
        Self { server, catalog, served, call, warnings: Mutex::default(), annotations: Mutex::default(), labels_defaulted: AtomicBool::new(false) }
    }

    /// Defaulting gave the object of the request its labels.
    pub fn note_default_labels(&self) {
        self.labels_defaulted.store(true, Ordering::Relaxed);
    }

    pub fn labels_defaulted(&self) -> bool {
        self.labels_defaulted.load(Ordering::Relaxed)
    }

    /// Adds a `Warning` header, once.
    pub fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        let mut warnings = self.warnings.lock();
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    pub fn warn_all(&self, texts: impl IntoIterator<Item = String>) {
        texts.into_iter().for_each(|t| self.warn(t));
    }

    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock())
    }

    /// Writes the object in the body down, where requests are written down.
    pub fn record_request(&self, object: &Value) {
        if let Some(record) = &self.call.record {
            record.request_object(object);
        }
    }

    /// Adds annotations to the audit event of the request; the first of a key counts.
    pub fn annotate_all(&self, annotations: impl IntoIterator<Item = (String, String)>) {
        let mut known = self.annotations.lock();
        for (key, value) in annotations {
            if !known.iter().any(|(k, _)| *k == key) {
                known.push((key, value));
            }
        }
    }

    pub fn take_annotations(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.annotations.lock())
    }

    pub fn namespace(&self) -> &str {
        if self.served.resource.namespaced { &self.call.info.namespace } else { "" }
    }

    /// The name in the path.
    ///
    /// # Errors
    /// `BadRequest` when there is none.
    pub fn name(&self) -> Result<&str> {
        match self.call.info.name.as_str() {
            "" => Err(Status::bad_request("name must be provided")),
            name => Ok(name),
        }
    }

    pub fn dry_run(&self) -> bool {
        self.call.options.dry_run
    }
}

impl knarr_kinds::Warn for Exchange<'_> {
    fn warn(&self, text: String) {
        Exchange::warn(self, text);
    }
}
