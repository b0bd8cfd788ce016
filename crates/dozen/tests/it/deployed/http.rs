//! Plain HTTP, byte by byte.

use super::PATIENCE;
use std::io::{Read, Write};
use std::net::TcpStream;

/// An answer over HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    /// 200.
    pub(crate) status: u16,
    /// Status line and headers.
    pub(crate) head: String,
    /// The rest.
    pub(crate) body: String,
}

/// One request on a connection of its own, which it closes.
#[track_caller]
pub(crate) fn ask(port: u16, request: &[u8]) -> Answer {
    let socket = TcpStream::connect(("127.0.0.1", port)).expect("the router listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    ask_over(socket, request)
}

/// The same over what is connected already.
#[track_caller]
pub(crate) fn ask_over(mut socket: impl Read + Write, request: &[u8]) -> Answer {
    socket.write_all(request).expect("sent");
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).expect("an answer");
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no status: {head:?}"));
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}
