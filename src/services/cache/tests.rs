//! Tests of the store that need no guest.

use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue};
use bytes::Bytes;

use super::*;
use crate::http::Body;

fn cache() -> Cache {
    Cache::new(&Store::still(Limits::default()), "service")
}

fn about() -> Arc<str> {
    "a test".into()
}

fn ask(cache: &Cache, key: &str, headers: &HeaderMap) -> Lookup {
    cache.transaction(cache.key(Face::Core, key.as_bytes()), headers, false, &about)
}

fn seconds(max_age: u64) -> WriteOptions {
    WriteOptions { max_age: Duration::from_secs(max_age), ..WriteOptions::default() }
}

async fn write(obligation: Obligation, options: WriteOptions, text: &'static str) {
    let (mut writer, _) = obligation.insert(options).expect("begins");
    writer.write(Bytes::from_static(text.as_bytes())).await.expect("is taken");
    writer.finish().await.expect("is taken");
}

async fn text(mut body: Body) -> String {
    let all = body.collect(1 << 20).await.expect("reads").expect("is not large");
    String::from_utf8_lossy(&all).into_owned()
}

async fn lead(cache: &Cache, key: &str) -> Obligation {
    ask(cache, key, &HeaderMap::new()).outcome().await.obligation.take().expect("a leader")
}

#[tokio::test]
async fn one_leads_and_others_follow_as_it_writes() {
    let cache = cache();
    let obligation = lead(&cache, "a").await;
    let mut followers: Vec<_> = (0..10).map(|_| ask(&cache, "a", &HeaderMap::new())).collect();
    assert!(followers.iter().all(Lookup::is_waiting));
    let (mut writer, _) = obligation.insert(seconds(10)).expect("begins");
    writer.write(Bytes::from_static(b"one ")).await.expect("is taken");
    let mut bodies = Vec::new();
    for follower in &mut followers {
        let outcome = follower.outcome().await;
        assert!(outcome.obligation.is_none());
        let mut body = outcome.found.as_ref().expect("found").body(0, None);
        assert_eq!(body.chunk().await.expect("reads").expect("some"), "one ");
        bodies.push(body);
    }
    writer.write(Bytes::from_static(b"two")).await.expect("is taken");
    writer.finish().await.expect("is taken");
    for body in bodies {
        assert_eq!(text(body).await, "two");
    }
    let found = ask(&cache, "a", &HeaderMap::new()).outcome().await.found.take().expect("found");
    assert_eq!((found.length(), found.hits, text(found.body(0, None)).await.as_str()), (Some(7), 11, "one two"));
}

#[tokio::test]
async fn a_leader_that_gives_up_is_followed_by_the_next() {
    let cache = cache();
    let obligation = lead(&cache, "a").await;
    let (mut second, mut third) = (ask(&cache, "a", &HeaderMap::new()), ask(&cache, "a", &HeaderMap::new()));
    let abandoned = ask(&cache, "a", &HeaderMap::new());
    drop(abandoned);
    drop(obligation);
    let taken = second.outcome().await.obligation.take().expect("the next");
    assert!(futures_util::poll!(Box::pin(third.ready())).is_pending());
    write(taken, seconds(10), "x").await;
    assert_eq!(text(third.outcome().await.found.take().expect("found").body(0, None)).await, "x");
}

#[tokio::test]
async fn an_object_that_breaks_off_is_an_error_to_its_readers_and_what_was_before_is_back() {
    let cache = cache();
    let options = WriteOptions { stale_while_revalidate: Duration::from_secs(100), ..seconds(10) };
    write(lead(&cache, "a").await, options.clone(), "old").await;
    cache.store().move_on(Duration::from_secs(11));
    let mut lookup = ask(&cache, "a", &HeaderMap::new());
    let outcome = lookup.outcome().await;
    assert_eq!(outcome.found.as_ref().expect("stale").phase, Phase::WhileRevalidating);
    let (mut writer, found) = outcome.obligation.take().expect("asked").insert(options).expect("begins");
    writer.write(Bytes::from_static(b"ne")).await.expect("is taken");
    let mut reader = found.body(0, None);
    drop(writer);
    assert!(reader.collect(100).await.is_err());
    let again = ask(&cache, "a", &HeaderMap::new()).outcome().await.found.take().expect("found");
    assert_eq!(text(again.body(0, None)).await, "old");
}

#[tokio::test]
async fn variants() {
    let cache = cache();
    let with = |value: &'static str| HeaderMap::from_iter([(::http::header::ACCEPT, HeaderValue::from_static(value))]);
    let mut first = ask(&cache, "a", &with("x"));
    let obligation = first.outcome().await.obligation.take().expect("a leader");
    let (mut same, mut other) = (ask(&cache, "a", &with("x")), ask(&cache, "a", &with("y")));
    let vary = VaryRule::parse(b"accept").expect("a rule");
    write(obligation, WriteOptions { vary: vary.clone(), ..seconds(10) }, "for x").await;
    assert_eq!(text(same.outcome().await.found.take().expect("found").body(0, None)).await, "for x");
    let obligation = other.outcome().await.obligation.take().expect("its own leader");
    write(obligation, WriteOptions { vary, ..seconds(10) }, "for y").await;
    for (value, expected) in [("x", "for x"), ("y", "for y")] {
        let found = ask(&cache, "a", &with(value)).outcome().await.found.take().expect("found");
        assert_eq!(text(found.body(0, None)).await, expected);
    }
    let key = cache.key(Face::Core, b"a");
    for index in 0..10_000 {
        let headers = HeaderMap::from_iter([(::http::header::ACCEPT, HeaderValue::from(index))]);
        let options = WriteOptions { vary: VaryRule::parse(b"accept").expect("a rule"), ..seconds(10) };
        let (writer, _) = cache.insert(key, &headers, about(), options).expect("begins");
        writer.finish().await.expect("is taken");
    }
    assert_eq!(cache.store().entry(&key).len(), MAX_VARIANTS);
}

#[tokio::test]
async fn purges() {
    let cache = cache();
    let keys = |text: &str| WriteOptions { surrogate_keys: SurrogateKeys::parse(text.as_bytes()), ..seconds(10) };
    for (key, surrogates) in [("a", "one both"), ("b", "two both"), ("c", "")] {
        write(lead(&cache, key).await, keys(surrogates), "x").await;
    }
    let is_there = |key: &str| cache.lookup(&cache.key(Face::Core, key.as_bytes()), &HeaderMap::new()).is_some();
    let purge = |key: &str, soft| cache.apply(&Purge::Key { key: key.to_owned(), soft });
    assert_eq!((purge("one", false), is_there("a"), is_there("b")), (1, false, true));
    assert_eq!((purge("one", false), purge("both", false), is_there("b"), is_there("c")), (0, 1, false, true));
    cache.of("another").apply(&Purge::All);
    assert!(is_there("c"));
    cache.apply(&Purge::All);
    assert!(!is_there("c"));
    write(lead(&cache, "c").await, WriteOptions { stale_while_revalidate: Duration::from_secs(5), ..keys("k") }, "y").await;
    assert_eq!(purge("k", true), 1);
    assert_eq!(purge("k", true), 0, "it is stale already");
    let found = cache.lookup(&cache.key(Face::Core, b"c"), &HeaderMap::new()).expect("still usable");
    assert_eq!(found.phase, Phase::WhileRevalidating);
    cache.store().move_on(Duration::from_secs(5));
    assert!(!is_there("c"));
}

#[tokio::test]
async fn memory_is_bounded_and_what_is_too_large_is_passed_on() {
    let store = Store::still(Limits { memory: 1 << 20, object: 100 << 20 });
    let cache = Cache::new(&store, "service");
    for index in 0..100 {
        let (mut writer, _) = lead(&cache, &format!("{index}")).await.insert(seconds(10)).expect("begins");
        writer.write(Bytes::from(vec![1; 50_000])).await.expect("is taken");
        writer.finish().await.expect("is taken");
        assert!(store.used().0 <= 1 << 20);
    }
    assert!(store.used().2 > 10);
    let (mut writer, found) = lead(&cache, "large").await.insert(seconds(10)).expect("begins");
    let mut source = Body::empty();
    let mut sender = source.open();
    writer.append(source).await.expect("is taken");
    let finishing = tokio::spawn(writer.finish());
    let reading = tokio::spawn(async move {
        let mut body = found.body(0, None);
        let mut length = 0;
        while let Some(bytes) = body.chunk().await.expect("reads") {
            length += bytes.len();
        }
        length
    });
    for _ in 0..100 {
        sender.write(Bytes::from(vec![2; 100_000])).await.expect("is read");
        assert!(store.in_flight.get() <= 3 << 20);
    }
    sender.finish().await.expect("is read");
    finishing.await.expect("ends").expect("is taken");
    assert_eq!(reading.await.expect("ends"), 10_000_000);
    assert!(lead(&cache, "large").await.insert(seconds(1)).is_ok(), "it was not kept");
    let (mut writer, _) = lead(&cache, "too large").await.insert(seconds(10)).expect("begins");
    let mut wrote = Ok(());
    for _ in 0..20 {
        wrote = writer.write(Bytes::from(vec![2; 100_000])).await;
    }
    assert!(wrote.is_err(), "who writes it may be who reads it");
}

/// Waits for what happens in the background.
pub(super) async fn eventually(holds: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("not within ten seconds");
}

/// Who reads what has been purged has its memory on: it counts, so that purging and reading is no way around the bound.
#[tokio::test]
async fn what_is_read_and_cached_no_more_counts() {
    let store = Store::still(Limits { memory: 1 << 20, object: 1 << 20 });
    let cache = Cache::new(&store, "service");
    let mut read = Vec::new();
    let whole = |index: u32| {
        let cache = cache.clone();
        async move {
            let (mut writer, found) = lead(&cache, &format!("{index}")).await.insert(seconds(10)).expect("begins");
            writer.write(Bytes::from(vec![1; 200_000])).await.ok()?;
            writer.finish().await.ok()?;
            cache.apply(&Purge::All);
            // It leaves memory when somebody gets around to it.
            eventually(|| cache.store().used().0 == 0).await;
            Some(found.body(0, None))
        }
    };
    for index in 0..100 {
        read.extend(whole(index).await);
    }
    assert!((3..=4).contains(&read.len()), "{}", read.len());
    assert!(store.in_flight.get() > 500_000 && store.used().0 == 0, "{}", store.in_flight.get());
    let mut first = read.remove(0);
    assert_eq!(first.collect(1 << 20).await.expect("reads").expect("all of it").len(), 200_000);
    drop((first, read));
    eventually(|| store.in_flight.get() == 0).await;
    assert!(whole(100).await.is_some());
}

fn on_disk(folder: &std::path::Path, memory: u64, disk: u64) -> Cache {
    let limits = Limits { memory, ..Limits::default() };
    Cache::new(&Store::with_disk(limits, &crate::telemetry::Telemetry::new(), folder, disk).expect("opens"), "service")
}

/// What is known is on disk, and the folder is free.
fn close(cache: Cache) {
    cache.store().flush(Duration::from_secs(30));
    let store = Arc::downgrade(cache.store());
    drop(cache);
    for _ in 0..1000 {
        if store.strong_count() == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("somebody still has the store");
}

async fn read(cache: &Cache, key: &str) -> Option<String> {
    let found = cache.lookup(&cache.key(Face::Core, key.as_bytes()), &HeaderMap::new())?;
    Some(text(found.body(0, None)).await)
}

async fn fill(cache: &Cache, key: &str, options: WriteOptions, bytes: Vec<u8>) {
    let key = cache.key(Face::Core, key.as_bytes());
    let (mut writer, _) = cache.insert(key, &HeaderMap::new(), about(), options).expect("begins");
    writer.write(Bytes::from(bytes)).await.expect("is taken");
    writer.finish().await.expect("is taken");
}

#[tokio::test]
async fn objects_are_there_after_a_restart_and_no_longer_than_their_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = on_disk(folder.path(), 64 << 20, 64 << 20);
    let keys = |keys: &str| SurrogateKeys::parse(keys.as_bytes());
    let large: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    fill(
        &cache,
        "small",
        WriteOptions { surrogate_keys: keys("k"), user_metadata: Bytes::from_static(b"m"), ..seconds(100) },
        b"hello".to_vec(),
    )
    .await;
    fill(&cache, "large", seconds(100), large.clone()).await;
    fill(&cache, "empty", seconds(100), Vec::new()).await;
    fill(&cache, "short", seconds(1), b"x".to_vec()).await;
    fill(&cache, "secret", WriteOptions { sensitive: true, ..seconds(100) }, b"x".to_vec()).await;
    fill(&cache, "purged", WriteOptions { surrogate_keys: keys("p"), ..seconds(100) }, b"x".to_vec()).await;
    fill(
        &cache,
        "stale",
        WriteOptions { surrogate_keys: keys("s"), stale_while_revalidate: Duration::from_secs(50), ..seconds(100) },
        b"x".to_vec(),
    )
    .await;
    fill(&cache, "overwritten", seconds(100), b"old".to_vec()).await;
    fill(&cache, "overwritten", seconds(100), b"new".to_vec()).await;
    fill(&cache.of("other"), "all", seconds(100), b"x".to_vec()).await;
    cache.apply(&Purge::Key { key: "p".to_owned(), soft: false });
    cache.apply(&Purge::Key { key: "s".to_owned(), soft: true });
    cache.of("other").apply(&Purge::All);
    close(cache);
    std::thread::sleep(Duration::from_millis(1100));
    let cache = on_disk(folder.path(), 64 << 20, 64 << 20);
    let found = cache.lookup(&cache.key(Face::Core, b"small"), &HeaderMap::new()).expect("found");
    assert!(found.age() >= Duration::from_secs(1), "{:?}", found.age());
    assert_eq!((found.user_metadata().as_ref(), text(found.body(1, Some(3))).await.as_str()), (&b"m"[..], "el"));
    let key = cache.key(Face::Core, b"large");
    let mut body = cache.lookup(&key, &HeaderMap::new()).expect("found").body(0, None);
    assert_eq!(body.known_length(), Some(800_000));
    assert!(body.collect(1 << 20).await.expect("reads").expect("all") == large);
    let part =
        cache.lookup(&key, &HeaderMap::new()).expect("found").body(65_535, Some(65_537)).collect(10).await.expect("reads").expect("all");
    assert_eq!(&part[..], &large[65_535..65_537]);
    assert_eq!((read(&cache, "empty").await.as_deref(), read(&cache, "overwritten").await.as_deref()), (Some(""), Some("new")));
    for gone in ["short", "secret", "purged"] {
        assert_eq!(read(&cache, gone).await, None, "{gone}");
    }
    let stale = cache.lookup(&cache.key(Face::Core, b"stale"), &HeaderMap::new()).expect("still usable");
    assert_eq!(stale.phase, Phase::WhileRevalidating);
    assert_eq!((cache.of("other").space().generation(), read(&cache.of("other"), "all").await), (1, None));
    // Purges find what is here from before.
    assert_eq!(cache.apply(&Purge::Key { key: "k".to_owned(), soft: false }), 1);
    assert_eq!(read(&cache, "small").await, None);
    drop(stale);
    drop(found);
    close(cache);
    let cache = on_disk(folder.path(), 64 << 20, 64 << 20);
    assert_eq!((read(&cache, "small").await, read(&cache, "overwritten").await.as_deref()), (None, Some("new")));
}

/// What leaves the disk while somebody has it is read to its end, and its file goes then.
#[tokio::test]
async fn what_leaves_the_disk_is_read_to_its_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = on_disk(folder.path(), 1 << 20, 64 << 20);
    let files = || {
        let parts = std::fs::read_dir(folder.path().join("cache/bodies")).expect("the bodies").flatten();
        parts.map(|part| std::fs::read_dir(part.path()).map_or(0, Iterator::count)).sum::<usize>()
    };
    fill(&cache, "a", WriteOptions { surrogate_keys: SurrogateKeys::parse(b"k"), ..seconds(1000) }, vec![7; 200_000]).await;
    cache.store().flush(Duration::from_secs(30));
    for index in 0..20 {
        fill(&cache, &format!("{index}"), seconds(1000), vec![8; 100_000]).await;
    }
    let found = cache.lookup(&cache.key(Face::Core, b"a"), &HeaderMap::new()).expect("found");
    cache.apply(&Purge::Key { key: "k".to_owned(), soft: false });
    cache.store().flush(Duration::from_secs(30));
    let before = files();
    assert_eq!(found.body(0, None).collect(1 << 20).await.expect("reads").expect("all"), vec![7; 200_000]);
    drop(found);
    eventually(|| files() == before - 1).await;
}

/// The list is written anew when it has outgrown what it says, and not with every object.
#[tokio::test]
async fn a_long_list_is_added_to() {
    use std::os::unix::fs::MetadataExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    let cache = on_disk(folder.path(), 64 << 20, 256 << 20);
    let options = || WriteOptions { user_metadata: Bytes::from(vec![7; 20_000]), ..seconds(1000) };
    let list = || std::fs::metadata(folder.path().join("cache/list")).expect("the list");
    for index in 0..1100 {
        fill(&cache, &format!("{index}"), options(), b"x".to_vec()).await;
    }
    cache.store().flush(Duration::from_secs(30));
    let before = list();
    assert!(before.len() > 20 << 20);
    for index in 1100..1120 {
        fill(&cache, &format!("{index}"), options(), b"x".to_vec()).await;
        cache.store().flush(Duration::from_secs(30));
    }
    assert_eq!((list().ino(), list().len() > before.len()), (before.ino(), true));
    // What it says of objects that are there no more is gone in the end.
    for round in 0..3 {
        for index in 0..1120 {
            fill(&cache, &format!("{index}"), options(), vec![round; 2]).await;
        }
        cache.store().flush(Duration::from_secs(30));
    }
    assert!(list().ino() != before.ino() && list().len() < 64 << 20, "{}", list().len());
    close(cache);
    let cache = on_disk(folder.path(), 64 << 20, 256 << 20);
    assert_eq!(read(&cache, "1119").await.as_deref(), Some("\u{2}\u{2}"));
}

/// What is known of objects on disk is in memory: it has as much of that as the cache has, whatever room is on the disk.
#[tokio::test]
async fn what_is_known_of_objects_on_disk_is_bounded() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = on_disk(folder.path(), 4 << 20, 1 << 30);
    for index in 0..200 {
        let options = WriteOptions { user_metadata: Bytes::from(vec![7; 100_000]), ..seconds(1000) };
        fill(&cache, &format!("{index}"), options, b"x".to_vec()).await;
        cache.store().flush(Duration::from_secs(30));
    }
    let totals = cache.store().totals();
    assert!((20..=42).contains(&totals.disk_objects) && totals.disk_bytes < 5 << 20, "{totals:?}");
    assert_eq!(read(&cache, "199").await.as_deref(), Some("x"));
}

#[tokio::test]
async fn ages_go_on_over_restarts_however_time_was_moved() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = on_disk(folder.path(), 64 << 20, 64 << 20);
    fill(&cache, "before", seconds(100), b"x".to_vec()).await;
    cache.store().flush(Duration::from_secs(30));
    cache.store().move_on(Duration::from_secs(70));
    fill(&cache, "after", seconds(100), b"x".to_vec()).await;
    fill(&cache, "short", seconds(1), b"x".to_vec()).await;
    close(cache);
    std::thread::sleep(Duration::from_millis(1100));
    let cache = on_disk(folder.path(), 64 << 20, 64 << 20);
    let age = |key: &str| cache.lookup(&cache.key(Face::Core, key.as_bytes()), &HeaderMap::new()).map(|found| found.age().as_secs());
    assert_eq!((age("before"), age("after"), age("short")), (Some(71), Some(1), None));
    cache.store().move_on(Duration::from_secs(30));
    assert_eq!((age("before"), age("after")), (None, Some(31)));
}

#[tokio::test]
async fn what_leaves_memory_is_on_disk_and_what_leaves_the_disk_is_gone() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = on_disk(folder.path(), 1 << 20, 4 << 20);
    for index in 0..200 {
        fill(&cache, &format!("{index}"), seconds(100), vec![index as u8; 30_000]).await;
        cache.store().flush(Duration::from_secs(30));
    }
    let totals = cache.store().totals();
    assert!(totals.bytes <= 1 << 20 && totals.disk_bytes <= 4 << 20, "{totals:?}");
    let mut there = 0;
    for index in 0..200 {
        let Some(found) = cache.lookup(&cache.key(Face::Core, format!("{index}").as_bytes()), &HeaderMap::new()) else { continue };
        there += 1;
        let all = found.body(0, None).collect(1 << 20).await.expect("reads").expect("all");
        assert!(all.len() == 30_000 && all.iter().all(|byte| *byte == index as u8));
    }
    assert!((60..=140).contains(&there), "{there}");
    let files = std::fs::read_dir(folder.path().join("cache/bodies")).expect("a folder").flatten();
    let bytes: u64 = files
        .flat_map(|part| std::fs::read_dir(part.path()).expect("a folder").flatten())
        .map(|file| file.metadata().expect("a file").len())
        .sum();
    assert!(bytes <= 4 << 20, "{bytes}");
}

/// The memory is not held for a disk that is behind: what leaves it before it has been written is counted, and gone.
#[tokio::test]
async fn what_a_slow_disk_has_no_time_for_is_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = on_disk(folder.path(), 1 << 20, 64 << 20);
    let behind = cache.store().disk.as_ref().expect("a disk").hold_up();
    for index in 0..100 {
        fill(&cache, &format!("{index}"), seconds(100), vec![b'x'; 30_000]).await;
    }
    let totals = cache.store().totals();
    assert!(totals.bytes <= 1 << 20 && totals.disk_objects == 0, "{totals:?}");
    drop(behind);
    cache.store().flush(Duration::from_secs(30));
    let (skipped, written) = (cache.store().telemetry_of_tests().metrics.cache_disk_skipped.get(), cache.store().totals().disk_objects);
    assert!(skipped >= 60 && written >= 20, "{skipped} {written}");
    assert_eq!(skipped + written as u64, 100);
    let mut there = 0;
    for index in 0..100 {
        there += u64::from(read(&cache, &format!("{index}")).await.is_some_and(|text| text.len() == 30_000));
    }
    assert_eq!(there, 100 - skipped);
}

#[tokio::test]
async fn damage_is_found_and_never_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = on_disk(folder.path(), 64 << 20, 64 << 20);
    let large = vec![5; 300_000];
    for (key, bytes) in
        [("small", vec![5; 1000]), ("lost", vec![5; 1000]), ("cut", vec![5; 1000]), ("large", large.clone()), ("whole", vec![6; 1000])]
    {
        fill(&cache, key, seconds(100), bytes).await;
    }
    close(cache);
    let cache_folder = folder.path().join("cache");
    let file = |size: u64, skip: usize| {
        let parts = std::fs::read_dir(cache_folder.join("bodies")).expect("a folder").flatten();
        let mut files: Vec<_> = parts.flat_map(|part| std::fs::read_dir(part.path()).expect("a folder").flatten()).collect();
        files.sort_by_key(std::fs::DirEntry::file_name);
        files.iter().filter(|file| file.metadata().expect("a file").len() == size).nth(skip).expect("a file").path()
    };
    // In the order in which they were made.
    let (small, lost, cut, big) = (file(1000, 0), file(1000, 1), file(1000, 2), file(300_000, 0));
    std::fs::write(&small, [vec![5; 999], vec![4]].concat()).expect("writes");
    std::fs::remove_file(lost).expect("removes");
    std::fs::write(cut, vec![5; 999]).expect("writes");
    let mut damaged = large.clone();
    damaged[150_000] = 4;
    std::fs::write(big, damaged).expect("writes");
    let cache = on_disk(folder.path(), 64 << 20, 64 << 20);
    for key in ["small", "lost", "cut"] {
        assert!(ask(&cache, key, &HeaderMap::new()).outcome().await.obligation.is_some(), "{key} is asked for again");
    }
    assert_eq!(read(&cache, "whole").await.map(|text| text.len()), Some(1000));
    let mut body = cache.lookup(&cache.key(Face::Core, b"large"), &HeaderMap::new()).expect("found").body(0, None);
    let mut got = Vec::new();
    let failed = loop {
        match body.chunk().await {
            Ok(Some(bytes)) => got.extend_from_slice(&bytes),
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    assert!(failed && got.len() < 150_000 && got == large[..got.len()], "{}", got.len());
    assert_eq!(read(&cache, "large").await, None, "it is forgotten");
    drop(body);
    close(cache);
    // A list that is not what was written is none.
    let list = cache_folder.join("list");
    let mut bytes = std::fs::read(&list).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&list, bytes).expect("writes");
    let cache = on_disk(folder.path(), 64 << 20, 64 << 20);
    assert_eq!(read(&cache, "whole").await, None);
    fill(&cache, "whole", seconds(100), b"again".to_vec()).await;
    close(cache);
    assert_eq!(read(&on_disk(folder.path(), 64 << 20, 64 << 20), "whole").await.as_deref(), Some("again"));
}

#[tokio::test]
async fn a_disk_that_cannot_be_written_to_is_no_reason_not_to_serve() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = on_disk(folder.path(), 64 << 20, 64 << 20);
    // In the place of a folder of bodies there is a file.
    for part in 0..=255 {
        std::fs::write(folder.path().join(format!("cache/bodies/{part:02x}")), b"").expect("writes");
    }
    fill(&cache, "a", seconds(100), b"in memory".to_vec()).await;
    cache.store().flush(Duration::from_secs(30));
    assert_eq!(read(&cache, "a").await.as_deref(), Some("in memory"));
    let errors = cache.store().telemetry_of_tests().metrics.cache_disk_errors.get();
    assert_eq!(errors, 1);
    close(cache);
    assert_eq!(read(&on_disk(folder.path(), 64 << 20, 64 << 20), "a").await, None);
}

#[test]
fn one_folder_is_of_one_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let _cache = on_disk(folder.path(), 1 << 20, 1 << 20);
    let error = Store::with_disk(Limits::default(), &crate::telemetry::Telemetry::new(), folder.path(), 1).expect_err("is taken");
    assert!(error.to_string().contains("another process keeps its cache there"), "{error}");
}
