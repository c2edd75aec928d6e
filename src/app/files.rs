//! The files that what is served was made of, and whether they are as they were.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::load::{Plan, ServicePlan};
use crate::config::Config;

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

/// SHA-256 over files: which there are, and what is in them. Times of change are no evidence.
pub fn digest(files: &BTreeSet<PathBuf>) -> [u8; 32] {
    let mut all = Sha256::new();
    for file in files {
        all.update(file.as_os_str().as_encoded_bytes());
        if let Some(names) = names(file) {
            names.iter().for_each(|name| all.update([name.as_encoded_bytes(), b"/"].concat()));
            continue;
        }
        match std::fs::read(file) {
            // It may be a secret.
            Ok(content) => all.update([&[1][..], &Sha256::digest(Zeroizing::new(content))].concat()),
            Err(_) => all.update([0]),
        }
    }
    all.finalize().into()
}
