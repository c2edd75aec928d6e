//! What every implementation of [`KvStore`] does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Entry, Error, Insert, KvStore, MAX_VALUE, Mode, Page, Seed};
use crate::config::state::Reseed;

fn page(prefix: &str, after: Option<&str>, limit: u32) -> Page {
    Page { prefix: prefix.to_owned(), after: after.map(str::to_owned), limit }
}

fn seed(key: &str, value: &str) -> Seed {
    Seed { key: key.to_owned(), value: Bytes::copy_from_slice(value.as_bytes()), metadata: Bytes::from_static(b"m") }
}

async fn value(store: &dyn KvStore, key: &str) -> Option<String> {
    let entry = store.lookup(key).await.expect("looks up")?;
    Some(String::from_utf8_lossy(&entry.value).into_owned())
}

async fn put(store: &dyn KvStore, key: &str, value: &str, mode: Mode) -> Result<u64, Error> {
    store.insert(key, Bytes::copy_from_slice(value.as_bytes()), &Insert { mode, ..Insert::default() }).await
}

/// Runs the whole suite; `fresh` makes an empty store.
pub async fn check(fresh: impl AsyncFn() -> Arc<dyn KvStore>) {
    modes(&*fresh().await).await;
    generations(fresh().await).await;
    times(&*fresh().await).await;
    values(&*fresh().await).await;
    pages(&*fresh().await).await;
    keys(&*fresh().await).await;
    writers(fresh().await).await;
    seeds(&*fresh().await).await;
}

async fn modes(store: &dyn KvStore) {
    assert_eq!(store.lookup("a").await, Ok(None));
    assert_eq!(store.delete("a").await, Ok(false));
    put(store, "a", "1", Mode::Add).await.expect("adds");
    assert_eq!(put(store, "a", "2", Mode::Add).await, Err(Error::Precondition));
    put(store, "a", "2", Mode::Append).await.expect("appends");
    put(store, "a", "0", Mode::Prepend).await.expect("prepends");
    assert_eq!(value(store, "a").await.as_deref(), Some("012"));
    put(store, "a", "x", Mode::Overwrite).await.expect("overwrites");
    assert_eq!(value(store, "a").await.as_deref(), Some("x"));
    put(store, "new", "n", Mode::Append).await.expect("appends to nothing");
    put(store, "newer", "n", Mode::Prepend).await.expect("prepends to nothing");
    assert_eq!(value(store, "new").await.as_deref(), Some("n"));
    assert_eq!(store.delete("a").await, Ok(true));
    assert_eq!(store.delete("a").await, Ok(false));
    assert_eq!(store.lookup("a").await, Ok(None));
}

async fn generations(store: Arc<dyn KvStore>) {
    let only = |generation| Insert { if_generation: Some(generation), ..Insert::default() };
    assert_eq!(store.insert("k", Bytes::new(), &only(1)).await, Err(Error::Precondition), "a key that is not there has none");
    let first = put(&*store, "k", "1", Mode::Overwrite).await.expect("writes");
    assert_eq!(store.lookup("k").await.expect("looks up").expect("is there").generation, first);
    let second = store.insert("k", "2".into(), &only(first)).await.expect("matches");
    assert_ne!(first, second);
    assert_eq!(store.insert("k", "3".into(), &only(first)).await, Err(Error::Precondition));
    assert_eq!(value(&*store, "k").await.as_deref(), Some("2"));
    store.delete("k").await.expect("deletes");
    assert_eq!(store.insert("k", "4".into(), &only(second)).await, Err(Error::Precondition));
    let third = put(&*store, "k", "5", Mode::Overwrite).await.expect("writes");
    assert!(third != first && third != second, "a generation never comes again");
}

async fn times(store: &dyn KvStore) {
    let brief = Insert { ttl: Some(Duration::from_millis(60)), ..Insert::default() };
    store.insert("brief", "x".into(), &brief).await.expect("writes");
    store.insert("long", "x".into(), &Insert { ttl: Some(Duration::from_secs(3600)), ..Insert::default() }).await.expect("writes");
    store.insert("extended", "x".into(), &brief).await.expect("writes");
    put(store, "extended", "y", Mode::Overwrite).await.expect("writes");
    store
        .insert("max", "x".into(), &Insert { ttl: Some(Duration::from_secs(u32::MAX.into())), ..Insert::default() })
        .await
        .expect("writes");
    while store.lookup("brief").await.expect("looks up").is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(value(store, "extended").await.as_deref(), Some("y"), "a write without a time ends the old one");
    assert_eq!(store.list(&page("", None, 10)).await.expect("lists").keys, ["extended", "long", "max"]);
    assert_eq!(store.delete("brief").await, Ok(false));
    put(store, "brief", "again", Mode::Add).await.expect("what has expired is not there");

    let slow = Insert { interval: Duration::from_secs(60), ..Insert::default() };
    store.insert("slow", "1".into(), &slow).await.expect("the first");
    assert_eq!(store.insert("slow", "2".into(), &slow).await, Err(Error::TooMany));
    store.insert("other", "1".into(), &slow).await.expect("another key");
}

async fn values(store: &dyn KvStore) {
    let metadata = Bytes::from(vec![0xff; 2000]);
    for length in [0, 1, MAX_VALUE] {
        let value = Bytes::from(vec![7; length]);
        let how = Insert { metadata: metadata.clone(), ..Insert::default() };
        let generation = store.insert("v", value.clone(), &how).await.expect("writes");
        let found = store.lookup("v").await.expect("looks up");
        assert!(found == Some(Entry { value, metadata: metadata.clone(), generation }), "{length} bytes come back");
    }
    assert_eq!(put(store, "v", "x", Mode::Append).await, Err(Error::TooLarge));
    assert_eq!(put(store, "v", "x", Mode::Prepend).await, Err(Error::TooLarge));
    assert_eq!(store.lookup("v").await.expect("looks up").map(|entry| entry.value.len()), Some(MAX_VALUE));
}

async fn pages(store: &dyn KvStore) {
    for i in 0..25 {
        put(store, &format!("p/{i:02}"), "x", Mode::Overwrite).await.expect("writes");
    }
    put(store, "o", "x", Mode::Overwrite).await.expect("writes");
    put(store, "q", "x", Mode::Overwrite).await.expect("writes");
    let mut found = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let listing = store.list(&page("p/", after.as_deref(), 10)).await.expect("lists");
        assert!(listing.keys.len() <= 10);
        found.extend(listing.keys.clone());
        after = listing.keys.last().cloned();
        if !listing.more {
            break;
        }
        // Whoever pages misses nothing that was there all along.
        put(store, "p/", "before all", Mode::Overwrite).await.expect("writes");
        store.delete(&found[0]).await.expect("deletes");
    }
    assert_eq!(found, (0..25).map(|i| format!("p/{i:02}")).collect::<Vec<_>>());
    let all = store.list(&page("", None, 1000)).await.expect("lists");
    assert_eq!((all.keys.len(), all.more), (27, false));
    let exact = store.list(&page("p/2", None, 5)).await.expect("lists");
    assert_eq!((exact.keys.len(), exact.more), (5, false));
    assert!(store.list(&page("zzz", None, 5)).await.expect("lists").keys.is_empty());
    assert!(store.list(&page("p/", Some("zzz"), 5)).await.expect("lists").keys.is_empty());
    assert_eq!(store.list(&page("p/", Some("a"), 1)).await.expect("lists").keys, ["p/"]);
}

async fn keys(store: &dyn KvStore) {
    let long = "k".repeat(1024);
    let odd = ["\u{1}\u{2}", "a\0b", "{tag}", "}", "*[?]", "a b", "\"'\\", "ä", "\u{10ffff}", "%", ":", long.as_str()];
    for key in odd {
        put(store, key, key, Mode::Add).await.expect("writes");
    }
    for key in odd {
        assert_eq!(value(store, key).await.as_deref(), Some(key));
    }
    let mut sorted: Vec<String> = odd.iter().map(|key| (*key).to_owned()).collect();
    sorted.sort();
    assert_eq!(store.list(&page("", None, 100)).await.expect("lists").keys, sorted, "in the order of their bytes");
    assert_eq!(store.list(&page("\u{10ffff}", None, 100)).await.expect("lists").keys.len(), 1);
    for key in odd {
        assert_eq!(store.delete(key).await, Ok(true));
    }
    assert!(store.list(&page("", None, 100)).await.expect("lists").keys.is_empty());
}

async fn writers(store: Arc<dyn KvStore>) {
    put(&*store, "n", "0", Mode::Overwrite).await.expect("writes");
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut done = 0;
                while done < 25 {
                    let entry = store.lookup("n").await.expect("looks up").expect("is there");
                    let number: u32 = String::from_utf8_lossy(&entry.value).parse().expect("a number");
                    let how = Insert { if_generation: Some(entry.generation), ..Insert::default() };
                    match store.insert("n", (number + 1).to_string().into(), &how).await {
                        Ok(_) => done += 1,
                        Err(Error::Precondition) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                put(&*store, "log", "x", Mode::Append).await.expect("appends");
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("ends");
    }
    assert_eq!(value(&*store, "n").await.as_deref(), Some("100"), "no increment is lost");
    assert_eq!(value(&*store, "log").await.as_deref(), Some("xxxx"));
}

async fn seeds(store: &dyn KvStore) {
    let first = [seed("a", "1"), seed("b", "1"), seed("c", "1"), seed("d", "1")];
    assert_eq!(store.seed(&first, Reseed::Changed).await, Ok(4));
    assert_eq!(store.lookup("a").await.expect("looks up").expect("is there").metadata, "m");
    put(store, "b", "mine", Mode::Overwrite).await.expect("writes");
    store.delete("c").await.expect("deletes");
    assert_eq!(store.seed(&first, Reseed::Changed).await, Ok(0), "nothing has changed");
    assert_eq!((value(store, "b").await.as_deref(), value(store, "c").await), (Some("mine"), None));

    // Changed ones go in where nobody has written since; one that is gone is taken out.
    let second = [seed("a", "2"), seed("b", "2"), seed("c", "2")];
    assert_eq!(store.seed(&second, Reseed::Changed).await, Ok(2));
    assert_eq!(value(store, "a").await.as_deref(), Some("2"));
    assert_eq!((value(store, "b").await.as_deref(), value(store, "c").await), (Some("mine"), None));
    assert_eq!(value(store, "d").await, None);

    assert_eq!(store.seed(&second, Reseed::Always).await, Ok(2));
    assert_eq!((value(store, "b").await.as_deref(), value(store, "c").await.as_deref()), (Some("2"), Some("2")));
    assert_eq!(store.seed(&second, Reseed::Always).await, Ok(0));
    put(store, "b", "mine", Mode::Overwrite).await.expect("writes");
    assert_eq!(store.seed(&[], Reseed::Changed).await, Ok(2), "what the service has written stays");
    assert_eq!(store.list(&page("", None, 10)).await.expect("lists").keys, ["b"]);
}
