//! Makes a backend from its query and asks it; tests/guests/README.md says what it understands.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use fastly::backend::BackendBuilder;
use fastly::experimental::dynamic_backend_healthchecks::HealthcheckBuilder;
use fastly::experimental::{BackendExt, GrpcBackend};
use fastly::http::request::SendErrorCause;
use fastly::secret_store::Secret;
use fastly::{Backend, Error, Request, Response};
use fastly_shared::SslVersion;

fn main() -> Result<(), Error> {
    let mut req = Request::from_client();
    // Roots; behind a line of dashes the client's certificate, and behind another its key.
    let body = req.take_body_str();
    let mut pems = body.split("\n---\n");
    let ca = pems.next().unwrap_or_default().to_owned();
    let client = pems.next().zip(pems.next());
    let query: HashMap<String, String> = req.get_query()?;
    if let Some(count) = query.get("count").and_then(|count| count.parse::<usize>().ok()) {
        let made: Vec<_> = (0..count).map(|i| Backend::builder(format!("made-{i}"), &query["target"]).finish()).collect();
        let well = made.iter().filter(|made| made.is_ok()).count();
        let other = made.iter().find_map(|made| made.as_ref().err());
        return Ok(answer(200, &format!("{well} {other:?}\n")));
    }
    let name = query.get("name").map_or("made", String::as_str);
    let backend = match describe(Backend::builder(name, &query["target"]), &query, &ca, client).finish() {
        Ok(backend) => backend,
        Err(error) => return Ok(answer(502, &format!("not made: {error:?}\n"))),
    };
    if query.contains_key("twice") {
        let again = Backend::builder(name, &query["target"]).finish();
        return Ok(answer(200, &format!("{:?}\n", again.map(|_| ()).map_err(|error| error.to_string()))));
    }
    if query.contains_key("show") {
        return Ok(answer(200, &show(&backend)));
    }
    if query.contains_key("health") {
        return Ok(answer(200, &format!("{:?}\n", backend.is_healthy())));
    }
    let sent = Request::get("http://asked.test/path").with_pass(true).send(&backend);
    match sent {
        Ok(response) => response.send_to_client(),
        Err(error) => answer(502, &format!("not sent: {}\n", cause(error.root_cause()))),
    }
    Ok(())
}

fn answer(status: u16, text: &str) {
    Response::from_status(status).with_body_text_plain(text).send_to_client();
}

fn cause(cause: &SendErrorCause) -> String {
    format!("{cause:?}")
}

fn describe(mut builder: BackendBuilder, query: &HashMap<String, String>, ca: &str, client: Option<(&str, &str)>) -> BackendBuilder {
    let millis = |key: &str| query.get(key).map(|n| Duration::from_millis(n.parse().unwrap_or_default()));
    let number = |key: &str| query.get(key).and_then(|n| n.parse::<u32>().ok());
    if query.contains_key("ssl") {
        builder = builder.enable_ssl();
    }
    if let Some(host) = query.get("host") {
        builder = builder.override_host(host);
    }
    if let Some(time) = millis("connect") {
        builder = builder.connect_timeout(time);
    }
    if let Some(time) = millis("first") {
        builder = builder.first_byte_timeout(time);
    }
    if let Some(time) = millis("between") {
        builder = builder.between_bytes_timeout(time);
    }
    if let Some(name) = query.get("cert") {
        builder = builder.check_certificate(name);
    }
    if let Some(name) = query.get("sni") {
        builder = builder.sni_hostname(name);
    }
    if !ca.is_empty() {
        builder = builder.ca_certificate(ca);
    }
    if let Some((certificate, key)) = client {
        let secret = Secret::from_bytes(key.as_bytes().to_vec()).expect("a secret");
        assert_eq!(secret.plaintext(), key.as_bytes());
        builder = builder.provide_client_certificate(certificate, secret);
    }
    if let Some(list) = query.get("ciphers") {
        builder = builder.tls_ciphers(list);
    }
    if let Some(version) = number("min").and_then(version) {
        builder = builder.set_min_tls_version(version);
    }
    if let Some(version) = number("max").and_then(version) {
        builder = builder.set_max_tls_version(version);
    }
    if let Some(uses) = number("uses") {
        builder = builder.max_use(uses);
    }
    if let Some(time) = millis("lifetime") {
        builder = builder.max_lifetime(time);
    }
    if let Some(time) = millis("keepalive") {
        builder = builder.http_keepalive_time(time);
    }
    if let Some(seconds) = number("tcp").and_then(NonZeroU32::new) {
        builder = builder
            .tcp_keepalive_enable(true)
            .tcp_keepalive_time_secs(seconds)
            .tcp_keepalive_interval_secs(seconds.saturating_add(1))
            .tcp_keepalive_probes(seconds.saturating_add(2));
    }
    if let Some(most) = number("most") {
        builder = builder.max_connections(most);
    }
    if query.contains_key("grpc") {
        builder = builder.for_grpc(true);
    }
    if let Some(path) = query.get("check") {
        let check = HealthcheckBuilder::new("checked.test").path(path).interval_ms(Duration::from_secs(1)).window(2).threshold(2).initial(0);
        builder = builder.healthcheck(check);
    }
    if query.contains_key("alone") {
        builder = builder.enable_pooling(false);
    }
    builder
}

fn version(number: u32) -> Option<SslVersion> {
    SslVersion::try_from(number).ok()
}

fn show(backend: &Backend) -> String {
    format!(
        "exists={} dynamic={} host={} port={} override={:?} ssl={} min={:?} max={:?} connect={:?} first={:?} between={:?} keepalive={:?} tcp={:?} {:?} {:?} {:?}\n",
        backend.exists(),
        backend.is_dynamic(),
        backend.get_host(),
        backend.get_port(),
        backend.get_host_override(),
        backend.is_ssl(),
        backend.get_ssl_min_version(),
        backend.get_ssl_max_version(),
        backend.get_connect_timeout(),
        backend.get_first_byte_timeout(),
        backend.get_between_bytes_timeout(),
        backend.get_http_keepalive_time(),
        backend.get_tcp_keepalive_enable(),
        backend.get_tcp_keepalive_time(),
        backend.get_tcp_keepalive_interval(),
        backend.get_tcp_keepalive_probes(),
    )
}
