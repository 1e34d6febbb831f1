//! The path and method of a request as verb, resource, namespace and name (upstream: `request.RequestInfoFactory`).

use knarr_core::{Status, names, selector::FieldSelector};

use super::query::{Query, parse_bool, percent_decode};

/// What authorization, routing and metrics need to know of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    pub is_resource_request: bool,
    /// Decoded path.
    pub path: String,
    /// `get`, `list`, `create`, …; the lower-case method for a path that names no resource.
    pub verb: String,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// What follows the subresource: the path to proxy, without a leading slash.
    pub rest: Vec<String>,
    pub label_selector: Option<String>,
    pub field_selector: Option<String>,
}

const SUBRESOURCES_OF_NAMESPACES: [&str; 2] = ["status", "finalize"];

impl RequestInfo {
    /// What the request is about, as metrics and spans tell it: one object (`resource`), those of a `namespace` or of the `cluster`; empty
    /// where it is about none (upstream: `metrics.CleanScope`).
    pub fn scope(&self) -> &'static str {
        // The name of a collection's request is that of its field selector.
        let one = !self.name.is_empty() && !matches!(self.verb.as_str(), "list" | "watch" | "deletecollection");
        match (self.is_resource_request, one || self.verb == "create", self.namespace.is_empty()) {
            (false, ..) => "",
            (true, true, _) => "resource",
            (true, false, false) => "namespace",
            (true, false, true) => "cluster",
        }
    }

    /// Reads method, raw path (still percent-encoded) and query.
    ///
    /// # Errors
    /// A path like `/api/v1/watch` that ends after its prefix verb.
    pub fn parse(method: &http::Method, raw_path: &str, query: &Query) -> Result<Self, Status> {
        let path = percent_decode(raw_path, false);
        let mut info = Self { verb: method.as_str().to_ascii_lowercase(), ..Self::default() };
        let trimmed = path.trim_matches('/');
        let mut parts: Vec<&str> = if trimmed.is_empty() { Vec::new() } else { trimmed.split('/').collect() };
        let wanted = match parts.first() {
            Some(&"api") => 3,
            Some(&"apis") => 4,
            _ => usize::MAX,
        };
        if parts.len() >= wanted {
            let grouped = parts[0] == "apis";
            parts.remove(0);
            if grouped {
                info.group = parts.remove(0).to_owned();
            }
            info.version = parts.remove(0).to_owned();
            info.is_resource_request = true;
            info.read_resource(method, &parts, query, raw_path)?;
        }
        info.path = path.into_owned();
        Ok(info)
    }

    fn read_resource(&mut self, method: &http::Method, mut parts: &[&str], query: &Query, raw_path: &str) -> Result<(), Status> {
        let prefixed = matches!(parts[0], "proxy" | "watch");
        if prefixed {
            if parts.len() < 2 {
                return Err(Status::internal(format!("unable to determine kind and namespace from url, {raw_path}")));
            }
            self.verb = parts[0].to_owned();
            parts = &parts[1..];
        } else {
            self.verb = verb_of(method).to_owned();
        }
        if parts[0] == "namespaces" && parts.len() > 1 {
            self.namespace = parts[1].to_owned();
            if parts.len() > 2 && !SUBRESOURCES_OF_NAMESPACES.contains(&parts[2]) {
                parts = &parts[2..];
            }
        }
        self.resource = parts[0].to_owned();
        self.name = parts.get(1).map_or_else(String::new, |p| (*p).to_owned());
        if self.verb != "proxy" {
            self.subresource = parts.get(2).map_or_else(String::new, |p| (*p).to_owned());
        }
        self.rest = parts.iter().skip(3).map(|p| (*p).to_owned()).collect();
        self.refine_verb(query);
        if !prefixed && matches!(self.verb.as_str(), "list" | "watch" | "deletecollection") {
            self.field_selector = query.get("fieldSelector").map(str::to_owned);
            self.label_selector = query.get("labelSelector").map(str::to_owned);
        }
        Ok(())
    }

    /// A get without a name is a list or a watch, a delete without one is a deletecollection.
    fn refine_verb(&mut self, query: &Query) {
        if !self.name.is_empty() {
            return;
        }
        if self.verb == "delete" {
            self.verb = "deletecollection".into();
        } else if self.verb == "get" {
            self.verb = if query.get("watch").is_some_and(parse_bool) { "watch" } else { "list" }.into();
            let selector = query.get("fieldSelector").and_then(|s| FieldSelector::parse(s).ok());
            if let Some(name) = selector.as_ref().and_then(|s| s.requires("metadata.name"))
                && names::is_path_segment(name).is_empty()
            {
                self.name = name.to_owned();
            }
        }
    }

    /// Requests that may last: no deadline, and counted apart (upstream: `BasicLongRunningRequestCheck`).
    pub fn is_long_running(&self) -> bool {
        matches!(self.verb.as_str(), "watch" | "proxy")
            || self.is_resource_request && matches!(self.subresource.as_str(), "attach" | "exec" | "proxy" | "log" | "portforward")
    }

    /// Requests that change nothing share the larger of the two inflight limits.
    pub fn is_read_only(&self) -> bool {
        matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

fn verb_of(method: &http::Method) -> &'static str {
    match method.as_str() {
        "POST" => "create",
        "GET" | "HEAD" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, url: &str, wanted: &str) {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let method = http::Method::from_bytes(method.as_bytes()).unwrap();
        let i = RequestInfo::parse(&method, path, &Query::parse(query)).unwrap();
        let got = if i.is_resource_request {
            format!("{} {}/{} ns={} {}/{}/{} {}", i.verb, i.group, i.version, i.namespace, i.resource, i.name, i.subresource, i.rest.join("/"))
        } else {
            format!("{} {}", i.verb, i.path)
        };
        assert_eq!(got.trim_end(), wanted, "{method} {url}");
    }

    #[test]
    fn paths_are_read_as_upstream_reads_them() {
        check("GET", "/", "get /");
        check("GET", "/api", "get /api");
        check("GET", "/apis/apps/v1", "get /apis/apps/v1");
        check("GET", "/healthz/ping", "get /healthz/ping");
        check("GET", "/api/v1/pods", "list /v1 ns= pods//");
        check("GET", "/api/v1/pods?watch=1", "watch /v1 ns= pods//");
        check("GET", "/api/v1/pods?watch=false", "list /v1 ns= pods//");
        check("GET", "/api/v1/watch/namespaces/a/pods", "watch /v1 ns=a pods//");
        check("GET", "/api/v1/namespaces", "list /v1 ns= namespaces//");
        check("GET", "/api/v1/namespaces/a", "get /v1 ns=a namespaces/a/");
        check("PUT", "/api/v1/namespaces/a/finalize", "update /v1 ns=a namespaces/a/finalize");
        check("GET", "/api/v1/namespaces/a/pods/b/log", "get /v1 ns=a pods/b/log");
        check("POST", "/api/v1/namespaces/a/pods/b/proxy/x/y", "create /v1 ns=a pods/b/proxy x/y");
        check("DELETE", "/apis/apps/v1/namespaces/a/deployments", "deletecollection apps/v1 ns=a deployments//");
        check("DELETE", "/apis/apps/v1/namespaces/a/deployments/d", "delete apps/v1 ns=a deployments/d/");
        check("GET", "/api/v1/nodes?fieldSelector=metadata.name%3Dn1", "list /v1 ns= nodes/n1/");
        check("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode", "get rbac.authorization.k8s.io/v1 ns= clusterroles/system:node/");
    }
}
