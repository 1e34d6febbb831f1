//! Container logs in CRI's format: `2026-01-02T03:04:05.000000006Z stdout F line`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Longer lines are cut into parts (tag `P`), as containerd does.
const LINE_BYTES_MAX: usize = 16 << 10;

/// A log file.
pub struct Log {
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
}

impl Log {
    /// Opens the file for appending, making it and its folder.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        Ok(Self { file: open_file(&path)?, path, buffer: Vec::new() })
    }

    /// Goes on in a new file of the same name, after the old one was moved away.
    pub fn reopen(&mut self) -> io::Result<()> {
        self.file = open_file(&self.path)?;
        Ok(())
    }

    /// Writes what a stream gave. `lines` keeps the unfinished line until the next time.
    pub fn write(&mut self, lines: &mut Lines, data: &[u8]) -> io::Result<()> {
        self.buffer.clear();
        lines.format(&now(), data, &mut self.buffer);
        self.write_out()
    }

    /// Writes an unfinished line at the end of a stream.
    pub fn finish(&mut self, lines: &mut Lines) -> io::Result<()> {
        self.buffer.clear();
        lines.finish(&now(), &mut self.buffer);
        self.write_out()
    }

    fn write_out(&mut self) -> io::Result<()> {
        let result = self.file.write_all(&self.buffer);
        self.buffer.clear();
        self.buffer.shrink_to(4 << 10);
        result
    }
}

fn open_file(path: &std::path::Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// The current time as Go's RFC3339Nano would, but always with nine digits.
pub fn now() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}

/// Lines of one stream.
pub struct Lines {
    stream: &'static str,
    unfinished: Vec<u8>,
}

impl Lines {
    /// `stream` is `stdout` or `stderr`.
    pub fn new(stream: &'static str) -> Self {
        Self { stream, unfinished: Vec::new() }
    }

    fn format(&mut self, time: &str, mut data: &[u8], out: &mut Vec<u8>) {
        while let Some(end) = memchr(data) {
            self.push(time, &data[..end], out);
            self.entry(time, b'F', out);
            data = &data[end + 1..];
        }
        self.push(time, data, out);
    }

    fn finish(&mut self, time: &str, out: &mut Vec<u8>) {
        if !self.unfinished.is_empty() {
            self.entry(time, b'P', out);
        }
    }

    /// Adds to the unfinished line; writes parts of one that is too long.
    fn push(&mut self, time: &str, mut data: &[u8], out: &mut Vec<u8>) {
        while self.unfinished.len() + data.len() > LINE_BYTES_MAX {
            let (now, later) = data.split_at(LINE_BYTES_MAX - self.unfinished.len());
            self.unfinished.extend_from_slice(now);
            self.entry(time, b'P', out);
            data = later;
        }
        self.unfinished.extend_from_slice(data);
    }

    fn entry(&mut self, time: &str, tag: u8, out: &mut Vec<u8>) {
        for part in [time.as_bytes(), b" ", self.stream.as_bytes(), b" ", &[tag], b" ", &self.unfinished, b"\n"] {
            out.extend_from_slice(part);
        }
        self.unfinished.clear();
        self.unfinished.shrink_to(256);
    }
}

fn memchr(data: &[u8]) -> Option<usize> {
    data.iter().position(|&b| b == b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(reads: &[&str], expected: &str) {
        let (mut lines, mut out) = (Lines::new("stdout"), Vec::new());
        reads.iter().for_each(|read| lines.format("T", read.as_bytes(), &mut out));
        lines.finish("T", &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn lines_are_whole_however_they_were_read() {
        check(&["a\nb\n"], "T stdout F a\nT stdout F b\n");
        check(&["a", "b\n\nc", "\n"], "T stdout F ab\nT stdout F \nT stdout F c\n");
        check(&["no newline"], "T stdout P no newline\n");
    }

    #[test]
    fn long_lines_are_cut_into_parts() {
        let (full, long) = ("x".repeat(LINE_BYTES_MAX), "x".repeat(LINE_BYTES_MAX + 3));
        check(&[&format!("{long}\n")], &format!("T stdout P {full}\nT stdout F xxx\n"));
        check(&[&format!("{full}\n")], &format!("T stdout F {full}\n"));
        check(&[&full, "\n"], &format!("T stdout F {full}\n"));
    }

    #[test]
    fn a_moved_log_goes_on_in_a_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("c/0.log"), folder.path().join("old"));
        let mut log = Log::open(path.clone()).unwrap();
        let mut lines = Lines::new("stderr");
        log.write(&mut lines, b"one\n").unwrap();
        std::fs::rename(&path, &old).unwrap();
        log.write(&mut lines, b"two\n").unwrap();
        log.reopen().unwrap();
        log.write(&mut lines, b"three\n").unwrap();
        let texts =
            [old, path].map(|p| std::fs::read_to_string(p).unwrap().lines().map(|l| l.split_once(' ').unwrap().1.to_owned()).collect::<Vec<_>>().join("|"));
        assert_eq!(texts, ["stderr F one|stderr F two", "stderr F three"]);
        assert_eq!(now().len(), "2026-01-02T03:04:05.000000006Z".len());
    }
}
