"""The server's doors: who may come in, how much they may bring, what they are told when something fails, and a record.

MONAI Label's own endpoints are not used: they evaluate request parameters, follow paths of the caller's choice and
block the server while a network runs. `routes` and `viewer` answer the same requests in their place.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from monailabel_app.errors import RequestError, storage_error
from monailabel_app.http.authentication import Authentication
from monailabel_app.validation import MAX_PARAMETERS

logger = logging.getLogger(__name__)

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
OPEN = ("/", "/auth/", "/auth/token")  # without credentials
VIEWER = ("/ohif", "/static", "/favicon.ico")  # its files, of which there is no record
PROXY = "/proxy/"  # a viewer's searches name patients
AUDIT_FILES = 20  # that the audit log is made of, at most
Scope = MutableMapping[str, Any]
ASGIApp = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


@dataclass(frozen=True)
class Security:
    """What the server lets in.

    Args:
        authentication: who may do what; not enabled: everyone on this computer everything.
        insecure: serve other computers without authentication.
        origins: web pages of other servers that may call, such as https://viewer.example.
        max_upload: bytes of one request.
        audit_file: JSON lines of who did what and when; None: no record. Older lines move on to files that end in .1,
            .2 and so on.
        audit_bytes: of all these files, about; the oldest lines go.
    """

    authentication: Authentication = field(default_factory=Authentication)
    insecure: bool = False
    origins: Sequence[str] = ()
    max_upload: int = 2 * 2**30
    audit_file: Path | None = None
    audit_bytes: int = 2**30


def is_loopback(host: str) -> bool:
    """Whether only this computer reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def guard(app: FastAPI, security: Security, additions: Sequence[Callable[[FastAPI], None]]) -> None:
    """From now on, what the additions add to a new server answers what comes to `app`, behind the doors.

    Starlette sends every request through `app.middleware_stack`, so that this holds for a server that is starting.
    """
    server = FastAPI(title="Rep3D", openapi_url=None)
    server.state.security = security
    server.add_exception_handler(RequestValidationError, _answer_wrong_request)
    for kind in (OSError, HTTPException):
        server.add_exception_handler(kind, _answer_storage_error)
    server.add_exception_handler(Exception, _leave_to_doors)
    for add in additions:
        add(server)
    inner: ASGIApp = server
    if security.origins:
        inner = CORSMiddleware(
            server, allow_origins=list(security.origins), allow_methods=["*"], allow_headers=["*"], max_age=600
        )
    app.middleware_stack = Doors(inner, security)


class Doors:
    """ASGI middleware around everything: address, origin and size of requests, errors, and the audit log."""

    def __init__(self, app: ASGIApp, security: Security) -> None:
        self.app = app
        self.security = security
        self._audit: logging.Handler = logging.NullHandler()
        if security.audit_file is not None:
            self._audit = _AuditLog(
                security.audit_file,
                maxBytes=security.audit_bytes // AUDIT_FILES,
                backupCount=AUDIT_FILES - 1,
                encoding="utf-8",
            )

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        answer = {"status": 500, "started": False}
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        limit = self._limit(scope["path"], headers)
        received = 0

        async def limited_receive() -> Any:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise RequestError(413, f"the request has more than {limit} bytes")
            return message

        async def watched_send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.update(status=message["status"], started=True)
                message = {**message, "headers": [*message["headers"], (b"x-content-type-options", b"nosniff")]}
            await send(message)

        scope.setdefault("state", {})
        try:
            self._check(scope, headers)
            if self._needs_user(scope["path"]):  # before a body is read
                credentials = headers.get("authorization"), headers.get("x-api-key")
                scope["state"]["user"] = await run_in_threadpool(self.security.authentication.user, *credentials)
            await self.app(scope, limited_receive, watched_send)
        except RequestError as error:
            challenge = {"WWW-Authenticate": self.security.authentication.challenge} if error.status == 401 else None
            await JSONResponse({"detail": error.message}, error.status, challenge)(scope, receive, watched_send)
        except Exception:
            reference = uuid.uuid4().hex[:8]
            logger.exception("error %s", reference)
            if not answer["started"]:
                message = f"internal error {reference}, see the server's log"
                await JSONResponse({"detail": message}, 500)(scope, receive, watched_send)
        finally:
            self._record(scope, int(answer["status"]), time.perf_counter() - start)

    def _needs_user(self, path: str) -> bool:
        if path.startswith(VIEWER):
            return self.security.authentication.guards_viewer
        return path not in OPEN

    def _limit(self, path: str, headers: Mapping[str, str]) -> int:
        """Bytes that a request may have: files many, parameters few."""
        is_file = path not in OPEN and headers.get("content-type", "").lower().startswith("multipart/")
        return self.security.max_upload if is_file else min(MAX_PARAMETERS, self.security.max_upload)

    def _check(self, scope: Scope, headers: Mapping[str, str]) -> None:
        security = self.security
        client = (scope.get("client") or ("", 0))[0]
        guarded = security.authentication.enabled or security.insecure
        if not guarded:
            if not is_loopback(client):
                raise RequestError(403, "without authentication the server answers only this computer")
            if _host_name(headers.get("host", "")) not in LOCAL_NAMES:
                raise RequestError(403, "the Host header is not this computer's")  # a web page that rebinds a name
        origin = headers.get("origin")
        # A link of another page, or the way back from signing in, may open the viewer; an image or a form may not.
        opens_viewer = scope["path"].startswith(VIEWER) and headers.get("sec-fetch-dest") == "document"
        if not (origin or opens_viewer) and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise RequestError(403, "requests of this web page are not accepted")
        if origin and origin.partition("//")[2] != headers.get("host") and origin not in security.origins:
            raise RequestError(403, "requests of this web page are not accepted")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._limit(scope["path"], headers):
            raise RequestError(
                413, f"the request has {length[:20]} bytes, at most {self._limit(scope['path'], headers)} are accepted"
            )

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        if scope["path"].startswith(VIEWER):
            return
        user = scope["state"].get("user")
        entry = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "user": user.username if user else None,
            "client": (scope.get("client") or ("",))[0],
            "method": scope["method"],
            "path": scope["path"][:500],
            "query": "" if scope["path"].startswith(PROXY) else scope["query_string"].decode("latin-1")[:500],
            "status": status,
            "seconds": round(seconds, 3),
        }
        self._audit.handle(logging.makeLogRecord({"msg": json.dumps(entry)}))


class _AuditLog(RotatingFileHandler):
    """Goes on in the same file where that cannot be moved, rather than to lose a line."""

    def doRollover(self) -> None:
        try:
            super().doRollover()
        except OSError:
            logger.exception("the audit log goes on in the same file")
            self.stream = None  # type: ignore[assignment]  # opened again by the next line


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


async def _answer_wrong_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"detail": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"}, 422)


async def _leave_to_doors(request: Request, error: Exception) -> Response:
    raise error


async def _answer_storage_error(request: Request, error: Exception) -> Response:
    """507 where a file cannot be written; other errors are answered as ever."""
    told = storage_error(error) or storage_error(error.__cause__)
    if told is not None:
        logger.error("%s %s: %s", request.method, request.url.path, error)
        return JSONResponse({"detail": told.message}, told.status)
    if isinstance(error, HTTPException):
        return await http_exception_handler(request, error)
    raise error
