//! What a connection becomes when both ends agree on another protocol.

use super::Core;
use crate::port::log::Record;
use crate::port::pages::Code;
use crate::port::pool::Busy;
use crate::port::stream::{Beat, End};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::rc::Rc;

/// Carries bytes both ways until both sides are done, or silent for too long.
pub(super) async fn tunnel(core: Rc<Core>, client: OnUpgrade, server: OnUpgrade, mut record: Record, busy: Busy) {
    let idle = core.shared.limits.idle;
    let beat = Rc::new(Beat { last: std::cell::Cell::new(tokio::time::Instant::now()), bytes: std::cell::Cell::new(0) });
    let (Ok(client), Ok(server)) = tokio::join!(client, server) else {
        record.fail(Code::H27, Code::H27.status());
        return;
    };
    let mut client = End { io: TokioIo::new(client), beat: beat.clone(), counts: false };
    let mut server = End { io: TokioIo::new(server), beat: beat.clone(), counts: true };
    let silence = async {
        loop {
            let until = beat.last.get() + idle;
            if until <= tokio::time::Instant::now() {
                break;
            }
            tokio::time::sleep_until(until).await;
        }
    };
    tokio::select! {
        // However it ends, each side has seen the other's end; a reset is an end too.
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        () = silence => record.fail(Code::H15, Code::H15.status()),
    }
    record.bytes = beat.bytes.get();
    drop((busy, core));
}
