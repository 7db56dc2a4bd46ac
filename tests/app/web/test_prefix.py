"""Behind a prefix of the address: doors and records go by the path of the route, not by the whole one."""

import hashlib
import json

import pytest
from asgi_helpers import ask
from fastapi import FastAPI
from starlette.requests import Request
from starlette.testclient import TestClient

from monailabel_app.web import viewer
from monailabel_app.web.answers import image_answer
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


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_the_viewers_addresses(prefix):
    """OHIF's files are made for /ohif/ at the root of an address; its pages and its own programs follow the prefix."""
    server = FastAPI(openapi_url=None)
    viewer.mount_files(server)
    client = TestClient(prefixed(server) if prefix else server, "http://127.0.0.1")
    page = client.get("/ohif/viewer")
    assert f'src="{prefix}/ohif/app.bundle.' in page.text and f"PUBLIC_URL = '{prefix}/ohif/'" in page.text
    assert page.headers["set-cookie"].startswith(
        f"MONAILABEL_SERVER_URL=http%3A%2F%2F127.0.0.1{prefix.replace('/', '%2F')}%2F; Path={prefix}/;"
    )
    forged = client.get("/ohif/app-config.js", headers={"host": "evil/other"})
    config = client.get("/ohif/app-config.js")
    assert forged.text == config.text
    assert f"routerBasename: '{prefix}/ohif/'" in config.text and f"'{prefix}/proxy/dicom/wado'" in config.text
    program = page.text.partition(f'src="{prefix}/ohif/app.bundle.')[2].partition('"')[0]
    answer = client.get(f"/ohif/app.bundle.{program}")
    assert f'__webpack_require__.p = "{prefix}/ohif/";' in answer.text
    assert int(answer.headers["content-length"]) == len(answer.content)
    for known in (config, answer):
        assert client.get(known.url.path, headers={"if-none-match": known.headers["etag"]}).status_code == 304


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_the_page_of_an_image(prefix):
    scope = {"type": "http", "path": f"{prefix}/", "root_path": prefix, "headers": [(b"host", b"a")], "scheme": "http"}
    info = image_answer({"id": "1.2", "path": "/secret", "RetrieveURL": "/ohif/x?y=1"}, Request(scope))
    assert info == {"id": "1.2", "RetrieveURL": f"{prefix}/ohif/x?y=1"}
