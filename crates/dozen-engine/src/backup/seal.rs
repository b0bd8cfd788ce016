//! A backup sealed with a passphrase: pieces of 64 KiB, each with its place, so that none is changed, left out, swapped or cut off unseen.

use aead_stream::{DecryptorBE32, EncryptorBE32};
use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::Payload;
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use std::io::{self, Read, Write};
use zeroize::Zeroizing;

/// What a sealed backup begins with.
pub(super) const MAGIC: &[u8; 16] = b"dozen sealed 1\r\n";
/// Behind that: what the passphrase is hashed with, and how, and what the pieces are numbered from.
const HEAD: usize = MAGIC.len() + SALT + NONCE + 12;
const SALT: usize = 16;
const NONCE: usize = 19;
const PIECE: usize = 64 << 10;
const TAG: usize = 16;
/// 64 MiB three times: about a quarter of a second for who knows it, and for each guess.
const COST: (u32, u32, u32) = (64 << 10, 3, 1);
/// A file that asks for more is not dozen's, and would only keep this machine busy.
const MOST: (u32, u32, u32) = (1 << 20, 16, 8);

fn key(passphrase: &str, salt: &[u8], (memory, passes, lanes): (u32, u32, u32)) -> io::Result<XChaCha20Poly1305> {
    let failed = |e: argon2::Error| io::Error::new(io::ErrorKind::InvalidData, e.to_string());
    let params = Params::new(memory, passes, lanes, Some(32)).map_err(failed)?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(passphrase.as_bytes(), salt, &mut *key).map_err(failed)?;
    XChaCha20Poly1305::new_from_slice(&*key).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Seals what is written to it.
pub(super) struct Sealing<W: Write> {
    to: W,
    stream: Option<EncryptorBE32<XChaCha20Poly1305>>,
    head: Vec<u8>,
    piece: Zeroizing<Vec<u8>>,
}

impl<W: Write> Sealing<W> {
    pub(super) fn begin(mut to: W, passphrase: &str) -> io::Result<Self> {
        let (salt, nonce): ([u8; SALT], [u8; NONCE]) = (rand::random(), rand::random());
        let (memory, passes, lanes) = COST;
        let numbers = [memory, passes, lanes].map(u32::to_be_bytes).concat();
        let head = [&MAGIC[..], &salt, &nonce, &numbers].concat();
        to.write_all(&head)?;
        let stream = EncryptorBE32::from_aead(key(passphrase, &salt, COST)?, &nonce.into());
        Ok(Self { to, stream: Some(stream), head, piece: Zeroizing::new(Vec::with_capacity(PIECE)) })
    }

    /// Writes the last piece, which says that it is.
    pub(super) fn finish(mut self) -> io::Result<W> {
        let stream = self.stream.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let sealed = stream.encrypt_last(Payload { msg: &self.piece, aad: &self.head }).map_err(|_| io::ErrorKind::InvalidData)?;
        self.to.write_all(&sealed)?;
        Ok(self.to)
    }
}

impl<W: Write> Write for Sealing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A piece goes out when it is known that another one follows.
        if self.piece.len() == PIECE {
            let stream = self.stream.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
            let sealed = stream.encrypt_next(Payload { msg: &self.piece, aad: &self.head }).map_err(|_| io::ErrorKind::InvalidData)?;
            self.to.write_all(&sealed)?;
            self.piece.clear();
        }
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Opens what was sealed; an error is told before anything of a wrong piece is.
pub(super) struct Opening<R: Read> {
    from: R,
    stream: Option<DecryptorBE32<XChaCha20Poly1305>>,
    head: Vec<u8>,
    /// Read, and not opened: it is the last where nothing follows.
    next: Vec<u8>,
    plain: Zeroizing<Vec<u8>>,
    at: usize,
}

impl<R: Read> Opening<R> {
    /// `from` is behind the magic words.
    pub(super) fn begin(mut from: R, passphrase: &str) -> io::Result<Self> {
        let mut head = MAGIC.to_vec();
        head.resize(HEAD, 0);
        from.read_exact(&mut head[MAGIC.len()..])?;
        let (salt, rest) = head[MAGIC.len()..].split_at(SALT);
        let (nonce, numbers) = rest.split_at(NONCE);
        let number = |n: usize| u32::from_be_bytes(numbers[4 * n..4 * n + 4].try_into().expect("four bytes"));
        let cost = (number(0), number(1), number(2));
        if cost.0 > MOST.0 || cost.1 > MOST.1 || cost.2 > MOST.2 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its passphrase was hashed as dozen never does"));
        }
        let nonce: [u8; NONCE] = nonce.try_into().expect("it was split so");
        let stream = Some(DecryptorBE32::from_aead(key(passphrase, salt, cost)?, &nonce.into()));
        let next = piece(&mut from)?;
        Ok(Self { from, stream, head, next, plain: Zeroizing::default(), at: 0 })
    }
}

/// The next piece, which is shorter where nothing follows.
fn piece(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut piece = Vec::with_capacity(PIECE + TAG);
    from.take((PIECE + TAG) as u64).read_to_end(&mut piece)?;
    Ok(piece)
}

impl<R: Read> Read for Opening<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.plain.len() {
            let Some(mut stream) = self.stream.take() else { return Ok(0) };
            let after = if self.next.len() == PIECE + TAG { piece(&mut self.from)? } else { Vec::new() };
            let sealed = std::mem::replace(&mut self.next, after);
            let payload = Payload { msg: &sealed, aad: &self.head };
            let opened = if self.next.is_empty() {
                stream.decrypt_last(payload)
            } else {
                let opened = stream.decrypt_next(payload);
                self.stream = Some(stream);
                opened
            };
            let wrong = || io::Error::new(io::ErrorKind::InvalidData, "the passphrase is another one, or the file was changed");
            (self.plain, self.at) = (Zeroizing::new(opened.map_err(|_| wrong())?), 0);
        }
        let given = into.len().min(self.plain.len() - self.at);
        into[..given].copy_from_slice(&self.plain[self.at..self.at + given]);
        self.at += given;
        Ok(given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(plain: &[u8]) -> Vec<u8> {
        let mut sealing = Sealing::begin(Vec::new(), "correct horse").expect("begun");
        sealing.write_all(plain).expect("written");
        sealing.finish().expect("finished")
    }

    fn opened(sealed: &[u8], passphrase: &str) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        Opening::begin(&sealed[MAGIC.len()..], passphrase)?.read_to_end(&mut plain)?;
        Ok(plain)
    }

    #[test]
    fn what_is_sealed_is_opened_whole_or_not_at_all() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE] {
            let plain: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).expect("small")).collect();
            let sealed = sealed(&plain);
            assert_eq!(opened(&sealed, "correct horse").expect("opened"), plain, "{length}");
            assert!(opened(&sealed[..sealed.len() - 1], "correct horse").is_err(), "{length}: cut");
        }
        let plain = vec![7; 2 * PIECE + 5];
        let good = sealed(&plain);
        assert!(!good.windows(64).any(|w| w == [7; 64]));
        assert!(opened(&good, "correct house").is_err());
        let whole = PIECE + TAG;
        // Cut between two pieces, a piece left out, two swapped, a bit changed in each part.
        assert!(opened(&good[..HEAD + whole], "correct horse").is_err());
        assert!(opened(&[&good[..HEAD], &good[HEAD + whole..]].concat(), "correct horse").is_err());
        let swapped = [&good[..HEAD], &good[HEAD + whole..HEAD + 2 * whole], &good[HEAD..HEAD + whole], &good[HEAD + 2 * whole..]];
        assert!(opened(&swapped.concat(), "correct horse").is_err());
        for at in [MAGIC.len(), MAGIC.len() + SALT, HEAD, HEAD + whole + 9, good.len() - 1] {
            let mut changed = good.clone();
            changed[at] ^= 1;
            assert!(opened(&changed, "correct horse").is_err(), "{at}");
        }
        let mut greedy = good;
        greedy[HEAD - 12] = 0xff;
        assert!(opened(&greedy, "correct horse").is_err());
    }
}
