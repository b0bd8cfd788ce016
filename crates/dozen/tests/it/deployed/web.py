"""A web process for tests: the path says what it does."""

import http.server
import os
import sqlite3


class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        what, _, rest = self.path[1:].partition("/")
        body, status = "hello", 200
        if what == "env":
            body = os.environ.get(rest, "(none)")
        elif what == "say":
            print(rest, flush=True)
        elif what == "mood":
            status = int(os.environ.get("MOOD", "200"))
        elif what == "exit":
            os._exit(int(rest))
        elif what == "write":
            try:
                with open("/" + rest, "w"):
                    body = "written"
            except OSError as error:
                body = error.strerror
        elif what == "add":
            with sqlite3.connect(os.environ["DATABASE_URL"].removeprefix("sqlite:///")) as db:
                db.execute("create table if not exists entries (word text)")
                db.execute("insert into entries values (?)", (rest,))
                body = str(db.execute("select count(*) from entries").fetchone()[0])
        body = body.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Page).serve_forever()
