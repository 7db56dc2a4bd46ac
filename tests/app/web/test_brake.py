"""Who guesses keys or passwords is stopped for a while; others are not."""

import asyncio
import hashlib
import json

import pytest
from asgi_helpers import ask

from monailabel_app.errors import RequestError
from monailabel_app.web import brake
from monailabel_app.web.authentication import USER, Authentication
from monailabel_app.web.brake import FAILURES, SECONDS, Brake
from monailabel_app.web.security import Guard


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when a test says so."""
    now = [0.0]
    monkeypatch.setattr(brake.time, "monotonic", lambda: now[0])
    return now


def guess(brake, client, times=FAILURES):
    for _ in range(times):
        brake.check(client)
        brake.failed(client)


def test_after_too_many_failures(clock):
    tried = Brake()
    guess(tried, "192.0.2.1")
    with pytest.raises(RequestError, match="too many wrong credentials") as caught:
        tried.check("192.0.2.1")
    assert caught.value.status == 429
    tried.check("192.0.2.2")
    clock[0] += SECONDS + 1
    tried.check("192.0.2.1")
    tried.failed("192.0.2.3")
    assert list(tried._failures) == ["192.0.2.3/32"]  # others are forgotten


def test_failures_that_are_few_at_a_time(clock):
    tried = Brake()
    for _ in range(4):
        guess(tried, "192.0.2.1", FAILURES - 1)
        clock[0] += SECONDS + 1


@pytest.mark.parametrize(
    ("client", "other"),
    [("2001:db8::1", "2001:db8::ffff:1"), ("192.0.2.1", "192.0.2.1"), ("", ""), ("::ffff:192.0.2.1", "192.0.2.1")],
    ids=["a network of IPv6", "IPv4", "a socket without an address", "IPv4 within IPv6"],
)
def test_addresses_of_one_caller(client, other, clock):
    tried = Brake()
    guess(tried, client)
    with pytest.raises(RequestError):
        tried.check(other)


async def answer(scope, receive, send):
    """The app behind the guard: nobody's name and password are right."""
    await asyncio.sleep(0)
    status = 401 if scope["path"] == "/auth/token" else 200
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


@pytest.mark.parametrize(
    "request_",
    [
        {"path": "/info/", "x_api_key": "guess"},
        {"path": "/info/", "authorization": "Bearer guess"},
        {"path": "/info/", "authorization": "Basic YW5uOmd1ZXNz"},
        {"method": "POST", "path": "/auth/token"},
    ],
    ids=["key", "bearer", "browser", "login form"],
)
def test_every_way_to_guess(request_, tmp_path):
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({hashlib.sha256(b"key").hexdigest(): {"name": "ann", "roles": [USER]}}))
    guard = Guard(answer, Authentication(path))
    right = {"path": "/info/", "x_api_key": "key"}
    assert [ask(guard, **request_)[0] for _ in range(FAILURES + 1)] == [401] * FAILURES + [429]
    assert ask(guard, **right)[0] == 429  # the guess that is right tells nothing either
    assert ask(guard, **right, client="192.0.2.9")[0] == 200
    assert ask(guard, path="/info/")[0] == 401  # who brings nothing is asked as ever


@pytest.mark.parametrize(("status", "refused"), [(401, True), (200, False), (502, False)])
def test_logins_at_a_time(status, refused, tmp_path):
    """All come before the first is answered. Right ones, and a provider that does not answer, do not count for long."""
    answered = []

    async def slow(scope, receive, send):
        await asyncio.sleep(0.05)
        await send({"type": "http.response.start", "status": status, "headers": []})

    async def note(message):
        if message["type"] == "http.response.start":
            answered.append(message["status"])

    guard = Guard(slow, Authentication(realm="http://127.0.0.1:1"))
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/auth/token",
        "headers": [(b"host", b"a")],
        "client": ("::1", 1),
    }

    async def log_in(times):
        await asyncio.gather(*(guard(dict(scope), None, note) for _ in range(times)))

    asyncio.run(log_in(2 * FAILURES))
    assert answered.count(429) == answered.count(status) == FAILURES
    asyncio.run(log_in(1))
    assert answered[-1] == (429 if refused else status)


def test_keys_at_a_time(tmp_path):
    """The right one among many, all of which are there before the first is looked at."""
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({hashlib.sha256(b"key").hexdigest(): {"name": "ann", "roles": [USER]}}))
    answered = {}
    guard = Guard(answer, Authentication(path))

    async def guess(key):
        async def note(message):
            if message["type"] == "http.response.start":
                answered[key] = message["status"]

        headers = [(b"host", b"a"), (b"x-api-key", key)]
        scope = {"type": "http", "method": "GET", "path": "/info/", "headers": headers, "client": ("::1", 1)}
        await guard(scope, None, note)

    async def guess_all():
        await asyncio.gather(*(guess(b"%d" % number) for number in range(300)), guess(b"key"))

    asyncio.run(guess_all())
    assert answered[b"key"] == 429
