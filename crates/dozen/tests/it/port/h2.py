"""Just enough of HTTP/2 to say what no well-behaved client says."""
import socket, ssl, struct, sys

DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END, ACK, WHOLE = 1, 1, 4


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def text(value):
    value = value if isinstance(value, bytes) else value.encode()
    if len(value) < 127:
        return bytes([len(value)]) + value
    rest, out = len(value) - 127, [127]
    while rest >= 128:
        out.append(rest % 128 + 128)
        rest //= 128
    return bytes(out + [rest]) + value


def field(name, value):
    """A literal that enters no table."""
    return b"\x00" + text(name) + text(value)


def head(path="/", method="GET", host="shop.test", more=()):
    fields = [(":method", method), (":scheme", "https"), (":path", path)]
    if host is not None:
        fields.append((":authority", host))
    return b"".join(field(*pair) for pair in [*fields, *more])


class Peer:
    def __init__(self, settings=()):
        port, root = int(sys.argv[1]), sys.argv[2]
        context = ssl.create_default_context(cafile=root)
        context.set_alpn_protocols(["h2"])
        self.socket = context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="shop.test")
        self.socket.settimeout(30)
        assert self.socket.selected_alpn_protocol() == "h2"
        values = b"".join(struct.pack(">HI", *pair) for pair in settings)
        self.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, values))
        self.came = b""

    def send(self, data):
        self.socket.sendall(data)

    def ask(self, stream, *args, end=True, **named):
        self.send(frame(HEADERS, WHOLE | (END if end else 0), stream, head(*args, **named)))

    def read(self):
        """The next frame; None at the end. Answers what has to be answered."""
        while True:
            while len(self.came) < 9 or len(self.came) < 9 + int.from_bytes(self.came[:3], "big"):
                try:
                    more = self.socket.recv(65536)
                except TimeoutError:
                    raise
                except OSError:
                    more = b""
                if not more:
                    return None
                self.came += more
            size = int.from_bytes(self.came[:3], "big")
            kind, flags, stream = self.came[3], self.came[4], int.from_bytes(self.came[5:9], "big")
            payload, self.came = self.came[9 : 9 + size], self.came[9 + size :]
            if kind in (SETTINGS, PING) and not flags & ACK:
                self.try_send(frame(kind, ACK, 0, payload if kind == PING else b""))
            if kind == PING and flags & ACK or kind not in (SETTINGS, PING, WINDOW):
                return kind, flags, stream, payload

    def try_send(self, data):
        try:
            self.send(data)
        except OSError:
            pass

    def until(self, *kinds):
        """The next frame of one of these kinds; None at the end."""
        while True:
            got = self.read()
            if got is None or got[0] in kinds:
                return got

    def goodbye(self):
        """What is said at the end: the error of the last GOAWAY, or nothing."""
        error = None
        while True:
            got = self.until(GOAWAY)
            if got is None:
                return error
            error = int.from_bytes(got[3][4:8], "big")


def ends(peer, attack, rounds):
    """Does it again and again; how the other side ends it. Fails where it does not."""
    try:
        for n in range(rounds):
            attack(n)
    except TimeoutError:
        # It reads no more: that is a bound, too.
        return "blocked"
    except OSError:
        return "closed"
    peer.socket.settimeout(2)
    try:
        return f"ended {peer.goodbye()}"
    except TimeoutError:
        return "endured"
