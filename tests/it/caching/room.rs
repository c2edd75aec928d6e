//! What responses that are being stored have room for: who has too little of it passes responses on, and cuts none off.

use bytes::Bytes;

use crate::client::{self, Connection};
use crate::harness::{Setup, Sidelight, guest};
use crate::memory::growth;
use crate::origin::{self, Origin};

const MIB: u64 = 1 << 20;

/// Answers with as many bytes as the path ends with; `stall`: with all but one of them, and says no more.
fn sized() -> Origin {
    Origin::raw(|request| async move {
        let path = request.uri().path().to_owned();
        let size: usize = path.rsplit('/').next().and_then(|size| size.parse().ok()).expect("a size");
        let head = hyper::Response::builder().header("cache-control", "max-age=1000").header("content-length", size);
        if !path.contains("stall") {
            return head.body(origin::text(vec![b'x'; size])).expect("a response");
        }
        let (sender, body) = origin::streamed();
        tokio::spawn(async move {
            drop(sender.send(Ok(Bytes::from(vec![b'x'; size - 1]))).await);
            sender.closed().await;
        });
        head.body(body).expect("a response")
    })
}

fn is_whole(sidelight: &Sidelight, host: &str, path: &str, size: usize) {
    let answer = sidelight.get_of(host, &format!("{path}/{size}"));
    assert_eq!((answer.status, answer.body.len()), (200, size), "{host}{path}");
}

/// More comes than a disk takes: what leaves memory before it is written is not, and that is all.
#[test]
fn a_disk_that_is_behind_cuts_nothing_off() {
    let origin = sized();
    let folder = tempfile::tempdir().expect("a folder");
    let setup = Setup::new(guest("rust", "cache")).backend("origin", origin.url());
    let disk = format!("--cache-memory 8 --cache-object 4 --data-dir {} --cache-disk 1024", folder.path().display());
    let sidelight = setup.arg(&disk).start();
    std::thread::scope(|scope| {
        for client in 0..6 {
            let sidelight = &sidelight;
            scope.spawn(move || {
                for index in 0..60 {
                    let face = if index % 2 == 0 { "plain" } else { "guest" };
                    is_whole(sidelight, "edge.test", &format!("/{face}/{client}-{index}"), 600_000);
                }
            });
        }
    });
    let kept = sidelight.metric("sidelight_cache_objects{tier=\"disk\"}");
    assert!(kept > 12.0 && sidelight.metric("sidelight_cache_disk_errors_total") == 0.0, "{kept}");
}

/// One service's origin stalls in the middle of more than the cache has room for: others' responses come, and are kept.
#[test]
fn responses_that_stall_leave_room_to_other_services() {
    let origin = sized();
    let wasm = guest("rust", "cache").display().to_string();
    let of = |name: &str| {
        format!(
            "[services.{name}]\nhosts = [\"{name}\"]\nmodule = \"{wasm}\"\n[services.{name}.backends.origin]\nurl = \"{}\"\n",
            origin.url()
        )
    };
    let sidelight = Setup::host(&format!("cache = {{ memory_mib = 16, object_mib = 8 }}\n{}{}", of("loud"), of("quiet"))).start();
    // Large ones, and what fits in between.
    let stalled: Vec<Connection> = (0..140)
        .map(|index| {
            let mut connection = Connection::open(sidelight.addr);
            let size = if index < 40 { 1_000_000 } else { 30_000 };
            connection.write(format!("GET /plain/stall-{index}/{size} HTTP/1.1\r\nHost: loud\r\n\r\n").as_bytes());
            connection
        })
        .collect();
    sidelight.wait_until("all that it may have", |sidelight| sidelight.metric("sidelight_cache_too_large_total") >= 25.0);
    let cache: serde_json::Value = serde_json::from_str(&sidelight.operate("GET", "/cache").text()).expect("JSON");
    assert!(cache["writing"].as_u64().is_some_and(|writing| (11 * MIB..13 * MIB).contains(&writing)), "{cache}");
    for face in ["plain", "guest"] {
        for index in 0..6 {
            is_whole(&sidelight, "quiet", &format!("/{face}/{index}"), 400_000);
        }
        assert_eq!(sidelight.get_of("quiet", &format!("/{face}/0/400000")).header("x-cache"), Some("HIT"), "{face}");
    }
    assert_eq!(sidelight.get_of("quiet", "/core/fill?key=k&who=me").text(), "filled by me");
    drop(stalled);
}

/// A cache on disk whose objects are little more than their surrogate keys: what is known of them is bounded, as they are.
#[test]
fn surrogate_keys_without_end() {
    let keys: String = (0..2000).map(|key| format!("key-{key} ")).collect();
    let origin = Origin::new(move |_| {
        let head = hyper::Response::builder().header("cache-control", "max-age=1000").header("surrogate-key", &keys);
        head.body(origin::text("x")).expect("a response")
    });
    let folder = tempfile::tempdir().expect("a folder");
    let setup = Setup::new(guest("rust", "cache")).backend("origin", origin.url());
    let sidelight = setup.arg(&format!("--cache-memory 8 --data-dir {} --cache-disk 1024", folder.path().display())).start();
    is_whole_once(&sidelight, 0);
    let grown = growth(&sidelight, || {
        std::thread::scope(|scope| {
            for client in 0..4 {
                let sidelight = &sidelight;
                scope.spawn(move || (0..400).for_each(|index| is_whole_once(sidelight, client * 1000 + index)));
            }
        });
    });
    // 1,600 objects of 200 KiB, of which 8 MiB are in memory, and as much of what is known of those on disk.
    assert!(grown < 96 * MIB, "{} MiB more", grown / MIB);
}

fn is_whole_once(sidelight: &Sidelight, index: usize) {
    let request = format!("GET /plain/{index} HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\n\r\n");
    assert_eq!(client::send(sidelight.addr, &request).text(), "x");
}
