//! Every face of the cache from every language.

use std::path::Path;

use crate::client::{self, Answer};
use crate::harness::{Setup, Sidelight, guest};

use super::script::Origin;
use super::table::{down, ok, status, unchanged};

fn start(language: &str, module: &str) -> (Origin, Sidelight) {
    let origin = Origin::start();
    let sidelight = Setup::new(guest(language, module)).backend("origin", origin.url()).start();
    (origin, sidelight)
}

fn send(sidelight: &Sidelight, method: &str, path: &str, fields: &[(&str, &str)], body: &str) -> Answer {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in fields {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("\r\n{body}"));
    client::send(sidelight.addr, &request)
}

fn ask(sidelight: &Sidelight, path: &str, fields: &[(&str, &str)]) -> Answer {
    send(sidelight, "GET", path, fields, "")
}

fn later(sidelight: &Sidelight, seconds: u32) {
    assert_eq!(sidelight.operate("POST", &format!("/cache/age?seconds={seconds}")).status, 200);
}

/// What each way of caching a response must do.
fn responses(language: &str, module: &str, path: &str) {
    let (origin, sidelight) = start(language, module);
    let path = &format!("/{path}/x");
    let tagged = ok("one").control("max-age=100, stale-while-revalidate=50").with("etag", "\"1\"").with("surrogate-key", "all of-x");
    origin.script(path, &[tagged, ok("two").control("max-age=100"), ok("three").control("max-age=100"), ok("four")]);
    let outcome = |answer: &Answer| (answer.text(), answer.header("x-cache").unwrap_or_default().to_owned());
    let is = |text: &str, cache: &str| (text.to_owned(), cache.to_owned());
    let first = ask(&sidelight, path, &[]);
    // Of what it has just fetched, the JavaScript SDK tells everything when it caches itself.
    let told = (module, language) == ("cache_http", "js");
    assert_eq!((outcome(&first), first.header("surrogate-key").is_some()), (is("one", "MISS"), told));
    let second = ask(&sidelight, path, &[]);
    assert_eq!(second.header("surrogate-key"), None);
    assert_eq!((outcome(&second), second.header("x-cache-hits")), (is("one", "HIT"), Some("1")));
    assert_eq!(ask(&sidelight, path, &[("If-None-Match", "\"1\"")]).status, 304);
    assert_eq!(ask(&sidelight, path, &[("Range", "bytes=1-")]).text(), "ne");
    // A surrogate key of the response is one that purges know.
    assert_eq!(ask(&sidelight, "/purge?key=of-x", &[]).text(), "ok");
    assert_eq!(outcome(&ask(&sidelight, path, &[])), is("two", "MISS"));
    // So is one of the request.
    assert_eq!(outcome(&ask(&sidelight, &format!("{path}?q"), &[("x-test-keys", "mine other")])), is("three", "MISS"));
    assert_eq!(outcome(&ask(&sidelight, &format!("{path}?q"), &[])), is("three", "HIT"));
    ask(&sidelight, "/purge?key=mine", &[]);
    assert_eq!(outcome(&ask(&sidelight, &format!("{path}?q"), &[])), is("four", "MISS"));
    // Overrides.
    let path = &format!("{path}y");
    origin.script(path, &[ok("a"), ok("b"), ok("c"), ok("d")]);
    assert_eq!(outcome(&ask(&sidelight, path, &[("x-test-ttl", "1000"), ("x-test-cache-key", "k")])), is("a", "MISS"));
    later(&sidelight, 900);
    assert_eq!(outcome(&ask(&sidelight, &format!("{path}?other"), &[("x-test-cache-key", "k")])), is("a", "HIT"));
    let passed = ask(&sidelight, path, &[("x-test-pass", "1"), ("x-test-cache-key", "k")]);
    assert_eq!((passed.text().as_str(), passed.header("x-cache")), ("b", None));
    later(&sidelight, 200);
    assert_eq!(outcome(&ask(&sidelight, path, &[("x-test-cache-key", "k")])), is("c", "MISS"));
    assert!(origin.asked(path).iter().all(|seen| seen.values("x-test-ttl").is_empty() && seen.values("fastly-xqd-cache-key").is_empty()));
    // Revalidation, and a stale answer meanwhile.
    let path = &format!("{path}z");
    origin.script(
        path,
        &[
            ok("old").control("max-age=10, stale-while-revalidate=20").with("last-modified", "Thu, 26 Nov 2026 12:00:00 GMT"),
            unchanged().control("max-age=30, stale-while-revalidate=20"),
            ok("new"),
        ],
    );
    ask(&sidelight, path, &[]);
    later(&sidelight, 15);
    assert_eq!(outcome(&ask(&sidelight, path, &[])), is("old", "HIT"));
    origin.wait_asked(path, 2);
    assert_eq!(origin.asked(path)[1].values("if-modified-since"), ["Thu, 26 Nov 2026 12:00:00 GMT"]);
    sidelight.wait_until("the confirmation in the cache", |sidelight| {
        let entries = sidelight.operate("GET", &format!("/cache/entries?about={path}")).json();
        entries["entries"][0]["max_age"] == 30.0
    });
    later(&sidelight, 20);
    assert_eq!(outcome(&ask(&sidelight, path, &[])), is("old", "HIT"));
    assert_eq!(origin.asked(path).len(), 2);
    // PURGE by an address.
    assert_eq!(send(&sidelight, "PURGE", path, &[], "").json()["status"], "ok");
    assert_eq!(outcome(&ask(&sidelight, path, &[])), is("new", "MISS"));
}

macro_rules! each {
    ($(fn $name:ident = $call:expr;)*) => {
        $(
            #[test]
            fn $name() {
                $call
            }
        )*
    };
}

each! {
    fn plain_sends_rust = responses("rust", "cache", "plain");
    fn plain_sends_js = responses("js", "cache", "plain");
    fn plain_sends_go = responses("go", "cache", "plain");
    fn the_guests_own_caching_rust = responses("rust", "cache", "guest");
    fn the_guests_own_caching_js = responses("js", "cache_http", "guest");
    fn the_guests_own_caching_go = responses("go", "cache_http", "guest");
    fn hooks_rust = hooks("rust", "cache");
    fn hooks_js = hooks("js", "cache_http");
    fn hooks_go = hooks("go", "cache_http");
    fn the_core_cache_rust = core("rust", "cache");
    fn the_core_cache_js = core("js", "cache");
    fn the_core_cache_go = core("go", "cache");
    fn the_simple_cache_rust = simple("rust");
    fn the_simple_cache_js = simple("js");
    fn the_simple_cache_go = simple("go");
}

/// What only a guest that caches itself can do.
fn hooks(language: &str, module: &str) {
    let (origin, sidelight) = start(language, module);
    origin.script("/guest/ttl", &[ok("a").control("max-age=10"), ok("b")]);
    ask(&sidelight, "/guest/ttl", &[("x-test-after", "ttl=100")]);
    later(&sidelight, 50);
    assert_eq!(ask(&sidelight, "/guest/ttl", &[]).text(), "a");
    origin.script("/guest/un", &[ok("a").control("max-age=10"), ok("b").control("max-age=10")]);
    ask(&sidelight, "/guest/un", &[("x-test-after", "uncacheable")]);
    assert_eq!(ask(&sidelight, "/guest/un", &[]).text(), "b");
    origin.script("/guest/upper", &[ok("text").control("max-age=10"), ok("b")]);
    assert_eq!(ask(&sidelight, "/guest/upper", &[("x-test-after", "upper")]).text(), "TEXT");
    assert_eq!(ask(&sidelight, "/guest/upper", &[]).text(), "TEXT");
    origin.script("/guest/error", &[ok("good").control("max-age=10, stale-if-error=100"), status(503, "bad"), down()]);
    ask(&sidelight, "/guest/error", &[]);
    later(&sidelight, 20);
    let answer = ask(&sidelight, "/guest/error", &[("x-test-after", "fail-on-5xx")]);
    if language == "go" {
        // Its SDK knows no stale-if-error.
        assert_eq!(answer.status, 502);
    } else {
        assert_eq!((answer.status, answer.text().as_str()), (200, "good"));
        assert_eq!(ask(&sidelight, "/guest/error", &[]).text(), "good");
    }
}

fn core(language: &str, module: &str) {
    let (_, sidelight) = start(language, module);
    let get = |path: &str| ask(&sidelight, path, &[]);
    assert_eq!(get("/core/get?key=a").status, 404);
    assert_eq!(send(&sidelight, "POST", "/core/set?key=a&ttl=100&swr=50&age=10&meta=m&keys=k1%20k2&length=5", &[], "hello").text(), "ok");
    let found = get("/core/get?key=a");
    let field = |name: &str| found.header(name).unwrap_or_default().to_owned();
    assert_eq!((found.text().as_str(), field("x-meta").as_str(), field("x-length").as_str()), ("hello", "m", "5"));
    assert_eq!(
        (field("x-age").as_str(), field("x-max-age").as_str(), field("x-swr").as_str(), field("x-hits").as_str()),
        ("10", "100", "50", "1")
    );
    assert_eq!(get("/core/range?key=a&from=1&to=3").text(), "ell");
    assert_eq!(get("/core/range?key=a&from=3").text(), "lo");
    // A transaction finds it, then revalidates it, then writes it.
    assert_eq!((get("/core/fill?key=a&who=x").text().as_str(), get("/core/fill?key=a").header("x-who")), ("hello", Some("found")));
    later(&sidelight, 95);
    let stale = get("/core/get?key=a");
    assert_eq!((stale.text().as_str(), stale.header("x-state").is_some()), ("hello", true));
    assert_eq!(get("/core/fill?key=a&update=1&ttl=100").header("x-who"), Some("updated"));
    assert_eq!((get("/core/get?key=a").text().as_str(), get("/core/get?key=a").header("x-age")), ("hello", Some("0")));
    later(&sidelight, 200);
    assert_eq!(get("/core/get?key=a").status, 404);
    let filled = get("/core/fill?key=a&who=me&ttl=100&keys=k3");
    assert_eq!((filled.text().as_str(), filled.header("x-who")), ("filled by me", Some("filled")));
    assert_eq!(get("/core/get?key=a").text(), "filled by me");
    assert_eq!(get("/core/cancel?key=none").text(), "cancelled");
    assert_eq!(get("/core/cancel?key=a").text(), "found");
    // Variants.
    for language in ["de", "fr"] {
        let fields = [("Accept-Language", language)];
        send(&sidelight, "POST", "/core/set?key=v&vary=accept-language", &fields, language);
    }
    for language in ["de", "fr"] {
        assert_eq!(ask(&sidelight, "/core/get?key=v&vary=accept-language", &[("Accept-Language", language)]).text(), language);
    }
    assert_eq!(ask(&sidelight, "/core/get?key=v&vary=accept-language", &[("Accept-Language", "it")]).status, 404);
    // Purges: soft leaves it usable for its time.
    assert_eq!(get("/purge?key=k3").text(), "ok");
    assert_eq!(get("/core/get?key=a").status, 404);
    send(&sidelight, "POST", "/core/set?key=s&ttl=100&swr=50&keys=k4", &[], "soft");
    get("/purge?key=k4&soft=1");
    assert_eq!(get("/core/get?key=s").text(), "soft");
    later(&sidelight, 60);
    assert_eq!(get("/core/get?key=s").status, 404);
    // Many at once are one write.
    let clients: Vec<_> = (0..20)
        .map(|index| {
            let addr = sidelight.addr;
            std::thread::spawn(move || {
                client::send(
                    addr,
                    &format!("GET /core/fill?key=crowd&who={index}&ms=300 HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\n\r\n"),
                )
            })
        })
        .collect();
    let answers: Vec<_> = clients.into_iter().map(|client| client.join().expect("an answer")).collect();
    assert_eq!(answers.iter().filter(|answer| answer.header("x-who") == Some("filled")).count(), 1);
    assert!(answers.iter().all(|answer| answer.text() == answers[0].text()));
}

fn simple(language: &str) {
    let (_, sidelight) = start(language, "cache");
    let get = |path: &str| ask(&sidelight, path, &[]).text();
    assert_eq!((get("/simple?key=a&value=one&ttl=100").as_str(), get("/simple?key=a&value=two").as_str()), ("one", "one"));
    assert_eq!((get("/simple/purge?key=a").as_str(), get("/simple?key=a&value=two&ttl=100").as_str()), ("ok", "two"));
    later(&sidelight, 200);
    assert_eq!(get("/simple?key=a&value=three"), "three");
}

#[test]
fn what_only_rust_has() {
    let (_, sidelight) = start("rust", "cache");
    let get = |path: &str| ask(&sidelight, path, &[]).text();
    // Replacing.
    send(&sidelight, "POST", "/core/set?key=r&ttl=100", &[], "first");
    assert_eq!(get("/core/get?key=r"), "first");
    assert_eq!(get("/core/replace?key=r&strategy=immediate&who=i"), "first 2 100");
    assert_eq!(get("/core/replace?key=r&strategy=force&who=f"), "replaced by i 1 60");
    assert_eq!(get("/core/replace?key=r&strategy=wait&who=w"), "replaced by f 1 60");
    assert_eq!((get("/core/get?key=r").as_str(), get("/core/replace?key=nothing").as_str()), ("replaced by w", "none"));
    // One that waits sees what those before it have written.
    let addr = sidelight.addr;
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\n\r\n");
    let counting: Vec<_> = (0..10)
        .map(|index| {
            let request = request(&format!("/core/replace?key=count&strategy=wait&ms=20&who={index}"));
            std::thread::spawn(move || client::send(addr, &request).text())
        })
        .collect();
    let mut seen: Vec<String> = counting.into_iter().map(|client| client.join().expect("an answer")).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 10, "each saw another's: {seen:?}");
    // While an object is replaced by force, others wait for the new one.
    let slow = request("/core/replace?key=r&strategy=force&ms=400&who=slow");
    let replacing = std::thread::spawn(move || client::send(addr, &slow).text());
    std::thread::sleep(std::time::Duration::from_millis(150));
    assert_eq!(get("/core/fill?key=r&who=nobody"), "replaced by slow");
    assert_eq!(replacing.join().expect("an answer"), "replaced by w 2 60");
    // What is given up is no object.
    assert_eq!((get("/core/abandon?key=half").as_str(), get("/core/get?key=half").as_str()), ("abandoned", "none"));
    assert_eq!(get("/core/again?key=again"), "Some(10) 234");
    assert_eq!((get("/core/key?length=8135").as_str(), get("/core/key?length=8136").starts_with("ok")), ("ok", false));
    assert_eq!(get("/core/async?key=async"), "false asked");
    assert_eq!(get("/core/service?key=r&id=no-such-id"), "Unsupported");
}

#[test]
fn another_services_core_cache_is_there_for_those_it_lets() {
    let wasm = guest("rust", "cache").display().to_string();
    let host = format!(
        "[services.a]\nhosts = [\"a\"]\nmodule = \"{wasm}\"\nservice_id = \"id-a\"\n[services.a.sidelight.cache]\nopen_to = [\"b\"]\n\
         [services.b]\nhosts = [\"b\"]\nmodule = \"{wasm}\"\nservice_id = \"id-b\"\n\
         [services.c]\nhosts = [\"c\"]\nmodule = \"{wasm}\"\nservice_id = \"id-c\"\n"
    );
    // Previews of one service have one id: of those that let it in, whoever asks gets always the same one's.
    let previews: String = (1..=8)
        .map(|index| format!("[services.p{index}]\nhosts = [\"p{index}\"]\nmodule = \"{wasm}\"\nservice_id = \"id-p\"\nsidelight.cache.open_to = [\"b\"]\n"))
        .collect();
    let sidelight = Setup::host(&(host + &previews)).start();
    let of = |host: &str, path: &str| {
        client::send(sidelight.addr, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"))
            .text()
    };
    assert_eq!(of("a", "/core/fill?key=k&who=a"), "filled by a");
    assert_eq!(of("b", "/core/get?key=k"), "none", "each has its own");
    assert_eq!(of("b", "/core/service?key=k&id=id-a"), "filled by a");
    assert_eq!(of("c", "/core/service?key=k&id=id-a"), "Unsupported");
    assert_eq!(of("a", "/core/service?key=k&id=id-b"), "Unsupported");
    for index in (1..=8).rev() {
        of(&format!("p{index}"), &format!("/core/fill?key=k&who=p{index}"));
    }
    assert_eq!(of("b", "/core/service?key=k&id=id-p"), "filled by p1");
    // Purges of one are not of the other.
    of("c", "/core/fill?key=k&keys=same&who=c");
    of("a", "/core/fill?key=m&keys=same&who=a");
    of("a", "/purge?key=same");
    assert_eq!((of("a", "/core/get?key=m").as_str(), of("c", "/core/get?key=k").as_str()), ("none", "filled by c"));
}

/// One that comes and goes has whatever id and name it likes: it is no way into what others share, nor among those they share it with.
#[test]
fn what_services_share_is_not_for_those_that_take_an_id_or_a_name() {
    let wasm = guest("rust", "cache").display().to_string();
    let host = format!(
        "services_dir = \"services\"\n\
         [services.a]\nhosts = [\"a\"]\nmodule = \"{wasm}\"\nservice_id = \"id-a\"\n[services.a.sidelight.cache]\nopen_to = [\"b\", \"free\"]\n\
         [services.b]\nhosts = [\"b\"]\nmodule = \"{wasm}\"\n"
    );
    let dropped = |name: &str, id: &str| {
        format!("hosts = [\"{name}\"]\nmodule = \"app.wasm\"\nservice_id = \"{id}\"\nsidelight.cache.open_to = [\"*\"]\n")
    };
    let setup = ["one", "two", "free"].into_iter().fold(Setup::host(&host), |setup, name| {
        let id = if name == "free" { "id-free" } else { "id-a" };
        setup
            .copy(&format!("services/{name}/app.wasm"), Path::new(&wasm))
            .file(&format!("services/{name}/service.toml"), &dropped(name, id))
    });
    let sidelight = setup.start();
    let of = |host: &str, path: &str| sidelight.get_of(host, path).text();
    sidelight.wait_until("all", |sidelight| {
        ["one", "two", "free"].iter().all(|host| sidelight.get_of(host, "/core/get?key=k").text() == "none")
    });
    for host in ["a", "one", "two", "free"] {
        assert_eq!(of(host, &format!("/core/fill?key=k&who={host}")), format!("filled by {host}"));
    }
    for _ in 0..8 {
        assert_eq!(of("b", "/core/service?key=k&id=id-a"), "filled by a");
    }
    // It has a name that `a` lets in, and nobody has said that it may be called that; of two others that let it in, nobody knows whose the id is.
    assert_eq!(of("free", "/core/service?key=k&id=id-a"), "Unsupported");
    // Of those that come and go, `id-free` is of one, and lets everybody.
    assert_eq!(of("one", "/core/service?key=k&id=id-free"), "filled by free");
}

#[test]
fn responses_need_not_be_cached() {
    let origin = Origin::start();
    let manifest = "[sidelight.cache]\nhttp = false\n";
    let sidelight = Setup::new(guest("rust", "cache")).manifest(manifest).backend("origin", origin.url()).start();
    for path in ["/plain/x", "/guest/x"] {
        origin.script(path, &[ok("one").control("max-age=100"), ok("two").control("max-age=100")]);
        for text in ["one", "two"] {
            let answer = ask(&sidelight, path, &[("x-test-ttl", "100")]);
            assert_eq!((answer.text().as_str(), answer.header("x-cache") == Some("HIT")), (text, false), "{path}");
        }
    }
    // What the program caches itself is.
    assert_eq!(ask(&sidelight, "/core/fill?key=k&who=a", &[]).text(), "filled by a");
    assert_eq!(ask(&sidelight, "/core/get?key=k", &[]).text(), "filled by a");
}
