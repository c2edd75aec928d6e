//! Programs that do not lie about as files: packages, URLs, OCI registries.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Response;
use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::manifest::OciImageManifest;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use sha2::{Digest, Sha256};

use crate::harness::{PATIENCE, Setup};
use crate::origin::{Origin, RUNTIME, text};
use crate::reload::saying;
use crate::tls;

fn wasm(says: &str) -> Vec<u8> {
    wat(&saying(says))
}

/// Text that the host takes for a module as well: nothing here needs more.
fn wat(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A tar archive, compressed, made by tar itself.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, content).expect("a file");
    }
    let output = Command::new("tar").args(["czf", "-", "-C"]).arg(folder.path()).arg(".").output().expect("tar is needed");
    assert!(output.status.success());
    output.stdout
}

/// With a folder of fetched modules of its own.
fn setup(program: &str, cache: &Path) -> Setup {
    let line = format!("serve --addr 127.0.0.1:0 --admin 127.0.0.1:0 --no-watch --cache-dir {} {program}", cache.display());
    Setup::command_line(&line, Path::new(""))
}

#[test]
fn a_package() {
    let origin = Origin::fixed("x");
    let manifest = format!("name = \"shop\"\n[local_server.backends.origin]\nurl = \"{}\"\n", origin.url());
    let module = fs::read(crate::harness::guest("rust", "passthrough")).expect("a guest");
    let package = archive(&[("shop/fastly.toml", manifest.as_bytes()), ("shop/bin/main.wasm", &module)]);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("package.tar.gz");
    fs::write(&path, &package).expect("a file");
    let sidelight = setup(&path.display().to_string(), folder.path()).start();
    assert_eq!(sidelight.get("/").text(), "x");
    fs::write(&path, &package[..package.len() / 2]).expect("a file");
    let (status, log) = setup(&path.display().to_string(), folder.path()).fails();
    assert_eq!(status.code(), Some(4), "{log}");
    assert!(log.contains("damaged"), "{log}");
    fs::write(&path, archive(&[("shop/readme", b"x")])).expect("a file");
    let (_, log) = setup(&path.display().to_string(), folder.path()).fails();
    assert!(log.contains("without a program") && log.contains("bin/main.wasm"), "{log}");
}

#[test]
fn a_url_with_its_digest() {
    let module = wasm("fetched");
    let (body, cache) = (module.clone(), tempfile::tempdir().expect("a folder"));
    let origin = Origin::new(move |_| Response::new(text(Bytes::from(body.clone()))));
    let program = format!("{}/app.wasm#sha256={}", origin.url(), sha256(&module));
    let sidelight = setup(&program, cache.path()).start();
    assert_eq!(sidelight.get("/").text(), "fetched");
    // It is fetched once.
    let sidelight = setup(&program, cache.path()).start();
    assert_eq!((sidelight.get("/").text().as_str(), origin.count()), ("fetched", 1));
    let (status, log) = setup(&format!("{}/app.wasm#sha256={}", origin.url(), "0".repeat(64)), cache.path()).fails();
    assert_eq!(status.code(), Some(4), "{log}");
    assert!(log.contains("has the SHA-256") && log.contains(&sha256(&module)), "{log}");
    let (status, log) = setup(&format!("{}/app.wasm", origin.url()), cache.path()).fails();
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.contains("add #sha256="), "{log}");
    let (status, log) = setup(&format!("http://{}/x#sha256={}", crate::origin::refused(), "0".repeat(64)), cache.path()).fails();
    assert_eq!(status.code(), Some(4), "{log}");
    assert!(log.contains("cannot be fetched") && log.contains("refused"), "{log}");
}

/// Over TLS, with the roots that `SSL_CERT_FILE` names.
#[test]
fn https() {
    let authority = tls::Authority::new();
    let (addr, _) = tls::origin(&authority.leaf(&["localhost"]), None);
    let cache = tempfile::tempdir().expect("a folder");
    let roots = cache.path().join("roots.pem");
    fs::write(&roots, &authority.pem).expect("a file");
    let program = format!("https://localhost:{}/x#sha256={}", addr.port(), "0".repeat(64));
    // What is there is no program of ours; that it was read shows in its digest.
    let (_, log) = setup(&program, cache.path()).env("SSL_CERT_FILE", roots.display().to_string()).fails();
    assert!(log.contains("has the SHA-256"), "{log}");
    let (_, log) = setup(&program, cache.path()).fails();
    assert!(log.contains("cannot be fetched"), "{log}");
}

/// Debian's docker-registry.
struct Registry {
    child: Child,
    host: String,
    _folder: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Registry {
    /// On a free port; with `auth`, only for the user `user` with the password `secret`.
    fn start(auth: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let address = crate::origin::refused();
        let root = folder.path().display();
        let users = folder.path().join("users");
        fs::write(&users, "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n").expect("a file");
        let auth = if auth { format!("auth:\n  htpasswd:\n    realm: it\n    path: {}\n", users.display()) } else { String::new() };
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {root}/data\nhttp:\n  addr: {address}\n{auth}"
        );
        let file = folder.path().join("config.yml");
        fs::write(&file, config).expect("a file");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("docker-registry is needed (Debian: apt-get install docker-registry)");
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "the registry does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, host: address.to_string(), _folder: folder }
    }

    /// Pushes one layer; gives the manifest's digest.
    fn push(&self, name: &str, layer: Vec<u8>, kind: &str, config: &str, auth: &RegistryAuth) -> String {
        let reference: Reference = format!("{}/{name}", self.host).parse().expect("a reference");
        let layers = vec![ImageLayer::new(layer, kind.to_owned(), None)];
        let config = Config::new(b"{}".to_vec(), config.to_owned(), None);
        let manifest = OciImageManifest::build(&layers, &config, None);
        RUNTIME.block_on(async {
            let client = Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
            client.push(&reference, &layers, config, auth, Some(manifest)).await.expect("pushes");
            client.fetch_manifest_digest(&reference, auth).await.expect("a digest")
        })
    }
}

const CONFIG: &str = "application/vnd.wasm.config.v0+json";
const IMAGE: &str = "application/vnd.oci.image.config.v1+json";

fn provider() {
    drop(rustls::crypto::ring::default_provider().install_default());
}

#[test]
fn an_artifact_a_package_and_an_image() {
    provider();
    let registry = Registry::start(false);
    let cache = tempfile::tempdir().expect("a folder");
    let none = &RegistryAuth::Anonymous;
    registry.push("team/artifact:v1", wasm("artifact"), "application/wasm", CONFIG, none);
    registry.push("team/package:v1", archive(&[("shop/bin/main.wasm", &wasm("package"))]), "application/gzip", CONFIG, none);
    let image = archive(&[("app.wasm", &wasm("image"))]);
    registry.push("team/image:v1", image, "application/vnd.oci.image.layer.v1.tar+gzip", IMAGE, none);
    for name in ["artifact", "package", "image"] {
        let sidelight = setup(&format!("oci://{}/team/{name}:v1", registry.host), cache.path()).start();
        assert_eq!(sidelight.get("/").text(), name);
    }
    for (name, told) in [("team/none:v1", "is the name right"), ("team/artifact:v2", "is the name right")] {
        let (status, log) = setup(&format!("oci://{}/{name}", registry.host), cache.path()).fails();
        assert_eq!(status.code(), Some(4), "{log}");
        assert!(log.contains("cannot be fetched") && log.contains(told), "{log}");
    }
}

/// A digest does not move with the tag, and what was pulled once needs no registry.
#[test]
fn digests_and_starts_without_a_registry() {
    provider();
    let registry = Registry::start(false);
    let cache = tempfile::tempdir().expect("a folder");
    let none = &RegistryAuth::Anonymous;
    let digest = registry.push("app:v1", wasm("one"), "application/wasm", CONFIG, none);
    let (tag, pinned) = (format!("oci://{}/app:v1", registry.host), format!("oci://{}/app@{digest}", registry.host));
    let says = |program: &str, cache: &Path| setup(program, cache).start().get("/").text();
    assert_eq!(says(&tag, cache.path()), "one");
    registry.push("app:v1", wasm("two"), "application/wasm", CONFIG, none);
    assert_eq!((says(&tag, cache.path()).as_str(), says(&pinned, cache.path()).as_str()), ("two", "one"));
    drop(registry);
    assert_eq!((says(&tag, cache.path()).as_str(), says(&pinned, cache.path()).as_str()), ("two", "one"));
    let (status, log) = setup(&tag, tempfile::tempdir().expect("a folder").path()).fails();
    assert_eq!(status.code(), Some(4), "{log}");
    assert!(log.contains("cannot be fetched"), "{log}");
}

#[test]
fn a_tag_that_moves() {
    provider();
    let registry = Registry::start(false);
    let none = &RegistryAuth::Anonymous;
    registry.push("app:latest", wasm("one"), "application/wasm", CONFIG, none);
    let host = format!("[services.it]\nmodule = \"oci://{}/app:latest\"\npoll = \"200ms\"\n", registry.host);
    let sidelight = Setup::host(&host).start();
    assert_eq!(sidelight.get("/").text(), "one");
    registry.push("app:latest", wasm("two"), "application/wasm", CONFIG, none);
    let deadline = Instant::now() + PATIENCE;
    while sidelight.get("/").text() != "two" {
        assert!(Instant::now() < deadline, "{}", sidelight.log.text());
        std::thread::sleep(Duration::from_millis(20));
    }
    // Without the registry, what was there stays.
    drop(registry);
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(sidelight.get("/").text(), "two");
}

/// Credentials as docker and Kubernetes keep them.
#[test]
fn registries_that_want_credentials() {
    provider();
    let registry = Registry::start(true);
    let cache = tempfile::tempdir().expect("a folder");
    let auth = RegistryAuth::Basic("user".to_owned(), "secret".to_owned());
    registry.push("app:v1", wasm("private"), "application/wasm", CONFIG, &auth);
    let program = format!("oci://{}/app:v1", registry.host);
    let (status, log) = setup(&program, cache.path()).env("HOME", cache.path().display().to_string()).fails();
    assert_eq!(status.code(), Some(4), "{log}");
    assert!(log.contains("registry_auth"), "{log}");
    let file = |name: &str, text: String| -> PathBuf {
        let path = cache.path().join(name);
        fs::write(&path, text).expect("a file");
        path
    };
    // user:secret
    let docker = file("config.json", format!("{{\"auths\": {{\"{}\": {{\"auth\": \"dXNlcjpzZWNyZXQ=\"}}}}}}", registry.host));
    let setup = setup(&program, cache.path());
    let sidelight = setup.env("DOCKER_CONFIG", docker.parent().expect("a folder").display().to_string()).start();
    assert_eq!(sidelight.get("/").text(), "private");
    let secret = file(
        ".dockerconfigjson",
        format!("{{\"auths\": {{\"{}\": {{\"username\": \"user\", \"password\": \"secret\"}}}}}}", registry.host),
    );
    let host = format!("registry_auth = \"{}\"\n[services.it]\nmodule = \"{program}\"\n", secret.display());
    let sidelight = Setup::host(&host).env("HOME", "/nowhere").start();
    assert_eq!(sidelight.get("/").text(), "private");
}

/// What `sidelight push` publishes is served from there, and the same program has the same digest.
#[test]
fn programs_that_we_push() {
    let registry = Registry::start(false);
    let cache = tempfile::tempdir().expect("a folder");
    let program = crate::harness::guest("rust", "hello");
    let run = |line: &str| {
        let output = Command::new(crate::harness::binary()).args(line.split_whitespace()).output().expect("the binary starts");
        let (said, log) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned());
        (output.status.code(), said.trim().to_owned(), log)
    };
    let file = program.display();
    let package = cache.path().join("package.tar.gz");
    fs::write(&package, archive(&[("shop/bin/main.wasm", &fs::read(&program).expect("a guest"))])).expect("a file");
    for (name, flag) in [("artifact", ""), ("image", "--image")] {
        let push = |file: &str, tag: &str| run(&format!("push {flag} {file} oci://{}/team/{name}:{tag}", registry.host));
        let (code, pushed, log) = push(&file.to_string(), "v1");
        assert_eq!(code, Some(0), "{log}");
        let (before, digest) = pushed.split_once('@').expect("a reference by digest");
        assert_eq!(before, format!("oci://{}/team/{name}", registry.host));
        assert!(digest.starts_with("sha256:") && digest.len() == 71, "{pushed}");
        assert_eq!(push(&file.to_string(), "v2").1, pushed, "the same program, later");
        assert_eq!(push(&package.display().to_string(), "v3").1, pushed, "the same program, packed");
        for program in [pushed.clone(), format!("oci://{}/team/{name}:v1", registry.host)] {
            let sidelight = setup(&program, tempfile::tempdir().expect("a folder").path()).start();
            assert_eq!(sidelight.get("/").status, 200);
        }
    }
    for (line, code, told) in [
        (format!("push Cargo.toml oci://{}/a:1", registry.host), 4, "is no WebAssembly module"),
        (format!("push nowhere.wasm oci://{}/a:1", registry.host), 4, "nowhere.wasm: No such file"),
        (format!("push {file} oci://{}/a@sha256:{}", registry.host, "0".repeat(64)), 4, "names a digest"),
        (format!("push {file} oci://{}/a:1", crate::origin::refused()), 4, "it cannot be pushed"),
        (format!("push {file} {}/a:1", registry.host), 2, "expected oci://REGISTRY/REPOSITORY:TAG"),
        (format!("push {file} oci://shop/a:1"), 2, "this is no registry's name"),
        (format!("push {file} oci://{}/a", registry.host), 2, "there is no tag in it"),
        (format!("push {file} oci://{}/a:1 --registry-auth nowhere.json", registry.host), 2, "--registry-auth nowhere.json"),
    ] {
        let (found, _, log) = run(&line);
        assert!(found == Some(code) && log.contains(told), "{line}: {found:?} {log}");
    }
}
