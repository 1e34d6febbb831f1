//! Public keys in certificates and requests, and signatures by them, as Go's `crypto/x509` sees them.

use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use x509_parser::signature_algorithm::RsaSsaPssParams;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

const RSA: &str = "1.2.840.113549.1.1.1";
const EC: &str = "1.2.840.10045.2.1";
const ED25519: &str = "1.3.101.112";

const SHA1_WITH_RSA: &str = "1.2.840.113549.1.1.5";
const SHA256_WITH_RSA: &str = "1.2.840.113549.1.1.11";
const SHA384_WITH_RSA: &str = "1.2.840.113549.1.1.12";
const SHA512_WITH_RSA: &str = "1.2.840.113549.1.1.13";
const RSA_PSS: &str = "1.2.840.113549.1.1.10";
const ECDSA_WITH_SHA256: &str = "1.2.840.10045.4.3.2";
const ECDSA_WITH_SHA384: &str = "1.2.840.10045.4.3.3";

/// What kind of key it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    Ed25519,
    /// With the name of the curve as Go has it.
    Ecdsa(&'static str),
    /// With the size of the modulus in bits, rounded up to whole bytes.
    Rsa(usize),
    Unknown,
}

impl KeyType {
    /// # Errors
    /// A key on a curve that Go does not know, or with a damaged modulus.
    pub fn of(key: &SubjectPublicKeyInfo<'_>) -> Result<Self, String> {
        match key.algorithm.algorithm.to_id_string().as_str() {
            ED25519 => Ok(Self::Ed25519),
            EC => curve(&key.algorithm).map(Self::Ecdsa).ok_or_else(|| "x509: unsupported elliptic curve".into()),
            RSA => match key.parsed() {
                Ok(x509_parser::public_key::PublicKey::RSA(key)) => Ok(Self::Rsa(key.key_size())),
                _ => Err("x509: invalid RSA public key".into()),
            },
            _ => Ok(Self::Unknown),
        }
    }
}

fn curve(algorithm: &AlgorithmIdentifier<'_>) -> Option<&'static str> {
    match algorithm.parameters.as_ref()?.as_oid().ok()?.to_id_string().as_str() {
        "1.3.132.0.33" => Some("P-224"),
        "1.2.840.10045.3.1.7" => Some("P-256"),
        "1.3.132.0.34" => Some("P-384"),
        "1.3.132.0.35" => Some("P-521"),
        _ => None,
    }
}

/// Checks `signature` over `message` (upstream: Go's `checkSignature`, SHA-1 allowed).
///
/// # Errors
/// Why it is not that key's signature, in Go's words.
pub fn verify(key: &SubjectPublicKeyInfo<'_>, algorithm: &AlgorithmIdentifier<'_>, message: &[u8], signature: &[u8]) -> Result<(), String> {
    let how = method(key, algorithm).ok_or("x509: cannot verify signature: algorithm unimplemented")?;
    UnparsedPublicKey::new(how, &key.subject_public_key.data).verify(message, signature).map_err(|_| {
        match KeyType::of(key) {
            Ok(KeyType::Ed25519) => "x509: Ed25519 verification failure",
            Ok(KeyType::Ecdsa(_)) => "x509: ECDSA verification failure",
            _ => "crypto/rsa: verification error",
        }
        .into()
    })
}

/// Whether `signature` is that of the key over `message` in the way that suits the key: ECDSA and PSS with SHA-256 (Go: `ed25519.Verify`,
/// `ecdsa.VerifyASN1`, `rsa.VerifyPSS`).
pub fn proves(key: &SubjectPublicKeyInfo<'_>, message: &[u8], signature: &[u8]) -> bool {
    let how: &'static dyn VerificationAlgorithm = match KeyType::of(key) {
        Ok(KeyType::Ed25519) => &signature::ED25519,
        Ok(KeyType::Ecdsa("P-256")) => &signature::ECDSA_P256_SHA256_ASN1,
        Ok(KeyType::Ecdsa("P-384")) => &signature::ECDSA_P384_SHA256_ASN1,
        Ok(KeyType::Rsa(_)) => &signature::RSA_PSS_2048_8192_SHA256,
        _ => return false,
    };
    UnparsedPublicKey::new(how, &key.subject_public_key.data).verify(message, signature).is_ok()
}

fn method(key: &SubjectPublicKeyInfo<'_>, algorithm: &AlgorithmIdentifier<'_>) -> Option<&'static dyn VerificationAlgorithm> {
    let oid = algorithm.algorithm.to_id_string();
    Some(match (KeyType::of(key).ok()?, oid.as_str()) {
        (KeyType::Ed25519, ED25519) => &signature::ED25519,
        (KeyType::Ecdsa("P-256"), ECDSA_WITH_SHA256) => &signature::ECDSA_P256_SHA256_ASN1,
        (KeyType::Ecdsa("P-256"), ECDSA_WITH_SHA384) => &signature::ECDSA_P256_SHA384_ASN1,
        (KeyType::Ecdsa("P-384"), ECDSA_WITH_SHA256) => &signature::ECDSA_P384_SHA256_ASN1,
        (KeyType::Ecdsa("P-384"), ECDSA_WITH_SHA384) => &signature::ECDSA_P384_SHA384_ASN1,
        (KeyType::Rsa(_), SHA1_WITH_RSA) => &signature::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY,
        (KeyType::Rsa(_), SHA256_WITH_RSA) => &signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
        (KeyType::Rsa(_), SHA384_WITH_RSA) => &signature::RSA_PKCS1_2048_8192_SHA384,
        (KeyType::Rsa(_), SHA512_WITH_RSA) => &signature::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
        (KeyType::Rsa(_), RSA_PSS) => {
            let parameters = RsaSsaPssParams::try_from(algorithm.parameters.as_ref()?).ok()?;
            match parameters.hash_algorithm_oid().to_id_string().as_str() {
                "2.16.840.1.101.3.4.2.1" => &signature::RSA_PSS_2048_8192_SHA256,
                "2.16.840.1.101.3.4.2.2" => &signature::RSA_PSS_2048_8192_SHA384,
                "2.16.840.1.101.3.4.2.3" => &signature::RSA_PSS_2048_8192_SHA512,
                _ => return None,
            }
        }
        _ => return None,
    })
}
