//! A request body that the guest writes while it is being sent.

use hyper::Response;

use crate::harness::Setup;
use crate::languages;
use crate::origin::{Origin, text};

languages!(
    fn is_streamed_to_the_backend(language) {
        let origin = Origin::new(|seen| Response::new(text(format!("got {} at {}", seen.body.len(), seen.target))));
        let sidelight = Setup::behaviours(language).backend("origin", origin.url()).start();
        let body = "x".repeat(300_000);
        let answer = sidelight.post("/upload-async", &body);
        assert_eq!((answer.status, answer.text().as_str()), (200, "got 300000 at /upload"));
        assert_eq!(origin.last().method, "POST");
    }
);
