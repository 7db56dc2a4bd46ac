"""Tokens and OpenID providers that are not as they should be: 401 for the one, 502 for the other, never a 500."""

import base64
import json
import time
from contextlib import contextmanager

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from strangers import stranger

from monailabel_app.errors import RequestError
from monailabel_app.web.authentication import Authentication

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY, P384_KEY = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
PUBLIC = {
    "1": jwt.algorithms.RSAAlgorithm.to_jwk(RSA_KEY.public_key()),
    "2": jwt.algorithms.ECAlgorithm.to_jwk(EC_KEY.public_key()),
    "3": jwt.algorithms.OKPAlgorithm.to_jwk(ED_KEY.public_key()),
}
KEYS = {"keys": [{**json.loads(key), "kid": kid} for kid, key in PUBLIC.items()]}
PAGE = "<html>Please sign in</html>"


@contextmanager
def provider(**answers):
    """A realm that answers as it should but for `configuration`, `keys` or `token`."""
    with stranger() as server:
        realm = server.url
        told = {"issuer": realm, "jwks_uri": f"{realm}/keys", "token_endpoint": f"{realm}/token"}
        server.answers = {
            "/.well-known/openid-configuration": answers.get("configuration", (200, told)),
            "/keys": answers.get("keys", (200, KEYS)),
            "/token": answers.get("token", (200, {"access_token": "t"})),
            "/text": (200, PAGE),
            "/page": (200, {"access_token": "somebody else's"}),
        }
        yield realm


def make_token(realm, key, algorithm, kid):
    claims = {"iss": realm, "exp": time.time() + 60, "azp": "monailabel-app", "preferred_username": "ann"}
    return jwt.encode(claims, key, algorithm, headers={"kid": kid})


@pytest.fixture(scope="module")
def realm():
    with provider() as address:
        yield address


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"), [(RSA_KEY, "RS256", "1"), (RSA_KEY, "PS512", "1"), (EC_KEY, "ES256", "2")]
)
def test_every_algorithm_of_a_key(key, algorithm, kid, realm):
    token = make_token(realm, key, algorithm, kid)
    assert Authentication(realm=realm).user(f"Bearer {token}", None).username == "ann"


def nested(depth=20_000):
    """A token whose header no JSON reader follows to its end."""
    return f"{base64.urlsafe_b64encode(b'[' * depth).decode().rstrip('=')}.e30.e30"


@pytest.mark.parametrize(
    "make",
    [
        lambda realm: make_token(realm, EC_KEY, "ES256", "1"),
        lambda realm: make_token(realm, RSA_KEY, "RS256", "2"),
        lambda realm: make_token(realm, ED_KEY, "EdDSA", "1"),
        lambda realm: make_token(realm, RSA_KEY, "RS256", "3"),
        lambda realm: make_token(realm, P384_KEY, "ES384", "2"),
        lambda realm: make_token(realm, "a shared secret of 32 characters", "HS256", "1"),
        lambda realm: make_token(realm, RSA_KEY, "RS256", "9"),
        lambda realm: nested(),
    ],
    ids=["EC for RSA", "RSA for EC", "Ed for RSA", "RSA for Ed", "another curve", "shared", "unknown key", "nested"],
)
def test_tokens_that_do_not_fit_the_key(make, realm):
    with pytest.raises(RequestError) as caught:
        Authentication(realm=realm).user(f"Bearer {make(realm)}", None)
    assert caught.value.status == 401


@pytest.mark.parametrize(
    "content", [(200, PAGE), (200, []), (200, {"issuer": "x"}), (200, "null"), (503, PAGE)], ids=str
)
def test_a_configuration_that_is_none(content):
    with provider(configuration=content) as address:
        authentication = Authentication(realm=address)
        for call in (
            lambda: authentication.user("Bearer a.b.c", None),
            lambda: authentication.token("ann", "right"),
        ):
            refused(call)


@pytest.mark.parametrize("content", [(200, PAGE), (200, []), (200, {}), (200, {"keys": []}), (302, "/page")], ids=str)
def test_keys_that_are_none(content):
    with provider(keys=content) as address:
        token = make_token(address, RSA_KEY, "RS256", "1")
        refused(lambda: Authentication(realm=address).user(f"Bearer {token}", None))


@pytest.mark.parametrize("content", [(200, PAGE), (200, {}), (200, []), (500, PAGE), (302, "/page")], ids=str)
def test_answers_to_a_login_that_are_none(content):
    """The password goes to no other address than the provider's own."""
    with provider(token=content) as address:
        refused(lambda: Authentication(realm=address).token("ann", "right"))


def refused(call):
    with pytest.raises(RequestError, match="the OpenID provider does not answer as expected") as caught:
        call()
    assert caught.value.status == 502


def test_a_provider_that_recovers():
    """Nothing of a wrong answer is kept."""
    with provider() as address:
        authentication = Authentication(realm=f"{address}/absent")
        refused(lambda: authentication.token("ann", "right"))
        authentication.realm = address
        assert authentication.token("ann", "right")["access_token"] == "t"


def test_a_provider_that_breaks():
    """It is asked again for a key that it did not have."""
    with provider() as address:
        authentication = Authentication(realm=address)
        token = f"Bearer {make_token(address, RSA_KEY, 'RS256', '1')}"
        assert authentication.user(token, None).username == "ann"
        jwks = authentication._jwks
        jwks.cooldown_duration, jwks.uri = 0, f"{address}/text"
        refused(lambda: authentication.user(f"Bearer {make_token(address, RSA_KEY, 'RS256', '9')}", None))
        assert authentication.user(token, None).username == "ann"
