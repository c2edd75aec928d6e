//! File descriptors: clients, connections to backends, services and operators have shares of their own.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use crate::client::{self, Connection};
use crate::faults::set;
use crate::handoff;
use crate::harness::{Setup, Sidelight, guest};
use crate::origin::{Origin, RUNTIME};
use crate::reload::saying;

/// With so few, hard limit and soft one.
fn with(setup: Setup, descriptors: u32) -> Sidelight {
    setup.within(&["sh", "-c", &format!("ulimit -n {descriptors} && exec \"$@\""), "sh"]).start()
}

/// Takes connections and says nothing: where, and how many it has taken.
fn silent() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let (address, taken) = (listener.local_addr().expect("an address"), Arc::new(AtomicUsize::new(0)));
    let counter = taken.clone();
    thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming() {
            held.push(stream.expect("a connection"));
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    (address, taken)
}

/// A service that passes requests on to `origin`, and one with a program and a backend that is asked for much.
fn neighbours(origin: &Origin, program: &str, backend: &str) -> Setup {
    Setup::host(&format!(
        "[services.own]\nhosts = [\"own.test\"]\nmodule = \"{}\"\nbackends.origin.url = \"http://{}\"\n\
         [services.much]\nhosts = [\"much.test\"]\nmodule = \"{}\"\n{backend}\n",
        guest("rust", "passthrough").display(),
        origin.addr,
        guest("rust", program).display(),
    ))
}

/// The other service and operators are served.
fn others_are_served(sidelight: &Sidelight, descriptors: u32) {
    for _ in 0..5 {
        assert_eq!(sidelight.get_of("own.test", "/").text(), "here");
    }
    assert_eq!((sidelight.operate("GET", "/livez").status, sidelight.operate("GET", "/readyz").status), (200, 200));
    let open = std::fs::read_dir(format!("/proc/{}/fd", sidelight.pid())).expect("its files").count();
    assert!(open < descriptors as usize - 32, "{open}");
}

/// One request that sends hundreds, of which none is answered.
#[test]
fn of_a_request_that_sends_many() {
    let ((address, taken), origin) = (silent(), Origin::fixed("here"));
    let backend = format!("[services.much.backends.origin]\nurl = \"http://{address}\"\nfirst_byte_timeout_ms = 4000\n");
    let sidelight = with(neighbours(&origin, "exhaust", &backend), 400);
    let addr = sidelight.addr;
    let asking = thread::spawn(move || client::send(addr, "GET /unread?n=300 HTTP/1.1\r\nHost: much.test\r\nConnection: close\r\n\r\n"));
    sidelight.wait_until("many connections", |_| taken.load(Ordering::Relaxed) > 60);
    others_are_served(&sidelight, 400);
    assert_eq!(asking.join().expect("an answer").text(), "0\n");
    assert!(taken.load(Ordering::Relaxed) < 300);
    let failed = "sidelight_backend_requests_total{service=\"much\",backend=\"origin\",result=\"connection_limit_reached\"}";
    assert!(sidelight.metric(failed) > 100.0);
    others_are_served(&sidelight, 400);
}

/// Answers each request as its path says, well and otherwise; `/hold` when so many wait for it.
fn fickle(held: usize) -> SocketAddr {
    fn serve(mut stream: TcpStream, held: &Barrier) -> io::Result<()> {
        let mut requests = BufReader::new(stream.try_clone()?).lines();
        while let Some(line) = requests.next() {
            let line = line?;
            while requests.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let path = line.split(' ').nth(1).unwrap_or_default();
            match path {
                "/half" => return stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"),
                "/chunk" => return stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\nhalf"),
                "/none" => return stream.write_all(b"none\r\n\r\n"),
                "/gone" => return Ok(()),
                "/silent" => continue,
                "/more" => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nmore")?,
                "/large" => {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")?;
                    (0..1000).try_for_each(|_| stream.write_all(&[b'x'; 100_000]))?;
                }
                _ => {
                    if path == "/hold" {
                        held.wait();
                    }
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell")?;
                }
            }
        }
        Ok(())
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let (address, held) = (listener.local_addr().expect("an address"), Arc::new(Barrier::new(held)));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let held = held.clone();
            // Whoever asked may be gone.
            thread::spawn(move || drop(serve(stream.expect("a connection"), &held)));
        }
    });
    address
}

/// However an exchange ends, its connection's place is another's then.
#[test]
fn of_exchanges_that_end_badly() {
    const HELD: usize = 60;
    let (address, origin) = (fickle(HELD), Origin::fixed("here"));
    let backend = format!("[services.much.backends.origin]\nurl = \"http://{address}\"\nfirst_byte_timeout_ms = 20\n");
    let sidelight = with(neighbours(&origin, "passthrough", &backend), 400);
    for path in ["/half", "/chunk", "/none", "/gone", "/silent", "/more"] {
        for _ in 0..100 {
            // Broken off, or an error: whatever it is, it ends.
            let mut connection = Connection::open(sidelight.addr);
            connection.write(format!("GET {path} HTTP/1.1\r\nHost: much.test\r\nConnection: close\r\n\r\n").as_bytes());
            assert!(!connection.discard(1 << 40));
        }
    }
    // Clients that leave in the middle, and those that do before there is anything.
    for path in ["/large", "/silent"] {
        for _ in 0..100 {
            let mut connection = Connection::open(sidelight.addr);
            connection.write(format!("GET {path} HTTP/1.1\r\nHost: much.test\r\n\r\n").as_bytes());
            if path == "/large" {
                assert!(connection.discard(100_000));
            }
        }
    }
    for faults in [r#"{"resets": 100, "reset_after": 2}"#, r#"{"failures": 100, "failure": "connection_refused"}"#, r#"{"errors": 100}"#] {
        set(&sidelight, "PUT", "/faults/much/origin", faults);
        for _ in 0..100 {
            let mut connection = Connection::open(sidelight.addr);
            connection.write(b"GET /well HTTP/1.1\r\nHost: much.test\r\nConnection: close\r\n\r\n");
            assert!(!connection.discard(1 << 40));
        }
    }
    set(&sidelight, "DELETE", "/faults/much/origin", "");
    others_are_served(&sidelight, 400);
    sidelight.wait_metric("sidelight_sandboxes", 0.0);
    // Of the 85 or so that it may have, so many are there.
    let settings = std::fs::read_to_string(sidelight.path("sidelight.toml")).expect("a file");
    sidelight.write("sidelight.toml", &settings.replace("first_byte_timeout_ms = 20", "first_byte_timeout_ms = 60000"));
    // The watcher may be there first.
    assert_ne!(sidelight.reload()["result"], "failed");
    let addr = sidelight.addr;
    let holding: Vec<_> = (0..HELD)
        .map(|_| thread::spawn(move || client::send(addr, "GET /hold HTTP/1.1\r\nHost: much.test\r\nConnection: close\r\n\r\n").text()))
        .collect();
    for one in holding {
        assert_eq!(one.join().expect("an answer"), "well");
    }
    others_are_served(&sidelight, 400);
}

/// WebSockets count for no sandbox, and are not without end.
#[test]
fn of_websockets() {
    let origin = Origin::fixed("here");
    let backend = format!("backends.ws.url = \"http://{}/base\"", handoff::echo());
    let sidelight = with(neighbours(&origin, "handoff", &backend), 400);
    let open = |_| RUNTIME.block_on(handoff::open_of(sidelight.addr, "much.test", "/ws/ws"));
    let mut sockets: Vec<_> = (0..160).map_while(|n| open(n).ok()).collect();
    assert!((40..140).contains(&sockets.len()), "{}", sockets.len());
    others_are_served(&sidelight, 400);
    // Each that goes makes room for one.
    drop(sockets.split_off(sockets.len() - 5));
    sidelight.wait_until("room for one more", |_| open(0).is_ok());
}

/// Clients that wait for a backend have two each.
#[test]
fn of_clients_that_wait() {
    let ((address, _), origin) = (silent(), Origin::fixed("here"));
    let backend = format!("[services.much.backends.origin]\nurl = \"http://{address}\"\n");
    let sidelight = with(neighbours(&origin, "passthrough", &backend), 400);
    let waiting: Vec<Connection> = (0..250)
        .map(|_| {
            let mut connection = Connection::open(sidelight.addr);
            connection.write(b"GET / HTTP/1.1\r\nHost: much.test\r\n\r\n");
            connection
        })
        .collect();
    sidelight.log.wait_for(&["as there are file descriptors for", "no further one is accepted"]);
    // None of them was asked to go: all wait for the backend.
    assert!(sidelight.metric("sidelight_refusals_total{reason=\"crowded\"}") < 0.5);
    // Those for whom there is no connection are told so, and are asked to go: their places are others'.
    others_are_served(&sidelight, 400);
    drop(waiting);
}

/// Services that come and go, more than there are files for: some are, the others are told why, and come when those are gone.
#[test]
fn of_services() {
    let setup = Setup::host("services_dir = \"services\"\n[services.own]\nhosts = [\"own.test\"]\nmodule = \"own.wat\"\n");
    let sidelight = with(setup.file("own.wat", &saying("here")), 256);
    let put = |n: u32| {
        sidelight.write(&format!("services/s{n:03}/app.wat"), &saying(&format!("s{n}")));
        sidelight.write(&format!("services/s{n:03}/service.toml"), &format!("hosts = [\"s{n}.test\"]\nmodule = \"app.wat\"\n"));
    };
    (0..100).for_each(put);
    sidelight.wait_until("all that there is room for", |sidelight| sidelight.reload().get("preparing").is_none());
    let status = sidelight.operate("GET", "/status").json();
    let (served, faulty) = (status["services"].as_array().expect("a list").len() - 1, status["faulty"].as_array().expect("a list").len());
    assert!(served + faulty == 100 && served > 5 && faulty > 5, "{served} {faulty}");
    let error = status["faulty"][0]["error"].as_str().expect("an error");
    assert!(error.contains("ulimit -n") && error.contains("file descriptors") && error.contains("of the process's 256"), "{error}");
    others_are_served(&sidelight, 256);
    // All of those that are there can change at once.
    let names: Vec<String> = status["services"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|service| service["hosts"][0].as_str())
        .map(str::to_owned)
        .collect();
    for name in names.iter().filter(|name| *name != "own.test") {
        let n: u32 = name.trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("a number");
        sidelight.write(&format!("services/s{n:03}/app.wat"), &saying("anew"));
    }
    sidelight.wait_until("the new ones", |sidelight| {
        names.iter().filter(|name| *name != "own.test").all(|name| sidelight.get_of(name, "/").text() == "anew")
    });
    others_are_served(&sidelight, 256);
    for n in 0..90 {
        std::fs::remove_dir_all(sidelight.path(&format!("services/s{n:03}"))).expect("removes");
    }
    sidelight.wait_until("the last ones", |sidelight| sidelight.get_of("s99.test", "/").text() == "s99");
    assert!(sidelight.operate("GET", "/status").json().get("faulty").is_none());
}

/// A host file that asks for more is refused, at the start and later.
#[test]
fn of_log_endpoints() {
    let with_logs = |count: usize| {
        let mut text = String::from("[services.own]\nhosts = [\"own.test\"]\nmodule = \"own.wat\"\n");
        (0..count).for_each(|n| text.push_str(&format!("sidelight.logs.l{n} = {{ kind = \"file\", path = \"l{n}\" }}\n")));
        text
    };
    let few = ["sh", "-c", "ulimit -n 256 && exec \"$@\"", "sh"];
    let setup = |count| Setup::host(&with_logs(count)).file("own.wat", &saying("here")).within(&few);
    let (status, output) = setup(200).fails();
    assert_eq!(status.code(), Some(2));
    assert!(output.contains("ulimit -n") && output.contains("402 file descriptors"), "{output}");
    let sidelight = setup(5).start();
    sidelight.write("sidelight.toml", &with_logs(200));
    let verdict = sidelight.reload();
    assert_eq!(verdict["result"], "failed");
    assert!(verdict["error"].as_str().is_some_and(|error| error.contains("402 file descriptors")), "{verdict}");
    others_are_served(&sidelight, 256);
}

/// Clients do not have all: backends are reached, operators are answered, and those that ask for nothing make room for others.
#[test]
fn of_clients() {
    let origin = Origin::fixed("here");
    let sidelight = with(Setup::behaviours("rust").backend("origin", origin.url()), 256);
    // At work all the while.
    let mut busy = Connection::open(sidelight.addr);
    busy.write(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
    sidelight.wait_metric("sidelight_sandboxes", 1.0);
    let held: Vec<TcpStream> = (0..400)
        .map(|n| {
            let mut stream = TcpStream::connect(sidelight.addr).expect("the kernel takes it");
            // Nothing, or half a head. Some are gone by then.
            if n % 2 == 0 {
                drop(stream.write_all(b"GET / HTTP/1.1\r\nHo"));
            }
            stream
        })
        .collect();
    sidelight.log.wait_for(&["as there are file descriptors for", "(ulimit -n)"]);
    assert_eq!((sidelight.operate("GET", "/livez").status, sidelight.operate("GET", "/readyz").status), (200, 200));
    for _ in 0..20 {
        assert_eq!(sidelight.get("/pass/x").text(), "here");
    }
    assert!(sidelight.metric("sidelight_refusals_total{reason=\"crowded\"}") >= 300.0);
    busy.write(b"world");
    let answer = busy.answer();
    assert_eq!((answer.status, answer.text().contains("helloworld")), (200, true), "{}", answer.text());
    drop(held);
    assert_eq!(sidelight.get("/pass/x").text(), "here");
}

/// Nor do those who look after the process.
#[test]
fn of_operators() {
    let origin = Origin::fixed("here");
    let sidelight = with(Setup::behaviours("rust").backend("origin", origin.url()), 256);
    let held: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(sidelight.admin).expect("the kernel takes it")).collect();
    // The oldest go for each that comes: whoever looks has an answer.
    sidelight.log.wait_for(&["the oldest one ends", "admin"]);
    assert_eq!((sidelight.operate("GET", "/livez").status, sidelight.operate("GET", "/readyz").status), (200, 200));
    assert_eq!(sidelight.get("/pass/x").text(), "here");
    assert!(sidelight.metric("sidelight_refusals_total{reason=\"accept\"}") >= 200.0);
    drop(held);
}

/// What the process may raise its limit to, it does.
#[test]
fn the_limit_is_raised() {
    let few = ["sh", "-c", "ulimit -Sn 200 && ulimit -Hn 3000 && exec \"$@\"", "sh"];
    let sidelight = Setup::behaviours("rust").within(&few).start();
    assert_eq!(sidelight.metric("process_max_fds"), 3000.0);
}
