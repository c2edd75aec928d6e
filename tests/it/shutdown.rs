//! SIGTERM: what is in flight ends, the process too, and its exit code says how it went.

use nix::sys::signal::Signal;

use crate::client::Connection;
use crate::harness::{Log, Setup};

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

/// Also one that serves nothing yet, since its program does not come: the first process of a container has to see to that itself.
#[test]
fn one_that_still_starts_ends_too() {
    let slow = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let module = format!("http://{}/x#sha256={}", slow.local_addr().expect("an address"), "0".repeat(64));
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = Setup::host(&format!("[services.it]\nmodule = \"{module}\"\n")).spawn(folder.path());
        let log = Log::default();
        log.follow(child.stderr.take().expect("a pipe"));
        let _fetching = slow.accept().expect("the fetch");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), signal).expect("is sent");
        assert_eq!(child.wait().expect("a status").code(), Some(0));
        log.wait_for(&["stopped before anything was served"]);
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
