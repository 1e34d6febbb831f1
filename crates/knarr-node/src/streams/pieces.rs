//! Data that comes in pieces, read as a stream of bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;

use super::PIECES_WAITING_MAX;

/// Reads the pieces that are sent; the end of the senders is the end of the stream.
pub struct Reader {
    pieces: mpsc::Receiver<Bytes>,
    current: Bytes,
}

/// A bounded way for pieces.
pub fn channel() -> (mpsc::Sender<Bytes>, Reader) {
    let (sender, pieces) = mpsc::channel(PIECES_WAITING_MAX);
    (sender, Reader { pieces, current: Bytes::new() })
}

impl AsyncRead for Reader {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.current.is_empty() {
            match ready!(self.pieces.poll_recv(cx)) {
                Some(piece) => self.current = piece,
                None => return Poll::Ready(Ok(())),
            }
        }
        let n = self.current.len().min(buffer.remaining());
        buffer.put_slice(&self.current.split_to(n));
        Poll::Ready(Ok(()))
    }
}
