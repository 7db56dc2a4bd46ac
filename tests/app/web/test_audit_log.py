"""The audit log: whole lines, none lost when files change, and no more files than asked for."""

import asyncio
import json
import logging.handlers
import threading

import pytest

from monailabel_app.web.audit import FILES, AuditLog

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
