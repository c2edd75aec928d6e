//! The request to the backend `origin` through the host's cache, its response to the client: as little as a program can be.

use fastly::handle::client_request_and_body;

fn main() {
    let (request, body) = client_request_and_body();
    let (response, body) = request.send(body, "origin").expect("an answer");
    response.send_to_client(body);
}
