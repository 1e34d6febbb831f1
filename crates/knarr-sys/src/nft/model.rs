//! Tables, chains, sets and maps as values, and the batch that changes them.

use std::fmt;
use std::time::Duration;

use super::Expression;

/// Address family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Family {
    Inet = 1,
    Ip = 2,
    Ip6 = 10,
}

/// Where in a packet's way a base chain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// Sees every packet.
    Filter,
    /// Sees the first packet of each connection.
    Nat,
}

/// A chain of rules; with a hook, packets come to it by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub name: String,
    /// Kind, hook and priority (lower is earlier) of a base chain.
    pub base: Option<(ChainKind, Hook, i32)>,
}

impl Chain {
    pub fn regular(name: impl Into<String>) -> Self {
        Self { name: name.into(), base: None }
    }

    pub fn base(name: impl Into<String>, kind: ChainKind, hook: Hook, priority: i32) -> Self {
        Self { name: name.into(), base: Some((kind, hook, priority)) }
    }
}

/// What happens to a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

/// Types of the parts of keys and data. The kernel knows only lengths; the types let `nft list` print them well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataType {
    Ipv4Address,
    Ipv6Address,
    Protocol,
    /// A port.
    Service,
    /// A 32-bit number in the machine's byte order.
    Mark,
}

impl DataType {
    /// `nft`'s number for it (`enum datatypes`).
    pub(super) fn code(self) -> u32 {
        match self {
            Self::Ipv4Address => 7,
            Self::Ipv6Address => 8,
            Self::Protocol => 12,
            Self::Service => 13,
            Self::Mark => 19,
        }
    }

    /// Bytes in a key, where each part fills whole registers of four bytes.
    pub fn padded_len(self) -> usize {
        if self == Self::Ipv6Address { 16 } else { 4 }
    }

    /// Bytes without padding.
    fn len(self) -> usize {
        match self {
            Self::Protocol => 1,
            Self::Service => 2,
            Self::Ipv4Address | Self::Mark => 4,
            Self::Ipv6Address => 16,
        }
    }
}

/// The type number and length of a concatenation.
pub(super) fn concatenation(types: &[DataType]) -> (u32, usize) {
    const BITS_PER_TYPE: u32 = 6;
    let code = types.iter().fold(0, |code, t| code << BITS_PER_TYPE | t.code());
    let len = if let [one] = types { one.len() } else { types.iter().map(|t| t.padded_len()).sum() };
    (code, len)
}

/// What the values of a map are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapOf {
    Data(Vec<DataType>),
    Verdicts,
}

/// Properties of a set beyond key and data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetFlags {
    /// Elements may expire.
    pub timeout: bool,
    /// Rules may add elements.
    pub dynamic: bool,
    /// Elements are ranges of keys.
    pub interval: bool,
}

/// A named set, or a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    pub name: String,
    pub key: Vec<DataType>,
    pub map: Option<MapOf>,
    pub flags: SetFlags,
    /// Most elements it may hold; unset means no limit (65,535 for a dynamic one).
    pub size: Option<u32>,
}

impl Set {
    pub fn new(name: impl Into<String>, key: &[DataType]) -> Self {
        Self { name: name.into(), key: key.to_vec(), map: None, flags: SetFlags::default(), size: None }
    }

    pub fn map(name: impl Into<String>, key: &[DataType], data: &[DataType]) -> Self {
        Self { map: Some(MapOf::Data(data.to_vec())), ..Self::new(name, key) }
    }

    pub fn verdict_map(name: impl Into<String>, key: &[DataType]) -> Self {
        Self { map: Some(MapOf::Verdicts), ..Self::new(name, key) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Data {
    Value(Vec<u8>),
    Verdict(Verdict),
}

/// One element of a set or map. Parts of keys and values are padded to four bytes each (unless there is only one).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Element {
    pub key: Vec<u8>,
    pub data: Option<Data>,
    pub timeout: Option<Duration>,
    /// The last element of an interval says where the range ends, exclusively.
    pub interval_end: bool,
}

impl Element {
    pub fn key(key: Vec<u8>) -> Self {
        Self { key, data: None, timeout: None, interval_end: false }
    }

    pub fn value(key: Vec<u8>, value: Vec<u8>) -> Self {
        Self { data: Some(Data::Value(value)), ..Self::key(key) }
    }

    pub fn verdict(key: Vec<u8>, verdict: Verdict) -> Self {
        Self { data: Some(Data::Verdict(verdict)), ..Self::key(key) }
    }
}

/// One change to a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Makes the table, or leaves an existing one alone. `stamp` is kept with it.
    AddTable {
        stamp: String,
    },
    /// With everything in it. A missing table is an error: precede it by `AddTable`.
    DeleteTable,
    AddChain(Chain),
    /// Takes all rules out.
    FlushChain(String),
    DeleteChain(String),
    AddRule {
        chain: String,
        expressions: Vec<Expression>,
    },
    AddSet(Set),
    AddElements {
        set: String,
        elements: Vec<Element>,
    },
    /// Only keys count. A missing element is an error.
    DeleteElements {
        set: String,
        elements: Vec<Element>,
    },
    FlushSet(String),
    /// Only one that no rule uses.
    DeleteSet(String),
}

impl Change {
    /// Words for errors.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::AddTable { .. } => "add table".into(),
            Self::DeleteTable => "delete table".into(),
            Self::AddChain(c) => format!("add chain {}", c.name),
            Self::FlushChain(c) => format!("flush chain {c}"),
            Self::DeleteChain(c) => format!("delete chain {c}"),
            Self::AddRule { chain, .. } => format!("add rule to chain {chain}"),
            Self::AddSet(s) => format!("add set {}", s.name),
            Self::AddElements { set, elements } => format!("add {} elements to {set}", elements.len()),
            Self::DeleteElements { set, elements } => format!("delete {} elements from {set}", elements.len()),
            Self::FlushSet(s) => format!("flush set {s}"),
            Self::DeleteSet(s) => format!("delete set {s}"),
        }
    }
}

/// Changes to one table that are made together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub family: Family,
    pub table: String,
    pub changes: Vec<Change>,
}

impl Batch {
    pub fn new(family: Family, table: impl Into<String>) -> Self {
        Self { family, table: table.into(), changes: Vec::new() }
    }

    pub fn push(&mut self, change: Change) -> &mut Self {
        self.changes.push(change);
        self
    }

    /// Begins anew: whatever the table held is gone, in the same step in which the rest of the batch comes.
    pub fn recreate_table(&mut self, stamp: impl Into<String>) -> &mut Self {
        self.push(Change::AddTable { stamp: String::new() }).push(Change::DeleteTable).push(Change::AddTable { stamp: stamp.into() })
    }

    /// Takes the table away, whether or not it exists.
    pub fn remove_table(&mut self) -> &mut Self {
        self.push(Change::AddTable { stamp: String::new() }).push(Change::DeleteTable)
    }

    pub fn rule(&mut self, chain: &str, expressions: Vec<Expression>) -> &mut Self {
        self.push(Change::AddRule { chain: chain.into(), expressions })
    }

    pub fn add_elements(&mut self, set: &str, elements: Vec<Element>) -> &mut Self {
        if elements.is_empty() { self } else { self.push(Change::AddElements { set: set.into(), elements }) }
    }

    pub fn delete_elements(&mut self, set: &str, elements: Vec<Element>) -> &mut Self {
        if elements.is_empty() { self } else { self.push(Change::DeleteElements { set: set.into(), elements }) }
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}
