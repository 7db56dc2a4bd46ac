"""Who holds a place at nnInteractive's door, for how long, and what is refused there."""

import hashlib
import json
import logging
import threading
import time

import httpx
import numpy as np
import pytest
from nnInteractive.inference.remote import (
    ServerAtCapacityError,
    SessionExpiredError,
)
from nnInteractive.inference.remote import (
    nnInteractiveRemoteInferenceSession as Client,
)
from nninteractive_helpers import FIRST, SECOND, SHAPE, SPACING, Clock, LookAlike, Running, make_app, two_balls

from monailabel_app.interaction.packing import pack
from monailabel_app.studies.volumes import admitted
from monailabel_app.web import nninteractive
from monailabel_app.web.authentication import USER, Authentication


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    return make_app(tmp_path_factory.mktemp("app"))


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def network():
    return LookAlike()


@pytest.fixture
def server(app, network, clock, tmp_path):
    with Running(app, tmp_path, network, most=2, idle=600, liveness=60, clock=clock) as running:
        yield running


def begin(server, **kwargs) -> Client:
    client = Client(server.url, **kwargs)
    client.set_image(two_balls()[None], {"spacing": SPACING})
    client.set_target_buffer(np.zeros(SHAPE, np.uint8))
    return client


def post(client: Client, path: str, meta=None, **kwargs) -> httpx.Response:
    headers = {"Content-Type": "application/json"} if meta is None else {"X-Meta": json.dumps(meta)}
    return client._http.post(path, headers=headers, **kwargs)


@pytest.fixture(scope="module")
def steady(app, tmp_path_factory):
    """A client of which a server knows a mask, for tests of what changes nothing."""
    with Running(app, tmp_path_factory.mktemp("sessions"), LookAlike()) as running, begin(running) as client:
        client.add_point_interaction(FIRST, True)
        yield running, client


def test_a_client_that_is_gone(server, clock):
    client = begin(server)
    clock.now += 50
    assert client.heartbeat() == 550
    clock.now += 50
    client.add_point_interaction(FIRST, True)
    clock.now += 61
    for call in (client.heartbeat, client.lease_status, client.undo, lambda: client.add_point_interaction(FIRST, True)):
        with pytest.raises(SessionExpiredError, match="connect again"):
            call()
    client.close()
    again = begin(server)  # begins with an empty mask; what was made before is kept
    assert not again.undo()
    kept = server.services.interaction.list(None)
    assert sorted(session["labels"] for session in kept) == [[], ["segment"]]
    again.close()
    assert [session["labels"] for session in server.services.interaction.list(None)] == [["segment"]]


def test_a_session_that_is_deleted(server):
    client = begin(server)
    client.add_point_interaction(FIRST, True)
    server.services.interaction.remove(server.services.interaction.list(None)[0]["id"], None)
    with pytest.raises(SessionExpiredError, match="was deleted"):
        client.add_point_interaction(FIRST, True)
    client.close()


def test_a_user_who_does_nothing(server, clock):
    client = begin(server)
    for _ in range(12):
        clock.now += 50
        client.heartbeat()
    clock.now += 1
    with pytest.raises(SessionExpiredError):
        client.heartbeat()


def test_a_full_server(server, clock):
    first, second = begin(server), begin(server)
    with pytest.raises(ServerAtCapacityError, match="all 2 places of the server are taken"):
        Client(server.url)
    refused = httpx.post(f"{server.url}/claim")
    assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
    first.close()
    third = Client(server.url)
    second.add_point_interaction(FIRST, True)  # others are not disturbed
    clock.now += 61
    Client(server.url).close()
    with pytest.raises(SessionExpiredError):
        third.heartbeat()


def test_two_clients_do_not_mix(server):
    one, other = begin(server), begin(server)
    one.add_point_interaction(FIRST, True)
    other.add_point_interaction(SECOND, True)
    assert not (one.target_buffer & other.target_buffer).any()
    assert one.undo() and not one.target_buffer.any() and not one.undo() and other.undo()


def test_a_secured_server(app, network, tmp_path):
    keys = {name: {"name": name, "roles": [USER]} for name in ("ann", "bob")} | {"eve": {"name": "eve", "roles": []}}
    (tmp_path / "keys.json").write_text(
        json.dumps({hashlib.sha256(f"key of {name}".encode()).hexdigest(): told for name, told in keys.items()})
    )
    with Running(app, tmp_path / "sessions", network, Authentication(tmp_path / "keys.json")) as server:
        for wrong, status in (("guess", 401), (None, 401), ("key of eve", 403)):
            with pytest.raises(httpx.HTTPStatusError) as raised:
                Client(server.url, api_key=wrong)
            assert raised.value.response.status_code == status
        client = begin(server, api_key="key of ann")
        client.add_point_interaction(FIRST, True)
        assert client.target_buffer[FIRST] and client.ping()
        assert [session["owner"] for session in server.services.interaction.list(None)] == ["ann"]
        of_bob = {"Authorization": "Bearer key of bob"}
        taken = post(client, "/undo")
        assert taken.status_code == 200
        stolen = httpx.post(f"{server.url}/undo", headers={**of_bob, "X-Lease-Token": client._lease_token})
        assert stolen.status_code == 410
        assert httpx.get(f"{server.url}/healthz").status_code == 401


def test_others_are_answered_while_a_network_computes(server, network):
    client, other = begin(server), Client(server.url)
    network.gate.clear()
    thread = threading.Thread(target=client.add_point_interaction, args=(FIRST, True))
    thread.start()
    assert network.asked.wait(10)
    seconds = []
    for call in (client.ping, client.heartbeat, client.lease_status, other.heartbeat, other.ping):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    network.gate.set()
    thread.join(10)
    assert client.target_buffer[FIRST]
    assert sorted(seconds)[2] < 0.2, seconds  # most of them, on a machine that others use, too


SPOT = {"include_interaction": True, "run_prediction": True}


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("point", {"coordinates": [24, 0, 0]}, "voxel (24, 0, 0), lies outside the scan of (24, 40, 36)"),
        ("point", {"coordinates": [0, -1, 0]}, "(0, -1, 0)"),
        ("point", {"coordinates": [0, float("nan"), 0]}, "coordinates.1: Input should be a finite number"),
        ("point", {"coordinates": [0, 0]}, "coordinates"),
        ("point", {"coordinates": [1e308, 0, 0]}, "finite"),
        ("point", {"coordinates": [10**30, 0, 0]}, "lies outside the scan"),
        ("point", {"coordinates": [[0, 0, 0]]}, "coordinates"),
        ("point", {"coordinates": [0, True, "1"]}, "coordinates"),
        ("point", {"coordinates": list(range(10_000))}, "coordinates"),
        ("point", {"coordinates": [[1, 1, 1]] * 10_000}, "at most"),
        ("point", {}, "coordinates"),
        ("point", {"coordinates": [1, 1, 1], "include_interaction": "maybe"}, "include_interaction"),
        ("bbox", {"bbox_coords": [[0, 1], [4, 4], [0, 5]]}, "[4.0, 4.0]"),
        ("bbox", {"bbox_coords": [[30, 31], [4, 8], [0, 5]]}, "holds no voxel"),
        ("bbox", {"bbox_coords": [[0, 1], [4, 8]]}, "bbox_coords"),
        ("bbox", {"bbox_coords": [[0, 1], [4, float("inf")], [0, 5]]}, "finite"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_prompts_that_are_refused(path, body, told, steady):
    server, client = steady
    before = server.kept()
    content = json.dumps({**SPOT, **body}).encode()
    answer = post(client, f"/add_{path}_interaction", content=content)
    assert 400 <= answer.status_code < 500
    assert told in answer.json()["detail"] and "\n" not in answer.json()["detail"]
    assert server.kept() == before


SLICE = [[3, 4], [5, 9], [6, 12]]
AREA = np.ones((1, 4, 6), np.uint8)


def bomb(shape, dtype="uint8") -> bytes:
    """What declares a shape and holds a few bytes."""
    packed = pack(np.zeros(1, dtype))
    size, name = 8 + len(dtype), dtype.encode()
    return packed[:6] + bytes([len(shape), len(name)]) + name + np.array(shape, "<i8").tobytes() + packed[size + 8 :]


@pytest.mark.parametrize(
    ("path", "meta", "body", "told"),
    [
        (
            "scribble",
            {"interaction_bbox": SLICE},
            pack(np.ones((1, 4, 5), np.uint8)),
            "expected whole numbers of shape",
        ),
        ("scribble", {"interaction_bbox": SLICE}, pack(AREA.astype(np.float32)), "expected whole numbers"),
        ("scribble", {"interaction_bbox": SLICE}, pack(AREA * 0), "the scribble has no voxels"),
        ("scribble", {"interaction_bbox": [[3, 4], [5, 9], [40, 46]]}, pack(AREA), "lies outside the scan"),
        ("scribble", {"interaction_bbox": [[3, 4], [5, 9]]}, pack(AREA), "X-Meta: interaction_bbox"),
        ("scribble", {"interaction_bbox": SLICE}, pack(AREA)[:-5], "is cut off"),
        ("scribble", {"interaction_bbox": SLICE}, b"", "is cut off"),
        ("scribble", {"interaction_bbox": SLICE}, b"PK\3\4" * 9, "begins with"),
        ("scribble", {"interaction_bbox": SLICE}, bomb([1, 4096, 4096, 4096]), "expected whole numbers of shape"),
        (
            "lasso",
            {"interaction_bbox": [[3, 5], [5, 9], [6, 12]]},
            pack(np.ones((2, 4, 6), bool)),
            "expected one slice",
        ),
        ("initial_seg", {}, pack(np.ones(SHAPE[1:], np.uint8)), "expected whole numbers of shape"),
        ("initial_seg", {}, pack(np.arange(np.prod(SHAPE)).reshape(SHAPE)), "several values"),
        ("initial_seg", {}, bomb([*SHAPE[:2], 2**40]), "expected whole numbers of shape"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_masks_that_are_refused(path, meta, body, told, steady):
    server, client = steady
    before = server.kept()
    answer = post(client, f"/add_{path}_interaction", {**SPOT, **meta}, content=body)
    assert answer.status_code == 400 and told in answer.json()["detail"]
    assert server.kept() == before


def test_masks_that_are_too_large(steady, monkeypatch):
    server, client = steady
    before = server.kept()
    monkeypatch.setattr(nninteractive, "MAX_BYTES", 2 * np.prod(SHAPE))
    answer = post(client, "/add_initial_seg_interaction", {}, content=bomb(SHAPE, "int32"))
    assert answer.status_code == 413 and "the mask is int32" in answer.json()["detail"]
    assert server.kept() == before


def test_large_masks_come_one_at_a_time(server, monkeypatch):
    """They wait for uploads as these for them; a hand edit of the usual size waits for neither."""
    client, mask = begin(server), np.zeros(SHAPE, np.uint8)
    mask[FIRST] = 1
    thread = threading.Thread(target=client.add_initial_seg_interaction, args=(mask.astype(np.int64),))
    with admitted():
        client.add_initial_seg_interaction(mask)
        monkeypatch.setattr(nninteractive, "SMALL_BYTES", mask.nbytes)
        client.add_initial_seg_interaction(mask)
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
    thread.join(10)
    assert not thread.is_alive() and server.mask()[FIRST]


IMAGE = two_balls()[None]


@pytest.mark.parametrize(
    ("meta", "body", "status", "told"),
    [
        ({}, pack(IMAGE[0]), 400, "expected one channel and three axes"),
        ({}, pack(np.concatenate([IMAGE] * 3)), 400, "expected one channel and three axes"),
        ({}, pack(np.where(IMAGE > 50, np.nan, IMAGE)), 400, "NaN"),
        ({}, bomb([1, 4096, 4096, 4096], "float32"), 413, "the image is float32 of shape"),
        ({}, bomb([1, 2**31, 1, 1]), 413, "4096"),
        ({"image_properties": {"spacing": [1, 0, 1]}}, pack(IMAGE), 400, "spacing"),
        ({"image_properties": {"spacing": [1, 1]}}, pack(IMAGE), 400, "spacing"),
        ({"image_properties": {"spacing": [1, float("nan"), 1]}}, pack(IMAGE), 400, "spacing"),
        ({"image_properties": []}, pack(IMAGE), 400, "X-Meta: image_properties"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_images_that_are_refused(meta, body, status, told, steady):
    server, client = steady
    before = server.kept()
    answer = post(client, "/set_image", meta, content=body)
    assert answer.status_code == status and told in answer.json()["detail"]
    assert server.kept() == before


def test_what_needs_an_image(server, caplog):
    caplog.set_level(logging.INFO)
    client = Client(server.url)
    for call in (
        client.undo,
        client._predict,
        client.reset_interactions,
        lambda: client.add_point_interaction(FIRST, True),
        lambda: client.add_initial_seg_interaction(np.zeros(SHAPE, np.uint8)),
        lambda: client.set_target_buffer(np.zeros(SHAPE, np.uint8)),
    ):
        with pytest.raises(httpx.HTTPStatusError) as raised:
            call()
        assert raised.value.response.status_code == 409
    client.set_image(IMAGE)  # without spacing voxels are a millimetre wide
    with pytest.raises(httpx.HTTPStatusError) as raised:
        client.set_target_buffer(np.zeros(SHAPE[::-1], np.uint8))
    assert "target buffer has the shape [36, 40, 24]" in raised.value.response.json()["detail"]
    assert "/nninteractive refused local: the target buffer has the shape [36, 40, 24]" in caplog.text


def test_bodies_are_as_large_as_files_only_where_arrays_come(steady):
    server, client = steady
    for path, status in (("/set_image", 400), ("/undo", 413), ("/add_point_interaction", 413)):
        assert post(client, path, {}, content=b"x" * 200_000).status_code == status
    refused = httpx.post(f"{server.url}/set_image", content=b"x" * 200_000, headers={"X-Lease-Token": "no"})
    assert refused.status_code == 410


def test_a_server_whose_network_has_no_weights(tmp_path):
    app = make_app(tmp_path, weights=False)
    with Running(app, tmp_path / "sessions") as server:
        with pytest.raises(httpx.HTTPStatusError) as raised:
            Client(server.url)
        assert raised.value.response.status_code == 404
        assert raised.value.response.json()["detail"] == "model 'interactive' has no weights yet: train it first"
