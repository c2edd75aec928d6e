//! `sidelight check` and `sidelight schema`.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::{binary, guest};
use crate::reload::saying;

fn run(folder: &Path, args: &[&str]) -> Output {
    let cache = folder.join("modules");
    let mut command = Command::new(binary());
    command.args(args).current_dir(folder).env("SIDELIGHT_CACHE_DIR", cache).env_remove("RUST_LOG");
    command.output().expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn what_serving_would_find_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    let host = "[services.a]\nhosts = [\"a.test\"]\npaths = [\"/x\"]\nmodule = \"a.wat\"\n[services.b]\nmanifest = \"fastly.toml\"\nmodule = \"a.wat\"\n";
    std::fs::write(path.join("sidelight.toml"), host).expect("a file");
    std::fs::write(path.join("a.wat"), saying("a")).expect("a file");
    std::fs::write(path.join("fastly.toml"), "name = \"b\"\n").expect("a file");
    let output = run(path, &["check"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).starts_with("ok: a serves a.test /x with a.wat ("), "{}", text(&output.stdout));
    let report: Value = serde_json::from_slice(&run(path, &["check", "--json"]).stdout).expect("JSON");
    assert_eq!((&report["ok"], report["services"].as_array().map(Vec::len)), (&true.into(), Some(2)));

    std::fs::write(path.join("fastly.toml"), "[local_server]\nbakends = 1\n[local_server.backends.a]\nurl = 1\n").expect("a file");
    let output = run(path, &["check"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("fastly.toml:2:1: unknown field `bakends`"), "{}", text(&output.stderr));
    let output = run(path, &["check", "--json"]);
    assert_eq!(output.status.code(), Some(3));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let problems = report["problems"].as_array().expect("a list");
    assert_eq!((problems.len(), &problems[0]["line"], &problems[1]["column"]), (2, &2.into(), &7.into()));

    // A program that cannot be used, and files that are not there.
    std::fs::write(path.join("fastly.toml"), "[local_server.backends.a]\nurl = \"https://a\"\nca_certificate = { file = \"no.pem\" }\n")
        .expect("a file");
    let output = run(path, &["check"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("service `b`: ") && text(&output.stderr).contains("no.pem"), "{}", text(&output.stderr));
    let output = run(path, &["check", "fastly.toml", "nowhere.wasm"]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
}

#[test]
fn without_documents() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(folder.path(), &["check"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("nothing to serve"), "{}", text(&output.stderr));
    let program = guest("rust", "hello");
    let output = run(folder.path(), &["check", &program.display().to_string()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let output = run(folder.path(), &["check", "-C", "nowhere.toml"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("nowhere.toml: No such file"), "{}", text(&output.stderr));
}

/// The schemas are ones, and say of the host file what we say.
#[test]
fn schemas() {
    let folder = tempfile::tempdir().expect("a folder");
    let schema = |of: &str| -> Value { serde_json::from_slice(&run(folder.path(), &["schema", of]).stdout).expect("JSON") };
    let (manifest, host) = (schema("manifest"), schema("host"));
    let (manifest, host) = (jsonschema::validator_for(&manifest).expect("a schema"), jsonschema::validator_for(&host).expect("a schema"));
    let json = |text: &str| -> Value { toml::from_str(text).expect("TOML") };
    assert!(manifest.is_valid(&json("[local_server.backends.a]\nurl = \"http://a\"\n")));
    assert!(!manifest.is_valid(&json("[local_server.backends.a]\nuse_sni = true\n")));
    for good in [
        "listen = [\"a:1\"]\n[limits]\nwall = \"1s\"\n",
        "[services.a]\nmodule = \"a\"\nbackends.x.override_host = \"y\"\nsidelight.compliance_region = \"eu\"\nlimits = { sandboxes = 1 }\n",
    ] {
        assert!(host.is_valid(&json(good)), "{good}");
    }
    for bad in ["listn = 1\n", "[limits]\nwall = 1\n", "[services.a]\nmodul = \"a\"\n", "[services.a]\nbackends.x.urll = \"y\"\n"] {
        assert!(!host.is_valid(&json(bad)), "{bad}");
    }
}
