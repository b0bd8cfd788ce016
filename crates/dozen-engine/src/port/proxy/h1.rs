//! A client's HTTP/1 connection over its life. While it has something to say there is a [`Talk`]; while it idles it is a socket, a timer and
//! who it belongs to, and nothing else is kept for it: most connections of most houses idle most of the time.

use super::exchange::{Exchange, Outcome, answer};
use super::head::{Ask, Ends, Length, Version, line, own, status_line, told};
use super::talk::{Heard, REST, Talk, Wire, chunk, size};
use super::tunnel::tunnel;
use super::{Client, Core, Stopping, refused};
use crate::port::crowd::Guest;
use crate::port::fields::{Fields, Kind};
use crate::port::pages::Code;
use crate::port::stream::Carrier;
use crate::port::upstream::Source as _;
use bytes::Bytes;
use dozen_core::port::framing::{may_trail, path};
use http::{Method, Response, StatusCode};
use std::future::poll_fn;
use std::io::IoSlice;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep};

/// A piece of an answer that is no larger is copied behind what is to be told before it: one buffer costs the system less than two, and many
/// small pieces become one. More than so much is not gathered.
const SMALL: usize = 2 * 1024;
const GATHERED: usize = 16 * 1024;

/// For a connection that idles to be told that it ends.
const GOODBYE: Duration = Duration::from_secs(1);

/// What a connection goes on with.
enum Next {
    Rest,
    End,
    /// Another protocol.
    Tunnel(Box<Exchange>),
}

/// Serves a connection to its end, or until the router stops and what is in flight is answered.
pub(super) async fn keep<S: Carrier>(core: Rc<Core>, client: Rc<Client>, io: S, guest: Guest) {
    let mut wire = Wire::new(io, guest);
    let mut stopping = pin!(told_to(core.stopping.clone(), Stopping::Yielding));
    let mut last = false;
    // When the last answer ended.
    let mut since = Instant::now();
    // One timer for all that is to happen in time: it is looked at when it ends, and set anew where that was too early.
    let mut timer = pin!(sleep(REST));
    loop {
        let rested = poll_fn(|cx| {
            while stopping.as_mut().poll(cx).is_ready() {
                if *core.stopping.borrow() != Stopping::Yielding {
                    return Poll::Ready(false);
                }
                last = true;
                stopping.set(told_to(core.stopping.clone(), Stopping::Now));
            }
            // To ask whether there is something to read costs as much as to read it; and where a read says that there is nothing it has
            // to be asked again.
            if let Poll::Ready(came) = wire.poll_first(cx) {
                return Poll::Ready(came);
            }
            while timer.as_mut().poll(cx).is_ready() {
                let end = since + core.shared.limits.head;
                if end <= Instant::now() {
                    return Poll::Ready(false);
                }
                timer.as_mut().reset(end);
            }
            Poll::Pending
        });
        if !rested.await {
            // One that is not told takes it for an attack.
            if client.tls {
                let _ = tokio::time::timeout(GOODBYE, Box::pin(wire.io.shutdown())).await;
            }
            return;
        }
        // In a box: what idles does not hold the room for it.
        match Box::pin(speak(&core, &client, &mut wire, timer.as_mut(), &mut since, last)).await {
            Next::Rest => wire.input = Vec::new(),
            Next::End => return,
            Next::Tunnel(exchange) => return Box::pin(tunnel(&core, wire, exchange)).await,
        }
    }
}

/// Ready when the worker stops, at least so far.
async fn told_to(mut stopping: watch::Receiver<Stopping>, at_least: Stopping) {
    // A worker that is gone has stopped.
    let _ = stopping.wait_for(|stopping| *stopping >= at_least).await;
}

/// Answers one request after the other until there is none. Where this is the `last` one the answer says so.
async fn speak<S: Carrier>(
    core: &Core,
    client: &Client,
    wire: &mut Wire<S>,
    mut timer: Pin<&mut Sleep>,
    since: &mut Instant,
    last: bool,
) -> Next {
    let mut talk = Talk::new(wire, &core.shared.limits);
    loop {
        let length = match talk.hear(timer.as_mut(), *since, core.shared.limits.head).await {
            Heard::Head(length) => length,
            Heard::Nothing => return Next::Rest,
            Heard::Over => return Next::End,
            Heard::Refused(fault, about) => {
                let page = refused::answer(core, client, fault, about);
                write_page(&mut talk.out, core, Version::One, &page, false, Some("close"));
                if talk.flush().await.is_ok() {
                    talk.end(client.tls, false).await;
                }
                return Next::End;
            }
        };
        let (ask, target) = talk.ask(length);
        let path = path(ask.fields.text().get(target).and_then(|target| std::str::from_utf8(target).ok()).unwrap_or("/"));
        talk.expects = ask.version == Version::One && ask.fields.has(Kind::Expect) && ask.length != Length::None;
        // A client that is told in time that this is the last answer does not ask again in vain.
        let stays = |stays: bool| stays && keeps(&ask) && !last && !core.stopping.has_changed().unwrap_or(true);
        // When the answer was over, where that is known.
        let mut ended = None;
        let goes_on = match answer(core, client, &ask, path, &mut talk).await {
            Outcome::Gone => return Next::End,
            Outcome::Page(page) => {
                // Whoever waits with a body may send it or not: where the next request begins is doubtful.
                let stays = stays(!talk.expects && !page.headers().contains_key(http::header::CONNECTION));
                write_page(&mut talk.out, core, ask.version, &page, ask.method == Method::HEAD, connection(&ask, stays));
                talk.flush().await.is_ok() && stays && talk.drain().await
            }
            Outcome::Answer(exchange) => {
                let ends = Ends::of(exchange.rest(), ask.version);
                let turns = exchange.answer().status == StatusCode::SWITCHING_PROTOCOLS;
                let stays = stays(ends != Ends::WithConnection && !talk.expects);
                write_head(&mut talk.out, core, &ask, &exchange, ends, if turns { None } else { connection(&ask, stays) });
                if turns {
                    return match talk.flush().await {
                        Ok(()) => Next::Tunnel(exchange),
                        Err(code) => {
                            exchange.fail(code);
                            Next::End
                        }
                    };
                }
                let read = exchange.is_read();
                match stream(&mut talk, exchange, ends, ask.fields.lists(Kind::Te, "trailers")).await {
                    Ok(now) if read => {
                        ended = Some(now);
                        stays
                    }
                    Ok(_) => stays && talk.drain().await,
                    // It broke before anything of it was told: then something else can be.
                    Err((code, exchange)) if !code.is_the_clients() && talk.take_back() => {
                        // Of a request that broke itself the end is not known.
                        let stays = stays && !exchange.is_broken();
                        let page = exchange.give_up(code, client, &ask.fields);
                        write_page(&mut talk.out, core, ask.version, &page, ask.method == Method::HEAD, connection(&ask, stays));
                        talk.flush().await.is_ok() && stays && talk.drain().await
                    }
                    Err((code, exchange)) => {
                        exchange.fail(code);
                        return Next::End;
                    }
                }
            }
        };
        if !goes_on {
            talk.end(client.tls, !keeps(&ask)).await;
            return Next::End;
        }
        *since = ended.unwrap_or_else(Instant::now);
        talk.forget(ask);
    }
}

/// Whether the client asks for the connection to be kept.
fn keeps(ask: &Ask) -> bool {
    match ask.version {
        Version::Old => ask.fields.lists(Kind::Connection, "keep-alive"),
        Version::One | Version::Two => !ask.fields.lists(Kind::Connection, "close"),
    }
}

/// What an answer says of it.
fn connection(ask: &Ask, stays: bool) -> Option<&'static str> {
    match ask.version {
        _ if !stays => Some("close"),
        Version::Old => Some("keep-alive"),
        Version::One | Version::Two => None,
    }
}

fn write_page(out: &mut Vec<u8>, core: &Core, version: Version, page: &Response<Bytes>, bare: bool, connection: Option<&str>) {
    status_line(out, version, page.status(), b"");
    own(out, page.headers());
    line(out, b"content-length", page.body().len().to_string().as_bytes());
    line(out, b"date", core.date().as_bytes());
    if let Some(connection) = connection.filter(|_| !page.headers().contains_key(http::header::CONNECTION)) {
        line(out, b"connection", connection.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    if !bare {
        out.extend_from_slice(page.body());
    }
}

fn write_head(out: &mut Vec<u8>, core: &Core, ask: &Ask, exchange: &Exchange, ends: Ends, connection: Option<&str>) {
    let answer = exchange.answer();
    status_line(out, ask.version, answer.status, &answer.reason);
    let (mut told, mut dated) = (told(answer), false);
    answer.fields.write(out, |field| {
        let told = told(field);
        dated |= told && field.kind == Kind::Date;
        told
    });
    for (name, value) in &exchange.added {
        line(out, name.as_str().as_bytes(), value.as_bytes());
    }
    if ends == Ends::InChunks {
        line(out, b"transfer-encoding", b"chunked");
    }
    if !dated {
        line(out, b"date", core.date().as_bytes());
    }
    if answer.status == StatusCode::SWITCHING_PROTOCOLS {
        let protocol = answer.fields.get(Kind::Upgrade).or_else(|| ask.upgrade());
        line(out, b"connection", b"upgrade");
        line(out, b"upgrade", protocol.unwrap_or_default());
    }
    line(out, b"via", b"1.1 dozen");
    if let Some(connection) = connection {
        line(out, b"connection", connection.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Tells a client an answer, whose head is written already, and has the instance take the rest of the request meanwhile.
///
/// Answers when it was over. One that breaks is given back, with what it broke by.
async fn stream<S: Carrier>(
    talk: &mut Talk<'_, S>,
    exchange: Box<Exchange>,
    ends: Ends,
    trailers: bool,
) -> Result<Instant, (Code, Box<Exchange>)> {
    let mut exchange = exchange;
    // What is being told of the body, and how much of it was.
    let mut piece: Option<(Range<usize>, usize)> = None;
    let chunks = ends == Ends::InChunks;
    let mut over = false;
    let told = poll_fn(|cx| {
        if let Poll::Ready(Err(code)) = exchange.poll_upload(cx, talk) {
            return Poll::Ready(Err(code));
        }
        loop {
            if let Some((range, written)) = &mut piece {
                let bytes: IoSlice<'_> = exchange.bytes(range.clone());
                match talk.poll_piece(cx, &bytes, if chunks { b"\r\n" } else { b"" }, written) {
                    Poll::Ready(Ok(())) => piece = None,
                    Poll::Ready(Err(code)) => return Poll::Ready(Err(code)),
                    Poll::Pending => break,
                }
                continue;
            }
            if over || talk.out.len() > GATHERED {
                match talk.poll_flush(cx) {
                    Poll::Ready(Ok(())) if !over => {}
                    Poll::Ready(done) => return Poll::Ready(done),
                    Poll::Pending => break,
                }
            }
            match exchange.poll_piece(cx) {
                Poll::Ready(Ok(Some(range))) if range.len() <= SMALL => {
                    let bytes = exchange.bytes(range);
                    if chunks { chunk(&mut talk.out, &bytes) } else { talk.out.extend_from_slice(&bytes) }
                }
                Poll::Ready(Ok(Some(range))) => {
                    if chunks {
                        size(&mut talk.out, range.len());
                    }
                    piece = Some((range, 0));
                }
                Poll::Ready(Ok(None)) => {
                    over = true;
                    if chunks {
                        last_chunk(&mut talk.out, trailers.then(|| exchange.trailers()));
                    }
                }
                Poll::Ready(Err(code)) => return Poll::Ready(Err(code)),
                // What is written already does not wait for the rest.
                Poll::Pending => match talk.poll_flush(cx) {
                    Poll::Ready(Err(code)) => return Poll::Ready(Err(code)),
                    Poll::Ready(Ok(())) | Poll::Pending => break,
                },
            }
        }
        if exchange.is_read() { talk.poll_gone(cx).map(Err) } else { Poll::Pending }
    });
    match told.await {
        Ok(()) => Ok(exchange.finish().into()),
        Err(code) => Err((exchange.cause(code), exchange)),
    }
}

/// Ends a body in chunks.
fn last_chunk(out: &mut Vec<u8>, trailers: Option<&Fields>) {
    out.extend_from_slice(b"0\r\n");
    for field in trailers.into_iter().flat_map(Fields::iter).filter(|field| may_trail(field.name)) {
        line(out, field.name, field.value);
    }
    out.extend_from_slice(b"\r\n");
}
