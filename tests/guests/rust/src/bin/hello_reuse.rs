//! As `hello`, in a sandbox that takes one request after another.

use fastly::Response;
use fastly::http::header::CONTENT_TYPE;
use fastly::http::serve::Serve;

fn main() {
    Serve::new()
        .with_max_requests(0)
        .run(|_| Response::from_body("Hello, world!\n").with_header(CONTENT_TYPE, "text/plain"));
}
