//! HTTP/2 towards clients and backends, with peers of other makes: curl, nghttp2's h2load, tonic, hyper.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::signal::Signal;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::StreamExt;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_response::MessageResponse};

use crate::harness::{PATIENCE, Setup, Sidelight, guest};
use crate::origin::{Origin, RUNTIME, text, with_trailers};
use crate::tls::{Authority, Leaf};

/// What a program prints; it must end well.
fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// A connection of the `h2` crate.
struct Client {
    send: SendRequest<Bytes>,
}

struct Answer {
    head: Response<()>,
    early: Vec<Response<()>>,
    body: Result<Vec<u8>, h2::Error>,
    trailers: Option<HeaderMap>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8(self.body.as_ref().expect("a whole body").clone()).expect("text")
    }
}

fn get(path: &str) -> Request<()> {
    Request::get(format!("http://edge.test{path}")).body(()).expect("a request")
}

fn post(path: &str) -> Request<()> {
    Request::post(format!("http://edge.test{path}")).body(()).expect("a request")
}

impl Client {
    async fn open(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.expect("connects");
        let (send, connection) = h2::client::handshake(stream).await.expect("speaks HTTP/2");
        tokio::spawn(async move { drop(connection.await) });
        Self { send }
    }

    async fn ready(&self) -> SendRequest<Bytes> {
        self.send.clone().ready().await.expect("takes requests")
    }

    async fn ask(&self, request: Request<()>) -> Result<Answer, h2::Error> {
        let (response, _) = self.ready().await.send_request(request, true)?;
        answer(response).await
    }

    /// Sends a body and trailers.
    async fn give(&self, request: Request<()>, body: &'static str, trailers: Option<HeaderMap>) -> Result<Answer, h2::Error> {
        let (response, mut stream) = self.ready().await.send_request(request, false)?;
        stream.send_data(Bytes::from_static(body.as_bytes()), trailers.is_none())?;
        if let Some(trailers) = trailers {
            stream.send_trailers(trailers)?;
        }
        answer(response).await
    }
}

async fn answer(mut response: h2::client::ResponseFuture) -> Result<Answer, h2::Error> {
    let mut early = Vec::new();
    let head = poll_fn(|cx| {
        // An error is told again and again here; the head's own future has it too.
        while let Poll::Ready(Some(Ok(head))) = response.poll_informational(cx) {
            early.push(head);
        }
        Pin::new(&mut response).poll(cx)
    })
    .await?;
    let (head, mut stream) = head.into_parts();
    let body = all(&mut stream).await;
    let trailers = match body {
        Ok(_) => stream.trailers().await?,
        Err(_) => None,
    };
    Ok(Answer { head: Response::from_parts(head, ()), early, body, trailers })
}

async fn all(stream: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut body = Vec::new();
    while let Some(bytes) = stream.data().await {
        let bytes = bytes?;
        stream.flow_control().release_capacity(bytes.len())?;
        body.extend_from_slice(&bytes);
    }
    Ok(body)
}

fn messages() -> Sidelight {
    Setup::new(guest("rust", "messages")).start()
}

#[test]
fn curl_without_tls() {
    let sidelight = Setup::behaviours("rust").start();
    let url = format!("http://{}", sidelight.addr);
    let head = run("curl", &["-s", "-i", "--http2-prior-knowledge", &format!("{url}/synthetic")]);
    assert!(head.starts_with("HTTP/2 418 \r\n") && head.ends_with("\r\n\r\na synthetic response\n"), "{head}");
    assert!(head.contains("\r\nx-multi: one\r\nx-multi: two\r\n") && head.contains("\r\ncontent-length: 21\r\n"), "{head}");
    let args = ["-s", "--http2-prior-knowledge", "-d", "a body", "-H", "X-Mine: 1", "-H", "Cookie: a=1"];
    let echo: serde_json::Value = serde_json::from_str(&run("curl", &[&args[..], &[&format!("{url}/echo/x?y=z")]].concat())).expect("JSON");
    assert_eq!((echo["method"].as_str(), echo["body"].as_str()), (Some("POST"), Some("a body")));
    assert_eq!(echo["url"].as_str(), Some(format!("{url}/echo/x?y=z").as_str()));
    let headers = echo["headers"].to_string();
    for field in [r#"["x-mine","1"]"#, r#"["content-length","6"]"#, r#"["cookie","a=1"]"#] {
        assert!(headers.contains(field), "{headers}");
    }
    assert!(headers.contains(&format!(r#"["host","{}"]"#, sidelight.addr)), "{headers}");
    // A client that can do both does as it likes.
    assert!(run("curl", &["-s", "-i", &format!("{url}/synthetic")]).starts_with("HTTP/1.1 418 "));
}

#[test]
fn curl_with_tls_and_what_a_guest_learns() {
    let authority = Authority::new();
    let leaf = authority.leaf(&["localhost"]);
    let folder = tempfile::tempdir().expect("a folder");
    let (both, roots) = (folder.path().join("both.pem"), folder.path().join("roots.pem"));
    std::fs::write(&both, format!("{}{}", leaf.pem, leaf.key_pem)).expect("a file");
    std::fs::write(&roots, &authority.pem).expect("a file");
    let setup = Setup::new(guest("rust", "client")).arg(&format!("--tls-addr 127.0.0.1:0 --tls-cert {}", both.display()));
    let sidelight = setup.start();
    let url = format!("https://localhost:{}/x", sidelight.secure_addr().port());
    let told = run("curl", &["-s", "--http2", "--cacert", roots.to_str().expect("text"), "-w", "curl: %{http_version}", &url]);
    assert!(told.contains(&format!("url: {url}\n")) && told.ends_with("curl: 2"), "{told}");
    assert!(told.contains("version: HTTP/2.0\n"), "{told}");
    // JA4: TLS 1.3, a name, ALPN beginning with h2.
    assert!(told.contains("ja4: Some(\"t13d") && told.contains("h2_"), "{told}");
    // curl's settings, window, no priorities, pseudo-header fields in its order.
    let h2 = told.lines().find_map(|line| line.strip_prefix("h2: ")).expect("a line");
    assert!(h2.starts_with("Some(\"3:100;4:") && h2.ends_with("|0|m,p,s,a\")"), "{h2}");
    let told = run("curl", &["-s", "--http1.1", "--cacert", roots.to_str().expect("text"), &url]);
    assert!(told.contains("version: HTTP/1.1\nh2: None\n"), "{told}");
}

#[test]
fn h2load() {
    let sidelight = Setup::new(guest("rust", "hello")).start();
    let told = run("h2load", &["-n", "2000", "-c", "2", "-m", "100", &format!("http://{}/", sidelight.addr)]);
    assert!(told.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{told}");
    sidelight.wait_metric("sidelight_requests_in_flight", 0.0);
}

#[test]
fn a_hundred_streams_at_once() {
    let (gate, waiting) = (Arc::new(tokio::sync::Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (held, count) = (gate.clone(), waiting.clone());
    let origin = Origin::raw(move |_| {
        let (held, count) = (held.clone(), count.clone());
        async move {
            let opened = held.notified();
            count.fetch_add(1, Ordering::Relaxed);
            opened.await;
            Response::new(text("let go"))
        }
    });
    let sidelight = Setup::new(guest("rust", "passthrough")).backend("origin", origin.url()).start();
    RUNTIME.block_on(async {
        let client = Client::open(sidelight.addr).await;
        let mut answers = tokio::task::JoinSet::new();
        for i in 0..100 {
            let (response, _) = client.ready().await.send_request(get(&format!("/{i}")), true).expect("sends");
            answers.spawn(answer(response));
        }
        while waiting.load(Ordering::Relaxed) < 100 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!((sidelight.metric("sidelight_requests_in_flight") - 100.0).abs() < 0.5);
        assert!((sidelight.metric("sidelight_connections") - 1.0).abs() < 0.5);
        gate.notify_waiters();
        while let Some(answer) = answers.join_next().await {
            assert_eq!(answer.expect("runs").expect("an answer").text(), "let go");
        }
    });
}

#[test]
fn trailers_and_early_hints() {
    let sidelight = messages();
    RUNTIME.block_on(async {
        let client = Client::open(sidelight.addr).await;
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "5".parse().expect("a value"));
        let answer = client.give(post("/trailers"), "abcde", Some(trailers)).await.expect("an answer");
        assert!(answer.text().ends_with("after 5: x-sum=5 \n"), "{}", answer.text());
        let trailers = answer.trailers.expect("trailers");
        assert_eq!((&trailers["x-first"], trailers.get_all("x-second").iter().count()), (&"1".parse().expect("a value"), 2));

        let answer = client.ask(get("/early")).await.expect("an answer");
        let links: Vec<_> =
            answer.early.iter().map(|head| (head.status().as_u16(), head.headers()["link"].to_str().expect("text"))).collect();
        assert_eq!(links, [(103, "</a.css>; rel=preload"), (103, "</b.js>; rel=preload")]);
        assert_eq!((answer.text().as_str(), answer.head.headers().get("link")), ("final\n", None));
    });
}

#[test]
fn original_names_and_cookies_in_pieces() {
    let sidelight = messages();
    let echo = Setup::behaviours("rust").start();
    RUNTIME.block_on(async {
        let mut request = get("/original");
        request.headers_mut().append("x-b", "1".parse().expect("a value"));
        request.headers_mut().append("x-a", "2".parse().expect("a value"));
        let answer = Client::open(sidelight.addr).await.ask(request).await.expect("an answer");
        assert_eq!(answer.text(), "2 x-b x-a\n");
        let mut request = get("/echo");
        request.headers_mut().append("cookie", "a=1".parse().expect("a value"));
        request.headers_mut().append("cookie", "b=2".parse().expect("a value"));
        let answer = Client::open(echo.addr).await.ask(request).await.expect("an answer");
        assert!(answer.text().contains(r#"["cookie","a=1; b=2"]"#), "{}", answer.text());
    });
}

#[test]
fn a_body_that_ends_early_is_seen_to() {
    let sidelight = Setup::new(guest("rust", "misbehave")).start();
    RUNTIME.block_on(async {
        let client = Client::open(sidelight.addr).await;
        let answer = client.ask(get("/late-trap")).await.expect("a head");
        assert_eq!(answer.body.expect_err("no end").reason(), Some(Reason::INTERNAL_ERROR));
        let answer = client.ask(get("/trap")).await.expect("an answer");
        assert_eq!(answer.head.status(), 500);
        assert!(answer.text().starts_with("500 Internal Server Error\nrequest id: "), "{}", answer.text());
        assert_eq!(client.ask(get("/ok")).await.expect("an answer").text(), "ok\n");
    });
}

/// A guest that does not read its request holds up its own stream only.
#[test]
fn a_body_nobody_reads_is_in_nobodys_way() {
    let sidelight = Setup::behaviours("rust").start();
    RUNTIME.block_on(async {
        let client = Client::open(sidelight.addr).await;
        let (response, mut upload) = client.ready().await.send_request(post("/stream?n=4&ms=200"), false).expect("sends");
        let mut taken = 0;
        upload.reserve_capacity(1 << 20);
        while let Ok(Some(room)) = tokio::time::timeout(Duration::from_millis(300), poll_fn(|cx| upload.poll_capacity(cx))).await {
            room.expect("an open stream");
            let room = upload.capacity();
            upload.send_data(Bytes::from(vec![0; room]), false).expect("sends");
            taken += room;
            upload.reserve_capacity(1 << 20);
        }
        assert!(taken <= 64 << 10, "{taken} bytes were taken");
        let others: Vec<_> = (0..20).map(|_| client.give(post("/echo"), "a body", None)).collect();
        for other in others {
            assert!(other.await.expect("an answer").text().contains("\"body\":\"a body\""));
        }
        assert!(answer(response).await.expect("an answer").text().ends_with("piece 3\n"));
    });
}

#[test]
fn requests_that_are_refused() {
    let sidelight = Setup::behaviours("rust").arg("--max-uri 100").start();
    RUNTIME.block_on(async {
        let client = Client::open(sidelight.addr).await;
        let status = async |request| client.ask(request).await.expect("an answer").head.status().as_u16();
        let mut request = get("/synthetic");
        request.headers_mut().insert("host", "other.test".parse().expect("a value"));
        assert_eq!(status(request).await, 400);
        let mut request = get("/synthetic");
        request.headers_mut().insert("host", "edge.test".parse().expect("a value"));
        assert_eq!(status(request).await, 418);
        assert_eq!(status(get(&format!("/{}", "x".repeat(100)))).await, 414);
        let mut request = get("/synthetic");
        for i in 0..300 {
            request
                .headers_mut()
                .insert(hyper::header::HeaderName::try_from(format!("x-{i}")).expect("a name"), "1".parse().expect("a value"));
        }
        assert_eq!(status(request).await, 431);
        let mut request = get("/synthetic");
        request.headers_mut().insert("content-length", "abc".parse().expect("a value"));
        assert!(client.ask(request).await.is_err_and(|error| error.is_reset()));
        let mut request = get("/synthetic");
        request.headers_mut().insert("transfer-encoding", "chunked".parse().expect("a value"));
        // The library will not even send this.
        assert!(client.ask(request).await.is_err());
        assert_eq!(status(get("/synthetic")).await, 418);
    });
}

/// At the end, streams that are open are finished, and new ones are told to go elsewhere.
#[test]
fn a_stop_finishes_what_is_open() {
    let sidelight = Setup::behaviours("rust").start();
    RUNTIME.block_on(async {
        let client = Client::open(sidelight.addr).await;
        let idle = Client::open(sidelight.addr).await;
        assert_eq!(idle.ask(get("/synthetic")).await.expect("an answer").head.status(), 418);
        let (response, _) = client.ready().await.send_request(get("/stream?n=10&ms=100"), true).expect("sends");
        sidelight.wait_metric("sidelight_requests_in_flight", 1.0);
        sidelight.signal(Signal::SIGTERM);
        assert!(answer(response).await.expect("an answer").text().ends_with("piece 9\n"));
    });
    assert_eq!(sidelight.end().code(), Some(0));
}

#[test]
fn idle_connections_are_ended() {
    let sidelight = Setup::behaviours("rust").arg("--idle-timeout 200ms").start();
    RUNTIME.block_on(async {
        let client = Client::open(sidelight.addr).await;
        let (response, _) = client.ready().await.send_request(get("/stream?n=10&ms=100"), true).expect("sends");
        assert!(answer(response).await.expect("an answer").text().ends_with("piece 9\n"));
        sidelight.wait_metric("sidelight_connections", 0.0);
    });
}

/// Connections that ask for nothing make room for others; one that is worked on does not.
#[test]
fn idle_connections_make_room() {
    let few = ["sh", "-c", "ulimit -n 256 && exec \"$@\"", "sh"];
    let sidelight = Setup::behaviours("rust").within(&few).start();
    RUNTIME.block_on(async {
        let busy = Client::open(sidelight.addr).await;
        let (response, mut stream) = busy.ready().await.send_request(post("/echo"), false).expect("a stream");
        stream.send_data(Bytes::from_static(b"hello"), false).expect("sends");
        sidelight.wait_metric("sidelight_sandboxes", 1.0);
        let mut idle = Vec::new();
        for _ in 0..200 {
            idle.push(Client::open(sidelight.addr).await);
        }
        for _ in 0..10 {
            let answer = Client::open(sidelight.addr).await.ask(get("/synthetic")).await.expect("an answer");
            assert_eq!(answer.head.status(), 418);
        }
        stream.send_data(Bytes::from_static(b"world"), true).expect("sends");
        let answer = answer(response).await.expect("an answer");
        assert!(answer.text().contains("helloworld"), "{}", answer.text());
    });
    assert!(sidelight.metric("sidelight_refusals_total{reason=\"crowded\"}") >= 100.0);
}

// --- Backends ---------------------------------------------------------------------------------------

/// gRPC's own health and reflection services.
fn grpc() -> SocketAddr {
    let listener = RUNTIME.block_on(TcpListener::bind("127.0.0.1:0")).expect("binds");
    let addr = listener.local_addr().expect("an address");
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("a service");
    RUNTIME.spawn(async move {
        let (_, health) = tonic_health::server::health_reporter();
        let connections = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_service(health).add_service(reflection);
        drop(server.serve_with_incoming(connections).await);
    });
    addr
}

fn passing(manifest: &str) -> Sidelight {
    Setup::new(guest("rust", "passthrough")).manifest(&format!("[local_server.backends.origin]\n{manifest}\n")).start()
}

#[test]
fn grpc_unary_and_both_ways() {
    let sidelight = passing(&format!("url = \"http://{}\"\ngrpc = true", grpc()));
    RUNTIME.block_on(async {
        let channel = tonic::transport::Channel::from_shared(format!("http://{}", sidelight.addr)).expect("a URL");
        let channel = channel.connect().await.expect("connects");
        let mut health = HealthClient::new(channel.clone());
        let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
        assert_eq!(health.check(ask("")).await.expect("an answer").into_inner().status, 1);
        // What gRPC reports as an error comes in trailers.
        let status = health.check(ask("nobody")).await.expect_err("no such service");
        assert_eq!(status.code(), tonic::Code::NotFound, "{status:?}");

        let mut reflection = ServerReflectionClient::new(channel);
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut answers = reflection.server_reflection_info(requests).await.expect("a stream").into_inner();
        for i in 0..5 {
            // Each question is asked when the answer to the one before is here.
            let question = MessageRequest::ListServices(i.to_string());
            sender.send(ServerReflectionRequest { host: i.to_string(), message_request: Some(question) }).await.expect("sends");
            let told = tokio::time::timeout(PATIENCE, answers.next()).await.expect("in time").expect("one").expect("no error");
            assert_eq!(told.valid_host, i.to_string());
            let Some(MessageResponse::ListServicesResponse(list)) = told.message_response else { panic!("{told:?}") };
            assert!(list.service.iter().any(|service| service.name == "grpc.health.v1.Health"));
        }
        drop(sender);
        assert!(answers.next().await.is_none());
    });
    // All of it over one connection.
    assert!((sidelight.metric("sidelight_backend_connections_total{backend=\"origin\",kind=\"new\"}") - 1.0).abs() < 0.5);
    assert!((sidelight.metric("sidelight_backend_connections_total{backend=\"origin\",kind=\"reused\"}") - 2.0).abs() < 0.5);
}

/// An https origin that offers `protocols` and tells what it got.
fn secure(leaf: &Leaf, protocols: &[&str]) -> SocketAddr {
    let builder = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf.key_der.clone()));
    let mut config = builder.with_single_cert(vec![leaf.der.clone()], key).expect("a certificate");
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = RUNTIME.block_on(TcpListener::bind("127.0.0.1:0")).expect("binds");
    let addr = listener.local_addr().expect("an address");
    RUNTIME.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(stream).await else { return };
                let service = service_fn(|request: Request<hyper::body::Incoming>| async move {
                    let (head, body) = request.into_parts();
                    let told = format!("{:?} {} {:?}", head.version, head.uri, head.headers.get("content-length"));
                    let length = body.collect().await.expect("a body").to_bytes().len();
                    let mut response = Response::new(with_trailers(format!("{told} {length}"), &[("x-after", "1")]));
                    response.headers_mut().insert("trailer", "x-after".parse().expect("a value"));
                    Ok::<_, Infallible>(response)
                });
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                drop(server.serve_connection(TokioIo::new(tls), service).await);
            });
        }
    });
    addr
}

#[test]
fn a_secure_backend_by_alpn() {
    let authority = Authority::new();
    let leaf = authority.leaf(&["localhost"]);
    let backend = |addr: SocketAddr, grpc: bool| {
        format!("url = \"https://localhost:{}/base\"\nca_certificate = '''{}'''\ngrpc = {grpc}", addr.port(), authority.pem)
    };
    let both = secure(&leaf, &["h2", "http/1.1"]);
    let sidelight = passing(&backend(both, true));
    for _ in 0..3 {
        let told = sidelight.post("/x?y", "body").text();
        assert_eq!(told, format!("HTTP/2.0 https://edge.test/base/x?y Some(\"4\") 4"));
    }
    let big = "x".repeat(300_000);
    assert!(sidelight.post("/big", &big).text().ends_with(" 300000"));
    let answer = sidelight.get("/x");
    assert_eq!(answer.trailers, [("x-after".to_owned(), "1".to_owned())], "{}", answer.text());
    // Production speaks HTTP/1.1 to backends that are not for gRPC.
    assert!(passing(&backend(both, false)).get("/x").text().starts_with("HTTP/1.1 /base/x "));
    // With this, as the two agree.
    let either = |addr| {
        let manifest = format!("[local_server.backends.origin]\n{}", backend(addr, false));
        Setup::new(guest("rust", "passthrough")).manifest(&manifest).arg("--backend-http2").start()
    };
    assert!(either(both).get("/x").text().starts_with("HTTP/2.0 "));
    let one = secure(&leaf, &["http/1.1"]);
    let sidelight = either(one);
    for _ in 0..2 {
        assert!(sidelight.get("/x").text().starts_with("HTTP/1.1 "));
    }
    assert!((sidelight.metric("sidelight_backend_connections_total{backend=\"origin\",kind=\"reused\"}") - 1.0).abs() < 0.5);
    // gRPC and a backend that cannot.
    let sidelight = Setup::behaviours("rust").manifest(&format!("[local_server.backends.origin]\n{}", backend(one, true))).start();
    assert_eq!(sidelight.get("/pass/x").status, 502);
    sidelight.wait_until("a failure", |it| {
        it.metric("sidelight_backend_requests_total{backend=\"origin\",result=\"tls_alert_received\"}") > 0.5
    });
}

/// A backend that answers each stream as `answer` says.
fn raw<F>(answer: F) -> SocketAddr
where
    F: Fn(usize, &mut h2::server::SendResponse<Bytes>, &mut Option<Reason>) + Send + 'static,
{
    let listener = RUNTIME.block_on(TcpListener::bind("127.0.0.1:0")).expect("binds");
    let addr = listener.local_addr().expect("an address");
    RUNTIME.spawn(async move {
        let mut count = 0;
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut connection) = h2::server::handshake(stream).await else { continue };
            let mut abrupt = None;
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                // What the peer still has to say about the connection is read first: an end with something
                // unread would be a reset.
                drop(tokio::time::timeout(Duration::from_millis(100), poll_fn(|cx| connection.poll_closed(cx))).await);
                answer(count, &mut respond, &mut abrupt);
                count += 1;
                if let Some(reason) = abrupt {
                    connection.abrupt_shutdown(reason);
                }
            }
        }
    });
    addr
}

#[test]
fn errors_of_http2_backends() {
    let error = |addr: SocketAddr| {
        let manifest = format!("[local_server.backends.origin]\nurl = \"http://{addr}\"\ngrpc = true\n");
        let sidelight = Setup::behaviours("rust").manifest(&manifest).start();
        let answer = sidelight.get("/pass/x");
        (answer.status, answer.header("x-error").unwrap_or_default().to_owned())
    };
    // The frame's type, RST_STREAM or GOAWAY, and the code in it (RFC 9113 §7).
    let (status, text) = error(raw(|_, respond, _| respond.send_reset(Reason::ENHANCE_YOUR_CALM)));
    assert_eq!((status, text.contains("(frame_type=3, error_code=11)")), (502, true), "{text}");
    let (status, text) = error(raw(|_, _, abrupt| *abrupt = Some(Reason::INADEQUATE_SECURITY)));
    assert_eq!((status, text.contains("(frame_type=7, error_code=12)")), (502, true), "{text}");
    // HTTP/1.1, where HTTP/2 was to be.
    let (status, text) = error(Origin::fixed("x").addr);
    assert_eq!(status, 502, "{text}");
}

/// A stream that the backend has refused is sent again, on another connection if need be.
#[test]
fn what_was_not_worked_on_is_sent_again() {
    let addr = raw(|count, respond, _| {
        if count == 1 {
            respond.send_reset(Reason::REFUSED_STREAM);
        } else {
            let mut stream = respond.send_response(Response::new(()), false).expect("sends");
            stream.send_data(Bytes::from_static(b"fine"), true).expect("sends");
        }
    });
    let sidelight = passing(&format!("url = \"http://{addr}\"\ngrpc = true"));
    for _ in 0..3 {
        assert_eq!(sidelight.get("/").text(), "fine");
    }
}
