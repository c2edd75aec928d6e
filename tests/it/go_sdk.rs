//! The Go SDK's own integration tests under `sidelight run`. The hosts they call are an origin here: its name in
//! a hosts file that only they see, its certificate's issuer in SSL_CERT_FILE.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::harness::{Setup, binary, guest};
use crate::origin::{Origin, RUNTIME, text};
use crate::tls::Authority;

const HOSTS: [&str; 2] = ["compute-sdk-test-backend.edgecompute.app", "http.edgecompute.app"];

/// Port 443 of an address of this machine that nothing else uses.
const ADDRESS: [u8; 4] = [127, 77, 0, 1];

/// The folder with the hosts file and the issuer's certificate.
static WORLD: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let authority = Authority::new();
    let leaf = authority.leaf(&HOSTS);
    let builder = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf.key_der.clone()));
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(builder.with_single_cert(vec![leaf.der.clone()], key).expect("a certificate")));
    let address = SocketAddr::from((ADDRESS, 443));
    let listener = RUNTIME.block_on(tokio::net::TcpListener::bind(address)).expect("port 443 of 127.77.0.1, which takes root");
    RUNTIME.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(stream).await else { return };
                let service = service_fn(|request| async { Ok::<_, std::convert::Infallible>(answer(request).await) });
                drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service).await);
            });
        }
    });
    let folder = tempfile::tempdir().expect("a folder");
    let [a, b, c, d] = ADDRESS;
    let hosts = format!("127.0.0.1 localhost\n{a}.{b}.{c}.{d} {}\n", HOSTS.join(" "));
    std::fs::write(folder.path().join("hosts"), hosts).expect("a file");
    std::fs::write(folder.path().join("roots.pem"), &authority.pem).expect("a file");
    folder
});

/// What the SDK's authors have their hosts answer, as far as the tests look at it.
async fn answer(request: Request<Incoming>) -> Response<Full<bytes::Bytes>> {
    let response = Response::builder();
    let (head, body) = request.into_parts();
    drop(body.collect().await);
    let (response, body) = match head.uri.path() {
        "/async_select_1" => (response.header("fooname", "FooValue"), String::new()),
        "/async_select_2" => (response.header("barname", "BarValue"), String::new()),
        "/byte_repeater" => (response, "123456789012\n".to_owned()),
        "/request_upstream" => {
            (response.header("OriginHeader", "OriginValue").header("x-cat", "meow, nyan, mrrow, miau"), "Hello from Origin".to_owned())
        }
        "/streaming_close" => (response, "well smooth\n".to_owned()),
        // The backend's prefix, and the request's own path behind it.
        "/anything/anything/" => {
            (response.header("content-type", "application/json"), serde_json::json!({ "headers": fields(&head.headers) }).to_string())
        }
        _ => (response, "Compute SDK Test Backend".to_owned()),
    };
    response.body(Full::new(body.into())).expect("a response")
}

fn fields(headers: &HeaderMap) -> serde_json::Map<String, serde_json::Value> {
    headers.iter().map(|(name, value)| (name.to_string(), value.to_str().expect("text").into())).collect()
}

fn run(name: &str) -> Output {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/out/go-sdk");
    let world = WORLD.path().display();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &format!("mount --bind {world}/hosts /etc/hosts && exec \"$@\""), "sh"]);
    command
        .arg(binary())
        .arg("run")
        .arg("--cache-dir")
        .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("modules"))
        .arg("-C")
        .arg(folder.join(format!("{name}.toml")))
        .arg(folder.join(format!("{name}.wasm")));
    command.arg("-test.v").env("SSL_CERT_FILE", WORLD.path().join("roots.pem")).env_remove("RUST_LOG");
    command.output().expect("unshare (Debian: util-linux)")
}

macro_rules! suite {
    ($($name:ident = $file:literal),* $(,)?) => {
        $(#[test]
        fn $name() {
            let output = run($file);
            let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
            assert!(output.status.success() && text.contains("--- PASS") && text.trim_end().ends_with("PASS"), "{}\n{text}", output.status);
        })*
    };
}

suite! {
    version = "_version",
    acl = "acl",
    async_select = "async_select",
    byte_repeater = "byte_repeater",
    compute_runtime = "compute_runtime",
    config_store = "config_store",
    core_cache = "core_cache",
    device_detection = "device_detection",
    dynamic_backend = "dynamic_backend",
    geolocation = "geolocation",
    hello_world = "hello_world",
    kvstore = "kvstore",
    request_downstream = "request_downstream",
    request_upstream = "request_upstream",
    secret_store = "secret_store",
    shielding = "shielding",
    status = "status",
    streaming_close = "streaming_close",
}

/// What the authors' own backend of the cache's tests answers: the request, with the status and after the milliseconds
/// that its query asks for.
async fn http_me(request: Request<Incoming>) -> Response<crate::origin::Body> {
    let (head, body) = request.into_parts();
    drop(body.collect().await);
    let query = head.uri.query().unwrap_or_default();
    let asked = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.parse::<u16>().ok());
    tokio::time::sleep(Duration::from_millis(asked("wait=").unwrap_or(0).into())).await;
    let told = serde_json::json!({ "headers": fields(&head.headers), "method": head.method.as_str(), "url": head.uri.to_string() });
    // A test looks for a part of it that has the space of the long form.
    let body = serde_json::to_string_pretty(&told).expect("JSON");
    let response = Response::builder().status(asked("status=").unwrap_or(200)).header("access-control-allow-origin", "*");
    response.header("cache-control", "max-age=3600").body(text(body)).expect("a response")
}

/// The tests of the HTTP cache are one program, which runs them in any order when `/all` is asked for.
#[test]
fn httpcache() {
    let origin = Origin::raw(http_me);
    let sidelight = Setup::new(guest("go-sdk", "httpcache")).backend("httpme", origin.url()).start();
    let answer = sidelight.get("/all").text();
    let verdicts: Vec<_> = answer.lines().filter_map(|line| line.strip_prefix("=== ")?.split_once(": ")).collect();
    // One expects that what has just been marked as uncacheable is not yet known to be when it is asked for again.
    let failed = verdicts.iter().filter(|(name, verdict)| *verdict != "PASS" && *name != "testRequestCollapseUncacheable").count();
    assert!(verdicts.len() == 20 && failed == 0, "{answer}");
}
