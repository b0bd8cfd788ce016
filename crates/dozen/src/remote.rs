//! A server elsewhere: where its API answers, how it is known, and what one shows it.
//!
//! **Invariant:** a token goes to the server that it was given for and to no other, and is printed nowhere.

use crate::api::token;
use crate::client::Told;
use anyhow::{Context, Result, bail};
use dozen_core::ids::DeployRef;
use http::HeaderValue;
use rustix::net::sockopt;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use url::{Host, Url};

mod choice;
pub(crate) mod logins;

pub(crate) use choice::{Said, choose};

/// For each address, and for TLS after that.
const REACHED: Duration = Duration::from_secs(10);
/// A peer that has gone without a word is noticed after so much silence, and a few tries.
const SILENT: Duration = Duration::from_secs(30);

/// Where a server's API answers: a scheme, a host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerUrl(Url);

impl FromStr for ServerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = "give the server's URL: https://dozen.example.com, http://dozen.localhost:8000";
        let url: Url = text.parse().map_err(|_| wanted.to_owned())?;
        let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() || !plain || url.path() != "/" {
            return Err(wanted.to_owned());
        }
        Ok(Self(url))
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.origin().ascii_serialization())
    }
}

impl ServerUrl {
    /// As a request's `Host`.
    pub(crate) fn authority(&self) -> &str {
        self.0.authority()
    }

    /// Whether what is said there can be read on its way.
    pub(crate) fn is_open(&self) -> bool {
        let local = match self.0.host() {
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            Some(Host::Domain(name)) => is_here(name),
            None => false,
        };
        self.0.scheme() == "http" && !local
    }

    fn is_origin_of(&self, url: &Url) -> bool {
        self.0.origin() == url.origin()
    }
}

/// Names below `.localhost` are this machine's own (RFC 6761, section 6.3), whatever DNS says.
fn is_here(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name == "localhost" || name.ends_with(".localhost")
}

/// A server, and what is shown to it.
#[derive(Clone)]
pub(crate) struct Remote {
    /// Where.
    pub(crate) url: ServerUrl,
    /// What each request shows.
    pub(crate) token: HeaderValue,
    /// By whose certificates, PEM, it may be known beside the machine's own.
    pub(crate) authority: Option<String>,
    /// The deploy that the current folder is pushed to.
    pub(crate) deploy: Option<DeployRef>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("url", &self.url.to_string()).field("deploy", &self.deploy).finish_non_exhaustive()
    }
}

/// A connection to a server.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Wire for S {}

impl Remote {
    /// A server with the text of a token for it.
    ///
    /// # Errors
    /// The text is no token.
    pub(crate) fn new(url: ServerUrl, text: &str, authority: Option<String>) -> Result<Self> {
        let token = token::shown(text).filter(|_| !text.trim().is_empty());
        let Some(token) = token else { bail!(Told::failed(format!("what is given for {url} is no token"), None)) };
        Ok(Self { url, token, authority, deploy: None })
    }

    /// Connects, within a time.
    pub(crate) async fn connect(&self) -> Result<Box<dyn Wire>> {
        let stream = self.reach().await.map_err(|why| unreachable(&self.url, &why))?;
        // Where the kernel will not, a peer that is gone is noticed later.
        let _ = stream.set_nodelay(true);
        let _ = sockopt::set_socket_keepalive(&stream, true);
        let _ = sockopt::set_tcp_keepidle(&stream, SILENT);
        let _ = sockopt::set_tcp_keepintvl(&stream, SILENT / 3);
        if self.url.0.scheme() == "http" {
            return Ok(Box::new(stream));
        }
        let name = match self.url.0.host() {
            Some(Host::Domain(name)) => ServerName::try_from(name.to_owned()).context("the server's name is none for TLS")?,
            Some(Host::Ipv4(ip)) => ServerName::from(IpAddr::V4(ip)),
            Some(Host::Ipv6(ip)) => ServerName::from(IpAddr::V6(ip)),
            None => bail!("the server's URL has no host"),
        };
        let roots = roots(self.authority.as_deref())?;
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        // What a request turns its connection into is known to HTTP/1.1 alone.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        match timeout(REACHED, TlsConnector::from(Arc::new(config)).connect(name, stream)).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(e)) => {
                let hint =
                    "One of an authority of your own: `--ca FILE` or DOZEN_CA names its certificate; `dozen certs ca` writes dozen's own.";
                Err(Told::failed(format!("cannot trust {}: {e}", self.url), Some(hint.to_owned())).into())
            }
            Err(_) => Err(unreachable(&self.url, "it does not speak TLS").into()),
        }
    }

    async fn reach(&self) -> Result<TcpStream, String> {
        let port = self.url.0.port_or_known_default().ok_or("it has no port")?;
        let addresses: Vec<SocketAddr> = match self.url.0.host().ok_or("it has no host")? {
            Host::Ipv4(ip) => vec![(ip, port).into()],
            Host::Ipv6(ip) => vec![(ip, port).into()],
            Host::Domain(name) if is_here(name) => vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()],
            Host::Domain(name) => match timeout(REACHED, tokio::net::lookup_host((name, port))).await {
                Ok(found) => found.map_err(|e| format!("its name is not found ({e})"))?.collect(),
                Err(_) => return Err(format!("its name is not found within {} s", REACHED.as_secs())),
            },
        };
        let mut why = "its name has no address".to_owned();
        for address in addresses {
            match timeout(REACHED, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(e)) => why = format!("{address}: {e}"),
                Err(_) => why = format!("{address} does not answer within {} s", REACHED.as_secs()),
            }
        }
        Err(why)
    }
}

fn unreachable(url: &ServerUrl, why: &str) -> Told {
    let hint = "Does `dozen server` run there? `--server local` asks this machine's own dozen.".to_owned();
    Told::failed(format!("cannot reach {url}: {why}"), Some(hint))
}

/// The machine's authorities, and one's own beside them.
fn roots(own: Option<&str>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    // A machine without any may still know its own.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for certificate in own.into_iter().flat_map(|pem| CertificateDer::pem_slice_iter(pem.as_bytes())) {
        roots.add(certificate.context("the authority's certificate is not PEM")?).context("the authority's certificate cannot be used")?;
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_scheme_a_host_and_a_port() {
        let read = |text: &str| text.parse::<ServerUrl>().map(|url| url.to_string()).ok();
        for (text, is) in [
            ("http://dozen.localhost:8000/", "http://dozen.localhost:8000"),
            ("HTTPS://Dozen.Example.com:443", "https://dozen.example.com"),
            ("https://[::1]:8443", "https://[::1]:8443"),
        ] {
            assert_eq!(read(text).as_deref(), Some(is));
        }
        for text in ["dozen.example.com", "ssh://x", "https://a/b", "https://u@a", "https://a?b", "file:///x", "dozen.localhost:8000", ""] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn what_goes_over_a_network_as_it_is_is_known() {
        let open = |text: &str| text.parse::<ServerUrl>().expect("a URL").is_open();
        assert!(open("http://dozen.example.com") && open("http://192.0.2.1:8000") && open("http://notlocalhost"));
        for text in ["https://dozen.example.com", "http://dozen.localhost:8000", "http://localhost", "http://127.0.0.1:1", "http://[::1]:1"]
        {
            assert!(!open(text), "{text}");
        }
    }

    #[test]
    fn a_token_is_not_told() {
        let url: ServerUrl = "https://a.test".parse().expect("a URL");
        let remote = Remote::new(url.clone(), "dozen_0123\n", None).expect("a token");
        assert!(!format!("{remote:?} {:?}", remote.token).contains("0123"));
        assert_eq!(remote.token, "Bearer dozen_0123");
        for text in ["", " \n", "a\nb"] {
            assert!(Remote::new(url.clone(), text, None).is_err());
        }
    }
}
