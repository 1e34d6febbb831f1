//! The kernel's own nf_tables.

use nix::errno::Errno;
use std::collections::HashSet;

use super::encode::{self, element, header, message, message_type, table};
use super::{Batch, Data, Element, Error, Family, Nft, Result, TableInfo, Verdict};
use crate::netlink::socket::{NetlinkSocket, Protocol, Request, acknowledgement};
use crate::netlink::wire::{Attributes, read_u32};
use std::time::Duration;

const HEADER_LEN: usize = 4;

/// A socket for nf_tables in the network namespace of the thread that opened it.
pub struct KernelNft(NetlinkSocket);

impl KernelNft {
    pub fn open() -> Result<Self> {
        Ok(Self(NetlinkSocket::open(Protocol::Netfilter)?))
    }

    /// Reads answers until the batch is settled: the acknowledgement of its last message, or a failure of the whole.
    fn settle(&mut self, batch: &Batch, sent: &encode::Encoded) -> Result<()> {
        let last = sent.messages.last().map(|(sequence, _)| *sequence);
        let (mut settled, mut failure) = (false, None);
        while !settled {
            self.0.receive(|incoming| {
                let Some(answer) = acknowledgement(&incoming) else { return Ok(()) };
                let change = sent.messages.iter().find(|(sequence, _)| *sequence == answer.sequence).map(|(_, change)| *change);
                settled |= Some(answer.sequence) == last || answer.sequence == sent.begin;
                if answer.errno != 0 && failure.is_none() && (change.is_some() || answer.sequence == sent.begin) {
                    let what = change.map_or_else(|| "commit".into(), |index| batch.changes[index].describe());
                    failure = Some(Error::Refused {
                        what: format!("table {}: {what}", batch.table),
                        errno: Errno::from_raw(answer.errno),
                        explanation: answer.explanation,
                    });
                }
                Ok(())
            })?;
        }
        failure.map_or(Ok(()), Err)
    }
}

/// A set that is being resized is listed at most this often.
const LISTINGS_MAX: usize = 1000;

impl Nft for KernelNft {
    fn apply(&mut self, batch: &Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let encoded = encode::batch(batch, || self.0.next_sequence());
        self.0.reserve_send_buffer(encoded.bytes.len())?;
        self.0.send(encoded.bytes.as_bytes())?;
        self.settle(batch, &encoded)
    }

    fn elements(&mut self, family: Family, table: &str, set: &str) -> Result<Vec<Element>> {
        let request = Request::new(format!("list elements of {set} in table {table}"), message_type(message::GET_ELEMENT), 0, |m| {
            m.fixed(&header(family as u8, 0));
            m.text(element::LIST_TABLE, table);
            m.text(element::LIST_SET, set);
        });
        // While the kernel resizes a set's hash table, a listing names some elements twice and leaves others out: it is asked again.
        for _ in 0..LISTINGS_MAX {
            let found = self.0.dump(&request, |found: &mut Vec<Element>, _, body| {
                let list = body.get(HEADER_LEN..).and_then(|b| Attributes(b).find(element::LIST_ELEMENTS));
                found.extend(Attributes(list.unwrap_or_default()).filter_map(|(_, one)| read_element(Attributes(one))));
            })?;
            if found.iter().collect::<HashSet<_>>().len() == found.len() {
                return Ok(found);
            }
            std::thread::yield_now();
        }
        Err(std::io::Error::other(format!("the elements of {set} in table {table} change too fast to be listed")).into())
    }

    fn table(&mut self, family: Family, name: &str) -> Result<Option<TableInfo>> {
        let request = Request::new(format!("get table {name}"), message_type(message::GET_TABLE), 0, |m| {
            m.fixed(&header(family as u8, 0));
            m.text(table::NAME, name);
        });
        let found = self.0.get(&request, |_, body| {
            let attributes = Attributes(body.get(HEADER_LEN..)?);
            let handle = <[u8; 8]>::try_from(attributes.find(table::HANDLE)?).ok()?;
            let stamp = String::from_utf8_lossy(attributes.find(table::USERDATA).unwrap_or_default()).into_owned();
            Some(TableInfo { handle: u64::from_be_bytes(handle), stamp })
        });
        match found {
            Ok(info) => Ok(Some(info)),
            Err(e) if e.is_absent() => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn tables(&mut self, family: Family) -> Result<Vec<String>> {
        let request = Request::new("list tables", message_type(message::GET_TABLE), 0, |m| m.fixed(&header(family as u8, 0)));
        self.0.dump(&request, |found: &mut Vec<String>, _, body| {
            let name = body.get(HEADER_LEN..).and_then(|b| Attributes(b).find_text(table::NAME));
            found.extend(name.map(str::to_owned));
        })
    }
}

fn read_element(attributes: Attributes<'_>) -> Option<Element> {
    let key = Attributes(attributes.find(element::KEY)?).find(element::DATA_VALUE)?.to_vec();
    let timeout = attributes.find(element::TIMEOUT).and_then(|t| <[u8; 8]>::try_from(t).ok()).map(|t| Duration::from_millis(u64::from_be_bytes(t)));
    let interval_end = attributes.find_be32(element::FLAGS).unwrap_or_default() & element::FLAG_INTERVAL_END != 0;
    let data = attributes.find(element::DATA).and_then(|d| read_data(Attributes(d)));
    Some(Element { key, data, timeout, interval_end })
}

fn read_data(data: Attributes<'_>) -> Option<Data> {
    if let Some(value) = data.find(element::DATA_VALUE) {
        return Some(Data::Value(value.to_vec()));
    }
    let verdict = Attributes(data.find(element::DATA_VERDICT)?);
    let code = u32::from_be(read_u32(verdict.find(element::VERDICT_CODE).filter(|c| c.len() == 4)?, 0)) as i32;
    let chain = || verdict.find_text(element::VERDICT_CHAIN).map(str::to_owned);
    Some(Data::Verdict(match code {
        encode::VERDICT_ACCEPT => Verdict::Accept,
        encode::VERDICT_DROP => Verdict::Drop,
        encode::VERDICT_RETURN => Verdict::Return,
        encode::VERDICT_JUMP => Verdict::Jump(chain()?),
        encode::VERDICT_GOTO => Verdict::Goto(chain()?),
        _ => return None,
    }))
}

#[cfg(test)]
mod tests;
