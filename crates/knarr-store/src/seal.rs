//! Objects that lie encrypted on the disk: Secrets, or what [`providers`] are told to seal. Whoever gets hold of the store's files, or of a
//! backup, cannot read them without the key, which is kept elsewhere.
//!
//! Each sealed object says so for itself, and is sealed anew with every snapshot: encryption can be switched on at any time,
//! and a new key takes over by itself while the old one is still at hand.

pub mod providers;

use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use crate::key::ResourceKey;
use crate::{Error, Result};

const KEY_BYTES: usize = 32;
/// What every sealed value begins with (upstream: `encryptedPrefix` of `storage/value/encrypt/identity`).
pub const MARK: &str = "k8s:enc:";
/// What those begin with that the key of a cluster's own folder has sealed.
pub const OWN_MARK: &str = "k8s:enc:knarr:v1:";

/// Encrypts objects before they are written, and decrypts them when they are read.
pub trait Sealer: Send + Sync + 'static {
    /// Whether objects of this resource are to be sealed.
    fn seals(&self, resource: &ResourceKey) -> bool;

    /// Whether objects of this resource may lie there unsealed, as they do before they are to be sealed.
    fn takes_plain(&self, _resource: &ResourceKey) -> bool {
        true
    }

    /// Seals bytes, with [`MARK`] before them. `None` when there is no randomness to be had.
    fn seal(&self, resource: &ResourceKey, place: &str, bytes: &[u8]) -> Option<Vec<u8>>;

    /// Opens what was sealed in this place. `None` for what was not, or not by a key that is known.
    fn open(&self, resource: &ResourceKey, place: &str, sealed: &[u8]) -> Option<Vec<u8>>;
}

/// Seals Secrets with AES-256-GCM and random nonces.
pub struct SecretSealer {
    /// The first seals; all open.
    keys: Vec<LessSafeKey>,
    random: SystemRandom,
}

impl SecretSealer {
    /// Takes keys of 32 bytes, the one to seal with first.
    ///
    /// # Errors
    /// A key of another length, or none.
    pub fn new(keys: &[&[u8]]) -> Result<Self> {
        let key = |bytes: &&[u8]| UnboundKey::new(&AES_256_GCM, bytes).map(LessSafeKey::new);
        let keys = keys.iter().map(key).collect::<std::result::Result<Vec<_>, _>>();
        match keys {
            Ok(keys) if !keys.is_empty() => Ok(Self { keys, random: SystemRandom::new() }),
            _ => Err(Error::Engine(format!("a key that seals Secrets must have {KEY_BYTES} bytes"))),
        }
    }

    /// Takes the keys of a file, 32 bytes each, and makes the file with one key if it is not there (mode 0600).
    ///
    /// # Errors
    /// When the file cannot be read or made.
    pub fn at(file: &Path) -> Result<Self> {
        let failed = |e: std::io::Error| Error::Engine(format!("{}: {e}", file.display()));
        let mut bytes = Vec::new();
        match std::fs::File::open(file) {
            Ok(mut found) => drop(found.read_to_end(&mut bytes).map_err(failed)?),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => bytes = make_key(file).map_err(failed)?,
            Err(e) => return Err(failed(e)),
        }
        Self::new(&bytes.chunks(KEY_BYTES).collect::<Vec<_>>()).map_err(|e| Error::Engine(format!("{}: {e}", file.display())))
    }
}

/// The key is on the disk before anything is sealed with it.
fn make_key(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; KEY_BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| std::io::Error::other("no randomness"))?;
    let mut made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    std::io::Write::write_all(&mut made, &bytes)?;
    made.sync_all()?;
    if let Some(folder) = file.parent() {
        std::fs::File::open(folder)?.sync_all()?;
    }
    Ok(bytes)
}

impl Sealer for SecretSealer {
    fn seals(&self, resource: &ResourceKey) -> bool {
        resource.group.is_empty() && resource.resource == "secrets"
    }

    fn seal(&self, _: &ResourceKey, place: &str, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let mut sealed = bytes.to_vec();
        let key = self.keys.first()?;
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place.as_bytes()), &mut sealed).ok()?;
        Some([OWN_MARK.as_bytes(), &nonce, &sealed].concat())
    }

    /// In stores of older days the mark is missing.
    fn open(&self, _: &ResourceKey, place: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let sealed = sealed.strip_prefix(OWN_MARK.as_bytes()).unwrap_or(sealed);
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        self.keys.iter().find_map(|key| {
            let mut bytes = sealed.to_vec();
            let len = key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(place.as_bytes()), &mut bytes).ok()?.len();
            bytes.truncate(len);
            Some(bytes)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_opened_only_by_its_key_and_in_its_place() {
        let (old, new) = ([1; KEY_BYTES], [2; KEY_BYTES]);
        let (before, secrets) = (SecretSealer::new(&[&old]).unwrap(), ResourceKey::new("", "secrets"));
        let sealed = before.seal(&secrets, "default/a", b"password").unwrap();
        assert!(!sealed.windows(8).any(|w| w == b"password"));
        let rotated = SecretSealer::new(&[&new, &old]).unwrap();
        assert_eq!(rotated.open(&secrets, "default/a", &sealed).as_deref(), Some(&b"password"[..]));
        assert_eq!(rotated.open(&secrets, "default/a", &sealed[OWN_MARK.len()..]).as_deref(), Some(&b"password"[..]), "as it was sealed once");
        assert_eq!(rotated.open(&secrets, "default/b", &sealed), None);
        assert_eq!(SecretSealer::new(&[&new]).unwrap().open(&secrets, "default/a", &sealed), None);
        assert!(SecretSealer::new(&[&[0; 5]]).is_err());
    }

    #[test]
    fn a_key_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secrets.key");
        let secrets = ResourceKey::new("", "secrets");
        let sealed = SecretSealer::at(&file).unwrap().seal(&secrets, "a", b"x").unwrap();
        assert!(SecretSealer::at(&file).unwrap().open(&secrets, "a", &sealed).is_some());
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
}
