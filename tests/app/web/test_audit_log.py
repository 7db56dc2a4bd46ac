"""The audit log: whole lines, none lost when files change, and no more files than asked for."""

import asyncio
import base64
import hashlib
import json
import logging.handlers
import threading

import jwt
import pytest
from asgi_helpers import ask
from fastapi import FastAPI

from monailabel_app.web import sign_in
from monailabel_app.web.audit import FILES, AuditLog
from monailabel_app.web.authentication import USER, Authentication
from monailabel_app.web.errors import answer_errors
from monailabel_app.web.security import Guard

CLIENTS, REQUESTS = 8, 40


async def answer(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def ignore(message):
    pass


def request(log, path):
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b'a="%s"', "headers": []}
    scope |= {"client": ("127.0.0.1", 1), "headers": [(b"host", b"localhost")]}
    asyncio.run(log(scope, None, ignore))


def many_requests(log):
    work = [
        threading.Thread(target=lambda client=client: [request(log, f"/{client}/{n}") for n in range(REQUESTS)])
        for client in range(CLIENTS)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()


def recorded(folder):
    """The paths asked for, of all files."""
    lines = [line for path in sorted(folder.iterdir()) for line in path.read_text().splitlines()]
    return [json.loads(line)["path"] for line in lines]


@pytest.fixture
def log(tmp_path):
    return AuditLog(answer, tmp_path / "audit.jsonl", FILES * 8192)


EVERY_PATH = sorted(f"/{client}/{n}" for client in range(CLIENTS) for n in range(REQUESTS))


def test_no_line_is_lost(log, tmp_path):
    many_requests(log)
    assert sorted(recorded(tmp_path)) == EVERY_PATH
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert len(sizes) > 3 and max(sizes.values()) <= 8192
    request(AuditLog(answer, tmp_path / "audit.jsonl", FILES * 8192), "/after/restart")
    assert "/after/restart" in (tmp_path / "audit.jsonl").read_text()
    assert len(recorded(tmp_path)) == CLIENTS * REQUESTS + 1


def test_the_oldest_lines_go(tmp_path):
    many_requests(AuditLog(answer, tmp_path / "audit.jsonl", FILES * 1024))
    assert len(list(tmp_path.iterdir())) == FILES
    assert set(recorded(tmp_path)) < set(EVERY_PATH)


def test_a_file_that_cannot_be_moved(log, tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "another program has it open")

    monkeypatch.setattr(logging.handlers.os, "rename", refuse)
    many_requests(log)
    assert sorted(recorded(tmp_path)) == EVERY_PATH and len(list(tmp_path.iterdir())) == 1


def basic(name):
    return "Basic " + base64.b64encode(f"{name}:wrong".encode()).decode()


def unproved(**claims):
    return "Bearer " + jwt.encode(claims, "a secret of nobody's, 32 bytes long", "HS256")


@pytest.mark.parametrize(
    ("authorization", "tried"),
    [
        (basic("Dr Böhm"), "Dr Böhm"),
        (basic("x" * 1000), "x" * 200),
        (unproved(preferred_username="ann"), "ann"),
        (unproved(sub="12-34"), "12-34"),
        ("Bearer guess", None),
        ("Basic //", None),
        ("", None),
    ],
)
def test_who_tried_to_get_in(authorization, tried, tmp_path):
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({hashlib.sha256(b"key").hexdigest(): {"name": "ann", "roles": [USER]}}))
    log = AuditLog(Guard(answer, Authentication(path)), tmp_path / "audit.jsonl", 2**20)
    assert ask(log, path="/info/", authorization=authorization)[0] == 401
    entry = json.loads((tmp_path / "audit.jsonl").read_text())
    assert (entry["status"], entry["user"], entry.get("tried")) == (401, None, tried)
    assert "wrong" not in str(entry) and "guess" not in str(entry)


def test_who_tried_to_log_in(tmp_path):
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({hashlib.sha256(b"key").hexdigest(): {"name": "ann", "roles": [USER]}}))
    server = FastAPI()
    answer_errors(server)
    server.state.authentication = Authentication(path)
    server.include_router(sign_in.router)
    log = AuditLog(Guard(server, server.state.authentication), tmp_path / "audit.jsonl", 2**20)
    form = b"username=bob&password=wrong"
    headers = {"content_type": "application/x-www-form-urlencoded"}
    assert ask(log, "POST", "/auth/token", form, **headers)[0] == 401
    entry = json.loads((tmp_path / "audit.jsonl").read_text())
    assert (entry["tried"], entry["status"]) == ("bob", 401) and "wrong" not in str(entry)
