//! Clients that guests leave to backends: WebSockets, and GRIP through a real Pushpin.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use fastwebsockets::{Frame, OpCode, Payload, Role, WebSocket};
use futures_util::{SinkExt, StreamExt};
use hyper::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite;

use crate::harness::{PATIENCE, Setup, Sidelight, guest};
use crate::languages;
use crate::origin::{Origin, RUNTIME, refused, text};

/// A server that does that with each connection.
fn serving<F: Future<Output = ()> + Send + 'static>(with: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr {
    let listener = RUNTIME.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("binds");
    let addr = listener.local_addr().expect("an address");
    RUNTIME.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(with(stream));
        }
    });
    addr
}

/// Takes a connection over, with the protocol that its client offers, after a look at the request.
async fn take_over(
    stream: TcpStream,
    look: impl FnOnce(&tungstenite::handshake::server::Request) + Unpin,
) -> tokio_tungstenite::WebSocketStream<TcpStream> {
    #[expect(clippy::result_large_err, reason = "the library's own type")]
    let agree = |request: &tungstenite::handshake::server::Request, mut response: tungstenite::handshake::server::Response| {
        look(request);
        let protocol = request.headers().get("sec-websocket-protocol").cloned();
        protocol.map(|protocol| response.headers_mut().insert("sec-websocket-protocol", protocol));
        Ok(response)
    };
    tokio_tungstenite::accept_hdr_async(stream, agree).await.expect("a WebSocket")
}

/// A WebSocket server that sends back what it gets. It greets with the request's target and fields, so that
/// its first bytes come right behind its head.
pub fn echo() -> SocketAddr {
    serving(|stream| async move {
        let mut greeting = String::new();
        let mut socket = take_over(stream, |request| {
            let field = |name: &str| request.headers().get(name).map_or("", |value| value.to_str().expect("text")).to_owned();
            greeting = format!("{} guest={} host={}", request.uri(), field("x-guest"), field("host"));
        })
        .await;
        socket.send(greeting.into()).await.expect("sends");
        while let Some(Ok(message)) = socket.next().await {
            if message.is_close() || socket.send(message).await.is_err() {
                break;
            }
        }
    })
}

/// The client's end, after the handshake.
async fn open(addr: SocketAddr, path: &str) -> Result<WebSocket<TcpStream>, String> {
    open_of(addr, "edge.test", path).await
}

/// The same of a host.
pub async fn open_of(addr: SocketAddr, host: &str, path: &str) -> Result<WebSocket<TcpStream>, String> {
    let mut stream = TcpStream::connect(addr).await.expect("connects");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("writes");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    let head = String::from_utf8(head).expect("text").to_ascii_lowercase();
    if !head.starts_with("http/1.1 101 ") {
        return Err(head);
    }
    // RFC 6455 §1.3 has this key and the answer to it.
    for line in
        ["sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=", "upgrade: websocket", "connection: upgrade", "sec-websocket-protocol: chat"]
    {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} is not in {head}");
    }
    let mut socket = WebSocket::after_handshake(stream, Role::Client);
    socket.set_auto_close(true);
    socket.set_auto_pong(true);
    Ok(socket)
}

async fn say(socket: &mut WebSocket<TcpStream>, frame: Frame<'_>) {
    socket.write_frame(frame).await.expect("writes");
}

async fn hear(socket: &mut WebSocket<TcpStream>) -> (OpCode, Vec<u8>) {
    let frame = tokio::time::timeout(PATIENCE, socket.read_frame()).await.expect("in time").expect("a frame");
    (frame.opcode, frame.payload.to_vec())
}

fn handing(language: &str, backend: SocketAddr) -> Setup {
    Setup::new(guest(language, "handoff")).backend("ws", format_args!("http://{backend}/base"))
}

languages! {
    /// What goes in at one end comes out at the other: small, large, binary, and the end.
    fn a_websocket(language) {
        let sidelight = handing(language, echo()).start();
        RUNTIME.block_on(async {
            let mut socket = open(sidelight.addr, "/ws/ws?a=b").await.expect("a WebSocket");
            let (_, greeting) = hear(&mut socket).await;
            let guest = if language == "go" { "" } else { "was here" };
            assert_eq!(String::from_utf8(greeting).expect("text"), format!("/base/ws/ws?a=b guest={guest} host=edge.test"));
            sidelight.wait_metric("sidelight_connections_upgraded", 1.0);
            sidelight.wait_metric("sidelight_sandboxes", 0.0);
            for payload in [b"hello".to_vec(), vec![7; 100_000], Vec::new()] {
                say(&mut socket, Frame::binary(Payload::Owned(payload.clone()))).await;
                assert_eq!(hear(&mut socket).await, (OpCode::Binary, payload));
            }
            say(&mut socket, Frame::close(1000, b"")).await;
            while let Ok(Ok(frame)) = tokio::time::timeout(PATIENCE, socket.read_frame()).await {
                assert_eq!(frame.opcode, OpCode::Close);
            }
        });
        sidelight.log.wait_for(&["upgrade", "websocket"]);
        sidelight.wait_metric("sidelight_connections_upgraded", 0.0);
        sidelight.wait_metric("sidelight_connections", 0.0);
        assert!(sidelight.metric("sidelight_requests_total{code=\"101\"}") >= 1.0);
    }
}

#[test]
fn with_the_older_calls_the_request_goes_as_it_came() {
    let sidelight = handing("rust", echo()).start();
    for how in ["ws1", "up"] {
        RUNTIME.block_on(async {
            let mut socket = open(sidelight.addr, &format!("/{how}/ws")).await.expect("a WebSocket");
            let (_, greeting) = hear(&mut socket).await;
            assert_eq!(String::from_utf8(greeting).expect("text"), format!("/base/{how}/ws guest= host=edge.test"));
        });
    }
}

/// A backend that does not want to is a backend like any other.
#[test]
fn a_backend_that_refuses() {
    let origin = Origin::new(|seen| {
        let key = seen.values("sec-websocket-key").concat();
        Response::builder().status(403).header("x-key", key).body(text("no")).expect("a response")
    });
    let sidelight = handing("rust", origin.addr).backend("gone", format_args!("http://{}", refused())).start();
    let head = RUNTIME.block_on(open(sidelight.addr, "/ws/ws")).err().expect("no WebSocket");
    assert!(head.starts_with("http/1.1 403 ") && head.contains("x-key: dghlihnhbxbszsbub25jzq=="), "{head}");
    let head = RUNTIME.block_on(open(sidelight.addr, "/ws/gone")).err().expect("no WebSocket");
    assert!(head.starts_with("http/1.1 502 "), "{head}");
    // No such backend: the guest is told, and can answer.
    let answer = sidelight.get("/ws/nowhere");
    assert_eq!((answer.status, answer.text().contains("DestinationNotFound")), (418, true), "{}", answer.text());
    // A second time there is no client any more.
    assert_eq!(sidelight.get("/twice/ws").status, 403);
    sidelight.log.wait_for(&["again: Err("]);
}

/// A backend that takes connections over and says nothing, whatever it gets.
fn silent() -> SocketAddr {
    serving(|stream| async move {
        let mut stream = take_over(stream, |_| ()).await.into_inner();
        let mut scratch = [0; 1024];
        while matches!(stream.read(&mut scratch).await, Ok(1..)) {}
        // Its own end it keeps.
        std::future::pending::<()>().await;
    })
}

/// Whether the other side ends, when there is nothing more to read.
async fn ends(socket: WebSocket<TcpStream>) -> bool {
    let mut stream = socket.into_inner();
    let mut scratch = [0; 1024];
    tokio::time::timeout(PATIENCE, async { while matches!(stream.read(&mut scratch).await, Ok(1..)) {} }).await.is_ok()
}

/// Clients that are gone without a word, and those that say no more, are let go, and counted.
#[test]
fn one_that_nobody_uses() {
    let sidelight = handing("rust", silent()).arg("--tunnel-idle 2s").start();
    let socket = RUNTIME.block_on(open(sidelight.addr, "/ws/ws")).expect("a WebSocket");
    sidelight.wait_metric("sidelight_connections_upgraded", 1.0);
    assert!(RUNTIME.block_on(ends(socket)));
    sidelight.wait_metric("sidelight_connections_upgraded", 0.0);
    sidelight.wait_metric("sidelight_connections", 0.0);
    assert_eq!(sidelight.metric("sidelight_refusals_total{reason=\"tunnel_idle\"}"), 1.0);
}

#[test]
fn one_that_only_one_side_has_ended() {
    let sidelight = handing("rust", silent()).arg("--client-timeout 1s").start();
    RUNTIME.block_on(async {
        let mut stream = open(sidelight.addr, "/ws/ws").await.expect("a WebSocket").into_inner();
        stream.shutdown().await.expect("ends");
        sidelight.wait_metric("sidelight_connections_upgraded", 0.0);
    });
    assert_eq!(sidelight.metric("sidelight_refusals_total{reason=\"tunnel_half_closed\"}"), 1.0);
}

/// A process that is to stop does not wait for them.
#[test]
fn at_the_end() {
    let sidelight = handing("rust", silent()).arg("--drain-timeout 300s").start();
    let socket = RUNTIME.block_on(open(sidelight.addr, "/ws/ws")).expect("a WebSocket");
    sidelight.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(RUNTIME.block_on(ends(socket)));
    assert_eq!(sidelight.end().code(), Some(0));
}

/// Whoever changes a service leaves its connections alone; whoever removes it ends them.
#[test]
fn when_the_service_goes() {
    let (program, backend) = (guest("rust", "handoff"), echo());
    let of = |sandboxes: u32| {
        format!(
            "[services.own]\nhosts = [\"own.test\"]\nmodule = \"{0}\"\n[services.ws]\nhosts = [\"edge.test\"]\nmodule = \"{0}\"\n\
             limits.sandboxes = {sandboxes}\n[services.ws.backends.ws]\nurl = \"http://{1}/base\"\n",
            program.display(),
            backend
        )
    };
    let sidelight = Setup::host(&of(10)).arg("--no-watch").start();
    let mut socket = RUNTIME.block_on(open(sidelight.addr, "/ws/ws")).expect("a WebSocket");
    RUNTIME.block_on(hear(&mut socket));
    sidelight.write("sidelight.toml", &of(11));
    assert_eq!(sidelight.reload()["changed"], serde_json::json!(["ws"]));
    RUNTIME.block_on(async {
        for _ in 0..3 {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            say(&mut socket, Frame::binary(Payload::Owned(b"hello".to_vec()))).await;
            assert_eq!(hear(&mut socket).await.1, b"hello");
        }
    });
    let without = of(11);
    sidelight.write("sidelight.toml", without.split("[services.ws]").next().expect("a part"));
    let mut busy = RUNTIME.block_on(open(sidelight.addr, "/ws/ws")).expect("a WebSocket").into_inner();
    assert_eq!(sidelight.reload()["removed"], serde_json::json!(["ws"]));
    assert!(RUNTIME.block_on(ends(socket)));
    // One that is used all the time goes on for a moment, and not for ever.
    RUNTIME.block_on(async {
        let ping = [0x89, 0x80, 0, 0, 0, 0];
        let talking = async { while busy.write_all(&ping).await.is_ok() && busy.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {} };
        tokio::time::timeout(PATIENCE, talking).await.expect("an end");
    });
}

/// What is no WebSocket is passed on all the same, its body too, unless the guest has begun to read it.
#[test]
fn an_ordinary_request() {
    let origin = Origin::new(|seen| Response::new(text([b"got ", seen.body.as_ref()].concat())));
    let sidelight = handing("rust", origin.addr).start();
    for how in ["ws", "ws1"] {
        let answer = sidelight.post(&format!("/{how}/ws"), "a body");
        assert_eq!((answer.status, answer.text().as_str()), (200, "got a body"));
        assert_eq!((origin.last().method.as_str(), origin.last().target.as_str()), ("POST", format!("/base/{how}/ws").as_str()));
        assert!(origin.last().values("upgrade").is_empty());
    }
    assert_eq!(sidelight.post("/read/ws", "a body").status, 500);
    sidelight.log.wait_for(&["was read before the client was handed off"]);
}

#[test]
fn websockets_can_be_switched_off() {
    let sidelight = handing("rust", echo()).manifest("[local_server.websockets_passthrough]\nenable = false\n").start();
    let answer = sidelight.get("/ws/ws");
    assert_eq!((answer.status, answer.text().as_str()), (418, "FanoutNotEnabled"));
}

#[test]
fn without_a_grip_proxy_there_is_no_fanout() {
    let sidelight = handing("rust", echo()).start();
    for how in ["grip", "grip1"] {
        let answer = sidelight.get(&format!("/{how}/ws"));
        assert_eq!(answer.status, 418);
        assert!(answer.text().contains("FanoutNotEnabled") || answer.text().contains("UNSUPPORTED"), "{}", answer.text());
    }
    sidelight.log.wait_for(&["--grip-proxy"]);
}

/// A Pushpin with one route: requests for `origin` go to it. Debian's fetches through a zurl of its own.
struct Pushpin {
    children: Vec<Child>,
    http: u16,
    publish: u16,
    _folder: tempfile::TempDir,
}

impl Pushpin {
    /// One that works. Between the choice of its ports and their use, others may take them: then it is started anew.
    fn start(origin: SocketAddr) -> Self {
        (0..4).find_map(|_| Self::attempt(origin)).expect("a Pushpin that works")
    }

    fn attempt(origin: SocketAddr) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path().display().to_string();
        let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
        // All held at once, so that there is no port twice.
        let free = [(); 5].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("binds"));
        let [http, push, publish, subscribe, command] = free.map(|listener| listener.local_addr().expect("an address").port());
        file("routes", &format!("*,id=origin {origin}\n"));
        let sockets = std::fs::read_to_string("/usr/lib/pushpin/internal.conf").expect("pushpin is installed (Debian: pushpin)");
        file("internal.conf", &sockets.replace("/var/run/zurl/", &format!("{at}/")));
        file(
            "zurl.conf",
            &format!(
                "[General]\nin_spec=ipc://{at}/zurl-in\nin_stream_spec=ipc://{at}/zurl-in-stream\nout_spec=ipc://{at}/zurl-out\n\
                 defpolicy=allow\nallow=\ndeny=\nmax_open_requests=100\nbuffer_size=200000\ntimeout=600\nin_hwm=1000\nout_hwm=1000\n"
            ),
        );
        file(
            "pushpin.conf",
            &format!(
                "[global]\ninclude={at}/internal.conf\nrundir={at}\nipc_prefix=it-\nport_offset=0\nstats_connection_ttl=120\n\
                 [runner]\nservices=condure,pushpin-proxy,pushpin-handler\nhttp_port=127.0.0.1:{http}\nlogdir={at}\nlog_level=2\n\
                 client_buffer_size=8192\nclient_maxconn=100\ncondure_bin=condure\n\
                 [proxy]\nroutesfile=routes\naccept_pushpin_route=true\nset_x_forwarded_protocol=proto-only\nsig_iss=pushpin\nsig_key=changeme\n\
                 updates_check=off\n\
                 [handler]\npush_in_spec=tcp://127.0.0.1:{push}\npush_in_sub_specs=tcp://127.0.0.1:{subscribe}\npush_in_sub_connect=false\n\
                 push_in_http_addr=127.0.0.1\npush_in_http_port={publish}\npush_in_http_max_headers_size=10000\n\
                 push_in_http_max_body_size=1000000\nstats_spec=ipc://{at}/stats\ncommand_spec=tcp://127.0.0.1:{command}\nmessage_rate=2500\n\
                 message_hwm=25000\nmessage_wait=5000\nid_cache_ttl=60\nconnection_subscription_max=20\nsubscription_linger=60\n"
            ),
        );
        let start = |program: &str| {
            let mut command = Command::new(program);
            command.arg(format!("--config={at}/{program}.conf"));
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .unwrap_or_else(|error| panic!("{program} (Debian: pushpin): {error}"))
        };
        let children = vec![start("zurl"), start("pushpin")];
        let pushpin = Self { children, http, publish, _folder: folder };
        let deadline = Instant::now() + PATIENCE / 3;
        // Its parts find each other after they have begun to listen.
        while !pushpin.holds() {
            if Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Some(pushpin)
    }

    /// Whether a request gets through it.
    fn holds(&self) -> bool {
        let connect = |port| std::net::TcpStream::connect(("127.0.0.1", port));
        let (Ok(mut stream), Ok(_)) = (connect(self.http), connect(self.publish)) else { return false };
        let request = b"GET / HTTP/1.1\r\nHost: a\r\nPushpin-Route: origin\r\n\r\n";
        let mut line = [0; 12];
        let done = stream
            .set_read_timeout(Some(PATIENCE / 20))
            .and_then(|()| stream.write_all(request))
            .and_then(|()| stream.read_exact(&mut line));
        done.is_ok() && &line == b"HTTP/1.1 200"
    }

    fn publish(&self, channel: &str, formats: serde_json::Value) {
        let body = serde_json::json!({"items": [{"channel": channel, "formats": formats}]}).to_string();
        let length = body.len();
        let request = format!(
            "POST /publish/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let answer = crate::client::send(SocketAddr::from(([127, 0, 0, 1], self.publish)), &request);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

impl Drop for Pushpin {
    fn drop(&mut self) {
        for child in &mut self.children {
            // Pushpin ends its own processes when it is asked to end.
            let pid = nix::unistd::Pid::from_raw(child.id() as i32);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            drop(child.wait());
        }
    }
}

/// A client held by Pushpin gets what is published, as it is published.
#[test]
fn fanout() {
    let origin = Origin::new(|seen| {
        assert!(!seen.values("grip-sig").is_empty(), "asked by a GRIP proxy");
        let response = Response::builder().header("content-type", "text/event-stream");
        response.header("grip-hold", "stream").header("grip-channel", "news").body(text("data: open\n\n")).expect("a response")
    });
    let pushpin = Pushpin::start(origin.addr);
    for language in ["rust", "js", "go"] {
        let setup = Setup::new(guest(language, "handoff")).backend("origin", origin.url());
        let sidelight = setup.arg(&format!("--grip-proxy 127.0.0.1:{}", pushpin.http)).start();
        listens(&sidelight, &pushpin);
        assert_eq!(origin.last().target, "/grip/origin?x");
        if language != "go" {
            assert_eq!(origin.last().values("x-guest"), ["was here"]);
        }
    }
    // The Fastly CLI's spelling, and the manifest's.
    let setup = Setup::new(guest("rust", "handoff")).backend("origin", origin.url());
    listens(&setup.arg(&format!("--local-pushpin-proxy-port {}", pushpin.http)).start(), &pushpin);
    let setup = Setup::new(guest("rust", "handoff")).backend("origin", origin.url());
    listens(&setup.manifest(&format!("[local_server.pushpin]\nenable = true\nproxy_port = {}\n", pushpin.http)).start(), &pushpin);
}

fn listens(sidelight: &Sidelight, pushpin: &Pushpin) {
    let mut client = crate::client::Connection::open(sidelight.addr);
    client.write(b"GET /grip/origin?x HTTP/1.1\r\nHost: edge.test\r\n\r\n");
    let head = client.head();
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")), "{}", sidelight.log.text());
    let mut heard = String::new();
    let mut until = |wanted: &str| {
        while !heard.contains(wanted) {
            heard.push_str(&String::from_utf8(client.chunk().expect("a piece")).expect("text"));
        }
    };
    until("data: open\n\n");
    for message in ["one", "two"] {
        pushpin.publish("news", serde_json::json!({"http-stream": {"content": format!("data: {message}\n\n")}}));
        until(&format!("data: {message}\n\n"));
    }
}

/// What a backend goes over to is what the client asked for, and HTTP/1.0 asks for nothing (RFC 9110 §7.8).
#[test]
fn what_is_no_websocket() {
    let backend = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = backend.local_addr().expect("an address");
    std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        for stream in backend.incoming() {
            let mut stream = stream.expect("a connection");
            let mut head = [0; 4096];
            let read = stream.read(&mut head).expect("a head");
            let head = String::from_utf8_lossy(&head[..read]).to_ascii_lowercase();
            let upgrade = match () {
                () if head.contains("/h2c") => "Connection: Upgrade\r\nUpgrade: h2c\r\n",
                () if head.contains("/nothing") => "",
                () if head.contains("upgrade: websocket") => "Connection: Upgrade\r\nUpgrade: websocket\r\n",
                () => {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain").expect("writes");
                    continue;
                }
            };
            stream.write_all(format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}\r\n").as_bytes()).expect("writes");
        }
    });
    let sidelight = handing("rust", address).start();
    let ask = |path: &str, version: &str| {
        let mut connection = crate::client::Connection::open(sidelight.addr);
        let upgrade =
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        connection.write(format!("GET /ws/ws{path} HTTP/{version}\r\nHost: edge.test\r\n{upgrade}\r\n").as_bytes());
        connection.head().status
    };
    assert_eq!(ask("/x", "1.1"), 101);
    assert_eq!(ask("/x", "1.0"), 200);
    assert_eq!(ask("/h2c", "1.1"), 502);
    assert_eq!(ask("/nothing", "1.1"), 502);
}
