"""Behind a prefix of the address: doors and records go by the path of the route, not by the whole one."""

import hashlib
import json

import pytest
from asgi_helpers import ask
from fastapi import FastAPI

from monailabel_app.web.audit import AuditLog
from monailabel_app.web.authentication import USER, Authentication
from monailabel_app.web.security import Guard

PREFIX = "/monai"


def prefixed(app):
    """The scope as uvicorn makes it of `--root_path`: its path has the prefix, too."""

    async def call(scope, receive, send):
        await app({**scope, "root_path": PREFIX, "path": PREFIX + scope["path"]}, receive, send)

    return call


def nothing() -> dict:
    return {}


@pytest.fixture
def server():
    server = FastAPI(openapi_url=None)
    for path in ("/", "/auth/", "/auth/token", "/info/", "/ohif/app.js", "/proxy/dicom/qido/studies"):
        server.add_api_route(path, nothing, methods=["GET", "POST"])
    return server


@pytest.fixture
def audit_log(tmp_path):
    return tmp_path / "audit.jsonl"


@pytest.fixture
def app(server, audit_log, tmp_path):
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({hashlib.sha256(b"key").hexdigest(): {"name": "ann", "roles": [USER]}}))
    return prefixed(AuditLog(Guard(server, Authentication(path)), audit_log, 2**20))


@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/auth/", 200), ("/auth/token", 200), ("/info/", 401)])
def test_doors(path, status, app):
    assert ask(app, path=path)[0] == status
    assert ask(app, path=path, x_api_key="key")[0] == 200


def test_records(app, audit_log):
    ask(app, path="/ohif/app.js", x_api_key="key")
    assert audit_log.read_text() == ""
    ask(app, path="/proxy/dicom/qido/studies", query=b"PatientName=Doe", x_api_key="key")
    entry = json.loads(audit_log.read_text())
    assert (entry["path"], entry["query"], entry["user"]) == ("/proxy/dicom/qido/studies", "", "ann")


def test_a_path_that_only_looks_like_the_prefix(server):
    """`/monaix/info/` and `/monai/auth/` below the prefix are no routes, and no open doors."""

    async def call(scope, receive, send):
        await Guard(server, Authentication(realm="http://127.0.0.1:1"))({**scope, "root_path": PREFIX}, receive, send)

    assert ask(call, path="/monaix/auth/")[0] == 401
    assert ask(prefixed(call), path=f"{PREFIX}/auth/")[0] == 401
