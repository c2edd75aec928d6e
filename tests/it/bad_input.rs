//! Bad input: an error that names the place and the remedy, and an exit code.

use std::path::PathBuf;

use crate::harness::{Setup, guest};

fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join(format!("{}-{name}", std::process::id()));
    std::fs::write(&path, bytes).expect("a file");
    path
}

fn refused(setup: Setup, code: i32, parts: &[&str]) {
    let (status, text) = setup.fails();
    assert_eq!(status.code(), Some(code), "{text}");
    for part in parts {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn a_missing_module() {
    refused(Setup::new("/nowhere/app.wasm".into()), 4, &["/nowhere/app.wasm", "No such file", "hint: build the program"]);
}

#[test]
fn an_empty_module() {
    refused(Setup::new(file("empty.wasm", b"")), 4, &["empty.wasm", "empty", "hint:"]);
}

#[test]
fn a_truncated_module() {
    let whole = std::fs::read(guest("rust", "hello")).expect("the guest");
    refused(Setup::new(file("half.wasm", &whole[..whole.len() / 2])), 4, &["half.wasm", "truncated", "hint:"]);
    refused(Setup::new(file("head.wasm", &whole[..6])), 4, &["head.wasm", "truncated", "hint:"]);
}

#[test]
fn what_is_no_wasm() {
    refused(Setup::new(file("text.wasm", b"#!/bin/sh\necho hello\n")), 4, &["text.wasm", "not a WebAssembly module", "hint:"]);
    refused(Setup::new(file("package.tar.gz", &[0x1f, 0x8b, 8, 0])), 4, &["package.tar.gz", "damaged", "hint:"]);
    refused(Setup::new(file("component.wasm", b"\0asm\x0d\0\x01\0")), 4, &["component", "hint: build for wasm32-wasip1"]);
}

const MISSING: &[u8] = br#"(module
  (import "fastly_future" "tomorrow" (func (param i32) (result i32)))
  (import "env" "first" (func))
  (import "env" "second" (func))
  (memory (export "memory") 1)
  (func (export "_start")))"#;

#[test]
fn missing_imports_are_all_named() {
    refused(
        Setup::new(file("missing.wat", MISSING)),
        4,
        &["env: first, second", "fastly_future: tomorrow", "hint:", "--unknown-import-behavior trap"],
    );
}

#[test]
fn missing_imports_may_trap_instead() {
    let calls = String::from_utf8_lossy(MISSING).replace("(func (export \"_start\"))", "(func (export \"_start\") (call 1))");
    let sidelight = Setup::new(file("trapping.wat", calls.as_bytes())).arg("--unknown-import-behavior trap").start();
    assert_eq!(sidelight.get("/").status, 500);
    sidelight.log.wait_for(&["this host has no env.first"]);
}

#[test]
fn an_import_of_another_type() {
    let module = br#"(module (import "fastly_http_body" "new" (func (param i64))) (memory (export "memory") 1) (func (export "_start")))"#;
    refused(Setup::new(file("type.wat", module)), 4, &["fastly_http_body", "new", "hint:"]);
}

#[test]
fn no_start_function() {
    refused(Setup::new(file("library.wat", br#"(module (memory (export "memory") 1))"#)), 4, &["_start", "hint:"]);
    refused(Setup::new(file("no-memory.wat", br#"(module (func (export "_start")))"#)), 4, &["memory", "hint:"]);
}

#[test]
fn a_pointer_outside_of_memory_ends_the_guest_and_nobody_else() {
    let module = br#"(module
      (import "fastly_http_body" "new" (func $new (param i32) (result i32)))
      (memory (export "memory") 1)
      (func (export "_start") (drop (call $new (i32.const -4)))))"#;
    let sidelight = Setup::new(file("pointer.wat", module)).start();
    assert_eq!(sidelight.get("/").status, 500);
    sidelight.log.wait_for(&["fastly_http_body.new", "pointer outside of guest memory"]);
    assert_eq!(sidelight.get("/").status, 500);
}

#[test]
fn a_manifest_that_does_not_parse() {
    refused(
        Setup::behaviours("rust").manifest("[local_server.backends.origin]\nurl = \"http://a\n"),
        3,
        &["FOLDER/fastly.toml:4:", "url = \"http://a"],
    );
}

#[test]
fn a_manifest_with_a_wrong_type() {
    refused(
        Setup::behaviours("rust").manifest("[local_server.backends.origin]\nurl = 7\n"),
        3,
        &["FOLDER/fastly.toml:4:7", "string", "url = 7", "^"],
    );
}

#[test]
fn a_manifest_with_an_unknown_key() {
    refused(
        Setup::behaviours("rust").manifest("[local_server.backends.origin]\nurl = \"http://a\"\nurll = \"b\"\n"),
        3,
        &["FOLDER/fastly.toml:5:1", "urll"],
    );
}

#[test]
fn too_little_address_space() {
    let setup = Setup::new(guest("rust", "hello")).within(&["sh", "-c", "ulimit -v 4000000 && exec \"$@\"", "sh"]);
    refused(setup, 1, &["failed to reserve", "hint: each sandbox reserves 4 GiB of address space", "--max-sandboxes"]);
}

/// Found out at the start, and not with the first write.
#[test]
fn folders_that_cannot_be_written_to() {
    let setup = || Setup::new(guest("rust", "hello"));
    for folder in ["/proc/x", "/dev/null"] {
        for option in ["--data-dir", "--core-dumps"] {
            refused(
                setup().arg(&format!("{option} {folder}")),
                2,
                &[option, folder, "hint: it has to be a folder that this process may write to"],
            );
        }
    }
}

/// Other tools' keys are none of ours; one that is nearly a known one is said at least.
#[test]
fn a_manifest_with_a_key_that_is_nearly_one() {
    let sidelight = Setup::new(guest("rust", "hello")).manifest("nmae = \"shop\"\n").start();
    sidelight.log.wait_for(&["WARN", "`nmae` is no key of a local server", "did you mean `name`?"]);
}

#[test]
fn all_faults_of_a_manifest_at_once() {
    refused(
        Setup::behaviours("rust")
            .manifest("[local_server.backends.a]\nurl = \"ftp://a\"\n[local_server.backends.b]\nurl = \"http://b\"\nhealth = \"fine\"\n"),
        3,
        &["fastly.toml:4:", "ftp", "fastly.toml:7:", "fine"],
    );
}

#[test]
fn a_missing_certificate_file() {
    refused(
        Setup::behaviours("rust").manifest("[local_server.backends.a]\nurl = \"https://a\"\nca_certificate = { file = \"nowhere.pem\" }\n"),
        3,
        &["backend `a`", "nowhere.pem"],
    );
}

#[test]
fn an_address_in_use() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = taken.local_addr().expect("an address");
    refused(Setup::behaviours("rust").arg(&format!("--addr {addr}")), 5, &[&addr.to_string(), "in use", "hint:", "--addr"]);
}

#[test]
fn unknown_arguments() {
    refused(Setup::behaviours("rust").arg("--no-such-flag"), 2, &["--no-such-flag"]);
}

#[test]
fn an_address_that_is_none() {
    refused(Setup::behaviours("rust").arg("--addr 7676"), 2, &["--addr", "expected HOST:PORT", "127.0.0.1:7676"]);
    refused(Setup::behaviours("rust").arg("--addr no-such-host.invalid:1"), 2, &["--addr", "expected HOST:PORT"]);
}

#[test]
fn an_address_may_be_a_name() {
    let sidelight = Setup::behaviours("rust").arg("--addr localhost:0").start();
    assert!(sidelight.addr.ip().is_loopback());
    assert_eq!(sidelight.get("/synthetic").status, 418);
}
