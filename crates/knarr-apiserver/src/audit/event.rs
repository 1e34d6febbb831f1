//! An audit event and its texts (upstream: `apis/audit/v1`, `audit/format.go`).

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use bytes::Bytes;
use jiff::Timestamp;
use knarr_core::{Status, Value, ValueExt, field::go_quote, time};

use super::policy::{Level, Stage};
use crate::{authn::User, encode::json, request::RequestInfo};

/// The beginning of each event on its own; in a list, events do not say what they are.
const HEAD: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","#;
/// Longest user agent that is written down (upstream: `maxUserAgentLength`).
const AGENT_MAX: usize = 1024;

/// The object that a request is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectRef {
    pub resource: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub group: String,
    pub version: String,
    pub resource_version: String,
    pub subresource: String,
}

/// The parts of a `Status` that are written down. Without one, the code alone.
#[derive(Clone, Debug, Default)]
pub struct ResponseStatus {
    pub status: Option<Value>,
    pub code: u16,
}

/// One event. Clones share all that is large.
#[derive(Clone, Debug, Default)]
pub struct Event {
    pub level: Level,
    pub id: String,
    pub stage: Stage,
    pub uri: String,
    pub verb: String,
    pub user: Option<Arc<User>>,
    pub impersonated: Option<Arc<User>>,
    /// The mode of constrained impersonation.
    pub constraint: String,
    pub source_ips: Vec<IpAddr>,
    pub agent: String,
    pub object: Option<ObjectRef>,
    pub response: Option<ResponseStatus>,
    pub request_object: Option<Bytes>,
    pub response_object: Option<Bytes>,
    pub received: Timestamp,
    pub staged: Timestamp,
    pub annotations: BTreeMap<String, String>,
}

impl ObjectRef {
    pub fn new(info: &RequestInfo) -> Self {
        Self {
            resource: info.resource.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            group: info.group.clone(),
            version: info.version.clone(),
            subresource: info.subresource.clone(),
            ..Self::default()
        }
    }

    /// Takes from the object in the body what the path did not say.
    pub fn fill(&mut self, object: &Value) {
        let text = |key: &str| object.str_at(&["metadata", key]).unwrap_or_default();
        for (field, key) in
            [(&mut self.namespace, "namespace"), (&mut self.name, "name"), (&mut self.uid, "uid"), (&mut self.resource_version, "resourceVersion")]
        {
            if field.is_empty() {
                text(key).clone_into(field);
            }
        }
    }
}

/// A long user agent is cut.
pub fn agent(text: &str) -> String {
    match text.len() > AGENT_MAX {
        false => text.to_owned(),
        true => {
            let end = (0..=AGENT_MAX).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
            format!("{}...TRUNCATED", &text[..end])
        }
    }
}

/// Writes an object field by field.
struct Fields<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl<'a> Fields<'a> {
    fn open(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, first: true }
    }

    fn key(&mut self, key: &str) -> &mut Vec<u8> {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        json::put_string(self.out, key);
        self.out.push(b':');
        self.out
    }

    fn text(&mut self, key: &str, text: &str) {
        json::put_string(self.key(key), text);
    }

    fn text_if_any(&mut self, key: &str, text: &str) {
        if !text.is_empty() {
            self.text(key, text);
        }
    }

    fn texts_if_any(&mut self, key: &str, texts: impl IntoIterator<Item = impl AsRef<str>>) {
        let mut texts = texts.into_iter().peekable();
        if texts.peek().is_none() {
            return;
        }
        let out = self.key(key);
        out.push(b'[');
        for (i, text) in texts.enumerate() {
            if i > 0 {
                out.push(b',');
            }
            json::put_string(out, text.as_ref());
        }
        out.push(b']');
    }

    fn raw_if_any(&mut self, key: &str, bytes: Option<&Bytes>) {
        if let Some(bytes) = bytes {
            self.key(key).extend_from_slice(bytes.trim_ascii());
        }
    }

    fn close(self) {
        self.out.push(b'}');
    }
}

impl Event {
    /// The event as one line of JSON, in upstream's order of fields.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        out.extend_from_slice(HEAD.as_bytes());
        let mut f = Fields { out: &mut out, first: true };
        f.text("level", self.level.as_str());
        f.text("auditID", &self.id);
        f.text("stage", self.stage.as_str());
        f.text("requestURI", &self.uri);
        f.text("verb", &self.verb);
        user(f.key("user"), self.user.as_deref());
        if let Some(impersonated) = &self.impersonated {
            user(f.key("impersonatedUser"), Some(impersonated));
        }
        if !self.constraint.is_empty() {
            let mut metadata = Fields::open(f.key("authenticationMetadata"));
            metadata.text("impersonationConstraint", &self.constraint);
            metadata.close();
        }
        f.texts_if_any("sourceIPs", self.source_ips.iter().map(ToString::to_string));
        f.text_if_any("userAgent", &self.agent);
        if let Some(object) = &self.object {
            object_ref(f.key("objectRef"), object);
        }
        if let Some(response) = &self.response {
            status(f.key("responseStatus"), response);
        }
        f.raw_if_any("requestObject", self.request_object.as_ref());
        f.raw_if_any("responseObject", self.response_object.as_ref());
        f.text("requestReceivedTimestamp", &time::format_micro(self.received));
        f.text("stageTimestamp", &time::format_micro(self.staged));
        if !self.annotations.is_empty() {
            let mut annotations = Fields::open(f.key("annotations"));
            self.annotations.iter().for_each(|(key, value)| annotations.text(key, value));
            annotations.close();
        }
        f.close();
        out
    }

    /// The event on one line of text (`--audit-log-format=legacy`).
    pub fn to_line(&self) -> String {
        let or = |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { text.to_owned() };
        let groups = |user: &User| user.groups.iter().map(|g| go_quote(g)).collect::<Vec<_>>().join(",");
        let named = self.user.as_deref().filter(|u| !u.name.is_empty());
        let impersonated = self.impersonated.as_deref();
        let words = [
            ("id", self.id.clone()),
            ("stage", self.stage.as_str().to_owned()),
            ("ip", self.source_ips.first().map_or_else(|| "<unknown>".into(), ToString::to_string)),
            ("method", self.verb.clone()),
            ("user", named.map_or_else(|| "<none>".into(), |u| u.name.clone())),
            ("groups", named.map_or_else(|| "<none>".into(), |u| or(&groups(u), "<none>"))),
            ("as", impersonated.map_or_else(|| "<self>".into(), |u| u.name.clone())),
            ("asgroups", impersonated.map_or_else(|| "<lookup>".into(), |u| or(&groups(u), "<lookup>"))),
            ("user-agent", self.agent.clone()),
            ("namespace", or(self.object.as_ref().map_or("", |o| &o.namespace), "<none>")),
            ("uri", self.uri.clone()),
        ];
        let words: Vec<String> = words.iter().map(|(key, value)| format!("{key}={}", go_quote(value))).collect();
        let response = self.response.as_ref().map_or_else(|| "<deferred>".into(), |r| r.code.to_string());
        format!("{} AUDIT: {} response=\"{response}\"", self.received, words.join(" "))
    }
}

/// The items of an `EventList`, from events that stand alone.
pub fn list<'a>(events: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#.to_vec();
    for (i, event) in events.enumerate() {
        out.extend_from_slice(if i > 0 { b",{" } else { b"{" });
        out.extend_from_slice(event.strip_prefix(HEAD.as_bytes()).unwrap_or(event));
    }
    out.extend_from_slice(b"]}\n");
    out
}

fn user(out: &mut Vec<u8>, user: Option<&User>) {
    let mut f = Fields::open(out);
    if let Some(user) = user {
        f.text_if_any("username", &user.name);
        f.text_if_any("uid", &user.uid);
        f.texts_if_any("groups", &user.groups);
        if !user.extra.is_empty() {
            let mut extra = Fields::open(f.key("extra"));
            for (key, values) in &user.extra {
                extra.texts_if_any(key, values);
            }
            extra.close();
        }
    }
    f.close();
}

fn object_ref(out: &mut Vec<u8>, object: &ObjectRef) {
    let mut f = Fields::open(out);
    for (key, text) in [
        ("resource", &object.resource),
        ("namespace", &object.namespace),
        ("name", &object.name),
        ("uid", &object.uid),
        ("apiGroup", &object.group),
        ("apiVersion", &object.version),
        ("resourceVersion", &object.resource_version),
        ("subresource", &object.subresource),
    ] {
        f.text_if_any(key, text);
    }
    f.close();
}

fn status(out: &mut Vec<u8>, response: &ResponseStatus) {
    let mut f = Fields::open(out);
    f.key("metadata").extend_from_slice(b"{}");
    if let Some(status) = &response.status {
        for key in ["status", "message", "reason"] {
            f.text_if_any(key, status.str_at(&[key]).unwrap_or_default());
        }
        if let Some(details) = status.at(&["details"]) {
            json::put_value(f.key("details"), details);
        }
    }
    if response.code > 0 {
        json::put_number(f.key("code"), response.code);
    }
    f.close();
}

impl From<&Status> for ResponseStatus {
    fn from(status: &Status) -> Self {
        Self { code: status.code, status: Some(status.to_value()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    fn event() -> Event {
        let user = User { name: "jane".into(), groups: vec!["a".into(), "b".into()], ..User::default() };
        let mut object = ObjectRef { resource: "pods".into(), namespace: "n".into(), version: "v1".into(), ..ObjectRef::default() };
        object.fill(&json!({"metadata": {"name": "p", "namespace": "other", "uid": "u1"}}));
        Event {
            level: Level::Request,
            id: "1-2".into(),
            stage: Stage::ResponseComplete,
            uri: "/api/v1/namespaces/n/pods?a=1&b=2".into(),
            verb: "create".into(),
            user: Some(Arc::new(user)),
            source_ips: vec!["10.0.0.1".parse().unwrap()],
            agent: "curl/8".into(),
            object: Some(object),
            response: Some(ResponseStatus { code: 201, status: None }),
            request_object: Some(Bytes::from_static(b"{\"kind\":\"Pod\"}\n")),
            annotations: BTreeMap::from([("authorization.k8s.io/decision".into(), "allow".into())]),
            received: "2026-01-02T03:04:05.123456Z".parse().unwrap(),
            staged: "2026-01-02T03:04:05.2Z".parse().unwrap(),
            ..Event::default()
        }
    }

    #[test]
    fn an_event_is_one_line_of_json_in_upstreams_order() {
        let wanted = concat!(
            r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Request","auditID":"1-2","stage":"ResponseComplete","#,
            r#""requestURI":"/api/v1/namespaces/n/pods?a=1\u0026b=2","verb":"create","user":{"username":"jane","groups":["a","b"]},"#,
            r#""sourceIPs":["10.0.0.1"],"userAgent":"curl/8","#,
            r#""objectRef":{"resource":"pods","namespace":"n","name":"p","uid":"u1","apiVersion":"v1"},"#,
            r#""responseStatus":{"metadata":{},"code":201},"requestObject":{"kind":"Pod"},"#,
            r#""requestReceivedTimestamp":"2026-01-02T03:04:05.123456Z","stageTimestamp":"2026-01-02T03:04:05.200000Z","#,
            r#""annotations":{"authorization.k8s.io/decision":"allow"}}"#,
        );
        assert_eq!(String::from_utf8(event().to_json()).unwrap(), wanted);
        let refused = Event { response: Some((&Status::unauthorized("Unauthorized")).into()), ..Event::default() };
        let text = String::from_utf8(refused.to_json()).unwrap();
        let status = r#""responseStatus":{"metadata":{},"status":"Failure","message":"Unauthorized","reason":"Unauthorized","code":401},"#;
        assert!(text.contains(status) && text.contains(r#""user":{},"#), "{text}");
    }

    #[test]
    fn events_of_a_list_do_not_say_what_they_are() {
        let json = event().to_json();
        let list: Value = serde_json::from_slice(&list([json.as_slice(), &json].into_iter())).unwrap();
        assert_eq!((list["kind"].as_str(), list["items"].as_array().unwrap().len()), (Some("EventList"), 2));
        assert_eq!((list["items"][1].get("kind"), &list["items"][1]["level"]), (None, &json!("Request")));
    }

    #[test]
    fn the_old_format_is_one_line_of_words() {
        let wanted = concat!(
            r#"2026-01-02T03:04:05.123456Z AUDIT: id="1-2" stage="ResponseComplete" ip="10.0.0.1" method="create" user="jane" groups="\"a\",\"b\"" "#,
            r#"as="<self>" asgroups="<lookup>" user-agent="curl/8" namespace="n" uri="/api/v1/namespaces/n/pods?a=1&b=2" response="201""#,
        );
        assert_eq!(event().to_line(), wanted);
        assert_eq!(agent(&"x".repeat(2000)).len(), AGENT_MAX + "...TRUNCATED".len());
    }
}
