//! Digests of content: `sha256:…`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::ImageError;

/// A sha256 or sha512 digest, checked: algorithm, colon, lower-case hexadecimal digits of the right number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// Of bytes at hand, with sha256.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn algorithm(&self) -> &str {
        self.0.split_once(':').map_or("", |(algorithm, _)| algorithm)
    }

    /// The digits, which are safe as a file name.
    pub fn hex(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, hex)| hex)
    }

    /// A hasher that gives digests of this algorithm.
    pub fn hasher(&self) -> Hasher {
        if self.algorithm() == "sha512" { Hasher::Sha512(sha2::Sha512::new()) } else { Hasher::default() }
    }

    /// Checks bytes against it; `what` goes into the error.
    pub fn verify(&self, bytes: &[u8], what: &str) -> Result<(), ImageError> {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        self.check(hasher.finish(), what)
    }

    /// Compares with a digest that was computed.
    pub fn check(&self, found: Self, what: &str) -> Result<(), ImageError> {
        if *self == found {
            return Ok(());
        }
        Err(ImageError::Digest { what: what.to_owned(), expected: self.0.clone(), found: found.0 })
    }
}

impl FromStr for Digest {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let digits = |hex: &str| hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let sound = match text.split_once(':') {
            Some(("sha256", hex)) => hex.len() == 64 && digits(hex),
            Some(("sha512", hex)) => hex.len() == 128 && digits(hex),
            _ => false,
        };
        if sound { Ok(Self(text.to_owned())) } else { Err(ImageError::Invalid(format!("invalid digest {text:?}"))) }
    }
}

impl TryFrom<String> for Digest {
    type Error = ImageError;

    fn try_from(text: String) -> Result<Self, ImageError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Takes bytes as they pass by.
pub enum Hasher {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl Default for Hasher {
    fn default() -> Self {
        Self::Sha256(sha2::Sha256::new())
    }
}

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    pub fn finish(self) -> Digest {
        match self {
            Self::Sha256(hasher) => Digest(format!("sha256:{}", knarr_core::hex::encode(hasher.finalize()))),
            Self::Sha512(hasher) => Digest(format!("sha512:{}", knarr_core::hex::encode(hasher.finalize()))),
        }
    }
}
