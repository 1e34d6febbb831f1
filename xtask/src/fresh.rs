//! `cargo xtask fresh`: proves both README commands on a fresh machine, which is a new debootstrap root with only the toolchains
//! mounted, an empty home folder and a clean clone.
//!
//! The root holds mounts of the machine's own folders. They are made in a mount namespace that no other process sees, and the toolchains
//! cannot be written through them: however this ends, nothing is left in the root that removing it could reach.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::tools;

/// What a fresh Debian must have by itself for a Rust toolchain to link.
const PACKAGES: &str = "ca-certificates,gcc,libc6-dev,git";

/// How this machine reaches the package registries: names, and whom it trusts.
const NETWORK_FILES: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt"];

/// Options of `cargo xtask fresh`.
#[derive(clap::Args)]
pub struct Options {
    /// This process has a mount namespace for itself already
    #[arg(long, hide = true)]
    own_mounts: bool,
}

pub fn run(options: &Options) -> Result<()> {
    tools::need_root("a fresh root")?;
    tools::need_packages(&["debootstrap"])?;
    if options.own_mounts { prove() } else { tools::run(&mut with_own_mounts()?) }
}

/// This command once more, in a mount namespace that ends with it.
fn with_own_mounts() -> Result<Command> {
    let mut command = tools::command("unshare");
    command.args(["--mount", "--propagation", "private"]).arg(std::env::current_exe()?).args(["fresh", "--own-mounts"]);
    Ok(command)
}

fn prove() -> Result<()> {
    ensure!(
        tools::output(tools::command("git").args(["status", "--porcelain"]))?.is_empty(),
        "there are uncommitted changes: a clean clone would not have them. Commit first"
    );
    let root = tools::work().join("fresh");
    tools::step("debootstrap", || debootstrap(&root))?;
    populate(&root)?;
    ["cargo xtask demo && target/*/release/knarr delete", "cargo xtask test"].iter().try_for_each(|line| tools::step(line, || inside(&root, line)))
}

fn debootstrap(root: &Path) -> Result<()> {
    // Its own folder is gone when it has come to its end.
    if root.join("etc/debian_version").exists() && !root.join("debootstrap").exists() {
        return Ok(());
    }
    remove_unmounted(root)?;
    tools::run(tools::command("debootstrap").args(["--variant=minbase", &format!("--include={PACKAGES}"), "stable"]).arg(root))
}

/// Removes what an earlier attempt left, unless anything is mounted there: that would be emptied too.
fn remove_unmounted(root: &Path) -> Result<()> {
    if !root.exists() {
        return Ok(());
    }
    let root = root.canonicalize()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let below = mounts.lines().filter_map(|line| line.split(' ').nth(4)).find(|at| Path::new(at).starts_with(&root));
    ensure!(below.is_none(), "{} is a mount point: unmount it, then run this again", below.unwrap_or_default());
    std::fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))
}

/// Mounts the toolchains and the kernel's file systems into the root, and puts a clean clone there. The root becomes a mount point itself,
/// as that of a machine is.
fn populate(root: &Path) -> Result<()> {
    mount("bind", root, root)?;
    for (source, target) in toolchains()? {
        mount("bind,ro", &source, &root.join(target))?;
    }
    for kernel in ["/proc", "/sys", "/dev"] {
        mount("rbind", Path::new(kernel), &root.join(&kernel[1..]))?;
    }
    for file in NETWORK_FILES {
        std::fs::copy(file, root.join(&file[1..])).with_context(|| format!("copy {file}"))?;
    }
    let clone = root.join("src");
    if clone.exists() {
        std::fs::remove_dir_all(&clone)?;
    }
    tools::run(tools::command("git").args(["clone", "--quiet", "--no-hardlinks"]).arg(tools::root()).arg(&clone))
}

fn mount(options: &str, source: &Path, target: &Path) -> Result<()> {
    std::fs::create_dir_all(target)?;
    tools::run(Command::new("mount").args(["-o", options]).arg(source).arg(target))
}

/// Rust's and Go's folders, with the places they are mounted to.
fn toolchains() -> Result<Vec<(std::path::PathBuf, &'static str)>> {
    let sysroot = tools::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let mut found = vec![(sysroot.trim().into(), "opt/rust")];
    if tools::has("go") {
        found.push((tools::output(Command::new("go").args(["env", "GOROOT"]))?.trim().into(), "opt/go"));
    }
    Ok(found)
}

fn inside(root: &Path, line: &str) -> Result<()> {
    let home = root.join("root");
    std::fs::create_dir_all(&home)?;
    let mut command = Command::new("chroot");
    command.arg(root).args(["sh", "-ec", &format!("cd /src && {line}")]);
    for keep in ["GOPROXY", "GOFLAGS", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "NO_PROXY", "no_proxy"] {
        if let Some(value) = std::env::var_os(keep) {
            command.env(keep, value);
        }
    }
    tools::run(command.env("HOME", "/root").env("PATH", "/opt/rust/bin:/opt/go/bin:/usr/sbin:/usr/bin:/sbin:/bin"))
}
