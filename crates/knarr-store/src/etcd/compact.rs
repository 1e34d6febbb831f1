//! Gives back what etcd keeps of the past. All servers on one etcd, kube-apiservers too, agree by one key about whose turn it is
//! (upstream: `etcd3.compactor`): each proposes every five minutes, and what is compacted is the revision of the proposal before.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Shared;
use super::message::{CompactionRequest, CompactionResponse, Compare, Operation, PutRequest, RangeRequest, TxnRequest, TxnResponse};
use crate::grpc::Failure;

/// How often, and so how much of the past is kept at least (upstream: `--etcd-compaction-interval`).
const INTERVAL: Duration = Duration::from_secs(300);
const KEY: &[u8] = b"compact_rev_key";

/// The key's version as it was seen last, and etcd's revision at that time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    version: i64,
    revision: i64,
}

pub async fn run(shared: Arc<Shared>) {
    let mut seen = Seen::default();
    loop {
        tokio::time::sleep(INTERVAL).await;
        match propose(&shared, seen).await {
            Ok(next) => seen = next,
            Err(error) => tracing::warn!(%error, "etcd's past could not be compacted"),
        }
    }
}

/// Compacts up to what was seen last, unless another server has proposed since.
pub async fn propose(shared: &Shared, seen: Seen) -> Result<Seen, Failure> {
    let key = Bytes::from_static(KEY);
    let put = PutRequest { key: key.clone(), value: seen.revision.to_string().into(), lease: 0 };
    let ask = TxnRequest {
        compare: vec![Compare::has_version(key.clone(), seen.version)],
        success: vec![Operation::Put(put).into()],
        failure: vec![Operation::Range(RangeRequest { key, ..RangeRequest::default() }).into()],
    };
    let answer: TxnResponse = shared.channel.call("KV/Txn", &ask).await?;
    let revision = i64::try_from(answer.revision()).unwrap_or(i64::MAX);
    if !answer.succeeded {
        return Ok(Seen { version: answer.found().map_or(0, |kv| kv.version), revision });
    }
    if seen.revision > 0 {
        let _: CompactionResponse = shared.channel.call("KV/Compact", &CompactionRequest { revision: seen.revision }).await?;
        tracing::info!(revision = seen.revision, "etcd's past was compacted");
    }
    Ok(Seen { version: seen.version + 1, revision })
}
