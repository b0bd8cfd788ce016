//! A request's body that a client of git has packed.

use flate2::write::GzDecoder;
use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};

/// So much is unpacked at a time; it may become a thousand times as much.
const PIECE: usize = 1 << 10;

/// Unpacks what it reads, up to a limit.
pub struct Gunzip<R> {
    from: R,
    decoder: Option<GzDecoder<Vec<u8>>>,
    /// How much of what is unpacked has been read.
    read: usize,
    left: u64,
}

impl<R> Gunzip<R> {
    /// Unpacks `from`; more than `most` bytes are an error.
    pub fn new(from: R, most: u64) -> Self {
        Self { from, decoder: Some(GzDecoder::new(Vec::new())), read: 0, left: most }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Gunzip<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let this = &mut *self;
            let Some(decoder) = &mut this.decoder else { return Poll::Ready(Ok(())) };
            let ready = decoder.get_mut();
            if this.read < ready.len() {
                let n = buffer.remaining().min(ready.len() - this.read);
                buffer.put_slice(&ready[this.read..this.read + n]);
                this.read += n;
                return Poll::Ready(Ok(()));
            }
            ready.clear();
            this.read = 0;
            let mut piece = [0; PIECE];
            let mut packed = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut this.from).poll_read(cx, &mut packed))?;
            let packed = packed.filled();
            if packed.is_empty() {
                // What ends before its last bytes, or is no gzip, is told.
                decoder.try_finish()?;
                if decoder.get_ref().is_empty() {
                    this.decoder = None;
                }
            } else {
                decoder.write_all(packed)?;
            }
            let fresh = this.decoder.as_ref().map_or(0, |d| d.get_ref().len()) as u64;
            this.left = this.left.checked_sub(fresh).ok_or_else(|| io::Error::other("more was sent, unpacked, than may be"))?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tokio::io::AsyncReadExt;

    fn packed(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(content).expect("in memory");
        encoder.finish().expect("in memory")
    }

    async fn unpacked(packed: &[u8], most: u64) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Gunzip::new(packed, most).read_to_end(&mut out).await.map(|_| out)
    }

    #[tokio::test]
    async fn what_was_packed_comes_out_and_no_more_than_may() {
        let content: Vec<u8> = (0..200_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        assert_eq!(unpacked(&packed(&content), 800_000).await.expect("whole"), content);
        assert_eq!(unpacked(&packed(b""), 0).await.expect("whole"), b"");
        assert!(unpacked(&packed(&content), 799_999).await.is_err());
        let bomb = packed(&vec![0; 64 << 20]);
        assert!(unpacked(&bomb, 1 << 20).await.is_err());
        assert!(unpacked(&packed(&content)[..1000], 1 << 20).await.is_err(), "cut off");
        assert!(unpacked(b"no gzip at all", 1 << 20).await.is_err());
    }
}
