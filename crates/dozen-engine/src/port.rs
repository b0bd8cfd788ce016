//! VII. Export services via port binding.
//! The router: a process of its own that owns every public request, and the control plane's side of it, which owns the listeners.
//!
//! **Invariant:** the control plane binds, the router accepts. A router that dies leaves connections waiting in the backlog; its successor
//! answers them.
//! **Invariant:** a request's way is decided by one immutable table; a table is swapped whole, and one of an older generation is refused.
//! **Invariant:** only what was never sent to an instance is sent to another.
//! **Invariant:** a certificate's key is in the ledger, sealed, in this process's memory and in the router's, and nowhere else.
//! **Absent on purpose:** buffering of bodies, retries of requests that an instance may have seen, HTTP/2 without TLS, WebSocket over HTTP/2
//! (browsers open a connection of HTTP/1.1 for it).

mod accept;
pub mod acme;
pub mod ca;
pub mod certificate;
pub mod certificates;
pub mod control;
pub mod counts;
mod crowd;
mod fields;
mod fleet;
pub mod guard;
pub mod lease;
mod log;
mod manners;
mod pages;
mod planes;
mod pool;
mod ports;
mod proxy;
pub mod router;
pub mod sockets;
pub mod static_files;
mod stream;
pub mod switchboard;
mod tally;
mod tls;
mod upstream;
mod wire;

pub use certificate::{Certificate, CertificateError, Proof, Supply};
pub use control::{Left, Limits, Router, RouterEvent, RouterSpec};
pub use ports::{Ahead, Ports};
pub use switchboard::{Led, Line, Switchboard};
pub use tls::install as install_tls;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;

/// The uid and gid of the routers of this host, where dozen is root: just below those of deploys, which begin at 480000.
pub(crate) const ROUTER: u32 = 479_999;
/// The first port that is tried where none is named.
pub const FIRST_PORT: u16 = 8000;
/// So many ports from [`FIRST_PORT`] upward are tried.
const TRIED_PORTS: u16 = 200;
/// Connections that wait in the kernel while no router accepts; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// The public listeners, held by the control plane.
#[derive(Debug)]
pub struct Listeners {
    plain: Door,
    tls: Option<Door>,
}

/// One address or, of this machine only, 127.0.0.1 and, where the machine has it, ::1; on one port.
#[derive(Debug)]
struct Door {
    sockets: Vec<TcpListener>,
    port: u16,
}

/// What can fail on the control plane's side.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// The port that was asked for is in use.
    #[error("cannot listen on port {port}: {} holds it; stop that, or choose another port", .holder.as_deref().unwrap_or("another program"))]
    Taken {
        /// The port.
        port: u16,
        /// `process 4711 (node)`, where /proc tells.
        holder: Option<String>,
    },
    /// The port that was asked for cannot be had for another reason.
    #[error("cannot listen on port {port}; choose another port")]
    Bind {
        /// The port.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Every port that was tried is in use.
    #[error("no port between {FIRST_PORT} and {} is free; name one", FIRST_PORT + TRIED_PORTS - 1)]
    NoneFree,
    /// A router runs that cannot be spoken with.
    #[error("the router that runs is of another version of dozen (protocol {theirs}); use that one, or the next after it")]
    Version {
        /// Its protocol.
        theirs: u32,
    },
    /// A router runs and does not answer as one.
    #[error("cannot take over the router that runs as process {pid}; end that process, and connections will find another one")]
    TakeOver {
        /// Its process id.
        pid: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The router could not be started.
    #[error("cannot start the router ({})", .exe.display())]
    Start {
        /// The program.
        exe: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Binds `port` on both loopback addresses, or the next free one from [`FIRST_PORT`] upward. Port 0 lets the kernel choose.
///
/// # Errors
/// The port is taken ([`PortError::Taken`] says by whom) or may not be bound.
pub fn bind(port: Option<u16>) -> Result<Listeners, PortError> {
    bind_on(None, port)
}

/// The same on another address.
fn bind_on(address: Option<IpAddr>, port: Option<u16>) -> Result<Listeners, PortError> {
    let plain = match port {
        Some(port) => named(address, port),
        None => (FIRST_PORT..FIRST_PORT + TRIED_PORTS)
            .find_map(|port| match bind_all(address, port) {
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => None,
                other => Some(other.map_err(|source| explain(port, source))),
            })
            .unwrap_or(Err(PortError::NoneFree)),
    };
    Ok(Listeners { plain: plain?, tls: None })
}

/// A port that was asked for, or any.
fn named(address: Option<IpAddr>, port: u16) -> Result<Door, PortError> {
    let mut bound = bind_all(address, port);
    // The kernel chooses for IPv4; the same number may be taken on IPv6, so it gets a few chances.
    for _ in 0..if port == 0 { 16 } else { 0 } {
        if bound.is_ok() {
            break;
        }
        bound = bind_all(address, port);
    }
    bound.map_err(|source| explain(port, source))
}

impl Listeners {
    /// The same with HTTPS on `port` (0: any) of both loopback addresses, in place of what served it before.
    ///
    /// # Errors
    /// As [`bind`].
    pub fn with_https(self, port: u16) -> Result<Self, PortError> {
        Ok(Self { tls: Some(named(None, port)?), ..self })
    }
    /// The port of plain HTTP, on both addresses.
    pub fn port(&self) -> u16 {
        self.plain.port
    }
    /// The port of HTTPS, on both addresses.
    pub fn https_port(&self) -> Option<u16> {
        self.tls.as_ref().map(|door| door.port)
    }
    /// Where plain HTTP is listened for.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.plain.sockets.iter().filter_map(|s| s.local_addr().ok()).collect()
    }
    /// All of them, and how many of the last are for TLS.
    fn sockets(&self) -> (Vec<&TcpListener>, usize) {
        let tls = self.tls.iter().flat_map(|door| &door.sockets);
        let all: Vec<&TcpListener> = self.plain.sockets.iter().chain(tls).collect();
        let secure = all.len() - self.plain.sockets.len();
        (all, secure)
    }
    /// What was handed on as [`Listeners::sockets`]. `None` where no plain one is among them.
    fn of(mut sockets: Vec<TcpListener>, tls: usize) -> Option<Self> {
        let secure = sockets.split_off(sockets.len().checked_sub(tls)?);
        Some(Self { plain: Door::of(sockets)?, tls: Door::of(secure) })
    }
    /// Copies of the same sockets.
    fn copied(&self) -> io::Result<Self> {
        let copy = |door: &Door| {
            let sockets = door.sockets.iter().map(TcpListener::try_clone).collect::<io::Result<_>>();
            sockets.map(|sockets| Door { sockets, port: door.port })
        };
        Ok(Self { plain: copy(&self.plain)?, tls: self.tls.as_ref().map(copy).transpose()? })
    }
}

impl Door {
    fn of(sockets: Vec<TcpListener>) -> Option<Self> {
        let port = sockets.first()?.local_addr().ok()?.port();
        Some(Self { sockets, port })
    }
}

fn bind_all(address: Option<IpAddr>, port: u16) -> io::Result<Door> {
    if let Some(address) = address {
        let socket = listen(SocketAddr::new(address, port))?;
        let port = socket.local_addr()?.port();
        return Ok(Door { sockets: vec![socket], port });
    }
    let four = listen(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))?;
    let port = four.local_addr()?.port();
    match listen(SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port)) {
        Ok(six) => Ok(Door { sockets: vec![four, six], port }),
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => Err(e),
        // A machine without IPv6 answers EADDRNOTAVAIL or EAFNOSUPPORT: IPv4 alone serves.
        Err(_) => Ok(Door { sockets: vec![four], port }),
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpListener::bind(address)?;
    // The standard library listens with a short backlog; a second listen(2) changes it.
    rustix::net::listen(&socket, BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn explain(port: u16, source: io::Error) -> PortError {
    match source.kind() {
        io::ErrorKind::AddrInUse => PortError::Taken { port, holder: sockets::holder(port) },
        _ => PortError::Bind { port, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_its_holder() {
        let taken = bind(Some(0)).expect("a free port");
        let error = bind(Some(taken.port())).expect_err("taken");
        let text = error.to_string();
        assert!(text.contains(&format!("port {}", taken.port())), "{text}");
        assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    }

    #[test]
    fn without_a_port_the_next_free_one_is_taken() {
        let (a, b) = (bind(None).expect("free"), bind(None).expect("free"));
        assert!(a.port() >= FIRST_PORT && b.port() >= FIRST_PORT && a.port() != b.port());
        assert_eq!(a.addresses().len(), a.sockets().0.len());
        let both = a.with_https(0).expect("free");
        let (all, tls) = both.sockets();
        assert!(tls == both.addresses().len() && all.len() == 2 * tls && both.https_port().is_some_and(|port| port != both.port()));
    }
}
