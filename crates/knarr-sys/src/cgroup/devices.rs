//! Which devices a cgroup may use: `devices.allow` in v1, a BPF program in v2.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::{Cgroup, with_path};

/// Allows a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    /// `c`, `b`, or `a` for both.
    pub kind: char,
    /// `None`: any.
    pub major: Option<u32>,
    pub minor: Option<u32>,
    /// Some of `rwm`.
    pub access: String,
}

impl DeviceRule {
    pub fn new(kind: char, major: impl Into<Option<u32>>, minor: impl Into<Option<u32>>, access: &str) -> Self {
        Self { kind, major: major.into(), minor: minor.into(), access: access.to_owned() }
    }

    fn v1_line(&self) -> String {
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        format!("{} {}:{} {}", self.kind, number(self.major), number(self.minor), self.access)
    }

    fn is_everything(&self) -> bool {
        self.kind == 'a' && self.major.is_none() && self.minor.is_none()
    }
}

pub(super) fn allow(cgroup: &Cgroup, rules: &[DeviceRule]) -> io::Result<()> {
    if let Some(folder) = cgroup.folder("devices") {
        let write = |file: &str, line: &str| fs::write(folder.join(file), line).map_err(|error| with_path(error, &folder.join(file)));
        if rules.iter().any(DeviceRule::is_everything) {
            return write("devices.allow", "a");
        }
        write("devices.deny", "a")?;
        return rules.iter().try_for_each(|rule| write("devices.allow", &rule.v1_line()));
    }
    match cgroup.unified_folder() {
        Some(folder) if !rules.iter().any(DeviceRule::is_everything) => attach(&load(&program(rules))?, &fs::File::open(folder)?.into()),
        _ => Ok(()),
    }
}

/// One instruction of an extended BPF program.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: source << 4 | destination, offset, immediate }
}

const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbc;
const MOVE_NUMBER: u8 = 0xb4;
const AND_NUMBER: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP_UNEQUAL: u8 = 0x56;
const JUMP_UNEQUAL_REGISTER: u8 = 0x5e;
const EXIT: u8 = 0x95;

/// A program that gives 1 for what a rule allows and 0 for all else. The kernel hands it `access_type` (kind in the low half, access in the
/// high one), `major` and `minor`; they are kept in registers 2, 3 (access) and 4, 5.
fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut code = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOVE_REGISTER, 3, 2, 0, 0),
        instruction(AND_NUMBER, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let mut tests = Vec::new();
        match rule.kind {
            'b' => tests.push(instruction(JUMP_UNEQUAL, 2, 0, 0, 1)),
            'c' => tests.push(instruction(JUMP_UNEQUAL, 2, 0, 0, 2)),
            _ => {}
        }
        let access = access_bits(&rule.access);
        if access != 7 {
            // The wanted access must lie within the allowed one.
            tests.push(instruction(MOVE_REGISTER, 1, 3, 0, 0));
            tests.push(instruction(AND_NUMBER, 1, 0, 0, access));
            tests.push(instruction(JUMP_UNEQUAL_REGISTER, 1, 3, 0, 0));
        }
        tests.extend(rule.major.map(|major| instruction(JUMP_UNEQUAL, 4, 0, 0, major as i32)));
        tests.extend(rule.minor.map(|minor| instruction(JUMP_UNEQUAL, 5, 0, 0, minor as i32)));
        let length = tests.len();
        for (at, mut test) in tests.into_iter().enumerate() {
            if matches!(test.code, JUMP_UNEQUAL | JUMP_UNEQUAL_REGISTER) {
                // Over the remaining tests and the two instructions that say yes.
                test.offset = (length - at - 1 + 2) as i16;
            }
            code.push(test);
        }
        code.extend([instruction(MOVE_NUMBER, 0, 0, 0, 1), instruction(EXIT, 0, 0, 0, 0)]);
    }
    code.extend([instruction(MOVE_NUMBER, 0, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    code
}

/// `BPF_DEVCG_ACC_*`.
fn access_bits(access: &str) -> i32 {
    access
        .chars()
        .map(|c| match c {
            'm' => 1,
            'r' => 2,
            'w' => 4,
            _ => 0,
        })
        .fold(0, |all, one| all | one)
}

const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_ATTACH: i32 = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

#[repr(C)]
struct LoadAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log: [u64; 3],
}

#[repr(C)]
struct AttachAttributes {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let attributes = LoadAttributes {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log: [0; 3],
    };
    // SAFETY: the attributes, the program and the licence string are alive during the call; the size is that of the struct.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &attributes, size_of::<LoadAttributes>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn attach(program: &OwnedFd, cgroup: &OwnedFd) -> io::Result<()> {
    let attributes =
        AttachAttributes { target: cgroup.as_raw_fd() as u32, program: program.as_raw_fd() as u32, attach_type: BPF_CGROUP_DEVICE, flags: BPF_F_ALLOW_MULTI };
    // SAFETY: the attributes are alive during the call; the size is that of the struct.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &attributes, size_of::<AttachAttributes>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a device program as the kernel would.
    fn run(code: &[Instruction], access_type: u32, major: u32, minor: u32) -> i32 {
        let (context, mut registers, mut at) = ([access_type, major, minor], [0u32; 6], 0usize);
        loop {
            let Instruction { code: op, registers: pair, offset, immediate } = code[at];
            let (to, from) = ((pair & 15) as usize, (pair >> 4) as usize);
            at += 1;
            match op {
                LOAD_WORD => registers[to] = context[offset as usize / 4],
                MOVE_REGISTER => registers[to] = registers[from],
                MOVE_NUMBER => registers[to] = immediate as u32,
                AND_NUMBER => registers[to] &= immediate as u32,
                SHIFT_RIGHT => registers[to] >>= immediate,
                JUMP_UNEQUAL if registers[to] != immediate as u32 => at += offset as usize,
                JUMP_UNEQUAL_REGISTER if registers[to] != registers[from] => at += offset as usize,
                EXIT => return registers[0] as i32,
                _ => {}
            }
        }
    }

    #[test]
    fn device_program_allows_what_a_rule_names_and_nothing_else() {
        let code = program(&[DeviceRule::new('c', 1, 3, "rwm"), DeviceRule::new('c', None, None, "m"), DeviceRule::new('b', 8, None, "r")]);
        let (block, character, mknod, read, write) = (1, 2, 1 << 16, 2 << 16, 4 << 16);
        assert_eq!(run(&code, character | read | write, 1, 3), 1);
        assert_eq!(run(&code, character | mknod, 99, 99), 1);
        assert_eq!(run(&code, character | read, 99, 99), 0);
        assert_eq!(run(&code, block | read, 8, 1), 1);
        assert_eq!(run(&code, block | write, 8, 1), 0);
        assert_eq!(run(&code, block | read, 9, 1), 0);
    }

    #[test]
    fn device_program_is_accepted_by_the_kernel() {
        load(&program(&[DeviceRule::new('c', 1, 3, "rwm"), DeviceRule::new('c', None, None, "m")])).unwrap();
    }
}
