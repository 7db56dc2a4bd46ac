"""Places that clients hold: how long, how many, and whose."""

import json
import threading
import time
from contextlib import suppress

import pytest
from app_helpers import small_bundle
from prompt_helpers import start_app

from monailabel_app.errors import RequestError
from monailabel_app.interaction.leases import Leases


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ended():
    return []


@pytest.fixture
def leases(clock, ended):
    return Leases(ended.append, most=2, idle=600, liveness=60, clock=clock)


def status(function, *args, **kwargs) -> int:
    with pytest.raises(RequestError) as raised:
        function(*args, **kwargs)
    return raised.value.status


def act(leases: Leases, token: str, owner: str = "ann") -> None:
    with leases.acting(token, owner):
        pass


def test_a_client_that_is_gone(leases, clock, ended):
    token = leases.claim("ann", "hers")
    clock.now += 50
    assert leases.remaining(token, "ann", alive=True) == 550
    clock.now += 60
    assert leases.remaining(token, "ann") == 490  # asking is no sign of life
    clock.now += 1
    assert status(leases.remaining, token, "ann", alive=True) == 410


def test_who_asks_waits_for_nobodys_end(leases, clock, ended):
    """It would hold up all others: the server answers heartbeats without a thread of their own."""
    gone, token = leases.claim("ann", "hers"), leases.claim("bob", "his")
    clock.now += 50
    leases.remaining(token, "bob", alive=True)
    clock.now += 11
    assert leases.remaining(token, "bob", alive=True) == 539 and status(leases.remaining, gone, "ann") == 410
    assert ended == []
    act(leases, token, "bob")
    assert ended == ["hers"]


def test_a_user_who_does_nothing(leases, clock):
    token = leases.claim("ann", "hers")
    for _ in range(12):
        clock.now += 50
        leases.remaining(token, "ann", alive=True)  # the client lives
    clock.now += 1
    assert status(act, leases, token) == 410


def test_work_keeps_a_lease(leases, clock):
    token = leases.claim("ann", "hers")
    with leases.acting(token, "ann") as held:
        clock.now += 10_000  # a long answer
        assert held == "hers" and leases.remaining(token, "ann") == 0
    assert leases.remaining(token, "ann") == 600


def test_a_full_server(leases, clock, ended):
    first, second = leases.claim("ann", 1), leases.claim("bob", 2)
    assert status(leases.claim, "cid", 3) == 503
    leases.release(first, "bob")  # not his
    assert status(leases.claim, "cid", 3) == 503
    leases.release(first, "ann")
    third = leases.claim("cid", 3)
    assert len({first, second, third}) == 3 and ended == [1]
    clock.now += 61
    leases.claim("dan", 4)
    assert ended == [1, 2, 3]


def test_one_user_leaves_places_to_others(clock, ended):
    leases = Leases(ended.append, most=3, spared=1, clock=clock)
    first = leases.claim("ann", 1)
    leases.claim("ann", 2)
    assert status(leases.claim, "ann", 3) == 503
    leases.claim("bob", 4)
    leases.release(first, "ann")
    leases.claim("ann", 5)
    assert status(leases.claim, "bob", 6) == 503


@pytest.mark.parametrize("logs_in", [False, True])
def test_the_app_spares_a_place_where_users_log_in(logs_in, tmp_path):
    """Otherwise all of them have one name."""
    small_bundle(tmp_path / "bundles", "kits", weights=False)
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"0" * 64: {"name": "ann", "roles": ["monailabel-user"]}}))
    conf = {"api_keys": str(keys)} if logs_in else {}
    leases = start_app(tmp_path, tmp_path / "studies", tmp_path / "bundles", "kits", **conf).services.leases
    for _ in range(leases.most - logs_in):
        leases.claim("ann", None)
    assert status(leases.claim, "ann", None) == 503 and (leases.claim("bob", None) if logs_in else True)


def test_a_lease_of_another_user(leases):
    token = leases.claim("ann", "hers")
    for wrong in ((token, "bob"), ("", "ann"), (token[:-1], "ann")):
        assert status(leases.remaining, *wrong) == 410 and status(act, leases, *wrong) == 410
    leases.release("", "ann")  # as often as one likes


def test_one_request_at_a_time(leases):
    token, inside, met = leases.claim("ann", "hers"), [], []
    first_is_in, go_on = threading.Event(), threading.Event()

    def work(wait):
        with leases.acting(token, "ann"):
            inside.append(1)
            met.append(len(inside))
            first_is_in.set()
            wait and go_on.wait(60)
            inside.pop()

    threads = [threading.Thread(target=work, args=(wait,)) for wait in (True, False)]
    threads[0].start()
    first_is_in.wait(60)
    threads[1].start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # until the second waits
        with pytest.raises(RequestError) as raised:
            act(leases, token)
        if raised.value.status == 429:
            break
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert met == [1, 1]
    act(leases, token)


def test_who_ends_gets_rid_of_what_waits(leases):
    """A request that waits for another's answer goes on with the lease that it found."""
    token = leases.claim("ann", "hers")
    with leases.acting(token, "ann"):
        leases.release(token, "ann")
    assert status(act, leases, token) == 410


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_lease_holds_ends_after_its_last_request(leases, ended, fails):
    """Else the answer of a request at work would go with it, or what it makes would stay."""
    token = leases.claim("ann", "hers")
    with suppress(ZeroDivisionError), leases.acting(token, "ann"):
        leases.release(token, "ann")
        leases.release(token, "ann")
        leases.claim("bob", "his")
        assert ended == []
        if fails:
            1 / 0  # noqa: B018
    assert ended == ["hers"]
    assert status(act, leases, token) == 410 and ended == ["hers"]


def test_what_a_lease_holds_outlives_the_first_of_two_requests(leases, ended):
    token, seen = leases.claim("ann", "hers"), []

    def second():
        with leases.acting(token, "ann"):
            seen.append(list(ended))

    with leases.acting(token, "ann"):
        worker = threading.Thread(target=second)
        worker.start()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and leases._leases[token].requests < 2:
            time.sleep(0.01)
        leases.release(token, "ann")
    worker.join(60)
    assert seen == [[]] and ended == ["hers"]
