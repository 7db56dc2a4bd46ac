"""Keys and tokens, against a provider that runs here."""

import base64
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from monailabel_app.errors import RequestError
from monailabel_app.web.authentication import ANNOTATOR, LOCAL_USER, USER, Authentication

KEY, OTHER_KEY = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))


@pytest.fixture(scope="module")
def realm():
    """An OpenID provider: its configuration, its public key, and tokens for one password."""

    class Provider(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path.endswith("openid-configuration"):
                here = f"http://127.0.0.1:{self.server.server_port}"
                self.answer(200, {"issuer": here, "jwks_uri": f"{here}/keys", "token_endpoint": f"{here}/token"})
            else:
                key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key()))
                self.answer(200, {"keys": [{**key, "kid": "1", "use": "sig", "alg": "RS256"}]})

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            right = "password=right" in body and "username=ann" in body
            self.answer(200 if right else 401, {"access_token": "token of ann", "token_type": "bearer"})

        def answer(self, status, content):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def make_token(realm, key=KEY, algorithm="RS256", **claims):
    content = {
        "iss": realm,
        "exp": time.time() + 60,
        "azp": "monailabel-app",
        "preferred_username": "ann",
        "realm_access": {"roles": [USER, ANNOTATOR, "something else"]},
        **claims,
    }
    return jwt.encode({k: v for k, v in content.items() if v is not None}, key, algorithm, headers={"kid": "1"})


def test_without_authentication():
    assert Authentication().user(None, None) == LOCAL_USER


def test_token(realm):
    user = Authentication(realm=realm).user(f"Bearer {make_token(realm)}", None)
    assert user.username == "ann" and user.roles == (USER, ANNOTATOR)


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": 1},
        {"exp": None},
        {"iss": "http://other.example"},
        {"azp": "another app"},
        {"key": OTHER_KEY},
        {"key": "monailabel" * 4, "algorithm": "HS256"},
        {"key": None, "algorithm": "none"},
    ],
    ids=["expired", "without expiry", "issuer", "client", "signature", "shared secret", "unsigned"],
)
def test_tokens_that_are_not_accepted(claims, realm):
    with pytest.raises(RequestError) as caught:
        Authentication(realm=realm).user(f"Bearer {make_token(realm, **claims)}", None)
    assert caught.value.status == 401


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer a.b.c", "Bearer junk"])
def test_other_headers(header, realm):
    with pytest.raises(RequestError) as caught:
        Authentication(realm=realm).user(header, None)
    assert caught.value.status == 401


def test_a_browser_sends_name_and_key(tmp_path):
    entry = {"name": "Dr Böhm", "roles": [USER]}
    (tmp_path / "keys.json").write_text(json.dumps({hashlib.sha256(b"k:ey").hexdigest(): entry}), encoding="utf-8")
    authentication = Authentication(tmp_path / "keys.json")
    encoded = {
        text: base64.b64encode(text.encode()).decode() for text in ("Dr Böhm:k:ey", "other:k:ey", "Dr Böhm:", "x")
    }
    assert authentication.user(f"Basic {encoded.pop('Dr Böhm:k:ey')}", None).username == "Dr Böhm"
    assert authentication.challenge.startswith("Basic")
    for wrong in (*encoded.values(), "", "//", "ä"):
        with pytest.raises(RequestError) as caught:
            authentication.user(f"Basic {wrong}", None)
        assert caught.value.status == 401


def test_password(realm):
    authentication = Authentication(realm=realm)
    assert authentication.token("ann", "right")["access_token"] == "token of ann"
    with pytest.raises(RequestError) as caught:
        authentication.token("ann", "wrong")
    assert caught.value.status == 401


def test_provider_that_does_not_answer():
    authentication = Authentication(realm="http://127.0.0.1:1")
    for call in (lambda: authentication.user("Bearer a.b.c", None), lambda: authentication.token("a", "b")):
        with pytest.raises(RequestError, match="does not answer") as caught:
            call()
        assert caught.value.status == 502


def test_keys(tmp_path):
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({hashlib.sha256(b"secret").hexdigest(): {"name": "ann", "roles": [USER]}}))
    authentication = Authentication(path)
    for headers in (("Bearer secret", None), (None, "secret")):
        assert authentication.user(*headers).username == "ann"
    assert authentication.token("ann", "secret")["access_token"] == "secret"
    for call in (lambda: authentication.user(None, "guess"), lambda: authentication.token("bob", "secret")):
        with pytest.raises(RequestError, match="not valid"):
            call()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read as JSON"),
        ("[]", "cannot be read"),
        ("{}", "holds no key"),
        ('{"secret": {"name": "ann", "roles": []}}', "needs the SHA-256 of its key"),
        (json.dumps({"0" * 64: {"name": "ann", "roles": ["boss"]}}), "roles"),
    ],
)
def test_key_files_that_are_none(content, message, tmp_path):
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        Authentication(path)
