//! `cargo xtask profile`: counts what runs how often, so that the release build lays out and optimizes the code by it, and keeps the rest small
//! (`profile/README.md`). A count belongs to one release of rustc; with another the release is built without.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{code, demo, tools};

/// What a person does with kubectl, in the order in which it makes sense.
const VERBS: &[&str] = &[
    "apply -f examples/hello.yaml",
    "rollout status deployment/hello",
    "get pods -o wide",
    "get deployments,services,configmaps -A",
    "get pods -o yaml",
    "get pods -o json",
    "describe deployment hello",
    "describe pods",
    "explain pod.spec",
    "api-resources",
    "scale deployment/hello --replicas=10",
    "rollout status deployment/hello",
    "set env deployment/hello GREETING=Ahoy",
    "rollout status deployment/hello",
    "rollout undo deployment/hello",
    "rollout status deployment/hello",
    "logs deployment/hello",
    "get events",
    "label deployment hello a=b",
    "annotate deployment hello c=d",
    "patch deployment hello -p {\"metadata\":{\"labels\":{\"x\":\"y\"}}}",
    "apply --server-side --force-conflicts -f examples/hello.yaml",
    "delete -f examples/hello.yaml --wait=false",
];

/// What programs do, by the driver of the bench.
const LOADS: &[&str] = &[
    "-n 3000 create get update list listselector watch delete",
    "-n 3000 -protobuf create get update list listselector watch delete",
    // One after the other: nothing is shared with the next.
    "-n 500 -c 1 create get update watch delete",
    "-n 500 -c 1 -protobuf create get update watch delete",
    "-n 2000 -protobuf -namespace waiting pods",
    "-n 2000 -nodes 500 -namespace placed schedule",
];

const PORT: &str = "16444";

pub fn run() -> Result<()> {
    tools::need_root("the training")?;
    tools::need_packages(&["zstd"])?;
    let merger = merger()?;
    let driver = tools::need_programs(&["apibench"])?.join("apibench");
    let counts = tools::root().join("target/counting/counts");
    let knarr = tools::step("build knarr, to count", || counting(&counts))?;
    tools::step("train", || train(&knarr, &driver, &counts))?;
    tools::step("merge", || merge(&merger, &counts))
}

/// The tool that merges counts: of the toolchain, or of the release of LLVM that the compiler is made of.
fn merger() -> Result<PathBuf> {
    let compiler = tools::output(Command::new("rustc").arg("-vV"))?;
    let said = |key: &str| compiler.lines().find_map(|l| l.strip_prefix(key)).map(str::trim).with_context(|| format!("rustc -vV does not say {key:?}"));
    let sysroot = tools::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let own = Path::new(sysroot.trim()).join("lib/rustlib").join(said("host:")?).join("bin/llvm-profdata");
    if own.is_file() {
        return Ok(own);
    }
    let major = said("LLVM version:")?.split('.').next().unwrap_or_default().to_owned();
    tools::need_packages(&[&format!("llvm-{major}")])?;
    Ok(PathBuf::from(format!("/usr/lib/llvm-{major}/bin/llvm-profdata")))
}

/// The release binary with counters. All that differs from the release are the flags: the names of functions depend on everything else.
fn counting(counts: &Path) -> Result<PathBuf> {
    let target = tools::root().join("target/counting");
    let mut cargo = tools::cargo()?;
    cargo.args(["build", "--release", "--package", "knarr"]).arg("--target-dir").arg(&target);
    let absent = target.join("absent.s");
    std::fs::create_dir_all(&target)?;
    std::fs::write(&absent, absent_functions())?;
    tools::with_flags(&mut cargo, &[&format!("profile-generate={}", counts.display()), &format!("link-arg={}", absent.display())]);
    tools::run(&mut cargo)?;
    tools::built_in(&target, "release", "knarr")
}

/// Functions that code asks for which nobody calls. Counters keep such code, and it asks by the names of the dynamic C library (crate `nix`,
/// `sys::termios`), which the static one does not have.
fn absent_functions() -> String {
    let names = ["cfsetspeed", "cfgetispeed", "cfgetospeed", "cfsetispeed", "cfsetospeed"];
    let each = names.map(|name| format!(".globl absent_{name}\nabsent_{name}: ret\n.symver absent_{name}, {name}@GLIBC_2.2.5\n"));
    format!(".text\n{}", each.concat())
}

fn train(knarr: &Path, driver: &Path, counts: &Path) -> Result<()> {
    let image = demo::pack_hello("release")?;
    let folder = tempfile::tempdir()?;
    let (data, kubeconfig) = (folder.path().join("data"), folder.path().join("kubeconfig"));
    let command = |program: &Path| {
        let mut command = tools::command(program);
        command.env("LLVM_PROFILE_FILE", counts.join("%4m.profraw")).env("KUBECONFIG", &kubeconfig).env("NO_PROXY", "*");
        command
    };
    let verb = |args: &[&str]| tools::run(command(knarr).args(args).args(["--profile", "training", "--data"]).arg(&data));
    let start = ["start", "--port", PORT, "--kubeconfig", &kubeconfig.display().to_string(), "--nodes", "2"];
    verb(&start)?;
    verb(&["image", "load", &image.display().to_string()])?;
    for line in VERBS {
        tools::output(command(knarr).arg("kubectl").args(line.split(' ')))?;
    }
    for line in LOADS {
        tools::run(command(driver).arg("-kubeconfig").arg(&kubeconfig).args(line.split(' ')))?;
    }
    // Counts are written when a process ends.
    verb(&["stop"])?;
    verb(&start)?;
    verb(&["delete"])
}

fn merge(merger: &Path, counts: &Path) -> Result<()> {
    let files: Vec<PathBuf> =
        std::fs::read_dir(counts)?.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.extension().is_some_and(|e| e == "profraw")).collect();
    ensure!(!files.is_empty(), "{}: nothing was counted", counts.display());
    let (merged, kept) = (counts.join("merged.profdata"), tools::profile()?);
    tools::run(tools::command(merger).args(["merge", "-o"]).arg(&merged).args(files))?;
    std::fs::create_dir_all(kept.parent().context("a folder")?)?;
    tools::run(tools::command("zstd").args(["-q", "-f", "-19"]).arg(&merged).arg("-o").arg(&kept))?;
    code::keep(&kept)?;
    std::fs::remove_dir_all(counts)?;
    println!("{}: build the release anew", kept.display());
    Ok(())
}
