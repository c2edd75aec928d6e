//! SIGTERM: what is in flight ends, the process too, and its exit code says how it went.

use nix::sys::signal::Signal;

use crate::client::Connection;
use crate::harness::Setup;

#[test]
fn an_idle_server_ends_at_once() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let sidelight = Setup::behaviours("rust").start();
        let mut idle = Connection::open(sidelight.addr);
        idle.write(b"GET /synthetic HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(idle.answer().status, 418);
        sidelight.signal(signal);
        assert!(idle.closed());
        assert_eq!(sidelight.end().code(), Some(0));
    }
}

#[test]
fn a_request_in_flight_is_finished() {
    let sidelight = Setup::behaviours("rust").start();
    let mut connection = Connection::open(sidelight.addr);
    connection.write(b"GET /stream?n=5&ms=200 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(connection.head().status, 200);
    sidelight.signal(Signal::SIGTERM);
    let mut pieces = 0;
    while let Some(chunk) = connection.chunk() {
        if chunk.is_empty() {
            pieces += 100;
            break;
        }
        pieces += chunk.iter().filter(|b| **b == b'\n').count();
    }
    assert_eq!(pieces, 105, "all pieces and the proper end");
    assert_eq!(sidelight.end().code(), Some(0));
}

#[test]
fn what_takes_too_long_is_cut_off() {
    let sidelight = Setup::behaviours("rust").arg("--drain-timeout 300ms").start();
    let mut connection = Connection::open(sidelight.addr);
    connection.write(b"GET /stream?n=1000&ms=100 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(connection.head().status, 200);
    sidelight.signal(Signal::SIGTERM);
    assert_eq!(sidelight.end().code(), Some(6));
}
