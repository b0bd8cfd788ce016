//! III. Store config in the environment.
//! The vault: config is sealed before it reaches the disk and opened only to make a process environment or to answer its owner.
//!
//! **Invariant:** the key is a file of mode 0600 that never leaves the home; what it sealed for one deploy and version opens for no other.

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use dozen_core::config::{Config, Origin, Var};
use dozen_core::ids::DeployRef;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Seals and opens configs.
pub struct Vault {
    cipher: XChaCha20Poly1305,
}

/// Why config could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// Reading or making the key file.
    #[error("cannot use the key file {path}")]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Sealed config is there and its key is not.
    #[error("the key file {0} is missing, and the ledger holds config that it sealed; put it back from a backup")]
    Missing(PathBuf),
    /// The key file has a foreign shape.
    #[error("the key file {0} does not hold 64 hexadecimal digits; put it back from a backup")]
    Malformed(PathBuf),
    /// Others can read the key.
    #[error("the key file {path} has mode {mode:o}; others must not read it: `chmod 600` it")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The credentials of an account do not open.
    #[error("the account at {directory} does not open with the key of this home; was the key file replaced?")]
    Account {
        /// Where it is.
        directory: String,
    },
    /// A certificate's key does not open.
    #[error("the key of certificate {id} of {deploy} does not open with the key of this home; was the key file replaced?")]
    Certificate {
        /// Whose.
        deploy: String,
        /// Which.
        id: i64,
    },
    /// The sealed bytes do not open.
    #[error("the config of {deploy} at version {version} does not open with the key of this home; was the key file replaced?")]
    Sealed {
        /// Whose.
        deploy: String,
        /// Which.
        version: u32,
    },
}

#[derive(Serialize, Deserialize)]
struct SealedVar {
    value: String,
    origin: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    plain: bool,
}

const NONCE: usize = 24;

impl Vault {
    /// Opens the key file, or makes it where `fresh` says that nothing was sealed yet.
    pub fn open(path: &Path, fresh: bool) -> Result<Self, VaultError> {
        let failed = |source| VaultError::Key { path: path.to_owned(), source };
        if !path.exists() {
            if !fresh {
                return Err(VaultError::Missing(path.to_owned()));
            }
            make_key(path).map_err(failed)?;
        }
        let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(VaultError::Exposed { path: path.to_owned(), mode });
        }
        let text = Zeroizing::new(std::fs::read_to_string(path).map_err(failed)?);
        let key = Zeroizing::new(decode_hex(text.trim()).ok_or_else(|| VaultError::Malformed(path.to_owned()))?);
        Ok(Self { cipher: XChaCha20Poly1305::new((&*key).into()) })
    }

    /// Seals a config for a deploy and version.
    pub fn seal(&self, deploy: &DeployRef, version: u32, config: &Config) -> Vec<u8> {
        let vars: BTreeMap<&str, SealedVar> = config
            .vars
            .iter()
            .map(|(k, v)| (k.as_str(), SealedVar { value: v.value.clone(), origin: v.origin.as_str().to_owned(), plain: v.plain }))
            .collect();
        let plain = Zeroizing::new(serde_json::to_vec(&vars).expect("a map of strings is JSON"));
        self.seal_secret(&aad(deploy, version), &plain)
    }

    /// Seals what is a secret as a whole; `place` says what it is of, and is told again to open it.
    pub(crate) fn seal_secret(&self, place: &str, secret: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE] = rand::random();
        let payload = Payload { msg: secret, aad: place.as_bytes() };
        let sealed = self.cipher.encrypt(&XNonce::from(nonce), payload).expect("what fits into memory is within the cipher's limit");
        [nonce.as_slice(), &sealed].concat()
    }

    /// Opens what [`Vault::seal_secret`] made for the same place. `None` where it does not open.
    pub(crate) fn open_secret(&self, place: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, body) = sealed.split_first_chunk::<NONCE>()?;
        let payload = Payload { msg: body, aad: place.as_bytes() };
        self.cipher.decrypt(&XNonce::from(*nonce), payload).ok().map(Zeroizing::new)
    }

    /// Opens what [`Vault::seal`] made for the same deploy and version.
    pub fn unseal(&self, deploy: &DeployRef, version: u32, sealed: &[u8]) -> Result<Config, VaultError> {
        let failed = || VaultError::Sealed { deploy: deploy.to_string(), version };
        let plain = self.open_secret(&aad(deploy, version), sealed).ok_or_else(failed)?;
        let vars: BTreeMap<String, SealedVar> = serde_json::from_slice(&plain).map_err(|_| failed())?;
        let var = |v: SealedVar| Some(Var { value: v.value, origin: Origin::parse(&v.origin)?, plain: v.plain });
        let vars = vars.into_iter().map(|(k, v)| Some((k, var(v)?))).collect::<Option<_>>().ok_or_else(failed)?;
        Ok(Config { vars })
    }
}

/// What binds a sealed config to its place, so that a row copied elsewhere in the ledger does not open.
fn aad(deploy: &DeployRef, version: u32) -> String {
    format!("dozen config {deploy} {version}")
}

/// Makes the key beside its place and links it there, so that two first starts agree on one key and none sees half of one.
fn make_key(path: &Path) -> std::io::Result<()> {
    let key: Zeroizing<[u8; 32]> = Zeroizing::new(rand::random());
    let hex = Zeroizing::new(key.iter().map(|b| format!("{b:02x}")).collect::<String>());
    let draft = path.with_extension(format!("{}.{:08x}", std::process::id(), rand::random::<u32>()));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    let made = file.write_all(hex.as_bytes()).and_then(|()| file.sync_all());
    let linked = made.and_then(|()| match std::fs::hard_link(&draft, path) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    std::fs::remove_file(&draft)?;
    linked
}

fn decode_hex(text: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (i, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let mut c = Config::default();
        c.set("SECRET", Var { value: "hunter2-hunter2".into(), origin: Origin::Set, plain: false }).expect("valid");
        c.set("LEVEL", Var { value: "info".into(), origin: Origin::AppJson, plain: true }).expect("valid");
        c
    }

    #[test]
    fn what_is_sealed_opens_only_in_its_place() {
        let dir = tempfile::tempdir().expect("temp dir");
        let vault = Vault::open(&dir.path().join("key"), true).expect("made");
        let shop: DeployRef = "shop".parse().expect("valid");
        let sealed = vault.seal(&shop, 3, &config());
        assert!(!sealed.windows(7).any(|w| w == b"hunter2"));
        assert_eq!(vault.unseal(&shop, 3, &sealed).expect("opens"), config());
        assert!(vault.unseal(&shop, 4, &sealed).is_err());
        assert!(vault.unseal(&"shop/staging".parse().expect("valid"), 3, &sealed).is_err());
        let mut torn = sealed.clone();
        torn[40] ^= 1;
        assert!(vault.unseal(&shop, 3, &torn).is_err());
        assert!(vault.unseal(&shop, 3, &sealed[..10]).is_err());
    }

    #[test]
    fn a_key_is_private_and_never_made_anew() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("key");
        assert!(matches!(Vault::open(&path, false), Err(VaultError::Missing(_))));
        Vault::open(&path, true).expect("made");
        let first = std::fs::read(&path).expect("there");
        Vault::open(&path, true).expect("opened");
        assert_eq!(std::fs::read(&path).expect("there"), first);
        assert_eq!(std::fs::read_dir(dir.path()).expect("lists").count(), 1);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
        assert!(matches!(Vault::open(&path, true), Err(VaultError::Exposed { .. })));
    }
}
