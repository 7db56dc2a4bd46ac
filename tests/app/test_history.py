import json

import pytest

from monailabel_app import history
from monailabel_app.history import History


@pytest.fixture(params=[("{}.bin", "{}.json"), ("{}/a.bin", "{}/version.json")], ids=["beside", "folders"])
def versions(request, tmp_path):
    return History(tmp_path / "versions", *request.param)


@pytest.fixture
def file(tmp_path):
    def write(content):
        (tmp_path / "file").write_bytes(content)
        return tmp_path / "file"

    return write


def test_versions_are_numbered_and_kept(versions, file):
    assert versions.versions() == [] and versions.find(1) is None and versions.holding(file(b"1")) is None
    for content in (b"1", b"2", b"1"):
        versions.add(file(content), lambda copy: {"size": copy.stat().st_size, "name": copy.name})
    assert [version.number for version in versions.versions()] == [1, 2, 3]
    assert [version.number for version in versions.newest_first()] == [3, 2, 1]
    assert [version.file.read_bytes() for version in versions.versions()] == [b"1", b"2", b"1"]
    second = versions.find(2)
    assert second.info == {"size": 1, "name": second.file.name, "version": 2}
    assert versions.holding(file(b"1")).number == 3 and versions.holding(file(b"2")).number == 2
    versions.update(2, {"removed": True})
    assert versions.find(2).info == {**second.info, "removed": True}
    assert [version.info.get("removed") for version in versions.versions()] == [None, True, None]


def test_more_than_four_digits(versions, file):
    for number in (9999, 10000):
        path = versions._path(versions._info, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"version": number}))
    assert versions.add(file(b"1"), lambda copy: {}).number == 10001
    assert [version.number for version in versions.versions()] == [9999, 10000, 10001]


def test_an_addition_that_is_killed_is_no_version(versions, file, monkeypatch):
    versions.add(file(b"1"), lambda copy: {})
    with monkeypatch.context() as patch:
        patch.setattr(history, "write_json", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            versions.add(file(b"2"), lambda copy: {})
    assert [version.number for version in versions.versions()] == [1] and versions.holding(file(b"2")) is None
    added = versions.add(file(b"3"), lambda copy: {})
    assert (added.number, added.file.read_bytes()) == (2, b"3")


def test_an_addition_that_is_taken_back(versions, file):
    versions.add(file(b"1"), lambda copy: {})
    added = versions.add(file(b"2"), lambda copy: {})
    versions.take_back(added.number)
    assert [version.number for version in versions.versions()] == [1] and not added.file.exists()
    assert versions.add(file(b"3"), lambda copy: {}).number == 2


def test_a_stored_digest_is_believed(versions, file):
    """Weights are large: they are not read again to be compared."""
    wanted = history.digest(file(b"1"))
    versions.add(file(b"2"), lambda copy: {"sha256": wanted})
    assert versions.holding(file(b"1")).number == 1 and versions.holding(file(b"2")) is None
