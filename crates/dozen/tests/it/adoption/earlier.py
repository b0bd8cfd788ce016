"""A jail and a router of protocol 2, as far as their next control part can tell: what they say was recorded, without all that came later."""

import http.server, json, os, pathlib, socket, sys, threading

role, name, folder, port = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]), int(sys.argv[4])


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "7")
        self.end_headers()
        self.wfile.write(b"earlier")

    def log_message(self, *args):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Page)
# As every router has it: whoever accepts next need not wait for it.
server.socket.setblocking(False)
threading.Thread(target=server.serve_forever, daemon=True).start()

# By way of the folder: a home may lie deeper than a socket's address is long.
os.chdir(folder)
pathlib.Path(f"{name}.sock").unlink(missing_ok=True)
waiting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
waiting.bind(f"{name}.sock")
waiting.listen(4)
print("waiting", flush=True)
control, _ = waiting.accept()
heard = control.makefile("r")


def say(message, fds=()):
    socket.send_fds(control, [json.dumps(message).encode() + b"\n"], fds)


for line in heard:
    print(line, end="", flush=True)
    message = json.loads(line)
    match role, message["do"]:
        case "jail", "adopt":
            say({"is": "started", "protocol": 2, "pid": os.getpid(), "isolation": "session", "missing": []})
            say({"is": "listening", "port": port})
            say({"is": "told"})
        case "jail", "stop":
            say({"is": "exited", "code": 0, "signal": None})
        case "jail", "collect":
            break
        case "router", "adopt":
            say({"is": "adopted", "protocol": 2}, [server.fileno()])
            backend = {"ready": [{"instance": "web.1", "port": int(sys.argv[5])}]}
            route = {"deploy": "shop/dev", "log": "/", "hosts": ["shop.localhost"], "fallback": True, "web": backend}
            say({"is": "table", "table": {"generation": 7, "routes": [route]}})
        case "router", "set":
            say({"is": "applied", "generation": message["table"]["generation"]})
        case "router", "drain":
            say({"is": "drained", "port": message["port"]})
        case "router", "stop":
            # It accepts no more, and hears what becomes of what it has.
            server.shutdown()
