//! A certificate and its key, as they are kept and handed on: read, checked, and told what they are for.

use dozen_core::port::Domain;
use jiff::Timestamp;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

/// A key as PEM. Never shown.
#[derive(Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(from = "String", into = "String")]
pub struct Secret(Arc<Zeroizing<String>>);

impl From<String> for Secret {
    fn from(pem: String) -> Self {
        Self::new(pem)
    }
}

impl From<Secret> for String {
    fn from(secret: Secret) -> Self {
        secret.expose().to_owned()
    }
}

impl Secret {
    /// Keeps it from being shown.
    pub fn new(pem: String) -> Self {
        Self(Arc::new(Zeroizing::new(pem)))
    }
    /// For whoever signs with it or seals it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A chain of certificates with its key, which fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The names that it is for, in lower case: `shop.example.com`, `*.example.com`, `127.0.0.1`.
    pub names: Vec<String>,
    /// Who issued it, for people.
    pub issuer: String,
    /// From when it is valid.
    pub not_before: Timestamp,
    /// To when.
    pub not_after: Timestamp,
    /// PEM, the server's own first.
    pub chain: String,
    /// PEM.
    pub key: Secret,
    /// Whether a client that names no host is shown it.
    pub fallback: bool,
}

/// All that a router is to speak TLS with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Supply {
    /// What it shows, the preferred one of a name first.
    pub certificates: Vec<Certificate>,
    /// By what an authority sees that a name leads here, while it looks.
    pub proofs: Vec<Proof>,
}

/// By what an authority sees that a name leads here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// HTTP-01 (RFC 8555, 8.3): asked for this below `/.well-known/acme-challenge/`, the answer is that.
    Http {
        /// What is asked for.
        token: String,
        /// What is answered.
        answer: String,
    },
    /// TLS-ALPN-01 (RFC 8737): who speaks `acme-tls/1` is shown this.
    Alpn {
        /// The name that is asked for.
        host: String,
        /// PEM, of one certificate that holds what is proven.
        chain: String,
        /// PEM.
        key: Secret,
    },
}

/// Why a certificate is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// There is none in the text.
    #[error("there is no certificate in it; it is to begin with `-----BEGIN CERTIFICATE-----`")]
    None,
    /// The PEM is damaged.
    #[error("the certificates cannot be read: {0}")]
    Chain(rustls::pki_types::pem::Error),
    /// One of the chain is no certificate.
    #[error("certificate {position} of the chain is damaged: {reason}")]
    Damaged {
        /// Counted from 1.
        position: usize,
        /// What its parser says.
        reason: String,
    },
    /// The chain is in the wrong order, or has what does not belong to it.
    #[error(
        "certificate {position} of the chain was not issued by the next one ({next}); the server's own comes first, then who issued it, and so on"
    )]
    Order {
        /// Counted from 1.
        position: usize,
        /// The next one's subject.
        next: String,
    },
    /// The key is damaged, encrypted or of a kind that is not supported.
    #[error("the key cannot be used: {0}; it is to be PEM, not encrypted, RSA, ECDSA or Ed25519")]
    Key(String),
    /// It is another one's key.
    #[error("the key is not the one of this certificate")]
    Mismatch,
    /// It is for no host.
    #[error("the certificate names no host (its subjectAltName is empty)")]
    Nameless,
    /// It is a certification authority's own.
    #[error("the first certificate is an authority's; the server's own comes first")]
    Authority,
    /// It is over.
    #[error("the certificate expired on {0}; get a new one from who issued it")]
    Expired(Timestamp),
}

impl Certificate {
    /// Reads and checks what a person or an authority gives.
    ///
    /// # Errors
    /// It could not be shown to anybody: see [`CertificateError`].
    pub fn read(chain: &str, key: &str, now: Timestamp) -> Result<Self, CertificateError> {
        let ders = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(CertificateError::Chain)?;
        let mut parsed = Vec::new();
        for (index, der) in ders.iter().enumerate() {
            let damaged = |reason: String| CertificateError::Damaged { position: index + 1, reason };
            let (rest, certificate) = X509Certificate::from_der(der).map_err(|e| damaged(e.to_string()))?;
            if !rest.is_empty() {
                return Err(damaged("something follows it".to_owned()));
            }
            parsed.push(certificate);
        }
        let Some(own) = parsed.first() else { return Err(CertificateError::None) };
        if own.is_ca() && parsed.len() > 1 {
            return Err(CertificateError::Authority);
        }
        for (index, pair) in parsed.windows(2).enumerate() {
            if pair[0].issuer() != pair[1].subject() {
                return Err(CertificateError::Order { position: index + 1, next: pair[1].subject().to_string() });
            }
        }
        let names = names(own);
        if names.is_empty() {
            return Err(CertificateError::Nameless);
        }
        let time = |t: x509_parser::time::ASN1Time| Timestamp::from_second(t.timestamp()).unwrap_or(Timestamp::MAX);
        let (not_before, not_after) = (time(own.validity().not_before), time(own.validity().not_after));
        if not_after <= now {
            return Err(CertificateError::Expired(not_after));
        }
        let issuer = own.issuer().iter_common_name().next().and_then(|name| name.as_str().ok()).map(str::to_owned);
        let issuer = issuer.unwrap_or_else(|| own.issuer().to_string());
        let private = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| CertificateError::Key(e.to_string()))?;
        let signs = super::tls::provider().key_provider.load_private_key(private).map_err(|e| CertificateError::Key(e.to_string()))?;
        CertifiedKey::new(ders.clone(), signs).keys_match().map_err(|_| CertificateError::Mismatch)?;
        // As it will be sent, without the remarks that tools write between.
        let chain = ders.iter().map(|der| pem(der)).collect();
        Ok(Self { names, issuer, not_before, not_after, chain, key: Secret::new(key.to_owned()), fallback: false })
    }

    /// Whether it is for a domain. One with `*.` needs a certificate with the same.
    pub fn is_for(&self, domain: &Domain) -> bool {
        let host = domain.host().trim_matches(['[', ']']);
        self.names.iter().any(|name| name == host || !domain.is_wildcard() && covers(name, host))
    }
}

/// Whether a name of a certificate is for a host: it is the same, or has `*` in place of the first label.
pub(super) fn covers(name: &str, host: &str) -> bool {
    let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
    match name.strip_prefix("*.") {
        Some(parent) => host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && same(rest, parent)),
        None => same(name, host),
    }
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let mut names = Vec::new();
    for name in alternative.iter().flat_map(|a| &a.value.general_names) {
        let name = match name {
            GeneralName::DNSName(name) => name.to_ascii_lowercase(),
            GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
                (Ok(four), _) => IpAddr::from(four).to_string(),
                (_, Ok(six)) => IpAddr::from(six).to_string(),
                _ => continue,
            },
            _ => continue,
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// A certificate in its text form.
pub(super) fn pem(der: &[u8]) -> String {
    let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("CERTIFICATE", der), lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    fn key() -> KeyPair {
        KeyPair::generate().expect("a key")
    }

    fn params(names: &[&str], subject: &str) -> CertificateParams {
        let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).expect("names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, subject);
        params
    }

    #[test]
    fn what_a_person_gives_is_read_or_refused_with_its_reason() {
        let now = Timestamp::now();
        let (root, own, other) = (key(), key(), key());
        let mut authority = params(&[], "authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let above = authority.self_signed(&root).expect("signed").pem();
        let issuer = Issuer::new(authority, root);
        let leaf = |params: CertificateParams| params.signed_by(&own, &issuer).expect("signed").pem();
        let good = leaf(params(&["Shop.Example.com", "*.shop.example.com", "192.0.2.1"], "shop"));
        let chain = format!("some remark\n{good}{above}");
        let read = Certificate::read(&chain, &own.serialize_pem(), now).expect("good");
        assert_eq!(read.names, ["shop.example.com", "*.shop.example.com", "192.0.2.1"]);
        assert_eq!(read.issuer, "authority");
        assert_eq!(read.chain.matches("BEGIN CERTIFICATE").count(), 2);
        assert!(!read.chain.contains("remark") && !format!("{read:?}").contains("PRIVATE"));
        assert_eq!(Certificate::read(&read.chain, read.key.expose(), now).expect("again"), read);

        let refused = |chain: &str, key: &KeyPair| Certificate::read(chain, &key.serialize_pem(), now).expect_err("refused");
        assert!(matches!(refused(&chain, &other), CertificateError::Mismatch));
        assert!(matches!(refused("nothing", &own), CertificateError::None));
        assert!(matches!(refused(&format!("{above}{good}"), &own), CertificateError::Authority));
        assert!(matches!(refused(&format!("{good}{good}"), &own), CertificateError::Order { position: 1, .. }));
        assert!(matches!(refused(&leaf(params(&[], "nobody")), &own), CertificateError::Nameless));
        assert!(matches!(refused(&good.replacen("MII", "MIJ", 1), &own), CertificateError::Damaged { position: 1, .. }));
        let mut past = params(&["shop.example.com"], "past");
        past.not_after = rcgen::date_time_ymd(2020, 1, 1);
        assert!(matches!(refused(&leaf(past), &own), CertificateError::Expired(_)));
        assert!(matches!(Certificate::read(&good, "nothing", now), Err(CertificateError::Key(_))));
    }

    #[test]
    fn a_name_of_a_certificate_is_for_one_host_or_one_label_below() {
        for (name, host, is) in [
            ("a.test", "A.Test", true),
            ("a.test", "b.a.test", false),
            ("*.a.test", "b.a.test", true),
            ("*.a.test", "a.test", false),
            ("*.a.test", "c.b.a.test", false),
            ("*.a.test", ".a.test", false),
            ("127.0.0.1", "127.0.0.1", true),
        ] {
            assert_eq!(covers(name, host), is, "{name} {host}");
        }
        let now = Timestamp::now();
        let own = key();
        let chain = params(&["*.a.test", "a.test", "::1"], "x").self_signed(&own).expect("signed").pem();
        let certificate = Certificate::read(&chain, &own.serialize_pem(), now).expect("good");
        let is_for = |domain: &str| certificate.is_for(&domain.parse().expect("a domain"));
        assert!(is_for("a.test") && is_for("b.a.test/api") && is_for("*.a.test") && is_for("[::1]"));
        assert!(!is_for("*.b.a.test") && !is_for("test") && !is_for("c.b.a.test"));
    }
}
