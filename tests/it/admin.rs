//! The operators' listener: who may ask, what there is, and that nothing secret is in it.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use hyper::Response;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::client::{self, Answer};
use crate::harness::{Setup, Sidelight, guest};
use crate::origin::{Origin, text};

fn ask(sidelight: &Sidelight, method: &str, path: &str, fields: &str) -> Answer {
    let request = format!("{method} {path} HTTP/1.1\r\n{fields}Connection: close\r\nContent-Length: 0\r\n\r\n");
    client::send_as(sidelight.admin, &request, method)
}

fn post(sidelight: &Sidelight, path: &str, body: &str) -> Answer {
    let length = body.len();
    client::send(
        sidelight.admin,
        &format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"),
    )
}

fn openapi() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/server/admin/openapi.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("the file")).expect("JSON")
}

/// What the description has, the listener does; and what it does not have, it does not do.
#[test]
fn the_description_is_true() {
    let sidelight = Setup::behaviours("rust").start();
    let served = sidelight.operate("GET", "/openapi.json").json();
    assert_eq!(served, openapi());
    let mut seen = BTreeSet::new();
    for (path, methods) in served["paths"].as_object().expect("paths") {
        let concrete = path
            .replace("{file}", "app.js")
            .replace("{service}", "it")
            .replace("{store}", "nothing")
            .replace("{backend}", "nothing")
            .replace("{key}", "k")
            .replace("{id}", "none")
            .replace("{host}", "a.test");
        let described: BTreeSet<String> = methods.as_object().expect("methods").keys().map(|method| method.to_uppercase()).collect();
        for method in ["GET", "POST", "PUT", "DELETE"] {
            // These end or hold up what is asked.
            if path == "/quit" || path == "/drain" && method == "POST" || path == "/inspect/profile" && method == "POST" {
                continue;
            }
            let answer = ask(&sidelight, method, &concrete, "Host: localhost\r\n");
            let statuses = &methods[method.to_lowercase()]["responses"];
            match described.contains(method) {
                true => {
                    let status = answer.status.to_string();
                    assert!(!statuses[&status].is_null(), "{method} {path}: {status} is not described: {}", answer.text());
                }
                false => assert!([404, 405].contains(&answer.status), "{method} {path}: {}", answer.status),
            }
            seen.insert(path.clone());
        }
    }
    assert!(seen.len() > 20, "{seen:?}");
    // GET changes nothing, wherever it is not described.
    for path in ["/reload", "/drain", "/quit", "/inspect/profile?service=it&seconds=1", "/purge/a", "/service/it/purge_all"] {
        assert_eq!(ask(&sidelight, "GET", path, "Host: localhost\r\n").status, 405, "{path}");
    }
    assert_eq!(sidelight.get("/synthetic").status, 418);
}

/// The table in the documents is made of the description.
#[test]
fn the_table_is_true() {
    let mut table = "| path | method | what |\n|---|---|---|\n".to_owned();
    for (path, methods) in openapi()["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let summary = operation["summary"].as_str().expect("a summary");
            table.push_str(&format!("| `{path}` | {} | {summary} |\n", method.to_uppercase()));
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/observability.md");
    let document = std::fs::read_to_string(&path).expect("the document");
    let (begin, end) = ("<!-- openapi -->\n", "\n<!-- end of openapi -->");
    let from = document.find(begin).expect("its beginning") + begin.len();
    let to = document.find(end).expect("its end");
    let table = format!("\n{table}");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, format!("{}{table}{}", &document[..from], &document[to..])).expect("writes");
    } else {
        assert_eq!(&document[from..to], table, "docs/observability.md is not up to date: BLESS=1 cargo test the_table");
    }
}

#[test]
fn who_may_ask() {
    let folder = tempfile::tempdir().expect("a folder");
    let token = folder.path().join("token");
    std::fs::write(&token, "open sesame\n").expect("writes");
    let sidelight = Setup::behaviours("rust").arg(&format!("--admin-token-file {} --admin-host ops.test", token.display())).start();
    let status = |method: &str, path: &str, fields: &str| ask(&sidelight, method, path, fields).status;
    let bearer = "Authorization: Bearer open sesame\r\n";
    for path in ["/status", "/inspect/requests", "/config_dump", "/cache", "/kv/it/x/keys", "/openapi.json", "/nothing"] {
        assert_eq!(status("GET", path, "Host: localhost\r\n"), 401, "{path}");
        assert_eq!(status("GET", path, "Host: localhost\r\nAuthorization: Bearer open\r\n"), 401, "{path}");
        assert_ne!(status("GET", path, &format!("Host: localhost\r\n{bearer}")), 401, "{path}");
        assert_eq!(status("GET", path, &format!("Host: evil.test\r\n{bearer}")), 421, "{path}");
        assert_eq!(status("GET", path, &format!("Host: localhost\r\nOrigin: http://evil.test\r\n{bearer}")), 403, "{path}");
    }
    for path in ["/reload", "/drain", "/quit", "/log-level", "/inspect/profile", "/service/it/purge_all"] {
        assert_eq!(status("POST", path, "Host: localhost\r\n"), 401, "{path}");
        assert_eq!(status("POST", path, &format!("Host: localhost\r\nSec-Fetch-Site: cross-site\r\n{bearer}")), 403, "{path}");
    }
    assert_eq!(status("GET", "/status", &format!("Host: ops.test:80\r\n{bearer}")), 200);
    // The page itself, probes and metrics are for everybody.
    for path in ["/inspector/", "/inspector/app.js", "/metrics", "/livez", "/readyz"] {
        assert_eq!(status("GET", path, "Host: localhost\r\n"), 200, "{path}");
    }
    // As the command line asks.
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(crate::harness::binary());
        let output = command.arg("purge").args(["--admin", &sidelight.admin.to_string(), "--all"]).args(args).output().expect("runs");
        (output.status.code(), String::from_utf8(output.stdout).expect("text"))
    };
    assert_eq!(run(&[]).0, Some(1));
    // Nobody counts what everything is.
    let (code, told) = run(&["--admin-token-file", &token.display().to_string()]);
    assert!(code == Some(0) && told.contains("\"status\": \"ok\"") && !told.contains("objects"), "{told}");
}

/// An address that other machines reach wants a token, or somebody who says that it needs none.
#[test]
fn not_for_everybody() {
    let (status, log) = Setup::behaviours("rust").arg("--admin 0.0.0.0:0").fails();
    assert!(status.code() == Some(2) && log.contains("can be reached from other machines") && log.contains("--probes"), "{log}");
    let sidelight = Setup::behaviours("rust").arg("--admin 0.0.0.0:0 --admin-open").start();
    assert_eq!(sidelight.operate("GET", "/status").status, 200);
}

/// Also what was before somebody looked.
#[test]
fn recorded_all_the_time() {
    let sidelight = Setup::behaviours("rust").arg("--inspect").start();
    assert_eq!(sidelight.get("/synthetic").status, 418);
    sidelight.wait_until("the request", |it| it.operate("GET", "/inspect/requests").json()["requests"][0]["path"] == "/synthetic");
}

#[test]
fn the_pages_files() {
    let sidelight = Setup::behaviours("rust").start();
    let page = sidelight.operate("GET", "/inspector/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"));
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    // Nothing from elsewhere.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/server/inspector");
    for file in std::fs::read_dir(folder).expect("the folder") {
        let file = file.expect("a file").path();
        let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
        let text = std::fs::read_to_string(&file).expect("text");
        let served = sidelight.operate("GET", &format!("/inspector/{}", if name == "index.html" { "" } else { name }));
        assert!(served.status == 200 && served.text() == text, "{name}");
        for (at, _) in text.match_indices("http") {
            let url = &text[at..text.len().min(at + 40)];
            // A link to follow; nothing is loaded from there.
            let known = ["http://www.w3.org/", "https://${TOOL}"];
            assert!(
                !url.starts_with("http://") && !url.starts_with("https://") || known.iter().any(|known| url.starts_with(known)),
                "{name}: {url}"
            );
        }
    }
    assert_eq!(sidelight.operate("GET", "/inspector").header("location"), Some("/inspector/"));
    assert_eq!(sidelight.operate("GET", "/").header("location"), Some("/inspector/"));
    assert_eq!(sidelight.operate("GET", "/inspector/../status").status, 404);
}

#[test]
fn one_request_seen_whole() {
    let origin = Origin::new(|_| {
        Response::builder().header("cache-control", "max-age=60").header("set-cookie", "s=hunter2").body(text("it")).expect("a response")
    });
    let sidelight = Setup::behaviours("rust").backend("origin", origin.url()).start();
    // Nobody looks: nothing is recorded.
    assert_eq!(sidelight.get("/pass/before").status, 200);
    let list = |after: u64| sidelight.operate("GET", &format!("/inspect/requests?after={after}")).json();
    assert_eq!(list(0)["requests"], serde_json::json!([]));
    let fields = "Host: a.test\r\nAuthorization: Bearer hunter2\r\nX-Plain: seen\r\n";
    let request = format!("GET /pass/x?token=hunter2 HTTP/1.1\r\n{fields}Connection: close\r\n\r\n");
    assert_eq!(client::send(sidelight.addr, &request).status, 200);
    // The program is not told of a trace that nobody exports.
    assert_eq!(origin.last().values("traceparent"), Vec::<&str>::new());
    sidelight.wait_until("the request", |_| list(0)["requests"].as_array().is_some_and(|list| !list.is_empty()));
    let all = list(0);
    let summary = &all["requests"][0];
    assert_eq!(
        (&summary["method"], &summary["path"], &summary["query"], &summary["status"]),
        (&"GET".into(), &"/pass/x".into(), &"token=REDACTED".into(), &200.into())
    );
    assert_eq!((&summary["service"], &summary["outcome"], &summary["attempts"]), (&"it".into(), &"finished".into(), &1.into()));
    assert_eq!(list(all["next"].as_u64().expect("a number"))["requests"], serde_json::json!([]));
    let id = summary["id"].as_str().expect("an id");
    let detail = sidelight.operate("GET", &format!("/inspect/requests/{id}"));
    assert!(!detail.text().contains("hunter2"), "{}", detail.text());
    let detail = detail.json();
    assert_eq!(detail["summary"], *summary);
    let field = |list: &Value, name: &str| {
        let found =
            list.as_array().expect("fields").iter().find(|pair| pair[0].as_str().is_some_and(|known| known.eq_ignore_ascii_case(name)));
        found.map(|pair| pair[1].as_str().expect("text").to_owned())
    };
    assert_eq!(field(&detail["fields"], "authorization").as_deref(), Some("‹redacted›"));
    assert_eq!(field(&detail["fields"], "x-plain").as_deref(), Some("seen"));
    assert_eq!(field(&detail["response"]["fields"], "set-cookie").as_deref(), Some("‹redacted›"));
    let calls = detail["calls"].as_array().expect("calls");
    assert!(calls.len() > 10 && detail["guest"]["count"].as_u64() >= Some(calls.len() as u64));
    let attempt = &detail["attempts"][0];
    assert_eq!((&attempt["backend"], &attempt["status"], &attempt["bytes"]), (&"origin".into(), &200.into(), &2.into()));
    assert_eq!(field(&attempt["fields"], "host").as_deref(), Some("a.test"));
    let sending = &calls[attempt["call"].as_u64().expect("a call") as usize];
    assert!(
        sending["function"].as_str().is_some_and(|name| name.starts_with("send")) && sending["sent"] == true && sending["waits"] == true
    );
    let at = |value: &Value| value.as_f64().expect("a time");
    assert!(at(&attempt["begun_us"]) <= at(&attempt["connected_us"]) && at(&attempt["connected_us"]) <= at(&attempt["answered_us"]));
    assert!(at(&sending["begun_us"]) <= at(&attempt["begun_us"]) && at(&attempt["ended_us"]) <= at(&summary["duration_us"]) + 1000.0);
    assert!(at(&detail["guest"]["waiting_us"]) > 0.0 && at(&detail["guest"]["cpu_us"]) > 0.0);

    // In others' formats.
    let export = |form: &str| {
        let answer = sidelight.operate("GET", &format!("/inspect/requests/{id}/{form}"));
        assert!(
            answer.header("content-disposition").is_some_and(|value| value.starts_with("attachment; filename="))
                && !answer.text().contains("hunter2")
        );
        answer.json()
    };
    let otlp: opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest =
        serde_json::from_value(export("otlp")).expect("an ExportTraceServiceRequest");
    let spans = &otlp.resource_spans[0].scope_spans[0].spans;
    assert_eq!(spans.len(), 2 + calls.len() + 1);
    let chrome = export("chrome");
    let events = chrome["traceEvents"].as_array().expect("events");
    assert!(events.iter().filter(|event| event["ph"] == "X").count() == spans.len());
    let firefox = export("firefox");
    assert!(firefox["threads"].as_array().is_some_and(|threads| threads.len() == 4), "{:?}", firefox["threads"].as_array().map(Vec::len));
    assert_eq!(sidelight.operate("GET", &format!("/inspect/requests/{id}/svg")).status, 404);
    assert_eq!(sidelight.operate("GET", "/inspect/requests/none").status, 404);
    assert_eq!(sidelight.operate("GET", "/inspect/requests?after=x").status, 400);

    let hostcalls = sidelight.operate("GET", "/inspect/hostcalls").json();
    let total = hostcalls["hostcalls"]
        .as_array()
        .expect("hostcalls")
        .iter()
        .find(|call| call["function"] == "send_downstream")
        .expect("sent")
        .clone();
    assert_eq!((&total["count"], &total["statuses"]["ok"]), (&2.into(), &2.into()));
    let services = sidelight.operate("GET", "/inspect/services").json();
    let service = &services["services"][0];
    assert_eq!(
        (&service["name"], &service["backends"][0]["name"], &service["backends"][0]["idle"]),
        (&"it".into(), &"origin".into(), &1.into())
    );
    assert_eq!(services["reloads"][0]["cause"], "start");
}

#[test]
fn requests_in_flight() {
    let (free, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Arc::new(std::sync::Mutex::new(held));
    let origin = Origin::new(move |_| {
        let _: Result<(), _> = held.lock().expect("the channel").recv();
        Response::new(text("late"))
    });
    let sidelight = Setup::behaviours("rust").backend("origin", origin.url()).start();
    drop(sidelight.operate("GET", "/inspect/requests"));
    let addr = sidelight.addr;
    let waiting = std::thread::spawn(move || client::send(addr, "GET /pass/slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").text());
    sidelight.wait_until("one in flight", |it| {
        let live = it.operate("GET", "/inspect/requests").json()["live"].clone();
        live[0]["path"] == "/pass/slow"
            && live[0]["waits_for"].as_str().is_some_and(|name| name.starts_with("fastly_http_req.send"))
            && live[0]["backends"][0] == "origin"
            && live[0]["age_us"].as_f64() > Some(0.0)
    });
    free.send(()).expect("waits");
    assert_eq!(waiting.join().expect("ends"), "late");
    sidelight.wait_until("none in flight", |it| it.operate("GET", "/inspect/requests").json()["live"] == serde_json::json!([]));
}

/// However many there are, the latest are kept, and what is missed is said.
#[test]
fn only_the_latest_are_kept() {
    let sidelight = Setup::new(guest("rust", "hello")).start();
    drop(sidelight.operate("GET", "/inspect/requests"));
    let mut connection = client::Connection::open(sidelight.addr);
    for _ in 0..600 {
        connection.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(connection.answer().status, 200);
    }
    sidelight.wait_until("all", |it| it.operate("GET", "/inspect/requests?after=1").json()["next"] == 600);
    let seen = sidelight.operate("GET", "/inspect/requests?after=1").json();
    assert_eq!((seen["requests"].as_array().expect("requests").len(), &seen["missed"]), (500, &99.into()));
}

#[test]
fn levels_of_the_log() {
    let sidelight = Setup::behaviours("rust").start();
    let now = sidelight.operate("GET", "/log-level").json();
    assert!(now["filter"].as_str().is_some_and(|filter| filter.contains("sidelight=debug")), "{now}");
    assert_eq!(sidelight.get("/synthetic").status, 418);
    assert!(!sidelight.log.text().contains("sidelight::hostcall"));
    let set = post(&sidelight, "/log-level", "info,sidelight::hostcall=trace");
    assert_eq!((set.status, set.json()["filter"].as_str()), (200, Some("info,sidelight::hostcall=trace")));
    assert_eq!(sidelight.get("/synthetic").status, 418);
    sidelight.log.wait_for(&["sidelight::hostcall", "send_downstream"]);
    let wrong = post(&sidelight, "/log-level", "info,=nonsense==");
    assert!(wrong.status == 400 && wrong.text().contains("expected a filter"), "{}", wrong.text());
    assert_eq!((post(&sidelight, "/log-level", "").status, post(&sidelight, "/log-level", "two words").status), (400, 400));
    assert_eq!(sidelight.operate("GET", "/log-level").json()["filter"], "info,sidelight::hostcall=trace");
    assert_eq!(post(&sidelight, "/log-level", "default").json(), now);
    assert_eq!(post(&sidelight, "/log-level", &"x".repeat(5000)).status, 413);
}

#[test]
fn draining_and_quitting() {
    let sidelight = Setup::behaviours("rust").arg("--probes 127.0.0.1:0").start();
    let probes = sidelight
        .log
        .wait("the probes", |line| line.split("probes on http://").nth(1)?.split('/').next()?.parse::<std::net::SocketAddr>().ok());
    let probe = |path: &str| client::send(probes, &format!("GET {path} HTTP/1.1\r\nHost: anything.test\r\nConnection: close\r\n\r\n"));
    assert_eq!((probe("/readyz").status, probe("/livez").status), (200, 200));
    assert!(probe("/metrics").text().contains("sidelight_build_info"));
    // It has nothing else.
    for path in ["/status", "/inspector/", "/config_dump", "/openapi.json", "/kv/it/x/keys", "/"] {
        assert_eq!(probe(path).status, 404, "{path}");
    }
    assert_eq!(post(&sidelight, "/drain", "").status, 200);
    assert_eq!((probe("/readyz").status, probe("/livez").status, sidelight.get("/synthetic").status), (503, 200, 418));
    assert_eq!(post(&sidelight, "/quit", "").status, 202);
    assert_eq!(sidelight.end().code(), Some(0));
}

#[test]
fn metrics_can_be_compressed() {
    let sidelight = Setup::behaviours("rust").start();
    let plain = ask(&sidelight, "GET", "/metrics", "Host: localhost\r\n");
    let small = ask(&sidelight, "GET", "/metrics", "Host: localhost\r\nAccept-Encoding: br;q=1, gzip;q=0.5\r\n");
    assert_eq!((plain.header("content-encoding"), small.header("content-encoding")), (None, Some("gzip")));
    let mut text = String::new();
    flate2::read::GzDecoder::new(&small.body[..]).read_to_string(&mut text).expect("gzip");
    assert!(text.contains("sidelight_build_info") && small.body.len() < text.len() / 2);
    let none = ask(&sidelight, "GET", "/metrics", "Host: localhost\r\nAccept-Encoding: gzip;q=0\r\n");
    assert_eq!(none.header("content-encoding"), None);
}

/// A secret in everything that can have one; none of them is in anything that is shown.
#[test]
fn no_secret_is_shown() {
    let origin = Origin::fixed("it");
    let mark = |place: &str| format!("marked-secret-{place}");
    let manifest = format!(
        "manifest_version = 3\nname = \"it\"\n\
         [local_server]\nfake_valid_fastly_keys = [\"{fastly}\"]\n\
         [local_server.backends.origin]\nurl = \"{origin}\"\n\
         [local_server.secret_stores]\nsecrets = [{{ key = \"inline\", data = \"{inline}\" }}, {{ key = \"file\", file = \"secret.txt\" }}, {{ key = \"env\", env = \"MARKED\" }}]\n\
         [sidelight.backends.origin]\nhealth_check = {{ path = \"/?token={check}\" }}\n\
         [sidelight.logs.events]\nkind = \"http\"\nurl = \"http://127.0.0.1:1/x\"\nheaders = {{ authorization = \"{header}\" }}\n",
        fastly = mark("fastly-key"),
        origin = origin.url(),
        inline = mark("inline"),
        check = mark("health-check"),
        header = mark("log-header"),
    );
    let host = format!(
        "admin_token_file = \"token\"\naccess_log = [\"path\", \"query\", \"user_agent\", \"referer\"]\n\
         [traces]\nendpoint = \"{}\"\nheaders = {{ x-key = \"{}\" }}\nauthorization_file = \"otlp\"\nforce_file = \"force\"\ndelay = \"20ms\"\n\
         [services.it]\nmanifest = \"fastly.toml\"\nmodule = \"{}\"\n",
        origin.url(),
        mark("otlp-header"),
        guest("rust", "behaviours").display()
    );
    let sidelight = Setup::host(&host)
        .file("fastly.toml", &manifest)
        .file("secret.txt", &mark("file"))
        .file("token", &mark("token"))
        .file("otlp", &mark("otlp"))
        .file("force", &mark("force"))
        .env("MARKED", mark("env"))
        .start();
    let bearer = format!("Host: localhost\r\nAuthorization: Bearer {}\r\n", mark("token"));
    let shown = |path: &str| {
        let answer = ask(&sidelight, "GET", path, &bearer);
        (answer.status, format!("{:?}{}", answer.headers, answer.text()))
    };
    assert_eq!(shown("/inspect/requests").0, 200);
    // Requests that carry them, in places that are usual and in some that are not.
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("user:{}", mark("file")));
    let request = format!(
        "GET /pass/x?token={}&plain={} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nCookie: a={}\r\nFastly-Key: {}\r\nX-Sidelight-Trace: {}\r\nX-Unusual: {}\r\nX-Basic: Basic {}\r\nConnection: close\r\n\r\n",
        mark("query-of-client"),
        mark("inline"),
        mark("bearer"),
        mark("cookie"),
        mark("fastly-key"),
        mark("force"),
        mark("env"),
        basic,
    );
    assert_eq!(client::send(sidelight.addr, &request).status, 200);
    assert_eq!(sidelight.get("/log?msg=plain").status, 200);
    let found = || -> Option<String> {
        let list: Value = ask(&sidelight, "GET", "/inspect/requests", &bearer).json();
        let request = list["requests"].as_array()?.iter().find(|one| one["path"] == "/pass/x")?;
        Some(request["id"].as_str()?.to_owned())
    };
    sidelight.wait_until("the request", |_| found().is_some());
    let id = found().expect("is there");
    let mut paths: Vec<String> = ["", "/otlp", "/chrome", "/firefox"].iter().map(|form| format!("/inspect/requests/{id}{form}")).collect();
    let rest = [
        "/inspect/requests",
        "/inspect/hostcalls",
        "/inspect/services",
        "/config_dump",
        "/status",
        "/metrics",
        "/cache",
        "/cache/entries",
        "/cache/decisions",
        "/version",
        "/log-level",
    ];
    paths.extend(rest.map(str::to_owned));
    for path in &paths {
        let (status, shown) = shown(path);
        assert_eq!(status, 200, "{path}: {shown}");
        assert!(!shown.contains("marked-secret") && !shown.contains(&basic[8..24]), "{path}: {shown}");
    }
    let dump = shown("/config_dump").1;
    for part in ["‹redacted›", "127.0.0.1:1/x", "\"cpu\"", "5s", "sha256", "origin"] {
        assert!(dump.contains(part), "{part}: {dump}");
    }
    // What goes out as a trace, too, apart from the credentials for the collector.
    sidelight.wait_until("a trace", |_| origin.seen().iter().any(|seen| seen.target == "/v1/traces"));
    for seen in origin.seen().iter().filter(|seen| seen.target == "/v1/traces") {
        let text = String::from_utf8_lossy(&seen.body).into_owned();
        // Values of secret stores, too, wherever the program or its client put them.
        assert!(!text.contains(&basic[8..24]), "{text}");
        assert!(!text.contains("marked-secret-inline") && !text.contains("marked-secret-env"), "{text}");
        assert!(!text.contains("query-of-client") && !text.contains("secret-bearer") && !text.contains("secret-cookie"), "{text}");
        assert_eq!(seen.values("authorization"), [mark("otlp")]);
    }
    sidelight.signal(Signal::SIGTERM);
    sidelight.log.wait_for(&["stopped"]);
    assert!(!sidelight.log.text().contains("marked-secret"), "{}", sidelight.log.text());
}

#[test]
fn profiles_for_a_while() {
    let sidelight = Setup::new(guest("rust", "reuse")).start();
    let addr = sidelight.addr;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let load = std::thread::spawn(move || {
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            drop(client::send(addr, "GET /burn?n=50 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
        }
    });
    let profile = post(&sidelight, "/inspect/profile?seconds=2&service=it", "");
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    load.join().expect("ends");
    assert_eq!(profile.status, 200, "{}", profile.text());
    let profile = profile.json();
    let samples = &profile["threads"][0]["samples"];
    assert!(samples["length"].as_u64() > Some(20), "{samples}");
    assert!(profile["threads"][0]["stringArray"].to_string().contains("wasm function"), "no function of the program's");
    assert_eq!(post(&sidelight, "/inspect/profile?seconds=0", "").status, 400);
    let other = post(&sidelight, "/inspect/profile?seconds=1&service=other", "");
    assert!(other.status == 404 && other.text().contains("there is: it"), "{}", other.text());
    let addr = sidelight.admin;
    let first = std::thread::spawn(move || {
        client::send(addr, "POST /inspect/profile?seconds=2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .status
    });
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(post(&sidelight, "/inspect/profile?seconds=1", "").status, 409);
    assert_eq!(first.join().expect("ends"), 200);
}

/// Neither in what the cache and the inspector tell of URLs, keys and backends, nor in the log.
#[test]
fn no_secret_is_shown_of_what_programs_name() {
    const MARK: &str = "marked-secret-value.example";
    let origin = Origin::new(|_| {
        let response = Response::builder().header("cache-control", "max-age=100").header("surrogate-key", format!("a {MARK}"));
        response.body(text("it")).expect("a response")
    });
    let host = format!(
        "[services.cached]\nhosts = [\"cached.test\"]\nmanifest = \"fastly.toml\"\nmodule = \"{}\"\n\
         [services.making]\nhosts = [\"making.test\"]\nmodule = \"{}\"\ndynamic_backends = [\"any\"]\n",
        guest("rust", "cache").display(),
        guest("rust", "backends").display()
    );
    let manifest = format!(
        "manifest_version = 3\nname = \"it\"\n[local_server.backends.origin]\nurl = \"{}\"\n\
         [local_server.secret_stores]\nsecrets = [{{ key = \"k\", data = \"{MARK}\" }}]\n",
        origin.url()
    );
    let sidelight = Setup::host(&host).file("fastly.toml", &manifest).start();
    assert_eq!(sidelight.get_of("cached.test", &format!("/plain/cache/{MARK}")).status, 200);
    assert_eq!(sidelight.get_of("making.test", &format!("/?target={MARK}:1&name={MARK}")).status, 502);
    for (path, part) in [("/cache/entries", "surrogate_keys"), ("/cache/decisions", "/plain/cache/"), ("/inspect/services", "making")] {
        let shown = sidelight.operate("GET", path).text();
        assert!(shown.contains(part) && !shown.contains(MARK), "{path}: {shown}");
    }
    sidelight.log.wait_for(&["a request to a backend failed", "resolving ‹redacted›"]);
    assert!(!sidelight.log.text().contains(MARK));
}
