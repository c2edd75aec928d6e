//! What happens to a process: killed while it writes, clocks that are set, names that come and go.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::client::Connection;
use crate::harness::{Setup, Sidelight, guest};
use crate::origin::{self, Origin};

/// Bodies that say whose they are, in every part.
fn body_of(path: &str) -> String {
    format!("{path};").repeat(20_000)
}

fn fetched_or_kept(sidelight: &Sidelight, path: &str) -> bool {
    let answer = sidelight.get(path);
    assert_eq!(answer.status, 200, "{path}");
    assert!(answer.text() == body_of(path.trim_start_matches("/plain")), "{path}: not what the origin said");
    answer.header("x-cache") == Some("HIT")
}

fn cacheable() -> Origin {
    Origin::new(|seen| {
        let path = seen.target.trim_start_matches("/plain");
        hyper::Response::builder().header("cache-control", "max-age=1000").body(origin::text(body_of(path))).expect("a response")
    })
}

/// Whatever it was writing, it begins again, and what it has kept is whole.
#[test]
fn killed_while_the_cache_is_written() {
    let origin = cacheable();
    let folder = tempfile::tempdir().expect("a folder");
    let start = || {
        let setup = Setup::new(guest("rust", "cache")).backend("origin", origin.url());
        setup.arg(&format!("--data-dir {} --cache-disk 64", folder.path().display())).start()
    };
    let mut kept = 0;
    for round in 0..4_u32 {
        let sidelight = start();
        // In the first round there is nothing; later, what was there before is whole or fetched again.
        kept += (0..40).filter(|index| fetched_or_kept(&sidelight, &format!("/plain/{index}"))).count() * usize::from(round > 0);
        let written = AtomicU32::new(0);
        let addr = sidelight.addr;
        std::thread::scope(|scope| {
            for writer in 0..2 {
                let written = &written;
                scope.spawn(move || {
                    for index in 0.. {
                        let mut connection = Connection::open(addr);
                        let path = format!("/plain/{round}-{writer}-{index}");
                        if !connection.try_write(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes())
                            || connection.try_answer().is_none()
                        {
                            return;
                        }
                        written.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            while written.load(Ordering::Relaxed) < 20 + round * 7 {
                std::thread::sleep(Duration::from_millis(1));
            }
            sidelight.signal(Signal::SIGKILL);
        });
        sidelight.end();
    }
    assert!(kept > 0, "nothing was ever kept");
}

/// In the middle of compiling, or of keeping what was compiled: the next start is none the worse.
#[test]
fn killed_while_it_starts() {
    let modules = tempfile::tempdir().expect("a folder");
    let arguments = format!("--cache-dir {}", modules.path().display());
    for after in [5_u64, 40, 100, 200, 400, 700, 1000, 1500] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = Setup::new(guest("rust", "hello")).arg(&arguments).spawn(folder.path());
        std::thread::sleep(Duration::from_millis(after));
        child.kill().expect("dies");
        child.wait().expect("ends");
    }
    let sidelight = Setup::new(guest("rust", "hello")).arg(&arguments).start();
    assert_eq!(sidelight.get("/").status, 200);
    drop(sidelight);
    let unfinished = |folder: &Path| {
        let files = std::fs::read_dir(folder).expect("the folder").filter_map(Result::ok);
        files.map(|file| file.file_name().to_string_lossy().into_owned()).filter(|name| name.contains("tmp")).count()
    };
    assert_eq!(unfinished(modules.path()), 0, "what was begun is cleared away");
}

/// The machine's clock is set a day ahead and two back, under load: what is fresh stays fresh, what is under way goes on, nobody is
/// thrown out.
#[test]
fn the_clock_is_set() {
    const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
    if !Path::new(FAKETIME).exists() {
        assert!(std::env::var_os("CI").is_none(), "CI has libfaketime");
        eprintln!("skipped: no libfaketime (Debian: faketime)");
        return;
    }
    let origin = cacheable();
    let clock = tempfile::NamedTempFile::new().expect("a file");
    let set = |to: &str| {
        std::fs::write(clock.path(), format!("{to}\n")).expect("writes");
        std::thread::sleep(Duration::from_millis(300));
    };
    set("+0");
    let sidelight = Setup::new(guest("rust", "cache"))
        .backend("origin", origin.url())
        .env("LD_PRELOAD", FAKETIME)
        .env("FAKETIME_TIMESTAMP_FILE", clock.path().display().to_string())
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .arg("--idle-timeout 20s --head-timeout 10s")
        .start();
    let mut idle = Connection::open(sidelight.addr);
    let ask = b"GET /plain/a HTTP/1.1\r\nHost: a\r\n\r\n";
    idle.write(ask);
    assert_eq!(idle.answer().status, 200);
    assert!(!fetched_or_kept(&sidelight, "/plain/a"), "it is another host");
    let mut slow = Connection::open(sidelight.addr);
    slow.write(b"GET /plain/a HTTP/1.1\r\n");
    for to in ["+1d", "-2d", "+0"] {
        set(to);
        assert!(fetched_or_kept(&sidelight, "/plain/a"), "{to}: it is fresh for 1000 s");
        let age = sidelight.get("/plain/a").header("age").and_then(|age| age.parse::<u32>().ok());
        assert!(age < Some(60), "{to}: {age:?}");
        idle.write(ask);
        assert_eq!(idle.answer().status, 200, "{to}");
    }
    slow.write(b"Host: a\r\n\r\n");
    assert_eq!(slow.answer().status, 200);
    // It did see another day.
    set("+400d");
    let year = |text: &str| text.lines().rev().find_map(|line| line.get(..4)?.parse::<u32>().ok());
    sidelight.operate("POST", "/reload");
    sidelight.wait_until("a line of another year", |sidelight| year(&sidelight.log.text()) > Some(2026));
}

/// Whether the harness may give a process a file of hosts of its own.
fn may_mount() -> bool {
    let may = Command::new("unshare").args(["-m", "true"]).status();
    if may.is_ok_and(|status| status.success()) {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "CI may mount files");
    eprintln!("skipped: no right to mount a file");
    false
}

fn with_hosts(setup: Setup, hosts: &Path) -> Setup {
    let mount = format!("mount --bind {} /etc/hosts && exec \"$@\"", hosts.display());
    setup.within(&["unshare", "-m", "sh", "-c", &mount, "sh"])
}

/// The name of a backend that is there, is gone, and is there again.
#[test]
fn a_name_that_comes_and_goes() {
    let hang_up = Arc::new(AtomicBool::new(false));
    let hangs_up = hang_up.clone();
    let origin = Origin::new(move |_| {
        let mut response = hyper::Response::new(origin::text("here"));
        if hangs_up.load(Ordering::Relaxed) {
            response.headers_mut().insert("connection", "close".parse().expect("a value"));
        }
        response
    });
    let port = origin.url().rsplit_once(':').expect("a port").1.trim_end_matches('/').to_owned();
    let hosts = tempfile::NamedTempFile::new().expect("a file");
    let names = |text: &str| std::fs::write(hosts.path(), text).expect("writes");
    names("127.0.0.1 localhost\n127.0.0.1 origin.test\n");
    if !may_mount() {
        return;
    }
    let setup = Setup::behaviours("rust")
        .manifest(&format!("[local_server.backends.named]\nurl = \"http://origin.test:{port}\"\n[local_server.backends.origin]\nurl = \"http://origin.test:{port}\"\n"));
    let sidelight = with_hosts(setup, hosts.path()).start();
    assert_eq!(sidelight.get("/pass/x").text(), "here");
    names("127.0.0.1 localhost\n");
    // A connection that is open is used as long as it lasts.
    assert_eq!(sidelight.get("/pass/x").text(), "here");
    hang_up.store(true, Ordering::Relaxed);
    sidelight.wait_until("no name", |sidelight| sidelight.get("/pass/x").status == 502);
    assert!(sidelight.metric("sidelight_backend_requests_total{service=\"it\",backend=\"origin\",result=\"dns_error\"}") > 0.5);
    names("127.0.0.1 localhost\n127.0.0.1 origin.test\n");
    sidelight.wait_until("the name again", |sidelight| sidelight.get("/pass/x").status == 200);
}

/// A name that is allowed for where it leads, and then leads elsewhere (DNS rebinding), and a redirect to there: neither gets to an address
/// that is not allowed.
#[test]
fn a_name_that_is_led_inside() {
    if !may_mount() {
        return;
    }
    let inner = Origin::fixed("inner");
    let port = inner.addr.port();
    let outer = TcpListener::bind(("127.0.0.2", port)).expect("binds");
    std::thread::spawn(move || {
        for stream in outer.incoming() {
            let mut stream = stream.expect("a connection");
            let _ = stream.read(&mut [0; 4096]);
            let head =
                format!("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{port}/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(head.as_bytes());
        }
    });
    let hosts = tempfile::NamedTempFile::new().expect("a file");
    let leads = |lines: &str| std::fs::write(hosts.path(), format!("127.0.0.1 localhost\n{lines}")).expect("writes");
    leads("127.0.0.2 led.test\n");
    let sidelight = with_hosts(Setup::new(guest("rust", "backends")).arg("--dynamic-backends 127.0.0.2"), hosts.path()).start();
    let ask = || sidelight.get(&format!("/?target=led.test:{port}"));
    let refused = "not sent: DestinationIpUnroutable\n";
    // The program gets the redirect; nobody follows it.
    assert_eq!(ask().status, 302);
    leads("127.0.0.1 led.test\n");
    assert_eq!(ask().text(), refused);
    // Of several addresses only those count that are allowed, in either order.
    leads("127.0.0.1 led.test\n127.0.0.2 led.test\n");
    assert_eq!(ask().status, 302);
    leads("127.0.0.2 led.test\n127.0.0.1 led.test\n");
    assert_eq!(ask().status, 302);
    leads("::ffff:127.0.0.1 led.test\n");
    assert_eq!(ask().text(), refused);
    sidelight.log.wait_for(&["led.test", "--dynamic-backends"]);
    assert_eq!(inner.connections(), 0);
}

/// Whoever compiles programs is gone, and nobody here may start another: what is served is served on, and everybody is told.
#[test]
fn the_helper_that_compiles_is_gone() {
    let service = "[services.one]\nmodule = \"one.wasm\"\n";
    let modules = tempfile::tempdir().expect("a folder");
    let setup = Setup::host(service).copy("one.wasm", &guest("rust", "hello")).arg(&format!("--cache-dir {}", modules.path().display()));
    let sidelight = setup.start();
    assert_eq!(sidelight.operate("GET", "/readyz").text(), "ok\n");
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", sidelight.pid())).expect("reads");
    let helper: i32 = children.split_whitespace().next().expect("a child").parse().expect("a number");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(helper), Signal::SIGKILL).expect("ends it");
    sidelight.log.wait_for(&["ERROR", "the helper that compiles is gone"]);
    let ready = sidelight.operate("GET", "/readyz");
    assert_eq!(ready.status, 200);
    assert!(ready.text().starts_with("degraded\nthe helper that compiles is gone"), "{}", ready.text());
    std::fs::copy(guest("rust", "behaviours"), sidelight.path("one.wasm")).expect("copies");
    let verdict = sidelight.reload();
    assert!(verdict["result"] == "failed" && verdict.to_string().contains("restart this process"), "{verdict}");
    assert_eq!(sidelight.get("/").status, 200);
}
