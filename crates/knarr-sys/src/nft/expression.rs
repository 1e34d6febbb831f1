//! What a rule is made of: expressions that load registers, compare them, and act. A packet that fails a comparison leaves
//! the rule. Printed, they read like the output of `nft --debug=netlink`.

use std::fmt;
use std::time::Duration;

use super::Verdict;

/// One of the sixteen 32-bit registers. A value longer than four bytes fills the next ones too. A rule reads only what it
/// has loaded itself: the kernel refuses a rule that relies on another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(pub u8);

impl Register {
    /// The kernel's number (`NFT_REG32_00` is 8).
    pub(super) fn code(self) -> u32 {
        8 + u32::from(self.0)
    }
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PayloadBase {
    Network = 1,
    Transport = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MetaKey {
    /// The queueing priority: a 32-bit number that rules can set and look up by.
    Priority = 2,
    Mark = 3,
    IncomingLink = 4,
    OutgoingLink = 5,
    IncomingLinkName = 6,
    OutgoingLinkName = 7,
    Protocol = 16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CtKey {
    State = 0,
    Direction = 1,
    Status = 2,
}

/// Bits of [`CtKey::State`].
pub mod ct_state {
    pub const INVALID: u32 = 1;
    pub const ESTABLISHED: u32 = 2;
    pub const RELATED: u32 = 4;
    pub const NEW: u32 = 8;
}

/// Bit of [`CtKey::Status`]: the destination was translated.
pub const CT_STATUS_DNAT: u32 = 1 << 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Compare {
    Equal = 0,
    NotEqual = 1,
    /// Of values in network byte order, like the next.
    LessOrEqual = 3,
    GreaterOrEqual = 5,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectWith {
    /// ICMP (or ICMPv6) port unreachable; in tables of family ip or ip6.
    PortUnreachable,
    TcpReset,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    Payload {
        base: PayloadBase,
        offset: u32,
        len: u32,
        to: Register,
    },
    Meta {
        key: MetaKey,
        to: Register,
    },
    SetMark {
        from: Register,
    },
    SetPriority {
        from: Register,
    },
    Ct {
        key: CtKey,
        to: Register,
    },
    Compare {
        register: Register,
        op: Compare,
        value: Vec<u8>,
    },
    /// `to = (from & mask) ^ xor`
    Bitwise {
        from: Register,
        to: Register,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    Immediate {
        to: Register,
        value: Vec<u8>,
    },
    Verdict(Verdict),
    /// Leaves the rule unless the key is in the set (or is, when inverted).
    In {
        set: String,
        key: Register,
        inverted: bool,
    },
    /// Loads what a map has for the key; leaves the rule when it has nothing.
    Lookup {
        map: String,
        key: Register,
        to: Register,
    },
    /// Does what a verdict map says for the key.
    Dispatch {
        map: String,
        key: Register,
    },
    /// A random number below `modulus`, plus `offset`.
    Random {
        to: Register,
        modulus: u32,
        offset: u32,
    },
    /// Jenkins hash of `len` bytes below `modulus`, plus `offset`.
    Hash {
        from: Register,
        len: u32,
        to: Register,
        modulus: u32,
        seed: u32,
        offset: u32,
    },
    /// The route type (`RTN_…`) of the destination or source address.
    AddressType {
        of_source: bool,
        to: Register,
    },
    Dnat {
        ipv6: bool,
        address: Register,
        port: Option<Register>,
    },
    Snat {
        ipv6: bool,
        address: Register,
    },
    Masquerade {
        random: bool,
    },
    Reject(RejectWith),
    NoTrack,
    Limit {
        packets: u64,
        per: Duration,
        burst: u32,
    },
    /// Adds an element, or renews its time; what a map has for the key stays as it is.
    Update {
        set: String,
        key: Register,
        data: Option<Register>,
        timeout: Option<Duration>,
    },
    /// Takes an element out; `data` may be anything, a map's is asked for by the kernel.
    Forget {
        set: String,
        key: Register,
        data: Option<Register>,
    },
    Counter,
}

fn compared(op: Compare) -> &'static str {
    match op {
        Compare::Equal => "==",
        Compare::NotEqual => "!=",
        Compare::LessOrEqual => "<=",
        Compare::GreaterOrEqual => ">=",
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Payload { base, offset, len, to } => write!(f, "{to} = {base:?}[{offset}..{}]", offset + len),
            Self::Meta { key, to } => write!(f, "{to} = {key:?}"),
            Self::SetMark { from } => write!(f, "Mark = {from}"),
            Self::SetPriority { from } => write!(f, "Priority = {from}"),
            Self::Ct { key, to } => write!(f, "{to} = ct {key:?}"),
            Self::Compare { register, op, value } => write!(f, "{register} {} {}", compared(*op), knarr_core::hex::encode(value)),
            Self::Bitwise { from, to, mask, xor } => write!(f, "{to} = ({from} & {}) ^ {}", knarr_core::hex::encode(mask), knarr_core::hex::encode(xor)),
            Self::Immediate { to, value } => write!(f, "{to} = {}", knarr_core::hex::encode(value)),
            Self::Verdict(verdict) => write!(f, "{verdict}"),
            Self::In { set, key, inverted } => write!(f, "{key} {}in @{set}", if *inverted { "not " } else { "" }),
            Self::Lookup { map, key, to } => write!(f, "{to} = @{map}[{key}]"),
            Self::Dispatch { map, key } => write!(f, "dispatch @{map}[{key}]"),
            Self::Random { to, modulus, offset } => write!(f, "{to} = random mod {modulus} + {offset}"),
            Self::Hash { from, len, to, modulus, offset, .. } => write!(f, "{to} = hash({from}, {len}) mod {modulus} + {offset}"),
            Self::AddressType { of_source, to } => write!(f, "{to} = type of {}", if *of_source { "source" } else { "destination" }),
            Self::Dnat { address, port: Some(port), .. } => write!(f, "dnat {address}:{port}"),
            Self::Dnat { address, port: None, .. } => write!(f, "dnat {address}"),
            Self::Snat { address, .. } => write!(f, "snat {address}"),
            Self::Masquerade { .. } => f.write_str("masquerade"),
            Self::Reject(with) => write!(f, "reject with {with:?}"),
            Self::NoTrack => f.write_str("notrack"),
            Self::Limit { packets, per, .. } => write!(f, "limit {packets} per {per:?}"),
            Self::Update { set, key, data, timeout } => {
                write!(f, "update @{set}[{key}]")?;
                data.map_or(Ok(()), |d| write!(f, " = {d}"))?;
                timeout.map_or(Ok(()), |t| write!(f, " for {t:?}"))
            }
            Self::Forget { set, key, .. } => write!(f, "forget @{set}[{key}]"),
            Self::Counter => f.write_str("counter"),
        }
    }
}
