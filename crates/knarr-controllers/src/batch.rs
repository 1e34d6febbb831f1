//! Many like calls at once, carefully: batches double in size as long as all of them succeed, so that a quota that refuses
//! the first pod is asked once and not five hundred times. Upstream: `slowStartBatch` in `replica_set.go`.

use std::future::Future;

use knarr_core::{Result, Status};

/// Size of the first batch.
const FIRST: usize = 1;

/// Calls `call` with 0, 1, … up to `count`. Gives how many succeeded, and the first failure.
pub async fn slow_start<R>(count: usize, call: impl Fn(usize) -> R) -> (usize, Option<Status>)
where
    R: Future<Output = Result<()>>,
{
    let (mut done, mut size) = (0, FIRST);
    while done < count {
        let end = (done + size).min(count);
        let results = futures::future::join_all((done..end).map(&call)).await;
        let failures = results.iter().filter(|r| r.is_err()).count();
        if let Some(Err(failure)) = results.into_iter().find(Result::is_err) {
            return (end - failures, Some(failure));
        }
        (done, size) = (end, 2 * size);
    }
    (done, None)
}

/// Whether a create was refused because its namespace is being deleted. Nothing is to be done about that.
pub fn is_namespace_terminating(error: &Status) -> bool {
    error.details.as_ref().is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating"))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test]
    async fn batches_double_and_stop_at_the_first_failure() {
        let called = RefCell::new(Vec::new());
        let call = |n| {
            called.borrow_mut().push(n);
            async move { if n == 4 { Err(Status::bad_request("no")) } else { Ok(()) } }
        };
        let (succeeded, failure) = slow_start(100, call).await;
        assert_eq!((succeeded, failure.map(|f| f.message)), (6, Some("no".into())));
        assert_eq!(*called.borrow(), (0..7).collect::<Vec<_>>());
    }
}
