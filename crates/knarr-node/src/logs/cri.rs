//! A line of a log file in CRI's format: `2026-01-02T03:04:05.123456789Z stdout F text`. `P` marks a line that goes on.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::volumes::beneath;

/// Levels of a log file's path below the folder of all logs, which the node's owner may have linked elsewhere.
const LEVELS: usize = 3;
/// Bytes read at once while looking for the last lines.
const BLOCK: u64 = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// One line, without its own newline unless it is a full one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    pub time: &'a [u8],
    pub stream: Stream,
    pub partial: bool,
    pub text: &'a [u8],
}

/// Reads a line (with or without its newline). `None` for one that is not of this format.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = parts.next()?;
    let stream = match parts.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let partial = match parts.next()?.split(|b| *b == b':').next()? {
        b"F" => false,
        b"P" => true,
        _ => return None,
    };
    Some(Line { time, stream, partial, text: parts.next().unwrap_or_default() })
}

/// Opens a log file `NS_NAME_UID/CONTAINER/N.log`. A pod that can write to the log folder might put a link or a pipe in its place: neither
/// is followed or waited for.
///
/// # Errors
/// The file system's; `ELOOP` for a link on the way.
pub fn open(path: &Path) -> io::Result<File> {
    let root = path.ancestors().nth(LEVELS).unwrap_or(Path::new("/"));
    let below = path.strip_prefix(root).unwrap_or(path);
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let root = beneath::open_root(root)?;
    let file = File::from(openat2(&root, below, how)?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, "the log is not a file")) }
}

/// The position at which the last `lines` lines of a file begin (upstream: `pkg/util/tail`).
///
/// # Errors
/// The file system's.
pub fn tail_position(file: &mut File, lines: u64) -> io::Result<u64> {
    let end = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(end);
    }
    let (mut position, mut found) = (end, 0);
    let mut block = Vec::new();
    while position > 0 {
        let from = position.saturating_sub(BLOCK);
        block.resize(usize::try_from(position - from).unwrap_or(0), 0);
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(&mut block)?;
        for (index, byte) in block.iter().enumerate().rev() {
            let at = from + index as u64;
            // The newline that ends the file ends the last line, it does not begin one.
            if *byte == b'\n' && at + 1 != end {
                found += 1;
                if found == lines {
                    return Ok(at + 1);
                }
            }
        }
        position = from;
    }
    Ok(0)
}

/// The text of the last lines of a log file, at most this many of them and this many bytes.
///
/// # Errors
/// The file system's.
pub fn last_text(path: &Path, lines: u64, bytes_max: usize) -> io::Result<String> {
    let mut file = open(path)?;
    let from = tail_position(&mut file, lines)?;
    file.seek(SeekFrom::Start(from))?;
    let mut all = Vec::new();
    file.read_to_end(&mut all)?;
    let mut text = Vec::new();
    for line in all.split_inclusive(|b| *b == b'\n').filter_map(parse) {
        text.extend_from_slice(line.text);
        if !line.partial {
            text.push(b'\n');
        }
    }
    let skip = text.len().saturating_sub(bytes_max);
    Ok(String::from_utf8_lossy(&text[skip..]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_cri_writes_them() {
        let line = parse(b"2016-10-06T00:17:09.669794202Z stdout F hello world\n").unwrap();
        assert_eq!((line.stream, line.partial, line.text), (Stream::Stdout, false, &b"hello world"[..]));
        let line = parse(b"t stderr P:x ").unwrap();
        assert_eq!((line.stream, line.partial, line.text), (Stream::Stderr, true, &b""[..]));
        assert!(parse(b"nonsense").is_none() && parse(b"t stdin F x").is_none());
    }

    #[test]
    fn links_and_pipes_in_the_place_of_a_log_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let pod = dir.path().join("pods/ns_p_u");
        std::fs::create_dir_all(pod.join("c")).unwrap();
        std::fs::write(dir.path().join("secret"), "t stdout F no\n").unwrap();
        std::fs::write(pod.join("c/0.log"), "t stdout F yes\n").unwrap();
        std::os::unix::fs::symlink("../../../secret", pod.join("c/1.log")).unwrap();
        std::os::unix::fs::symlink("c", pod.join("d")).unwrap();
        nix::unistd::mkfifo(&pod.join("c/2.log"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(open(&pod.join("c/0.log")).is_ok());
        for bad in ["c/1.log", "d/0.log", "c/2.log"] {
            assert!(open(&pod.join(bad)).is_err(), "{bad}");
        }
        std::os::unix::fs::symlink(dir.path().join("pods"), dir.path().join("moved")).unwrap();
        assert!(open(&dir.path().join("moved/ns_p_u/c/0.log")).is_ok(), "the owner may keep logs elsewhere");
    }

    #[test]
    fn the_last_lines_are_found_from_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, "t stdout F one\nt stderr P tw\nt stderr F o\nt stdout F three\n").unwrap();
        assert_eq!(last_text(&path, 1, 100).unwrap(), "three\n");
        assert_eq!(last_text(&path, 3, 100).unwrap(), "two\nthree\n");
        assert_eq!(last_text(&path, 80, 4).unwrap(), "ree\n");
        assert_eq!(last_text(&path, 0, 4).unwrap(), "");
    }
}
