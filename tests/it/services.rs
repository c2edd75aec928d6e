//! Several services in one process.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::client::Connection;
use crate::harness::{Setup, Sidelight, guest};
use crate::origin::Origin;
use crate::reload::saying;

fn service(name: &str, more: &str) -> String {
    format!("[services.{name}]\nmodule = \"{name}.wat\"\n{more}\n")
}

#[test]
fn by_host_and_path() {
    let host = [
        service("shop", "hosts = [\"shop.test\", \"WWW.shop.test.\"]"),
        service("api", "hosts = [\"shop.test\"]\npaths = [\"/api\", \"/v2/\"]"),
        service("preview", "hosts = [\"*.preview.test\"]"),
        service("one", "hosts = [\"one.preview.test\"]"),
        service("deep", "hosts = [\"*.deep.preview.test\"]"),
        service("status", "paths = [\"/status\"]"),
    ]
    .concat();
    let names = ["shop", "api", "preview", "one", "deep", "status"];
    let setup = names.iter().fold(Setup::host(&host), |setup, name| setup.file(&format!("{name}.wat"), &saying(name)));
    let sidelight = setup.start();
    for (host, path, wanted) in [
        ("shop.test", "/", "shop"),
        ("SHOP.test:8080", "/x?y", "shop"),
        ("www.shop.test", "/", "shop"),
        ("shop.test", "/api", "api"),
        ("shop.test", "/api/x", "api"),
        ("shop.test", "/apix", "shop"),
        ("shop.test", "/v2/x", "api"),
        ("www.shop.test", "/api", "shop"),
        ("a.preview.test", "/", "preview"),
        ("a.b.preview.test", "/", "preview"),
        ("one.preview.test", "/", "one"),
        ("a.deep.preview.test", "/", "deep"),
        ("deep.preview.test", "/", "preview"),
        ("elsewhere.test", "/status", "status"),
    ] {
        let answer = sidelight.get_of(host, path);
        assert_eq!((answer.status, answer.text().as_str()), (200, wanted), "{host}{path}");
    }
    let answer = sidelight.get_of("elsewhere.test", "/");
    assert_eq!(answer.status, 404);
    assert_eq!(answer.values("x-request-id").len(), 1);
    assert_eq!(sidelight.get_of("preview.test", "/").status, 404);
}

/// What the host file says of a service is put over its manifest, key by key.
#[test]
fn overrides() {
    let (production, staging) =
        (Origin::fixed("production"), Origin::new(|seen| hyper::Response::new(crate::origin::text(seen.values("host").concat()))));
    let module = guest("rust", "passthrough");
    let host = format!(
        "[services.a]\nhosts = [\"a.test\"]\nmanifest = \"fastly.toml\"\nmodule = \"{0}\"\n\
         [services.b]\nhosts = [\"b.test\"]\nmanifest = \"fastly.toml\"\nmodule = \"{0}\"\n\
         [services.b.backends.origin]\nurl = \"{1}\"\n",
        module.display(),
        staging.url()
    );
    let manifest = format!("name = \"it\"\n[local_server.backends.origin]\nurl = \"{}\"\noverride_host = \"www.test\"\n", production.url());
    let sidelight = Setup::host(&host).file("fastly.toml", &manifest).start();
    assert_eq!(sidelight.get_of("a.test", "/").text(), "production");
    // The URL is the override's, the host still the manifest's.
    assert_eq!(sidelight.get_of("b.test", "/").text(), "www.test");
}

#[test]
fn one_that_changes_leaves_the_others_alone() {
    let host = [service("a", "hosts = [\"a.test\"]"), service("b", "hosts = [\"b.test\"]")].concat();
    let sidelight = Setup::host(&host).file("a.wat", &saying("a1")).file("b.wat", &saying("b1")).arg("--no-watch").start();
    sidelight.write("b.wat", &saying("b2"));
    let verdict = sidelight.reload();
    assert_eq!((&verdict["result"], &verdict["changed"]), (&"ok".into(), &serde_json::json!(["b"])));
    let status: Value = serde_json::from_str(&sidelight.operate("GET", "/status").text()).expect("JSON");
    let generations: Vec<_> = status["services"].as_array().expect("a list").iter().map(|service| service["generation"].clone()).collect();
    assert_eq!(generations, [1, 2]);
    assert_eq!((sidelight.get_of("a.test", "/").text(), sidelight.get_of("b.test", "/").text()), ("a1".to_owned(), "b2".to_owned()));

    // One more, and one less.
    sidelight.write("c.wat", &saying("c1"));
    sidelight.write("sidelight.toml", &[service("a", "hosts = [\"a.test\"]"), service("c", "hosts = [\"c.test\"]")].concat());
    let verdict = sidelight.reload();
    assert_eq!((&verdict["changed"], &verdict["removed"]), (&serde_json::json!(["c"]), &serde_json::json!(["b"])));
    assert_eq!((sidelight.get_of("c.test", "/").text(), sidelight.get_of("b.test", "/").status), ("c1".to_owned(), 404));

    // A bad one spoils nothing.
    sidelight.write("sidelight.toml", &[service("a", "hosts = [\"new.test\"]"), service("d", "")].concat());
    let verdict = sidelight.reload();
    assert_eq!(verdict["result"], "failed");
    assert!(verdict["error"].as_str().is_some_and(|error| error.contains("service `d`") && error.contains("d.wat")), "{verdict}");
    assert_eq!(sidelight.get_of("a.test", "/").text(), "a1");
}

/// A service that has all the sandboxes it may have does not take the others'.
#[test]
fn limits_are_each_ones_own() {
    let origin = Origin::fixed("x");
    let module = guest("rust", "behaviours");
    let host = format!(
        "[limits]\nqueue_timeout = \"50ms\"\n\
         [services.small]\nhosts = [\"small.test\"]\nmodule = \"{0}\"\nlimits = {{ sandboxes = 1 }}\n\
         [services.other]\nhosts = [\"other.test\"]\nmodule = \"{0}\"\n\
         [services.other.backends.origin]\nurl = \"{1}\"\n",
        module.display(),
        origin.url()
    );
    let sidelight = Setup::host(&host).start();
    let mut held = Connection::open(sidelight.addr);
    held.write(b"POST /echo HTTP/1.1\r\nHost: small.test\r\nContent-Length: 10\r\n\r\nhello");
    sidelight.wait_metric("sidelight_sandboxes", 1.0);
    assert_eq!(sidelight.get_of("small.test", "/synthetic").status, 503);
    sidelight.log.wait_for(&["no sandbox came free in time", "service=\"small\"", "bound=\"limits.sandboxes of the service\""]);
    assert_eq!(sidelight.get_of("other.test", "/synthetic").status, 418);
    held.write(b"world");
    assert_eq!(held.answer().status, 200);
    assert_eq!(sidelight.get_of("small.test", "/synthetic").status, 418);
}

#[test]
fn faults_of_all_files_are_told_together() {
    let host = "listn = 1\n[limits]\nwall = \"soon\"\n[services.a]\nmanifest = \"a/fastly.toml\"\n[services.b]\nbackends = 7\n";
    let (status, log) = Setup::host(host).file("a/fastly.toml", "x").fails();
    assert_eq!(status.code(), Some(3), "{log}");
    for part in ["sidelight.toml:1:1: unknown field `listn`", "did you mean `listen`?", "sidelight.toml:7:12: expected a table"] {
        assert!(log.contains(part), "no {part:?} in\n{log}");
    }
    let host = "[limits]\nwall = \"soon\"\n[services.a]\nmanifest = \"a/fastly.toml\"\n[services.b]\nmanifest = \"b.toml\"\n[services.c]\n[services.d]\nmodule = \"d.wasm\"\nhosts = [\"a b\"]\n[services.\"x\u{202e}y\"]\nmodule = \"d.wasm\"\n[services.\"b\u{200b}\"]\nmodule = \"d.wasm\"\n";
    let (_, log) = Setup::host(host).fails();
    for part in [
        "sidelight.toml:11:11: a service's name cannot have letters that do not show",
        "sidelight.toml:13:11: a service's name cannot have letters that do not show",
        "sidelight.toml:2:8: ",
        "a time is written",
        "sidelight.toml:10:10: `a b` is no host",
    ] {
        assert!(log.contains(part), "no {part:?} in\n{log}");
    }
    let host = "[services.a]\nmanifest = \"a/fastly.toml\"\n[services.b]\nmanifest = \"b.toml\"\n[services.c]\n[services.d]\nmodule = \"d.wasm\"\nbackends.x.url = \"ftp://x\"\n";
    let (_, log) = Setup::host(host).file("a/fastly.toml", "[local_server.backends.a]\nurl = \"x\"\n").fails();
    for part in [
        "a/fastly.toml:2:7: `x` has no scheme",
        "sidelight.toml:4:12: ",
        "b.toml: No such file",
        "sidelight.toml:5:11: service `c` has neither",
        "sidelight.toml:8:18: a backend cannot be reached by `ftp`",
    ] {
        assert!(log.contains(part), "no {part:?} in\n{log}");
    }
    let host = "threads = 0\n[limits]\nmemory_mib = 5000\nh2_streams = 0\n";
    let (_, log) = Setup::host(host).fails();
    for part in
        ["sidelight.toml:1:11: expected a number from 1", "sidelight.toml:3:14: expected a number from 1 to 4096", "sidelight.toml:4:14: "]
    {
        assert!(log.contains(part), "no {part:?} in\n{log}");
    }
    let host = "[limits]\ncpu = \"0s\"\nhead_timeout = \"0s\"\n[services.a]\nmodule = \"a.wat\"\nhosts = [\"a.test:80\", \"[::1]\"]\n";
    let (_, log) = Setup::host(host).file("a.wat", &saying("a")).fails();
    let nothing = "this time must be more than nothing";
    for part in [
        format!("sidelight.toml:2:7: {nothing}"),
        format!("sidelight.toml:3:16: {nothing}"),
        "sidelight.toml:6:10: `a.test:80` is no host".to_owned(),
    ] {
        assert!(log.contains(&part), "no {part:?} in\n{log}");
    }
    assert!(!log.contains("[::1]` is no host"), "{log}");
    let host = [service("a", "hosts = [\"x.test\"]"), service("b", "hosts = [\"x.test\"]\npaths = [\"/\"]")].concat();
    let (_, log) = Setup::host(&host).file("a.wat", &saying("a")).file("b.wat", &saying("b")).fails();
    assert!(log.contains("services `a` and `b` both have host `x.test`"), "{log}");
}

/// The command line goes before the host file, and that before the defaults.
#[test]
fn settings_of_the_host_file() {
    let host = "[limits]\nuri = 100\nhead_kib = 1\n[environment]\npop = \"FRA\"\nregion = \"EU\"\n[services.it]\nmodule = \"app.wat\"\n";
    let sidelight = Setup::host(host).file("app.wat", &saying("x")).arg("--max-uri 200").start();
    assert_eq!(sidelight.get(&format!("/{}", "x".repeat(150))).status, 200);
    assert_eq!(sidelight.get(&format!("/{}", "x".repeat(250))).status, 414);
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\nConnection: close\r\n\r\n", "x".repeat(2000));
    assert_eq!(crate::client::send(sidelight.addr, &large).status, 431);
}

/// Two hundred services of one program: it is compiled once, and an idle one costs little.
#[test]
fn two_hundred() {
    let module = guest("rust", "behaviours");
    let services: String =
        (0..200).map(|i| format!("[services.s{i}]\nhosts = [\"s{i}.test\"]\nmodule = \"{}\"\n", module.display())).collect();
    let one = Setup::host(&format!("[services.s0]\nmodule = \"{}\"\n", module.display())).start();
    let many = Setup::host(&services).arg("--no-watch").start();
    let resident = |pid: u32| -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
        line.split_whitespace().next().expect("a number").parse().expect("a number")
    };
    for i in [0, 77, 199] {
        assert_eq!(many.get_of(&format!("s{i}.test"), "/synthetic").status, 418);
    }
    assert_eq!(one.get("/synthetic").status, 418);
    let each = resident(many.pid()).saturating_sub(resident(one.pid())) / 199;
    assert!(each < 5 << 10, "{each} KiB for each idle service");
    many.write("sidelight.toml", &services.replace("\"s7.test\"", "\"seven.test\""));
    let verdict = many.reload();
    assert_eq!((&verdict["result"], &verdict["changed"]), (&"ok".into(), &serde_json::json!([])));
    assert_eq!((many.get_of("seven.test", "/synthetic").status, many.get_of("s7.test", "/").status), (418, 404));
    many.signal(Signal::SIGTERM);
    std::thread::sleep(Duration::from_millis(1));
    assert_eq!(many.end().code(), Some(0));
}

/// Clients of one service that send a byte now and then hold all sandboxes that it may have; other services have theirs.
#[test]
fn one_that_is_sent_bodies_that_drip() {
    let program = guest("rust", "behaviours");
    let service = |name: &str| format!("[services.{name}]\nhosts = [\"{name}.test\"]\nmodule = \"{}\"\n", program.display());
    let drip = |sidelight: &Sidelight, count: usize| {
        let clients: Vec<_> = (0..count)
            .map(|_| {
                let mut client = Connection::open(sidelight.addr);
                client.write(b"POST /echo HTTP/1.1\r\nHost: one.test\r\nContent-Length: 100000\r\n\r\nab");
                client
            })
            .collect();
        clients
    };
    let arguments = "--max-sandboxes 32 --queue-timeout 200ms";
    let sidelight = Setup::host(&[service("one"), service("two"), service("three")].concat()).arg(arguments).start();
    let clients = drip(&sidelight, 60);
    sidelight.wait_until("the others", |sidelight| sidelight.metric("sidelight_refusals_total{reason=\"overloaded\"}") >= 36.0);
    assert_eq!(sidelight.metric("sidelight_sandboxes"), 24.0);
    assert_eq!(sidelight.get_of("one.test", "/synthetic").status, 503);
    for name in ["two.test", "three.test"] {
        assert_eq!(sidelight.get_of(name, "/synthetic").status, 418, "{name}");
    }
    // They are its again when the clients have gone.
    drop(clients);
    sidelight.wait_until("its own", |sidelight| sidelight.get_of("one.test", "/synthetic").status == 418);
    // Who is alone has all.
    let sidelight = Setup::host(&service("one")).arg(arguments).start();
    let _clients = drip(&sidelight, 60);
    sidelight.wait_until("all of them", |sidelight| sidelight.metric("sidelight_sandboxes") >= 32.0);
}
