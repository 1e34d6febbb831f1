//! A file that is set aside when it has grown, as `lumberjack` does it: `audit.log` becomes `audit-2026-01-02T03-04-05.678.log`.
//! Old ones go by number and by age.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use knarr_core::clock::Env;

use super::settings::LogSettings;

const TIME: &str = "%Y-%m-%dT%H-%M-%S%.3f";

/// See the module.
pub struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// 0: it grows for ever.
    bytes_max: u64,
    keep: Keep,
    env: Env,
}

/// Which old files stay.
#[derive(Clone, Copy, Debug)]
struct Keep {
    /// 0: all.
    backups: usize,
    /// 0: for ever.
    days: u32,
    compress: bool,
}

impl LogFile {
    /// Opens or makes the file and its folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn open(settings: &LogSettings, env: Env) -> io::Result<Self> {
        let path = PathBuf::from(&settings.path);
        if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let file = open(&path)?;
        let keep = Keep { backups: settings.max_backups, days: settings.max_age_days, compress: settings.compress };
        Ok(Self { bytes: file.metadata()?.size(), bytes_max: settings.max_size_mb << 20, path, file, keep, env })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// When it is longer than a whole file may be, or the disk refuses.
    pub fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        if self.bytes_max > 0 && length > self.bytes_max {
            return Err(io::Error::other(format!("write length {length} exceeds maximum file size {}", self.bytes_max)));
        }
        if self.bytes_max > 0 && self.bytes + length > self.bytes_max {
            self.set_aside()?;
        }
        self.file.write_all(line)?;
        self.bytes += length;
        Ok(())
    }

    fn set_aside(&mut self) -> io::Result<()> {
        let mut now = self.env.now();
        let mut aside = named(&self.path, now);
        while aside.exists() {
            now += 1.millisecond();
            aside = named(&self.path, now);
        }
        fs::rename(&self.path, &aside)?;
        self.file = open(&self.path)?;
        self.bytes = 0;
        let (path, keep) = (self.path.clone(), self.keep);
        // Beside the requests that wait for their line.
        std::thread::Builder::new().name("audit-files".into()).spawn(move || {
            if let Err(error) = clean(&path, keep, now) {
                tracing::warn!(path = %path.display(), %error, "old audit logs could not be put in order");
            }
        })?;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Name of the file with the time between its stem and its extension.
fn named(path: &Path, at: Timestamp) -> PathBuf {
    let (stem, extension) = parts(path);
    path.with_file_name(format!("{stem}-{}{extension}", at.strftime(TIME)))
}

/// The name without its extension, and the extension with its dot.
fn parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let extension = text(path.extension());
    (text(path.file_stem()), if extension.is_empty() { extension } else { format!(".{extension}") })
}

/// Old files beside this one, the newest first.
fn old(path: &Path) -> io::Result<Vec<(Timestamp, PathBuf)>> {
    let (stem, extension) = parts(path);
    let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let when = |name: &str| {
        let name = name.strip_suffix(".gz").unwrap_or(name);
        let time = name.strip_prefix(&stem)?.strip_prefix('-')?.strip_suffix(&extension)?;
        jiff::civil::DateTime::strptime(TIME, time).ok()?.to_zoned(TimeZone::UTC).ok().map(|z| z.timestamp())
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        found.extend(when(&entry.file_name().to_string_lossy()).map(|at| (at, entry.path())));
    }
    found.sort_by(|a, b| b.cmp(a));
    Ok(found)
}

fn clean(path: &Path, keep: Keep, now: Timestamp) -> io::Result<()> {
    let oldest = now - (i64::from(keep.days) * 24).hours();
    let mut number = 0;
    let mut last = None;
    for (at, file) in old(path)? {
        // A file and its compressed form are one.
        if last != Some(at) {
            number += 1;
            last = Some(at);
        }
        if keep.backups > 0 && number > keep.backups || keep.days > 0 && at < oldest {
            fs::remove_file(&file)?;
        } else if keep.compress && file.extension().is_none_or(|e| e != "gz") {
            compress(&file)?;
        }
    }
    Ok(())
}

fn compress(path: &Path) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    let target = PathBuf::from(name);
    let out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&target)?;
    let mut encoder = GzEncoder::new(out, Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_that_has_grown_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/audit.log");
        let settings = LogSettings { path: path.display().to_string(), max_size_mb: 1, ..LogSettings::default() };
        let mut file = LogFile::open(&settings, Env::system()).unwrap();
        let line = vec![b'x'; 300_000];
        for _ in 0..8 {
            file.write(&line).unwrap();
        }
        let all = names(path.parent().unwrap());
        assert_eq!(all.len(), 3, "{all:?}");
        assert!(all[0].starts_with("audit-20") && all[0].ends_with(".log") && all[2] == "audit.log", "{all:?}");
        let sizes: u64 = fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert_eq!(sizes, 8 * 300_000);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(file.write(&vec![b'x'; 2 << 20]).unwrap_err().to_string().contains("exceeds maximum file size 1048576"));
        // Started anew, it goes on where it stood.
        assert_eq!(LogFile::open(&settings, Env::system()).unwrap().bytes, 600_000);
    }

    #[test]
    fn old_files_go_by_number_and_by_age() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let now: Timestamp = "2026-03-10T00:00:00Z".parse().unwrap();
        for day in 1..=9 {
            fs::write(named(&path, now - (day * 24).hours()), "old").unwrap();
        }
        fs::write(folder.path().join("audit-notes.log"), "not ours").unwrap();
        clean(&path, Keep { backups: 5, days: 0, compress: true }, now).unwrap();
        let all = names(folder.path());
        assert_eq!(all.len(), 6, "{all:?}");
        assert!(all[..5].iter().all(|n| n.ends_with(".log.gz")) && all[0] == "audit-2026-03-05T00-00-00.000.log.gz", "{all:?}");
        clean(&path, Keep { backups: 0, days: 2, compress: false }, now).unwrap();
        assert_eq!(names(folder.path()), ["audit-2026-03-08T00-00-00.000.log.gz", "audit-2026-03-09T00-00-00.000.log.gz", "audit-notes.log"]);
    }
}
