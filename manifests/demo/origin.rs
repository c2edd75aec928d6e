//! The demo's origin: answers every request with what it got.
//!
//! `cargo run --release --features tools --bin demo-origin -- ADDRESS`

use async_trait::async_trait;
use http::Response;
use pingora::apps::http_app::{HttpServer, ServeHttp};
use pingora::protocols::http::ServerSession;
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::services::listening::Service;

struct Origin;

#[async_trait]
impl ServeHttp for Origin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let head = session.req_header();
        let mut text = format!("This is the origin. I was asked: {} {}\n", head.method, head.uri);
        for (name, value) in &head.headers {
            text.push_str(&format!("  {name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
        }
        let mut length = 0;
        while let Ok(Some(piece)) = session.read_request_body().await {
            length += piece.len();
        }
        if length > 0 {
            text.push_str(&format!("and sent {length} bytes of body.\n"));
        }
        let response = Response::builder().header("content-type", "text/plain; charset=utf-8").header("content-length", text.len());
        response.header("x-origin", "demo").body(text.into_bytes()).unwrap_or_default()
    }
}

fn main() {
    if std::env::args().nth(1).is_none_or(|address| address.parse::<std::net::SocketAddr>().is_err()) {
        eprintln!("usage: demo-origin HOST:PORT");
        std::process::exit(2);
    }
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7677".to_owned());
    let mut server = Server::new_with_opt_and_conf(None, ServerConf { grace_period_seconds: Some(0), ..ServerConf::default() });
    server.bootstrap();
    let mut service = Service::new("origin".to_owned(), HttpServer::new_app(Origin));
    service.add_tcp(&address);
    server.add_service(service);
    server.run_forever();
}
