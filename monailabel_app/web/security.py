"""Who may come in, and how much they may bring: checked before anything reads a request."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from starlette._utils import get_route_path
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from monailabel_app.errors import RequestError
from monailabel_app.web.audit import VIEWER
from monailabel_app.web.authentication import Authentication, User, claimed_name
from monailabel_app.web.errors import refusal
from monailabel_app.web.parameters import MAX_PARAMETERS

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
OPEN = ("/", "/auth/", "/auth/token")  # without credentials; the last takes name and password
TAKE_ARRAYS = tuple(  # their bodies are as large as files
    f"/nninteractive/{name}"
    for name in ("set_image", "add_scribble_interaction", "add_lasso_interaction", "add_initial_seg_interaction")
)
# A body may keep the server waiting for so long, and for as long again as its bytes take at the least speed.
BODY_SECONDS, BODY_SPEED = 60, 16 * 2**10  # bytes per second


def is_loopback(host: str) -> bool:
    """Whether only this computer reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """ASGI middleware: lets in whom it knows, from where it expects them, with as much as they may bring.

    Args:
        app: answers those who are let in; `scope["state"]["user"]` tells it who calls.
        authentication: who may do what; not enabled: everyone on this computer everything.
        insecure: serve other computers without authentication.
        origins: web pages of other servers that may call, such as https://viewer.example.
        max_upload: bytes of one request.
    """

    def __init__(
        self,
        app: ASGIApp,
        authentication: Authentication,
        *,
        insecure: bool = False,
        origins: Sequence[str] = (),
        max_upload: int = 2**31,
    ) -> None:
        self.app = app
        self.authentication = authentication
        self._only_local = not (authentication.enabled or insecure)
        self._origins = origins
        self._max_upload = max_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = get_route_path(scope)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        client = (scope.get("client") or ("", 0))[0]
        limit = self._limit(path, headers)
        try:
            if self._only_local:
                _check_local(client, headers)
            self._check_origin(path, headers)
            _check_length(headers, limit)
            if self._needs_user(path):
                scope.setdefault("state", {})["user"] = await self._user(client, headers)
        except RequestError as error:
            scope.setdefault("state", {})["tried"] = claimed_name(headers.get("authorization"))
            await refusal(error, self.authentication.challenge)(scope, receive, send)
        else:
            await self.app(scope, _limited(receive, limit), send)

    async def _user(self, client: str, headers: Mapping[str, str]) -> User:
        credentials = headers.get("authorization"), headers.get("x-api-key")
        if not any(credentials):
            return self.authentication.user(None, None)
        user: User = await run_in_threadpool(self.authentication.user, *credentials, client)
        return user

    def _needs_user(self, path: str) -> bool:
        if path.startswith(VIEWER):
            return self.authentication.guards_viewer
        return path not in OPEN

    def _limit(self, path: str, headers: Mapping[str, str]) -> int:
        """Bytes that a request may have: files many, parameters few."""
        kind = headers.get("content-type", "").lower()
        is_file = path not in OPEN and kind.startswith("multipart/") or path in TAKE_ARRAYS
        return self._max_upload if is_file else min(MAX_PARAMETERS, self._max_upload)

    def _check_origin(self, path: str, headers: Mapping[str, str]) -> None:
        origin = headers.get("origin")
        # A link of another page, or the way back from signing in, may open the viewer; an image or a form may not.
        opens_viewer = path.startswith(VIEWER) and headers.get("sec-fetch-dest") == "document"
        if not (origin or opens_viewer) and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise RequestError(403, "requests of this web page are not accepted")
        if origin and origin.partition("//")[2] != headers.get("host") and origin not in self._origins:
            raise RequestError(403, "requests of this web page are not accepted")


def _check_local(client: str, headers: Mapping[str, str]) -> None:
    if not is_loopback(client):
        raise RequestError(403, "without authentication the server answers only this computer")
    if _host_name(headers.get("host", "")) not in LOCAL_NAMES:
        raise RequestError(403, "the Host header is not this computer's")  # a web page that rebinds a name


def _check_length(headers: Mapping[str, str], limit: int) -> None:
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > limit:
        raise RequestError(413, f"the request has {length[:20]} bytes, at most {limit} are accepted")


def _limited(receive: Receive, limit: int) -> Receive:
    """Refuse a body that goes on beyond the limit, whatever its headers tell, or comes too slowly."""
    received, waited, complete = 0, 0.0, False

    async def receive_limited() -> Message:
        nonlocal received, waited, complete
        if complete:  # what comes now is that the client has gone, when it has
            return await receive()
        start = time.monotonic()
        try:
            async with asyncio.timeout(BODY_SECONDS + received / BODY_SPEED - waited):
                message = await receive()
        except TimeoutError as error:
            raise HTTPException(408, f"the request's body comes too slowly: {received} bytes until now") from error
        waited += time.monotonic() - start
        received += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if received > limit:  # FastAPI, which reads the body, passes on no other kind of error
            raise HTTPException(413, f"the request has more than {limit} bytes")
        return message

    return receive_limited


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
