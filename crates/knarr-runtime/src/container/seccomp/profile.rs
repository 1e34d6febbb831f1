//! Docker's JSON format for profiles.

use serde::Deserialize;

use super::{holds, table};

/// A profile as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: String,
    #[serde(default)]
    default_errno_ret: Option<u16>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    arch_map: Vec<ArchMap>,
    #[serde(default)]
    syscalls: Vec<Syscalls>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Syscalls {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Vec<String>,
    action: String,
    #[serde(default)]
    errno_ret: Option<u16>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Filter,
    #[serde(default)]
    excludes: Filter,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
    #[serde(default)]
    min_kernel: Option<String>,
}

/// A condition on one argument.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Argument {
    pub index: u8,
    pub value: u64,
    #[serde(default)]
    pub value_two: u64,
    pub op: Comparison,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Comparison {
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterOrEqual,
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    /// `argument & value == value_two`
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

/// A rule that holds for this machine and these capabilities.
#[derive(Clone, Debug)]
pub struct Rule<'a> {
    pub names: Vec<&'a str>,
    /// What the kernel does, as a filter's return value.
    pub action: u32,
    /// All must hold.
    pub conditions: &'a [Argument],
}

impl Profile {
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let profile: Self = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        profile.default_action()?;
        Ok(profile)
    }

    pub fn default_action(&self) -> Result<u32, String> {
        action(&self.default_action, self.default_errno_ret)
    }

    /// Whether programs of an architecture run at all. The native one always does.
    pub fn allows_architecture(&self, name: &str) -> bool {
        let mapped = self.arch_map.iter().filter(|m| m.architecture == table::NATIVE.name).flat_map(|m| &m.sub_architectures);
        self.architectures.iter().chain(mapped).any(|a| a == name)
    }

    /// The rules that apply.
    pub fn rules(&self, capabilities: u64) -> Result<Vec<Rule<'_>>, String> {
        self.syscalls.iter().filter(|s| s.applies(capabilities)).map(Syscalls::rule).collect()
    }
}

impl Syscalls {
    fn applies(&self, capabilities: u64) -> bool {
        let (i, e) = (&self.includes, &self.excludes);
        let here = |arches: &[String]| arches.iter().any(|a| a == native_name());
        let kernel = |filter: &Filter| filter.min_kernel.as_deref().is_some_and(kernel_is_at_least);
        i.caps.iter().all(|c| holds(capabilities, c))
            && !e.caps.iter().any(|c| holds(capabilities, c))
            && (i.arches.is_empty() || here(&i.arches))
            && !here(&e.arches)
            && (i.min_kernel.is_none() || kernel(i))
            && !kernel(e)
    }

    fn rule(&self) -> Result<Rule<'_>, String> {
        let conditions = self.args.as_deref().unwrap_or_default();
        match conditions.iter().find(|c| c.index > 5) {
            Some(bad) => Err(format!("argument index {} is out of range", bad.index)),
            None => {
                Ok(Rule { names: self.name.iter().chain(&self.names).map(String::as_str).collect(), action: action(&self.action, self.errno_ret)?, conditions })
            }
        }
    }
}

/// Docker's name for what we are built for.
fn native_name() -> &'static str {
    if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }
}

fn kernel_is_at_least(wanted: &str) -> bool {
    let numbers = |text: &str| -> Vec<u32> { text.split(['.', '-']).map_while(|n| n.parse().ok()).take(2).collect() };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    numbers(&release) >= numbers(wanted)
}

fn action(name: &str, errno: Option<u16>) -> Result<u32, String> {
    let data = |default: u16| u32::from(errno.unwrap_or(default)) & libc::SECCOMP_RET_DATA;
    Ok(match name {
        "SCMP_ACT_ALLOW" => libc::SECCOMP_RET_ALLOW,
        "SCMP_ACT_ERRNO" => libc::SECCOMP_RET_ERRNO | data(1),
        "SCMP_ACT_LOG" => libc::SECCOMP_RET_LOG,
        "SCMP_ACT_TRAP" => libc::SECCOMP_RET_TRAP,
        "SCMP_ACT_TRACE" => libc::SECCOMP_RET_TRACE | data(1),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => libc::SECCOMP_RET_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => libc::SECCOMP_RET_KILL_PROCESS,
        other => return Err(format!("unsupported action {other:?}")),
    })
}
