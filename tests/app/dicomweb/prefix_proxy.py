"""A reverse proxy that has a server below a prefix of its own address, and takes the prefix off."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests

ITS_OWN = ("connection", "transfer-encoding", "content-length", "date", "server")  # headers of each connection


@contextmanager
def prefix_proxy(url: str, prefix: str) -> Iterator[str]:
    """The address, with the prefix, under which the server at `url` answers in this context."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if not self.path.startswith(f"{prefix}/"):
                self.send_error(404)
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() not in ITS_OWN}
            answer = requests.request(
                self.command,
                url + self.path.removeprefix(prefix),
                headers=headers,
                data=body,
                stream=True,
                allow_redirects=False,
                timeout=60,
            )
            content = answer.raw.read(decode_content=False)
            self.send_response(answer.status_code)
            for name, value in answer.raw.headers.items():
                if name.lower() not in ITS_OWN:
                    self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PUT = do_DELETE = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}{prefix}"
    server.shutdown()
    server.server_close()
