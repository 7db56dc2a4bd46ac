import os
import time
from dataclasses import dataclass

import pytest

from rep3d.files import (
    WriteError,
    copy_whole,
    dated_name,
    read_json,
    read_record,
    remove_parts,
    whole_file,
    whole_files,
    write_csv,
    write_json,
    write_text,
)

WRITERS = {
    "copy_whole": lambda path: copy_whole(__file__, path),
    "write_csv": lambda path: write_csv(path, [{"case": "a", "dice": 0.5}]),
    "write_json": lambda path: write_json(path, {"a": 1}),
    "write_text": lambda path: write_text(path, "text"),
}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("before", [None, b"old"], ids=["new", "replaced"])
@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt(), Killed()], ids=repr)
def test_what_fails_leaves_the_old_file(write, before, stop, tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    if before:
        path.write_bytes(before)

    def fail(*_):
        raise stop

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(WriteError if isinstance(stop, OSError) else type(stop)):
        write(path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([before] if before else [])


@pytest.mark.parametrize("name", ["gone/file.json", "folder", "x" * 250], ids=["no folder", "a folder", "too long"])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_an_error_names_the_file_that_was_wanted(write, name, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(WriteError) as caught:
        write(tmp_path / name)
    assert caught.value.filename == str(tmp_path / name) and caught.value.strerror
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


def test_an_error_without_a_number_keeps_its_words(tmp_path):
    with pytest.raises(WriteError, match="the library says no"), whole_file(tmp_path / "a"):
        raise OSError("the library says no")


def test_other_errors_pass(tmp_path):
    with pytest.raises(ValueError, match="no such label"), whole_file(tmp_path / "a.nii.gz") as temporary:
        temporary.write_bytes(b"half")
        raise ValueError("no such label")
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_name_lies_beside_and_keeps_the_suffix(tmp_path):
    with whole_file(tmp_path / "a.nii.gz") as temporary:
        temporary.write_bytes(b"whole")
        assert temporary.parent == tmp_path and temporary.name.endswith(".a.nii.gz") and temporary.name[0] == "."
        assert not (tmp_path / "a.nii.gz").exists()
    assert (tmp_path / "a.nii.gz").read_bytes() == b"whole"


def test_files_that_belong_together_take_their_places_when_all_are_written(tmp_path, monkeypatch):
    first, second = paths = [tmp_path / "a", tmp_path / "b"]
    first.write_bytes(b"old")
    fsync, calls = os.fsync, []

    def fail(descriptor):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    def write():
        with whole_files(paths) as temporaries:
            for temporary in temporaries:
                temporary.write_bytes(b"new")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(WriteError, match="No space left") as caught:
        write()
    assert caught.value.filename == str(first) and first.read_bytes() == b"old" and list(tmp_path.iterdir()) == [first]
    write()
    assert first.read_bytes() == second.read_bytes() == b"new" and sorted(tmp_path.iterdir()) == paths


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("name", ["copy_whole", "write_json"])
def test_private_files_are_their_owners_from_the_start(name, private, tmp_path, monkeypatch):
    write = {"copy_whole": lambda path: copy_whole(__file__, path, private=private),
             "write_json": lambda path: write_json(path, {"a": 1}, private=private)}[name]  # fmt: skip
    fsync, modes, path = os.fsync, [], tmp_path / "file.json"
    monkeypatch.setattr(os, "fsync", lambda file: (modes.append(os.fstat(file).st_mode & 0o777), fsync(file)))
    before = os.umask(0o022)
    try:
        write(path)
    finally:
        os.umask(before)
    expected = 0o600 if private else 0o644
    assert modes == [expected] and path.stat().st_mode & 0o777 == expected


def test_parts_of_a_kill(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in (".1.2.part.model.pt", "deep/.3.4.part.label.nii.gz", "deep/kept.part.txt", ".kept"):
        (tmp_path / name).touch()
    (tmp_path / ".report.part.1.txt").touch()  # of somebody else
    (tmp_path / ".1.2.part.folder").mkdir()
    remove_parts(tmp_path)
    (tmp_path / ".report.part.1.txt").unlink()
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [".kept", "kept.part.txt"]


def test_json(tmp_path):
    assert read_json(tmp_path / "a.json") == {}
    write_json(tmp_path / "a.json", {"b": [1, "ü"], "path": tmp_path})
    assert read_json(tmp_path / "a.json") == {"b": [1, "ü"], "path": str(tmp_path)}


def test_csv(tmp_path):
    write_csv(tmp_path / "a.csv", [{"case": "one, two", "dice": 0.5}, {"case": "three", "dice": ""}])
    assert (tmp_path / "a.csv").read_bytes() == b'case,dice\r\n"one, two",0.5\r\nthree,\r\n'


@dataclass(frozen=True)
class Person:
    name: str
    age: int = 0


def test_records_of_other_versions_are_read(tmp_path):
    assert read_record(tmp_path / "none.json", Person) is None
    write_json(tmp_path / "newer.json", {"name": "Ada", "shoe_size": 38})
    assert read_record(tmp_path / "newer.json", Person) == Person("Ada")


def test_a_missing_source_is_what_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing.txt") as raised:
        copy_whole(tmp_path / "missing.txt", tmp_path / "copy.txt")
    assert not isinstance(raised.value, WriteError)


def test_dated_names_are_of_no_other_file(tmp_path):
    names = []
    for _ in range(3):
        name = dated_name(tmp_path / "model.pt", 1_000_000_000)
        name.touch()
        names.append(name.name)
    date = time.strftime("%Y%m%d-%H%M%S", time.localtime(1_000_000_000))
    assert names == [f"model_{date}{end}.pt" for end in ("", "-2", "-3")]
