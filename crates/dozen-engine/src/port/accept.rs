//! Connections of clients, taken one after the other, and their handshakes.

use super::proxy::{Core, Entry, Stopping, serve, unrecognized};
use super::tls::{Secured, Unsecured, handshake};
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// A pause where a connection cannot be taken, for want of file descriptors: they come back as others end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Takes connections.
pub(super) async fn accept(core: Rc<Core>, listener: tokio::net::TcpListener, tls: bool) {
    let port = listener.local_addr().map_or(0, |a| a.port());
    // Of every connection that it takes.
    let _ = rustix::net::sockopt::set_tcp_nodelay(&listener, true);
    loop {
        core.shared.crowd.room().await;
        match listener.accept().await {
            Ok((socket, peer)) => {
                let peer = peer.ip().to_canonical();
                // One that has too many already is closed at once: a word of refusal would cost more than it does harm.
                let Some(guest) = core.shared.crowd.admit(peer) else { continue };
                let entry = Entry { peer, port, tls, shown: None, http2: false, guest };
                match tls {
                    false => tokio::task::spawn_local(serve(core.clone(), socket, entry)),
                    // Others are not kept waiting by one that takes its time.
                    true => tokio::task::spawn_local(secure(core.clone(), socket, entry)),
                };
            }
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn secure(core: Rc<Core>, socket: tokio::net::TcpStream, entry: Entry) {
    let mut stopping = core.stopping.clone();
    let agreed = tokio::select! {
        agreed = handshake(&core.store, socket, core.shared.limits.handshake) => agreed,
        _ = stopping.wait_for(|stop| *stop == Stopping::Now) => return,
    };
    match agreed {
        Ok(Secured { stream, shown, http2 }) => serve(core, stream, Entry { shown, http2, ..entry }).await,
        Err(Unsecured::Unrecognized(name)) => unrecognized(&core, &entry, &name),
        Err(Unsecured::Failed) => {}
    }
}
