//! A native pingora handler that answers as the hello guest does: the ceiling of what a program can reach. It reads the body of a request
//! that has one before it answers, and speaks HTTP/2 to those that begin with it: an origin for uploads and gRPC (whose status it gives in
//! the head). `/sleep/MS` is answered that much later.
//!
//! `cargo run --release --features tools --bin bench-native -- ADDRESS [TLS-ADDRESS CERTIFICATE KEY]`

#![allow(clippy::expect_used, clippy::panic, clippy::disallowed_methods, missing_docs, reason = "not part of the product")]

use std::time::Duration;

use async_trait::async_trait;
use http::Response;
use pingora::apps::http_app::{HttpServer, ServeHttp};
use pingora::listeners::tls::TlsSettings;
use pingora::protocols::http::ServerSession;
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::services::listening::Service;

struct Hello;

#[async_trait]
impl ServeHttp for Hello {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        while let Ok(Some(_)) = session.read_request_body().await {}
        if let Some(Ok(pause)) = session.req_header().uri.path().strip_prefix("/sleep/").map(str::parse) {
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        let grpc = session.req_header().headers.get("content-type").is_some_and(|kind| kind == "application/grpc");
        let (kind, body): (_, &[u8]) =
            if grpc { ("application/grpc", b"\0\0\0\0\x0eHello, world!\n") } else { ("text/plain", b"Hello, world!\n") };
        let mut response = Response::builder().header("content-type", kind).header("content-length", body.len());
        if grpc {
            response = response.header("grpc-status", "0");
        }
        response.body(body.to_vec()).expect("a response")
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut server = Server::new_with_opt_and_conf(None, ServerConf { threads, grace_period_seconds: Some(0), ..ServerConf::default() });
    server.bootstrap();
    let mut app = HttpServer::new_app(Hello);
    app.server_options.get_or_insert_default().h2c = true;
    let mut service = Service::new("native".to_owned(), app);
    match &arguments[..] {
        [address] => service.add_tcp(address),
        [address, tls, certificate, key] => {
            service.add_tcp(address);
            let mut settings = TlsSettings::intermediate(certificate, key).expect("a certificate and its key");
            settings.enable_h2();
            service.add_tls_with_settings(tls, None, settings);
        }
        _ => panic!("usage: bench-native ADDRESS [TLS-ADDRESS CERTIFICATE KEY]"),
    }
    service.threads = Some(threads);
    server.add_service(service);
    server.run_forever();
}
