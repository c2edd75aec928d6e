//! Bytes flow as they are made, in both directions, and a slow reader slows the writer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Response;

use crate::client::Connection;
use crate::harness::Setup;
use crate::languages;
use crate::origin::{self, Origin};

languages!(
    fn a_guests_pieces_come_one_by_one(language) {
        let sidelight = Setup::behaviours(language).start();
        let mut connection = Connection::open(sidelight.addr);
        connection.write(b"GET /stream?n=4&ms=150 HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = connection.head();
        assert_eq!(head.header("transfer-encoding"), Some("chunked"));
        // The first piece is here while the guest still sleeps before the last.
        let mut text = String::from_utf8(connection.chunk().expect("a chunk")).expect("text");
        assert!(text.starts_with("piece 0\n"), "{text}");
        assert!(!text.contains("piece 3"), "everything came at once");
        let mut chunks = 1;
        while let Some(chunk) = connection.chunk().filter(|chunk| !chunk.is_empty()) {
            text.push_str(std::str::from_utf8(&chunk).expect("text"));
            chunks += 1;
        }
        assert_eq!(text, "piece 0\npiece 1\npiece 2\npiece 3\n");
        assert!(chunks > 1);
    }
);

languages!(
    fn events_of_an_origin_arrive_one_by_one(language) {
        // The origin sends the next event only when the client says that it has the one before.
        let (acknowledge, acknowledged) = tokio::sync::mpsc::unbounded_channel::<()>();
        let acknowledged = Arc::new(tokio::sync::Mutex::new(acknowledged));
        let origin = Origin::raw(move |_| {
            let acknowledged = acknowledged.clone();
            async move {
                let (sender, body) = origin::streamed();
                tokio::spawn(async move {
                    for i in 0..5 {
                        drop(sender.send(Ok(Bytes::from(format!("data: {i}\n\n")))).await);
                        acknowledged.lock().await.recv().await;
                    }
                });
                Response::builder().header("content-type", "text/event-stream").body(body).expect("a response")
            }
        });
        let sidelight = Setup::behaviours(language).backend("origin", origin.url()).start();
        let mut connection = Connection::open(sidelight.addr);
        connection.write(b"GET /pass/events HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(connection.head().header("content-type"), Some("text/event-stream"));
        for i in 0..5 {
            assert_eq!(connection.chunk().expect("an event"), format!("data: {i}\n\n").as_bytes());
            acknowledge.send(()).expect("the origin lives");
        }
        assert_eq!(connection.chunk().expect("the end"), b"");
    }
);

#[test]
fn a_request_body_arrives_as_it_is_sent() {
    // The client sends the next piece only when the origin has the one before.
    let got = Arc::new(Mutex::new(Vec::new()));
    let seen = got.clone();
    let origin = Origin::raw(move |mut request| {
        let seen = seen.clone();
        async move {
            while let Some(Ok(frame)) = request.body_mut().frame().await {
                if let Ok(data) = frame.into_data() {
                    seen.lock().expect("the list").extend_from_slice(&data);
                }
            }
            Response::new(origin::text("done"))
        }
    });
    let sidelight = Setup::behaviours("rust").backend("origin", origin.url()).start();
    let mut connection = Connection::open(sidelight.addr);
    connection.write(b"POST /pass/up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut expected = Vec::new();
    for i in 0..5 {
        connection.write(format!("2\r\n{i};\r\n").as_bytes());
        expected.extend_from_slice(format!("{i};").as_bytes());
        let deadline = std::time::Instant::now() + crate::harness::PATIENCE;
        while *got.lock().expect("the list") != expected {
            assert!(std::time::Instant::now() < deadline, "the origin never got piece {i}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
    connection.write(b"0\r\n\r\n");
    assert_eq!(connection.answer().text(), "done");
}

#[test]
fn both_directions_flow_at_once() {
    // An origin that answers each piece as it comes.
    let origin = Origin::raw(|mut request| async move {
        let (sender, body) = origin::streamed();
        tokio::spawn(async move {
            while let Some(Ok(frame)) = request.body_mut().frame().await {
                if let Ok(data) = frame.into_data() {
                    drop(sender.send(Ok(data)).await);
                }
            }
        });
        Response::new(body)
    });
    let sidelight = Setup::behaviours("rust").backend("origin", origin.url()).start();
    let mut connection = Connection::open(sidelight.addr);
    connection.write(b"POST /pass/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na;\r\n");
    assert_eq!(connection.head().status, 200);
    assert_eq!(connection.chunk().expect("an echo"), b"a;");
    for piece in ["b;", "c;", "d;"] {
        connection.write(format!("2\r\n{piece}\r\n").as_bytes());
        assert_eq!(connection.chunk().expect("an echo"), piece.as_bytes());
    }
    connection.write(b"0\r\n\r\n");
    assert_eq!(connection.chunk().expect("the end"), b"");
}

#[test]
fn a_slow_reader_slows_the_origin() {
    // Far more than sockets and buffers hold; the origin counts what it could get rid of.
    const PIECE: usize = 64 << 10;
    const PIECES: usize = 1024;
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let origin = Origin::raw(move |_| {
        let count = count.clone();
        async move {
            let (sender, body) = origin::streamed();
            tokio::spawn(async move {
                for _ in 0..PIECES {
                    if sender.send(Ok(Bytes::from(vec![b'x'; PIECE]))).await.is_err() {
                        return;
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
            Response::new(body)
        }
    });
    let sidelight = Setup::behaviours("rust").backend("origin", origin.url()).start();
    let mut connection = Connection::open(sidelight.addr);
    connection.write(b"GET /pass/big HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(connection.head().status, 200);
    let mut before = 0;
    // Until nothing moves any more.
    loop {
        std::thread::sleep(std::time::Duration::from_millis(300));
        let now = sent.load(Ordering::Relaxed);
        if now == before && now > 0 {
            break;
        }
        before = now;
    }
    assert!(before < PIECES, "64 MiB went to a client that reads nothing");
    let mut total = 0;
    while let Some(chunk) = connection.chunk().filter(|chunk| !chunk.is_empty()) {
        total += chunk.len();
    }
    assert_eq!(total, PIECE * PIECES);
}
