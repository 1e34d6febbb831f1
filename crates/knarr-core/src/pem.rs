//! PEM blocks, found as Go's `encoding/pem` finds them: text between blocks and blocks that cannot be read are passed over.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Characters of base64 in a line.
const LINE: usize = 64;

/// One block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// `CERTIFICATE`, `CERTIFICATE REQUEST`, ….
    pub label: String,
    /// Whether lines like `Proc-Type: …` stand before the data.
    pub has_headers: bool,
    pub der: Vec<u8>,
}

/// All readable blocks of a text.
pub fn blocks(text: &[u8]) -> Vec<Block> {
    let text = String::from_utf8_lossy(text);
    let mut found = Vec::new();
    let mut open: Option<(Block, String)> = None;
    for line in text.lines().map(str::trim_end) {
        if let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|l| l.strip_suffix("-----")) {
            open = Some((Block { label: label.to_owned(), has_headers: false, der: Vec::new() }, String::new()));
        } else if let Some(label) = line.strip_prefix("-----END ").and_then(|l| l.strip_suffix("-----")) {
            if let Some((block, body)) = open.take().filter(|(block, _)| block.label == label)
                && let Ok(der) = STANDARD.decode(body)
            {
                found.push(Block { der, ..block });
            }
        } else if let Some((block, body)) = &mut open {
            if body.is_empty() && line.contains(':') {
                block.has_headers = true;
            } else {
                body.extend(line.chars().filter(|c| !c.is_ascii_whitespace()));
            }
        }
    }
    found
}

/// A block as text.
pub fn encode(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(LINE) {
        out.extend(line.iter().copied().map(char::from));
        out.push('\n');
    }
    out + "-----END " + label + "-----\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_without_what_stands_around_them() {
        let plain = |label: &str, der: &[u8]| Block { label: label.into(), has_headers: false, der: der.to_vec() };
        let long = vec![7; 100];
        let text = format!("# comment\n{}\nmore\n{}", encode("CERTIFICATE", &long), encode("X", b"b"));
        assert_eq!(blocks(text.as_bytes()), [plain("CERTIFICATE", &long), plain("X", b"b")]);
        assert!(blocks(b"-----BEGIN X-----\n!!\n-----END X-----\n").is_empty());
        assert!(blocks(b"-----BEGIN X-----\nAAAA\n-----END Y-----\n").is_empty());
        let headed = blocks(b"-----BEGIN X-----\nProc-Type: 4\n\nAAAA\n-----END X-----\n");
        assert_eq!((headed[0].has_headers, headed[0].der.len()), (true, 3));
    }
}
