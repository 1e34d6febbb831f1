//! The protobuf wire format: fields of a message as they come, and a buffer that is written from its end, so that the
//! length of a message is known when it has to be written.

use std::fmt;

/// Why bytes are no message of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    Truncated,
    Varint,
    WireType,
    Depth,
    Envelope,
}

/// In the words of upstream's generated decoders, where it has words.
impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "unexpected EOF",
            Self::Varint => "proto: integer overflow",
            Self::WireType => "proto: illegal wireType",
            Self::Depth => "exceeded max depth",
            Self::Envelope => "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]",
        })
    }
}

/// A value on the wire.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    #[inline]
    pub fn bytes(self) -> Result<&'a [u8], Malformed> {
        if let Wire::Bytes(b) = self { Ok(b) } else { Err(Malformed::WireType) }
    }

    #[inline]
    pub fn varint(self) -> Result<u64, Malformed> {
        if let Wire::Varint(n) = self { Ok(n) } else { Err(Malformed::WireType) }
    }

    pub fn double(self) -> Result<f64, Malformed> {
        if let Wire::Fixed64(n) = self { Ok(f64::from_bits(n)) } else { Err(Malformed::WireType) }
    }
}

/// Walks the fields of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    pub buf: &'a [u8],
    pub at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(buf: &'a [u8]) -> Self {
        Self { buf, at: 0 }
    }

    /// The next field's number and value; `None` at the end.
    // Inlined, so that the value stays in registers: through memory it costs more than the decoding.
    #[inline(always)]
    pub fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, Malformed> {
        if self.at >= self.buf.len() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            2 => {
                let n = self.varint()?;
                Wire::Bytes(self.take(n)?)
            }
            1 => Wire::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().map_err(|_| Malformed::Truncated)?)),
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            _ => return Err(Malformed::WireType),
        };
        Ok(Some((number_of(tag)?, value)))
    }

    /// Moves behind the next field and gives its number, 0 at the end.
    #[inline(always)]
    pub fn skip(&mut self) -> Result<u32, Malformed> {
        if self.at >= self.buf.len() {
            return Ok(0);
        }
        let tag = self.varint()?;
        let size = match tag & 7 {
            0 => {
                self.varint()?;
                0
            }
            2 => self.varint()?,
            1 => 8,
            5 => 4,
            _ => return Err(Malformed::WireType),
        };
        self.take(size)?;
        number_of(tag)
    }

    #[inline(always)]
    fn take(&mut self, n: u64) -> Result<&'a [u8], Malformed> {
        if n > (self.buf.len() - self.at) as u64 {
            return Err(Malformed::Truncated);
        }
        let start = self.at;
        self.at += n as usize;
        Ok(&self.buf[start..self.at])
    }

    #[inline(always)]
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        match self.buf.get(self.at) {
            Some(&b) if b < 0x80 => {
                self.at += 1;
                Ok(u64::from(b))
            }
            _ => self.long_varint(),
        }
    }

    #[inline(never)]
    fn long_varint(&mut self) -> Result<u64, Malformed> {
        let mut n = 0;
        for shift in (0..70).step_by(7) {
            let &b = self.buf.get(self.at).ok_or(Malformed::Truncated)?;
            self.at += 1;
            n |= u64::from(b & 0x7f).wrapping_shl(shift);
            if b < 0x80 {
                return Ok(n);
            }
        }
        Err(Malformed::Varint)
    }
}

/// Numbers of fields are small and never 0.
#[inline(always)]
fn number_of(tag: u64) -> Result<u32, Malformed> {
    match u32::try_from(tag >> 3) {
        Ok(number) if number != 0 => Ok(number),
        _ => Err(Malformed::Varint),
    }
}

/// The last value of a field in a message, which is the one that counts.
pub(crate) fn last<'a>(buf: &'a [u8], number: u32) -> Result<Option<Wire<'a>>, Malformed> {
    let mut reader = Reader::new(buf);
    let mut found = None;
    while let Some((n, value)) = reader.next()? {
        if n == number {
            found = Some(value);
        }
    }
    Ok(found)
}

/// The last value of a length-delimited field; empty when absent.
pub(crate) fn last_bytes<'a>(buf: &'a [u8], number: u32) -> Result<&'a [u8], Malformed> {
    last(buf, number)?.map_or(Ok(&[]), Wire::bytes)
}

/// The last value of a varint field; zero when absent.
pub(crate) fn last_varint(buf: &[u8], number: u32) -> Result<u64, Malformed> {
    last(buf, number)?.map_or(Ok(0), Wire::varint)
}

/// A buffer that is filled from its end: first a message's last field, then the one before it, then its length.
pub(crate) struct Back {
    buf: Vec<u8>,
    at: usize,
}

impl Back {
    pub fn with_capacity(n: usize) -> Self {
        Self { buf: vec![0; n.max(64)], at: n.max(64) }
    }

    /// How much has been written.
    pub fn len(&self) -> usize {
        self.buf.len() - self.at
    }

    pub fn into_vec(mut self) -> Vec<u8> {
        self.buf.drain(..self.at);
        self.buf
    }

    fn room(&mut self, n: usize) -> &mut [u8] {
        if self.at < n {
            let grow = self.buf.len().max(n);
            let mut bigger = vec![0; self.buf.len() + grow];
            bigger[self.at + grow..].copy_from_slice(&self.buf[self.at..]);
            self.buf = bigger;
            self.at += grow;
        }
        self.at -= n;
        &mut self.buf[self.at..self.at + n]
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
    }

    pub fn varint(&mut self, n: u64) {
        let (digits, size) = varint(n);
        self.raw(&digits[..size]);
    }

    pub fn tag(&mut self, number: u32, wire: u32) {
        self.varint(u64::from(number << 3 | wire));
    }

    pub fn number(&mut self, number: u32, n: u64) {
        self.varint(n);
        self.tag(number, 0);
    }

    pub fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.raw(bytes);
        self.varint(bytes.len() as u64);
        self.tag(number, 2);
    }

    /// Closes a message whose body has been written since `len()` was `before`.
    pub fn close(&mut self, number: u32, before: usize) {
        self.varint((self.len() - before) as u64);
        self.tag(number, 2);
    }
}

/// A varint's bytes and how many they are.
pub(crate) fn varint(mut n: u64) -> ([u8; 10], usize) {
    let mut bytes = [0; 10];
    let mut size = 0;
    while n > 0x7f {
        bytes[size] = n as u8 | 0x80;
        n >>= 7;
        size += 1;
    }
    bytes[size] = n as u8;
    (bytes, size + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_written_from_its_end_reads_from_its_start() {
        let mut back = Back::with_capacity(0);
        back.number(3, u64::MAX);
        let before = back.len();
        back.bytes(1, &[b'x'; 200]);
        back.close(2, before);
        let bytes = back.into_vec();
        let mut reader = Reader::new(&bytes);
        let (number, inner) = reader.next().unwrap().unwrap();
        assert_eq!((number, last_bytes(inner.bytes().unwrap(), 1).unwrap()), (2, &[b'x'; 200][..]));
        assert_eq!(reader.next().unwrap().unwrap().1.varint().unwrap(), u64::MAX);
        assert!(reader.next().unwrap().is_none());
    }

    #[test]
    fn a_cut_message_is_an_error_and_no_panic() {
        for cut in [&b"\x0a\x05ab"[..], b"\x0a", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x0f", b"\x09abc"] {
            assert!(Reader::new(cut).next().is_err(), "{cut:?}");
        }
    }
}
