//! The smallest program worth serving: one fixed answer. Used to measure what a request costs when
//! the guest does next to nothing.

use fastly::Response;
use fastly::http::header::CONTENT_TYPE;

fn main() {
    Response::from_body("Hello, world!\n")
        .with_header(CONTENT_TYPE, "text/plain")
        .send_to_client();
}
