//! KV stores: where they are kept, what becomes of what was acknowledged, and what operators can do with them.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hyper::Response;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::{self, Answer, Connection};
use crate::harness::{PATIENCE, Setup, Sidelight, SmallDisk, binary, guest};
use crate::languages;
use crate::origin::{Origin, text};
use crate::redis::Redis;

const SEEDS: &str = r#"
[[local_server.kv_stores.catalog]]
key = "apple"
data = "red"
metadata = "fruit"
[[local_server.kv_stores.catalog]]
key = "logo"
file = "logo.bin"
[sidelight.kv_stores.empty]
"#;

fn setup(language: &str) -> Setup {
    Setup::new(guest(language, "stores")).manifest(SEEDS).file("logo.bin", "a logo")
}

fn request(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn ask(sidelight: &Sidelight, method: &str, path: &str, body: &[u8]) -> Answer {
    let mut connection = Connection::open(sidelight.addr);
    // It may be refused before all of it is there.
    connection.try_write(&request(method, path, body));
    connection.answer()
}

fn put(sidelight: &Sidelight, path: &str, body: &str) -> (u16, String) {
    let answer = ask(sidelight, "PUT", path, body.as_bytes());
    (answer.status, answer.text())
}

fn ok() -> (u16, String) {
    (200, "ok".to_owned())
}

/// What a program does with a store, wherever that is kept.
fn works(sidelight: &Sidelight, language: &str) {
    let get = |path: &str| {
        let answer = sidelight.get(path);
        (answer.status, answer.text())
    };
    let apple = sidelight.get("/kv?store=catalog&key=apple");
    assert_eq!((apple.text().as_str(), apple.header("x-metadata")), ("red", Some("fruit")));
    assert_eq!(get("/kv?store=catalog&key=logo").1, "a logo");
    assert_eq!(get("/kv?store=catalog&key=none").0, 404);
    assert_eq!(put(sidelight, "/kv?store=empty&key=a%2Fb&mode=add&metadata=m", "1"), ok());
    assert!(put(sidelight, "/kv?store=empty&key=a%2Fb&mode=add", "2").0 >= 400, "it is there already");
    assert_eq!(put(sidelight, "/kv?store=empty&key=a%2Fb&mode=append&metadata=n", "2"), ok());
    assert_eq!(put(sidelight, "/kv?store=empty&key=a%2Fb&mode=prepend&metadata=o", "0"), ok());
    let value = sidelight.get("/kv?store=empty&key=a%2Fb");
    assert_eq!((value.text().as_str(), value.header("x-metadata")), ("012", Some("o")));
    if language != "go" {
        // The Go SDK has no generations to insert by, and JavaScript's does not tell them.
        assert!(put(sidelight, "/kv?store=empty&key=new&generation=7", "x").0 >= 400);
    }
    if language == "rust" {
        let generation = value.header("x-generation").expect("one");
        assert_eq!(put(sidelight, &format!("/kv?store=empty&key=a%2Fb&generation={generation}"), "3"), ok());
        assert_eq!(put(sidelight, &format!("/kv?store=empty&key=a%2Fb&generation={generation}"), "4").0, 412);
        assert_eq!(put(sidelight, "/kv?store=empty&key=absent&generation=1", "4").0, 412);
        assert_eq!(get("/kv-many?store=catalog&key=apple,none,logo").1, "red,ItemNotFound,a logo");
        let old = get("/kv-old?store=empty&key=old").1;
        assert_eq!(old, "FastlyStatus::OK FastlyStatus::OK an old value FastlyStatus::OK FastlyStatus::OK FastlyStatus::OK true");
        assert_eq!(put(sidelight, "/kv?store=empty&key=..", "x").0, 400);
        let large = vec![b'x'; 25_000_001];
        assert_eq!(ask(sidelight, "PUT", "/kv?store=empty&key=large", &large).status, 413);
        assert_eq!(ask(sidelight, "PUT", "/kv?store=empty&key=large", &large[1..]).status, 200);
        assert_eq!(sidelight.get("/kv?store=empty&key=large").body.len(), 25_000_000);
        assert_eq!(ask(sidelight, "DELETE", "/kv?store=empty&key=large", b"").status, 200);
    }
    assert_eq!(put(sidelight, "/kv?store=empty&key=brief&ttl=1", "x"), ok());
    for i in 0..25 {
        assert_eq!(put(sidelight, &format!("/kv?store=empty&key=p{i:02}"), ""), ok());
    }
    let (mut keys, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = sidelight.get(&format!("/kv-list?store=empty&prefix=p&limit=10{cursor}"));
        keys.extend(page.text().split(',').map(str::to_owned));
        match page.header("x-next") {
            Some(next) if !next.is_empty() => {
                cursor = format!("&cursor={}", next.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D"))
            }
            _ => break,
        }
    }
    assert_eq!(keys, (0..25).map(|i| format!("p{i:02}")).collect::<Vec<_>>());
    if language == "rust" {
        assert_eq!(get("/kv-list?store=empty&cursor=no").0, 400, "no cursor");
    }
    assert_eq!(ask(sidelight, "DELETE", "/kv?store=empty&key=p00", b"").status, 200);
    assert!(ask(sidelight, "DELETE", "/kv?store=empty&key=p00", b"").status >= 400, "there is none any more");
    assert_eq!(get("/kv?store=empty&key=p00").0, 404);
    assert!(get("/kv?store=elsewhere&key=a").0 >= 400);
    sidelight.wait_until("the end of a value's time", |it| it.get("/kv?store=empty&key=brief").status == 404);
}

languages!(
    fn in_memory(language) {
        works(&setup(language).start(), language);
    }
);

languages!(
    fn on_disk(language) {
        let folder = tempfile::tempdir().expect("a folder");
        works(&setup(language).arg(&format!("--data-dir {}", folder.path().display())).start(), language);
    }
);

languages!(
    fn with_redis(language) {
        let redis = Redis::start();
        works(&setup(language).arg(&format!("--redis {}", redis.url())).start(), language);
    }
);

#[test]
fn with_valkey() {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guests/out/valkey/valkey-server");
    let redis = Redis::of(program);
    works(&setup("rust").arg(&format!("--redis {}", redis.url())).start(), "rust");
}

#[test]
fn values_flow_through() {
    let origin = Origin::new(|_| Response::new(text("x".repeat(3_000_000))));
    let sidelight = setup("rust").backend("origin", origin.url()).start();
    let answer = sidelight.get("/kv-stream?store=empty&key=k");
    assert_eq!((answer.status, answer.body.len()), (200, 3_000_000));
}

#[test]
fn writes_are_limited_as_in_production() {
    let sidelight = setup("rust").arg("--max-kv-writes 1").start();
    assert_eq!(put(&sidelight, "/kv?store=empty&key=a", "1"), ok());
    assert_eq!(put(&sidelight, "/kv?store=empty&key=a", "2"), (429, "TooManyRequests".to_owned()));
    assert_eq!(put(&sidelight, "/kv?store=empty&key=b", "1"), ok());
    sidelight.wait_until("the next second", |it| put(it, "/kv?store=empty&key=a", "2") == ok());
}

/// Reloads, restarts, and what the service has written meanwhile.
#[test]
fn seeds_and_the_service() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = format!("--data-dir {}", folder.path().display());
    let manifest = |value: &str| {
        format!(
            "name = \"it\"\n[[local_server.kv_stores.s]]\nkey = \"a\"\ndata = \"{value}\"\n[[local_server.kv_stores.s]]\nkey = \"b\"\ndata = \"{value}\"\n"
        )
    };
    for arg in ["", data.as_str()] {
        let setup = || {
            let setup = Setup::new(guest("rust", "stores")).manifest(&manifest("1").replace("name = \"it\"\n", ""));
            if arg.is_empty() { setup } else { setup.arg(arg) }
        };
        let sidelight = setup().start();
        assert_eq!(put(&sidelight, "/kv?store=s&key=a", "mine"), ok());
        sidelight.write("fastly.toml", &manifest("2"));
        sidelight.wait_until("the new seed", |it| it.get("/kv?store=s&key=b").text() == "2");
        assert_eq!(sidelight.get("/kv?store=s&key=a").text(), "mine");
        if arg.is_empty() {
            continue;
        }
        sidelight.signal(Signal::SIGTERM);
        sidelight.end();
        let sidelight = setup().start();
        assert_eq!(
            (sidelight.get("/kv?store=s&key=a").text(), sidelight.get("/kv?store=s&key=b").text()),
            ("mine".to_owned(), "1".to_owned())
        );
        drop(sidelight);
        let sidelight = setup().manifest("[sidelight.kv_stores.s]\nreseed = \"always\"\n").start();
        assert_eq!(sidelight.get("/kv?store=s&key=a").text(), "1");
    }
}

#[test]
fn a_folder_of_seeds() {
    let sidelight = Setup::new(guest("rust", "stores"))
        .manifest("[sidelight.kv_stores.site]\ndirectory = \"public\"\n")
        .file("public/index.html", "<p>home")
        .file("public/img/a.svg", "<svg/>")
        .start();
    assert_eq!(sidelight.get("/kv?store=site&key=img/a.svg").text(), "<svg/>");
    sidelight.write("public/index.html", "<p>new");
    sidelight.wait_until("the new page", |it| it.get("/kv?store=site&key=index.html").text() == "<p>new");
}

/// Keys that a writer writes in turn.
const KEYS: u32 = 50;
const OTHERS: u32 = 20;

/// Writes from several connections until the host is gone; what was acknowledged, by key.
fn write_until_gone(addr: std::net::SocketAddr, round: u32, acknowledged: &Mutex<BTreeMap<String, u32>>, count: &AtomicU32) {
    std::thread::scope(|scope| {
        for writer in 0..8u32 {
            scope.spawn(move || {
                let Ok(stream) = std::net::TcpStream::connect(addr) else { return };
                drop(stream);
                let mut connection = Connection::open(addr);
                for i in 0.. {
                    let (key, value) = (format!("r{round}-w{writer}-{}", i % KEYS), i);
                    let wanted = request("PUT", &format!("/kv?store=empty&key={key}"), value.to_string().as_bytes());
                    if !connection.try_write(&wanted) {
                        return;
                    }
                    let Some(answer) = connection.try_answer() else { return };
                    if answer.status == 200 && answer.whole {
                        acknowledged.lock().expect("a lock").insert(key, value);
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

fn all_there(sidelight: &Sidelight, acknowledged: &BTreeMap<String, u32>) {
    let mut connection = Connection::open(sidelight.addr);
    for (key, value) in acknowledged {
        connection.write(&request("GET", &format!("/kv?store=empty&key={key}"), b""));
        let answer = connection.answer();
        let found: u32 = answer.text().parse().unwrap_or_else(|_| panic!("{key}: {} {}", answer.status, answer.text()));
        // Later writes may have happened without anybody being told; an older value is a loss.
        let step = if key.starts_with("other") { OTHERS } else { KEYS };
        assert!(found >= *value && (found - value).is_multiple_of(step), "{key}: {found} instead of {value}");
    }
}

fn number(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The host is killed while it writes; every write that it has acknowledged is there afterwards. `SIDELIGHT_KILLS` says how
/// often, `SIDELIGHT_WRITES` after how many writes.
#[test]
fn what_is_acknowledged_survives_a_kill() {
    let (kills, writes) = (number("SIDELIGHT_KILLS", 3), number("SIDELIGHT_WRITES", 2000));
    let folder = tempfile::tempdir().expect("a folder");
    let start = || setup("rust").arg(&format!("--data-dir {} --max-sandboxes 16", folder.path().display())).start();
    let acknowledged = Mutex::new(BTreeMap::new());
    for round in 0..kills {
        let sidelight = start();
        all_there(&sidelight, &acknowledged.lock().expect("a lock"));
        let (addr, pid, count) = (sidelight.addr, sidelight.pid(), AtomicU32::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| write_until_gone(addr, round, &acknowledged, &count));
            let deadline = Instant::now() + PATIENCE * 5;
            while count.load(Ordering::Relaxed) < writes {
                assert!(Instant::now() < deadline, "{} writes only", count.load(Ordering::Relaxed));
                std::thread::sleep(Duration::from_millis(1));
            }
            kill(Pid::from_raw(pid as i32), Signal::SIGKILL).expect("kills");
        });
        assert!(count.load(Ordering::Relaxed) >= writes);
    }
    all_there(&start(), &acknowledged.lock().expect("a lock"));
}

/// Two replicas write to one Redis, one of them is killed: the other has everything that either acknowledged. As often, and
/// after as many writes, as above.
#[test]
fn what_one_replica_acknowledged_the_other_has() {
    let redis = Redis::start();
    let start = || setup("rust").arg(&format!("--redis {} --max-sandboxes 16", redis.url())).start();
    let other = start();
    let acknowledged = Mutex::new(BTreeMap::new());
    for round in 0..number("SIDELIGHT_KILLS", 2) {
        let one = start();
        let (addr, pid, count) = (one.addr, one.pid(), AtomicU32::new(0));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| write_until_gone(addr, round, &acknowledged, &count));
            scope.spawn(|| {
                for i in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = format!("other-{}", i % OTHERS);
                    // On a busy machine Redis may be late; what is not acknowledged may be there or not.
                    if put(&other, &format!("/kv?store=empty&key={key}"), &i.to_string()) == ok() {
                        acknowledged.lock().expect("a lock").insert(key, i);
                    }
                }
            });
            let deadline = Instant::now() + PATIENCE * 5;
            while count.load(Ordering::Relaxed) < number("SIDELIGHT_WRITES", 1000) {
                assert!(Instant::now() < deadline, "too slow");
                std::thread::sleep(Duration::from_millis(1));
            }
            kill(Pid::from_raw(pid as i32), Signal::SIGKILL).expect("kills");
            std::thread::sleep(Duration::from_millis(50));
            stop.store(true, Ordering::Relaxed);
        });
        drop(one);
        all_there(&other, &acknowledged.lock().expect("a lock"));
    }
}

/// Four replicas increment one number by generation: no two writes of one generation succeed.
#[test]
fn generations_hold_across_replicas() {
    let redis = Redis::start();
    let replicas: Vec<_> =
        (0..4).map(|_| setup("rust").arg(&format!("--redis {} --threads 1 --max-sandboxes 16", redis.url())).start()).collect();
    assert_eq!(put(&replicas[0], "/kv?store=empty&key=n", "0"), ok());
    let conflicts = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for replica in &replicas {
            let conflicts = &conflicts;
            scope.spawn(move || {
                let mut done = 0;
                while done < 50 {
                    let now = replica.get("/kv?store=empty&key=n");
                    let (number, generation): (u32, _) =
                        (now.text().parse().expect("a number"), now.header("x-generation").expect("one").to_owned());
                    match put(replica, &format!("/kv?store=empty&key=n&generation={generation}"), &(number + 1).to_string()).0 {
                        200 => done += 1,
                        412 => drop(conflicts.fetch_add(1, Ordering::Relaxed)),
                        other => panic!("{other}"),
                    }
                }
            });
        }
    });
    assert_eq!(replicas[3].get("/kv?store=empty&key=n").text(), "200");
    assert!(conflicts.load(Ordering::Relaxed) > 0, "nobody ever met: this shows nothing");
}

#[test]
fn redis_away() {
    let mut redis = Redis::start();
    let url = redis.url();
    redis.kill();
    // At the start.
    let sidelight = setup("rust").arg(&format!("--redis {url}")).start();
    sidelight.wait_until("the loss", |it| it.operate("GET", "/readyz").text().starts_with("degraded\n"));
    assert!(sidelight.operate("GET", "/readyz").text().contains(&format!("{url} cannot be used: ")));
    assert_eq!(sidelight.operate("GET", "/status").json()["away"].as_array().map(Vec::len), Some(1));
    let answer = sidelight.get("/kv?store=catalog&key=apple");
    assert_eq!((answer.status, answer.text()), (500, "Unexpected(FastlyStatus::ERROR)".to_owned()), "the guest decides");
    assert_eq!(sidelight.get("/check?counter=c&entry=e&box=b").text(), "Unexpected");
    redis.again();
    sidelight.wait_until("the seeds", |it| it.get("/kv?store=catalog&key=apple").text() == "red");
    sidelight.wait_until("readiness", |it| it.operate("GET", "/readyz").text() == "ok\n");
    assert_eq!(put(&sidelight, "/kv?store=empty&key=k", "v"), ok());

    // It lost everything: whoever asks for a reload gets the seeds back.
    assert!(redis.say("FLUSHALL").contains("OK"));
    assert_eq!(sidelight.get("/kv?store=catalog&key=apple").status, 404);
    assert_eq!(sidelight.reload()["result"], "unchanged");
    assert_eq!(sidelight.get("/kv?store=catalog&key=apple").text(), "red");
    assert_eq!(put(&sidelight, "/kv?store=empty&key=k", "v"), ok());

    // In the middle.
    redis.kill();
    assert_eq!(put(&sidelight, "/kv?store=empty&key=k", "w").0, 500);
    sidelight.wait_until("the loss", |it| it.metric("sidelight_state_up{part=\"redis\"}") == 0.0);
    redis.again();
    sidelight.wait_until("its return", |it| it.get("/kv?store=empty&key=k").text() == "v");
    assert_eq!(put(&sidelight, "/kv?store=empty&key=k", "x"), ok());

    // There, and silent: a request waits for its time and no longer.
    redis.pause(true);
    assert_eq!(put(&sidelight, "/kv?store=empty&key=k", "y").0, 500);
    redis.pause(false);
    sidelight.wait_until("its return", |it| put(it, "/kv?store=empty&key=k", "z") == ok());

    // A replica that takes no writes, and one that has too few of its own.
    for (before, after) in
        [("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"), ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0")]
    {
        assert!(redis.say(before).contains("OK"));
        assert_eq!(put(&sidelight, "/kv?store=empty&key=k", "no").0, 500);
        sidelight.wait_until("a reading", |it| it.get("/kv?store=empty&key=k").text() == "z");
        assert!(redis.say(after).contains("OK"));
        sidelight.wait_until("a write", |it| put(it, "/kv?store=empty&key=k", "z") == ok());
    }
    assert!(
        sidelight.metric("sidelight_store_errors_total{error=\"unavailable\",keep=\"redis\",operation=\"insert\",store=\"kv\"}") >= 2.0
    );
}

#[test]
fn two_processes_on_one_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = format!("--data-dir {}", folder.path().display());
    let first = setup("rust").arg(&data).start();
    let (status, text) = setup("rust").arg(&data).fails();
    assert_eq!(status.code(), Some(3), "{text}");
    assert!(text.contains("it.redb: another process has this file open") && text.contains("hint: "), "{text}");
    assert_eq!(put(&first, "/kv?store=empty&key=a", "1"), ok());
}

/// Checking a configuration opens no store and changes nothing.
#[test]
fn a_check_leaves_stores_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let sidelight = setup("rust").arg(&format!("--data-dir {}", folder.path().display())).start();
    let output = Command::new(binary())
        .args(["check", "--data-dir"])
        .arg(folder.path())
        .args(["--redis", "redis://127.0.0.1:1", "--cache-dir"])
        .arg(folder.path().join("modules"))
        .arg(sidelight.path("fastly.toml"))
        .arg(guest("rust", "stores"))
        .output()
        .expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // What is damaged is seen, and left as it is.
    let data = folder.path().join("other");
    std::fs::create_dir(&data).expect("a folder");
    std::fs::write(data.join("it.redb"), "no database").expect("a file");
    let output = Command::new(binary())
        .args(["check", "--json", "--data-dir"])
        .arg(&data)
        .arg("--cache-dir")
        .arg(folder.path().join("modules"))
        .arg(sidelight.path("fastly.toml"))
        .arg(guest("rust", "stores"))
        .output()
        .expect("runs");
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(told["problems"][0]["file"].as_str().is_some_and(|file| file.ends_with("other/it.redb")), "{told}");
    assert_eq!(std::fs::read_to_string(data.join("it.redb")).expect("reads"), "no database");
}

#[test]
fn disk_full() {
    let folder = SmallDisk::new(6);
    let sidelight = setup("rust").arg(&format!("--data-dir {}", folder.path().display())).start();
    assert_eq!(put(&sidelight, "/kv?store=empty&key=small", "before"), ok());
    let mut acknowledged = Vec::new();
    let full = (0..40).find(|i| {
        let status = put(&sidelight, &format!("/kv?store=empty&key=k{i}"), &"x".repeat(500_000)).0;
        if status == 200 {
            acknowledged.push(*i);
        }
        status != 200
    });
    assert!(full.is_some(), "it never gets full");
    let ready = sidelight.operate("GET", "/readyz").text();
    assert!(ready.starts_with("degraded\nKV stores of service `") && ready.contains("cannot be written: "), "{ready}");
    sidelight.log.wait_for(&["cannot be written", "service="]);
    // What was there is there, what has failed is not, and the host serves on.
    sidelight.wait_until("a reading", |it| it.get("/kv?store=empty&key=small").text() == "before");
    for i in &acknowledged {
        assert_eq!(sidelight.get(&format!("/kv?store=empty&key=k{i}")).body.len(), 500_000);
    }
    let failed: Vec<i32> =
        (100..110).filter(|i| put(&sidelight, &format!("/kv?store=empty&key=k{i}"), &"x".repeat(400_000)).0 != 200).collect();
    for i in full.into_iter().chain(failed) {
        sidelight.wait_until("a reading", |it| it.get("/kv?store=empty&key=small").text() == "before");
        assert_eq!(sidelight.get(&format!("/kv?store=empty&key=k{i}")).status, 404, "{i}");
    }
    // Room makes writes possible again.
    folder.resize(64);
    sidelight.wait_until("a write", |it| put(it, "/kv?store=empty&key=after", "x") == ok());
    assert_eq!(sidelight.operate("GET", "/readyz").text(), "ok\n");
}

/// What is missing may be room for what comes after all was written: then it has been.
#[test]
fn what_fails_on_a_full_disk_has_not_happened() {
    let folder = SmallDisk::new(64);
    let sidelight = setup("rust").arg(&format!("--data-dir {}", folder.path().display())).start();
    let statuses: Vec<u16> = (0..16).map(|i| put(&sidelight, &format!("/kv?store=empty&key=b{i}"), &"x".repeat(5_000_000)).0).collect();
    assert!(statuses.contains(&500), "it never gets full");
    for (i, status) in statuses.iter().enumerate() {
        let path = format!("/kv?store=empty&key=b{i}");
        sidelight.wait_until("a reading", |it| it.get(&path).status != 500);
        let answer = sidelight.get(&path);
        let expected = if *status == 200 { (200, 5_000_000) } else { (404, answer.body.len()) };
        assert_eq!((answer.status, answer.body.len()), expected, "b{i} of {statuses:?}");
    }
}

#[test]
fn stores_on_disk_have_a_bound() {
    let folder = tempfile::tempdir().expect("a folder");
    let sidelight = setup("rust").arg(&format!("--data-dir {} --kv-limit 1", folder.path().display())).start();
    let put = |key: &str, bytes: usize| put(&sidelight, &format!("/kv?store=empty&key={key}"), &"x".repeat(bytes)).0;
    assert_eq!((put("a", 500_000), put("b", 500_000), put("c", 500_000)), (200, 200, 500));
    assert_eq!((put("a", 10), put("c", 500_000), put("d", 500_000)), (200, 200, 500));
    sidelight.log.wait_for(&["store=\"empty\"", "1 MiB, which is all they may (limits.kv_mib)"]);
}

/// What services that come and go have written is theirs: not a later one's of the same name; and the last of the disk is not for them.
#[test]
fn of_services_that_come_and_go() {
    let folder = SmallDisk::new(40);
    let program = guest("rust", "stores");
    let host = format!(
        "services_dir = \"services\"\ndata_dir = \"{}\"\n[services.own]\nhosts = [\"own.test\"]\nmodule = \"{}\"\nkv_stores.empty = []\n",
        folder.path().display(),
        program.display()
    );
    let sidelight = Setup::host(&host).start();
    let is_served = |it: &Sidelight| it.operate("GET", "/status").text().contains("\"name\": \"pr\"");
    let drop_in = || {
        std::fs::create_dir_all(sidelight.path("services/pr")).expect("a folder");
        std::fs::copy(&program, sidelight.path("services/pr/app.wasm")).expect("copies");
        sidelight.write("services/pr/service.toml", "hosts = [\"pr.test\"]\nmodule = \"app.wasm\"\nkv_stores.empty = []\n");
        sidelight.wait_until("it", |it| is_served(it));
    };
    let put = |host: &str, key: &str, value: &[u8]| {
        let head = format!(
            "PUT /kv?store=empty&key={key} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            value.len()
        );
        let mut connection = Connection::open(sidelight.addr);
        connection.try_write(&[head.as_bytes(), value].concat());
        connection.answer().status
    };
    let get = || sidelight.get_of("pr.test", "/kv?store=empty&key=k").text();
    drop_in();
    assert_eq!(put("pr.test", "k", b"secret"), 200);
    sidelight.write("services/pr/other.txt", "changes nothing");
    assert_eq!(get(), "secret");
    std::fs::remove_dir_all(sidelight.path("services/pr")).expect("removes");
    sidelight.wait_until("the end", |it| !is_served(it));
    drop_in();
    assert!(!get().contains("secret"), "{}", get());
    // Most of the disk is theirs.
    let value = vec![b'x'; 2_000_000];
    let full = (0..30).find(|index| put("pr.test", &format!("k{index}"), &value) != 200);
    assert!(full.is_some_and(|full| full > 4), "{full:?}");
    sidelight.log.wait_for(&["service=\"pr\"", "nearly full"]);
    assert_eq!(put("own.test", "k", &[b'x'; 500_000]), 200);
}

/// The request that a program is tried with finds nothing of an earlier service of the same name, which is still served then.
#[test]
fn the_trial_of_a_service_that_takes_a_name() {
    let program = guest("rust", "stores");
    let sidelight = Setup::host("services_dir = \"services\"\n").arg("--no-watch").start();
    let drop_in = |more: &str| {
        std::fs::create_dir_all(sidelight.path("services/pr")).expect("a folder");
        // Another program each time: with a section of its own, which has a name and nothing else.
        let section = [0, 2, 1, if more.is_empty() { b'a' } else { b'b' }];
        let bytes = [std::fs::read(&program).expect("the program"), section.to_vec()].concat();
        std::fs::write(sidelight.path("services/pr/app.wasm"), bytes).expect("writes");
        let settings = format!("hosts = [\"pr.test\"]\nmodule = \"app.wasm\"\nkv_stores.empty = []\n{more}");
        sidelight.write("services/pr/service.toml", &settings);
        sidelight.reload()
    };
    assert_eq!(drop_in("")["changed"], serde_json::json!(["pr"]));
    let put = "PUT /kv?store=empty&key=k HTTP/1.1\r\nHost: pr.test\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecret";
    assert_eq!(client::send_as(sidelight.addr, put, "PUT").status, 200);
    // Of the same service, it would find it.
    let trial =
        |status: u16| format!("rollout.smoke = {{ path = \"/kv?store=empty&key=k\", status = {status} }}\nenvironment.pop = \"ABC\"\n");
    let missing = sidelight.get_of("pr.test", "/kv?store=empty&key=other").status;
    assert_ne!(missing, 200);
    std::fs::remove_dir_all(sidelight.path("services/pr")).expect("removes");
    std::fs::write(sidelight.path("another"), "so that its place on the disk is not the same").expect("a file");
    let verdict = drop_in(&trial(missing));
    assert_eq!((&verdict["changed"], &verdict["faulty"]), (&serde_json::json!(["pr"]), &serde_json::Value::Null), "{verdict:#}");
}

fn kv(args: &[&str], input: &[u8]) -> (bool, String) {
    let (status, text) = kv_code(args, input);
    (status == Some(0), text)
}

fn kv_code(args: &[&str], input: &[u8]) -> (Option<i32>, String) {
    use std::io::Write as _;
    use std::process::Stdio;
    let mut command = Command::new(binary());
    command.arg("kv").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("runs");
    child.stdin.take().expect("a pipe").write_all(input).expect("writes");
    let output = child.wait_with_output().expect("ends");
    (output.status.code(), [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat())
}

#[test]
fn operators_read_and_write() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data").display().to_string();
    let sidelight = setup("rust").arg(&format!("--data-dir {data}")).start();
    let (admin, manifest) = (sidelight.admin.to_string(), sidelight.path("fastly.toml").display().to_string());
    let through_host: &[&str] = &["--admin", &admin];
    let directly: &[&str] = &["-C", &manifest, "--data-dir", &data];
    let file = folder.path().join("seeds.json");
    std::fs::write(&file, r#"{"one": "1", "two": {"data": "2", "metadata": "m"}, "three": {"base64": "/w=="}}"#).expect("a file");
    let (status, text) = kv_code(&[directly, &["get", "catalog", "apple"]].concat(), b"");
    assert!(status == Some(1) && text.contains("another process has this file open") && text.contains("--admin HOST:PORT"), "{text}");
    let all = |how: &[&str]| {
        let run = |args: &[&str], input: &[u8]| kv(&[how, args].concat(), input);
        assert_eq!(run(&["get", "catalog", "apple"], b""), (true, "red".to_owned()));
        assert_eq!(run(&["put", "empty", "a/b ä", "--metadata", "m"], b"from input"), (true, String::new()));
        assert_eq!(run(&["put", "empty", "a/b ä", "!", "--mode", "append"], b""), (true, String::new()));
        assert_eq!(run(&["get", "empty", "a/b ä"], b""), (true, "from input!".to_owned()));
        assert_eq!(run(&["import", "empty", &file.display().to_string()], b""), (true, "3 keys written\n".to_owned()));
        assert_eq!(run(&["list", "empty"], b"").1, "a/b ä\none\nthree\ntwo\n");
        assert_eq!(run(&["list", "empty", "t"], b"").1, "three\ntwo\n");
        let (_, exported) = run(&["export", "empty"], b"");
        let exported: serde_json::Value = serde_json::from_str(&exported).expect("JSON");
        assert_eq!(exported["three"]["base64"], "/w==");
        assert_eq!(exported["two"], serde_json::json!({ "data": "2", "metadata": "m" }));
        assert_eq!(run(&["delete", "empty", "one"], b""), (true, String::new()));
        let (status, text) = run(&["get", "empty", "one"], b"");
        assert!(!status && text.contains("there is no key `one`"), "{text}");
        let (status, text) = run(&["get", "elsewhere", "one"], b"");
        assert!(!status && text.contains("there is no KV store `elsewhere`; there is: catalog, empty"), "{text}");
        let (status, text) = run(&["put", "empty", "..", "x"], b"");
        assert!(!status && text.contains("this key cannot be"), "{text}");
    };
    all(through_host);
    assert_eq!(sidelight.get("/kv?store=empty&key=two").text(), "2", "the program sees it");
    let listed = sidelight.operate("GET", "/kv/it/empty/keys?prefix=t&limit=1").json();
    assert_eq!(listed, serde_json::json!({ "data": ["three"], "meta": { "limit": 1, "prefix": "t", "next_cursor": "three" } }));
    assert_eq!(sidelight.operate("GET", "/kv/it/empty/keys?limit=0").status, 400);
    // A page somewhere else, and one of a name that leads here.
    for (host, mark, status) in [
        ("localhost", "Origin: http://evil", 403),
        ("localhost", "Sec-Fetch-Site: cross-site", 403),
        ("evil", "Sec-Fetch-Site: same-origin", 421),
    ] {
        let forged = format!("GET /kv/it/empty/keys HTTP/1.1\r\nHost: {host}\r\n{mark}\r\nConnection: close\r\n\r\n");
        assert_eq!(client::send(sidelight.admin, &forged).status, status, "{mark}");
    }
    let code = |args: &[&str]| Command::new(binary()).arg("kv").args(args).output().expect("runs").status.code();
    assert_eq!(code(&["--admin", &format!("http://{admin}/"), "get", "empty", "none"]), Some(7));
    assert_eq!(code(&["--admin", &admin, "put", "empty", "two", "x", "--mode", "add"]), Some(2));
    assert_eq!(code(&["--admin", "127.0.0.1:1", "get", "empty", "none"]), Some(1));
    assert_eq!(code(&["-C", &manifest, "put", "empty", "two", "x"]), Some(2), "into a memory that is another process's");
    assert_eq!(code(&["-C", &manifest, "--data-dir", "/nowhere/at/all", "list", "empty"]), Some(2));
    sidelight.signal(Signal::SIGTERM);
    sidelight.wait_until("the end", |it| it.log.text().contains("stopped"));
    std::thread::sleep(Duration::from_millis(200));
    all(directly);
}
