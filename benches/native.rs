//! A native pingora handler that answers as the hello guest does: the ceiling in `make bench-http`.
//!
//! `cargo run --release --features tools --bin bench-native -- ADDRESS`

#![allow(clippy::expect_used, clippy::panic, clippy::disallowed_methods, missing_docs, reason = "not part of the product")]

use async_trait::async_trait;
use http::Response;
use pingora::apps::http_app::{HttpServer, ServeHttp};
use pingora::protocols::http::ServerSession;
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::services::listening::Service;

struct Hello;

#[async_trait]
impl ServeHttp for Hello {
    async fn response(&self, _: &mut ServerSession) -> Response<Vec<u8>> {
        let body = b"Hello, world!\n".to_vec();
        Response::builder().header("content-type", "text/plain").header("content-length", body.len()).body(body).expect("a response")
    }
}

fn main() {
    let address = std::env::args().nth(1).expect("an address");
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut server = Server::new_with_opt_and_conf(None, ServerConf { threads, grace_period_seconds: Some(0), ..ServerConf::default() });
    server.bootstrap();
    let mut service = Service::new("native".to_owned(), HttpServer::new_app(Hello));
    service.add_tcp(&address);
    service.threads = Some(threads);
    server.add_service(service);
    server.run_forever();
}
