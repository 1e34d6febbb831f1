//! ComponentStatuses: not stored, but asked for at the moment (upstream: `pkg/registry/core/componentstatus`). The store is one of them
//! under the name of upstream's; scheduler and controllers are where they run in the server's own process.

use std::sync::Arc;

use knarr_core::{Encoding, GroupResource, Object, Result, Status, Value, json};
use knarr_schema::codec;
use knarr_store::Item;

use super::list::Page;
use crate::{
    call::{Exchange, Outcome},
    encode::table::ListMeta,
    request::Query,
};

const STORE: &str = "etcd-0";

/// Answers a get or a list.
///
/// # Errors
/// `NotFound` for a component that the server does not know.
pub fn answer(ex: &Exchange<'_>) -> Result<Outcome> {
    let served = ex.served.clone();
    let names = || std::iter::once(STORE).chain(ex.server.config.components.iter().copied());
    if ex.call.info.verb == "get" {
        let name = ex.name()?;
        let known = names().any(|n| n == name);
        return if known {
            Ok(Outcome::Object { served, object: object(ex, name)?, code: 200 })
        } else {
            Err(Status::not_found(&GroupResource::new("", "componentstatus"), name))
        };
    }
    let items = names().map(|name| Ok(Arc::new(Item::unstored(name, object(ex, name)?)))).collect::<Result<Vec<_>>>()?;
    let meta = ListMeta { resource_version: 0, continue_token: String::new(), remaining_item_count: None };
    Ok(Outcome::List { served, page: Page { meta, items } })
}

fn object(ex: &Exchange<'_>, name: &str) -> Result<Object> {
    let report = (name == STORE).then(|| ex.server.health.report("livez", Some("etcd"), &Query::default()));
    let trouble = report.filter(|r| r.found && !r.healthy).map(|r| r.text);
    let bytes = codec::encode_protobuf(&status(name, trouble.as_deref()))?;
    Ok(Object { encoding: Encoding::Protobuf, resource_version: 0, bytes: bytes.into() })
}

fn status(name: &str, trouble: Option<&str>) -> Value {
    let condition = match trouble {
        None => json!({"type": "Healthy", "status": "True", "message": "ok"}),
        Some(why) => json!({"type": "Healthy", "status": "False", "error": why.trim_end()}),
    };
    json!({"apiVersion": "v1", "kind": "ComponentStatus", "metadata": {"name": name}, "conditions": [condition]})
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::ValueExt;

    #[test]
    fn what_is_in_trouble_says_so() {
        let condition = |trouble| status("etcd-0", trouble).list_at(&["conditions"])[0].clone();
        assert_eq!(condition(None)["status"], "True");
        assert_eq!(condition(Some("no disk\n"))["error"], "no disk");
    }
}
