"""OHIF, which MONAI Label brings, and its way to the PACS: DICOMweb requests, passed on."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import monailabel
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse, RedirectResponse, Response, StreamingResponse
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from monailabel_app.errors import RequestError
from monailabel_app.web.answers import prefix_of
from monailabel_app.web.arguments import AnyUser, AppServices
from monailabel_app.web.authentication import ANNOTATOR

STATIC = Path(monailabel.__file__).parent / "endpoints/static"
SERVER_COOKIE = "MONAILABEL_SERVER_URL"  # where OHIF's panel of MONAI Label looks for its server first
TO_PACS = ("accept", "accept-encoding", "content-type")
FROM_PACS = ("content-type", "content-encoding", "content-length")
INERT = {"content-security-policy": "sandbox"}  # a page that somebody stored in the PACS runs nothing
PIECE = 2**16  # bytes
SCRIPTS = ("text/html", "text/javascript", "application/javascript")
ADDRESSES = (b'"/ohif/', b"'/ohif/", b"'/proxy/")  # in OHIF's files, which know of no prefix of the server's address

router = APIRouter()


def mount_files(server: FastAPI) -> None:
    """Serve OHIF at /ohif/."""
    server.mount("/static", StaticFiles(directory=STATIC))
    server.mount("/ohif", _Viewer(directory=STATIC / "ohif", html=True))


@router.get("/favicon.ico", include_in_schema=False)
def favicon() -> RedirectResponse:
    return RedirectResponse("/static/favicon.ico")


@router.api_route("/proxy/dicom/{service}/{path:path}", methods=["GET", "POST"], include_in_schema=False)
async def dicomweb(
    user: AnyUser, services: AppServices, request: Request, service: Literal["wado", "qido", "stow"], path: str
) -> Response:
    """The PACS's answer to a search, a retrieval or (POST) an instance to store, at the address where OHIF looks."""
    if services.pacs is None:
        raise RequestError(404, "the studies are in a folder, not in a PACS")
    if request.method == "POST" and ANNOTATOR not in user.roles:
        raise RequestError(403, f"the role {ANNOTATOR!r} is required")
    if request.method == "POST" and not request.headers.get("content-type", "").startswith("multipart/related"):
        raise RequestError(400, "instances are stored as multipart/related")
    headers = {name: request.headers[name] for name in TO_PACS if name in request.headers}
    body = await request.body() if request.method == "POST" else None
    answer = await run_in_threadpool(services.pacs.forward, request.method, path, request.url.query, headers, body)
    return StreamingResponse(
        answer.raw.stream(PIECE, decode_content=False),
        answer.status_code,
        {name: answer.headers[name] for name in FROM_PACS if name in answer.headers} | INERT,
        background=BackgroundTask(answer.close),
    )


class _Viewer(StaticFiles):
    """OHIF's files; its pages have addresses of their own, which all mean index.html."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        try:
            response = await super().get_response(path, scope)
        except HTTPException as error:
            if error.status_code != 404:
                raise
            response = await super().get_response("index.html", scope)
        request = Request(scope)
        prefix = prefix_of(request)
        if prefix and isinstance(response, FileResponse) and response.media_type in SCRIPTS:
            content = await run_in_threadpool(_prefixed, str(response.path), prefix)
            kept = {name: response.headers[name] for name in ("etag", "last-modified")}
            response = Response(content, response.status_code, kept, response.media_type)
        if response.media_type == "text/html" and SERVER_COOKIE not in request.cookies:
            address = request.base_url.replace(path=f"{prefix}/")
            quoted = quote(str(address), safe="")  # set_cookie would put it into quotes
            response.headers.append("set-cookie", f"{SERVER_COOKIE}={quoted}; Path={prefix}/; SameSite=Strict")
        return response


@lru_cache
def _prefixed(path: str, prefix: str) -> bytes:
    """A file whose addresses of this server begin with the prefix."""
    content = Path(path).read_bytes()
    for address in ADDRESSES:
        content = content.replace(address, address[:1] + prefix.encode() + address[1:])
    return content
