//! TLS at the router: which certificate a client is shown, and the handshake.
//!
//! **Invariant:** the certificates are one immutable store, swapped whole; a connection keeps what it began with.
//! **Invariant:** a name without a certificate gets no other's: the handshake ends.
//! **Invariant:** what resumes a session is shared by all workers, changes every six hours, and is never written down.

use super::certificate::{Secret, covers};
use super::stream::Counted;
use super::wire::{WireCertificate, WireProof};
use bytes::Bytes;
use dozen_core::port::lower;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{Acceptor, NoServerSessionStorage, ProducesTickets, ServerConfig};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

/// The record that ends a handshake because of the name that was asked for: alert, TLS 1.2 on the record, two bytes, fatal,
/// unrecognized_name (RFC 6066, section 3).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
/// What is spoken within, the preferred one first.
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";
/// What an authority speaks that looks whether a name leads here (RFC 8737).
const ACME: &[u8] = b"acme-tls/1";

/// Has the whole process use one library for TLS. Before anything else.
pub fn install() {
    // An error means that it was done before.
    let _ = aws_lc_rs::default_provider().install_default();
}

/// The one library for TLS.
pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())).clone()
}

/// What clients are shown.
#[derive(Default)]
pub(super) struct Store {
    /// By name, lower case; of `*.example.com` what is after the star.
    exact: HashMap<String, Arc<Shown>>,
    wild: HashMap<String, Arc<Shown>>,
    /// For those that name no host.
    fallback: Option<Arc<Shown>>,
    /// What an authority asks for by HTTP, and what it is told.
    tokens: HashMap<String, Bytes>,
    /// What it is shown by TLS, by name.
    alpn: HashMap<String, Arc<ServerConfig>>,
}

/// One certificate, ready to be shown.
pub(super) struct Shown {
    names: Vec<String>,
    config: Arc<ServerConfig>,
}

impl Shown {
    /// Whether it is for this host, as a `Host` header names it.
    pub(super) fn is_for(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        let name = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
        self.names.iter().any(|own| covers(own, name))
    }
}

/// Makes stores. Kept as long as the router lives: what it keys tickets with must outlive a swap.
pub(super) struct Maker {
    tickets: Arc<dyn ProducesTickets>,
}

impl Maker {
    pub(super) fn new() -> Result<Self, rustls::Error> {
        Ok(Self { tickets: aws_lc_rs::Ticketer::new()? })
    }

    /// A store of all that can be shown of these, and what is wrong with the others.
    pub(super) fn make(&self, certificates: Vec<WireCertificate>, proofs: Vec<WireProof>) -> (Store, Vec<String>) {
        let (mut store, mut wrong) = (Store::default(), Vec::new());
        for proof in proofs {
            match proof {
                WireProof::Http { token, answer } => drop(store.tokens.insert(token, answer.into())),
                WireProof::Alpn { host, chain, key } => match self.config(&chain, &key, &[ACME]) {
                    Ok(config) => drop(store.alpn.insert(host, config)),
                    Err(error) => wrong.push(format!("{host}: {error}")),
                },
            }
        }
        for certificate in certificates {
            let (names, fallback) = (certificate.names.clone(), certificate.fallback);
            let config = match self.config(&certificate.chain, &certificate.key, &[HTTP2, HTTP1]) {
                Ok(config) => config,
                Err(error) => {
                    wrong.push(format!("{}: {error}", names.join(", ")));
                    continue;
                }
            };
            let shown = Arc::new(Shown { names, config });
            for name in &shown.names {
                // The first of a name is shown: who sends them knows which is the better one.
                let (place, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut store.wild, parent),
                    None => (&mut store.exact, name.as_str()),
                };
                place.entry(name.to_ascii_lowercase()).or_insert_with(|| shown.clone());
            }
            if fallback && store.fallback.is_none() {
                store.fallback = Some(shown);
            }
        }
        (store, wrong)
    }

    fn config(&self, chain: &str, key: &Secret, protocols: &[&[u8]]) -> Result<Arc<ServerConfig>, rustls::Error> {
        let unreadable = |e| rustls::Error::General(format!("it cannot be read: {e}"));
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
        let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).map_err(unreadable)?;
        let key = CertifiedKey::new(chain, provider().key_provider.load_private_key(key)?);
        // What an authority is shown is known to be of one hand, and says what only it understands: nothing here could read it.
        if protocols != [ACME] {
            key.keys_match()?;
        }
        let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let mut config = config.with_no_client_auth().with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
        // A client keeps its own session, so that every worker and every later store can go on with it.
        config.ticketer = self.tickets.clone();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(config))
    }
}

impl Store {
    /// What an authority is told that asks for this.
    pub(super) fn proof(&self, token: &str) -> Option<Bytes> {
        self.tokens.get(token).cloned()
    }

    /// What a client that asks for this name is shown.
    fn find(&self, name: Option<&str>) -> Option<&Arc<Shown>> {
        let Some(name) = name else { return self.fallback.as_ref() };
        let name = &*lower(name);
        self.exact.get(name).or_else(|| self.wild.get(name.split_once('.')?.1))
    }
}

/// A connection after its handshake.
pub(super) struct Secured {
    pub(super) stream: TlsStream<Counted>,
    /// What it was shown, if it asked for it by name.
    pub(super) shown: Option<Arc<Shown>>,
    /// Whether HTTP/2 is spoken.
    pub(super) http2: bool,
}

/// Why there is no connection.
pub(super) enum Unsecured {
    /// The router has no certificate for this name.
    Unrecognized(String),
    /// The client spoke something else, agreed to nothing, took too long or went away.
    Failed,
}

/// The handshake of one connection, from the first byte that is waited for to the last within `limit`.
pub(super) async fn handshake(store: &watch::Receiver<Arc<Store>>, socket: TcpStream, limit: Duration) -> Result<Secured, Unsecured> {
    tokio::time::timeout(limit, agree(store, socket)).await.unwrap_or(Err(Unsecured::Failed))
}

async fn agree(store: &watch::Receiver<Arc<Store>>, socket: TcpStream) -> Result<Secured, Unsecured> {
    let failed = |_: io::Error| Unsecured::Failed;
    let hello = pin!(LazyConfigAcceptor::new(Acceptor::default(), Counted::new(socket))).await.map_err(failed)?;
    let name = hello.client_hello().server_name().map(str::to_owned);
    let authority = hello.client_hello().alpn().is_some_and(|mut protocols| protocols.next() == Some(ACME));
    if authority {
        let proof = name.and_then(|name| store.borrow().alpn.get(&name.to_ascii_lowercase()).cloned());
        // It has seen what it wanted to see when the handshake is over.
        if let Some(proof) = proof
            && let Ok(mut stream) = hello.into_stream(proof).await
        {
            let _ = stream.shutdown().await;
        }
        return Err(Unsecured::Failed);
    }
    let shown = store.borrow().find(name.as_deref()).cloned();
    let Some(shown) = shown else {
        let mut socket = hello.io.socket;
        // The client may be gone; then nobody needs to know.
        let _ = socket.write_all(&UNRECOGNIZED_NAME).await;
        let _ = socket.shutdown().await;
        return Err(name.map_or(Unsecured::Failed, Unsecured::Unrecognized));
    };
    let stream = hello.into_stream(shown.config.clone()).await.map_err(failed)?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
    Ok(Secured { stream, shown: name.map(|_| shown), http2 })
}
