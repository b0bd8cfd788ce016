//! WebSockets between Python's `websockets` on both sides.

use super::stage::{Stage, ready};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

/// Echoes, and closes as it is told.
const SERVER: &str = r#"
import asyncio, sys, websockets

async def serve(socket, path="/"):
    async for message in socket:
        if message == "close":
            await socket.close(4001, "as you wish")
        else:
            await socket.send(message)

async def main():
    async with websockets.serve(serve, "127.0.0.1", 0, max_size=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Future()

asyncio.run(main())
"#;

const CLIENT: &str = r#"
import asyncio, os, sys, websockets

async def main():
    uri = f"ws://127.0.0.1:{sys.argv[1]}/chat"
    async with websockets.connect(uri, max_size=None) as socket:
        big = os.urandom(1 << 20)
        for message in ["hello", "", "\u00e4\u20ac\U0001f600", b"", b"\x00\xff", big, big.hex()]:
            await socket.send(message)
            assert await socket.recv() == message
        for _ in range(3):
            await asyncio.wait_for(await socket.ping(), 30)
        # In parts, and many at once.
        await socket.send([b"a" * 1000, b"b" * 1000, b"c"])
        assert await socket.recv() == b"a" * 1000 + b"b" * 1000 + b"c"
        for n in range(500):
            await socket.send(str(n))
        for n in range(500):
            assert await socket.recv() == str(n)
        await socket.send("close")
        try:
            await socket.recv()
            raise SystemExit("it is still open")
        except websockets.ConnectionClosed as closed:
            assert (closed.code, closed.reason) == (4001, "as you wish"), closed
    async with websockets.connect(uri) as socket:
        await socket.close(1000, "done")
        assert socket.close_code == 1000
    print("done")

asyncio.run(main())
"#;

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn pythons_websockets_speak_through_it() {
    let python = |script: &str| {
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped());
        python
    };
    let mut server = Running(python(SERVER).stderr(Stdio::null()).spawn().expect("Debian's Python"));
    let mut port = String::new();
    BufReader::new(server.0.stdout.take().expect("piped")).read_line(&mut port).expect("a line");
    let port: u16 = port.trim().parse().expect("a port: python3-websockets is installed");
    let mut stage = Stage::to(ready(&[port]));
    let done = python(CLIENT).arg(stage.router.port().to_string()).output().expect("Debian's Python");
    assert_eq!(String::from_utf8_lossy(&done.stdout), "done\n", "{}", String::from_utf8_lossy(&done.stderr));
    let lines = stage.lines_of("shop/dev", 2);
    assert!(lines.iter().all(|l| l.contains("path=\"/chat\"") && l.contains("status=101")), "{lines:?}");
}
