import http.server, os, time

text = open("text").read()

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        slow, _, number = self.path[1:].rpartition("/")
        # One write: what several threads print may be mixed.
        os.write(1, f"said {number}.\n".encode())
        if slow:
            time.sleep(0.3)
        answer = f"{text} {os.environ.get('TEXT', '0')}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *args):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Page).serve_forever()
