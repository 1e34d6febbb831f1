//! A layer's way from compressed bytes to a folder, on two threads: one hashes and inflates, the other hashes the result and unpacks it.

use std::io::{self, BufRead, Read};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::digest::Hasher;
use super::manifest::Compression;
use super::unpack::{Bounds, Unpacked, unpack};
use super::{Digest, ImageError};

/// Inflated bytes in one hand-over.
const CHUNK_BYTES: usize = 256 << 10;
/// Hand-overs under way: what one thread may be ahead of the other.
const CHUNKS_MAX: usize = 8;

/// Unpacks compressed bytes into an empty folder, and checks both digests: of what came and of what it was inflated to.
pub fn ingest(source: impl Read + Send, digest: &Digest, diff_id: &Digest, folder: &Path, bounds: Bounds) -> Result<Unpacked, ImageError> {
    let (sender, receiver) = sync_channel(CHUNKS_MAX);
    std::thread::scope(|scope| {
        let inflater = scope.spawn(move || inflate(source, digest, &sender));
        let unpacked = unpack_chunks(receiver, diff_id, folder, bounds);
        let found = inflater.join().unwrap_or_else(|_| Err(io::Error::other("inflating thread panicked")));
        match (found, unpacked) {
            // When the unpacking side has failed, it is the cause: the other one saw a closed channel.
            (Err(error), Ok(_)) => Err(ImageError::Io(format!("layer {digest}"), error)),
            (Err(error), Err(ImageError::Io(_, inner))) if inner.kind() == io::ErrorKind::UnexpectedEof => {
                Err(ImageError::Io(format!("layer {digest}"), error))
            }
            (_, Err(error)) => Err(error),
            (Ok(found), Ok(unpacked)) => digest.check(found, "layer").map(|()| unpacked),
        }
    })
}

fn unpack_chunks(receiver: Receiver<Vec<u8>>, diff_id: &Digest, folder: &Path, bounds: Bounds) -> Result<Unpacked, ImageError> {
    let mut reader = HashingReader { inner: Chunks { receiver, chunk: Vec::new(), at: 0 }, hasher: diff_id.hasher() };
    let unpacked = unpack(&mut reader, folder, bounds).map_err(ImageError::io(format!("unpacking layer {diff_id}")))?;
    // What follows the archive's end counts for the digest.
    io::copy(&mut reader, &mut io::sink()).map_err(ImageError::io(format!("unpacking layer {diff_id}")))?;
    diff_id.check(reader.hasher.finish(), "unpacked layer")?;
    Ok(unpacked)
}

/// Feeds the other thread; gives the digest of the compressed bytes.
fn inflate(source: impl Read, digest: &Digest, sender: &SyncSender<Vec<u8>>) -> io::Result<Digest> {
    let mut source = io::BufReader::with_capacity(CHUNK_BYTES, HashingReader { inner: source, hasher: digest.hasher() });
    let compression = Compression::sniff(source.fill_buf()?);
    match compression {
        Compression::None => pump(&mut source, sender)?,
        Compression::Gzip => pump(&mut flate2::bufread::MultiGzDecoder::new(&mut source), sender)?,
        Compression::Zstd => inflate_zstd(&mut source, sender)?,
    }
    io::copy(&mut source, &mut io::sink())?;
    Ok(source.into_inner().hasher.finish())
}

/// A zstd stream is a row of frames; some are padding to be skipped.
fn inflate_zstd(source: &mut impl BufRead, sender: &SyncSender<Vec<u8>>) -> io::Result<()> {
    while !source.fill_buf()?.is_empty() {
        match ruzstd::decoding::StreamingDecoder::new(&mut *source) {
            Ok(mut decoder) => pump(&mut decoder, sender)?,
            Err(ruzstd::decoding::errors::FrameDecoderError::ReadFrameHeaderError(ruzstd::decoding::errors::ReadFrameHeaderError::SkipFrame {
                length,
                ..
            })) => {
                io::copy(&mut source.take(u64::from(length)), &mut io::sink())?;
            }
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string())),
        }
    }
    Ok(())
}

fn pump(reader: &mut impl Read, sender: &SyncSender<Vec<u8>>) -> io::Result<()> {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        reader.take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
        if chunk.is_empty() {
            return Ok(());
        }
        sender.send(chunk).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
    }
}

struct Chunks {
    receiver: Receiver<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            match self.receiver.recv() {
                Ok(chunk) => (self.chunk, self.at) = (chunk, 0),
                Err(_) => return Ok(0),
            }
        }
        let n = buffer.len().min(self.chunk.len() - self.at);
        buffer[..n].copy_from_slice(&self.chunk[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

struct HashingReader<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn tar() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        builder.append_data(&mut header, "f", &b"hello"[..]).unwrap();
        builder.into_inner().unwrap()
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn check(packed: &[u8], digest: &Digest, diff_id: &Digest) -> Result<u64, String> {
        let folder = tempfile::tempdir().unwrap();
        ingest(packed, digest, diff_id, folder.path(), Bounds::default()).map(|u| u.bytes).map_err(|e| e.to_string())
    }

    #[test]
    fn every_packing_gives_the_same_layer() {
        let tar = tar();
        let zstd = ruzstd::encoding::compress_to_vec(tar.as_slice(), ruzstd::encoding::CompressionLevel::Fastest);
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd].concat();
        let two_members = [gzip(&tar[..100]), gzip(&tar[100..])].concat();
        for packed in [tar.clone(), gzip(&tar), zstd, skippable, two_members] {
            assert_eq!(check(&packed, &Digest::of(&packed), &Digest::of(&tar)), Ok(5));
        }
    }

    #[test]
    fn wrong_digests_and_cut_streams_are_refused() {
        let (tar, other) = (tar(), Digest::of(b"other"));
        let packed = gzip(&tar);
        assert!(check(&packed, &other, &Digest::of(&tar)).unwrap_err().starts_with("layer has digest"));
        assert!(check(&packed, &Digest::of(&packed), &other).unwrap_err().starts_with("unpacked layer has digest"));
        let cut = &packed[..packed.len() / 2];
        assert!(check(cut, &Digest::of(cut), &Digest::of(&tar)).is_err());
    }
}
