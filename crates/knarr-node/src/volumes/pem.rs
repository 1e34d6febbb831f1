//! PEM blocks, read as forgivingly as Go reads them: text between blocks and headers within them are passed over.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const LINE: usize = 64;

/// What the blocks of a text hold, whatever they are called.
pub fn blocks(text: &str) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut body: Option<String> = None;
    for line in text.lines().map(str::trim) {
        if line.starts_with("-----BEGIN ") {
            body = Some(String::new());
        } else if line.starts_with("-----END ") {
            found.extend(body.take().and_then(|b| STANDARD.decode(b).ok()));
        } else if let Some(body) = body.as_mut().filter(|_| !line.contains(':')) {
            body.push_str(line);
        }
    }
    found
}

/// One block.
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
        let long = vec![7; 100];
        let text = format!("# comment: x\n{}\nmore\n{}", encode("CERTIFICATE", &long), encode("CERTIFICATE", b"b"));
        assert_eq!(blocks(&text), [long, b"b".to_vec()]);
        assert!(blocks("-----BEGIN X-----\n!!\n-----END X-----\n").is_empty());
    }
}
