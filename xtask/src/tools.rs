//! Running programs, and finding or building the ones that a command needs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use knarr_core::hex;
use sha2::{Digest, Sha256};

/// The workspace's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// Folder of programs and images that are built for tests: outside the checkout, kept from run to run.
pub fn work() -> PathBuf {
    std::env::var_os("WORK").map_or_else(|| std::env::temp_dir().join("yardstick"), PathBuf::from)
}

/// A command in the workspace's root. In-cluster traffic must not follow proxies.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// `cargo`, as it was called, with what the build takes beside a linker: the heap is built by `make`.
pub fn cargo() -> Result<Command> {
    if !has("make") {
        need_packages(&["make"])?;
    }
    Ok(command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())))
}

/// Runs a command; its failure is ours.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    ensure!(status.success(), "{:?} failed: {status}", shown(command));
    Ok(())
}

/// Runs a command and gives what it printed.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    ensure!(output.status.success(), "{:?} failed: {}\n{}", shown(command), output.status, String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn shown(command: &Command) -> String {
    std::iter::once(command.get_program()).chain(command.get_args()).map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Prints how long a named step took.
pub fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("== {name}");
    let since = Instant::now();
    let result = work().with_context(|| format!("step {name:?}"))?;
    println!("== {name}: {:.1} min", since.elapsed().as_secs_f64() / 60.0);
    Ok(result)
}

/// Whether a program is on the PATH.
pub fn has(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

/// Only root may make containers.
pub fn need_root(what: &str) -> Result<()> {
    let id = output(Command::new("id").arg("-u"))?;
    if id.trim() != "0" {
        bail!("{what} needs root: containers, namespaces and network rules are made for real. Run it as root (sudo -E cargo xtask …)");
    }
    Ok(())
}

/// Nodes take no pods when a hundredth of the disk is left, and the tests write as they go: better said before than by each of them.
pub fn need_disk(what: &str) -> Result<()> {
    let report = output(Command::new("df").args(["--output=size,avail", "-B1"]).arg(root()))?;
    let numbers: Vec<u64> = report.lines().nth(1).unwrap_or_default().split_whitespace().filter_map(|n| n.parse().ok()).collect();
    let [size, free] = numbers[..] else { bail!("df does not say how much disk is free: {report}") };
    println!("{:.1} GiB of disk are free", free as f64 / f64::from(1 << 30));
    let needed = size / 100 + (2 << 30);
    ensure!(
        free >= needed,
        "{what} needs {} GiB of free disk, and {} has {} GiB. Free some: cargo clean, old images, caches",
        needed >> 30,
        root().display(),
        free >> 30
    );
    Ok(())
}

/// Installs Debian packages that are missing.
pub fn need_packages(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|p| !installed(p)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    ensure!(has("apt-get"), "these packages are needed, and there is no apt-get to install them: {}", missing.join(" "));
    println!("installing {}", missing.join(" "));
    run(command("apt-get").args(["update", "-qq"]))?;
    run(command("apt-get").args(["install", "-y", "-qq", "--no-install-recommends"]).args(&missing).env("DEBIAN_FRONTEND", "noninteractive"))
}

fn installed(package: &str) -> bool {
    Command::new("dpkg")
        .args(["-s", package])
        .output()
        .is_ok_and(|o| o.status.success() && String::from_utf8_lossy(&o.stdout).contains("Status: install ok installed"))
}

/// Builds programs of the official release (kubectl, e2e.test, …) into [`work`]`/bin`; those that are there are kept.
pub fn need_programs(names: &[&str]) -> Result<PathBuf> {
    let bin = work().join("bin");
    if names.iter().any(|n| !bin.join(n).is_file()) {
        ensure!(has("go"), "Go 1.26 is needed to build the official {}: install it and put `go` on the PATH", names.join(", "));
        run(command(root().join("conformance/build")).arg(&bin).args(names))?;
    }
    Ok(bin)
}

/// The release binary, built now.
pub fn release_binary() -> Result<PathBuf> {
    run(cargo_release()?.args(["build", "--release", "--package", "knarr"]))?;
    built("release")
}

/// `cargo`, to build what is released: by the profile that was taken with this release of rustc, if there is one.
pub fn cargo_release() -> Result<Command> {
    let mut cargo = cargo()?;
    let kept = profile()?;
    if kept.is_file() {
        crate::code::warn_of_another(&kept)?;
        let unpacked = unpacked(&kept).with_context(|| format!("unpack {}", kept.display()))?;
        // A function that has changed since is built without its counts; that is nothing to be warned of.
        with_flags(&mut cargo, &[&format!("profile-use={}", unpacked.display()), "llvm-args=-no-pgo-warn-mismatch"]);
    }
    Ok(cargo)
}

/// Where the profile for this release of rustc lies, if one was taken (`cargo xtask profile`).
pub fn profile() -> Result<PathBuf> {
    let version = output(Command::new("rustc").arg("--version"))?;
    let release = version.split(' ').nth(1).context("rustc --version says no release")?;
    Ok(root().join("profile").join(format!("rustc-{release}.profdata.zst")))
}

/// The name tells the contents, so that another profile is another flag to cargo, which would not look into the file.
fn unpacked(profile: &Path) -> Result<PathBuf> {
    let packed = std::fs::read(profile)?;
    let digest = hex::encode(&Sha256::digest(&packed)[..8]);
    let to = target().join(format!("release-{digest}.profdata"));
    if !to.is_file() {
        std::fs::create_dir_all(target())?;
        let mut file = tempfile::NamedTempFile::new_in(target())?;
        std::io::copy(&mut ruzstd::decoding::StreamingDecoder::new(packed.as_slice())?, &mut file)?;
        file.persist(&to)?;
    }
    Ok(to)
}

/// Adds flags (`-C`) for the compiler to those of the workspace.
pub fn with_flags(cargo: &mut Command, flags: &[&str]) {
    let flags: Vec<String> = flags.iter().map(|f| format!("\"-C{f}\"")).collect();
    cargo.arg("--config").arg(format!("target.'cfg(target_env = \"gnu\")'.rustflags=[{}]", flags.join(",")));
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A binary of this profile, as cargo put it.
pub fn built(profile: &str) -> Result<PathBuf> {
    built_program(profile, "knarr")
}

/// Another program of the workspace.
pub fn built_program(profile: &str, name: &str) -> Result<PathBuf> {
    built_in(&target(), profile, name)
}

/// A program that cargo built into this target folder.
pub fn built_in(target: &Path, profile: &str, name: &str) -> Result<PathBuf> {
    let triple = output(Command::new("rustc").args(["--print", "host-tuple"]))?;
    let path = target.join(triple.trim()).join(profile).join(name);
    ensure!(path.is_file(), "{} was not built", path.display());
    Ok(path)
}
