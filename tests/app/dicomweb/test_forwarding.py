"""What the PACS answers to a viewer's request, passed on; not what other servers would."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from monailabel_app.dicomweb.client import Pacs
from monailabel_app.errors import RequestError


class Answer(BaseHTTPRequestHandler):
    """Sends on, with the status that the path ends with, to what only the server itself may read."""

    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.asked.append(self.path)
        status = int(self.path.rpartition("/")[2]) if self.path.startswith("/dicom-web") else 200
        self.send_response(status)
        if status != 200:
            self.send_header("location", "/secret")
        self.end_headers()
        self.wfile.write(b"answer")

    do_POST = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.asked = []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def pacs(server):
    return Pacs(f"http://127.0.0.1:{server.server_port}/dicom-web", ["CT"], {})


@pytest.mark.parametrize(("method", "path"), [("GET", "studies/1/series"), ("POST", "studies")])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status, method, path, pacs, server):
    path = f"{path}/{status}"
    with pytest.raises(RequestError, match="sends on to another address") as caught:
        pacs.forward(method, path, "", {}, b"x" if method == "POST" else None)
    assert caught.value.status == 502 and server.asked == [f"/dicom-web/{path}"]


def test_an_answer(pacs):
    answer = pacs.forward("GET", "studies/200", "", {}, None)
    assert (answer.status_code, answer.raw.read()) == (200, b"answer")
    answer.close()
