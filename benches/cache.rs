//! What the cache costs by itself: a hit, an object's memory, and purges, with a million objects in it.
//!
//! `cargo bench --bench cache`

#![allow(clippy::expect_used, clippy::panic, clippy::disallowed_methods, missing_docs, reason = "not part of the product")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use sidelight::http::ResponseHead;
use sidelight::services::cache::{Cache, Face, Limits, Purge, Store, StoredHead, SurrogateKeys, WriteOptions};
use sidelight::telemetry::Telemetry;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const OBJECTS: usize = 1_000_000;
const BODY: usize = 1000;

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number") * 4096
}

fn head() -> ResponseHead {
    let mut head = ResponseHead::default();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "public, max-age=3600"),
        (header::ETAG, "\"0123456789abcdef\""),
        (header::LAST_MODIFIED, "Thu, 26 Nov 2026 12:00:00 GMT"),
        (header::SERVER, "nginx"),
    ] {
        head.headers.insert(name, HeaderValue::from_static(value));
    }
    head
}

async fn insert(cache: &Cache, index: usize, keys: &str) {
    let about: Arc<str> = format!("www.example.com/a/path/to/object/{index}").into();
    let options = WriteOptions {
        max_age: Duration::from_secs(3600),
        surrogate_keys: SurrogateKeys::parse(keys.as_bytes()),
        head: Some(StoredHead::new(&head())),
        ..WriteOptions::default()
    };
    let key = cache.key(Face::Http, about.as_bytes());
    let (mut writer, _) = cache.insert(key, &HeaderMap::new(), about, options).expect("begins");
    writer.write(Bytes::from(vec![b'x'; BODY])).await.expect("is taken");
    writer.finish().await.expect("is taken");
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let store = Store::new(Limits { memory: 16 << 30, object: 1 << 20 }, &Telemetry::new());
        let cache = Cache::new(&store, "bench");
        let before = resident();
        let begun = Instant::now();
        for index in 0..OBJECTS {
            // One key for all of a section, and one of its own.
            let keys = format!("section-{} object-{index}", index % 10);
            insert(&cache, index, &keys).await;
        }
        let each = begun.elapsed().as_nanos() / OBJECTS as u128;
        let memory = (resident() - before) / OBJECTS;
        let told = store.used().0 as usize / OBJECTS;
        println!("{OBJECTS} objects of {BODY} bytes, 5 fields, 2 surrogate keys");
        println!("insert                          {each:>9} ns");
        println!("memory beside the body          {:>9} B an object (counted: {})", memory - BODY, told - BODY);

        let headers = HeaderMap::new();
        let times = 2_000_000;
        for (what, among) in [("hit, any of all", OBJECTS), ("hit, one of a thousand", 1000)] {
            let keys: Vec<_> =
                (0..among).map(|index| cache.key(Face::Http, format!("www.example.com/a/path/to/object/{index}").as_bytes())).collect();
            let begun = Instant::now();
            for round in 0..times {
                let key = &keys[(round * 7919) % among];
                let found = cache.lookup(key, &headers).expect("found");
                assert!(found.body(0, None).known_length() == Some(BODY as u64));
            }
            println!("{what:<30}  {:>9} ns", begun.elapsed().as_nanos() / times as u128);
        }

        for (what, soft) in [("soft purge of 100000 objects", true), ("purge of 100000 objects", false)] {
            let key = format!("section-{}", u8::from(soft));
            let begun = Instant::now();
            let objects = cache.apply(&Purge::Key { key, soft });
            assert_eq!(objects, OBJECTS / 10);
            println!("{what:<30}  {:>9.1} ms", begun.elapsed().as_secs_f64() * 1000.0);
        }
        let begun = Instant::now();
        assert_eq!(cache.apply(&Purge::Key { key: "object-7".to_owned(), soft: false }), 1);
        println!("purge of 1 object               {:>9.1} us", begun.elapsed().as_secs_f64() * 1e6);
        let begun = Instant::now();
        while store.used().2 > OBJECTS - OBJECTS / 10 - 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        println!("their memory is free after      {:>9.0} ms", begun.elapsed().as_secs_f64() * 1000.0);
        let begun = Instant::now();
        cache.apply(&Purge::All);
        println!("purge of everything             {:>9.1} ms", begun.elapsed().as_secs_f64() * 1000.0);
    });
}
