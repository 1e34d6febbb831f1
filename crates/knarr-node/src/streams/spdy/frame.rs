//! Frames of SPDY/3.1 and their compressed header blocks.

use std::sync::LazyLock;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

const VERSION: u16 = 3;
const HEAD_BYTES: usize = 8;
/// Bytes of a frame that is accepted: clients send data in pieces of at most 64 KiB.
const FRAME_BYTES_MAX: usize = 1 << 20;
/// Bytes of an uncompressed header block.
const HEADERS_BYTES_MAX: usize = 64 * 1024;

pub const FLAG_FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// Names and values in order.
pub type Headers = Vec<(String, String)>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    SynStream {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    SynReply {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    Data {
        id: u32,
        fin: bool,
        data: Bytes,
    },
    Reset {
        id: u32,
        status: u32,
    },
    Ping {
        id: u32,
    },
    GoAway {
        last: u32,
    },
    Headers {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    /// Settings and window updates: nothing follows from them here.
    Ignored,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("SPDY version {0} is not spoken")]
    Version(u16),
    #[error("a frame of {0} bytes is too large")]
    TooLarge(usize),
    #[error("a frame is too short")]
    Short,
    #[error("a header block cannot be read: {0}")]
    Headers(String),
}

/// The words that header blocks begin to be compressed with.
static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    const NAMES: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow authorization \
        cache-control connection content-base content-encoding content-language content-length content-location content-md5 content-range content-type date \
        etag expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
        proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade user-agent vary via warning \
        www-authenticate method get status 200+OK version HTTP/1.1 url public set-cookie keep-alive origin";
    const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative Information204 \
        No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service \
        UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,\
        image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,\
        utf-,*,enq=0.";
    let mut all = Vec::new();
    for name in NAMES.split_whitespace() {
        all.put_u32(name.len() as u32);
        all.extend(name.replace('+', " ").bytes());
    }
    all.extend(TAIL.bytes());
    all
});

/// Reads frames out of what has come in. Header blocks share one compression, so there is one decoder for a connection.
pub struct Decoder {
    inflate: Decompress,
    has_dictionary: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { inflate: Decompress::new(true), has_dictionary: false }
    }
}

impl Decoder {
    /// The next frame, if it is there whole.
    ///
    /// # Errors
    /// The peer does not speak SPDY/3.1; the connection is of no more use.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, Error> {
        if input.len() < HEAD_BYTES {
            return Ok(None);
        }
        let length = (u32::from_be_bytes([0, input[5], input[6], input[7]])) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(Error::TooLarge(length));
        }
        if input.len() < HEAD_BYTES + length {
            return Ok(None);
        }
        let mut head = input.split_to(HEAD_BYTES);
        let body = input.split_to(length).freeze();
        let first = head.get_u32();
        let fin = head.get_u8() & FLAG_FIN != 0;
        if first >> 31 == 0 {
            return Ok(Some(Frame::Data { id: first, fin, data: body }));
        }
        let version = (first >> 16 & 0x7fff) as u16;
        if version != VERSION {
            return Err(Error::Version(version));
        }
        self.control((first & 0xffff) as u16, fin, body).map(Some)
    }

    fn control(&mut self, kind: u16, fin: bool, mut body: Bytes) -> Result<Frame, Error> {
        let need = match kind {
            SYN_STREAM => 10,
            SYN_REPLY | PING | GOAWAY | HEADERS => 4,
            RST_STREAM => 8,
            _ => 0,
        };
        if body.len() < need {
            return Err(Error::Short);
        }
        Ok(match kind {
            SYN_STREAM => {
                let id = body.get_u32() & 0x7fff_ffff;
                body.advance(6);
                Frame::SynStream { id, fin, headers: self.headers(&body)? }
            }
            SYN_REPLY => Frame::SynReply { id: body.get_u32() & 0x7fff_ffff, fin, headers: self.headers(&body)? },
            HEADERS => Frame::Headers { id: body.get_u32() & 0x7fff_ffff, fin, headers: self.headers(&body)? },
            RST_STREAM => Frame::Reset { id: body.get_u32() & 0x7fff_ffff, status: body.get_u32() },
            PING => Frame::Ping { id: body.get_u32() },
            GOAWAY => Frame::GoAway { last: body.get_u32() & 0x7fff_ffff },
            SETTINGS | WINDOW_UPDATE => Frame::Ignored,
            // The draft: unknown control frames are to be passed over.
            _ => Frame::Ignored,
        })
    }

    fn headers(&mut self, block: &[u8]) -> Result<Headers, Error> {
        let plain = self.inflate(block)?;
        let mut plain = &plain[..];
        let text = |from: &mut &[u8]| -> Option<String> {
            let length = from.try_get_u32().ok()? as usize;
            let (head, rest) = from.split_at_checked(length)?;
            *from = rest;
            String::from_utf8(head.to_vec()).ok()
        };
        let broken = || Error::Headers("cut short".into());
        let count = plain.try_get_u32().map_err(|_| broken())?;
        (0..count).map(|_| Some((text(&mut plain)?, text(&mut plain)?))).collect::<Option<_>>().ok_or_else(broken)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, Error> {
        let mut plain = Vec::with_capacity(1024);
        loop {
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            let result = self.inflate.decompress_vec(block, &mut plain, FlushDecompress::Sync);
            block = &block[(self.inflate.total_in() - before_in) as usize..];
            match result {
                Ok(Status::StreamEnd) => return Ok(plain),
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() && !self.has_dictionary => {
                    self.has_dictionary = true;
                    self.inflate.set_dictionary(&DICTIONARY).map_err(|e| Error::Headers(e.to_string()))?;
                    continue;
                }
                Err(error) => return Err(Error::Headers(error.to_string())),
            }
            if plain.len() > HEADERS_BYTES_MAX {
                return Err(Error::TooLarge(plain.len()));
            }
            let moved = self.inflate.total_in() != before_in || self.inflate.total_out() != before_out;
            if block.is_empty() && plain.len() < plain.capacity() || !moved {
                return Ok(plain);
            }
            plain.reserve(1024);
        }
    }
}

/// Writes frames. Header blocks share one compression, so there is one encoder for a connection.
pub struct Encoder {
    deflate: Compress,
    has_dictionary: bool,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { deflate: Compress::new(Compression::new(6), true), has_dictionary: false }
    }
}

impl Encoder {
    /// Appends a frame.
    ///
    /// # Errors
    /// Headers that cannot be compressed.
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) -> Result<(), Error> {
        match frame {
            Frame::Data { id, fin, data } => {
                out.put_u32(*id);
                put_length(out, *fin, data.len());
                out.extend_from_slice(data);
            }
            Frame::SynStream { id, fin, headers } => {
                let block = self.headers(headers)?;
                put_control(out, SYN_STREAM, *fin, 10 + block.len());
                out.put_u32(*id);
                out.put_u32(0);
                out.put_u16(0);
                out.extend_from_slice(&block);
            }
            Frame::SynReply { id, fin, headers } => self.with_headers(SYN_REPLY, *id, *fin, headers, out)?,
            Frame::Headers { id, fin, headers } => self.with_headers(HEADERS, *id, *fin, headers, out)?,
            Frame::Reset { id, status } => {
                put_control(out, RST_STREAM, false, 8);
                out.put_u32(*id);
                out.put_u32(*status);
            }
            Frame::Ping { id } => {
                put_control(out, PING, false, 4);
                out.put_u32(*id);
            }
            Frame::GoAway { last } => {
                put_control(out, GOAWAY, false, 8);
                out.put_u32(*last);
                out.put_u32(0);
            }
            Frame::Ignored => {}
        }
        Ok(())
    }

    fn with_headers(&mut self, kind: u16, id: u32, fin: bool, headers: &Headers, out: &mut BytesMut) -> Result<(), Error> {
        let block = self.headers(headers)?;
        put_control(out, kind, fin, 4 + block.len());
        out.put_u32(id);
        out.extend_from_slice(&block);
        Ok(())
    }

    fn headers(&mut self, headers: &Headers) -> Result<Vec<u8>, Error> {
        let mut plain = Vec::new();
        plain.put_u32(headers.len() as u32);
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(text.len() as u32);
            plain.extend(text.bytes());
        }
        let failed = |e: flate2::CompressError| Error::Headers(e.to_string());
        if !self.has_dictionary {
            self.has_dictionary = true;
            self.deflate.set_dictionary(&DICTIONARY).map_err(failed)?;
        }
        // Room for what does not compress, and for the marks of a flush.
        let mut block = Vec::with_capacity(plain.len() + plain.len() / 8 + 128);
        let before = self.deflate.total_in();
        self.deflate.compress_vec(&plain, &mut block, FlushCompress::Sync).map_err(failed)?;
        if self.deflate.total_in() - before != plain.len() as u64 {
            return Err(Error::TooLarge(plain.len()));
        }
        Ok(block)
    }
}

fn put_control(out: &mut BytesMut, kind: u16, fin: bool, length: usize) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    put_length(out, fin, length);
}

fn put_length(out: &mut BytesMut, fin: bool, length: usize) {
    out.put_u32(u32::from(if fin { FLAG_FIN } else { 0 }) << 24 | length as u32);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(frames: &[Frame]) -> Vec<Frame> {
        let (mut encoder, mut decoder, mut wire) = (Encoder::default(), Decoder::default(), BytesMut::new());
        frames.iter().for_each(|f| encoder.encode(f, &mut wire).unwrap());
        std::iter::from_fn(|| decoder.decode(&mut wire).unwrap()).collect()
    }

    #[test]
    fn the_dictionary_is_the_drafts() {
        assert_eq!(DICTIONARY.len(), 1423);
        let sum = DICTIONARY.iter().fold((1u32, 0u32), |(a, b), byte| ((a + u32::from(*byte)) % 65521, (b + a + u32::from(*byte)) % 65521));
        assert_eq!(sum.1 << 16 | sum.0, 0xe3c6_a7c2, "Adler-32, as zlib asks for it");
    }

    #[test]
    fn frames_survive_the_wire() {
        let headers = |n: usize| vec![("streamtype".to_owned(), "stdin".to_owned()), ("x".repeat(n), "y".repeat(n * 3))];
        let frames = [
            Frame::SynStream { id: 1, fin: false, headers: headers(3) },
            Frame::SynReply { id: 1, fin: true, headers: vec![] },
            Frame::Data { id: 1, fin: true, data: Bytes::from_static(b"abc") },
            Frame::Reset { id: 3, status: 5 },
            Frame::Ping { id: 7 },
            Frame::SynStream { id: 5, fin: false, headers: headers(2000) },
            Frame::Headers { id: 5, fin: false, headers: headers(1) },
            Frame::GoAway { last: 5 },
        ];
        assert_eq!(there_and_back(&frames), frames);
    }

    #[test]
    fn a_frame_is_read_when_it_is_whole() {
        let mut wire = BytesMut::new();
        Encoder::default().encode(&Frame::Data { id: 9, fin: false, data: Bytes::from_static(b"abcdef") }, &mut wire).unwrap();
        let mut part = BytesMut::from(&wire[..10]);
        let mut decoder = Decoder::default();
        assert_eq!(decoder.decode(&mut part), Ok(None));
        part.extend_from_slice(&wire[10..]);
        assert!(decoder.decode(&mut part).unwrap().is_some());
    }

    #[test]
    fn what_is_not_spdy_or_too_large_is_refused() {
        let decode = |bytes: &[u8]| Decoder::default().decode(&mut BytesMut::from(bytes));
        assert_eq!(decode(&[0x80, 2, 0, 1, 0, 0, 0, 0]), Err(Error::Version(2)));
        assert_eq!(decode(&[0, 0, 0, 1, 0, 0xff, 0xff, 0xff]), Err(Error::TooLarge(0xff_ffff)));
        assert_eq!(decode(&[0x80, 3, 0, 1, 0, 0, 0, 0]), Err(Error::Short));
        assert!(matches!(decode(&[0x80, 3, 0, 2, 0, 0, 0, 6, 0, 0, 0, 1, 9, 9]), Err(Error::Headers(_))));
    }
}
