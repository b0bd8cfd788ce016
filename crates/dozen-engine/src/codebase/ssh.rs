//! Pushes over SSH: the public keys that people are known by, and the file that tells the host's sshd of them.
//!
//! **Invariant:** the file follows from the ledger. A key in it opens nothing but dozen's own command, which asks the ledger once more.
//! **Invariant:** a key is one that nobody can forge today, and is kept without what stood around it.

use crate::home::Home;
use ssh_key::{Algorithm, HashAlg, PublicKey};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The role of dozen's that sshd runs for whoever shows a key.
pub const ROLE: &str = "__ssh";
/// A public key of the largest kind has less.
pub const MAX_TEXT: usize = 16 << 10;
/// A number that can be factored is no key.
const LEAST_RSA: usize = 2048;
/// sshd takes no more.
const MOST_RSA: usize = 16_384;

/// A public key of somebody's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// What it is known by: `SHA256:…`, as ssh shows it.
    pub fingerprint: String,
    /// Its kind and itself, as sshd reads it: `ssh-ed25519 AAAA…`
    pub text: String,
    /// What its owner has written behind it.
    pub comment: String,
}

/// Why a text is no key that is taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is something else.
    #[error("this is no public key of SSH: give the one line of a file like ~/.ssh/id_ed25519.pub")]
    NoKey,
    /// The half that nobody gives away. It is not shown again.
    #[error("this is a private key, which is nobody's but yours: give the file beside it that ends in .pub")]
    Private,
    /// Of a kind that is not taken.
    #[error("a key of the kind {0} is not taken; `ssh-keygen -t ed25519` makes one that is")]
    Kind(String),
    /// An RSA key that is too short, or too long for sshd.
    #[error("an RSA key of {0} bits is not taken: from {LEAST_RSA} to {MOST_RSA}; `ssh-keygen -t ed25519` makes a better one")]
    Bits(usize),
}

impl Key {
    /// Reads a line as `ssh-keygen` writes it.
    pub fn read(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        if text.contains("PRIVATE KEY") {
            return Err(KeyError::Private);
        }
        // A second line would be a second key, or options of sshd's.
        if text.len() > MAX_TEXT || text.contains(|c: char| c.is_control()) {
            return Err(KeyError::NoKey);
        }
        let key = PublicKey::from_openssh(text).map_err(|_| {
            let kind = text.split(' ').next().unwrap_or_default();
            let known = ["ssh-", "ecdsa-", "sk-"].iter().any(|prefix| kind.starts_with(prefix));
            if known && kind.contains("-cert-v01@") { KeyError::Kind(kind.to_owned()) } else { KeyError::NoKey }
        })?;
        match key.algorithm() {
            Algorithm::Ed25519 | Algorithm::Ecdsa { .. } | Algorithm::SkEd25519 | Algorithm::SkEcdsaSha2NistP256 => {}
            Algorithm::Rsa { .. } => {
                let modulus = key.key_data().rsa().and_then(|rsa| rsa.n.as_positive_bytes()).unwrap_or_default();
                let bits = modulus.len() * 8 - modulus.first().map_or(0, |first| first.leading_zeros() as usize);
                if !(LEAST_RSA..=MOST_RSA).contains(&bits) {
                    return Err(KeyError::Bits(bits));
                }
            }
            other => return Err(KeyError::Kind(other.as_str().to_owned())),
        }
        let comment = key.comment().trim().to_owned();
        let alone = PublicKey::new(key.key_data().clone(), "");
        let text = alone.to_openssh().map_err(|_| KeyError::NoKey)?.trim().to_owned();
        Ok(Self { fingerprint: alone.fingerprint(HashAlg::Sha256).to_string(), text, comment })
    }
}

/// Writes what sshd lets in, in place of what it was. `exe`: dozen's own file.
///
/// # Errors
/// It cannot be written, or a path cannot stand in it.
pub fn authorize(home: &Home, exe: &Path, keys: &[Key]) -> io::Result<()> {
    let folder = home.ssh();
    Home::private(&folder)?;
    let text: String = keys.iter().map(|key| line(home, exe, key)).collect::<io::Result<_>>()?;
    let fresh = folder.join("authorized_keys.new");
    let mut open = OpenOptions::new();
    let mut file = open.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&fresh, home.authorized_keys())?;
    File::open(&folder)?.sync_all()
}

/// `restrict`: no terminal, no forwarding of ports, agents and displays, no file of the account's own that is run.
fn line(home: &Home, exe: &Path, key: &Key) -> io::Result<String> {
    let quoted = |path: &Path| -> io::Result<String> {
        let text = path.to_str().filter(|text| !text.contains(|c: char| c.is_control()));
        let quoted = text.and_then(|text| shlex::try_quote(text).ok());
        let unfit = || io::Error::new(io::ErrorKind::InvalidInput, format!("{} cannot stand in a file of sshd's", path.display()));
        Ok(quoted.ok_or_else(unfit)?.into_owned())
    };
    // sshd has the account's shell read this one line; nothing in it was chosen by who comes.
    let command = format!("{} {ROLE} {} {}", quoted(exe)?, quoted(home.root())?, key.fingerprint);
    Ok(format!("command=\"{}\",restrict {}\n", command.replace('"', "\\\""), key.text))
}

/// What the host's sshd has to be told of the account that these keys are for. Whoever else comes in by that account still does: each key of
/// the file is restricted by itself.
pub fn sshd_config(home: &Home, account: &str) -> String {
    format!(
        "# Pushes to dozen over SSH: each of its keys opens `dozen {ROLE}` and nothing else.
Match User {account}
    AuthorizedKeysFile .ssh/authorized_keys {}
    AcceptEnv GIT_PROTOCOL
",
        file(home)
    )
}

/// The same of an account that is for nothing else.
pub fn sshd_config_of_its_own(home: &Home, account: &str) -> String {
    format!(
        "# Pushes to dozen over SSH: each key opens `dozen {ROLE}`, and nothing else opens anything.
Match User {account}
    AuthorizedKeysFile {}
    AuthenticationMethods publickey
    PubkeyAuthentication yes
    PasswordAuthentication no
    KbdInteractiveAuthentication no
    AcceptEnv GIT_PROTOCOL
    PermitTTY no
    PermitUserRC no
    PermitTunnel no
    AllowAgentForwarding no
    AllowStreamLocalForwarding no
    AllowTcpForwarding no
    X11Forwarding no
",
        file(home)
    )
}

/// sshd reads % and blanks as its own.
fn file(home: &Home) -> String {
    let path = home.authorized_keys().display().to_string().replace('%', "%%");
    ["\"", &path, "\""].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

    #[test]
    fn a_key_is_kept_without_what_stands_around_it() {
        let key = Key::read(&format!("  {GOOD} ada@laptop \n")).expect("a key");
        assert_eq!((key.text.as_str(), key.comment.as_str()), (GOOD, "ada@laptop"));
        assert!(key.fingerprint.starts_with("SHA256:"), "{}", key.fingerprint);
        assert_eq!(Key::read(GOOD).expect("a key").fingerprint, key.fingerprint);
    }

    #[test]
    fn what_is_no_sound_key_is_refused_and_not_shown() {
        let why = |text: &str| Key::read(text).expect_err("refused");
        for text in ["", "x", "ssh-ed25519", "ssh-ed25519 AAAA", &format!("{GOOD}\n{GOOD}"), &format!("command=\"sh\" {GOOD}")] {
            assert_eq!(why(text), KeyError::NoKey, "{text}");
        }
        assert_eq!(why(&format!("{GOOD} {}", "a".repeat(MAX_TEXT))), KeyError::NoKey);
        let private = why("-----BEGIN OPENSSH PRIVATE KEY-----\nsecret\n");
        assert_eq!(private, KeyError::Private);
        assert!(!private.to_string().contains("secret"));
        // A number of 1024 bits, and one of 2048.
        assert_eq!(why(&rsa(1024)), KeyError::Bits(1024));
        assert!(Key::read(&rsa(2048)).is_ok());
    }

    /// `ssh-rsa` with a modulus of ones.
    fn rsa(bits: usize) -> String {
        use ssh_key::public::{KeyData, RsaPublicKey};
        let number = |bytes: &[u8]| ssh_key::Mpint::from_positive_bytes(bytes).expect("a number");
        let data = KeyData::Rsa(RsaPublicKey { e: number(&[1, 0, 1]), n: number(&vec![0xff; bits / 8]) });
        PublicKey::new(data, "").to_openssh().expect("text")
    }

    #[test]
    fn the_file_says_one_command_for_each_key_however_paths_are_called() {
        let dir = tempfile::tempdir().expect("a folder");
        let home = Home::at(dir.path().join("it's \"a\" home"));
        let key = Key::read(GOOD).expect("a key");
        authorize(&home, Path::new("/opt/do zen"), std::slice::from_ref(&key)).expect("written");
        let text = std::fs::read_to_string(home.authorized_keys()).expect("read");
        assert_eq!(text.lines().count(), 1);
        let rest = text.strip_prefix("command=\"").expect("a command");
        let (command, rest) = rest.split_once("\",restrict ").expect("its end");
        assert_eq!(rest.trim_end(), GOOD);
        let words = shlex::split(&command.replace("\\\"", "\"")).expect("words");
        assert_eq!(words, ["/opt/do zen", ROLE, home.root().to_str().expect("text"), &key.fingerprint]);
        // What would be a line of its own is not written, and what was there stays.
        assert!(authorize(&home, Path::new("/opt/do\nzen"), &[key]).is_err());
        assert_eq!(std::fs::read_to_string(home.authorized_keys()).expect("read"), text);
        authorize(&home, Path::new("/opt/dozen"), &[]).expect("written");
        assert_eq!(std::fs::read_to_string(home.authorized_keys()).expect("read"), "");
    }
}
