//! Folders of what can be made or fetched again: what has not been used for longest goes when there is too much.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Bytes that a file has on a disk at least.
const BLOCK: u64 = 4 << 10;

/// A file that is being written is not older than this.
const WRITING: Duration = Duration::from_secs(3600);

/// Notes that a file has been used.
pub fn used(file: &fs::File) {
    // Where that cannot be noted, what was made first goes first.
    drop(file.set_modified(crate::telemetry::clock::wall()));
}

/// A name for what is written aside, as `NAME`: no other thread or process has it.
pub fn aside(name: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{name}.{count}.{}.tmp", std::process::id())
}

/// Removes files of a folder until there are no more than `most` bytes: those that were not used for longest, and never `kept`. What was
/// left behind by somebody who could not finish it (`.tmp`) goes, too. Nothing else is touched but what `is_ours` says.
pub fn tidy(folder: &Path, most: u64, kept: &Path, is_ours: impl Fn(&str) -> bool) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let now = crate::telemetry::clock::wall();
    let mut found: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        let (Some(name), Ok(what)) = (path.file_name().and_then(|name| name.to_str()), fs::symlink_metadata(&path)) else { continue };
        let modified = what.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        if !what.is_file() {
            continue;
        }
        if name.ends_with(".tmp") {
            if now.duration_since(modified).is_ok_and(|age| age > WRITING) {
                drop(fs::remove_file(&path));
            }
        } else if is_ours(name) {
            // However small, it takes a place on the disk.
            found.push((modified, what.len().max(BLOCK), path));
        }
    }
    let mut bytes: u64 = found.iter().map(|(_, length, _)| length).sum();
    if bytes <= most {
        return;
    }
    found.sort();
    for (_, length, path) in found {
        if bytes <= most {
            return;
        }
        // Whoever has it mapped or open has it on.
        if path != kept && fs::remove_file(&path).is_ok() {
            tracing::debug!(file = %path.display(), "removed to make room for others");
            bytes -= length;
        }
    }
}

/// Removes what processes have left behind that were ended while they wrote it (`NAME.PID.tmp`).
pub fn clear(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".tmp"));
        let writer = name.and_then(|name| name.rsplit('.').next()?.parse::<u32>().ok());
        if writer.is_some_and(|process| process == std::process::id() || !Path::new(&format!("/proc/{process}")).exists()) {
            drop(fs::remove_file(&path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_behind_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["a.4000000000.tmp", "a.1.tmp", "tmp", "a.b.tmp"] {
            fs::write(at(name), "x").expect("writes");
        }
        clear(folder.path());
        assert_eq!(["a.4000000000.tmp", "a.1.tmp", "tmp", "a.b.tmp"].map(|name| at(name).exists()), [false, true, true, true]);
    }

    #[test]
    fn what_was_not_used_for_longest_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let now = crate::telemetry::clock::wall();
        let put = |name: &str, age: u64| {
            fs::write(at(name), vec![0; 100]).expect("writes");
            let file = fs::File::open(at(name)).expect("opens");
            file.set_modified(now - Duration::from_secs(age)).expect("sets");
        };
        for (name, age) in [("a", 50), ("b", 40), ("c", 30), ("d", 20), ("other", 90), ("x.tmp", 7200), ("y.tmp", 10)] {
            put(name, age);
        }
        used(&fs::File::open(at("a")).expect("opens"));
        tidy(folder.path(), 5 * BLOCK / 2, &at("b"), |name| name.len() == 1);
        let left: Vec<bool> = ["a", "b", "c", "d", "other", "x.tmp", "y.tmp"].map(|name| at(name).exists()).into();
        assert_eq!(left, [true, true, false, false, true, false, true]);
    }
}
