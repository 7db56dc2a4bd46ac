import os
import stat
import threading
import time

import pytest
import schedule
from app_helpers import small_bundle

from monailabel_app.errors import RequestError
from monailabel_app.main import Rep3DApp
from monailabel_app.studies import sessions
from monailabel_app.studies.sessions import Sessions
from rep3d import files


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "upload.nii.gz"
    path.write_bytes(b"x" * 100)
    return path


@pytest.fixture
def store(tmp_path):
    return Sessions(tmp_path / "sessions")


def names(store):
    return sorted(path.name for path in store.root.iterdir())


def test_a_session_is_its_owners(store, image):
    session = store.create(image, "ann")
    assert store.image(session.name, "ann").read_bytes() == image.read_bytes()
    for owner, name in (("bob", session.name), ("ann", "../sessions"), ("ann", "absent")):
        with pytest.raises(RequestError, match="no such session"):
            store.get(name, owner)
    store.remove(session.name, "ann")
    assert names(store) == []


def test_nobody_else_may_read_the_files(image, tmp_path):
    """Also where an earlier server has made the folder."""
    (tmp_path / "sessions").mkdir(mode=0o755)
    store = Sessions(tmp_path / "sessions")
    session = store.create(image, "ann")
    store.get(session.name, "ann")  # which notes the use
    for folder in (store.root, store.root / session.name):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (store.root / session.name).iterdir()}
    assert modes == {"session.json": 0o600, image.name: 0o600}


@pytest.mark.parametrize("content", ["junk", "[]", '{"name": 1}'])
def test_a_damaged_session_holds_up_no_other(content, store, image):
    damaged = store.create(image, "ann")
    (store.root / damaged.name / "session.json").write_text(content)
    with pytest.raises(RequestError, match="no such session"):
        store.get(damaged.name, "ann")
    kept = store.create(image, "ann")
    assert names(store) == sorted([damaged.name, kept.name])
    os.utime(store.root / damaged.name, (1, 1))
    assert store.remove_expired() == 1 and names(store) == [kept.name]


@pytest.mark.parametrize(("limit", "value"), [("SESSIONS", 3), ("BYTES", 399)])
def test_room_of_one_owner(limit, value, store, image, monkeypatch):
    monkeypatch.setattr(sessions, f"OWNER_{limit}", value)
    kept = [store.create(image, "ann") for _ in range(3)]
    with pytest.raises(RequestError, match="ann has 3 sessions, and may have") as caught:
        store.create(image, "ann")
    assert caught.value.status == 429 and len(names(store)) == 3
    store.create(image, "bob")
    store.remove(kept[0].name, "ann")
    store.create(image, "ann")


@pytest.mark.parametrize(("limit", "value"), [("SESSIONS", 3), ("BYTES", 399)])
def test_room_of_all(limit, value, store, image, monkeypatch):
    monkeypatch.setattr(sessions, f"ALL_{limit}", value)
    for owner in ("ann", "bob", "eve"):
        store.create(image, owner)
    with pytest.raises(RequestError, match="room for sessions is full") as caught:
        store.create(image, "joe")
    assert caught.value.status == 507 and len(names(store)) == 3


def test_room_when_many_come_at_once(store, image, monkeypatch):
    monkeypatch.setattr(sessions, "OWNER_SESSIONS", 5)
    refused = []

    def create():
        try:
            store.create(image, "ann")
        except RequestError as error:
            refused.append(error.status)

    threads = [threading.Thread(target=create) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names(store)) == 5 and refused == [429] * 7


@pytest.mark.slow
def test_what_expired_takes_no_room(store, image, monkeypatch):
    monkeypatch.setattr(sessions, "OWNER_SESSIONS", 1)
    old = store.create(image, "ann", expiry=1)
    time.sleep(2.1)
    with pytest.raises(RequestError, match="no such session"):
        store.get(old.name, "ann")
    new = store.create(image, "ann")
    assert names(store) == [new.name]


def test_full_disk_leaves_no_session(store, image, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(files.WriteError, match="No space left"):
        store.create(image, "ann")
    assert names(store) == []


def test_full_disk_keeps_no_lent_scan_from_use(store, image, monkeypatch, caplog):
    session = store.create(image, "ann")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    assert store.image(session.name, "ann").is_file() and "the use of a lent scan is not noted" in caplog.text
    assert store.get(session.name, "ann", touch=False) == session


@pytest.mark.slow
def test_the_app_removes_what_expired(tmp_path, image):
    """Without a new session; also what a kill left half made."""
    small_bundle(tmp_path / "bundles", "kits", weights=False)
    conf = {"bundles": str(tmp_path / "bundles"), "models": "kits"}
    (tmp_path / "app").mkdir()
    app = Rep3DApp(str(tmp_path / "app"), str(tmp_path / "studies"), conf)
    app.on_init_complete()
    store = app.sessions()
    kept, old = store.create(image, "ann"), store.create(image, "ann", expiry=1)
    half, other = store.root / "00000000-0000-4000-8000-000000000000", store.root / "not ours"
    for folder in (half, other):
        folder.mkdir()
        os.utime(folder, (1, 1))
    time.sleep(2.1)
    schedule.run_all()
    schedule.clear()
    assert old.name not in names(store)
    assert names(store) == sorted([kept.name, "not ours"])
