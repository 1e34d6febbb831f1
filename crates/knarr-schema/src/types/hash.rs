//! The hash of names in `types.bin` and in the registry's index. Shared with `build.rs`, so it depends on nothing.

/// FNV-1a over the parts with a slash between them.
pub fn of(parts: &[&str]) -> u32 {
    let mut hash = 0x811c_9dc5;
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            hash = step(hash, b'/');
        }
        hash = part.bytes().fold(hash, step);
    }
    hash
}

fn step(hash: u32, byte: u8) -> u32 {
    (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
}
