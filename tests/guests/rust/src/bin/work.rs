//! Pieces of work for `benches/peers.py`, each as little as a program can do: `/kv` answers with the value of `apple` in the KV store
//! `catalog`, `/fanout` sends eight requests to the backend `origin`, waits for all and answers with the bytes of their bodies.

use fastly::http::StatusCode;
use fastly::kv_store::KVStore;
use fastly::{Error, Request, Response};

#[fastly::main]
fn main(request: Request) -> Result<Response, Error> {
    match request.get_path() {
        "/kv" => {
            let store = KVStore::open("catalog")?.ok_or_else(|| Error::msg("no store `catalog`"))?;
            Ok(Response::from_body(store.lookup("apple")?.take_body()))
        }
        "/fanout" => {
            let send = || Request::get("http://origin.test/small").with_pass(true).send_async("origin");
            let pending = (0..8).map(|_| send()).collect::<Result<Vec<_>, _>>()?;
            let mut bytes = 0;
            for pending in pending {
                bytes += pending.wait()?.take_body_bytes().len();
            }
            Ok(Response::from_body(format!("{bytes}\n")))
        }
        _ => Ok(Response::from_status(StatusCode::NOT_FOUND)),
    }
}
