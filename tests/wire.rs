//! Messages nobody would think of, against a parser that is not ours: what we write, pingora reads as it was
//! meant; what we read, pingora reads alike or refuses. And whatever bytes come, nothing panics.
//!
//! The cases are random. `SIDELIGHT_FUZZ=100` tries a hundred times as many; a failure is told as its smallest
//! example.

#![allow(clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "a test ends at its first surprise")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Uri};
use pingora::http::RequestHeader;
use pingora::protocols::http::v1::client::HttpSession as PingoraClient;
use pingora::protocols::http::v1::server::HttpSession as PingoraServer;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use sidelight::config::Targets;
use sidelight::http::client_hello::{self, ClientHello};
use sidelight::http::framing::{self, BodyFraming};
use sidelight::http::head::{Framing, field_names};
use sidelight::http::request::{RequestReader, reread};
use sidelight::http::response::ResponseReader;
use sidelight::http::wire::{self, WriteError};
use sidelight::http::{Body, cdn_loop, h2_fingerprint};
use sidelight::sandbox::Client;
use sidelight::server::{Hops, hops};
use tokio::io::AsyncWriteExt;

/// Largest head our readers take here.
const MAX_HEAD: usize = 64 << 10;

/// More than any message here has.
const PIPE: usize = 1 << 20;

/// So many cases, or a multiple of them.
fn cases(count: u32) -> ProptestConfig {
    let factor = std::env::var("SIDELIGHT_FUZZ").map_or(1, |factor| factor.parse().expect("SIDELIGHT_FUZZ is a number"));
    ProptestConfig { cases: count * factor, failure_persistence: None, max_local_rejects: u32::MAX, ..ProptestConfig::default() }
}

fn block<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), work).await.expect("nothing hangs") })
}

/// Any name: often one that means something on the wire.
fn name() -> impl Strategy<Value = HeaderName> {
    const SPECIAL: [&str; 16] = [
        "connection",
        "content-length",
        "transfer-encoding",
        "te",
        "trailer",
        "upgrade",
        "keep-alive",
        "host",
        "expect",
        "content-type",
        "set-cookie",
        "cookie",
        "proxy-connection",
        "content-encoding",
        "date",
        "x",
    ];
    prop_oneof![
        2 => select(&SPECIAL[..]).prop_map(HeaderName::from_static),
        3 => "[!#$%&'*+.^_`|~0-9a-zA-Z-]{1,20}".prop_map(|name| HeaderName::from_bytes(name.as_bytes()).expect("a token")),
    ]
}

/// Any value a guest may set: often one that means something on the wire.
fn value() -> impl Strategy<Value = HeaderValue> {
    const SPECIAL: [&str; 14] =
        ["", "0", "5", " 7 ", "5, 5", "+5", "chunked", "gzip, chunked", "close", "keep-alive", "x, close", "trailers", "100-continue", "h"];
    let any = vec(any::<u8>(), 0..40).prop_filter_map("no header value", |bytes| HeaderValue::from_bytes(&bytes).ok());
    prop_oneof![2 => select(&SPECIAL[..]).prop_map(HeaderValue::from_static), 3 => any]
}

fn fields() -> impl Strategy<Value = HeaderMap> {
    vec((name(), value()), 0..8).prop_map(|fields| {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value);
        }
        headers
    })
}

/// A body in pieces, and whether it is whole when its head is written.
#[derive(Clone, Debug)]
struct Content {
    pieces: Vec<Vec<u8>>,
    whole: bool,
    trailers: Option<HeaderMap>,
}

impl Content {
    fn bytes(&self) -> Vec<u8> {
        self.pieces.concat()
    }

    fn body(&self) -> Body {
        let mut body = Body::empty();
        if self.whole {
            for piece in &self.pieces {
                body.push_back(Bytes::copy_from_slice(piece));
            }
            if let Some(trailers) = &self.trailers {
                body.trailers_mut().clone_from(trailers);
            }
            return body;
        }
        let (mut writer, content) = (body.open(), self.clone());
        tokio::spawn(async move {
            for piece in content.pieces {
                writer.write(Bytes::from(piece)).await.expect("is read");
                tokio::task::yield_now().await;
            }
            if let Some(trailers) = content.trailers {
                *writer.trailers_mut() = trailers;
            }
            writer.finish().await.expect("is read");
        });
        body
    }
}

fn content() -> impl Strategy<Value = Content> {
    let piece = prop_oneof![4 => vec(any::<u8>(), 0..50), 1 => vec(any::<u8>(), 15_000..20_000)];
    (vec(piece, 0..5), any::<bool>(), proptest::option::of(fields())).prop_map(|(pieces, whole, mut trailers)| {
        // As both ends do with what guests append.
        trailers.iter_mut().for_each(framing::strip_from_trailers);
        Content { pieces, whole, trailers }
    })
}

fn mode() -> impl Strategy<Value = Framing> {
    prop_oneof![Just(Framing::Automatic), Just(Framing::Manual)]
}

fn method() -> impl Strategy<Value = Method> {
    prop_oneof![
        3 => select(vec![Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS]),
        1 => "[!#$%&'*+.^_`|~0-9A-Z-]{1,12}"
            .prop_map(|name| Method::from_bytes(name.as_bytes()).expect("a token"))
            .prop_filter("CONNECT has no body to frame", |method| *method != Method::CONNECT),
    ]
}

fn target() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("/".to_owned()),
        "/[ -~]{0,30}",
        vec(any::<char>(), 0..10).prop_map(|text| format!("/{}", text.iter().collect::<String>()))
    ]
    .prop_filter_map("no URI", |text| {
        let uri = Uri::try_from(text).ok()?;
        Some(uri.path_and_query()?.as_str().to_owned())
    })
}

/// Name and value of every field, in a fixed order, spaces around values apart.
fn sorted(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> =
        headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().trim_ascii().to_owned())).collect();
    all.sort();
    all
}

/// What was read of a body, and whether it had an end.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    body: Vec<u8>,
    whole: bool,
}

/// What is to be read of a body that is not as long as its guest promised: not a byte beyond that; and of one
/// that is too short, no end.
fn is_cut_off(read: &Read, content: &Content, got: u64, promised: u64) -> bool {
    content.bytes().starts_with(&read.body) && read.body.len() as u64 <= promised && !(read.whole && got < promised)
}

macro_rules! read_whole {
    ($session:expr) => {{
        let mut body = Vec::new();
        loop {
            match $session.read_body_bytes().await {
                Ok(Some(bytes)) => body.extend_from_slice(&bytes),
                Ok(None) => break Read { body, whole: $session.is_body_done() },
                Err(_) => break Read { body, whole: false },
            }
        }
    }};
}

/// pingora's reading of a response.
async fn pingora_response(method: &Method, wire: Vec<u8>) -> Result<(StatusCode, HeaderMap, Read), String> {
    let (near, mut far) = tokio::io::duplex(PIPE);
    let mut session = PingoraClient::new(Box::new(near));
    let mut asked = RequestHeader::build(method.clone(), b"/", None).expect("a head");
    asked.insert_header("host", "h").expect("a field");
    session.write_request_header(Box::new(asked)).await.map_err(|error| error.to_string())?;
    far.write_all(&wire).await.expect("room");
    drop(far);
    session.read_response().await.map_err(|error| error.to_string())?;
    let head = session.resp_header().expect("was read");
    let (status, headers) = (head.status, head.headers.clone());
    Ok((status, headers, read_whole!(session)))
}

/// pingora's reading of a request.
async fn pingora_request(wire: &[u8]) -> Result<(Method, Vec<u8>, HeaderMap, Read), String> {
    let (near, mut far) = tokio::io::duplex(PIPE);
    let mut session = PingoraServer::new(Box::new(near));
    far.write_all(wire).await.expect("room");
    drop(far);
    session.read_request().await.map_err(|error| error.to_string())?.ok_or("nothing came")?;
    session.validate_request().map_err(|error| error.to_string())?;
    let head = session.req_header();
    let (method, target, headers) = (head.method.clone(), head.raw_path().to_owned(), head.headers.clone());
    Ok((method, target, headers, read_whole!(session)))
}

/// Our reading of a request; what comes behind it is left out.
async fn our_request(wire: &[u8]) -> Option<(Method, Vec<u8>, HeaderMap, Read)> {
    let mut reader = RequestReader::new(wire);
    let head = reader.head(MAX_HEAD).await.ok()?;
    let mut body = Vec::new();
    let whole = loop {
        match reader.chunk().await {
            Ok(Some(bytes)) => body.extend_from_slice(&bytes),
            Ok(None) => break reader.is_done(),
            Err(_) => break false,
        }
    };
    Some((head.method, head.target.to_string().into_bytes(), head.headers, Read { body, whole }))
}

/// Pieces of messages, right and wrong, to be put together at random.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: [&str; 46] = [
        "GET / HTTP/1.1\r\n",
        "POST /a?b HTTP/1.1\r\n",
        "POST / HTTP/1.0\r\n",
        "PUT http://h/ HTTP/1.1\r\n",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.0 204 No Content\r\n",
        "HTTP/1.1 103 Early Hints\r\n",
        "HTTP/1.1 304\r\n",
        "Host: h\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 3\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: 0\r\n",
        "content-length: +5\r\n",
        "Content-Length : 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "transfer-encoding: CHUNKED\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding:\tchunked\r\n",
        "Transfer-Encoding: \r\n",
        "Connection: close\r\n",
        "Connection: keep-alive\r\n",
        "X: y\r\n",
        "X: y\n",
        "X: a\r\n b\r\n",
        "X:\r\n",
        "\r\n",
        "\r\n",
        "\r\n",
        "\n",
        "\r",
        "hello",
        "5\r\nhello\r\n",
        "5;a=b\r\nhello\r\n",
        "5;a\nb\r\nhello\r\n",
        "5;\"a\nb\"\r\nhello\r\n",
        "05\r\nhello\r\n",
        "5\nhello\n",
        "0x5\r\nhello\r\n",
        "ffffffffffffffff\r\n",
        "0\r\n\r\n",
        "0\r\n",
        "0\r\nX: y\r\n\r\n",
        "\0",
        " ",
    ];
    let piece = prop_oneof![
        12 => select(&PIECES[..]).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 1..4),
    ];
    // Mostly the beginning of a message.
    let start = select(vec![0_usize, 0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 31]);
    (start, vec(piece, 0..10)).prop_map(|(start, rest)| [PIECES[start].as_bytes().to_vec(), rest.concat()].concat())
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn a_response_is_read_as_it_was_meant(
        method in method(), code in 200_u16..600, mut headers in fields(), mode in mode(), content in content()
    ) {
        block(async {
            let status = StatusCode::from_u16(code).expect("a status");
            let mut body = content.body();
            let known = wire::settle(&mut body, 64 << 10);
            let Ok(framing) = framing::response(&mut headers, mode, &method, status, known, true) else { return Ok(()) };
            let mut out = Vec::new();
            let head = wire::response_head(status, &headers);
            let written = wire::write_message(&mut out, head, framing, &mut body, Duration::from_secs(10)).await;
            prop_assert!(headers.get_all(header::CONTENT_LENGTH).iter().count() <= 1, "{headers:?}");
            let read = pingora_response(&method, out).await;
            match written {
                Ok(_) => {
                    let (read_status, read_headers, read) = read.map_err(TestCaseError::fail)?;
                    prop_assert_eq!(read_status, status);
                    prop_assert_eq!(sorted(&read_headers), sorted(&headers));
                    let sent = if framing == BodyFraming::None { Vec::new() } else { content.bytes() };
                    prop_assert_eq!(read, Read { body: sent, whole: true });
                }
                Err(WriteError::Length { got, promised }) => if let Ok((.., read)) = read {
                    prop_assert!(is_cut_off(&read, &content, got, promised), "{read:?}");
                },
                Err(other) => return Err(TestCaseError::fail(other.to_string())),
            }
            Ok(())
        })?;
    }

    #[test]
    fn a_request_is_read_as_it_was_meant(
        method in method(), target in target(), mut headers in fields(), mode in mode(), content in content()
    ) {
        block(async {
            headers.insert(header::HOST, HeaderValue::from_static("h"));
            let mut body = content.body();
            let known = wire::settle(&mut body, 64 << 10);
            let Ok(framing) = framing::request(&mut headers, mode, &method, known) else { return Ok(()) };
            let mut out = Vec::new();
            let head = wire::request_head(&method, &target, &headers);
            let written = wire::write_message(&mut out, head, framing, &mut body, Duration::from_secs(10)).await;
            let read = pingora_request(&out).await;
            match written {
                Ok(_) => {
                    let (read_method, read_target, read_headers, read) = read.map_err(TestCaseError::fail)?;
                    prop_assert_eq!(&read_method, &method);
                    prop_assert_eq!(read_target, target.into_bytes());
                    prop_assert_eq!(sorted(&read_headers), sorted(&headers));
                    prop_assert_eq!(read, Read { body: content.bytes(), whole: true });
                }
                Err(WriteError::Length { got, promised }) => if let Ok((.., read)) = read {
                    prop_assert!(is_cut_off(&read, &content, got, promised), "{read:?}");
                },
                Err(other) => return Err(TestCaseError::fail(other.to_string())),
            }
            Ok(())
        })?;
    }
}

proptest! {
    #![proptest_config(cases(10_000))]

    /// Two readers that see a message end at different places are what smuggling is made of.
    #[test]
    fn a_request_we_accept_is_the_same_to_others(wire in soup()) {
        block(async {
            let Some((method, target, headers, ours)) = our_request(&wire).await else { return Ok(()) };
            let Ok((their_method, their_target, their_headers, theirs)) = pingora_request(&wire).await else { return Ok(()) };
            prop_assert_eq!(method, their_method);
            prop_assert_eq!(target, their_target);
            prop_assert_eq!(sorted(&headers), sorted(&their_headers));
            if ours.whole {
                prop_assert_eq!(ours, theirs);
            }
            Ok(())
        })?;
    }

    /// However a message comes in pieces, it is the same.
    #[test]
    fn a_response_is_the_same_in_pieces(wire in soup(), step in 1_usize..7, head in any::<bool>()) {
        let method = if head { Method::HEAD } else { Method::GET };
        let read = async |wire: Bytes, step: usize| {
            let (mut far, near) = tokio::io::duplex(step);
            let sending = tokio::spawn(async move { drop(far.write_all(&wire).await) });
            let mut reader = ResponseReader::new(near);
            let mut heads = Vec::new();
            let end = loop {
                match reader.head(&method).await {
                    Ok(head) if head.status.is_informational() => heads.push((head.status, sorted(&head.headers))),
                    Ok(head) => {
                        heads.push((head.status, sorted(&head.headers)));
                        let mut body = Vec::new();
                        break loop {
                            match reader.chunk().await {
                                Ok(Some(bytes)) => body.extend_from_slice(&bytes),
                                Ok(None) => break Some((body, true)),
                                Err(_) => break Some((body, false)),
                            }
                        };
                    }
                    Err(_) => break None,
                }
            };
            sending.abort();
            (heads, end.filter(|(_, whole)| *whole))
        };
        block(async {
            let wire = Bytes::from(wire);
            prop_assert_eq!(read(wire.clone(), PIPE).await, read(wire, step).await);
            Ok(())
        })?;
    }

    #[test]
    fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..300), wire in soup()) {
        for bytes in [bytes, wire] {
            let shared = Bytes::from(bytes.clone());
            block(async {
                our_request(&bytes).await;
                let mut io = ResponseReader::new(&bytes[..]);
                if io.head(&Method::GET).await.is_ok() {
                    while let Ok(Some(_)) = io.chunk().await {}
                }
            });
            field_names(&bytes).for_each(drop);
            reread(&shared);
            h2_fingerprint::of(&bytes);
            if let Some(message) = client_hello::message(&bytes) {
                ClientHello::parse(&message);
            }
            if let Some(hello) = ClientHello::parse(&bytes) {
                hello.ja3();
                hello.ja4();
            }
            drop(String::from_utf8_lossy(&bytes).parse::<Targets>());
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let hops = Hops { trusted: vec!["127.0.0.0/8".parse().expect("a network")], proxy_protocol: false };
                let local = SocketAddr::from(([127, 0, 0, 1], 1));
                let client = Arc::new(Client { address: local, server: local, tls: None, secure: false });
                for name in ["forwarded", "x-forwarded-for", "x-forwarded-proto", "cdn-loop"] {
                    let mut headers = HeaderMap::new();
                    headers.insert(name, value.clone());
                    hops::client_of(&hops, &client, &headers);
                    cdn_loop::is_loop(&headers);
                }
            }
        }
    }

    /// A ClientHello that is nearly one: a real one with some bytes changed, or cut.
    #[test]
    fn a_damaged_hello_is_survived(changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), cut in any::<prop::sample::Index>()) {
        let mut hello = hello();
        for (at, byte) in changes {
            let at = at.index(hello.len());
            hello[at] = byte;
        }
        hello.truncate(cut.index(hello.len()) + 1);
        for bytes in [client_hello::message(&hello), Some(hello)].into_iter().flatten() {
            if let Some(hello) = ClientHello::parse(&bytes) {
                hello.ja3();
                hello.ja4();
            }
        }
    }
}

/// What rustls sends first.
fn hello() -> Vec<u8> {
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let mut client = rustls::ClientConnection::new(Arc::new(config), "a.test".try_into().expect("a name")).expect("a client");
    let mut sent = Vec::new();
    client.write_tls(&mut sent).expect("room");
    sent
}
