//! Manifests that load, to what, and manifests that do not, with what is said. `BLESS=1` stores what is there now.

#![allow(clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "a test ends at its first surprise")]

use std::fs;
use std::path::{Path, PathBuf};

use sidelight::config::{Config, manifest};

const FOLDER: &str = "tests/golden/manifests";

fn examples(kind: &str) -> Vec<(PathBuf, String)> {
    let folder = Path::new(FOLDER).join(kind);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension != "txt"));
    files.sort();
    assert!(!files.is_empty());
    files.into_iter().map(|path| (path.clone(), fs::read_to_string(path).expect("text"))).collect()
}

fn compare(path: &Path, got: &str) {
    let stored = PathBuf::from(format!("{}.txt", path.display()));
    if std::env::var_os("BLESS").is_some() {
        fs::write(&stored, got).expect("writes");
    }
    let wanted = fs::read_to_string(&stored).unwrap_or_default();
    assert_eq!(got, wanted, "{} is otherwise; BLESS=1 stores what is there now", stored.display());
}

#[test]
fn good_ones_load() {
    for (path, text) in examples("ok") {
        let config = Config::from_manifest(&text, &path).unwrap_or_else(|error| panic!("{error}"));
        compare(&path, &format!("{config:#?}\n"));
    }
}

#[test]
fn bad_ones_say_all_that_is_wrong() {
    for (path, text) in examples("err") {
        let error = Config::from_manifest(&text, &path).expect_err("is bad");
        compare(&path, &format!("{error}\n"));
    }
}

/// The schema that we print, asked with a validator that is not ours.
#[test]
fn the_schema_says_the_same() {
    let schema = jsonschema::validator_for(manifest::schema()).expect("a schema");
    let json = |path: &Path, text: &str| -> Option<serde_json::Value> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => serde_json::from_str(text).ok(),
            _ => toml::from_str(text).ok(),
        }
    };
    for (path, text) in examples("ok") {
        let document = json(&path, &text).expect("parses");
        let faults: Vec<String> = schema.iter_errors(&document).map(|error| error.to_string()).collect();
        assert!(faults.is_empty(), "{}: {faults:?}", path.display());
    }
    for (path, text) in examples("err") {
        let meaning = path.file_stem().is_some_and(|name| name == "meaning" || name == "values" || name == "twice");
        let Some(document) = json(&path, &text) else { continue };
        assert_eq!(schema.is_valid(&document), meaning, "{}", path.display());
    }
}

#[test]
fn what_is_there_loads() {
    let path = Path::new("manifests/demo/fastly.toml");
    Config::from_manifest(&fs::read_to_string(path).expect("text"), path).unwrap_or_else(|error| panic!("{error}"));
}
