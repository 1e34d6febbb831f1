//! Reading a container's log for a client: the last lines, since a time, with time stamps, up to so many bytes, and on and on
//! while the container runs. Rotated files are followed by what takes their place (upstream: `kuberuntime/logs/logs.go`).

use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use knarr_sys::inotify::{CREATE, Inotify, MODIFY, MOVED_TO};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::{mpsc, watch};

use super::cri::{self, Line, Stream};

const BLOCK_BYTES: usize = 64 * 1024;
/// Bytes of a line that never ends, after which it is passed over: the runtime cuts lines far earlier.
const LINE_BYTES_MAX: usize = 1 << 20;

/// What a client wants (`PodLogOptions`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    pub follow: bool,
    pub tail_lines: Option<u64>,
    pub since: Option<Timestamp>,
    pub timestamps: bool,
    pub limit_bytes: Option<u64>,
    /// Only this stream.
    pub stream: Option<Stream>,
}

/// Sends the log's text in pieces until its end; with `follow` until the container has ended (`running` turns false) or the
/// client has left.
///
/// # Errors
/// The log cannot be read. What was sent before stays sent.
pub async fn send(path: PathBuf, options: Options, running: watch::Receiver<bool>, to: mpsc::Sender<Bytes>) -> io::Result<()> {
    let mut filter = Filter { options: &options, left: options.limit_bytes, line_begins: true };
    let wakes = options.follow.then(|| Wakes::new(&path, running)).transpose()?;
    let mut tail = Tail::open(&path, options.tail_lines).await?;
    let mut wakes = wakes;
    loop {
        // Asked before reading: what is written before the end is then surely read.
        let ended = wakes.as_ref().is_none_or(|w| !*w.running.borrow());
        while let Some(block) = tail.read().await? {
            let mut out = BytesMut::new();
            let more = tail.lines(&block, |line| filter.write(&line, &mut out));
            if !out.is_empty() && to.send(out.freeze()).await.is_err() {
                return Ok(());
            }
            if !more {
                return Ok(());
            }
        }
        if tail.reopened(&path).await? {
            continue;
        }
        let Some(wakes) = wakes.as_mut().filter(|_| !ended) else { return Ok(()) };
        tokio::select! {
            result = wakes.wait() => result?,
            () = to.closed() => return Ok(()),
        }
    }
}

/// What a follower waits for: the file grows or is replaced, or the container ends.
struct Wakes {
    inotify: Inotify,
    running: watch::Receiver<bool>,
}

impl Wakes {
    fn new(path: &Path, running: watch::Receiver<bool>) -> io::Result<Self> {
        let inotify = Inotify::new()?;
        inotify.watch(path.parent().unwrap_or(Path::new("/")), MODIFY | CREATE | MOVED_TO)?;
        Ok(Self { inotify, running })
    }

    async fn wait(&mut self) -> io::Result<()> {
        tokio::select! {
            changed = self.inotify.changed() => changed,
            // A sender that has gone means that the container has, too.
            _ = self.running.wait_for(|r| !r) => Ok(()),
        }
    }
}

/// An open log file and the beginning of a line that is not whole yet.
struct Tail {
    file: File,
    inode: u64,
    rest: BytesMut,
    buffer: Vec<u8>,
}

fn inode(meta: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(meta)
}

impl Tail {
    async fn open(path: &Path, lines: Option<u64>) -> io::Result<Self> {
        let mut file = cri::open(path)?;
        let from = match lines {
            Some(lines) => cri::tail_position(&mut file, lines)?,
            None => 0,
        };
        let inode = inode(&file.metadata()?);
        let mut file = File::from_std(file);
        file.seek(SeekFrom::Start(from)).await?;
        Ok(Self { file, inode, rest: BytesMut::new(), buffer: vec![0; BLOCK_BYTES] })
    }

    /// The next block, or nothing at the end of what is there now.
    async fn read(&mut self) -> io::Result<Option<Bytes>> {
        let n = self.file.read(&mut self.buffer).await?;
        Ok((n > 0).then(|| Bytes::copy_from_slice(&self.buffer[..n])))
    }

    /// Calls `take` with each whole line, until it wants no more; gives whether it does.
    fn lines(&mut self, block: &[u8], mut take: impl FnMut(Line<'_>) -> bool) -> bool {
        self.rest.extend_from_slice(block);
        while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
            let line = self.rest.split_to(end + 1);
            if let Some(line) = cri::parse(&line)
                && !take(line)
            {
                return false;
            }
        }
        if self.rest.len() > LINE_BYTES_MAX {
            self.rest.clear();
        }
        true
    }

    /// Goes on with the file that has taken this one's place, if one has.
    async fn reopened(&mut self, path: &Path) -> io::Result<bool> {
        match tokio::fs::metadata(path).await {
            Ok(meta) if inode(&meta) != self.inode => {
                let fresh = Self::open(path, None).await?;
                let rest = std::mem::take(&mut self.rest);
                *self = Self { rest, ..fresh };
                Ok(true)
            }
            // Between the two steps of a rotation there is no file.
            _ => Ok(false),
        }
    }
}

struct Filter<'a> {
    options: &'a Options,
    left: Option<u64>,
    /// Whether what comes next begins a line of the container's output.
    line_begins: bool,
}

impl Filter<'_> {
    /// Appends what the client wants of a line. Gives whether it wants more lines.
    fn write(&mut self, line: &Line<'_>, out: &mut BytesMut) -> bool {
        if self.options.stream.is_some_and(|s| s != line.stream) || self.is_too_old(line) {
            return true;
        }
        if self.options.timestamps && self.line_begins {
            self.put(line.time, out);
            self.put(b" ", out);
        }
        self.put(line.text, out);
        if !line.partial {
            self.put(b"\n", out);
        }
        self.line_begins = !line.partial;
        self.left != Some(0)
    }

    fn is_too_old(&self, line: &Line<'_>) -> bool {
        let Some(since) = self.options.since else { return false };
        let time = std::str::from_utf8(line.time).ok().and_then(knarr_core::time::parse);
        time.is_some_and(|at| at < since)
    }

    fn put(&mut self, bytes: &[u8], out: &mut BytesMut) {
        let n = self.left.map_or(bytes.len(), |left| bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        out.extend_from_slice(&bytes[..n]);
        self.left = self.left.map(|left| left - n as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-02T03:04:05.000000001Z stdout F one\n2026-01-02T03:04:06.000000002Z stderr P tw\n2026-01-02T03:04:06.000000003Z stderr F o\n2026-01-02T03:04:07.000000004Z stdout F three\n";

    async fn text(options: Options) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        let (to, mut pieces) = mpsc::channel(100);
        send(path, options, watch::channel(true).1, to).await.unwrap();
        let mut all = Vec::new();
        while let Some(piece) = pieces.recv().await {
            all.extend(piece);
        }
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn a_client_gets_what_it_asked_for() {
        assert_eq!(text(Options::default()).await, "one\ntwo\nthree\n");
        assert_eq!(text(Options { tail_lines: Some(1), ..Default::default() }).await, "three\n");
        assert_eq!(text(Options { tail_lines: Some(0), ..Default::default() }).await, "");
        assert_eq!(text(Options { limit_bytes: Some(5), ..Default::default() }).await, "one\nt");
        assert_eq!(text(Options { stream: Some(Stream::Stderr), ..Default::default() }).await, "two\n");
        assert_eq!(text(Options { since: knarr_core::time::parse("2026-01-02T03:04:07Z"), ..Default::default() }).await, "three\n");
        assert_eq!(
            text(Options { timestamps: true, ..Default::default() }).await,
            "2026-01-02T03:04:05.000000001Z one\n2026-01-02T03:04:06.000000002Z two\n2026-01-02T03:04:07.000000004Z three\n"
        );
    }

    #[tokio::test]
    async fn a_follower_sees_new_lines_over_a_rotation_and_stops_with_the_container() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, "t stdout F one\n").unwrap();
        let (running, is_running) = watch::channel(true);
        let (to, mut pieces) = mpsc::channel(100);
        let options = Options { follow: true, ..Default::default() };
        let sender = tokio::spawn(send(path.clone(), options, is_running, to));
        assert_eq!(pieces.recv().await.unwrap(), "one\n");
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"t stdout F two\n").unwrap();
        assert_eq!(pieces.recv().await.unwrap(), "two\n");
        std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        std::fs::write(&path, "t stdout F three\n").unwrap();
        assert_eq!(pieces.recv().await.unwrap(), "three\n");
        running.send_replace(false);
        assert!(pieces.recv().await.is_none());
        sender.await.unwrap().unwrap();
    }
}
