//! Our hostcalls against the published list, and against the Rust SDK's declarations.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use hyper::Response;
use sidelight::abi::Support;
use sidelight::hostcalls;

use crate::harness::Setup;
use crate::origin::{Origin, text};

type Name = (String, String);

fn published() -> BTreeMap<Name, String> {
    let text = include_str!("../abi/expected.txt");
    text.lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| {
            let mut parts = line.split('\t');
            let mut next = || parts.next().expect("three columns").to_owned();
            let (module, name, signature) = (next(), next(), next());
            ((module, name), if signature == "-" { String::new() } else { signature })
        })
        .collect()
}

fn ours() -> BTreeMap<Name, String> {
    hostcalls::listing().into_iter().map(|entry| ((entry.module.to_owned(), entry.name.to_owned()), entry.signature)).collect()
}

#[test]
fn every_published_call_is_linked_with_its_signature_and_no_other_is() {
    let (published, ours) = (published(), ours());
    assert_eq!(published.len(), 255);
    assert_eq!(hostcalls::listing().len(), 255, "no call is declared twice");
    assert_eq!(ours, published);
}

#[test]
fn every_call_that_is_not_done_says_why() {
    for entry in hostcalls::listing() {
        match entry.support {
            Support::Done => {}
            Support::Partial(note) | Support::Unsupported(note) => assert!(note.len() > 8, "{}.{} has no reason", entry.module, entry.name),
        }
        let own = format!("{}.rs", entry.module.trim_start_matches("fastly_"));
        let shared = matches!(entry.module, "fastly_http_req" | "fastly_http_resp") && entry.file.ends_with("/heads.rs");
        assert!(entry.file.ends_with(&own) || shared, "{} is in {}", entry.module, entry.file);
    }
}

/// The folder of the `fastly-sys` crate this build uses.
fn fastly_sys() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    // What other systems would need is not downloaded.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--filter-platform", &platform, "--format-version=1", "--locked", "--offline", "--manifest-path"])
        .arg(manifest)
        .output()
        .expect("cargo metadata");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let package = packages.iter().find(|package| package["name"] == "fastly-sys").expect("fastly-sys is a development dependency");
    Path::new(package["manifest_path"].as_str().expect("a path")).parent().expect("a folder").to_owned()
}

/// Extern declarations by module and name: one letter a parameter.
fn declared(text: &str) -> BTreeMap<Name, String> {
    let mut found = BTreeMap::new();
    let mut module = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("wasm_import_module = \"") {
        rest = &rest[at + "wasm_import_module = \"".len()..];
        module.clear();
        module.push_str(&rest[..rest.find('"').expect("a closing quote")]);
        let open = rest.find('{').expect("a block");
        // The block ends at its matching brace.
        let mut depth = 0;
        let end = rest[open..].find(|c| {
            depth += match c {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            depth == 0
        });
        let block = &rest[open..open + end.expect("a closing brace")];
        let code: String = block.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join(" ");
        let mut pieces = code.split("fn ");
        let mut link_name = link_name_in(pieces.next().unwrap_or_default());
        for piece in pieces {
            let (name, tail) = piece.split_once('(').expect("parameters");
            let name = link_name.take().unwrap_or_else(|| name.trim().to_owned());
            let parameters = &tail[..closing(tail)];
            let signature =
                split_parameters(parameters).iter().map(|p| if p.ends_with(": u64") || p.ends_with(": i64") { 'l' } else { 'i' }).collect();
            found.insert((module.clone(), name), signature);
            link_name = link_name_in(tail);
        }
        rest = &rest[open..];
    }
    found
}

fn link_name_in(text: &str) -> Option<String> {
    let at = text.find("link_name = \"")? + "link_name = \"".len();
    Some(text[at..].split('"').next()?.to_owned())
}

fn closing(text: &str) -> usize {
    let mut depth = 1;
    text.find(|c| {
        depth += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        depth == 0
    })
    .expect("a closing parenthesis")
}

fn split_parameters(text: &str) -> Vec<String> {
    let mut depth = 0;
    let mut parts = vec![String::new()];
    for c in text.chars() {
        depth += match c {
            '(' | '<' | '[' => 1,
            ')' | '>' | ']' => -1,
            _ => 0,
        };
        if c == ',' && depth == 0 { parts.push(String::new()) } else { parts.last_mut().expect("one").push(c) }
    }
    parts.iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

#[test]
fn the_rust_sdk_declares_the_same() {
    /// Declared with a parameter more than is published; the published one is what other SDKs use.
    const KNOWN: &[(&str, &str)] = &[("fastly_object_store", "pending_insert_wait")];
    let mut declarations = BTreeMap::new();
    let mut folders = vec![fastly_sys().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                declarations.append(&mut declared(&std::fs::read_to_string(path).expect("a source file")));
            }
        }
    }
    let declarations: BTreeMap<_, _> = declarations.into_iter().filter(|((module, _), _)| module.starts_with("fastly_")).collect();
    assert_eq!(declarations.len(), 246, "the parser found another number of declarations");
    let ours = ours();
    let differing: BTreeSet<_> = declarations
        .iter()
        .filter(|(name, signature)| ours.get(*name) != Some(*signature))
        .map(|((module, name), _)| (module.as_str(), name.as_str()))
        .collect();
    assert_eq!(differing, KNOWN.iter().copied().collect());
}

#[test]
fn the_listing_is_as_reviewed() {
    let output = Command::new(crate::harness::binary()).args(["hostcalls", "--format", "tsv"]).output().expect("runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hostcalls.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(golden.parent().expect("a folder")).expect("a folder");
        std::fs::write(&golden, &text).expect("writes");
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    assert!(text == expected, "`sidelight hostcalls` has changed; BLESS=1 cargo test the_listing, and review the difference");
}

/// A program whose imports all have the names from before there were modules: it sends its request on, and answers with
/// what comes back and a field of its own.
const OLD: &str = r#"(module
  (import "env" "xqd_init" (func $init (param i64) (result i32)))
  (import "env" "xqd_req_body_downstream_get" (func $downstream (param i32 i32) (result i32)))
  (import "env" "xqd_req_header_append" (func $req_append (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "xqd_req_send_async" (func $send (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "xqd_pending_req_wait" (func $wait (param i32 i32 i32) (result i32)))
  (import "env" "xqd_resp_status_get" (func $status (param i32 i32) (result i32)))
  (import "env" "xqd_resp_header_insert" (func $resp_insert (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "xqd_body_new" (func $body (param i32) (result i32)))
  (import "env" "xqd_body_write" (func $write (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "xqd_body_append" (func $append (param i32 i32) (result i32)))
  (import "env" "xqd_body_close_downstream" (func $close (param i32) (result i32)))
  (import "env" "xqd_resp_send_downstream" (func $answer (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 1024) "origin")
  (data (i32.const 1040) "x-old")
  (data (i32.const 1056) "yes")
  (data (i32.const 1072) "it said: ")
  (func $must (param i32) (if (local.get 0) (then unreachable)))
  (func (export "_start")
    (call $must (call $init (i64.const 1)))
    (call $must (call $downstream (i32.const 0) (i32.const 4)))
    (call $must (call $req_append (i32.load (i32.const 0)) (i32.const 1040) (i32.const 5) (i32.const 1056) (i32.const 3)))
    (call $must (call $send (i32.load (i32.const 0)) (i32.load (i32.const 4)) (i32.const 1024) (i32.const 6) (i32.const 8)))
    (call $must (call $wait (i32.load (i32.const 8)) (i32.const 12) (i32.const 16)))
    (call $must (call $status (i32.load (i32.const 12)) (i32.const 20)))
    (if (i32.ne (i32.load16_u (i32.const 20)) (i32.const 201)) (then unreachable))
    (call $must (call $resp_insert (i32.load (i32.const 12)) (i32.const 1040) (i32.const 5) (i32.const 1056) (i32.const 3)))
    (call $must (call $body (i32.const 24)))
    (call $must (call $answer (i32.load (i32.const 12)) (i32.load (i32.const 24)) (i32.const 1)))
    (call $must (call $write (i32.load (i32.const 24)) (i32.const 1072) (i32.const 9) (i32.const 0) (i32.const 28)))
    (call $must (call $append (i32.load (i32.const 24)) (i32.load (i32.const 16))))
    (call $must (call $close (i32.load (i32.const 24))))))"#;

#[test]
fn the_old_names() {
    let origin = Origin::new(|seen| {
        let answer = Response::builder().status(201);
        answer.body(text(format!("{} {} {:?}", seen.target, seen.body.len(), seen.values("x-old")))).expect("an answer")
    });
    let sidelight = Setup::wat(OLD).backend("origin", origin.url()).start();
    let answer = sidelight.post("/there", "twelve bytes");
    assert_eq!((answer.status, answer.values("x-old")), (201, vec!["yes"]));
    assert_eq!(answer.text(), "it said: /there 12 [\"yes\"]");
}

/// A program that sends a request as `prepare` has made it, and answers with 200 and what became of it, with trailers of its own.
fn sending(prepare: &str) -> String {
    let texts = [
        (1000, "http://a.test/x"),
        (1020, "origin"),
        (1030, "host"),
        (1040, "one"),
        (1050, "content-length"),
        (1070, "3"),
        (1080, "transfer-encoding"),
        (1100, "chunked"),
        (1110, "x-ok"),
        (1120, "hihihi"),
        (1130, "POST"),
    ];
    let data: String = texts.map(|(at, text)| format!("(data (i32.const {at}) {text:?})")).concat();
    let field = |call: &str, handle: u32, (name, length): (u32, u32), (value, size): (u32, u32)| {
        format!(
            "(call $must (call ${call} (i32.load (i32.const {handle})) (i32.const {name}) (i32.const {length}) (i32.const {value}) (i32.const {size})))"
        )
    };
    let trailers = |handle: u32| {
        let fields = [((1050, 14), (1070, 1)), ((1080, 17), (1100, 7)), ((1030, 4), (1040, 3)), ((1110, 4), (1070, 1))];
        fields.map(|(name, value)| field("trailer", handle, name, value)).concat()
    };
    let prepare: String = prepare
        .split_whitespace()
        .map(|step| match step {
            "host" => field("field", 0, (1030, 4), (1040, 3)),
            "short" => {
                let mode = "(call $must (call $mode (i32.load (i32.const 0)) (i32.const 1)))";
                [mode, &field("field", 0, (1050, 14), (1070, 1))].concat()
            }
            "trailers" => trailers(4),
            other => panic!("{other}"),
        })
        .collect();
    format!(
        r#"(module
        (import "fastly_http_req" "new" (func $request (param i32) (result i32)))
        (import "fastly_http_req" "uri_set" (func $uri (param i32 i32 i32) (result i32)))
        (import "fastly_http_req" "method_set" (func $method (param i32 i32 i32) (result i32)))
        (import "fastly_http_req" "header_append" (func $field (param i32 i32 i32 i32 i32) (result i32)))
        (import "fastly_http_req" "framing_headers_mode_set" (func $mode (param i32 i32) (result i32)))
        (import "fastly_http_req" "send" (func $send (param i32 i32 i32 i32 i32 i32) (result i32)))
        (import "fastly_http_body" "new" (func $body (param i32) (result i32)))
        (import "fastly_http_body" "write" (func $write (param i32 i32 i32 i32 i32) (result i32)))
        (import "fastly_http_body" "trailer_append" (func $trailer (param i32 i32 i32 i32 i32) (result i32)))
        (import "fastly_http_resp" "new" (func $response (param i32) (result i32)))
        (import "fastly_http_resp" "status_set" (func $status (param i32 i32) (result i32)))
        (import "fastly_http_resp" "send_downstream" (func $answer (param i32 i32 i32) (result i32)))
        (memory (export "memory") 1) {data}
        (func $must (param i32) (if (local.get 0) (then unreachable)))
        (func (export "_start") (local $sent i32)
            (call $must (call $request (i32.const 0)))
            (call $must (call $body (i32.const 4)))
            (call $must (call $uri (i32.load (i32.const 0)) (i32.const 1000) (i32.const 15)))
            (call $must (call $method (i32.load (i32.const 0)) (i32.const 1130) (i32.const 4)))
            (call $must (call $write (i32.load (i32.const 4)) (i32.const 1120) (i32.const 6) (i32.const 0) (i32.const 8)))
            {prepare}
            (local.set $sent (call $send (i32.load (i32.const 0)) (i32.load (i32.const 4)) (i32.const 1020) (i32.const 6) (i32.const 12) (i32.const 16)))
            (call $must (call $response (i32.const 20)))
            (call $must (call $body (i32.const 24)))
            (call $must (call $write (i32.load (i32.const 24)) (i32.const 1120) (i32.const 6) (i32.const 0) (i32.const 8)))
            {answered}
            (call $must (call $status (i32.load (i32.const 20)) (i32.add (i32.const 200) (local.get $sent))))
            (call $must (call $answer (i32.load (i32.const 20)) (i32.load (i32.const 24)) (i32.const 0)))))"#,
        answered = trailers(24),
    )
}

/// Whatever a program makes of a message, there is one reading of it: one host, one length, and nothing behind the body that frames or routes.
#[test]
fn there_is_one_reading_of_what_a_guest_sends() {
    let origin = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = origin.local_addr().expect("an address");
    let (seen, requests) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in origin.incoming() {
            let mut stream = stream.expect("a connection");
            let mut text = Vec::new();
            let mut piece = [0; 4096];
            // Of one that ends as it should.
            while !(text.ends_with(b"\r\n\r\n") && text.windows(6).any(|window| window == b"hihihi")) {
                match std::io::Read::read(&mut stream, &mut piece) {
                    Ok(read @ 1..) => text.extend(&piece[..read]),
                    _ => break,
                }
            }
            seen.send(String::from_utf8_lossy(&text).to_lowercase()).expect("a test");
            // Who is not there any more is not answered.
            let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        }
    });
    let ask = |prepare: &str| Setup::wat(&sending(prepare)).backend("origin", format_args!("http://{address}")).start().get("/");
    let answer = ask("host trailers");
    assert_eq!((answer.status, answer.text().as_str()), (200, "hihihi"));
    assert_eq!(answer.trailers, [("x-ok".to_owned(), "3".to_owned())]);
    let request = requests.recv().expect("a request");
    assert_eq!(request.matches("host:").count(), 1, "{request}");
    assert!(request.ends_with("6\r\nhihihi\r\n0\r\nx-ok: 3\r\n\r\n"), "{request}");
    // What the send says: `inval` (2) of a request that is none, `httpincomplete` (9) of one whose body is longer than it says.
    assert_eq!(ask("host host").status, 202);
    assert_eq!(ask("short").status, 209);
    let request = requests.recv().expect("a request");
    assert!(!request.contains("hihihi"), "{request}");
}
