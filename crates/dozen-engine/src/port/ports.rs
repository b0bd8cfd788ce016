//! Which public ports are asked for, and what comes of it where a router has some already.

use super::{Door, Listeners, PortError, bind_on, named};
use std::io;
use std::net::{IpAddr, TcpListener};

/// The ports that were asked for; 0 is any. `None` takes what is there: for HTTP the next free one, for HTTPS none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ports {
    /// Of this address; `None` is this machine only, 127.0.0.1 and ::1.
    pub address: Option<IpAddr>,
    /// Of plain HTTP.
    pub http: Option<u16>,
    /// Of HTTPS.
    pub https: Option<u16>,
}

/// Those of them that were bound while a router that does not have them served on.
#[derive(Debug, Default)]
pub struct Ahead {
    plain: Option<Door>,
    tls: Option<Door>,
}

impl Ahead {
    /// Sockets that were bound before this process began: they listen already.
    ///
    /// # Errors
    /// One of them is no socket that listens for TCP.
    pub fn given(plain: Vec<TcpListener>, tls: Vec<TcpListener>) -> io::Result<Self> {
        for socket in plain.iter().chain(&tls) {
            socket.local_addr()?;
            if !rustix::net::sockopt::socket_acceptconn(socket)? {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen"));
            }
            socket.set_nonblocking(true)?;
        }
        Ok(Self { plain: Door::of(plain), tls: Door::of(tls) })
    }

    /// The ports that they have.
    pub fn ports(&self) -> (Option<u16>, Option<u16>) {
        (self.plain.as_ref().map(|door| door.port), self.tls.as_ref().map(|door| door.port))
    }
}

fn fits(asked: Option<u16>, has: Option<u16>) -> bool {
    asked.is_none_or(|asked| has.is_some_and(|has| asked == 0 || asked == has))
}

impl Ports {
    /// Whether a router on these has what was asked for.
    pub fn are(self, http: u16, https: Option<u16>) -> bool {
        fits(self.http, Some(http)) && fits(self.https, https)
    }

    /// Binds those that a router on these ports does not have.
    ///
    /// # Errors
    /// As [`bind`].
    pub fn ahead(self, http: u16, https: Option<u16>) -> Result<Ahead, PortError> {
        let missing = |asked: Option<u16>, has| asked.filter(|_| !fits(asked, has)).map(|port| named(self.address, port)).transpose();
        Ok(Ahead { plain: missing(self.http, Some(http))?, tls: missing(self.https, https)? })
    }

    /// Listeners for the successor of a router that runs: copies of what it keeps, on which connections wait until then.
    ///
    /// # Errors
    /// As [`bind`].
    pub fn beside(self, ahead: Ahead, running: &Listeners) -> Result<Listeners, PortError> {
        let copy = running.copied().map_err(|source| PortError::Bind { port: running.port(), source })?;
        let Ahead { plain, tls } = match (ahead.plain, ahead.tls) {
            (None, None) => self.ahead(running.port(), running.https_port())?,
            (plain, tls) => Ahead { plain, tls },
        };
        Ok(Listeners { plain: plain.unwrap_or(copy.plain), tls: tls.or(copy.tls) })
    }

    /// Listeners where no router runs; what was not asked for is what the `last` one had, if that is free.
    ///
    /// # Errors
    /// As [`bind`].
    pub fn bind(self, ahead: Ahead, last: Option<(u16, Option<u16>)>) -> Result<Listeners, PortError> {
        let again = |asked: Option<u16>, last: Option<u16>| {
            last.filter(|_| asked.is_none_or(|port| port == 0)).and_then(|port| named(self.address, port).ok())
        };
        let (http, https) = last.map_or((None, None), |(http, https)| (Some(http), https));
        let plain = match ahead.plain.or_else(|| again(self.http, http)) {
            Some(door) => door,
            None => bind_on(self.address, self.http)?.plain,
        };
        let tls = match ahead.tls.or_else(|| again(self.https, https)) {
            Some(door) => Some(door),
            // One that had HTTPS has it again, on another port if need be.
            None => self.https.or(https.map(|_| 0)).map(|port| named(self.address, port)).transpose()?,
        };
        Ok(Listeners { plain, tls })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_there_or_is_not() {
        let ports = |http, https| Ports { http, https, address: None };
        for (asked, fits) in [
            (ports(None, None), true),
            (ports(Some(0), Some(0)), true),
            (ports(Some(80), Some(443)), true),
            (ports(Some(81), None), false),
            (ports(None, Some(444)), false),
        ] {
            assert_eq!(asked.are(80, Some(443)), fits, "{asked:?}");
        }
        assert!(ports(None, None).are(80, None) && !ports(None, Some(0)).are(80, None));
    }

    #[test]
    fn a_successor_keeps_the_ports_that_stay() {
        let any = Ports { http: Some(0), ..Ports::default() };
        let running = any.bind(Ahead::default(), None).expect("free");
        assert_eq!(running.https_port(), None);
        let more = Ports { https: Some(0), ..Ports::default() };
        let ahead = more.ahead(running.port(), running.https_port()).expect("free");
        let next = more.beside(ahead, &running).expect("copied");
        assert_eq!(next.port(), running.port());
        let last = (next.port(), next.https_port());
        drop((running, next));
        let again = Ports::default().bind(Ahead::default(), Some(last)).expect("free again");
        assert_eq!((again.port(), again.https_port()), last);
    }
}
