"""What callers are told when something fails: never the server's code, paths or traces."""

from __future__ import annotations

import logging
import uuid

from fastapi import FastAPI, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from monailabel_app.errors import RequestError, storage_error

RETRY_SECONDS = "10"  # after which who was told to come again may

logger = logging.getLogger(__name__)


def refusal(error: RequestError, challenge: str = "Bearer") -> JSONResponse:
    """The answer to a request that is refused.

    Args:
        challenge: what somebody who is not known is told to send.
    """
    headers = {401: {"WWW-Authenticate": challenge}, 503: {"Retry-After": RETRY_SECONDS}}.get(error.status)
    return JSONResponse({"detail": error.message}, error.status, headers)


def answer_errors(server: FastAPI) -> None:
    """Answer what a server's handlers raise; what nobody expects is left to `ErrorAnswers`."""
    server.add_exception_handler(RequestValidationError, _answer_wrong_request)
    for kind in (RequestError, OSError, HTTPException):
        server.add_exception_handler(kind, _answer_refusal)
    server.add_exception_handler(Exception, _leave)


class ErrorAnswers:
    """ASGI middleware: who meets an error that nobody expected gets a reference to the server's log, and no more.

    No browser takes an answer for anything but what it says to be.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def send_watched(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message["headers"], (b"x-content-type-options", b"nosniff")]}
            await send(message)

        try:
            await self.app(scope, receive, send_watched)
        except Exception:
            reference = uuid.uuid4().hex[:8]
            logger.exception("error %s", reference)
            if not started:
                detail = f"internal error {reference}, see the server's log"
                await JSONResponse({"detail": detail}, 500)(scope, receive, send_watched)


async def _answer_wrong_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    message = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".encode(errors="backslashreplace").decode()
    return JSONResponse({"detail": message}, 422)


async def _answer_refusal(request: Request, error: Exception) -> Response:
    """507 where a file cannot be stored, also where FastAPI calls that an error in the request's body."""
    not_stored = storage_error(error) or storage_error(error.__cause__)
    if not_stored is not None:
        logger.error("%s %s: %s", request.method, request.url.path, error)
        return refusal(not_stored)
    if isinstance(error, RequestError):
        return refusal(error)
    if isinstance(error, HTTPException):
        return await http_exception_handler(request, error)
    raise error


async def _leave(request: Request, error: Exception) -> Response:
    raise error
