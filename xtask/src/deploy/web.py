"""Says which release, commit, code and config it is."""

import http.server
import os

if os.path.exists("broken"):
    raise SystemExit(3)

with open("code.txt") as file:
    code = file.read().strip()
words = [os.environ["DOZEN_RELEASE_VERSION"], os.environ["DOZEN_SLUG_COMMIT"], code, os.environ.get("GREETING", "-")]
page = " ".join(words).encode()


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *arguments):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Page).serve_forever()
