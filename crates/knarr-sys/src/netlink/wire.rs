//! Netlink messages as bytes. A message is a 16-byte header, a fixed part that depends on its type, and attributes; an
//! attribute is a length, a type and a value, padded to four bytes, and may nest others (`man 7 netlink`).

const HEADER_LEN: usize = 16;
const ATTRIBUTE_HEADER_LEN: usize = 4;
/// Says that an attribute holds attributes.
const NESTED: u16 = 0x8000;
/// Type without the flags `NESTED` and network byte order.
const TYPE_MASK: u16 = 0x3fff;

/// Longest value an attribute can have: its length field has 16 bits.
pub const ATTRIBUTE_LEN_MAX: usize = u16::MAX as usize - ATTRIBUTE_HEADER_LEN;

/// Writes messages one after the other into one buffer.
#[derive(Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// One message; `body` writes the fixed part and the attributes.
    pub fn message(&mut self, kind: u16, flags: u16, sequence: u32, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        body(self);
        let len = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&len.to_ne_bytes());
    }

    /// Adds `flags` to those of the message that starts at `offset`.
    pub fn add_flags(&mut self, offset: usize, flags: u16) {
        let at = offset + 6;
        let old = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]);
        self.bytes[at..at + 2].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    /// Raw bytes of a fixed part, padded to four.
    pub fn fixed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        debug_assert!(value.len() <= ATTRIBUTE_LEN_MAX);
        let len = (ATTRIBUTE_HEADER_LEN + value.len()) as u16;
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    pub fn u8(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }

    pub fn u16(&mut self, kind: u16, value: u16) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    pub fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// In network byte order, as nfnetlink wants its numbers.
    pub fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub fn be64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A string with its terminating zero.
    pub fn text(&mut self, kind: u16, value: &str) {
        let len = (ATTRIBUTE_HEADER_LEN + value.len() + 1) as u16;
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    /// An attribute of attributes. What `body` writes must stay below [`ATTRIBUTE_LEN_MAX`].
    pub fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        body(self);
        let len = self.bytes.len() - start;
        debug_assert!(len <= u16::MAX as usize, "a nested attribute of {len} bytes");
        self.bytes[start..start + 2].copy_from_slice(&(len as u16).to_ne_bytes());
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

/// A message as it came in.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub body: &'a [u8],
}

/// The messages of one datagram.
pub struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header = self.0.get(..HEADER_LEN)?;
        let len = read_u32(header, 0) as usize;
        let body = self.0.get(HEADER_LEN..len)?;
        let message = Message { kind: read_u16(header, 4), flags: read_u16(header, 6), sequence: read_u32(header, 8), body };
        self.0 = self.0.get(aligned(len)..).unwrap_or_default();
        Some(message)
    }
}

/// The attributes in a piece of a message.
#[derive(Clone, Copy)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Attributes<'a> {
    /// The first attribute of a type.
    pub fn find(self, kind: u16) -> Option<&'a [u8]> {
        let mut each = self;
        each.find_map(|(k, value)| (k == kind).then_some(value))
    }

    pub fn find_u32(self, kind: u16) -> Option<u32> {
        self.find(kind).filter(|v| v.len() >= 4).map(|v| read_u32(v, 0))
    }

    pub fn find_be32(self, kind: u16) -> Option<u32> {
        self.find_u32(kind).map(u32::from_be)
    }

    pub fn find_text(self, kind: u16) -> Option<&'a str> {
        self.find(kind).and_then(as_text)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let header = self.0.get(..ATTRIBUTE_HEADER_LEN)?;
        let len = read_u16(header, 0) as usize;
        let value = self.0.get(ATTRIBUTE_HEADER_LEN..len)?;
        let kind = read_u16(header, 2) & TYPE_MASK;
        self.0 = self.0.get(aligned(len)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// A value as text, without its terminating zero.
pub fn as_text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value.split(|b| *b == 0).next().unwrap_or_default()).ok()
}

/// Reads a number of the machine's own byte order. Panics past the end: check the length first.
pub fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Like [`read_u32`] for two bytes.
pub fn read_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn aligned(len: usize) -> usize {
    len.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut out = Writer::new();
        out.message(7, 1, 42, |m| {
            m.fixed(&[9, 9]);
            m.text(1, "eth0");
            m.nest(2, |n| {
                n.u8(3, 5);
                n.be32(4, 6);
            });
        });
        out.message(8, 0, 43, |_| ());
        let messages: Vec<_> = Messages(out.as_bytes()).collect();
        assert_eq!((messages.len(), messages[0].kind, messages[0].sequence, messages[1].kind), (2, 7, 42, 8));
        let attributes = Attributes(&messages[0].body[4..]);
        assert_eq!(attributes.find_text(1), Some("eth0"));
        let inner = Attributes(attributes.find(2).unwrap());
        assert_eq!((inner.find(3), inner.find_be32(4)), (Some(&[5_u8][..]), Some(6)));
    }

    #[test]
    fn a_cut_off_message_ends_the_reading() {
        let mut out = Writer::new();
        out.message(7, 1, 42, |m| m.text(1, "eth0"));
        let cut = &out.as_bytes()[..out.len() - 4];
        assert_eq!(Messages(cut).count(), 0);
        assert_eq!(Attributes(&[9, 0, 1, 0, 1]).count(), 0);
    }
}
