//! The few programs that the end-to-end tests want to find in a container, as one: what `exec`, `attach` and `cp` need at the other end.
//! Which one it is, the name that it is called by says.

use std::fs::File;
use std::io::{Error, Read, Result, Write, copy, stdin, stdout};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// Names by which this program is called (`cargo xtask pack` links them).
const USAGE: &str = "echo WORD…, cat [FILE…], env, true, false, sleep SECONDS, tar cf - PATH…, tar x[m]f - [-C FOLDER]";

fn main() -> ExitCode {
    let mut args = std::env::args();
    let called = args.next().unwrap_or_default();
    let name = Path::new(&called).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let args: Vec<String> = args.collect();
    match run(&name, &args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(name: &str, args: &[String]) -> Result<ExitCode> {
    match name {
        "echo" => println!("{}", args.join(" ")),
        "cat" => cat(args)?,
        "env" => std::env::vars().for_each(|(name, value)| println!("{name}={value}")),
        "true" => {}
        "false" => return Ok(ExitCode::FAILURE),
        "sleep" => std::thread::sleep(Duration::from_secs(args.first().and_then(|s| s.parse().ok()).unwrap_or_default())),
        "tar" => tar(args)?,
        _ => return Err(Error::other(format!("is none of: {USAGE}"))),
    }
    Ok(ExitCode::SUCCESS)
}

/// What is read is written at once: somebody may be typing.
fn cat(files: &[String]) -> Result<()> {
    if files.is_empty() {
        return pass_on(stdin().lock());
    }
    files.iter().try_for_each(|file| pass_on(File::open(file)?))
}

fn pass_on(mut from: impl Read) -> Result<()> {
    let mut piece = [0; 4096];
    loop {
        let length = from.read(&mut piece)?;
        if length == 0 {
            return Ok(());
        }
        let mut to = stdout().lock();
        to.write_all(&piece[..length])?;
        to.flush()?;
    }
}

fn tar(args: &[String]) -> Result<()> {
    let (flags, rest) = args.split_first().ok_or_else(|| Error::other("wants flags"))?;
    let flags = flags.trim_start_matches('-');
    let rest: Vec<&String> = rest.iter().filter(|a| *a != "-").collect();
    if flags.contains('c') {
        return pack(&rest);
    }
    let folder = rest.iter().position(|a| *a == "-C").and_then(|at| rest.get(at + 1)).map_or("/", |folder| folder.as_str());
    // To its end, lest the sender find nobody.
    let mut archive = tar::Archive::new(stdin().lock());
    archive.set_preserve_mtime(false);
    archive.unpack(folder)?;
    copy(&mut archive.into_inner(), &mut std::io::sink())?;
    Ok(())
}

fn pack(paths: &[&String]) -> Result<()> {
    let mut archive = tar::Builder::new(stdout().lock());
    for path in paths {
        let name = path.trim_start_matches('/');
        if Path::new(path).is_dir() { archive.append_dir_all(name, path)? } else { archive.append_path_with_name(path, name)? }
    }
    archive.into_inner()?.flush()
}
