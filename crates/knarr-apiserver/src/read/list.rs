//! Lists: all `resourceVersion`, `resourceVersionMatch`, `limit` and `continue` combinations are a choice of snapshot and of
//! the place in it where the page begins (upstream: `storage/etcd3/store.go` `GetList` and the cacher's delegation).

use std::sync::Arc;

use knarr_core::{Encoding, Object, Result, Status};
use knarr_schema::codec;
use knarr_store::{Error, Item, Snapshot, storage::FRESH_TIMEOUT};

use super::{parse_revision, read_error, selection::Selection, store_error, token::Token};
use crate::{
    call::{Exchange, Failure, Outcome},
    encode::table::ListMeta,
    request::validate_list_options,
};

/// One page of a list.
pub struct Page {
    pub meta: ListMeta,
    pub items: Vec<Arc<Item>>,
}

impl Page {
    pub fn objects(&self) -> Vec<Object> {
        self.items.iter().map(|i| i.object()).collect()
    }
}

/// Answers a list.
///
/// # Errors
/// `BadRequest` and `Invalid` for bad options, `Expired` for a revision that is gone (with a token to go on when the client
/// was paging), `Timeout` for one that does not come.
pub async fn list(ex: &Exchange<'_>) -> Result<Outcome, Failure> {
    let page = page(ex).await?;
    Ok(Outcome::List { served: ex.served.clone(), page })
}

/// See [`list`].
///
/// # Errors
/// As [`list`].
pub async fn page(ex: &Exchange<'_>) -> Result<Page, Failure> {
    let options = &ex.call.options;
    validate_list_options(options, false)?;
    let indexed = ex.server.storage.resource(&ex.served.key).indexed_field();
    let selection = Selection::new(&ex.served, ex.namespace(), &ex.call.info.name, options, indexed.as_deref())?;
    let token = options.continue_token.as_deref().map(Token::decode).transpose();
    let token = token.map_err(|why| Status::bad_request(format!("invalid continue token: {why}")))?;
    let snapshot = snapshot(ex, token.as_ref()).await?;
    let page = cut(ex, &selection, &snapshot, token.as_ref());
    Ok(if ex.served.asks_a_webhook() { converted(ex, page).await? } else { page })
}

/// The page with its objects in the served version: the webhook is asked for all of them at once.
async fn converted(ex: &Exchange<'_>, mut page: Page) -> Result<Page> {
    let trees = ex.served.read_all(&page.objects()).await?;
    for (item, tree) in page.items.iter_mut().zip(trees) {
        let object = Object { encoding: Encoding::Json, resource_version: item.revision(), bytes: codec::encode_json(&tree).into() };
        *item = Arc::new(item.with_object(object));
    }
    Ok(page)
}

/// The state that the list is to show.
async fn snapshot(ex: &Exchange<'_>, token: Option<&Token>) -> Result<Snapshot, Failure> {
    let (storage, key, options) = (&ex.server.storage, &ex.served.key, &ex.call.options);
    let wanted = parse_revision(options.resource_version.as_deref()).map_err(|e| Status::bad_request(format!("invalid resource version: {}", e.message)))?;
    if let Some(token) = token {
        if wanted != 0 {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue").into());
        }
        return match u64::try_from(token.revision) {
            Err(_) => Ok(storage.snapshot(key)),
            Ok(revision) => {
                // The first page may have come from another server.
                storage.wait_for_revision(revision, FRESH_TIMEOUT).await.map_err(|_| expired(token))?;
                storage.past(key, revision).await.map_err(|e| match e {
                    Error::Engine(_) => store_error(&e, &ex.served.group_resource, "").into(),
                    _ => expired(token),
                })
            }
        };
    }
    let exact = match options.resource_version_match.as_deref() {
        Some("Exact") => true,
        None => wanted > 0 && options.limit.is_some_and(|l| l > 0),
        Some(_) => false,
    };
    storage.wait_for_revision(wanted, FRESH_TIMEOUT).await.map_err(|e| read_error(ex, &e, ""))?;
    if !exact {
        return Ok(storage.snapshot(key));
    }
    storage.past(key, wanted).await.map_err(|e| match e {
        Error::TooOld { .. } => Status::expired("The resourceVersion for the provided list is too old.").into(),
        other => store_error(&other, &ex.served.group_resource, "").into(),
    })
}

fn expired(token: &Token) -> Failure {
    const TEXT: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";
    Failure { status: Status::expired(TEXT), continue_token: Some(Token::new(-1, token.after(), None).encode()) }
}

/// Takes the wanted items out of the snapshot, up to the limit.
fn cut(ex: &Exchange<'_>, selection: &Selection, snapshot: &Snapshot, token: Option<&Token>) -> Page {
    let served = &ex.served;
    let meta = ListMeta { resource_version: snapshot.revision(), ..ListMeta::default() };
    let namespace = Some(selection.namespace.as_str()).filter(|n| !n.is_empty());
    let matcher = selection.matcher(served);
    if let (Some(name), true) = (&selection.name, namespace.is_some() || !served.resource.namespaced) {
        let path = namespace.map_or_else(|| name.clone(), |n| format!("{n}/{name}"));
        let items = snapshot.get(&path).filter(|i| matcher.matches(i)).cloned().into_iter().collect();
        return Page { meta, items };
    }
    let after = token.map(|t| match namespace {
        Some(n) if !ex.namespace().is_empty() => format!("{n}/{}", t.after()),
        _ => t.after().to_owned(),
    });
    let mut objects = snapshot.iter(namespace, after.as_deref());
    let everything = !selection.is_narrowed && selection.name.is_none();
    // A list at "any" revision is never cut, as upstream's cache does not cut it.
    let any = ex.call.options.resource_version.as_deref() == Some("0");
    let limit = ex.call.options.limit.filter(|l| *l > 0 && (!any || token.is_some())).and_then(|l| usize::try_from(l).ok());
    let Some(limit) = limit else {
        let items = if everything { objects.cloned().collect() } else { matcher.among(snapshot, namespace, after.as_deref()) };
        return Page { meta, items };
    };
    let mut items = Vec::with_capacity(limit.min(1024));
    while items.len() < limit
        && let Some(item) = objects.next()
    {
        if everything || matcher.matches_in_namespace(item) {
            items.push(item.clone());
        }
    }
    let more = objects.next().is_some();
    let mut page = Page { meta, items };
    if more && let Some(last) = page.items.last().cloned() {
        let taken = page.items.len() as i64;
        let left = everything.then(|| match token.and_then(|t| t.left) {
            Some(left) => left - taken,
            None => 1 + objects.count() as i64,
        });
        let relative = if ex.namespace().is_empty() { last.path() } else { last.name() };
        // Inconsistent pages go on at the revision of now: the client is told which one.
        page.meta.continue_token = Token::new(snapshot.revision() as i64, relative, left).encode();
        page.meta.remaining_item_count = left;
        // Once for all pages: a client that asks for the same page again and again does not keep the past alive.
        if token.is_none_or(|t| t.revision < 0) {
            ex.server.storage.keep_snapshot(&served.key, snapshot);
        }
    }
    page
}
