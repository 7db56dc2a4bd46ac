"""The server that answers MONAI Label's clients. The paths, parameters and answers are MONAI Label's.

Its own endpoints are not used: they evaluate request parameters, follow paths of the caller's choice and block the
server while a network runs. Here handlers are plain functions: FastAPI runs them in threads, so that the server answers
others meanwhile.
"""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from monailabel_app.services import Services
from monailabel_app.web import (
    active_learning,
    app,
    batch,
    datastore,
    images,
    inference,
    interaction,
    labels,
    models,
    nninteractive,
    sessions,
    sign_in,
    training,
    viewer,
)
from monailabel_app.web.audit import AuditLog
from monailabel_app.web.authentication import Authentication
from monailabel_app.web.errors import ErrorAnswers, answer_errors
from monailabel_app.web.security import Guard

RESOURCES = (
    app,
    sign_in,
    inference,
    interaction,
    nninteractive,
    batch,
    training,
    datastore,
    images,
    labels,
    sessions,
    active_learning,
    models,
    viewer,
)


def make_server(services: Services, authentication: Authentication) -> ASGIApp:
    """Everything between a request and its answer; what comes first in a request's way stands last."""
    settings = services.settings
    server = FastAPI(title="Rep3D", openapi_url=None)
    server.state.services, server.state.authentication = services, authentication
    answer_errors(server)
    for resource in RESOURCES:
        server.include_router(resource.router)
    viewer.mount_files(server)
    inner: ASGIApp = server
    if settings.origins:
        inner = CORSMiddleware(
            server, allow_origins=list(settings.origins), allow_methods=["*"], allow_headers=["*"], max_age=600
        )
    guard = Guard(
        inner,
        authentication,
        insecure=settings.insecure,
        origins=settings.origins,
        max_upload=settings.max_upload,
    )
    return AuditLog(ErrorAnswers(guard), services.app_dir / "logs/audit.jsonl", settings.max_audit)
