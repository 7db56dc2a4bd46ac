"""A server of somebody else's, such as an OpenID provider or a PACS, that answers as it likes."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Stranger(ThreadingHTTPServer):
    """Answers each path with a status and a text, JSON, or the address to go on to.

    Attributes:
        answers: status and content by path, without its query.
        others: the same for all other paths.
        asked: paths and bodies of the requests.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.answers: dict[str, tuple[int, object]] = {}
        self.others: tuple[int, object] = (404, "")
        self.asked: list[tuple[str, bytes]] = []


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append((self.path, self.rfile.read(int(self.headers.get("content-length", 0)))))
        status, content = self.server.answers.get(self.path.partition("?")[0], self.server.others)
        self.send_response(status)
        if 300 <= status < 400 and content is not None:
            self.send_header("location", content)
        self.send_header("content-type", "text/html" if isinstance(content, str) else "application/json")
        self.end_headers()
        self.wfile.write((content if isinstance(content, str) else json.dumps(content)).encode())

    do_POST = do_GET

    def log_message(self, *_):
        pass


@contextmanager
def stranger() -> Iterator[Stranger]:
    """One that runs in this context."""
    server = Stranger()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
