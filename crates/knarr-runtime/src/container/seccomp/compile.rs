//! From a profile to a classic BPF program: architecture, then a search tree over call numbers, then conditions on arguments.

use std::collections::BTreeMap;

use knarr_sys::privilege::Instruction;

use super::profile::{Argument, Comparison, Profile, Rule};
use super::table::{COMPATIBLE, NATIVE, Table};

/// The kernel's `BPF_MAXINSNS`.
const INSTRUCTIONS_MAX: usize = 4096;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Where `struct seccomp_data` holds the call number, the architecture and the arguments.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Call numbers from here on are x86-64's x32 ABI.
#[cfg(target_arch = "x86_64")]
const X32_BIT: u32 = 0x4000_0000;

const fn plain(code: u16, value: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, value }
}

const fn jump(code: u16, value: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code, jump_true, jump_false, value }
}

/// What happens with a call.
#[derive(Clone, Debug, PartialEq)]
enum Verdict<'a> {
    Always(u32),
    /// The first whose conditions hold, else the default.
    Depends(Vec<(&'a [Argument], u32)>),
}

/// Compiles what a profile means for a process with these capabilities.
pub fn compile(profile: &Profile, capabilities: u64) -> Result<Vec<Instruction>, String> {
    let rules = profile.rules(capabilities)?;
    let default = profile.default_action()?;
    let native = tree(&NATIVE, &rules, default)?;
    let mut code = vec![plain(LOAD, ARCHITECTURE)];
    code.extend([jump(JUMP_EQUAL, NATIVE.audit, 1, 0), plain(JUMP, native.len() as u32)]);
    code.extend(native);
    if profile.allows_architecture(COMPATIBLE.name) {
        let compatible = tree(&COMPATIBLE, &rules, default)?;
        code.extend([jump(JUMP_EQUAL, COMPATIBLE.audit, 1, 0), plain(JUMP, compatible.len() as u32)]);
        code.extend(compatible);
    }
    code.push(plain(RETURN, libc::SECCOMP_RET_KILL_PROCESS));
    if code.len() > INSTRUCTIONS_MAX {
        return Err(format!("profile compiles to {} instructions, the kernel takes {INSTRUCTIONS_MAX}", code.len()));
    }
    Ok(code)
}

/// Everything for one architecture. Ends in a return on every path.
fn tree(table: &Table, rules: &[Rule<'_>], default: u32) -> Result<Vec<Instruction>, String> {
    let ranges = ranges(table, rules, default);
    let mut code = vec![plain(LOAD, NUMBER)];
    #[cfg(target_arch = "x86_64")]
    if table.audit == NATIVE.audit {
        code.extend([jump(JUMP_GREATER_OR_EQUAL, X32_BIT, 0, 1), plain(RETURN, libc::SECCOMP_RET_KILL_PROCESS)]);
    }
    search(&ranges, default, &mut code)?;
    Ok(code)
}

/// First number of each run of calls with the same verdict.
fn ranges<'a>(table: &Table, rules: &[Rule<'a>], default: u32) -> Vec<(u32, Verdict<'a>)> {
    let numbers: BTreeMap<&str, u32> = table.calls().map(|(number, name)| (name, number)).collect();
    let mut verdicts: BTreeMap<u32, Verdict<'a>> = BTreeMap::new();
    for rule in rules {
        for number in rule.names.iter().filter_map(|name| numbers.get(name)) {
            add(verdicts.entry(*number).or_insert_with(|| Verdict::Depends(Vec::new())), rule);
        }
    }
    let mut ranges = vec![(0, Verdict::Always(default))];
    for (number, verdict) in verdicts {
        push(&mut ranges, number, verdict);
        push(&mut ranges, number + 1, Verdict::Always(default));
    }
    ranges
}

/// A rule without conditions settles it; the first of them wins.
fn add<'a>(verdict: &mut Verdict<'a>, rule: &Rule<'a>) {
    match verdict {
        Verdict::Always(_) => {}
        _ if rule.conditions.is_empty() => *verdict = Verdict::Always(rule.action),
        Verdict::Depends(cases) => cases.push((rule.conditions, rule.action)),
    }
}

fn push<'a>(ranges: &mut Vec<(u32, Verdict<'a>)>, from: u32, verdict: Verdict<'a>) {
    if ranges.last().is_some_and(|(start, _)| *start == from) {
        ranges.pop();
    }
    if ranges.last().is_none_or(|(_, last)| *last != verdict) {
        ranges.push((from, verdict));
    }
}

/// A binary search: the number is in the accumulator.
fn search(ranges: &[(u32, Verdict<'_>)], default: u32, code: &mut Vec<Instruction>) -> Result<(), String> {
    if let [(_, verdict)] = ranges {
        return decide(verdict, default, code);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let mut below = Vec::new();
    search(low, default, &mut below)?;
    // Conditional jumps reach 255 instructions, plain ones everywhere.
    code.extend([jump(JUMP_GREATER_OR_EQUAL, high[0].0, 0, 1), plain(JUMP, below.len() as u32)]);
    code.extend(below);
    search(high, default, code)
}

fn decide(verdict: &Verdict<'_>, default: u32, code: &mut Vec<Instruction>) -> Result<(), String> {
    let cases = match verdict {
        Verdict::Always(action) => {
            code.push(plain(RETURN, *action));
            return Ok(());
        }
        Verdict::Depends(cases) => cases,
    };
    for (conditions, action) in cases {
        let mut tests = Vec::new();
        conditions.iter().for_each(|condition| test(condition, &mut tests));
        let length = tests.len();
        for (at, mut instruction) in tests.into_iter().enumerate() {
            // Behind the return that follows the tests.
            let miss = u8::try_from(length - at).map_err(|_| "too many conditions on one call".to_owned())?;
            for target in [&mut instruction.jump_true, &mut instruction.jump_false] {
                if *target == MISS {
                    *target = miss;
                }
            }
            code.push(instruction);
        }
        code.push(plain(RETURN, *action));
    }
    code.push(plain(RETURN, default));
    Ok(())
}

/// A jump target that stands for "this case does not apply".
const MISS: u8 = u8::MAX;

/// Compares a 64-bit argument in halves: falls through when the condition holds, jumps to [`MISS`] when not.
fn test(condition: &Argument, code: &mut Vec<Instruction>) {
    let at = ARGUMENTS + 8 * u32::from(condition.index);
    let (low, high) = (plain(LOAD, at), plain(LOAD, at + 4));
    let halves = |value: u64| (value as u32, (value >> 32) as u32);
    let (value_low, value_high) = halves(condition.value);
    let eq = |value, t, f| jump(JUMP_EQUAL, value, t, f);
    let gt = |value, t, f| jump(JUMP_GREATER, value, t, f);
    let ge = |value, t, f| jump(JUMP_GREATER_OR_EQUAL, value, t, f);
    code.extend(match condition.op {
        Comparison::Equal => vec![high, eq(value_high, 0, MISS), low, eq(value_low, 0, MISS)],
        Comparison::NotEqual => vec![high, eq(value_high, 0, 2), low, eq(value_low, MISS, 0)],
        Comparison::Greater => vec![high, gt(value_high, 3, 0), eq(value_high, 0, MISS), low, gt(value_low, 0, MISS)],
        Comparison::GreaterOrEqual => vec![high, gt(value_high, 3, 0), eq(value_high, 0, MISS), low, ge(value_low, 0, MISS)],
        Comparison::Less => vec![high, gt(value_high, MISS, 0), eq(value_high, 0, 2), low, ge(value_low, MISS, 0)],
        Comparison::LessOrEqual => vec![high, gt(value_high, MISS, 0), eq(value_high, 0, 2), low, gt(value_low, MISS, 0)],
        Comparison::MaskedEqual => {
            let (wanted_low, wanted_high) = halves(condition.value_two);
            vec![high, plain(AND, value_high), eq(wanted_high, 0, MISS), low, plain(AND, value_low), eq(wanted_low, 0, MISS)]
        }
    });
}

/// Runs a program as the kernel would.
#[cfg(test)]
pub fn run(program: &[Instruction], number: u32, architecture: u32, args: [u64; 6]) -> u32 {
    let load = |offset: u32| match offset {
        NUMBER => number,
        ARCHITECTURE => architecture,
        offset => (args[((offset - ARGUMENTS) / 8) as usize] >> (32 * ((offset / 4) % 2))) as u32,
    };
    let (mut at, mut accumulator) = (0usize, 0u32);
    loop {
        let Instruction { code, jump_true, jump_false, value } = program[at];
        at += 1;
        let holds = match code {
            LOAD => {
                accumulator = load(value);
                continue;
            }
            AND => {
                accumulator &= value;
                continue;
            }
            JUMP => {
                at += value as usize;
                continue;
            }
            RETURN => return value,
            JUMP_EQUAL => accumulator == value,
            JUMP_GREATER => accumulator > value,
            _ => accumulator >= value,
        };
        at += usize::from(if holds { jump_true } else { jump_false });
    }
}
