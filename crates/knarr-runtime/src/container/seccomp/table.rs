//! Numbers of system calls by name, for the architectures that one kernel runs.

/// An architecture's calls.
pub struct Table {
    /// libseccomp's name of the architecture.
    pub name: &'static str,
    /// `AUDIT_ARCH_*`, which the kernel tells a filter.
    pub audit: u32,
    /// `NUMBER=NAME`, by number.
    text: &'static str,
}

const EM_X86_64: u32 = 62;
const EM_386: u32 = 3;
const EM_AARCH64: u32 = 183;
const EM_ARM: u32 = 40;
const LITTLE_ENDIAN: u32 = 0x4000_0000;
const SIXTY_FOUR_BIT: u32 = 0x8000_0000;

#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "other architecture"))]
const X86_64: Table = Table { name: "SCMP_ARCH_X86_64", audit: EM_X86_64 | LITTLE_ENDIAN | SIXTY_FOUR_BIT, text: include_str!("x86_64.txt") };
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "other architecture"))]
const X86: Table = Table { name: "SCMP_ARCH_X86", audit: EM_386 | LITTLE_ENDIAN, text: include_str!("x86.txt") };
#[cfg_attr(not(target_arch = "aarch64"), expect(dead_code, reason = "other architecture"))]
const AARCH64: Table = Table { name: "SCMP_ARCH_AARCH64", audit: EM_AARCH64 | LITTLE_ENDIAN | SIXTY_FOUR_BIT, text: include_str!("aarch64.txt") };
#[cfg_attr(not(target_arch = "aarch64"), expect(dead_code, reason = "other architecture"))]
const ARM: Table = Table { name: "SCMP_ARCH_ARM", audit: EM_ARM | LITTLE_ENDIAN, text: include_str!("arm.txt") };

/// What this program is built for.
#[cfg(target_arch = "x86_64")]
pub const NATIVE: Table = X86_64;
#[cfg(target_arch = "aarch64")]
pub const NATIVE: Table = AARCH64;

/// Its 32-bit relative, whose programs the kernel runs too.
#[cfg(target_arch = "x86_64")]
pub const COMPATIBLE: Table = X86;
#[cfg(target_arch = "aarch64")]
pub const COMPATIBLE: Table = ARM;

impl Table {
    pub fn calls(&self) -> impl Iterator<Item = (u32, &'static str)> {
        self.text.split_whitespace().filter_map(|word| {
            let (number, name) = word.split_once('=')?;
            Some((number.parse().ok()?, name))
        })
    }

    #[cfg(test)]
    /// The number of a call, if the architecture has it.
    pub fn number(&self, name: &str) -> Option<u32> {
        self.calls().find(|(_, n)| *n == name).map(|(number, _)| number)
    }
}
