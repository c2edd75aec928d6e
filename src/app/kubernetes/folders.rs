//! Services as folders: each is swapped as a whole, as the kubelet does with what it mounts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::parts::Whole;
use crate::app::load::{EXPIRES, SINCE};

/// Where the folders are that the links of services lead to.
const DATA: &str = ".data";

/// What all files of a service are, its end included.
pub fn digest(whole: &Whole) -> String {
    let mut all = Sha256::new();
    for (name, content) in files(whole) {
        all.update(name.as_bytes());
        all.update([0]);
        all.update(Sha256::digest(content));
    }
    all.update(whole.expires().unwrap_or_default());
    all.update(whole.since());
    all.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn files(whole: &Whole) -> BTreeMap<&str, &[u8]> {
    whole.parts.iter().flat_map(|part| &part.files).map(|(name, content)| (name.as_str(), content.as_slice())).collect()
}

/// Makes the folder have these services and no others.
pub fn write(folder: &Path, services: &BTreeMap<String, Whole>) -> io::Result<()> {
    let data = folder.join(DATA);
    DirBuilder::new().recursive(true).mode(0o700).create(&data)?;
    let mut kept = BTreeSet::new();
    for (name, whole) in services.iter().filter(|(_, whole)| !whole.parts.is_empty()) {
        let version = format!("{name}.{}", &digest(whole)[..16]);
        fill(&data, &version, whole)?;
        let (link, target) = (folder.join(name), Path::new(DATA).join(&version));
        if fs::read_link(&link).ok().as_deref() != Some(&target) {
            let new = data.join(".link");
            remove(&new)?;
            symlink(&target, &new)?;
            // What the process had here before this was known to it is a link, too, or nothing.
            fs::rename(&new, &link)?;
        }
        kept.insert(version);
    }
    for entry in fs::read_dir(folder)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != DATA && services.get(&name).is_none_or(|whole| whole.parts.is_empty()) {
            remove(&entry.path())?;
        }
    }
    for entry in fs::read_dir(&data)?.flatten() {
        if !kept.contains(&*entry.file_name().to_string_lossy()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// One version of a service. It is there whole, or not at all.
fn fill(data: &Path, version: &str, whole: &Whole) -> io::Result<()> {
    let done: PathBuf = data.join(version);
    if done.is_dir() {
        return Ok(());
    }
    let new = data.join(".new");
    remove(&new)?;
    DirBuilder::new().mode(0o700).create(&new)?;
    let put =
        |name: &str, content: &[u8]| OpenOptions::new().write(true).create_new(true).mode(0o600).open(new.join(name))?.write_all(content);
    for (name, content) in files(whole) {
        put(name, content)?;
    }
    put(SINCE, whole.since().as_bytes())?;
    if let Some(expires) = whole.expires() {
        put(EXPIRES, expires.as_bytes())?;
    }
    fs::rename(&new, &done)
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
