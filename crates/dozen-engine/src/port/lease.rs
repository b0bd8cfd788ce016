//! Ports for instances, from a range of dozen's own below the kernel's ephemeral ports.

use super::guard;
use dozen_core::port::INSTANCES as RANGE;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;

/// A port that no other dozen on this machine uses while the lease lives.
///
/// The lease is an abstract Unix socket named after the port: it needs no file, holds across users and homes, and ends with its holder,
/// however that ends.
#[derive(Debug)]
pub struct Lease {
    port: u16,
    /// Taken by the drop alone.
    name: Option<OwnedFd>,
    shut: bool,
}

/// Whether nobody leases this port and nobody listens on it.
pub(super) fn is_free(port: u16) -> bool {
    Lease::of(port).is_some()
}

impl Lease {
    /// Takes a free port. `None` where all are taken.
    pub fn take() -> Option<Self> {
        let start = rand::random_range(RANGE);
        let all = (start..RANGE.end).chain(RANGE.start..start);
        all.filter_map(Self::of).next()
    }

    /// Closes those of the ports that are open yet to all but the router and the deploy with this uid, where the host lets it; until their
    /// leases end.
    pub async fn shut(leases: impl Iterator<Item = &mut Self>, uid: u32) {
        let open = leases.filter_map(|lease| (!std::mem::replace(&mut lease.shut, true)).then_some(lease.port));
        guard::shut(&open.collect::<Vec<_>>(), uid).await;
    }

    /// The lease of an instance that was taken over: it listens there, or will. Where somebody took the name in between there is none to
    /// hold; the next lease of that port still finds the listener.
    pub fn again(port: u16) -> Self {
        Self { port, name: Self::name(port), shut: false }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn of(port: u16) -> Option<Self> {
        let name = Self::name(port)?;
        // Whoever else may hold it is found by binding it for a moment on every address, as the app may.
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).ok()?;
        Some(Self { port, name: Some(name), shut: false })
    }

    fn name(port: u16) -> Option<OwnedFd> {
        let name = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).ok()?;
        let address = SocketAddrUnix::new_abstract_name(format!("dozen-port-{port}").as_bytes()).ok()?;
        bind(&name, &address).ok()?;
        Some(name)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.shut {
            guard::open(self.port, self.name.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leased_port_is_not_leased_again_until_it_is_given_back() {
        let first = Lease::take().expect("a free port");
        assert!(RANGE.contains(&first.port()));
        assert!(Lease::of(first.port()).is_none());
        let port = first.port();
        drop(first);
        assert!(Lease::of(port).is_some());
    }

    #[test]
    fn a_port_that_someone_listens_on_is_not_leased() {
        let port = Lease::take().expect("a free port").port();
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("free");
        assert!(Lease::of(port).is_none());
    }
}
