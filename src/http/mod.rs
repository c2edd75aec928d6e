//! Protocol helpers: message heads, bodies, HTTP/1.1 framing. Nothing here knows guests, services
//! or telemetry.

pub mod body;
pub mod cdn_loop;
pub mod client_hello;
pub mod encoding;
pub mod framing;
pub mod h2_fingerprint;
pub mod h2_stream;
pub mod head;
pub mod io;
pub mod message;
pub mod request;
pub mod response;
pub mod rewind;
pub mod wire;

pub use body::{Body, BodyError, BodyStream};
pub use head::{RequestHead, ResponseHead};
