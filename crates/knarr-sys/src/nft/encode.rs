//! A batch as netlink messages (`linux/netfilter/nf_tables.h`). Numbers in attributes are in network byte order, values in
//! registers are as the packet or the machine has them.

use std::time::Duration;

use super::expression::RejectWith;
use super::model::{MapOf, concatenation};
use super::{Batch, Chain, ChainKind, Change, Data, Element, Expression, Family, Set, Verdict};
use crate::netlink::socket::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST};
use crate::netlink::wire::Writer;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// `NFT_MSG_…`
pub(super) mod message {
    pub const NEW_TABLE: u16 = 0;
    pub const GET_TABLE: u16 = 1;
    pub const DELETE_TABLE: u16 = 2;
    pub const NEW_CHAIN: u16 = 3;
    pub const DELETE_CHAIN: u16 = 5;
    pub const NEW_RULE: u16 = 6;
    pub const DELETE_RULE: u16 = 8;
    pub const NEW_SET: u16 = 9;
    pub const DELETE_SET: u16 = 11;
    pub const NEW_ELEMENT: u16 = 12;
    pub const GET_ELEMENT: u16 = 13;
    pub const DELETE_ELEMENT: u16 = 14;
}

/// `NFTA_TABLE_…`
pub(super) mod table {
    pub const NAME: u16 = 1;
    pub const HANDLE: u16 = 4;
    pub const USERDATA: u16 = 6;
}

/// `NFTA_SET_ELEM_…`, of lists and of elements, and what both are made of.
pub(super) mod element {
    pub const LIST_TABLE: u16 = 1;
    pub const LIST_SET: u16 = 2;
    pub const LIST_ELEMENTS: u16 = 3;
    pub const LIST_ITEM: u16 = 1;
    pub const KEY: u16 = 1;
    pub const DATA: u16 = 2;
    pub const FLAGS: u16 = 3;
    pub const TIMEOUT: u16 = 4;
    pub const FLAG_INTERVAL_END: u32 = 1;
    pub const DATA_VALUE: u16 = 1;
    pub const DATA_VERDICT: u16 = 2;
    pub const VERDICT_CODE: u16 = 1;
    pub const VERDICT_CHAIN: u16 = 2;
}

/// `NFT_SET_…`
mod set_flag {
    pub const INTERVAL: u32 = 0x4;
    pub const MAP: u32 = 0x8;
    pub const TIMEOUT: u32 = 0x10;
    pub const EVAL: u32 = 0x20;
}

const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;
pub(super) const VERDICT_ACCEPT: i32 = 1;
pub(super) const VERDICT_DROP: i32 = 0;
pub(super) const VERDICT_JUMP: i32 = -3;
pub(super) const VERDICT_GOTO: i32 = -4;
pub(super) const VERDICT_RETURN: i32 = -5;

/// Bytes of elements in one message. The list is one attribute and must stay below 64 KiB; the last element may pass this mark.
const ELEMENTS_LEN_MAX: usize = 60 * 1024;

/// The messages of a batch.
pub(super) struct Encoded {
    pub bytes: Writer,
    /// For each message its sequence number and the index of its change. The last one asks for an acknowledgement.
    pub messages: Vec<(u32, usize)>,
    /// Sequence number of the begin marker, under which the kernel reports a failure of the batch as a whole.
    pub begin: u32,
}

/// Encodes a batch; sequence numbers come from `next_sequence`.
pub(super) fn batch(batch: &Batch, mut next_sequence: impl FnMut() -> u32) -> Encoded {
    let begin = next_sequence();
    let mut encoder = Encoder { batch, out: Writer::new(), messages: Vec::new(), last_at: 0, set_id: 0, change: 0, next_sequence };
    encoder.out.message(BATCH_BEGIN, NLM_F_REQUEST, begin, |m| m.fixed(&header(0, SUBSYSTEM)));
    for (index, change) in batch.changes.iter().enumerate() {
        encoder.change = index;
        encoder.encode(change);
    }
    let last_at = encoder.last_at;
    encoder.out.add_flags(last_at, NLM_F_ACK);
    let end = (encoder.next_sequence)();
    encoder.out.message(BATCH_END, NLM_F_REQUEST, end, |m| m.fixed(&header(0, SUBSYSTEM)));
    Encoded { bytes: encoder.out, messages: encoder.messages, begin }
}

/// `nfgenmsg`
pub(super) fn header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

pub(super) fn message_type(message: u16) -> u16 {
    SUBSYSTEM << 8 | message
}

struct Encoder<'a, F> {
    batch: &'a Batch,
    out: Writer,
    messages: Vec<(u32, usize)>,
    last_at: usize,
    set_id: u32,
    change: usize,
    next_sequence: F,
}

impl<F: FnMut() -> u32> Encoder<'_, F> {
    fn message(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Writer, &str)) {
        let sequence = (self.next_sequence)();
        self.last_at = self.out.len();
        self.messages.push((sequence, self.change));
        let (family, table) = (self.batch.family, &self.batch.table);
        self.out.message(message_type(kind), flags | NLM_F_REQUEST, sequence, |m| {
            m.fixed(&header(family as u8, 0));
            body(m, table);
        });
    }

    fn encode(&mut self, change: &Change) {
        match change {
            Change::AddTable { stamp } => self.message(message::NEW_TABLE, NLM_F_CREATE, |m, name| {
                m.text(table::NAME, name);
                if !stamp.is_empty() {
                    m.bytes(table::USERDATA, stamp.as_bytes());
                }
            }),
            Change::DeleteTable => self.message(message::DELETE_TABLE, 0, |m, name| m.text(table::NAME, name)),
            Change::AddChain(chain) => self.message(message::NEW_CHAIN, NLM_F_CREATE, |m, table| add_chain(m, table, chain)),
            Change::FlushChain(chain) => self.message(message::DELETE_RULE, 0, |m, table| table_and_chain(m, table, chain)),
            Change::DeleteChain(chain) => self.message(message::DELETE_CHAIN, 0, |m, table| {
                m.text(1, table);
                m.text(3, chain);
            }),
            Change::AddRule { chain, expressions } => {
                let family = self.batch.family;
                self.message(message::NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, |m, table| {
                    table_and_chain(m, table, chain);
                    m.nest(4, |list| expressions.iter().for_each(|e| list.nest(1, |one| expression(one, e, family))));
                });
            }
            Change::AddSet(set) => {
                self.set_id += 1;
                let id = self.set_id;
                self.message(message::NEW_SET, NLM_F_CREATE, |m, table| add_set(m, table, set, id));
            }
            Change::AddElements { set, elements } => self.elements(message::NEW_ELEMENT, NLM_F_CREATE, set, elements, true),
            Change::DeleteElements { set, elements } => self.elements(message::DELETE_ELEMENT, 0, set, elements, false),
            Change::DeleteSet(set) => self.message(message::DELETE_SET, 0, |m, table| table_and_chain(m, table, set)),
            Change::FlushSet(set) => self.message(message::DELETE_ELEMENT, 0, |m, table| {
                m.text(element::LIST_TABLE, table);
                m.text(element::LIST_SET, set);
            }),
        }
    }

    /// As many messages as the elements need.
    fn elements(&mut self, kind: u16, flags: u16, set: &str, elements: &[Element], with_data: bool) {
        let mut rest = elements.iter();
        while !rest.as_slice().is_empty() {
            self.message(kind, flags, |m, table| {
                m.text(element::LIST_TABLE, table);
                m.text(element::LIST_SET, set);
                m.nest(element::LIST_ELEMENTS, |list| {
                    let start = list.len();
                    while list.len() - start < ELEMENTS_LEN_MAX {
                        let Some(one) = rest.next() else { break };
                        list.nest(element::LIST_ITEM, |e| encode_element(e, one, with_data));
                    }
                });
            });
        }
    }
}

fn table_and_chain(m: &mut Writer, table: &str, chain: &str) {
    m.text(1, table);
    m.text(2, chain);
}

fn add_chain(m: &mut Writer, table: &str, chain: &Chain) {
    m.text(1, table);
    m.text(3, &chain.name);
    let Some((kind, hook, priority)) = chain.base else { return };
    m.nest(4, |h| {
        h.be32(1, hook as u32);
        h.be32(2, priority as u32);
    });
    m.be32(5, VERDICT_ACCEPT as u32);
    m.text(7, if kind == ChainKind::Nat { "nat" } else { "filter" });
}

fn add_set(m: &mut Writer, table: &str, set: &Set, id: u32) {
    let (key_type, key_len) = concatenation(&set.key);
    m.text(1, table);
    m.text(2, &set.name);
    let mut flags = 0;
    for (wanted, flag) in [
        (set.flags.interval, set_flag::INTERVAL),
        (set.map.is_some(), set_flag::MAP),
        (set.flags.timeout, set_flag::TIMEOUT),
        (set.flags.dynamic, set_flag::EVAL),
    ] {
        flags |= if wanted { flag } else { 0 };
    }
    m.be32(3, flags);
    m.be32(4, key_type);
    m.be32(5, key_len as u32);
    match &set.map {
        Some(MapOf::Verdicts) => {
            m.be32(6, DATA_TYPE_VERDICT);
            m.be32(7, 0);
        }
        Some(MapOf::Data(types)) => {
            let (data_type, data_len) = concatenation(types);
            m.be32(6, data_type);
            m.be32(7, data_len as u32);
        }
        None => (),
    }
    if let Some(size) = set.size {
        m.nest(9, |d| d.be32(1, size));
    }
    m.be32(10, id);
}

fn encode_element(m: &mut Writer, one: &Element, with_data: bool) {
    m.nest(element::KEY, |k| k.bytes(element::DATA_VALUE, &one.key));
    if one.interval_end {
        m.be32(element::FLAGS, element::FLAG_INTERVAL_END);
    }
    if !with_data {
        return;
    }
    match &one.data {
        Some(Data::Value(value)) => m.nest(element::DATA, |d| d.bytes(element::DATA_VALUE, value)),
        Some(Data::Verdict(v)) => m.nest(element::DATA, |d| verdict(d, v)),
        None => (),
    }
    if let Some(timeout) = one.timeout {
        m.be64(element::TIMEOUT, milliseconds(timeout));
    }
}

fn verdict(m: &mut Writer, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Accept => (VERDICT_ACCEPT, None),
        Verdict::Drop => (VERDICT_DROP, None),
        Verdict::Return => (VERDICT_RETURN, None),
        Verdict::Jump(chain) => (VERDICT_JUMP, Some(chain)),
        Verdict::Goto(chain) => (VERDICT_GOTO, Some(chain)),
    };
    m.nest(element::DATA_VERDICT, |v| {
        v.be32(element::VERDICT_CODE, code as u32);
        if let Some(chain) = chain {
            v.text(element::VERDICT_CHAIN, chain);
        }
    });
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A value inside an attribute of its own.
fn value(m: &mut Writer, kind: u16, value: &[u8]) {
    m.nest(kind, |d| d.bytes(element::DATA_VALUE, value));
}

/// Name and attributes of one expression.
fn named(m: &mut Writer, name: &str, body: impl FnOnce(&mut Writer)) {
    m.text(1, name);
    m.nest(2, body);
}

/// Attributes that are numbers, by kind.
fn numbered(m: &mut Writer, name: &str, numbers: &[(u16, u32)]) {
    named(m, name, |d| numbers.iter().for_each(|(kind, number)| d.be32(*kind, *number)));
}

fn expression(m: &mut Writer, e: &Expression, family: Family) {
    const ICMP_PORT_UNREACHABLE: u8 = 3;
    const ICMP6_PORT_UNREACHABLE: u8 = 4;
    const FIB_RESULT_ADDRESS_TYPE: u32 = 3;
    const NAT_RANDOM_FULLY: u32 = 1 << 4;
    match e {
        Expression::Payload { base, offset, len, to } => numbered(m, "payload", &[(1, to.code()), (2, *base as u32), (3, *offset), (4, *len)]),
        Expression::Meta { key, to } => numbered(m, "meta", &[(1, to.code()), (2, *key as u32)]),
        Expression::SetPriority { from } => numbered(m, "meta", &[(2, super::MetaKey::Priority as u32), (3, from.code())]),
        Expression::SetMark { from } => numbered(m, "meta", &[(2, super::MetaKey::Mark as u32), (3, from.code())]),
        Expression::Ct { key, to } => numbered(m, "ct", &[(1, to.code()), (2, *key as u32)]),
        Expression::Compare { register, op, value: wanted } => named(m, "cmp", |d| {
            d.be32(1, register.code());
            d.be32(2, *op as u32);
            value(d, 3, wanted);
        }),
        Expression::Bitwise { from, to, mask, xor } => named(m, "bitwise", |d| {
            d.be32(1, from.code());
            d.be32(2, to.code());
            d.be32(3, mask.len() as u32);
            value(d, 4, mask);
            value(d, 5, xor);
        }),
        Expression::Immediate { to, value: loaded } => named(m, "immediate", |d| {
            d.be32(1, to.code());
            value(d, 2, loaded);
        }),
        Expression::Verdict(v) => named(m, "immediate", |d| {
            d.be32(1, 0);
            d.nest(2, |data| verdict(data, v));
        }),
        Expression::In { set, key, inverted } => named(m, "lookup", |d| {
            d.text(1, set);
            d.be32(2, key.code());
            if *inverted {
                d.be32(5, 1);
            }
        }),
        Expression::Lookup { map, key, to } => named(m, "lookup", |d| {
            d.text(1, map);
            d.be32(2, key.code());
            d.be32(3, to.code());
        }),
        Expression::Dispatch { map, key } => named(m, "lookup", |d| {
            d.text(1, map);
            d.be32(2, key.code());
            d.be32(3, 0);
        }),
        Expression::Random { to, modulus, offset } => numbered(m, "numgen", &[(1, to.code()), (2, *modulus), (3, 1), (4, *offset)]),
        Expression::Hash { from, len, to, modulus, seed, offset } => {
            numbered(m, "hash", &[(1, from.code()), (2, to.code()), (3, *len), (4, *modulus), (5, *seed), (6, *offset), (7, 0)]);
        }
        Expression::AddressType { of_source, to } => numbered(m, "fib", &[(1, to.code()), (2, FIB_RESULT_ADDRESS_TYPE), (3, if *of_source { 1 } else { 2 })]),
        Expression::Dnat { ipv6, address, port } => named(m, "nat", |d| {
            nat(d, 1, *ipv6, address.code());
            if let Some(port) = port {
                d.be32(5, port.code());
            }
        }),
        Expression::Snat { ipv6, address } => named(m, "nat", |d| nat(d, 0, *ipv6, address.code())),
        Expression::Masquerade { random } => named(m, "masq", |d| {
            if *random {
                d.be32(1, NAT_RANDOM_FULLY);
            }
        }),
        Expression::Reject(RejectWith::TcpReset) => named(m, "reject", |d| {
            d.be32(1, 1);
            d.u8(2, 0);
        }),
        Expression::Reject(RejectWith::PortUnreachable) => named(m, "reject", |d| {
            d.be32(1, 0);
            d.u8(2, if family == Family::Ip6 { ICMP6_PORT_UNREACHABLE } else { ICMP_PORT_UNREACHABLE });
        }),
        Expression::NoTrack => m.text(1, "notrack"),
        Expression::Limit { packets, per, burst } => named(m, "limit", |d| {
            d.be64(1, *packets);
            d.be64(2, per.as_secs());
            d.be32(3, *burst);
            d.be32(4, 0);
        }),
        Expression::Update { set, key, data, timeout } => named(m, "dynset", |d| {
            d.text(1, set);
            d.be32(3, 1);
            d.be32(4, key.code());
            if let Some(data) = data {
                d.be32(5, data.code());
            }
            if let Some(timeout) = timeout {
                d.be64(6, milliseconds(*timeout));
            }
        }),
        Expression::Forget { set, key, data } => named(m, "dynset", |d| {
            d.text(1, set);
            d.be32(3, 2);
            d.be32(4, key.code());
            if let Some(data) = data {
                d.be32(5, data.code());
            }
        }),
        Expression::Counter => named(m, "counter", |d| {
            d.be64(1, 0);
            d.be64(2, 0);
        }),
    }
}

fn nat(d: &mut Writer, kind: u32, ipv6: bool, address: u32) {
    d.be32(1, kind);
    d.be32(2, if ipv6 { libc::AF_INET6 } else { libc::AF_INET } as u32);
    d.be32(3, address);
}
