//! Accepting within somebody else's runtime, for programs that embed this host.

use std::sync::Arc;

use pingora::protocols::l4::stream::Stream as L4Stream;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::hops::Ends;
use super::{Edge, connection};

/// Serves HTTP on `listener` until `stop` is true; connections that are open then finish what they are at.
pub async fn serve(edge: Arc<Edge>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
    let Ok(server) = listener.local_addr() else { return };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => return,
        };
        // One that could not be accepted is gone; the next one may be well.
        let Ok((stream, client)) = accepted else { continue };
        drop(stream.set_nodelay(true));
        let (edge, stop) = (edge.clone(), stop.clone());
        tokio::spawn(async move {
            let stream = Box::new(L4Stream::from(stream));
            connection::serve(&edge, stream, Ends { client, server }, None, Arc::default(), stop).await;
        });
    }
}
