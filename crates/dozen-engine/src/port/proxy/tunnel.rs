//! What a connection becomes when both ends agree on another protocol.

use super::Core;
use super::exchange::Exchange;
use super::talk::Wire;
use crate::port::pages::Code;
use crate::port::stream::{Beat, End};
use std::cell::Cell;
use std::rc::Rc;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;

/// Carries bytes both ways until both sides are done, or silent for too long.
pub(super) async fn tunnel<S: AsyncRead + AsyncWrite + Unpin>(core: &Core, wire: Wire<S>, exchange: Box<Exchange>) {
    let idle = core.shared.limits.idle;
    let (server, told, mut record, _busy) = exchange.into_tunnel();
    let (client, said, _guest) = wire.into_tunnel();
    let beat = Rc::new(Beat { last: Cell::new(Instant::now()), bytes: Cell::new(told.len() as u64) });
    let mut client = End { io: client, beat: beat.clone(), counts: false };
    let mut server = End { io: server, beat: beat.clone(), counts: true };
    let carry = async {
        // What each side has said already.
        client.write_all(&told).await?;
        client.flush().await?;
        server.write_all(&said).await?;
        tokio::io::copy_bidirectional(&mut client, &mut server).await
    };
    let silence = async {
        loop {
            let until = beat.last.get() + idle;
            if until <= Instant::now() {
                break;
            }
            tokio::time::sleep_until(until).await;
        }
    };
    tokio::select! {
        // However it ends, each side has seen the other's end; a reset is an end too.
        _ = carry => {}
        () = silence => record.fail(Code::H15, Code::H15.status()),
    }
    record.bytes = beat.bytes.get();
}
