"""Clients that send little and slowly: they keep the server waiting for so long, and no longer."""

import asyncio
import socket
import threading
import time

import pytest
import uvicorn
from fastapi import FastAPI, Request

from monailabel_app.web import connections, security
from monailabel_app.web.authentication import Authentication
from monailabel_app.web.errors import answer_errors
from monailabel_app.web.security import Guard

LIMIT = 0.3  # seconds, in place of half a minute and a minute
HEADER = b"POST /length HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"


@pytest.fixture
def port(monkeypatch):
    """A server with our doors and connections."""
    monkeypatch.setattr(connections, "HEADER_SECONDS", LIMIT)
    monkeypatch.setattr(security, "BODY_SECONDS", LIMIT)
    app = FastAPI()
    answer_errors(app)

    async def length(request: Request) -> int:
        return len(await request.body())

    async def late() -> str:
        await asyncio.sleep(3 * LIMIT)
        return "late"

    app.add_api_route("/length", length, methods=["POST"])
    app.add_api_route("/late", late)
    config = uvicorn.Config(Guard(app, Authentication()), port=0, http=connections.Connection, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(10)


def exchange(port, *pieces, pause=0.0):
    """What the server sends until it closes the connection, and after how many seconds it does."""
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        for piece in pieces:
            client.sendall(piece)
            time.sleep(pause)
        answer = b""
        try:
            while piece := client.recv(2**16):
                answer += piece
        except ConnectionResetError:
            pass
    return answer, time.monotonic() - start


@pytest.mark.parametrize("header", [b"", b"POST /length HTTP/1.1\r\n", HEADER], ids=["nothing", "a line", "no end"])
def test_a_header_that_does_not_end(header, port):
    answer, seconds = exchange(port, header)
    assert answer == b"" and LIMIT * 0.9 < seconds < 5


def test_a_second_header_that_does_not_end(port):
    answer, seconds = exchange(port, HEADER + b"Content-Length: 1\r\n\r\nx", HEADER)
    assert answer.count(b"HTTP/1.1 ") == 1 and b"200" in answer.splitlines()[0]
    assert LIMIT * 0.9 < seconds < 4  # and not uvicorn's 5 for a connection that is kept


@pytest.mark.parametrize("length", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("begin", [b"", b"5\r\nab"])
def test_a_body_that_does_not_come(begin, length, port):
    answer, seconds = exchange(port, HEADER + length + b"\r\n\r\n" + begin)
    assert b" 408 " in answer.splitlines()[0] and b"comes too slowly" in answer
    assert LIMIT * 0.9 < seconds < 5  # the connection is closed, too


def test_a_body_that_trickles(port):
    """Pieces that come in time do not help, since all of them together do not."""
    try:
        answer, _ = exchange(port, HEADER + b"Content-Length: 1000\r\n\r\n", *[b"x"] * 100, pause=LIMIT / 10)
    except (BrokenPipeError, ConnectionResetError):
        return
    assert b" 408 " in answer.splitlines()[0]


def test_a_body_of_a_slow_line(port, monkeypatch):
    """Slow, and yet above the least speed."""
    monkeypatch.setattr(security, "BODY_SPEED", 5000)
    header = HEADER + b"Content-Length: 10000\r\nConnection: close\r\n\r\n"
    answer, seconds = exchange(port, header, *[bytes(1000)] * 10, pause=LIMIT / 6)
    assert answer.endswith(b"10000") and seconds > LIMIT


def test_an_answer_that_takes_long(port):
    answer, _ = exchange(port, b"GET /late HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.endswith(b'"late"')
