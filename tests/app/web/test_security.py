"""Who comes in, and with how much."""

import hashlib
import json
from typing import Annotated

import pytest
from asgi_helpers import ask
from fastapi import Body, FastAPI, Request

from monailabel_app.web.authentication import USER, Authentication
from monailabel_app.web.errors import answer_errors
from monailabel_app.web.parameters import MAX_PARAMETERS
from monailabel_app.web.security import Guard


def who(request: Request) -> str:
    return request.state.user.username


def length(body: Annotated[dict, Body()]) -> int:
    return len(json.dumps(body))


@pytest.fixture
def server():
    server = FastAPI()
    answer_errors(server)
    server.add_api_route("/who", who)
    server.add_api_route("/length", length, methods=["POST"])
    return server


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({hashlib.sha256(b"key").hexdigest(): {"name": "ann", "roles": [USER]}}))
    return Authentication(path)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({}, 200),
        ({"client": "::1", "host": "[::1]:8000"}, 200),
        ({"origin": "http://localhost"}, 200),
        ({"client": "192.0.2.1"}, 403),
        ({"host": "evil.example"}, 403),
        ({"host": "["}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"content_length": "-1"}, 413),
        ({"content_length": str(MAX_PARAMETERS + 1)}, 413),
    ],
    ids=str,
)
def test_without_authentication(request_, status, server):
    assert ask(Guard(server, Authentication()), path="/who", **request_)[0] == status


def test_what_settings_allow(server, keys):
    page = "https://viewer.example"
    assert ask(Guard(server, Authentication(), origins=[page]), path="/who", origin=page)[0] == 200
    assert ask(Guard(server, Authentication(), insecure=True), path="/who", client="192.0.2.1", host="a")[0] == 200
    known = ask(Guard(server, keys), path="/who", client="192.0.2.1", host="a", x_api_key="key")
    assert known[0] == 200 and known[2] == "ann"


def test_unknown_callers(server, keys):
    for headers in ({}, {"x_api_key": "guess"}):
        status, told, _ = ask(Guard(server, keys), path="/who", **headers)
        assert status == 401 and told["www-authenticate"].startswith("Basic")
    assert ask(Guard(server, keys), path="/auth/")[0] == 404  # let in, and not there


def test_a_body_that_tells_no_length(server):
    """It is measured while it comes in; half of it is within the limit here."""
    guard = Guard(server, Authentication(), max_upload=1000)
    for size, status in ((900, 200), (1100, 413)):
        body = json.dumps({"a": "x" * size}).encode()
        answer = ask(guard, "POST", "/length", body, content_type="application/json")
        assert answer[0] == status, answer
