//! Hashes that end up in names: `pod-template-hash`, `controller-revision-hash`.
//!
//! Upstream hashes a dump of its own structs; any stable hash will do, as long as names look alike: FNV-1a of 32 bits,
//! its decimal digits written in letters that make no words (`rand.SafeEncodeString`).

use knarr_core::Status;
use serde::Serialize;

const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// FNV-1a.
pub fn fnv32a(bytes: impl IntoIterator<Item = u8>) -> u32 {
    bytes.into_iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// FNV-1, which upstream uses for revisions.
pub fn fnv32(bytes: impl IntoIterator<Item = u8>) -> u32 {
    bytes.into_iter().fold(0x811c_9dc5, |hash: u32, byte| hash.wrapping_mul(0x0100_0193) ^ u32::from(byte))
}

/// Replaces each character by one of the safe alphabet.
pub fn safe_encode(text: &str) -> String {
    text.bytes().map(|b| ALPHABET[usize::from(b) % ALPHABET.len()] as char).collect()
}

/// The hash of a template, changed by the number of collisions that were met (upstream: `controller.ComputeHash`).
///
/// # Errors
/// A template that JSON cannot say.
pub fn template_hash(template: &impl Serialize, collisions: Option<i32>) -> Result<String, Status> {
    let mut bytes = serde_json::to_vec(template).map_err(Status::internal)?;
    if let Some(collisions) = collisions {
        bytes.extend_from_slice(&u64::from(collisions.unsigned_abs()).to_le_bytes());
    }
    Ok(safe_encode(&fnv32a(bytes).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv_is_fnv() {
        assert_eq!(fnv32a(*b"foobar"), 0xbf9c_f968);
    }

    #[test]
    fn a_collision_changes_the_hash() {
        let template = serde_json::json!({"spec": {}});
        let plain = template_hash(&template, None).unwrap();
        assert_ne!(plain, template_hash(&template, Some(1)).unwrap());
        assert!(plain.bytes().all(|b| ALPHABET.contains(&b)), "{plain}");
    }
}
