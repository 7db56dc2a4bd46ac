"""The app itself: its page, what it offers, and its log."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, PlainTextResponse

from monailabel_app.errors import RequestError
from monailabel_app.web.arguments import Admin, AnyUser, AppServices

LOG_LINES = 10_000  # at most, of one request for the log

router = APIRouter()


@router.get("/", include_in_schema=False)
def welcome(services: AppServices) -> HTMLResponse:
    models = "".join(f"<li>{name}</li>" for name in services.bundles)
    return HTMLResponse(
        f"<title>Rep3D</title><h1>Rep3D for MONAI Label</h1><p>Models:</p><ul>{models}</ul>"
        "<p>3D Slicer: module MONAI Label, enter this page's address as the server.</p>"
    )


@router.get("/info/")
def info(user: AnyUser, services: AppServices) -> dict[str, object]:
    return services.describe_app()


@router.get("/logs/")
def logs(user: Admin, services: AppServices, lines: int = 300) -> PlainTextResponse:
    path = services.app_dir / "logs/app.log"
    if not path.is_file():
        raise RequestError(404, "there is no log file")
    kept = path.read_text(encoding="utf-8", errors="replace").splitlines()[-min(max(lines, 1), LOG_LINES) :]
    return PlainTextResponse("\n".join(kept))
