//! Delete of everything that a list would show (upstream: `registry/generic/registry/store.go` `DeleteCollection`).

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use knarr_core::Status;
use knarr_store::Item;

use super::{
    Writer,
    delete::{options, remove, warn_of_orphans},
};
use crate::{
    call::{Exchange, Failure, Outcome},
    read,
};

/// How many objects are deleted at once. They share fsyncs.
const CONCURRENT_MAX: usize = 64;

/// Deletes what the selectors of the request name, and answers with it.
///
/// # Errors
/// As a list's and a delete's. Part of the collection may be gone then.
pub async fn delete_collection(ex: &Exchange<'_>) -> Result<Outcome, Failure> {
    let options = options(ex)?;
    let page = read::page(ex).await?;
    warn_of_orphans(ex, &options);
    let writer = Writer::new(ex);
    let one = async |item: Arc<Item>| match remove(&writer, item.name(), &options).await {
        Err(e) if !e.is_not_found() => Err(e),
        _ => Ok::<(), Status>(()),
    };
    stream::iter(page.items.clone()).map(one).buffer_unordered(CONCURRENT_MAX).try_collect::<Vec<()>>().await?;
    Ok(Outcome::List { served: ex.served.clone(), page })
}
