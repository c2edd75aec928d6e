//! Forwards every request to the backend `origin` as it is and streams the answer back. Used to
//! measure what a request through the host costs when the guest only passes it on.

use fastly::{Error, Request, Response};

#[fastly::main]
fn main(req: Request) -> Result<Response, Error> {
    Ok(req.with_pass(true).send("origin")?)
}
