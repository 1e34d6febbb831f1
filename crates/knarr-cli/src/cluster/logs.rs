//! `knarr logs`: what the cluster's own processes wrote.

use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};

use super::config::Cluster;
use super::failure::{Exit, Failure, Result};

/// Prints the last `tail` lines of each role's log, or of the one that is named (`server`, or a node).
pub fn print(cluster: &Cluster, role: Option<&str>, tail: usize, out: &mut impl Write) -> Result<()> {
    let roles: Vec<String> = (1..=cluster.servers).map(super::supervise::server_role).chain(cluster.nodes.iter().map(Cluster::agent_role)).collect();
    let wanted: Vec<&String> = roles.iter().filter(|r| role.is_none_or(|w| *r == w || r.strip_prefix("agent-") == Some(w))).collect();
    if wanted.is_empty() {
        return Err(Failure::new(
            "NO_ROLE",
            Exit::Usage,
            format!("there is no {:?} in this cluster", role.unwrap_or_default()),
            format!("knarr logs [{}]", roles.join("|")),
        ));
    }
    for name in &wanted {
        let path = cluster.logs().join(format!("{name}.log"));
        let lines = last_lines(&path, tail).map_err(|e| Failure::file(&path, &e))?;
        let heading = if wanted.len() > 1 { format!("==> {name} <==\n") } else { String::new() };
        out.write_all(format!("{heading}{}", lines.concat()).as_bytes()).map_err(Failure::program)?;
    }
    Ok(())
}

/// More than this is never read from the end of a log.
const READ_BYTES_MAX: u64 = 16 << 20;

fn last_lines(path: &std::path::Path, count: usize) -> std::io::Result<Vec<String>> {
    let mut file = match std::fs::File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(READ_BYTES_MAX)))?;
    let mut lines = std::collections::VecDeque::with_capacity(count.min(1024));
    for line in BufReader::new(file).split(b'\n') {
        if lines.len() == count {
            lines.pop_front();
        }
        lines.push_back(format!("{}\n", String::from_utf8_lossy(&line?)));
    }
    Ok(lines.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        std::fs::write(&path, "a\nb\nc\n").unwrap();
        assert_eq!(last_lines(&path, 2).unwrap(), ["b\n", "c\n"]);
        assert!(last_lines(&folder.path().join("none"), 2).unwrap().is_empty());
    }
}
