//! Puts paths and definitions into a document of either dialect.

use std::collections::BTreeSet;

use base64::Engine as _;
use knarr_core::{Map, Value, json};

use super::paths::{self, Body, Content, Media, Operation, Param, PathItem, group_id, group_tag, meta, plain, root};
use super::schema::Definitions;
use super::{Dialect, custom};
use crate::registry::Registry;

const TITLE: &str = "Kubernetes";
const VERSION: &str = "1.37";

/// Paths that belong to no group version, each with the documents of OpenAPI 3 that hold them.
fn global(registry: &Registry) -> Vec<(String, Vec<PathItem>)> {
    let objects = (Media::Objects, Media::Objects);
    let version = Content::Definition("io.k8s.apimachinery.pkg.version.Info".to_owned());
    let mut all = vec![
        (
            ".well-known/openid-configuration".to_owned(),
            vec![plain(
                "/.well-known/openid-configuration/",
                "getServiceAccountIssuerOpenIDConfiguration",
                "WellKnown",
                (Media::None, Media::Json),
                Some(Content::Text),
            )],
        ),
        ("api".to_owned(), vec![plain("/api/", "getCoreAPIVersions", "core", objects, Some(meta("APIVersions")))]),
        ("apis".to_owned(), vec![plain("/apis/", "getAPIVersions", "apis", objects, Some(meta("APIGroupList")))]),
    ];
    for (group, _) in registry.groups().iter().filter(|(group, _)| !group.is_empty() && !is_custom(registry, group)) {
        let id = format!("get{}APIGroup", group_id(group));
        all.push((format!("apis/{group}"), vec![plain(&format!("/apis/{group}/"), &id, &group_tag(group), objects, Some(meta("APIGroup")))]));
    }
    let keys = plain("/openid/v1/jwks/", "getServiceAccountIssuerOpenIDKeyset", "openid", (Media::None, Media::KeySet), Some(Content::Text));
    all.push(("openid/v1/jwks".to_owned(), vec![keys]));
    all.push(("version".to_owned(), vec![plain("/version/", "getCodeVersion", "version", (Media::Json, Media::Json), Some(version))]));
    all
}

fn is_custom(registry: &Registry, group: &str) -> bool {
    registry.all().iter().filter(|r| r.group == group).all(|r| r.custom.is_some())
}

fn group_versions(registry: &Registry) -> impl Iterator<Item = (String, String)> {
    registry.groups().into_iter().flat_map(|(group, versions)| versions.into_iter().map(move |v| (group.clone(), v)))
}

pub(super) fn v3_paths(registry: &Registry) -> Vec<String> {
    let mut all: Vec<String> = global(registry).into_iter().map(|(path, _)| path).collect();
    all.extend(group_versions(registry).map(|(group, version)| root(&group, &version)));
    all.sort_unstable();
    all
}

pub(super) fn v3(registry: &Registry, path: &str) -> Option<Value> {
    let own = group_versions(registry).find(|(group, version)| root(group, version) == path);
    let items = match &own {
        Some((group, version)) => paths::group_version(registry, group, version),
        None => global(registry).into_iter().find(|(p, _)| p == path)?.1,
    };
    let mut definitions = Definitions::new(Dialect::V3, own);
    let paths: Map<String, Value> = items.iter().map(|item| (item.path.clone(), path_v3(&mut definitions, item))).collect();
    let schemas = closure(&mut definitions, registry);
    let mut components = json!({"securitySchemes": security()});
    if !schemas.is_empty() {
        components["schemas"] = schemas.into();
    }
    Some(json!({"openapi": "3.0.0", "info": {"title": TITLE, "version": VERSION}, "paths": paths, "components": components}))
}

pub(super) fn v2(registry: &Registry) -> Value {
    let mut items: Vec<PathItem> = global(registry).into_iter().flat_map(|(_, items)| items).collect();
    for (group, version) in group_versions(registry) {
        items.extend(paths::group_version(registry, &group, &version));
    }
    let mut definitions = Definitions::new(Dialect::V2, None);
    let mut shared = Map::new();
    let paths: Map<String, Value> = items.iter().map(|item| (item.path.clone(), path_v2(&mut definitions, &mut shared, item))).collect();
    json!({
        "swagger": "2.0",
        "info": {"title": TITLE, "version": VERSION},
        "paths": paths,
        "definitions": closure(&mut definitions, registry),
        "parameters": shared,
        "securityDefinitions": security(),
        "security": [{"BearerToken": []}],
    })
}

fn security() -> Value {
    json!({"BearerToken": {"type": "apiKey", "in": "header", "name": "authorization", "description": "Bearer Token authentication"}})
}

/// All definitions that are referred to, directly or by another.
fn closure(definitions: &mut Definitions, registry: &Registry) -> Map<String, Value> {
    let mut all = Map::new();
    let mut seen = BTreeSet::new();
    while let Some(name) = definitions.referred.pop() {
        if seen.insert(name.clone())
            && let Some(schema) = definitions.definition(&name).or_else(|| custom::definition(definitions, registry, &name))
        {
            all.insert(name, schema);
        }
    }
    all
}

fn content(definitions: &mut Definitions, content: &Content) -> Value {
    match content {
        Content::Text => json!({"type": "string"}),
        Content::Definition(name) => definitions.reference(name),
    }
}

fn reason(code: u16) -> &'static str {
    match code {
        201 => "Created",
        202 => "Accepted",
        _ => "OK",
    }
}

/// What both dialects say alike of an operation.
fn common(operation: &Operation) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("operationId".to_owned(), operation.id.clone().into());
    out.insert("tags".to_owned(), json!([operation.tag]));
    if let Some(action) = operation.action {
        out.insert("x-kubernetes-action".to_owned(), action.into());
    }
    if let Some([group, version, kind]) = &operation.kind {
        out.insert("x-kubernetes-group-version-kind".to_owned(), json!({"group": group, "version": version, "kind": kind}));
    }
    out
}

// ---- OpenAPI 3

fn path_v3(definitions: &mut Definitions, item: &PathItem) -> Value {
    let mut out: Map<String, Value> = item.operations.iter().map(|o| (o.method.to_owned(), operation_v3(definitions, o))).collect();
    if !item.params.is_empty() {
        out.insert("parameters".to_owned(), item.params.iter().map(param_v3).collect());
    }
    out.into()
}

fn param_v3(param: &Param) -> Value {
    let mut out = json!({"in": param.place, "name": param.name, "schema": {"type": param.kind, "uniqueItems": true}});
    if param.place == "path" {
        out["required"] = true.into();
    }
    out
}

fn operation_v3(definitions: &mut Definitions, operation: &Operation) -> Value {
    let mut out = common(operation);
    if !operation.params.is_empty() {
        out.insert("parameters".to_owned(), operation.params.iter().map(param_v3).collect());
    }
    if let Some(Body { content: body, required }) = &operation.body {
        let schema = content(definitions, body);
        let types: Map<String, Value> = operation.consumes.consumes().iter().map(|media| ((*media).to_owned(), json!({"schema": schema}))).collect();
        let mut body = json!({ "content": types });
        if *required {
            body["required"] = true.into();
        }
        out.insert("requestBody".to_owned(), body);
    }
    let mut responses = Map::new();
    for (code, answer) in &operation.answers {
        let schema = content(definitions, answer);
        let types: Map<String, Value> = operation.produces.produces().iter().map(|media| ((*media).to_owned(), json!({"schema": schema}))).collect();
        responses.insert(code.to_string(), json!({"description": reason(*code), "content": types}));
    }
    responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    out.insert("responses".to_owned(), responses.into());
    out.into()
}

// ---- OpenAPI 2

fn path_v2(definitions: &mut Definitions, shared: &mut Map<String, Value>, item: &PathItem) -> Value {
    let mut out: Map<String, Value> = item.operations.iter().map(|o| (o.method.to_owned(), operation_v2(definitions, shared, o))).collect();
    if !item.params.is_empty() {
        out.insert("parameters".to_owned(), item.params.iter().map(|p| param_v2(shared, p)).collect());
    }
    out.into()
}

fn param_v2(shared: &mut Map<String, Value>, param: &Param) -> Value {
    let mut out = json!({"in": param.place, "name": param.name, "type": param.kind, "uniqueItems": true});
    if param.place == "path" {
        out["required"] = true.into();
    }
    // kubectl looks for these at the operation itself.
    if matches!(param.name, "name" | "fieldValidation" | "dryRun") { out } else { share(shared, out) }
}

/// Stores a parameter among the shared ones under its name and a hash, as kube-openapi names them, and refers to it.
fn share(shared: &mut Map<String, Value>, param: Value) -> Value {
    let mut text = String::from("{");
    for key in ["uniqueItems", "type", "description", "name", "in", "required", "schema"] {
        if let Some(value) = param.get(key) {
            let comma = if text.len() > 1 { "," } else { "" };
            text.push_str(&format!("{comma}\"{key}\":{value}"));
        }
    }
    text.push('}');
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, b| hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(b));
    let hash = base64::engine::general_purpose::URL_SAFE.encode(&hash.to_be_bytes()[..6]);
    let name = format!("{}-{hash}", param["name"].as_str().unwrap_or("param"));
    let reference = json!({ "$ref": format!("#/parameters/{name}") });
    shared.insert(name, param);
    reference
}

fn operation_v2(definitions: &mut Definitions, shared: &mut Map<String, Value>, operation: &Operation) -> Value {
    let mut out = common(operation);
    out.insert("schemes".to_owned(), json!(["https"]));
    for (key, media) in [("consumes", operation.consumes.consumes()), ("produces", operation.produces.produces())] {
        if !media.is_empty() {
            out.insert(key.to_owned(), media.into());
        }
    }
    let mut params = Vec::new();
    if let Some(Body { content: body, required }) = &operation.body {
        let mut param = json!({"in": "body", "name": "body", "schema": content(definitions, body)});
        if *required {
            param["required"] = true.into();
        }
        let generic = matches!(body, Content::Definition(name) if name.starts_with("io.k8s.apimachinery"));
        params.push(if generic { share(shared, param) } else { param });
    }
    params.extend(operation.params.iter().map(|p| param_v2(shared, p)));
    if !params.is_empty() {
        out.insert("parameters".to_owned(), params.into());
    }
    let mut responses = Map::new();
    for (code, answer) in &operation.answers {
        responses.insert(code.to_string(), json!({"description": reason(*code), "schema": content(definitions, answer)}));
    }
    responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    out.insert("responses".to_owned(), responses.into());
    out.into()
}
