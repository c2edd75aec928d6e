//! The layer order of `src/lib.rs`, and the size of files. A module may use lower layers only.

#![allow(clippy::expect_used, clippy::panic, clippy::disallowed_methods, missing_docs, reason = "not part of the product")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Highest first; modules of one line do not use each other.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["cli", "embed"],
    &["app"],
    &["server"],
    &["runtime"],
    &["hostcalls"],
    &["abi"],
    &["sandbox"],
    &["services"],
    &["http", "telemetry"],
    &["config"],
];

/// The command line builds log settings and the listing itself; nothing else reaches over layers.
const MAX_LINES: usize = 800;

/// Files over the limit, with the reason.
const LONG: &[(&str, &str)] = &[];

/// Crates that belong to certain layers: (crate, layers that may name it).
const CRATES: &[(&str, &[&str])] = &[
    ("wasmtime", &["abi", "hostcalls", "runtime", "sandbox"]),
    ("wasmtime_wasi", &["abi", "runtime"]),
    ("pingora", &["app", "server", "services", "http"]),
    ("clap", &["cli", "telemetry"]),
    ("clap_complete", &["cli"]),
    ("kube", &["app"]),
    ("k8s_openapi", &["app"]),
    ("oci_client", &["runtime"]),
    ("prometheus", &["telemetry", "services", "abi", "server"]),
];

fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&root, &mut found);
    found
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).expect("inside").to_str().expect("text").to_owned();
            (name, fs::read_to_string(path).expect("a source file"))
        })
        .collect()
}

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&name))
}

fn top(file: &str) -> &str {
    file.split(['/', '.']).next().expect("a name")
}

/// Modules of ours that a text names: `crate::x` and, in `main.rs`, `sidelight::x`.
fn names(text: &str, prefix: &str) -> BTreeSet<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    code.match_indices(prefix)
        .filter(|(at, _)| !code[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
        .map(|(at, _)| code[at + prefix.len()..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
        .collect()
}

#[test]
fn layers_use_only_what_is_below_them() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let module = top(&file);
        if module == "lib" {
            continue;
        }
        let own = layer(module).unwrap_or_else(|| panic!("src/{file}: module `{module}` is in no layer; add it to LAYERS"));
        for used in names(&text, "crate::").union(&names(&text, "sidelight::")) {
            if used == module {
                continue;
            }
            match layer(used) {
                Some(theirs) if theirs > own => {}
                Some(_) => wrong.push(format!("src/{file} uses `{used}`, which is not below `{module}`")),
                None if used.is_empty() => {}
                None => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn hostcall_modules_do_not_know_each_other() {
    let files = sources();
    let modules: Vec<&str> = files.iter().filter_map(|(file, _)| file.strip_prefix("hostcalls/")?.strip_suffix(".rs")).collect();
    // Beside the ABI's modules: the list of them, and what two of them share.
    assert_eq!(modules.iter().filter(|module| !matches!(**module, "mod" | "heads" | "client" | "lookup")).count(), 24);
    for (file, text) in &files {
        if file.starts_with("hostcalls/") && file != "hostcalls/mod.rs" {
            let shared = [
                "use super::*;",
                "use super::heads;",
                "use super::client;",
                "use super::{client, heads};",
                "use super::lookup;",
                "use super::lookup::{kv_key, kv_store};",
            ];
            let allowed: usize = shared.iter().map(|one| text.matches(one).count()).sum();
            assert_eq!(text.matches("super::").count(), allowed, "src/{file} reaches for a sibling");
            assert!(!text.contains("wasmtime"), "src/{file} names wasmtime; pointers and stores are abi's business");
        }
    }
}

#[test]
fn crates_stay_in_their_layers() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let module = top(&file);
        for (name, allowed) in CRATES {
            let used = names(&text, &format!("use {name}")).iter().any(String::is_empty);
            if used && module != "lib" && !allowed.contains(&module) {
                wrong.push(format!("src/{file} uses the crate `{name}`; it belongs to {allowed:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_stay_readable() {
    for (file, text) in sources() {
        let lines = text.lines().count();
        let allowed = LONG.iter().any(|(name, _)| *name == file);
        assert!(lines <= MAX_LINES || allowed, "src/{file} has {lines} lines; {MAX_LINES} are allowed");
        assert!(text.starts_with("//!"), "src/{file} does not say what it is for");
    }
}

/// What docs/security.md says of it; elsewhere the compiler refuses it.
#[test]
fn unsafe_code_is_where_it_is_said_to_be() {
    let exempt = |text: &&(String, String)| text.1.contains("unsafe_code");
    let found: Vec<String> = sources().iter().filter(exempt).map(|(file, _)| file.clone()).collect();
    assert_eq!(found, ["runtime/code_cache.rs"]);
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).expect("the manifest");
    assert!(manifest.contains("unsafe_code = \"deny\""));
}

/// A row of the tables by which users choose and trust this host names a test that is there.
#[test]
fn tables_name_tests_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = Vec::new();
    files(&root.join("tests/it"), &mut tests);
    files(&root.join("src"), &mut tests);
    let is_of = |file: &Path, module: &str| {
        let stem = file.file_stem().is_some_and(|stem| stem == module);
        stem || file.components().any(|part| part.as_os_str() == module)
    };
    let mut missing = Vec::new();
    let mut seen = 0;
    for page in ["docs/parity.md", "docs/security.md"] {
        let text = fs::read_to_string(root.join(page)).expect("a page");
        for row in text.lines().filter(|line| line.starts_with('|')) {
            let spans = row.split('`').skip(1).step_by(2);
            let word = |part: &str| {
                !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            };
            for path in spans.filter(|span| span.contains("::") && span.split("::").all(word)) {
                seen += 1;
                let (module, name) = path.rsplit_once("::").expect("a path");
                let module = module.rsplit("::").next().expect("a module");
                let there = tests.iter().any(|file| {
                    // A module of tests, or one test of a module.
                    is_of(file, name) || is_of(file, module) && fs::read_to_string(file).expect("a file").contains(&format!("fn {name}("))
                });
                if !there {
                    missing.push(format!("{page}: {path}"));
                }
            }
        }
    }
    assert!(seen > 100, "{seen}");
    assert!(missing.is_empty(), "{missing:#?}");
}
