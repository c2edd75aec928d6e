//! Bytes of a client: whatever they are, no panic; and a request that we take, hyper takes with the same method, target, fields and body,
//! so that nobody behind us sees another end of it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sidelight::http::request::{RequestReader, reread};
use sidelight_fuzz::{Pieces, Understood, hyper_requests, run};

const MOST: usize = 128 << 10;

fn ours(bytes: &[u8], size: usize) -> Vec<Understood> {
    run(async {
        let mut reader = RequestReader::new(Pieces::new(bytes, size));
        let mut found = Vec::new();
        while let Ok(line) = reader.head(MOST).await {
            drop(reread(&line.raw));
            let mut body = Vec::new();
            let whole = loop {
                match reader.chunk().await {
                    Ok(Some(piece)) => {
                        assert!(!piece.is_empty());
                        body.extend_from_slice(&piece);
                    }
                    Ok(None) => break true,
                    Err(_) => break false,
                }
            };
            found.push(Understood {
                method: line.method,
                target: line.target.to_string(),
                headers: line.headers,
                body: whole.then_some(body),
            });
            if !whole || !line.persistent {
                break;
            }
            assert!(reader.is_done());
            reader.begin();
        }
        found
    })
}

fuzz_target!(|input: &[u8]| {
    let Some((&size, bytes)) = input.split_first() else { return };
    let found = ours(bytes, usize::MAX);
    // In whatever pieces it comes, it is the same.
    let pieces = ours(bytes, usize::from(size));
    assert_eq!(format!("{found:?}"), format!("{pieces:?}"));
    // hyper answers each with what may end its connection: only the first is compared.
    let Some(first) = found.first().filter(|first| first.body.is_some()) else { return };
    // It gives HTTP/2's preface, CONNECT and upgrades to others.
    if first.method.as_str() == "PRI" || first.method.as_str() == "CONNECT" || first.headers.contains_key("upgrade") {
        return;
    }
    let theirs = hyper_requests(bytes);
    let same = theirs.first().is_some_and(|theirs| {
        theirs.method == first.method && theirs.body == first.body && theirs.target == first.target && theirs.headers == first.headers
    });
    assert!(same, "ours: {first:?}\ntheirs: {:?}", theirs.first());
});
