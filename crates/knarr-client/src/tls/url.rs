//! Paths and queries of the API.

use knarr_core::api::{Request, Verb};

/// The path of a request, with its query.
pub fn path_and_query(request: &Request) -> String {
    let mut out = String::with_capacity(96);
    let r = &request.resource;
    if r.group.is_empty() {
        out.push_str("/api/");
    } else {
        out.push_str("/apis/");
        push(&mut out, &r.group);
        out.push('/');
    }
    out.push_str(&r.version);
    if let Some(namespace) = &request.namespace {
        segment(&mut out, "namespaces");
        segment(&mut out, namespace);
    }
    segment(&mut out, &r.resource);
    for part in [&request.name, &request.subresource].into_iter().flatten() {
        segment(&mut out, part);
    }
    query(&mut out, request);
    out
}

fn segment(out: &mut String, text: &str) {
    out.push('/');
    push(out, text);
}

/// Percent-encodes everything but what RFC 3986 calls unreserved, and the few marks that names and selectors are full of.
fn push(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:@,".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

fn query(out: &mut String, request: &Request) {
    let o = &request.options;
    let mut parameters: Vec<(&str, String)> = Vec::new();
    let mut text = |name, value: &Option<String>| parameters.extend(value.clone().map(|v| (name, v)));
    text("labelSelector", &o.label_selector);
    text("fieldSelector", &o.field_selector);
    text("resourceVersion", &o.resource_version);
    text("resourceVersionMatch", &o.resource_version_match);
    text("continue", &o.continue_token);
    text("fieldManager", &o.field_manager);
    text("fieldValidation", &o.field_validation);
    text("limit", &o.limit.map(|n| n.to_string()));
    text("sendInitialEvents", &o.send_initial_events.map(|b| b.to_string()));
    text("force", &o.force.map(|b| b.to_string()));
    text("watch", &(request.verb == Verb::Watch).then(|| "true".to_owned()));
    text("allowWatchBookmarks", &o.allow_watch_bookmarks.then(|| "true".to_owned()));
    text("dryRun", &o.dry_run.then(|| "All".to_owned()));
    match (o.timeout, request.verb) {
        (Some(t), Verb::Watch | Verb::List) => parameters.push(("timeoutSeconds", t.as_secs().to_string())),
        (Some(t), _) => parameters.push(("timeout", format!("{}s", t.as_secs()))),
        (None, _) => {}
    }
    for (i, (name, value)) in parameters.iter().enumerate() {
        out.push(if i == 0 { '?' } else { '&' });
        out.push_str(name);
        out.push('=');
        push(out, value);
    }
}

#[cfg(test)]
mod tests {
    use knarr_core::GroupVersionResource;

    use super::*;

    fn path(group: &str, resource: &str, change: impl FnOnce(&mut Request)) -> String {
        let mut request = Request::new(Verb::Get, GroupVersionResource::new(group, "v1", resource));
        change(&mut request);
        path_and_query(&request)
    }

    #[test]
    fn paths_are_those_of_the_api() {
        assert_eq!(path("", "nodes", |r| r.name = Some("a".into())), "/api/v1/nodes/a");
        assert_eq!(
            path("apps", "deployments", |r| {
                r.namespace = Some("web".into());
                r.name = Some("front".into());
                r.subresource = Some("status".into());
                r.options.dry_run = true;
            }),
            "/apis/apps/v1/namespaces/web/deployments/front/status?dryRun=All"
        );
        assert_eq!(
            path("rbac.authorization.k8s.io", "clusterroles", |r| r.name = Some("system:a b".into())),
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:a%20b"
        );
    }

    #[test]
    fn selectors_are_escaped() {
        let got = path("", "pods", |r| {
            r.verb = Verb::Watch;
            r.options.label_selector = Some("a in (b,c)".into());
            r.options.field_selector = Some("spec.nodeName=n".into());
        });
        assert_eq!(got, "/api/v1/pods?labelSelector=a%20in%20%28b,c%29&fieldSelector=spec.nodeName%3Dn&watch=true");
    }
}
