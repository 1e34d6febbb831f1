//! Questions to the authorizer (upstream: `library/authz.go`).

use std::sync::Arc;

use knarr_core::names;

use super::{Impl, fail, no_overload};
use crate::{
    authz::{Answer, Authorizer, Check, Question},
    value::{Res, Value},
};

pub fn find(name: &str) -> Option<Impl> {
    Some(match name {
        "path" => |_, a| match &a[..] {
            [Value::Authz(check), Value::String(path)] => match &**check {
                Check::Authorizer(_) if path.trim().is_empty() => fail("path must not be empty"),
                Check::Authorizer(q) => made(Check::Path(Question { path: Some((**path).to_owned()), ..q.clone() })),
                _ => no_overload(),
            },
            _ => no_overload(),
        },
        "group" => |_, a| match &a[..] {
            [Value::Authz(check), Value::String(group)] => match &**check {
                Check::Authorizer(q) => made(Check::Group(Question { group: (**group).to_owned(), ..q.clone() })),
                _ => no_overload(),
            },
            _ => no_overload(),
        },
        "serviceAccount" => |_, a| match &a[..] {
            [Value::Authz(check), Value::String(namespace), Value::String(name)] => match &**check {
                Check::Authorizer(_) if !names::is_dns1123_subdomain(name).is_empty() => fail("Invalid service account name"),
                Check::Authorizer(_) if !names::is_dns1123_label(namespace).is_empty() => fail("Invalid service account namespace"),
                Check::Authorizer(_) => {
                    made(Check::Authorizer(Question { service_account: Some(((**namespace).to_owned(), (**name).to_owned())), ..Question::default() }))
                }
                _ => no_overload(),
            },
            _ => no_overload(),
        },
        "resource" => |_, a| match &a[..] {
            [Value::Authz(check), Value::String(resource)] => match &**check {
                Check::Group(_) if resource.trim().is_empty() => fail("resource must not be empty"),
                Check::Group(q) => made(Check::Resource(Question { resource: (**resource).to_owned(), ..q.clone() })),
                _ => no_overload(),
            },
            _ => no_overload(),
        },
        "subresource" => |_, a| with(&a, |q, s| q.subresource = s),
        "namespace" => |_, a| with(&a, |q, s| q.namespace = s),
        "name" => |_, a| with(&a, |q, s| q.name = s),
        "fieldSelector" => |_, a| with(&a, |q, s| q.field_selector = s),
        "labelSelector" => |_, a| with(&a, |q, s| q.label_selector = s),
        "check" => check,
        "errored" => |_, a| answer(&a, |d| Value::Bool(d.error.is_some())),
        "error" => |_, a| answer(&a, |d| Value::text(d.error.clone().unwrap_or_default())),
        "allowed" => |_, a| answer(&a, |d| Value::Bool(d.allowed)),
        "reason" => |_, a| answer(&a, |d| Value::text(d.reason.as_str())),
        _ => return None,
    })
}

fn made<'a>(check: Check) -> Res<'a> {
    Ok(Value::Authz(Arc::new(check)))
}

fn with<'a>(args: &[Value<'a>], set: impl FnOnce(&mut Question, String)) -> Res<'a> {
    let [Value::Authz(check), Value::String(text)] = args else { return no_overload() };
    let Check::Resource(question) = &**check else { return no_overload() };
    let mut question = question.clone();
    set(&mut question, (**text).to_owned());
    made(Check::Resource(question))
}

fn check<'a>(authorizer: Option<&dyn Authorizer>, args: Vec<Value<'a>>) -> Res<'a> {
    let [Value::Authz(check), Value::String(verb)] = &args[..] else { return no_overload() };
    let (Check::Path(question) | Check::Resource(question)) = &**check else { return no_overload() };
    let Some(authorizer) = authorizer else { return no_overload() };
    made(Check::Decision(authorizer.authorize(&Question { verb: (**verb).to_owned(), ..question.clone() })))
}

fn answer<'a>(args: &[Value<'a>], f: impl FnOnce(&Answer) -> Value<'a>) -> Res<'a> {
    let [Value::Authz(check)] = args else { return no_overload() };
    let Check::Decision(decision) = &**check else { return no_overload() };
    Ok(f(decision))
}
