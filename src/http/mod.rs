//! Protocol helpers: message heads, bodies, HTTP/1.1 framing. Nothing here knows guests, services
//! or telemetry.

pub mod body;
pub mod framing;
pub mod head;
pub mod io;
pub mod response;
pub mod wire;

pub use body::{Body, BodyError, BodyStream};
pub use head::{RequestHead, ResponseHead};
