"""Requests to an ASGI app, without a network."""

import asyncio
import json


def ask(app, method="GET", path="/", body=b"", client="127.0.0.1", query=b"", **headers):
    """Status, headers and JSON of an answer."""
    messages = []
    pieces = [body[: len(body) // 2], body[len(body) // 2 :]]

    async def receive():
        piece = pieces.pop(0) if pieces else b""
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message):
        messages.append(message)

    headers = {"host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": (client, 1),
    }
    asyncio.run(app(scope, receive, send))
    content = b"".join(message.get("body", b"") for message in messages[1:])
    told = {name.decode().lower(): value.decode() for name, value in messages[0]["headers"]}
    return messages[0]["status"], told, json.loads(content) if content else None
