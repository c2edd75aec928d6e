//! As `passthrough`, through the SDK's HTTP cache.

use fastly::{Error, Request, Response};

#[fastly::main]
fn main(req: Request) -> Result<Response, Error> {
    Ok(req.send("origin")?)
}
