//! The inspector in a browser: `tests/inspector/inspect.mjs` opens it, sends requests and looks at what it shows.

use std::path::Path;
use std::process::Command;

use crate::harness::{Setup, Sidelight};
use crate::origin::Origin;

/// Screenshots are left in `target/inspector/NAME`.
fn look(sidelight: &Sidelight, name: &str, token: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shots = root.join("target/inspector").join(name);
    let output = Command::new("node")
        .arg(root.join("tests/inspector/inspect.mjs"))
        .env("INSPECTOR_URL", format!("http://{}/inspector/", sidelight.admin))
        .env("TARGET_URL", format!("http://{}", sidelight.addr))
        .env("PATHS", "/pass/x,/synthetic,/echo?a=b,/stream?n=3&ms=10")
        .env("SHOTS", &shots)
        .env("TOKEN", token)
        .output()
        .unwrap_or_else(|error| panic!("node: {error}"));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n(needs node, tests/guests/build.sh inspector, and Debian's chromium; {})", shots.display());
    assert!(said.contains(" passed, 0 failed"), "{said}");
}

#[test]
fn in_a_browser() {
    let origin = Origin::fixed("it");
    let sidelight = Setup::behaviours("rust").backend("origin", origin.url()).start();
    look(&sidelight, "open", "");
}

#[test]
fn in_a_browser_with_a_token() {
    let folder = tempfile::tempdir().expect("a folder");
    let token = folder.path().join("token");
    std::fs::write(&token, "open sesame\n").expect("writes");
    let origin = Origin::fixed("it");
    let setup = Setup::behaviours("rust").backend("origin", origin.url());
    let sidelight = setup.arg(&format!("--admin-token-file {}", token.display())).start();
    look(&sidelight, "token", "open sesame");
}
