//! Command lines of other hosts, as their users write them.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::harness::{PATIENCE, Setup, Sidelight, guest};
use crate::origin::Origin;

/// A line of fastlike's, with an address that is free and an operators' listener.
fn fastlike(line: &str, program: &str) -> Setup {
    Setup::command_line(&format!("-bind 127.0.0.1:0 -admin 127.0.0.1:0 -wasm $guest {line}"), &guest("rust", program))
}

fn json(setup: Setup) -> Setup {
    setup
        .file("dict.json", "{\"a\": \"b\"}")
        .file("kv.json", "{\"a\": {\"body\": \"b\", \"metadata\": \"m\"}}")
        .file("config.json", "{\"a\": \"b\"}")
        .file("secrets.json", "{\"a\": \"b\"}")
        .file("acl.json", "{\"entries\": [{\"prefix\": \"192.0.2.0/24\", \"action\": \"BLOCK\"}]}")
        .file("geo.json", "{\"192.0.2.0/24\": {\"city\": \"x\"}}")
}

#[test]
fn one_backend_for_every_name() {
    let origin = Origin::fixed("origin");
    let sidelight = fastlike(&format!("-backend {}", origin.addr), "passthrough").start();
    assert_eq!(sidelight.get("/").text(), "origin");
}

#[test]
fn named_backends_and_a_catch_all() {
    let (own, other) = (Origin::fixed("own"), Origin::fixed("other"));
    let both = |first: &str, second: &str| {
        let line = format!("-backend {first}{} -b api=127.0.0.1:9 --backend={second}{}", own.addr, other.addr);
        fastlike(&line, "passthrough").start()
    };
    assert_eq!(both("origin=", "").get("/").text(), "own");
    assert_eq!(both("elsewhere=", "").get("/").text(), "other");
}

#[test]
fn the_whole_line() {
    let origin = Origin::fixed("x");
    let line = format!(
        "-backend origin={} -reload -v 2 -dictionary d=dict.json -d e=dict.json -kv k=kv.json -kv empty -config-store c=config.json -secret-store \
         s=secrets.json -acl a=acl.json -logger events -logger more=log.txt -geo geo.json -compliance-region us-eu -fake-fastly-key test-key \
         -profile off",
        origin.addr
    );
    let sidelight = json(fastlike(&line, "passthrough")).start();
    assert_eq!(sidelight.get("/").text(), "x");
    sidelight.log.wait_for(&["guest finished"]);
}

#[test]
fn keys_and_regions() {
    let sidelight = fastlike("-backend origin=127.0.0.1:9 -fake-fastly-key test-key -compliance-region us-eu", "facts").start();
    let request = "GET / HTTP/1.1\r\nHost: a\r\nFastly-Key: test-key\r\nConnection: close\r\n\r\n";
    let text = crate::client::send(sidelight.addr, request).text();
    assert!(text.contains("us-eu"), "{text}");
    assert!(text.lines().any(|line| line.contains("key") && line.ends_with("true")), "{text}");
}

/// Of a hundred requests as many reach the backend as it says, evenly.
#[test]
fn a_share_of_the_requests() {
    let origin = Origin::fixed("x");
    let sidelight = fastlike(&format!("-backend origin={}@30", origin.addr), "passthrough").start();
    let well = (0..100).filter(|_| sidelight.get("/").status == 200).count();
    assert_eq!((well, origin.count()), (30, 30));
}

#[test]
fn a_host_to_send() {
    let origin = Origin::new(|seen| hyper::Response::new(crate::origin::text(seen.values("host").concat())));
    let sidelight = fastlike(&format!("-backend origin={} -override-host origin=www.example.com", origin.addr), "passthrough").start();
    assert_eq!(sidelight.get("/").text(), "www.example.com");
}

#[test]
fn what_is_wrong_with_one() {
    for (line, code, told) in [
        ("-backend x@200", 2, "`200` is no share"),
        ("-compliance-region mars", 3, "(command line)"),
        ("-bakend x", 2, "did you mean -backend?"),
        ("-backend ftp://x", 3, "cannot be reached by `ftp`"),
    ] {
        let (status, log) = fastlike(line, "hello").fails();
        assert_eq!(status.code(), Some(code), "{log}");
        assert!(log.contains(told), "{line}: {log}");
    }
}

/// Viceroy's, with every flag it has.
#[test]
fn viceroy() {
    let origin = Origin::fixed("x");
    let manifest = format!("[local_server.backends.origin]\nurl = \"{}\"\n", origin.url());
    for line in [
        "-v -C fastly.toml --addr 127.0.0.1:0 --admin 127.0.0.1:0 $guest",
        "serve -vv -C fastly.toml --addr 127.0.0.1:0 --admin 127.0.0.1:0 --log-stdout --log-stderr $guest",
        "-C fastly.toml --addr 127.0.0.1:0 --admin 127.0.0.1:0 $guest --profile=guest,guest-profiles --local-pushpin-proxy-port=7677 --debug",
        "$guest -C fastly.toml --addr 127.0.0.1:0 --admin 127.0.0.1:0 --unknown-import-behavior trap --experimental_modules wasi-nn --adapt \
         --wasm-exceptions --wasm-gc --wasm-cm-gc --profile perfmap",
    ] {
        let sidelight: Sidelight = Setup::command_line(line, &guest("rust", "passthrough")).manifest(&manifest).start();
        assert_eq!(sidelight.get("/").text(), "x", "{line}");
    }
}

#[test]
fn what_viceroy_does_and_we_do_not() {
    let (status, log) = Setup::command_line("adapt in.wasm -o out.wasm", Path::new("")).fails();
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.contains("components are not run yet"), "{log}");
}

/// The real Fastly CLI, which takes this host for Viceroy: it starts it, and starts it again when the program changes.
#[test]
fn the_fastly_cli() {
    let cli = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/out/cli/node_modules/.bin/fastly");
    assert!(cli.exists(), "{} is not there: run tests/guests/build.sh cli", cli.display());
    let origin = Origin::fixed("by the CLI");
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("bin")).expect("a folder");
    fs::copy(guest("rust", "passthrough"), path("bin/main.wasm")).expect("a guest");
    let manifest =
        format!("manifest_version = 3\nname = \"it\"\nlanguage = \"other\"\n[local_server.backends.origin]\nurl = \"{}\"\n", origin.url());
    fs::write(path("fastly.toml"), manifest).expect("a manifest");
    let address = crate::origin::refused();
    let log = fs::File::create(path("log")).expect("a file");
    let mut child = Command::new(cli)
        .args(["compute", "serve", "--file=bin/main.wasm", "-i", "--accept-defaults"])
        .arg(format!("--viceroy-path={}", crate::harness::binary().display()))
        .arg(format!("--addr={address}"))
        .current_dir(folder.path())
        .env("HOME", folder.path())
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file"))
        .stderr(log)
        // Its child is to end with it.
        .process_group(0)
        .spawn()
        .expect("starts");
    let deadline = Instant::now() + PATIENCE;
    let told = || fs::read_to_string(path("log")).unwrap_or_default();
    let answer = loop {
        if std::net::TcpStream::connect(address).is_ok() {
            break crate::client::send(address, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        }
        if Instant::now() > deadline || child.try_wait().expect("a status").is_some() {
            panic!("it does not serve:\n{}", told());
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL).expect("signals");
    drop(child.wait());
    assert_eq!(answer.text(), "by the CLI", "{}", told());
}
