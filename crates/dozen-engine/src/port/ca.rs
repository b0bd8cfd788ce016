//! A certification authority of this home's own, for names that no other one certifies: `shop.localhost`, `shop.test`, loopback addresses.
//!
//! It is made when it is first needed. Whoever adds its certificate to what a browser trusts trusts it for such names only: its certificate
//! says so, and everything that checks certificates holds it to that.
//!
//! **Invariant:** its key is a file of mode 0600 in the home; it is used by the control plane, and no router sees it.

use super::certificate::{Certificate, CertificateError, Secret, pem};
use crate::home::Home;
use crate::ledger::{LedgerError, door};
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, NameConstraints, SerialNumber,
};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

/// The names that it may certify, and all below them: none of them is anybody's on the Internet (RFC 6761, RFC 6762, RFC 8375).
const NAMES: [&str; 7] = ["localhost", "local", "test", "internal", "example", "lan", "home.arpa"];
/// The addresses: loopback, and those that every network has for itself (RFC 1918, RFC 4193).
const ADDRESSES: [([u8; 4], u8); 4] = [([127, 0, 0, 0], 8), ([10, 0, 0, 0], 8), ([172, 16, 0, 0], 12), ([192, 168, 0, 0], 16)];
const DAY: Duration = Duration::from_secs(86_400);
/// A certificate that it gives lasts this long, and it itself.
const LEAF: u32 = 90;
const ROOT: u32 = 3_650;

/// The authority, able to sign.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    chain: String,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// A file could not be read or written.
    #[error("cannot use the local certification authority's {}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// One of the two files is not there.
    #[error("the local certification authority's {} is missing; put it back, or remove {} to have another made, and trust that one", .path.display(), .folder.display())]
    Missing {
        /// Which.
        path: PathBuf,
        /// Where both are.
        folder: PathBuf,
    },
    /// A file holds something else.
    #[error("the local certification authority in {} is damaged: {reason}; remove that folder to have another made, and trust that one", .folder.display())]
    Damaged {
        /// Where both are.
        folder: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The home is not to be had.
    #[error(transparent)]
    Home(#[from] LedgerError),
    /// A certificate could not be made.
    #[error("the local certification authority cannot certify {names}: {reason}")]
    Issue {
        /// For what.
        names: String,
        /// Why not.
        reason: String,
    },
}

/// Where its certificate is.
pub fn certificate_file(home: &Home) -> PathBuf {
    home.ca().join("root.pem")
}

/// Whether it may certify this name.
pub fn may_certify(name: &str) -> bool {
    if let Ok(address) = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>() {
        return match address {
            std::net::IpAddr::V4(four) => four.is_loopback() || four.is_private(),
            std::net::IpAddr::V6(six) => six.is_loopback() || six.is_unique_local(),
        };
    }
    NAMES.iter().any(|own| name.strip_suffix(own).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

impl Authority {
    /// The one of this home, made where there is none.
    ///
    /// # Errors
    /// Its files cannot be made, or are not what they should be.
    pub fn open(home: &Home) -> Result<Self, AuthorityError> {
        // Two that come first at once make one.
        let _door = door(home)?;
        let folder = home.ca();
        let (root, key) = (certificate_file(home), folder.join("root.key"));
        match (root.exists(), key.exists()) {
            (true, true) => {}
            (true, false) => return Err(AuthorityError::Missing { path: key, folder }),
            // A key alone is what an interrupted first time leaves.
            (false, _) => make(&folder, &root, &key)?,
        }
        let read = |path: &Path| fs::read_to_string(path).map_err(|source| AuthorityError::File { path: path.to_owned(), source });
        let (chain, secret) = (read(&root)?, Zeroizing::new(read(&key)?));
        let damaged = |e: &dyn std::fmt::Display| AuthorityError::Damaged { folder: folder.clone(), reason: e.to_string() };
        let pair = KeyPair::from_pem(&secret).map_err(|e| damaged(&e))?;
        let issuer = Issuer::from_ca_cert_pem(&chain, pair).map_err(|e| damaged(&e))?;
        Ok(Self { issuer, chain })
    }

    /// A certificate for these names, each of which it may certify.
    ///
    /// # Errors
    /// One of them is no name.
    pub fn issue(&self, names: &[String], now: Timestamp) -> Result<Certificate, AuthorityError> {
        let failed = |reason: String| AuthorityError::Issue { names: names.join(", "), reason };
        let bare: Vec<String> = names.iter().map(|name| name.trim_matches(['[', ']']).to_owned()).collect();
        let mut params = CertificateParams::new(bare).map_err(|e| failed(e.to_string()))?;
        params.distinguished_name = named("dozen development certificate");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        last(&mut params, now, LEAF);
        let pair = KeyPair::generate().map_err(|e| failed(e.to_string()))?;
        let own = params.signed_by(&pair, &self.issuer).map_err(|e| failed(e.to_string()))?;
        let chain = format!("{}{}", pem(own.der()), self.chain);
        let key = Zeroizing::new(pair.serialize_pem());
        Certificate::read(&chain, &key, now).map_err(|e: CertificateError| failed(e.to_string()))
    }
}

/// Writes the certificate last: it is there only where its key is.
fn make(folder: &Path, root: &Path, key: &Path) -> Result<(), AuthorityError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| AuthorityError::File { path, source }
    };
    let unmade = |e: rcgen::Error| AuthorityError::Issue { names: "itself".to_owned(), reason: e.to_string() };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed(folder))?;
    let mut params = CertificateParams::default();
    // Two of several homes or machines are told apart in a browser's list.
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    params.distinguished_name = named(&format!("dozen local CA {:08x} ({host})", rand::random::<u32>()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let names = NAMES.iter().map(|name| GeneralSubtree::DnsName((*name).to_owned()));
    let four = ADDRESSES.iter().map(|(address, prefix)| GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix(*address, *prefix)));
    let six = [("::1", 128), ("fc00::", 7)].map(|(address, prefix): (&str, u8)| {
        let address: std::net::Ipv6Addr = address.parse().expect("a literal address is one");
        GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix(address.octets(), prefix))
    });
    params.name_constraints =
        Some(NameConstraints { permitted_subtrees: names.chain(four).chain(six).collect(), excluded_subtrees: vec![] });
    last(&mut params, Timestamp::now(), ROOT);
    let pair = KeyPair::generate().map_err(unmade)?;
    let own = params.self_signed(&pair).map_err(unmade)?;
    let secret = Secret::new(pair.serialize_pem());
    write(key, secret.expose(), 0o600).map_err(failed(key))?;
    write(root, &pem(own.der()), 0o644).map_err(failed(root))
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let draft = path.with_extension(format!("{:08x}", rand::random::<u32>()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        // What is left of it is half of a key at most, and nobody else's.
        let _ = fs::remove_file(&draft);
    }
    written
}

fn named(name: &str) -> DistinguishedName {
    let mut all = DistinguishedName::new();
    all.push(DnType::CommonName, name);
    all.push(DnType::OrganizationName, "dozen");
    all
}

/// From a day ago, since clocks differ; and a number that it never gives twice, which browsers insist on.
fn last(params: &mut CertificateParams, now: Timestamp, days: u32) {
    let second = u64::try_from(now.as_second()).unwrap_or_default();
    let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(second);
    (params.not_before, params.not_after) = (now - DAY, now + DAY * days);
    let mut number: [u8; 16] = rand::random();
    number[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&number));
}

/// So long before its end a certificate is replaced by another.
pub fn renewal(certificate: &Certificate) -> Timestamp {
    let life = certificate.not_after.duration_since(certificate.not_before);
    certificate.not_after.saturating_sub(SignedDuration::from_secs(life.as_secs() / 3)).unwrap_or(certificate.not_after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn home() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::at(folder.path());
        home.make().expect("made");
        (folder, home)
    }

    #[test]
    fn it_is_made_once_and_its_key_is_its_owners() {
        let (_folder, home) = home();
        let first = Authority::open(&home).expect("made").chain;
        assert_eq!(Authority::open(&home).expect("opened").chain, first);
        let mode = fs::metadata(home.ca().join("root.key")).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        fs::remove_file(home.ca().join("root.key")).expect("removed");
        assert!(matches!(Authority::open(&home), Err(AuthorityError::Missing { .. })));
    }

    #[test]
    fn what_it_gives_is_for_these_names_and_lasts() {
        let (_folder, home) = home();
        let now = Timestamp::now();
        let names = ["shop.localhost".to_owned(), "127.0.0.1".to_owned(), "[::1]".to_owned()];
        let certificate = Authority::open(&home).expect("made").issue(&names, now).expect("issued");
        assert_eq!(certificate.names, ["shop.localhost", "127.0.0.1", "::1"]);
        assert!(certificate.issuer.starts_with("dozen local CA"), "{}", certificate.issuer);
        let days = renewal(&certificate).duration_since(now).as_secs() / 86_400;
        assert!((58..=60).contains(&days), "{days}");
        assert!(certificate.not_before < now);
    }

    #[test]
    fn it_certifies_what_is_nobodys_on_the_internet() {
        for own in ["localhost", "shop.localhost", "a.b.test", "*.shop.test", "127.0.0.1", "[::1]", "192.168.1.7", "nas.home.arpa"] {
            assert!(may_certify(own), "{own}");
        }
        for others in ["example.com", "notlocalhost", "test.com", "8.8.8.8", "2001:db8::1", "home", ""] {
            assert!(!may_certify(others), "{others}");
        }
    }
}
