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
