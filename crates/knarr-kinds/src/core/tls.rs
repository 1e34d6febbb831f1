//! Whether a certificate and a key belong together, for the warning about TLS Secrets (Go: `tls.X509KeyPair`).

use x509_parser::prelude::{FromDer, Pem, X509Certificate};

/// What is wrong with the pair, in Go's words.
pub fn problem(certificate: &[u8], key: &[u8]) -> Option<String> {
    let leaf = match first(certificate, |label| label == "CERTIFICATE") {
        Ok(pem) => pem,
        Err(skipped) => return Some(missing("certificate", "\"CERTIFICATE\" PEM block", &skipped)),
    };
    let key = match first(key, |label| label == "PRIVATE KEY" || label.ends_with(" PRIVATE KEY")) {
        Ok(pem) => pem,
        Err(skipped) => return Some(missing("key", "PEM block with type ending in \"PRIVATE KEY\"", &skipped)),
    };
    let Ok((_, certificate)) = X509Certificate::from_der(&leaf.contents) else { return Some("x509: malformed certificate".into()) };
    match public_key(&key.contents) {
        Some(public) if certificate.public_key().subject_public_key.data.as_ref() != public.as_slice() => {
            Some("tls: private key does not match public key".into())
        }
        _ => None,
    }
}

fn missing(what: &str, wanted: &str, skipped: &[String]) -> String {
    match skipped {
        [] => format!("tls: failed to find any PEM data in {what} input"),
        _ if what == "key" && skipped.len() == 1 && skipped[0] == "CERTIFICATE" => {
            "tls: found a certificate rather than a key in the PEM for the private key".into()
        }
        _ if what == "certificate" && skipped.len() == 1 && skipped[0].ends_with("PRIVATE KEY") => {
            "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched".into()
        }
        _ => format!("tls: failed to find {wanted} in {what} input after skipping PEM blocks of the following types: [{}]", skipped.join(" ")),
    }
}

/// The first block of a kind, or the labels of those that are there instead.
fn first(pem: &[u8], wanted: impl Fn(&str) -> bool) -> Result<Pem, Vec<String>> {
    let mut skipped = Vec::new();
    for block in Pem::iter_from_buffer(pem).flatten() {
        if wanted(&block.label) {
            return Ok(block);
        }
        skipped.push(block.label);
    }
    Err(skipped)
}

/// The public half of a private key, as it stands in a certificate; `None` for keys that cannot be read here.
fn public_key(der: &[u8]) -> Option<Vec<u8>> {
    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
    let random = ring::rand::SystemRandom::new();
    if let Ok(pair) = RsaKeyPair::from_pkcs8(der).or_else(|_| RsaKeyPair::from_der(der)) {
        return Some(pair.public_key().as_ref().to_vec());
    }
    for algorithm in [&ECDSA_P256_SHA256_ASN1_SIGNING, &ECDSA_P384_SHA384_ASN1_SIGNING] {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(algorithm, der, &random) {
            return Some(pair.public_key().as_ref().to_vec());
        }
    }
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok().map(|pair| pair.public_key().as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told() {
        let block = |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n").into_bytes();
        assert_eq!(problem(b"", b""), Some("tls: failed to find any PEM data in certificate input".into()));
        assert_eq!(problem(&block("CERTIFICATE"), b"x"), Some("tls: failed to find any PEM data in key input".into()));
        assert_eq!(
            problem(&block("PRIVATE KEY"), b"x"),
            Some("tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched".into())
        );
        assert_eq!(problem(&block("CERTIFICATE"), &block("PRIVATE KEY")), Some("x509: malformed certificate".into()));
    }
}
