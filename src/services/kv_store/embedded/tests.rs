//! What is particular to files.

use std::os::unix::fs::FileExt as _;

use super::super::files::{Files, file_name};
use super::*;

fn owner(since: Option<u64>) -> Owner {
    Owner { service: "shop".to_owned(), most: 1 << 30, dropin: since.is_some(), since }
}

fn open_in(folder: &Path, files: &Files) -> Result<Embedded, OpenError> {
    Ok(Embedded::new(files.open(folder, &owner(None), &Handle::current())?, "store"))
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = Files::default();
    let file = files.open(folder.path(), &owner(None), &Handle::current()).expect("opens");
    let count = std::sync::atomic::AtomicUsize::new(0);
    let fresh = async || {
        let name = count.fetch_add(1, Ordering::Relaxed).to_string();
        Arc::new(Embedded::new(file.clone(), &name)) as Arc<dyn KvStore>
    };
    super::super::contract::check(fresh).await;
}

#[tokio::test]
async fn what_is_written_is_there_the_next_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let generation = {
        let store = open_in(folder.path(), &Files::default()).expect("opens");
        store.insert("k", "v".into(), &Insert { metadata: "m".into(), ..Insert::default() }).await.expect("writes")
    };
    // The thread of its writes lets go of the file at its own time.
    let store = loop {
        match open_in(folder.path(), &Files::default()) {
            Err(OpenError::InUse(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
            other => break other.expect("opens"),
        }
    };
    let entry = store.lookup("k").await.expect("looks up").expect("is there");
    assert_eq!((entry.value, entry.metadata, entry.generation), ("v".into(), "m".into(), generation));
    assert!(store.insert("k", "w".into(), &Insert::default()).await.expect("writes") > generation);
}

#[tokio::test]
async fn a_second_process_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = Files::default();
    let _first = open_in(folder.path(), &files).expect("opens");
    assert!(open_in(folder.path(), &files).is_ok(), "another generation of this process shares it");
    let error = open_in(folder.path(), &Files::default()).map(drop).expect_err("is in use").to_string();
    assert!(error.contains("shop.redb: another process has this file open") && error.contains("hint: "), "{error}");
}

#[tokio::test]
async fn damaged_and_newer_files_are_left_as_they_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("shop.redb");
    {
        let database = open(&path, &owner(None)).expect("makes one");
        let transaction = database.begin_write().expect("begins");
        transaction.open_table(META).expect("opens").insert("format", 2).expect("inserts");
        transaction.commit().expect("commits");
    }
    let error = open_in(folder.path(), &Files::default()).map(drop).expect_err("is newer");
    assert!(error.to_string().contains("a newer version of sidelight has written this file (format 2, this one knows 1)"), "{error}");

    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("opens");
    file.set_len(1000).expect("truncates");
    let error = open_in(folder.path(), &Files::default()).map(drop).expect_err("is truncated");
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    file.write_all_at(b"not a database", 0).expect("writes");
    let error = open_in(folder.path(), &Files::default()).map(drop).expect_err("is no database");
    assert!(error.to_string().contains("the file is left as it is"), "{error}");
    assert_eq!(std::fs::read(&path).expect("reads").len(), 1000);
}

#[tokio::test]
async fn a_file_that_is_deleted() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open_in(folder.path(), &Files::default()).expect("opens");
    store.insert("k", "v".into(), &Insert::default()).await.expect("writes");
    std::fs::remove_file(folder.path().join("shop.redb")).expect("deletes");
    assert!(matches!(store.insert("k", "w".into(), &Insert::default()).await, Err(Error::Unavailable(_))), "not into nowhere");
    store.insert("k", "x".into(), &Insert::default()).await.expect("into a new one");
    assert!(folder.path().join("shop.redb").exists());
}

#[tokio::test]
async fn it_is_bounded() {
    let folder = tempfile::tempdir().expect("a folder");
    let owner = Owner { most: 1 << 20, ..owner(None) };
    let store = Embedded::new(Files::default().open(folder.path(), &owner, &Handle::current()).expect("opens"), "store");
    let put = async |key: &str, bytes: usize| store.insert(key, vec![0; bytes].into(), &Insert::default()).await;
    for key in ["a", "b", "c", "d", "e"] {
        put(key, 200_000).await.expect("there is room");
    }
    let full = put("f", 200_000).await;
    assert!(matches!(&full, Err(Error::Unavailable(text)) if text.contains("1 MiB, which is all they may")), "{full:?}");
    // The same again, less, and what there is room for after a deletion.
    put("a", 200_000).await.expect("is no more");
    put("a", 10).await.expect("is less");
    put("f", 200_000).await.expect("there is room");
    put("g", 200_000).await.expect_err("there is none");
    store.delete("b").await.expect("deletes");
    put("g", 200_000).await.expect("there is room");
    let seeds = [Seed { key: "s".to_owned(), value: vec![0; 300_000].into(), metadata: Bytes::new() }];
    store.seed(&seeds, Reseed::Always).await.expect("seeds are always put in");
    // As counted as it is.
    let database = store.file.database().expect("is open");
    let transaction = database.begin_write().expect("begins");
    let kept = transaction.open_table(META).expect("opens").get("bytes").expect("reads").expect("is there").value();
    assert_eq!(kept, count(&transaction).expect("counts"));
}

/// A later service of the same name has nothing of an earlier one, nor it of a later one; what is gone is removed.
#[tokio::test]
async fn files_of_services_that_come_and_go() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = Files::default();
    let open = |since| Embedded::new(files.open(folder.path(), &owner(Some(since)), &Handle::current()).expect("opens"), "store");
    let first = open(1);
    first.insert("k", "first's".into(), &Insert::default()).await.expect("writes");
    assert!(open(1).lookup("k").await.expect("looks up").is_some());
    let second = open(2);
    assert!(second.lookup("k").await.expect("looks up").is_none());
    assert!(first.insert("k", "first's".into(), &Insert::default()).await.is_err(), "it is gone");
    drop((first, second));
    // The same after a restart.
    let third = loop {
        match Files::default().open(folder.path(), &owner(Some(3)), &Handle::current()) {
            Err(OpenError::InUse(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
            other => break Embedded::new(other.expect("opens"), "store"),
        }
    };
    assert!(third.lookup("k").await.expect("looks up").is_none());
    let path = folder.path().join("dropins/shop.redb");
    files.tidy(folder.path(), &["shop"].into(), Duration::ZERO);
    files.tidy(folder.path(), &["other"].into(), Duration::from_secs(3600));
    assert!(path.exists());
    files.tidy(folder.path(), &["other"].into(), Duration::ZERO);
    assert!(!path.exists());
}

#[test]
fn names_of_files() {
    assert_eq!(file_name("shop.example-1_a"), "shop.example-1_a.redb");
    assert_eq!(file_name("../a b"), "%2e.%2fa%20b.redb");
    assert_eq!(file_name(""), ".redb");
}
