//! Operating the cache: purges, what is in it and why, restarts, and other replicas.

use std::process::Command;

use nix::sys::signal::Signal;

use crate::client::{self, Answer};
use crate::harness::{Setup, Sidelight, SmallDisk, binary, guest};
use crate::redis::Redis;

use super::script::Origin;
use super::table::{ok, status};

fn setup(origin: &Origin) -> Setup {
    Setup::new(guest("rust", "cache")).manifest("service_id = \"the-id\"\n").backend("origin", origin.url())
}

fn operate(sidelight: &Sidelight, method: &str, path: &str, fields: &[(&str, &str)]) -> Answer {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n");
    for (name, value) in fields {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    client::send(sidelight.admin, &format!("{request}\r\n"))
}

fn cached(sidelight: &Sidelight, path: &str) -> bool {
    sidelight.get(path).header("x-cache") == Some("HIT")
}

#[test]
fn purges_as_of_fastlys_api() {
    let origin = Origin::start();
    let sidelight = setup(&origin).start();
    let fill = |name: &str| {
        let path = format!("/plain/{name}");
        origin.script(&path, &[ok("x").control("max-age=100, stale-while-revalidate=50").with("surrogate-key", format!("all {name}"))]);
        sidelight.get(&path);
        assert!(cached(&sidelight, &path));
    };
    for name in ["a", "b", "c", "d"] {
        fill(name);
    }
    let done = operate(&sidelight, "POST", "/service/the-id/purge/a", &[]).json();
    assert_eq!((done["status"].as_str(), done["objects"].as_u64()), (Some("ok"), Some(1)));
    assert!(done["id"].as_str().is_some_and(|id| id.contains('-')));
    assert!(!cached(&sidelight, "/plain/a") && cached(&sidelight, "/plain/b"));
    // By the service's name; softly: it is used once more, and fetched meanwhile.
    assert_eq!(operate(&sidelight, "POST", "/service/it/purge/b", &[("Fastly-Soft-Purge", "1")]).status, 200);
    assert!(cached(&sidelight, "/plain/b"));
    origin.wait_asked("/plain/b", 2);
    // Several at once.
    let done = operate(&sidelight, "POST", "/service/the-id/purge", &[("Surrogate-Key", "c d")]).json();
    assert!(done["c"].is_string() && done["d"].is_string(), "{done}");
    assert!(!cached(&sidelight, "/plain/c") && !cached(&sidelight, "/plain/d"));
    // By address.
    assert_eq!(operate(&sidelight, "POST", "/purge/edge.test/plain/c", &[]).json()["objects"], 1);
    assert!(!cached(&sidelight, "/plain/c"));
    // Everything; programs see it.
    let generation = operate(&sidelight, "GET", "/cache", &[]).json()["generations"]["it"].as_u64();
    assert_eq!(operate(&sidelight, "POST", "/service/the-id/purge_all", &[]).status, 200);
    assert!(!cached(&sidelight, "/plain/a") && !cached(&sidelight, "/plain/b"));
    assert_eq!(operate(&sidelight, "GET", "/cache", &[]).json()["generations"]["it"].as_u64(), generation.map(|before| before + 1));
    for (method, path, status) in [
        ("GET", "/service/the-id/purge/a", 405),
        ("GET", "/cache/nope", 404),
        ("GET", "/cache/entries?bogus=1", 400),
        ("POST", "/service/other/purge/a", 404),
        ("POST", "/service/the-id/purge", 400),
        ("POST", "/service/the-id/odd", 404),
        ("POST", "/cache/age?seconds=x", 400),
        ("POST", "/purge?url=ftp://edge.test/", 400),
        ("POST", "/purge?url=https://edge.test:99999/", 400),
        ("GET", "/cache/entries?key=x", 400),
    ] {
        assert_eq!(operate(&sidelight, method, path, &[]).status, status, "{method} {path}");
    }
    assert_eq!(operate(&sidelight, "POST", "/service/the-id/purge_all", &[("Origin", "http://elsewhere")]).status, 403);
    assert!(sidelight.metric("sidelight_cache_purges_total{kind=\"hard\"}") >= 3.0);
}

/// Previews of one service have one id.
#[test]
fn a_purge_by_an_id_is_of_all_that_have_it() {
    let wasm = guest("rust", "cache").display().to_string();
    let of = |name: &str, id: &str| format!("[services.{name}]\nhosts = [\"{name}\"]\nmodule = \"{wasm}\"\nservice_id = \"{id}\"\n");
    let sidelight = Setup::host(&[of("a", "one"), of("b", "one"), of("one", "other")].concat()).start();
    let get = |host: &str, path: &str| sidelight.get_of(host, path).text();
    for host in ["a", "b", "one"] {
        get(host, "/core/fill?key=k&keys=same&who=x");
        assert_eq!(get(host, "/core/get?key=k"), "filled by x");
    }
    // Of the one that is called that, too: one that comes and goes could keep purges from it otherwise, by its name or its id.
    assert_eq!(operate(&sidelight, "POST", "/service/one/purge/same", &[]).json()["objects"], 3);
    assert_eq!(["a", "b", "one"].map(|host| get(host, "/core/get?key=k")), ["none"; 3]);
}

#[test]
fn the_command_line_purges() {
    let origin = Origin::start();
    let sidelight = setup(&origin).start();
    let purge = |args: &[&str]| {
        let output = Command::new(binary()).arg("purge").args(["--admin", &sidelight.admin.to_string()]).args(args).output().expect("runs");
        (
            output.status.code().expect("a code"),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    origin.script("/plain/a", &[ok("x").control("max-age=100").with("surrogate-key", "k")]);
    for args in [&["k"][..], &["--url", "https://edge.test/plain/a"], &["--all"], &["--service", "the-id", "other", "k"]] {
        sidelight.get("/plain/a");
        assert!(cached(&sidelight, "/plain/a"));
        let (code, text) = purge(args);
        assert!(code == 0 && text.contains("\"status\": \"ok\""), "{args:?}: {text}");
        assert!(!cached(&sidelight, "/plain/a"), "{args:?}");
    }
    assert_eq!(purge(&["--service", "none", "k"]).0, 7);
    assert_eq!(purge(&[]).0, 2);
    assert_eq!(Command::new(binary()).args(["purge", "--admin", "127.0.0.1:1", "k"]).output().expect("runs").status.code(), Some(1));
}

#[test]
fn what_is_in_it_and_why() {
    let origin = Origin::start();
    let sidelight = setup(&origin).start();
    origin.script("/plain/a", &[ok("hello").control("max-age=100").with("vary", "accept").with("surrogate-key", "k")]);
    origin.script("/guest/b", &[ok("x").control("private")]);
    origin.script("/plain/c", &[status(500, "x")]);
    for path in ["/plain/a", "/plain/a", "/guest/b", "/plain/c", "/core/fill?key=core&who=me"] {
        sidelight.get(path);
    }
    let entries = operate(&sidelight, "GET", "/cache/entries?about=/plain/a", &[]).json();
    let entry = &entries["entries"][0];
    assert_eq!(
        (entry["about"].as_str(), entry["status"].as_u64(), entry["size"].as_u64()),
        (Some("edge.test/plain/a"), Some(200), Some(5))
    );
    assert_eq!((entry["hits"].as_u64(), entry["vary"].as_str(), entry["state"].as_str()), (Some(1), Some("accept"), Some("fresh")));
    let key = entry["key"].as_str().expect("a key");
    assert_eq!(operate(&sidelight, "GET", &format!("/cache/entries?key={key}"), &[]).json()["entries"].as_array().map(Vec::len), Some(1));
    assert_eq!(operate(&sidelight, "GET", "/cache/entries?surrogate_key=k", &[]).json()["entries"].as_array().map(Vec::len), Some(1));
    let core = operate(&sidelight, "GET", "/cache/entries?about=core", &[]).json();
    assert_eq!((core["entries"][0]["about"].as_str(), core["entries"][0]["status"].as_u64()), (Some("core"), None));
    let decision = |about: &str, index: usize| {
        let all = operate(&sidelight, "GET", &format!("/cache/decisions?about={about}"), &[]).json();
        all["decisions"][index].clone()
    };
    let miss = decision("/plain/a", 0);
    assert_eq!((miss["lookup"].as_str(), miss["action"].as_str(), miss["caching"].as_str()), (Some("miss"), Some("insert"), Some("host")));
    assert_eq!(miss["stored"]["max_age"], 100);
    assert_eq!(decision("/plain/a", 1)["lookup"], "hit");
    let private = decision("/guest/b", 0);
    assert_eq!((private["action"].as_str(), private["caching"].as_str()), (Some("record-uncacheable"), Some("guest")));
    assert!(private["reason"].as_str().expect("a reason").contains("private"), "{private}");
    assert!(decision("/plain/c", 0)["reason"].as_str().expect("a reason").contains("status"));
    let id = miss["request_id"].as_str().expect("an id");
    let of_request = operate(&sidelight, "GET", &format!("/cache/decisions?request={id}"), &[]).json();
    assert_eq!(of_request["decisions"].as_array().map(Vec::len), Some(1));
    let totals = operate(&sidelight, "GET", "/cache", &[]).json();
    assert!(totals["objects"].as_u64() >= Some(2) && totals["bytes"].as_u64() > Some(0), "{totals}");
    assert!(sidelight.metric("sidelight_cache_lookups_total{face=\"http\",result=\"hit\"}") >= 1.0);
    assert!(sidelight.metric("sidelight_cache_objects{tier=\"memory\"}") >= 2.0);
}

#[test]
fn a_restart_finds_what_is_on_disk() {
    let origin = Origin::start();
    let folder = tempfile::tempdir().expect("a folder");
    let data = format!("--data-dir {} --cache-disk 64", folder.path().display());
    origin.script("/plain/long", &[ok("kept").control("max-age=1000"), ok("again")]);
    origin.script("/plain/short", &[ok("kept").control("max-age=2"), ok("again")]);
    origin.script("/plain/purged", &[ok("kept").control("max-age=1000").with("surrogate-key", "gone"), ok("again")]);
    origin.script("/guest/guest", &[ok("kept").control("max-age=1000"), ok("again")]);
    let paths = ["/plain/long", "/plain/short", "/plain/purged", "/guest/guest"];
    let sidelight = setup(&origin).arg(&data).start();
    for path in paths {
        assert_eq!(sidelight.get(path).text(), "kept");
    }
    sidelight.get("/purge?key=gone");
    sidelight.signal(Signal::SIGTERM);
    assert!(sidelight.end().success());
    std::thread::sleep(std::time::Duration::from_secs(2));
    let sidelight = setup(&origin).arg(&data).start();
    sidelight.log.wait_for(&["cached objects are here from before"]);
    let first = sidelight.get("/plain/long");
    assert_eq!((first.text().as_str(), first.header("x-cache")), ("kept", Some("HIT")));
    assert!(first.header("age").and_then(|age| age.parse::<u32>().ok()) >= Some(2), "{first:?}");
    assert_eq!(sidelight.get("/guest/guest").header("x-cache"), Some("HIT"));
    assert_eq!((sidelight.get("/plain/short").text().as_str(), sidelight.get("/plain/purged").text().as_str()), ("again", "again"));
    // Killed in the middle, it finds what it had written.
    sidelight.wait_until("all of it on disk", |sidelight| operate(sidelight, "GET", "/cache", &[]).json()["disk_objects"] == 4);
    sidelight.signal(Signal::SIGKILL);
    sidelight.end();
    let sidelight = setup(&origin).arg(&data).start();
    assert_eq!((sidelight.get("/plain/long").text().as_str(), sidelight.get("/plain/purged").text().as_str()), ("kept", "again"));
    // What is not as it was is passed over, with a message.
    sidelight.signal(Signal::SIGTERM);
    sidelight.end();
    let list = folder.path().join("cache/list");
    let mut bytes = std::fs::read(&list).expect("the list");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&list, bytes).expect("writes");
    let sidelight = setup(&origin).arg(&data).start();
    sidelight.log.wait_for(&["the cache begins empty"]);
    assert_eq!(sidelight.get("/plain/long").text(), "again");
}

/// A purge that has been answered is one, whatever happens then: by key, by address, of everything.
#[test]
fn a_purge_outlives_a_kill() {
    let origin = Origin::start();
    let folder = tempfile::tempdir().expect("a folder");
    let data = format!("--data-dir {} --cache-disk 64", folder.path().display());
    let paths: Vec<String> = (0..40).map(|index| format!("/plain/{index}")).collect();
    for (index, path) in paths.iter().enumerate() {
        let key = if index == 0 { "other" } else { "key" };
        origin.script(path, &[ok("kept").control("max-age=1000").with("surrogate-key", key)]);
    }
    let purges: [(&str, usize); 3] = [("/service/it/purge/key", 1), ("/purge/edge.test/plain/7", 39), ("/service/it/purge_all", 0)];
    for (purge, left) in purges {
        let sidelight = setup(&origin).arg(&data).start();
        paths.iter().for_each(|path| assert_eq!(sidelight.get(path).text(), "kept"));
        sidelight
            .wait_until("all of it on disk", |sidelight| operate(sidelight, "GET", "/cache", &[]).json()["disk_objects"] == paths.len());
        assert_eq!(operate(&sidelight, "POST", purge, &[]).status, 200, "{purge}");
        sidelight.signal(Signal::SIGKILL);
        sidelight.end();
        let sidelight = setup(&origin).arg(&data).start();
        let found = operate(&sidelight, "GET", "/cache", &[]).json()["disk_objects"].as_u64();
        assert_eq!(found, Some(left as u64), "{purge}");
        sidelight.signal(Signal::SIGTERM);
        sidelight.end();
    }
}

#[test]
fn a_disk_without_room_is_said_and_the_cache_goes_on_in_memory() {
    let origin = Origin::start();
    let folder = SmallDisk::new(1);
    let sidelight = setup(&origin).arg(&format!("--data-dir {} --cache-disk 64", folder.path().display())).start();
    let large: &'static str = Box::leak("x".repeat(600_000).into_boxed_str());
    for index in 0..5 {
        let path = format!("/plain/{index}");
        origin.script(&path, &[ok(large).control("max-age=1000"), status(500, "asked again")]);
        assert_eq!(sidelight.get(&path).body.len(), 600_000);
    }
    sidelight.log.wait_for(&["the cache cannot be written to disk"]);
    for index in 0..5 {
        let answer = sidelight.get(&format!("/plain/{index}"));
        assert_eq!((answer.header("x-cache"), answer.body.len()), (Some("HIT"), 600_000));
    }
}

#[test]
fn a_cache_on_disk_needs_a_folder() {
    let (status, text) = setup(&Origin::start()).arg("--cache-disk 64").fails();
    assert!(status.code() == Some(3) && text.contains("--data-dir FOLDER"), "{text}");
}

#[test]
fn purges_reach_all_replicas_and_those_who_were_away() {
    let origin = Origin::start();
    let server = Redis::start();
    let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    let start = |index: usize| {
        let folder = folders[index].path().display();
        setup(&origin).arg(&format!("--redis {} --data-dir {folder} --cache-disk 64", server.url())).start()
    };
    for name in ["a", "b", "c"] {
        origin.script(&format!("/plain/{name}"), &[ok("x").control("max-age=1000").with("surrogate-key", name)]);
    }
    let (one, two) = (start(0), start(1));
    for name in ["a", "b", "c"] {
        for replica in [&one, &two] {
            replica.get(&format!("/plain/{name}"));
        }
    }
    // A program's purge, an operator's, and one that is away.
    one.get("/purge?key=a");
    two.wait_until("the purge", |two| !cached(two, "/plain/a"));
    assert!(cached(&two, "/plain/b"));
    operate(&two, "POST", "/purge/edge.test/plain/b", &[]);
    one.wait_until("the purge", |one| !cached(one, "/plain/b"));
    two.signal(Signal::SIGTERM);
    two.end();
    one.get("/purge?key=c");
    let two = start(1);
    two.wait_until("the purge", |two| {
        operate(two, "GET", "/cache/entries?surrogate_key=c", &[]).json()["entries"].as_array().is_some_and(Vec::is_empty)
    });
    // While the log is away, a purge is done here and that is said.
    drop(server);
    one.get("/plain/c");
    one.wait_until("the loss", |one| operate(one, "POST", "/service/the-id/purge/c", &[]).status == 503);
    assert!(!cached(&one, "/plain/c"));
}
