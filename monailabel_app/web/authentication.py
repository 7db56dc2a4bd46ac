"""Who calls: nobody in particular on this computer, the holder of an API key, or a user of an OpenID provider."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jwt
import requests

from monailabel_app.errors import RequestError
from monailabel_app.settings import Settings
from monailabel_app.web.brake import Brake

ROLES = ("monailabel-admin", "monailabel-reviewer", "monailabel-annotator", "monailabel-user")  # MONAI Label's
ADMIN, REVIEWER, ANNOTATOR, USER = ROLES
# By the type of the provider's key. All need its private part; "none" and shared secrets are refused.
ALGORITHMS = {
    "RSA": ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
    "EC": ["ES256", "ES384", "ES512"],
    "OKP": ["EdDSA"],
}
TIMEOUT = 10  # seconds for the provider's answer
NO_ANSWER = (KeyError, TypeError, ValueError, AttributeError)  # JSON of another form, HTML

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class User:
    """Who calls, and as what."""

    username: str
    roles: tuple[str, ...]
    email: str = ""
    name: str = ""

    def json(self) -> dict[str, object]:
        return {"username": self.username, "email": self.email, "name": self.name, "roles": list(self.roles)}


LOCAL_USER = User("local", ROLES)


class Authentication:
    """Checks the caller's `Authorization` or `X-API-Key` header.

    Keys and tokens come as Bearer. A browser asks for name and key and sends them as Basic, so that OHIF gets in.

    Args:
        key_file: JSON, `{"SHA-256 of the key in hex": {"name": "...", "roles": ["monailabel-annotator"]}}`.
        realm: address of the OpenID provider's realm, such as https://keycloak.example/realms/hospital.
        client_id: the provider's name for this app; a token for another client is refused.
        roles_claim: where in the token the roles stand, "#" between levels.

    Raises:
        ValueError: the key file is no such JSON.
    """

    def __init__(
        self,
        key_file: str | Path | None = None,
        realm: str = "",
        client_id: str = "monailabel-app",
        roles_claim: str = "realm_access#roles",
    ) -> None:
        self._keys = _read_keys(Path(key_file)) if key_file else {}
        self.realm = realm.rstrip("/")
        self.client_id = client_id
        self._roles_claim = roles_claim.split("#")
        self._issuer: dict[str, str] = {}
        self._jwks: jwt.PyJWKClient | None = None
        self._brake = Brake()

    @classmethod
    def of(cls, settings: Settings) -> Authentication:
        """As the server's settings say."""
        return cls(settings.api_keys, settings.realm, settings.client_id)

    @property
    def enabled(self) -> bool:
        return bool(self._keys or self.realm)

    @property
    def challenge(self) -> str:
        """What a refused caller is told to send."""
        return 'Basic realm="Rep3D", charset="UTF-8"' if self._keys else "Bearer"

    @property
    def guards_viewer(self) -> bool:
        """Whether the viewer's files need credentials too: a browser asks for them at its first page."""
        return bool(self._keys)

    def user(self, authorization: str | None, api_key: str | None, client: str = "") -> User:
        """Who calls.

        Args:
            client: the address from which somebody calls.

        Raises:
            RequestError: 401, no or no valid credentials; 429, too many wrong ones from this address; 502, the provider
                does not answer.
        """
        if not self.enabled:
            return LOCAL_USER
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() == "basic" and not api_key:
            return self._user_of_password(token, client)
        credential = api_key or (token.strip() if scheme.lower() == "bearer" else "")
        if not credential:
            raise RequestError(401, "credentials are missing")
        with self._brake.trying(client, credential):
            user = self._user_of_key(credential)
            if user is None and self.realm:
                user = self._user_of_token(credential)
            if user is None:
                raise RequestError(401, "the credentials are not valid")
        return user

    def token(self, username: str, password: str, client: str = "") -> dict[str, object]:
        """What 3D Slicer asks for with its login form: of a key's holder the key itself, else the provider's token.

        Args:
            client: the address from which somebody calls.

        Raises:
            RequestError: 401, wrong name or password; 429 and 502, as `user`.
        """
        with self._brake.trying(client, "" if self.realm else password):  # people choose a provider's passwords
            user = self._user_of_key(password)
            if user is not None and user.username == username:
                return {"access_token": password, "token_type": "bearer"}
            if not self.realm:
                raise RequestError(401, "the credentials are not valid")
            return self._token_of_provider(username, password)

    def _token_of_provider(self, username: str, password: str) -> dict[str, object]:
        fields = {"client_id": self.client_id, "grant_type": "password", "username": username, "password": password}
        try:
            address = self._configuration()["token_endpoint"]
            answer = requests.post(address, data=fields, timeout=TIMEOUT, allow_redirects=False)
            if 400 <= answer.status_code < 500:
                raise RequestError(401, "the credentials are not valid")
            answer.raise_for_status()
            content = answer.json()
            return {"access_token": content["access_token"], "token_type": content.get("token_type", "bearer")}
        except (requests.RequestException, *NO_ANSWER) as error:
            raise _no_answer(error) from error

    def _user_of_password(self, encoded: str, client: str) -> User:
        try:
            name, key = _name_and_key(encoded)
        except ValueError as error:
            raise RequestError(401, "the credentials are not valid") from error
        with self._brake.trying(client, key):
            user = self._user_of_key(key)
            if user is None or user.username != name:
                raise RequestError(401, "the credentials are not valid")
        return user

    def _user_of_key(self, key: str) -> User | None:
        digest = hashlib.sha256(key.encode()).hexdigest()
        found = None
        for known, user in self._keys.items():  # all, so that the time does not tell which
            if hmac.compare_digest(known, digest):
                found = user
        return found

    def _user_of_token(self, token: str) -> User | None:
        try:
            configuration = self._configuration()
            if self._jwks is None:
                self._jwks = jwt.PyJWKClient(configuration["jwks_uri"], timeout=TIMEOUT)
            self._jwks.get_signing_keys()  # kept for a while; here, so that its errors are the provider's
        except (jwt.PyJWTError, requests.RequestException, *NO_ANSWER) as error:
            raise _no_answer(error) from error
        try:
            key = self._jwks.get_signing_key_from_jwt(token)
            claims = jwt.decode(
                token,
                key.key,
                algorithms=ALGORITHMS.get(key.key_type or "", []),
                issuer=configuration["issuer"],
                options={"require": ["exp", "iss"], "verify_aud": False},
            )
        except (jwt.PyJWKClientConnectionError, *NO_ANSWER) as error:  # asked again for a key that is new
            raise _no_answer(error) from error
        except (jwt.PyJWTError, RecursionError):
            return None
        if self.client_id not in (claims.get("azp"), *_as_list(claims.get("aud"))):
            return None
        roles: object = claims
        for level in self._roles_claim:
            roles = roles.get(level) if isinstance(roles, dict) else None
        return User(
            _username(claims),
            tuple(role for role in _as_list(roles) if role in ROLES),
            str(claims.get("email", "")),
            str(claims.get("name", "")),
        )

    def _configuration(self) -> dict[str, str]:
        if not self._issuer:
            answer = requests.get(f"{self.realm}/.well-known/openid-configuration", timeout=TIMEOUT)
            answer.raise_for_status()
            content = answer.json()
            self._issuer = {name: str(content[name]) for name in ("issuer", "jwks_uri", "token_endpoint")}
        return self._issuer


def claimed_name(authorization: str | None) -> str:
    """The name under which somebody asks to be let in, for the record: nothing proves it. Empty where there is none."""
    scheme, _, token = (authorization or "").partition(" ")
    try:
        if scheme.lower() == "basic":
            return _name_and_key(token)[0]
        if scheme.lower() == "bearer":
            return _username(jwt.decode(token.strip(), options={"verify_signature": False}))
    except (ValueError, jwt.PyJWTError, RecursionError):
        pass
    return ""


def _username(claims: Mapping[str, object]) -> str:
    return str(claims.get("preferred_username") or claims.get("sub", ""))


def _name_and_key(encoded: str) -> tuple[str, str]:
    """What a browser sends; raises ValueError where it is none."""
    name, _, key = base64.b64decode(encoded, validate=True).decode("utf-8").partition(":")
    return name, key


def _no_answer(error: Exception) -> RequestError:
    """502, and its cause in the log."""
    logger.error("the OpenID provider does not answer as expected: %r", error)
    return RequestError(502, "the OpenID provider does not answer as expected")


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _read_keys(path: Path) -> dict[str, User]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        keys = {digest.lower(): User(entry["name"], tuple(entry["roles"])) for digest, entry in content.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"api_keys: {path} cannot be read as JSON of keys ({error!r})") from error
    for digest, user in keys.items():
        wrong = set(user.roles) - set(ROLES)
        if not re.fullmatch("[0-9a-f]{64}", digest) or wrong:
            raise ValueError(f"api_keys: {path}: {user.name!r} needs the SHA-256 of its key in hex, and roles: {ROLES}")
    if not keys:
        raise ValueError(f"api_keys: {path} holds no key")
    return keys
