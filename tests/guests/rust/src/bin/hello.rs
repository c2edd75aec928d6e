//! The smallest program the SDK can build: one fixed answer. Used to measure what a request costs
//! when the guest does nothing.

use fastly::http::header::CONTENT_TYPE;
use fastly::{Error, Request, Response};

#[fastly::main]
fn main(_req: Request) -> Result<Response, Error> {
    Ok(Response::from_body("hello\n").with_header(CONTENT_TYPE, "text/plain"))
}
