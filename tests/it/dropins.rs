//! Services that come and go: folders within a folder.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use sha2::Digest as _;

use crate::client;
use crate::harness::{Setup, Sidelight, guest};
use crate::origin::{Origin, text};
use crate::reload::saying;

/// A host with a folder `services`, and one service of its own.
fn host(more: &str) -> Setup {
    let text = format!("services_dir = \"services\"\n{more}\n[services.own]\nhosts = [\"own.test\"]\nmodule = \"own.wat\"\n");
    Setup::host(&text).file("own.wat", &saying("own"))
}

/// Makes a folder with a service that says its name.
fn service(setup: Setup, name: &str, settings: &str) -> Setup {
    let file = |file: &str| format!("services/{name}/{file}");
    setup.file(&file("service.toml"), &format!("module = \"app.wat\"\n{settings}\n")).file(&file("app.wat"), &saying(name))
}

fn put(sidelight: &Sidelight, name: &str, settings: &str, says: &str) {
    sidelight.write(&format!("services/{name}/app.wat"), &saying(says));
    sidelight.write(&format!("services/{name}/service.toml"), &format!("module = \"app.wat\"\n{settings}\n"));
}

fn hosts(name: &str) -> String {
    format!("hosts = [\"{name}.test\"]")
}

fn wait_for(sidelight: &Sidelight, host: &str, says: &str) {
    sidelight.wait_until(says, |sidelight| sidelight.get_of(host, "/").text() == says);
}

fn status(sidelight: &Sidelight) -> Value {
    serde_json::from_str(&sidelight.operate("GET", "/status").text()).expect("a status")
}

#[test]
fn they_come_change_and_go() {
    let sidelight = host("").start();
    assert_eq!(sidelight.get_of("a.test", "/").status, 404);
    put(&sidelight, "a", &hosts("a"), "a1");
    wait_for(&sidelight, "a.test", "a1");
    put(&sidelight, "b", &hosts("b"), "b1");
    wait_for(&sidelight, "b.test", "b1");
    sidelight.write("services/a/app.wat", &saying("a2"));
    wait_for(&sidelight, "a.test", "a2");
    fs::remove_dir_all(sidelight.path("services/a")).expect("removes");
    sidelight.wait_until("the end", |sidelight| sidelight.get_of("a.test", "/").status == 404);
    assert_eq!((sidelight.get_of("b.test", "/").text().as_str(), sidelight.get_of("own.test", "/").text().as_str()), ("b1", "own"));
}

/// A process that begins with none of them serves those that come; what is hidden is none.
#[test]
fn with_a_manifest_and_nothing_else() {
    let sidelight = Setup::host("services_dir = \"services\"\n").start();
    assert_eq!(sidelight.get_of("a.test", "/").status, 404);
    sidelight.write("services/.hidden/service.toml", "nonsense");
    std::os::unix::fs::symlink("circle", sidelight.path("services/circle")).expect("a link");
    sidelight.write("services/b\n2026-01-01T00:00:00Z  INFO nothing/service.toml", "nonsense");
    sidelight.write("services/a/bin/main.wasm", &saying("a"));
    sidelight.write("services/a/fastly.toml", "name = \"shop\"\nmanifest_version = 3\n");
    sidelight.write("services/a/service.toml", &hosts("a"));
    wait_for(&sidelight, "a.test", "a");
    assert_eq!(status(&sidelight)["faulty"], Value::Null);
    assert!(!sidelight.log.text().lines().any(|line| line.starts_with("2026-01-01")));
}

fn number(mut number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        bytes.push(if number == 0 { low } else { low | 0x80 });
        if number == 0 {
            return bytes;
        }
    }
}

/// A program that does nothing, with functions that are given by their locals and code.
fn with_functions(functions: &[Vec<u8>]) -> Vec<u8> {
    let section = |id: u8, content: Vec<u8>| [vec![id], number(content.len() as u32), content].concat();
    let count = number(functions.len() as u32 + 1);
    let types = [vec![0], vec![1; functions.len()]].concat();
    let body = |code: &[u8]| [number(code.len() as u32), code.to_vec()].concat();
    let bodies: Vec<u8> = [&[0, 0x0b][..]].into_iter().chain(functions.iter().map(Vec::as_slice)).flat_map(body).collect();
    [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, b"\x02\x60\0\0\x60\x01\x7f\x01\x7f".to_vec()),
        section(3, [count.clone(), types].concat()),
        section(5, b"\x01\0\x01".to_vec()),
        section(7, b"\x02\x06_start\0\0\x06memory\x02\0".to_vec()),
        section(10, [count, bodies].concat()),
    ]
    .concat()
}

/// A program with so many functions: of each, 9 bytes here and some KiB while it is compiled.
fn of_functions(count: usize) -> Vec<u8> {
    with_functions(&vec![vec![0, 0x20, 0, 0x41, 1, 0x6a, 0x0b]; count])
}

/// A program with so many loops within another, over a thousand variables: it takes a minute to compile, and not much memory.
fn of_loops(depth: u32) -> String {
    const VARIABLES: u32 = 1000;
    let mut code = format!("(local{})\n", " i32".repeat(VARIABLES as usize));
    for index in 0..depth {
        code.push_str(&format!("loop\nlocal.get {}\ni32.const 1\ni32.add\nlocal.set {}\n", index % VARIABLES, index * 17 % VARIABLES));
    }
    for index in 0..depth {
        code.push_str(&format!("local.get {}\nbr_if 0\nend\n", index * 7 % VARIABLES));
    }
    format!("(module (memory (export \"memory\") 1) (func (export \"_start\"))\n(func (param i32) (result i32)\n{code}local.get 1))")
}

/// 4 MB that would take 3 GiB to compile, where there are 600 MiB.
#[test]
fn one_that_takes_too_much_to_compile() {
    let sidelight = host("[limits]\ntotal_memory_mib = 600\n").start();
    let folder = sidelight.path("services/bomb");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("app.wasm"), of_functions(500_000)).expect("a file");
    sidelight.write("services/bomb/service.toml", "module = \"app.wasm\"\nhosts = [\"bomb.test\"]\n");
    sidelight.wait_until("its refusal", |sidelight| {
        assert_eq!(sidelight.get_of("own.test", "/").text(), "own");
        let told = status(sidelight)["faulty"].to_string();
        told.contains("bomb") && told.contains("compiling it takes more than") && told.contains("MiB of memory")
    });
    assert!(crate::memory::resident(&sidelight) < 300 << 20, "whoever compiled it has ended");
    put(&sidelight, "a", &hosts("a"), "a1");
    wait_for(&sidelight, "a.test", "a1");
    // A smaller one of the kind is a program.
    fs::write(folder.join("app.wasm"), of_functions(10_000)).expect("a file");
    sidelight.wait_until("it", |sidelight| status(sidelight)["faulty"].is_null());
}

/// A program that takes a minute to compile: others come, change and go meanwhile, and a start does not wait for it.
#[test]
fn one_that_takes_long_to_compile() {
    let setup = service(host(""), "old", &hosts("old"));
    let setup = service(setup, "slow", &hosts("slow")).file("services/slow/app.wat", &of_loops(4000));
    let sidelight = setup.start();
    assert_eq!(sidelight.get_of("old.test", "/").text(), "old");
    let prepares = |sidelight: &Sidelight| status(sidelight)["preparing"] == serde_json::json!(["slow"]);
    assert!(prepares(&sidelight), "{:#}", status(&sidelight));
    // It has been found out that it takes long, or is while others wait.
    sidelight.wait_until("readiness", |sidelight| sidelight.operate("GET", "/readyz").status == 200);
    put(&sidelight, "a", &hosts("a"), "a1");
    wait_for(&sidelight, "a.test", "a1");
    put(&sidelight, "a", &hosts("a"), "a2");
    let verdict = sidelight.reload();
    assert_eq!((&verdict["faulty"], &verdict["preparing"]), (&Value::Null, &serde_json::json!(["slow"])), "{verdict:#}");
    assert_eq!(sidelight.get_of("a.test", "/").text(), "a2");
    fs::remove_dir_all(sidelight.path("services/a")).expect("removes");
    sidelight.wait_until("the end", |sidelight| sidelight.get_of("a.test", "/").status == 404);
    assert!(prepares(&sidelight), "it is worked on all the while: {:#}", status(&sidelight));
    // Nobody waits for what is gone.
    fs::remove_dir_all(sidelight.path("services/slow")).expect("removes");
    sidelight.wait_until("the end", |sidelight| status(sidelight)["preparing"].is_null());
    sidelight.wait_until("the metric", |sidelight| sidelight.metric("sidelight_services_preparing") == 0.0);
}

/// One that has many requests leaves sandboxes to others: many, unless it is given them.
#[test]
fn one_that_is_asked_for_much() {
    let sidelight = host("").arg("--max-sandboxes 8 --queue-timeout 100ms").start();
    let put = |limits: &str| {
        fs::create_dir_all(sidelight.path("services/busy")).expect("a folder");
        fs::copy(guest("rust", "behaviours"), sidelight.path("services/busy/app.wasm")).expect("copies");
        sidelight.write("services/busy/service.toml", &format!("module = \"app.wasm\"\n{}\n{limits}", hosts("busy")));
        sidelight.reload();
    };
    let ask = || {
        let mut busy = client::Connection::open(sidelight.addr);
        busy.write(b"GET /stream?n=1000&ms=50 HTTP/1.1\r\nHost: busy.test\r\n\r\n");
        (busy.head().status, busy)
    };
    put("");
    let all: Vec<_> = (0..8).map(|_| ask()).collect();
    assert_eq!(all.iter().map(|(status, _)| *status).collect::<Vec<_>>(), [200, 200, 503, 503, 503, 503, 503, 503]);
    assert_eq!(sidelight.get_of("own.test", "/").text(), "own");
    drop(all);
    sidelight.wait_metric("sidelight_sandboxes", 0.0);
    put("[limits]\nsandboxes = 7\n");
    let all: Vec<_> = (0..8).map(|_| ask()).collect();
    // Whatever it is given: a quarter is for others.
    assert_eq!(all.iter().filter(|(status, _)| *status == 200).count(), 6);
    assert_eq!(sidelight.get_of("own.test", "/").text(), "own");
}

/// One that is taken away and comes back has the sandboxes that its guests of before still have.
#[test]
fn one_that_goes_and_comes_back_while_it_is_asked_for_much() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let sidelight = host("").arg("--max-sandboxes 8 --queue-timeout 100ms --no-watch").start();
    let put = || {
        fs::create_dir_all(sidelight.path("services/busy")).expect("a folder");
        fs::copy(guest("rust", "passthrough"), sidelight.path("services/busy/app.wasm")).expect("copies");
        let backend = format!("[backends.origin]\nurl = \"http://{}\"", silent.local_addr().expect("an address"));
        sidelight.write("services/busy/service.toml", &format!("module = \"app.wasm\"\n{}\n{backend}\n", hosts("busy")));
        assert_eq!(sidelight.reload()["changed"], serde_json::json!(["busy"]));
    };
    put();
    let ask = || {
        let mut busy = client::Connection::open(sidelight.addr);
        busy.write(b"GET / HTTP/1.1\r\nHost: busy.test\r\n\r\n");
        busy
    };
    let _waiting = [ask(), ask()];
    sidelight.wait_metric("sidelight_sandboxes", 2.0);
    fs::remove_dir_all(sidelight.path("services/busy")).expect("removes");
    assert_eq!(sidelight.reload()["removed"], serde_json::json!(["busy"]));
    put();
    assert_eq!(ask().head().status, 503);
    assert_eq!((sidelight.metric("sidelight_sandboxes"), sidelight.get_of("own.test", "/").status), (2.0, 200));
}

/// A program that does not answer the request it is tried with: when that is over, so is its guest.
#[test]
fn one_that_does_not_answer_its_first_request() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let sidelight = host("").start();
    fs::create_dir_all(sidelight.path("services/a")).expect("a folder");
    fs::copy(guest("rust", "passthrough"), sidelight.path("services/a/app.wasm")).expect("copies");
    let backend = format!(
        "rollout.smoke = {{ path = \"/\" }}\n[backends.origin]\nurl = \"http://{}\"\nfirst_byte_timeout_ms = 1000000\n",
        silent.local_addr().expect("an address")
    );
    sidelight.write("services/a/service.toml", &format!("module = \"app.wasm\"\n{}\n{backend}", hosts("a")));
    let (_trial, _) = silent.accept().expect("the trial");
    assert_eq!(sidelight.metric("sidelight_sandboxes"), 1.0);
    sidelight.wait_until("its refusal", |sidelight| status(sidelight)["faulty"].to_string().contains("it must answer a.test/ first"));
    sidelight.wait_metric("sidelight_sandboxes", 0.0);
}

/// What the operators' listener answers is no program.
#[test]
fn one_that_is_fetched_from_operators() {
    let sidelight = host("").arg("--no-watch").start();
    let port = sidelight.admin.port();
    for (name, host) in [("a", "127.0.0.1"), ("b", "localhost")] {
        let module = format!("module = \"http://{host}:{port}/metrics#sha256={}\"", "0".repeat(64));
        sidelight.write(&format!("services/{name}/service.toml"), &format!("{module}\n{}\n", hosts(name)));
    }
    let verdict = sidelight.reload();
    for fault in verdict["faulty"].as_array().expect("a list") {
        assert!(fault["error"].as_str().is_some_and(|error| error.contains("operators of this host")), "{fault}");
    }
    assert_eq!(verdict["faulty"].as_array().map(Vec::len), Some(2));
}

/// Those whose programs come slowly are behind the others after a while; one that is taken away is fetched no longer.
#[test]
fn ones_that_are_fetched_slowly_are_behind_the_others() {
    let sidelight = host("").start();
    let slow = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let program = Origin::new(|_| hyper::Response::new(text(saying("fetched"))));
    let module = |addr, digest: &str| format!("module = \"http://{addr}/x.wat#sha256={digest}\"");
    for index in 0..9 {
        let module = module(slow.local_addr().expect("an address"), &"0".repeat(64));
        sidelight.write(&format!("services/slow{index}/service.toml"), &format!("{module}\n{}\n", hosts(&format!("slow{index}"))));
    }
    let (mut fetching, _) = slow.accept().expect("the fetch");
    let digest = sha2::Sha256::digest(saying("fetched")).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    sidelight.write("services/a/service.toml", &format!("{}\n{}\n", module(program.addr, &digest), hosts("a")));
    wait_for(&sidelight, "a.test", "fetched");
    assert_eq!(status(&sidelight)["preparing"].as_array().map(Vec::len), Some(9));
    (0..9).for_each(|index| fs::remove_dir_all(sidelight.path(&format!("services/slow{index}"))).expect("removes"));
    // The request, and then its end.
    let mut rest = Vec::new();
    fetching.read_to_end(&mut rest).expect("an end");
    sidelight.wait_until("their end", |sidelight| status(sidelight)["preparing"].is_null());
}

/// Programs from a server that takes the request and does not answer, more than are fetched at once.
#[test]
fn one_that_is_fetched_slowly() {
    let sidelight = host("").start();
    let slow = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let module = format!("module = \"http://{}/x#sha256={}\"", slow.local_addr().expect("an address"), "0".repeat(64));
    let names: Vec<String> = (0..6).map(|index| format!("slow{index}")).collect();
    for name in &names {
        sidelight.write(&format!("services/{name}/service.toml"), &format!("{module}\n{}\n", hosts(name)));
    }
    let (fetching, _) = slow.accept().expect("the fetch");
    sidelight.wait_until("all of them", |sidelight| status(sidelight)["preparing"] == serde_json::json!(names));
    // Whoever asks for a reload is told in time, though not what comes of these.
    assert_eq!(sidelight.reload()["preparing"], serde_json::json!(names));
    put(&sidelight, "a", &hosts("a"), "a1");
    wait_for(&sidelight, "a.test", "a1");
    drop((fetching, slow));
    sidelight.wait_until("their end", |sidelight| status(sidelight)["preparing"].is_null());
    let told = status(&sidelight)["faulty"].to_string();
    assert!(names.iter().all(|name| told.contains(&format!("\"{name}\""))) && told.contains("cannot be fetched"), "{told}");
    // A reload that is asked for tries them again, and answers with what comes of it.
    let verdict = sidelight.reload();
    assert_eq!((verdict["faulty"].as_array().map(Vec::len), &verdict["preparing"]), (Some(6), &Value::Null), "{verdict:#}");
}

/// A registry whose manifests have no end.
#[test]
fn one_whose_registry_has_no_end() {
    let sidelight = host("[limits]\ntotal_memory_mib = 400\n").start();
    let registry = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = registry.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in registry.incoming().flatten() {
            std::thread::spawn(move || {
                let mut stream = stream;
                // The request first.
                drop(stream.read(&mut [0; 4096]));
                let head =
                    "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\nContent-Length: 99999999999\r\n\r\n{";
                let mut wrote = stream.write_all(head.as_bytes());
                while wrote.is_ok() {
                    wrote = stream.write_all(&[b' '; 64 << 10]);
                }
            });
        }
    });
    sidelight.write("services/evil/service.toml", &format!("module = \"oci://{addr}/shop:1\"\n{}\n", hosts("evil")));
    sidelight.wait_until("its refusal", |sidelight| {
        assert_eq!(sidelight.get_of("own.test", "/").text(), "own");
        status(sidelight)["faulty"].to_string().contains("this process is short of memory")
    });
    sidelight.wait_until("its memory back", |sidelight| crate::memory::resident(sidelight) < 300 << 20);
    put(&sidelight, "a", &hosts("a"), "a1");
    wait_for(&sidelight, "a.test", "a1");
}

/// Settings of one line, with faults far behind, or very many: told within bounds, and nobody else's trouble.
#[test]
fn one_whose_settings_are_one_long_line() {
    let sidelight = host("").start();
    put(&sidelight, "long", &format!("{}\nlimits = {{{}sandboxes = 0 }}", hosts("long"), " ".repeat(70_000)), "x");
    let many: String = (0..20_000).map(|n| format!("a{n} = 1, ")).collect();
    put(&sidelight, "many", &format!("{}\nlimits = {{ {many}cpu = \"1s\" }}", hosts("many")), "x");
    put(&sidelight, "forged", &format!("{}\n\"x\\n2026-01-01T00:00:00Z  WARN sidelight: forged\" = 1", hosts("forged")), "x");
    put(&sidelight, "a", &hosts("a"), "a1");
    wait_for(&sidelight, "a.test", "a1");
    let verdict = sidelight.reload();
    let faulty: Vec<&str> = verdict["faulty"].as_array().expect("a list").iter().filter_map(|fault| fault["service"].as_str()).collect();
    assert_eq!(faulty, ["forged", "long", "many"]);
    assert!(verdict.to_string().len() < 400_000);
    assert!(sidelight.log.text().lines().all(|line| !line.starts_with("2026-01-01")), "a line of somebody else's making");
    assert!(crate::memory::status(sidelight.pid(), "VmHWM") < 200 << 20);
}

/// A registry that calls its layers what it likes: no file of this machine is read or written for that.
#[test]
fn one_whose_registry_names_files() {
    let sidelight = host("").start();
    for (index, layer) in ["/dev/zero", "sha256:/dev/zero", "sha256:../../evil", "sha512:ab"].into_iter().enumerate() {
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": format!("sha256:{}", "0".repeat(64)), "size": 2 },
            "layers": [{ "mediaType": "application/wasm", "digest": layer, "size": 2 }],
        });
        let registry = Origin::new(move |_| {
            let answer = hyper::Response::builder().header("content-type", "application/vnd.oci.image.manifest.v1+json");
            answer.body(text(manifest.to_string())).expect("an answer")
        });
        let name = format!("evil{index}");
        sidelight
            .write(&format!("services/{name}/service.toml"), &format!("module = \"oci://{}/shop:1\"\n{}\n", registry.addr, hosts(&name)));
        sidelight.wait_until("its refusal", |sidelight| status(sidelight)["faulty"].to_string().contains(&format!("\"{name}\"")));
        let told = status(&sidelight)["faulty"].to_string();
        assert!(told.contains("no SHA-256"), "{told}");
    }
    assert!(crate::memory::status(sidelight.pid(), "VmHWM") < 200 << 20);
    assert_eq!(sidelight.get_of("own.test", "/").text(), "own");
}

/// Files without end, and limits that are more than others have.
#[test]
fn what_is_too_much_for_one() {
    let sidelight = host("").arg("--no-watch").start();
    let before = crate::memory::resident(&sidelight);
    let sparse = |name: &str| {
        let path = sidelight.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::File::create(path).expect("a file").set_len(100 << 30).expect("a sparse file");
    };
    let service = |name: &str, more: &str| put(&sidelight, name, &format!("{}\n{more}", hosts(name)), name);
    sparse("services/settings/service.toml");
    service("manifest", "manifest = \"fastly.toml\"");
    sparse("services/manifest/fastly.toml");
    service("store", "[config_stores.main]\nformat = \"json\"\nfile = \"big.json\"");
    sparse("services/store/big.json");
    service("values", "[[kv_stores.main]]\nkey = \"a\"\nfile = \"big\"");
    sparse("services/values/big");
    service("program", "");
    sparse("services/program/app.wat");
    service("loud", "[limits]\ncpu = \"100h\"\nwall = \"100h\"\nsandboxes = 10000");
    let logs = |count: usize, more: &str| {
        let log = |n| format!("sidelight.logs.l{n} = {{ kind = \"file\", path = \"l{n}\"{more} }}\n");
        (0..count).map(log).collect::<String>()
    };
    service("logs", &logs(65, ""));
    service("log", &logs(3, ", max_mib = 1000, keep_files = 1"));
    let backends: String = (0..1001).map(|n| format!("b{n} = {{ url = \"http://h\" }}\n")).collect();
    service("backends", &format!("[backends]\n{backends}"));
    sidelight.write("services/agents/rules.yaml", "user_agent_parsers: []\nos_parsers: []\ndevice_parsers: []\n");
    service("agents", "[sidelight]\nuser_agents = \"rules.yaml\"");
    service("quiet", "[limits]\ncpu = \"1s\"\nsandboxes = 5");
    let verdict = sidelight.reload();
    let told = |name: &str| {
        let faulty = verdict["faulty"].as_array().expect("a list");
        faulty.iter().find(|fault| fault["service"] == name).unwrap_or_else(|| panic!("{name}: {verdict:#}")).to_string()
    };
    assert!(told("settings").contains("more than 1 MiB") && told("manifest").contains("more than 1 MiB"), "{verdict:#}");
    assert!(told("backends").contains("more than 1000 backends") && told("agents").contains("rules for user agents"), "{verdict:#}");
    assert!(told("store").contains("more than 64 MiB") && told("values").contains("more than 64 MiB"), "{verdict:#}");
    assert!(told("program").contains("larger than 256 MiB"), "{verdict:#}");
    assert!(["limits.cpu", "limits.wall", "limits.sandboxes"].iter().all(|limit| told("loud").contains(limit)), "{verdict:#}");
    assert!(told("logs").contains("more than 64 log endpoints") && told("log").contains("more than 4096 MiB"), "{verdict:#}");
    assert_eq!(sidelight.get_of("quiet.test", "/").text(), "quiet");
    assert!(crate::memory::status(sidelight.pid(), "VmHWM") < before + (64 << 20), "{verdict:#}");
}

#[test]
fn one_that_is_faulty_leaves_the_others_alone() {
    let setup = service(service(host("").arg("--no-watch"), "a", &hosts("a")), "b", &hosts("b"));
    let sidelight = setup.start();
    put(&sidelight, "a", "hosts = [\"a.test\"]\nnonsense = 1", "a2");
    put(&sidelight, "b", &hosts("b"), "b2");
    put(&sidelight, "c", &hosts("c"), "c");
    sidelight.write("services/d/readme", "no service");
    let verdict = sidelight.reload();
    assert_eq!(verdict["changed"], serde_json::json!(["b", "c"]), "{verdict:#}");
    let faulty = verdict["faulty"].as_array().expect("a list");
    assert_eq!(faulty.iter().map(|fault| fault["service"].as_str().expect("a name")).collect::<Vec<_>>(), ["a", "d"]);
    assert!(faulty[0]["problems"][0]["message"].as_str().expect("a text").contains("nonsense"), "{verdict:#}");
    assert_eq!(faulty[0]["problems"][0]["line"], 3, "{verdict:#}");
    let says = |host: &str| sidelight.get_of(host, "/").text();
    assert_eq!((says("a.test"), says("b.test"), says("c.test")), ("a".to_owned(), "b2".to_owned(), "c".to_owned()));
    assert!((sidelight.metric("sidelight_services_faulty") - 2.0).abs() < 0.1);
    assert_eq!(status(&sidelight)["faulty"][1]["service"], "d");
    // Neither is the host's fault.
    assert!((sidelight.metric("sidelight_config_last_reload_successful") - 1.0).abs() < 0.1);
    sidelight.log.wait_for(&["a service cannot be used; what was served of it is served on"]);
    // A program that cannot be run is one of those, too.
    sidelight.write("services/b/app.wat", "(module (nonsense))");
    sidelight.write("services/a/service.toml", &format!("module = \"app.wat\"\n{}\n", hosts("a")));
    let verdict = sidelight.reload();
    assert_eq!((says("a.test"), says("b.test")), ("a2".to_owned(), "b2".to_owned()), "{verdict:#}");
    assert_eq!(verdict["faulty"][0]["service"], "b", "{verdict:#}");
}

#[test]
fn nobody_takes_what_is_anothers() {
    let setup = service(host("services_hosts = [\"*.test\", \"fine.example\"]").arg("--no-watch"), "b", &hosts("b"));
    let sidelight = setup.start();
    let says = |host: &str| sidelight.get_of(host, "/").text();
    let refused = |name: &str, told: &str| {
        let verdict = sidelight.reload();
        let faulty = verdict["faulty"].as_array().cloned().unwrap_or_default();
        let fault = faulty.iter().find(|fault| fault["service"] == name).unwrap_or_else(|| panic!("{verdict:#}"));
        assert!(fault["error"].as_str().expect("a text").contains(told), "{fault:#}");
    };
    // By name before the one that has it, and all the same.
    put(&sidelight, "a", &hosts("b"), "thief");
    refused("a", "both have host `b.test`");
    assert_eq!(says("b.test"), "b");
    put(&sidelight, "a", &hosts("own"), "thief");
    refused("a", "both have host `own.test`");
    assert_eq!(says("own.test"), "own");
    put(&sidelight, "a", "", "thief");
    refused("a", "must say which hosts are its");
    put(&sidelight, "a", "hosts = [\"shop.example\"]", "thief");
    refused("a", "`shop.example` is none that services here may have");
    put(&sidelight, "a", "hosts = [\"fine.example\"]", "fine");
    put(&sidelight, "a", "hosts = [\"b.test\"]\npaths = [\"/login\"]", "thief");
    refused("a", "host `b.test` is service `b`'s as a whole");
    put(&sidelight, "a", "hosts = [\"b.test\"]\nheaders = { accept = \"*/*\" }", "thief");
    refused("a", "host `b.test` is service `b`'s as a whole");
    // Nor a part of a part.
    put(&sidelight, "c", "hosts = [\"c.test\"]\npaths = [\"/app\"]", "c");
    sidelight.reload();
    put(&sidelight, "a", "hosts = [\"c.test\"]\npaths = [\"/app/login\"]", "thief");
    refused("a", "service `c` has some requests of host `c.test`, and `a` wants a part of them");
    put(&sidelight, "a", "hosts = [\"c.test\"]\npaths = [\"/apple\"]", "apple");
    sidelight.reload();
    assert_eq!(sidelight.get_of("c.test", "/apple").text(), "apple");
    put(&sidelight, "a", "hosts = [\"*.test\"]", "thief");
    refused("a", "`*.test` is that of all services here together");
    put(&sidelight, "a", "hosts = [\"fine.example\"]", "fine");
    put(&sidelight, "own", &hosts("other"), "thief");
    refused("own", "the host file has a service of that name");
    assert_eq!((says("fine.example").as_str(), says("own.test").as_str()), ("fine", "own"));
}

/// Of two that want the same, the older has it, also for a process that has seen neither before.
#[test]
fn the_older_keeps_what_it_has_after_a_restart() {
    let setup = host("").file("services/z/.since", "2026-01-01T00:00:00Z").file("services/a/.since", "2026-01-02T00:00:00Z");
    let sidelight = service(service(setup, "a", &hosts("x")), "z", &hosts("x")).start();
    assert_eq!(sidelight.get_of("x.test", "/").text(), "z");
    assert_eq!(status(&sidelight)["faulty"][0]["service"], "a");
}

/// A service has its own folder, and nothing else of the machine's.
#[test]
fn they_are_confined() {
    let sidelight = host("").file("secret.json", "{\"key\": \"host's\"}").arg("--no-watch").start();
    let absolute = sidelight.path("own.wat").display().to_string();
    for (settings, told) in [
        ("module = \"../../own.wat\"".to_owned(), "own.wat is not in the service's folder"),
        (format!("module = \"{absolute}\""), "own.wat is not in the service's folder"),
        ("module = \"app.wat\"\nmanifest = \"../../x.toml\"".to_owned(), "x.toml"),
        (
            "module = \"app.wat\"\nsecret_stores.s = { file = \"../../secret.json\", format = \"json\" }".to_owned(),
            "secret.json is not in the service's folder",
        ),
        ("module = \"app.wat\"\nsecret_stores.s = [{ key = \"k\", env = \"HOME\" }]".to_owned(), "the environment variable HOME"),
        (
            "module = \"app.wat\"\nsidelight.logs.l = { kind = \"file\", path = \"../../out.log\" }".to_owned(),
            "out.log is not in the service's folder",
        ),
    ] {
        sidelight.write("services/a/app.wat", &saying("a"));
        sidelight.write("services/a/service.toml", &format!("{settings}\nhosts = [\"a.test\"]\n"));
        let verdict = sidelight.reload();
        let error = verdict["faulty"][0]["error"].as_str().unwrap_or_default().to_owned();
        assert!(error.contains(told), "{settings}: {verdict:#}");
        assert_eq!(sidelight.get_of("a.test", "/").status, 404, "{settings}");
    }
}

/// Nor by a link, nor by what is no file: a pipe would hold up whoever reads it, a device has no end.
#[test]
fn links_and_pipes_are_none_of_theirs() {
    let sidelight = host("").file("secret.json", "{\"key\": \"host's\"}").file("outside/tok", "host's").arg("--no-watch").start();
    let folder = sidelight.path("services/a");
    let own = |settings: &str| {
        fs::remove_dir_all(&folder).unwrap_or_default();
        sidelight.write("services/a/app.wat", &saying("a"));
        sidelight.write("services/a/service.toml", &format!("hosts = [\"a.test\"]\n{settings}\n"));
    };
    let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, folder.join(name)).expect("a link");
    let pipe = |name: &str| nix::unistd::mkfifo(&folder.join(name), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let refused = |told: &str| {
        let verdict = sidelight.reload();
        let error = verdict["faulty"][0]["error"].as_str().unwrap_or_default().to_owned();
        assert!(error.contains(told), "{verdict:#}");
        assert_eq!(sidelight.get_of("a.test", "/").status, 404, "{told}");
    };
    own("module = \"app.wat\"\nsecret_stores.s = { file = \"s.json\", format = \"json\" }");
    link(&sidelight.path("secret.json"), "s.json");
    refused("s.json is not in the service's folder");
    own("module = \"app.wat\"\nsecret_stores.s = [{ key = \"k\", file = \"d/tok\" }]");
    link(&sidelight.path("outside"), "d");
    refused("d/tok is not in the service's folder");
    own("module = \"app.wat\"\nsidelight.logs.l = { kind = \"file\", path = \"out.log\" }");
    link(&sidelight.path("not-there-yet"), "out.log");
    refused("out.log is not in the service's folder");
    own("module = \"m.wasm\"");
    pipe("m.wasm");
    refused("m.wasm is a pipe, a socket or a device");
    own("module = \"m.tar.gz\"");
    pipe("m.tar.gz");
    refused("m.tar.gz is a pipe, a socket or a device");
    own("module = \"m.wasm\"");
    link(Path::new("/dev/zero"), "m.wasm");
    refused("m.wasm is a pipe, a socket or a device");
    own("module = \"app.wat\"\nmanifest = \"f.toml\"");
    pipe("f.toml");
    refused("f.toml is a pipe, a socket or a device");
    own("module = \"app.wat\"");
    fs::remove_file(folder.join("service.toml")).expect("removes");
    pipe("service.toml");
    refused("a service needs one of");
    own("module = \"app.wat\"");
    pipe(".since");
    pipe(".expires");
    refused("when it ends cannot be understood");
    own("module = \"app.wat\"\nsidelight.secret_stores.s = { directory = \"d\" }");
    fs::create_dir(folder.join("d")).expect("a folder");
    link(&sidelight.path("outside/tok"), "d/tok");
    refused("d is not in the service's folder");
    own("module = \"app.wat\"\nsidelight.kv_stores.s = { directory = \"d\" }");
    fs::create_dir(folder.join("d")).expect("a folder");
    ["d/a", "d/b", "d/c"].into_iter().for_each(|name| link(Path::new("."), name));
    refused("d is not in the service's folder");
    // What links to its own is fine.
    own("module = \"link.wat\"");
    link(Path::new("app.wat"), "link.wat");
    sidelight.reload();
    assert_eq!(sidelight.get_of("a.test", "/").text(), "a");
    // More than a program can be.
    own("module = \"large.wasm\"");
    fs::File::create(folder.join("large.wasm")).and_then(|file| file.set_len(3 << 30)).expect("a file");
    let verdict = sidelight.reload();
    assert!(verdict["faulty"][0]["error"].as_str().is_some_and(|error| error.contains("256 MiB")), "{verdict:#}");
}

fn in_a_moment(more: u64) -> String {
    humantime::format_rfc3339_millis(SystemTime::now() + Duration::from_millis(more)).to_string()
}

#[test]
fn their_time_ends() {
    let ends = in_a_moment(1500);
    let setup = service(host(""), "a", &format!("hosts = [\"a.test\"]\nexpires = \"{ends}\""));
    let setup = service(setup, "past", "hosts = [\"past.test\"]\nexpires = \"2020-01-01T00:00:00Z\"");
    let sidelight = service(setup, "b", &hosts("b")).start();
    assert_eq!(sidelight.get_of("past.test", "/").status, 404);
    assert_eq!(status(&sidelight)["expired"]["past"], "2020-01-01T00:00:00Z");
    sidelight.wait_until("the end", |sidelight| sidelight.get_of("a.test", "/").status == 404);
    assert!(humantime::parse_rfc3339(&ends).expect("a time") <= SystemTime::now(), "not before its time");
    assert_eq!((sidelight.get_of("b.test", "/").status, sidelight.get_of("own.test", "/").status), (200, 200));
    let status = status(&sidelight);
    assert_eq!((&status["reloads"][0]["cause"], &status["reloads"][0]["removed"][0]), (&"expiry".into(), &"a".into()), "{status:#}");
    // More time brings it back.
    put(&sidelight, "a", &format!("hosts = [\"a.test\"]\nexpires = \"{}\"", in_a_moment(3_600_000)), "again");
    wait_for(&sidelight, "a.test", "again");
}

/// A service's end is kept also while the host file cannot be used.
#[test]
fn their_time_ends_also_when_nothing_else_can_change() {
    let setup = service(host(""), "a", &format!("hosts = [\"a.test\"]\nexpires = \"{}\"", in_a_moment(2000)));
    let sidelight = setup.start();
    sidelight.write("sidelight.toml", "nonsense =");
    sidelight.wait_metric("sidelight_config_last_reload_successful", 0.0);
    sidelight.wait_until("the end", |sidelight| sidelight.get_of("a.test", "/").status == 404);
    assert_eq!(sidelight.get_of("own.test", "/").text(), "own");
    assert_eq!(status(&sidelight)["degraded"], true);
}

#[test]
fn by_header() {
    let setup = host("[services.main]\nhosts = [\"shop.test\"]\nmodule = \"main.wat\"\n").file("main.wat", &saying("main"));
    let setup = service(setup, "pr", "hosts = [\"shop.test\"]\nheaders = { X-Preview = \"7\" }");
    let setup = service(setup, "both", "hosts = [\"shop.test\"]\nheaders = { x-preview = \"7\", x-lang = \"de\" }");
    let sidelight = service(setup, "api", "hosts = [\"shop.test\"]\npaths = [\"/api\"]").start();
    let says = |path: &str, fields: &str| {
        client::send(sidelight.addr, &format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n{fields}\r\n")).text()
    };
    assert_eq!(says("/", ""), "main");
    assert_eq!(says("/", "X-Preview: 8\r\n"), "main");
    assert_eq!(says("/", "x-preview: 7\r\n"), "pr");
    assert_eq!(says("/", "x-lang: de\r\nx-preview: 7\r\n"), "both");
    assert_eq!(says("/", "x-lang: de\r\n"), "main");
    // The longest path first, as ever.
    assert_eq!(says("/api/x", "x-preview: 7\r\n"), "api");
}

#[test]
fn check_tells_of_them() {
    let text = "services_dir = \"services\"\n";
    let setup = service(
        service(Setup::command_line("check", Path::new("")), "a", &hosts("a")),
        "b",
        "hosts = [\"b.test\"]\nexpires = \"tomorrow\"",
    );
    let (status, log) = setup.file("sidelight.toml", text).fails();
    assert_eq!(status.code(), Some(3), "{log}");
    assert!(log.contains("services/b/service.toml:3") && log.contains("`tomorrow` is no point in time"), "{log}");
    assert_eq!((log.matches("`tomorrow` is no").count(), log.contains("served on")), (1, false), "{log}");
}
