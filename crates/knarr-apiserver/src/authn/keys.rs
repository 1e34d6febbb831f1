//! The keys of service account tokens: RSA and elliptic ones, in every form in which PEM files have them (upstream: `client-go/util/keyutil`,
//! `pkg/serviceaccount/jwt.go`). P-521 is missing: no crate at hand speaks it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use knarr_core::{Result, Status};
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _, RsaKeyPair};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::jwt::{Jwk, Jws};

/// Object identifiers, as DER has them.
const EC: &[u8] = &[0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const P256: &[u8] = &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const P384: &[u8] = &[0x06, 5, 0x2b, 0x81, 4, 0, 0x22];
const RSA: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const NULL: &[u8] = &[0x05, 0];

const INTEGER: u8 = 0x02;
const BITS: u8 = 0x03;
const BYTES: u8 = 0x04;
const SEQUENCE: u8 = 0x30;

/// What `ring` says of a P-256 and a P-384 key that is to sign, and the names of both.
const CURVES: [(&EcdsaSigningAlgorithm, &[u8]); 2] = [(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, P256), (&signature::ECDSA_P384_SHA384_FIXED_SIGNING, P384)];

/// Signs tokens.
pub(super) struct PrivateKey {
    pair: Pair,
    random: SystemRandom,
    pub(super) public: PublicKey,
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
}

impl PrivateKey {
    /// Reads the first private key of a text in PEM: PKCS#8, PKCS#1 or SEC 1.
    ///
    /// # Errors
    /// There is none, or it is of a kind that signs no tokens.
    pub(super) fn from_pem(pem: &str) -> std::result::Result<Self, String> {
        let private = blocks(pem)?.into_iter().find(|block| block.label.ends_with("PRIVATE KEY"));
        Self::of(&private.ok_or("there is no private key in PEM")?)
    }

    fn of(block: &Pem) -> std::result::Result<Self, String> {
        let random = SystemRandom::new();
        let pair = match block.label.as_str() {
            "RSA PRIVATE KEY" => Pair::Rsa(Box::new(RsaKeyPair::from_der(&block.contents).map_err(unfit)?)),
            "EC PRIVATE KEY" => Pair::Ecdsa(sec1(&block.contents, &random)?),
            "PRIVATE KEY" => match RsaKeyPair::from_pkcs8(&block.contents) {
                Ok(pair) => Pair::Rsa(Box::new(pair)),
                Err(_) => Pair::Ecdsa(pkcs8(&block.contents, &random)?),
            },
            other => return Err(format!("a {other} signs no tokens")),
        };
        let public = match &pair {
            Pair::Ecdsa(pair) => PublicKey::elliptic(pair.public_key().as_ref()),
            Pair::Rsa(pair) => PublicKey::rsa(pair.public_key().as_ref()),
        };
        Ok(Self { pair, random, public: public? })
    }

    /// The signature of a text, as tokens have it.
    pub(super) fn sign(&self, text: &str) -> Result<Vec<u8>> {
        match &self.pair {
            Pair::Ecdsa(pair) => Ok(pair.sign(&self.random, text.as_bytes()).map_err(Status::internal)?.as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&signature::RSA_PKCS1_SHA256, &self.random, text.as_bytes(), &mut signature).map_err(Status::internal)?;
                Ok(signature)
            }
        }
    }
}

/// Checks tokens, and is told to everybody.
#[derive(Clone, Debug)]
pub struct PublicKey {
    /// The check sum of its DER, from which nobody gets back to the key (upstream: `keyIDFromPublicKey`).
    pub(super) id: String,
    pub(super) algorithm: &'static str,
    /// As `/openid/v1/jwks` shows it, with its fields in upstream's order.
    pub(super) shown: String,
    key: Jwk,
}

impl PublicKey {
    /// Reads all keys of a text in PEM: public ones, and those of certificates and private keys.
    ///
    /// # Errors
    /// There is none, or one is of a kind that signs no tokens.
    pub fn all_of_pem(pem: &str) -> std::result::Result<Vec<Self>, String> {
        let keys: Vec<Self> = blocks(pem)?.iter().filter_map(Self::of_block).collect::<std::result::Result<_, _>>()?;
        if keys.is_empty() { Err("there is no key in PEM".into()) } else { Ok(keys) }
    }

    /// `None` for what holds no key.
    fn of_block(block: &Pem) -> Option<std::result::Result<Self, String>> {
        match block.label.as_str() {
            "PUBLIC KEY" => Some(SubjectPublicKeyInfo::from_der(&block.contents).map_err(unfit).and_then(|(_, info)| Self::of_info(&info))),
            "RSA PUBLIC KEY" => Some(Self::rsa(&block.contents)),
            "CERTIFICATE" => Some(X509Certificate::from_der(&block.contents).map_err(unfit).and_then(|(_, c)| Self::of_info(c.public_key()))),
            label if label.ends_with("PRIVATE KEY") => Some(PrivateKey::of(block).map(|key| key.public)),
            _ => None,
        }
    }

    fn of_info(info: &SubjectPublicKeyInfo<'_>) -> std::result::Result<Self, String> {
        match info.parsed().map_err(unfit)? {
            public_key::PublicKey::RSA(_) => Self::rsa(&info.subject_public_key.data),
            public_key::PublicKey::EC(point) => Self::elliptic(point.data()),
            _ => Err("a key that is neither RSA nor elliptic signs no tokens".into()),
        }
    }

    /// Of a point that is not compressed.
    fn elliptic(point: &[u8]) -> std::result::Result<Self, String> {
        let (curve, name, algorithm, size) = match point.len() {
            65 => (P256, "P-256", "ES256", 32),
            97 => (P384, "P-384", "ES384", 48),
            _ => return Err("of elliptic keys those of P-256 and P-384 sign tokens here".into()),
        };
        let (x, y) = point.get(1..).and_then(|both| both.split_at_checked(size)).ok_or("a damaged elliptic key")?;
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let shown = |id: &str| format!(r#"{{"use":"sig","kty":"EC","kid":"{id}","crv":"{name}","alg":"{algorithm}","x":"{x}","y":"{y}"}}"#);
        Self::new(&info(&[EC, curve], point), algorithm, shown)
    }

    /// Of a key in the form of PKCS#1.
    fn rsa(pkcs1: &[u8]) -> std::result::Result<Self, String> {
        let (_, key) = public_key::RSAPublicKey::from_der(pkcs1).map_err(unfit)?;
        let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes.iter().position(|b| *b != 0).map_or(&[][..], |first| &bytes[first..]));
        let (n, e) = (number(key.modulus), number(key.exponent));
        let shown = |id: &str| format!(r#"{{"use":"sig","kty":"RSA","kid":"{id}","alg":"RS256","n":"{n}","e":"{e}"}}"#);
        Self::new(&info(&[RSA, NULL], pkcs1), "RS256", shown)
    }

    fn new(der: &[u8], algorithm: &'static str, shown: impl FnOnce(&str) -> String) -> std::result::Result<Self, String> {
        let id = URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, der));
        let shown = shown(&id);
        let key = serde_json::from_str(&shown).ok().and_then(|shown| Jwk::from_value(&shown)).ok_or("a damaged key")?;
        Ok(Self { id, algorithm, shown, key })
    }

    /// Whether this key has signed a token, whichever key that names.
    pub(super) fn has_signed(&self, token: &Jws<'_>) -> bool {
        self.key.fits(token)
    }
}

fn blocks(pem: &str) -> std::result::Result<Vec<Pem>, String> {
    Pem::iter_from_buffer(pem.as_bytes()).collect::<std::result::Result<_, _>>().map_err(unfit)
}

fn unfit(why: impl std::fmt::Display) -> String {
    why.to_string()
}

/// A key of either curve.
fn pkcs8(der: &[u8], random: &SystemRandom) -> std::result::Result<EcdsaKeyPair, String> {
    let mut pairs = CURVES.iter().map(|(algorithm, _)| EcdsaKeyPair::from_pkcs8(algorithm, der, random));
    pairs.find_map(std::result::Result::ok).ok_or_else(|| "of RSA and elliptic keys those of 2048 bits and more, P-256 and P-384 sign tokens here".into())
}

/// A key that PKCS#8 would wrap.
fn sec1(key: &[u8], random: &SystemRandom) -> std::result::Result<EcdsaKeyPair, String> {
    let wrapped = |curve: &[u8]| der(SEQUENCE, &[&der(INTEGER, &[&[0]]), &der(SEQUENCE, &[EC, curve]), &der(BYTES, &[key])]);
    let mut pairs = CURVES.iter().map(|(algorithm, curve)| EcdsaKeyPair::from_pkcs8(algorithm, &wrapped(curve), random));
    pairs.find_map(std::result::Result::ok).ok_or_else(|| "of elliptic keys those of P-256 and P-384 sign tokens here".into())
}

/// A `SubjectPublicKeyInfo`.
fn info(algorithm: &[&[u8]], key: &[u8]) -> Vec<u8> {
    der(SEQUENCE, &[&der(SEQUENCE, algorithm), &der(BITS, &[&[0], key])])
}

/// A value in DER; of less than 64 KiB, which no key is.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let [.., high, low] = content.len().to_be_bytes();
    let length = match content.len() {
        0..0x80 => vec![low],
        0x80..0x100 => vec![0x81, low],
        _ => vec![0x82, high, low],
    };
    [&[tag], &length[..], &content].concat()
}

#[cfg(test)]
mod tests {
    use knarr_core::{Value, json};

    use super::*;

    /// The same key in three forms each, made by openssl and thrown away, with its check sum as openssl and sha256sum tell it.
    const FORMS: [(&str, &str, &str); 3] = [
        ("rsa", include_str!("testdata/rsa.pem"), "RS256"),
        ("p256", include_str!("testdata/p256.pem"), "ES256"),
        ("p384", include_str!("testdata/p384.pem"), "ES384"),
    ];
    const SUMS: &str = include_str!("testdata/sums.txt");

    #[test]
    fn keys_are_read_in_every_form_and_known_by_their_check_sum() {
        for (name, forms, algorithm) in FORMS {
            let sum = SUMS.lines().find_map(|line| line.strip_prefix(name)).expect("a sum").trim();
            let keys = PublicKey::all_of_pem(forms).expect("keys");
            assert!(keys.len() >= 3, "{name}: {}", keys.len());
            for key in &keys {
                assert_eq!((key.id.as_str(), key.algorithm), (sum, algorithm), "{name}");
            }
        }
    }

    #[test]
    fn what_is_signed_holds_for_the_key_and_for_no_other() {
        let keys: Vec<PrivateKey> = FORMS.iter().map(|(_, forms, _)| PrivateKey::from_pem(forms).expect("a private key")).collect();
        for (at, key) in keys.iter().enumerate() {
            let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let text = format!("{}.{}", encode(json!({"alg": key.public.algorithm, "kid": "of older days"})), encode(json!({"a": 1})));
            let token = format!("{text}.{}", URL_SAFE_NO_PAD.encode(key.sign(&text).expect("a signature")));
            let token = Jws::parse(&token).expect("a token");
            let signed: Vec<bool> = keys.iter().map(|other| other.public.has_signed(&token)).collect();
            assert_eq!(signed, (0..keys.len()).map(|other| other == at).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", "a: b", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "-----BEGIN RSA PRIVATE KEY-----\n!\n"] {
            assert!(PrivateKey::from_pem(text).is_err() && PublicKey::all_of_pem(text).is_err(), "{text}");
        }
    }
}
