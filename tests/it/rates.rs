//! Edge rate limiting.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::client::Connection;
use crate::harness::{Setup, Sidelight, guest};
use crate::languages;
use crate::redis::Redis;

fn works(sidelight: &Sidelight, name: &str) {
    let ask = |path: &str| {
        let answer = sidelight.get(&format!("{path}&counter=c{name}&box=b{name}"));
        (answer.status, answer.text())
    };
    let is = |text: &str| (200, text.to_owned());
    // Ten a second over ten seconds are a hundred; the hundred-and-first is too much.
    assert_eq!(ask("/check?entry=a&window=10&limit=10&delta=100"), is("false"));
    assert_eq!(ask("/penalized?entry=a"), is("false"));
    assert_eq!(ask("/check?entry=a&window=10&limit=10"), is("true"));
    assert_eq!(ask("/penalized?entry=a"), is("true"));
    assert_eq!(ask("/check?entry=b&window=10&limit=10"), is("false"), "of another nothing is known");
    assert_eq!(ask("/increment?entry=c&delta=600"), is("ok"));
    assert_eq!(ask("/rate?entry=c&window=60"), is("10"));
    assert_eq!(ask("/count?entry=c&window=60"), is("600"));
    assert_eq!(ask("/count?entry=d&window=60"), is("0"));
    assert_eq!(ask("/penalize?entry=d&ttl=60"), is("ok"));
    assert_eq!(ask("/check?entry=d&window=60&limit=10"), is("true"), "who is in the box is limited");
}

languages!(
    fn in_memory_and_with_redis(language) {
        works(&Setup::new(guest(language, "stores")).start(), language);
        let redis = Redis::start();
        works(&Setup::new(guest(language, "stores")).arg(&format!("--redis {}", redis.url())).start(), language);
    }
);

#[test]
fn times_in_the_box() {
    let sidelight = Setup::new(guest("rust", "stores")).start();
    for (ttl, wanted) in [(59, "InvalidArgument"), (60, "ok"), (119, "ok"), (3600, "ok"), (3660, "InvalidArgument")] {
        assert_eq!(sidelight.get(&format!("/penalize?box=b&entry=e&ttl={ttl}")).text(), wanted, "{ttl} s");
    }
    let long = "e".repeat(1025);
    assert_eq!(sidelight.get(&format!("/penalize?box=b&entry={long}")).text(), "InvalidArgument");
    assert_eq!(sidelight.get(&format!("/check?counter={long}&box=b&entry=e")).text(), "InvalidArgument");
}

/// What was counted survives a reload, as does who is in a box.
#[test]
fn counts_survive_a_reload() {
    let sidelight = Setup::new(guest("rust", "stores")).start();
    assert_eq!(sidelight.get("/increment?counter=c&entry=e&delta=60").text(), "ok");
    assert_eq!(sidelight.get("/penalize?box=b&entry=e").text(), "ok");
    sidelight.write(
        "fastly.toml",
        "name = \"it\"\n[local_server.config_stores.new]\nformat = \"inline-toml\"\n[local_server.config_stores.new.contents]\na = \"b\"\n",
    );
    sidelight.wait_until("the reload", |it| it.get("/config?store=new&key=a").text() == "b");
    assert_eq!(sidelight.get("/count?counter=c&entry=e&window=60").text(), "60");
    assert_eq!(sidelight.get("/penalized?box=b&entry=e").text(), "true");
}

/// Four replicas behind one load, and one limit of 100 a second: what gets through before the entry goes into the box is
/// within 10 % of it, wherever it was asked.
#[test]
fn a_limit_holds_across_replicas() {
    let redis = Redis::start();
    let replicas: Vec<_> = (0..4)
        .map(|_| Setup::new(guest("rust", "stores")).arg(&format!("--redis {} --threads 1 --max-sandboxes 16", redis.url())).start())
        .collect();
    for entry in 0..5 {
        let (allowed, limited) = (AtomicU32::new(0), AtomicU32::new(0));
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for replica in &replicas {
                let (allowed, limited) = (&allowed, &limited);
                scope.spawn(move || {
                    let mut connection = Connection::open(replica.addr);
                    // Until each has been told that it is too much; that is within the window of 10 s.
                    while limited.load(Ordering::Relaxed) < 40 && begun.elapsed() < Duration::from_secs(9) {
                        let path = format!("/check?counter=load&box=load&entry=e{entry}&window=10&limit=100&delta=1");
                        connection.write(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
                        match connection.answer().text().as_str() {
                            "false" => allowed.fetch_add(1, Ordering::Relaxed),
                            "true" => limited.fetch_add(1, Ordering::Relaxed),
                            other => panic!("{other}"),
                        };
                    }
                });
            }
        });
        let (allowed, limited) = (allowed.into_inner(), limited.into_inner());
        assert!(limited >= 40, "the load was too slow to pass the limit: {allowed}");
        assert!((900..=1100).contains(&allowed), "{allowed} of 1000 got through");
    }
}
