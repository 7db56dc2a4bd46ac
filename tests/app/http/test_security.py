"""What callers are told when something fails inside."""

import asyncio
import json
import logging

from fastapi import FastAPI

from monailabel_app.http.security import Security, guard


def fail():
    raise RuntimeError("secret of the server")


def ask(app, path):
    """Status and JSON of an answer, without a network."""
    messages = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        messages.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1")],
        "client": ("127.0.0.1", 1),
    }
    asyncio.run(app.middleware_stack(scope, receive, send))
    return messages[0]["status"], json.loads(messages[1]["body"])


def test_an_error_of_ours(caplog):
    """A reference to the log, once, and nothing of the error."""
    app = FastAPI()
    guard(app, Security(), [lambda server: server.add_api_route("/fail", fail)])
    with caplog.at_level(logging.ERROR):
        status, answer = ask(app, "/fail")
    (record,) = [record for record in caplog.records if record.name == "monailabel_app.http.security"]
    reference = record.getMessage().split()[-1]
    assert status == 500 and answer == {"detail": f"internal error {reference}, see the server's log"}
    assert "secret" in caplog.text and ask(app, "/other")[0] == 404
