"""Who guesses keys or passwords is stopped for a while; others are not."""

import asyncio
import base64
import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from urllib.parse import urlencode

import pytest
from asgi_helpers import ask
from fastapi import FastAPI

from monailabel_app.errors import RequestError
from monailabel_app.web import brake, sign_in
from monailabel_app.web.authentication import USER, Authentication
from monailabel_app.web.brake import FAILURES, SECONDS, Brake
from monailabel_app.web.errors import answer_errors
from monailabel_app.web.security import Guard

RANDOM_KEY = "Zb2jv7bL0mYwQe1nV5tXo9cKr3sUa8dF"


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when a test says so."""
    now = [0.0]
    monkeypatch.setattr(brake, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def guess(brake, client, times=FAILURES, secret="guess"):
    for _ in range(times):
        with pytest.raises(RequestError, match="^wrong"), brake.trying(client, secret):
            raise RequestError(401, "wrong")


def is_shut_out(brake, client, secret="guess"):
    try:
        with brake.trying(client, secret):
            return False
    except RequestError as error:
        assert error.status == 429 and "too many wrong credentials" in error.message
        return True


def test_after_too_many_failures(clock):
    tried = Brake()
    guess(tried, "192.0.2.1", FAILURES - 1)
    assert not is_shut_out(tried, "192.0.2.1")
    guess(tried, "192.0.2.1", 1)
    assert is_shut_out(tried, "192.0.2.1") and not is_shut_out(tried, "192.0.2.2")
    clock[0] += SECONDS + 1
    assert not is_shut_out(tried, "192.0.2.1")


def test_failures_that_are_few_at_a_time(clock):
    tried = Brake()
    for _ in range(4):
        guess(tried, "192.0.2.1", FAILURES - 1)
        clock[0] += SECONDS + 1
    assert not is_shut_out(tried, "192.0.2.1")


def test_other_errors_are_no_guesses():
    """A provider that does not answer, a full server."""
    tried = Brake()
    for status in (403, 502, 503):
        for _ in range(FAILURES):
            with pytest.raises(RequestError), tried.trying("192.0.2.1", "right"):
                raise RequestError(status, "something else")
    assert not is_shut_out(tried, "192.0.2.1")


@pytest.mark.parametrize(
    ("client", "other"),
    [("2001:db8::1", "2001:db8::ffff:1"), ("192.0.2.1", "192.0.2.1"), ("", ""), ("::ffff:192.0.2.1", "192.0.2.1")],
    ids=["a network of IPv6", "IPv4", "a socket without an address", "IPv4 within IPv6"],
)
def test_addresses_of_one_caller(client, other, clock):
    tried = Brake()
    guess(tried, client)
    assert is_shut_out(tried, other)


def test_many_addresses(clock, monkeypatch):
    """Each costs the same, however many there are, and memory for SITES; those of late are remembered."""
    monkeypatch.setattr(brake, "SITES", 100)
    tried = Brake()
    for number in range(1000):
        guess(tried, f"198.51.{number // 250}.{number % 250}", 1)
        if number % 50 == 0:
            clock[0] += 1
            guess(tried, "192.0.2.1", 1)
    assert len(tried._failures) == 100 and is_shut_out(tried, "192.0.2.1")
    clock[0] += SECONDS + 1
    guess(tried, "192.0.2.3", 1)
    assert list(tried._failures) == ["192.0.2.3/32"]


def test_one_failure_among_many_addresses(clock):
    """It looks at no other address than the oldest."""
    tried, looks = Brake(), []
    for number in range(1000):
        guess(tried, f"198.51.{number // 250}.{number % 250}", 1)
    recent = tried._recent
    tried._recent = lambda site: (looks.append(site), recent(site))[1]
    guess(tried, "192.0.2.1", 1)
    assert len(looks) <= 3


def key_file(path, keys):
    users = {hashlib.sha256(key.encode()).hexdigest(): {"name": name, "roles": [USER]} for key, name in keys.items()}
    path.write_text(json.dumps(users))
    return path


def nothing() -> dict:
    return {}


@pytest.fixture
def guard(tmp_path):
    """The doors of a server with a short key and a random one."""
    authentication = Authentication(key_file(tmp_path / "keys.json", {"key": "ann", RANDOM_KEY: "ben"}))
    server = FastAPI(openapi_url=None)
    server.state.authentication = authentication
    answer_errors(server)
    server.include_router(sign_in.router)
    server.add_api_route("/info/", nothing)
    return Guard(server, authentication)


def basic(name, key):
    return f"Basic {base64.b64encode(f'{name}:{key}'.encode()).decode()}"


def login(name, key):
    form = urlencode({"username": name, "password": key}).encode()
    return {
        "method": "POST",
        "path": "/auth/token",
        "body": form,
        "content_type": "application/x-www-form-urlencoded",
        "content_length": str(len(form)),
    }


WAYS = {
    "key": lambda name, key: {"path": "/info/", "x_api_key": key},
    "bearer": lambda name, key: {"path": "/info/", "authorization": f"Bearer {key}"},
    "browser": lambda name, key: {"path": "/info/", "authorization": basic(name, key)},
    "login form": login,
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_guess(way, guard):
    request = WAYS[way]
    assert [ask(guard, **request("ann", f"{n}"))[0] for n in range(FAILURES + 1)] == [401] * FAILURES + [429]
    for right in WAYS.values():
        assert ask(guard, **right("ann", "key"))[0] == 429  # the guess that is right tells nothing either
        assert ask(guard, **right("ann", "key"), client="192.0.2.9")[0] == 200
    assert ask(guard, path="/info/")[0] == 401  # who brings nothing is asked as ever


@pytest.mark.parametrize("way", WAYS)
def test_who_holds_a_random_key_is_not_shut_out(way, guard):
    """Whatever somebody else guesses at the same address; nor do wrong ones of that length shut anybody out."""
    for number in range(2 * FAILURES):
        assert ask(guard, **WAYS[way]("ben", f"{number:040}"))[0] == 401
    assert ask(guard, **WAYS[way]("ann", "key"))[0] == 200
    for number in range(2 * FAILURES):
        ask(guard, **WAYS[way]("ann", f"{number}"))
    assert ask(guard, **WAYS[way]("ben", RANDOM_KEY))[0] == 200
    assert ask(guard, **WAYS[way]("ann", RANDOM_KEY[::-1]))[0] == 401
    assert ask(guard, **WAYS[way]("ann", "key"))[0] == 429


@pytest.mark.parametrize(
    "request_",
    [
        {"x_api_key": "guess", "authorization": f"Bearer {'x' * 40}"},
        {"x_api_key": "guess", "authorization": basic("ben", "x" * 40)},
        {"authorization": f"Bearer guess{' ' * 40}"},
        {"authorization": basic("x" * 40, "guess")},
    ],
    ids=["another header", "another scheme", "blanks", "a long name"],
)
def test_a_short_guess_in_a_long_header(request_, guard):
    statuses = [ask(guard, path="/info/", **request_)[0] for _ in range(FAILURES + 1)]
    assert statuses == [401] * FAILURES + [429]


class Provider(Authentication):
    """One that knows a password of people, and takes its time."""

    asked = 0

    def _token_of_provider(self, username, password):
        self.asked += 1
        time.sleep(0.05)
        if password != "the right one, which is a long one":
            raise RequestError(401, "the credentials are not valid")
        return {"access_token": "t"}


def test_logins_at_a_time():
    """They come before the first is answered; long passwords are guesses, too, where people choose them."""
    authentication = Provider(realm="http://127.0.0.1:1")
    server = FastAPI(openapi_url=None)
    server.state.authentication = authentication
    answer_errors(server)
    server.include_router(sign_in.router)
    guard = Guard(server, authentication)

    def statuses(passwords):
        with ThreadPoolExecutor(len(passwords)) as pool:
            return list(pool.map(lambda password: ask(guard, **login("ann", password))[0], passwords))

    assert statuses(["the right one, which is a long one"] * 2 * FAILURES) == [200] * 2 * FAILURES
    authentication.asked = 0
    assert set(statuses([f"a guess that is as long as it may be {number}" for number in range(50)])) <= {401, 429}
    before = authentication.asked
    assert FAILURES <= before <= 50
    assert statuses(["the right one, which is a long one"]) == [429] and authentication.asked == before


def test_keys_at_a_time(guard):
    """The right one among many, all of which are there before the first is looked at."""
    answered = {}

    async def guess(key):
        async def note(message):
            if message["type"] == "http.response.start":
                answered[key] = message["status"]

        headers = [(b"host", b"a"), (b"x-api-key", key)]
        scope = {"type": "http", "method": "GET", "path": "/info/", "headers": headers, "client": ("::1", 1)}
        await guard({**scope, "query_string": b""}, None, note)

    async def guess_all():
        await asyncio.gather(*(guess(b"%d" % number) for number in range(300)), guess(b"key"))

    asyncio.run(guess_all())
    assert answered[b"key"] == 429
