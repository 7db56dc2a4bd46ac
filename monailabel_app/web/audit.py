"""The record of requests: who did what, when, and how it ended."""

from __future__ import annotations

import logging
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path

from starlette._utils import get_route_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from monailabel_app.events import audit_line, take_events

FILES = 20  # that the audit log is made of, at most
VIEWER = ("/ohif", "/static", "/favicon.ico")  # its files, of which there is no record
PROXY = "/proxy/"  # a viewer's searches name patients

logger = logging.getLogger(__name__)


class AuditLog:
    """ASGI middleware: a line of JSON for every request but those for the viewer's files, and for other events.

    Args:
        app: answers; it may tell the `user` in `scope["state"]`, or, of who did not get in, the name that was `tried`.
        file: takes the lines. Older ones move on to files that end in .1, .2 and so on.
        max_bytes: of all these files, about; the oldest lines go.
    """

    def __init__(self, app: ASGIApp, file: Path, max_bytes: int) -> None:
        self.app = app
        self._file = _AuditFile(file, maxBytes=max_bytes // FILES, backupCount=FILES - 1, encoding="utf-8")
        take_events(self._file)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or get_route_path(scope).startswith(VIEWER):
            await self.app(scope, receive, send)
            return
        scope.setdefault("state", {})
        start, status = time.perf_counter(), 500

        async def send_watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_watched)
        finally:
            self._record(scope, status, time.perf_counter() - start)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        user, tried = (scope["state"].get(key) for key in ("user", "tried"))
        path = get_route_path(scope)
        entry = {
            "user": user.username if user else None,
            "client": (scope.get("client") or ("",))[0],
            "method": scope["method"],
            "path": path[:500],
            "query": "" if path.startswith(PROXY) else scope["query_string"].decode("latin-1")[:500],
            "status": status,
            "seconds": round(seconds, 3),
        }
        if tried and not user:
            entry["tried"] = tried[:200]
        self._file.handle(logging.makeLogRecord({"msg": audit_line(**entry)}))


class _AuditFile(RotatingFileHandler):
    """Goes on in the same file where that cannot be moved, rather than to lose a line."""

    def doRollover(self) -> None:
        try:
            super().doRollover()
        except OSError:
            logger.exception("the audit log goes on in the same file")
            self.stream = None  # type: ignore[assignment]  # opened again by the next line
