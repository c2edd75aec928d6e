//! The files that what is served was made of, and whether they are as they were.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::load::{Plan, ServicePlan};
use crate::config::{Config, files};
use crate::services::data;
use crate::telemetry::clock;

impl ServicePlan {
    /// Its program and the files its settings name, those in folders that they name included.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = settings_files(&self.config);
        files.extend(self.module.file().map(Path::to_owned));
        files
    }
}

/// Files that settings name; of a folder the folder itself, those below it, and the files in all of them.
pub fn settings_files(config: &Config) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in config.files() {
        within(path, &mut files);
    }
    files
}

fn within(path: &Path, files: &mut Vec<PathBuf>) {
    // Links that lead in circles have no end.
    if files.len() >= data::MOST_FILES {
        return;
    }
    files.push(path.to_owned());
    if let Some(names) = names(path) {
        // Hidden ones are no data; Kubernetes keeps its copies there.
        names.iter().filter(|name| !name.as_encoded_bytes().starts_with(b".")).for_each(|name| within(&path.join(name), files));
    }
}

/// What is in a folder; `None`: it is none.
fn names(path: &Path) -> Option<BTreeSet<OsString>> {
    let entries = std::fs::read_dir(path).ok()?;
    Some(entries.filter_map(|entry| entry.ok().map(|entry| entry.file_name())).collect())
}

/// Every file that a plan was made from.
pub fn files_of(plan: &Plan) -> BTreeSet<PathBuf> {
    let dropped = plan.dropins.iter().filter_map(|dropin| dropin.plan.as_ref().ok());
    plan.services.iter().chain(dropped).flat_map(ServicePlan::files).chain(plan.documents.iter().cloned()).collect()
}

/// How long ago files were written that are likely to be whole.
const SETTLE: Duration = Duration::from_millis(100);

/// The digest of a file; it may be a secret.
fn content(file: &Path) -> std::io::Result<[u8; 32]> {
    let mut file = files::open(file)?;
    let mut piece = Zeroizing::new([0; 32 << 10]);
    let mut digest = Sha256::new();
    loop {
        match file.read(&mut *piece)? {
            0 => return Ok(digest.finalize().into()),
            read => digest.update(&piece[..read]),
        }
    }
}

/// Waits until nobody seems to write these files, as one that is written for the second time is empty for a moment: what is
/// written on and on is left as it is after that long.
pub fn settle(files: &BTreeSet<PathBuf>, until: Instant) {
    while let Some(rest) = unsettled(files, SETTLE) {
        let left = until.saturating_duration_since(clock::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(rest.min(left));
    }
}

/// How long it takes until the last of these files was written so long ago that whoever writes is likely to be done; `None`: all were.
fn unsettled(files: &BTreeSet<PathBuf>, settle: Duration) -> Option<Duration> {
    let now = clock::wall();
    // What is written in times to come says nothing: clocks are set, and those of file servers are others.
    let age = |file: &PathBuf| now.duration_since(std::fs::metadata(file).ok()?.modified().ok()?).ok();
    files.iter().filter_map(age).filter_map(|age| settle.checked_sub(age)).filter(|rest| !rest.is_zero()).max()
}

/// SHA-256 over files: which there are, and what is in them. Times of change are no evidence.
pub fn digest(files: &BTreeSet<PathBuf>) -> [u8; 32] {
    let mut all = Sha256::new();
    for file in files {
        all.update(file.as_os_str().as_encoded_bytes());
        if let Some(names) = names(file) {
            names.iter().for_each(|name| all.update([name.as_encoded_bytes(), b"/"].concat()));
            continue;
        }
        match std::fs::metadata(file) {
            // Pipes hold up whoever reads them, and devices have no end.
            Ok(what) if !what.is_file() => {
                all.update([2]);
                continue;
            }
            // Larger than anything that is used.
            Ok(what) if what.len() > files::LARGEST => {
                let changed = what.modified().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
                all.update(format!("{} {changed:?}", what.len()));
                continue;
            }
            Ok(_) | Err(_) => {}
        }
        match content(file) {
            Ok(content) => all.update([&[1][..], &content].concat()),
            Err(_) => all.update([0]),
        }
    }
    all.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn files_settle() {
        let folder = tempfile::tempdir().expect("a folder");
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        let settle = Duration::from_secs(3600);
        let written = |path: &Path, at: SystemTime| File::create(path).and_then(|file| file.set_modified(at)).expect("a file");
        let now = clock::wall();
        let files = BTreeSet::from([first.clone(), second.clone(), folder.path().join("none")]);
        assert_eq!(unsettled(&files, settle), None);
        written(&first, now - settle * 2);
        written(&second, now + settle);
        assert_eq!(unsettled(&files, settle), None);
        written(&second, now - settle / 2);
        let rest = unsettled(&files, settle).expect("one that was written in between");
        assert!(rest > Duration::ZERO && rest <= settle / 2, "{rest:?}");
    }
}
