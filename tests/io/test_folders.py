"""Which folders and files lie below a folder."""

import pytest
from folder_helpers import deny

from rep3d.io.folders import walk


def below(folder):
    return [(str(place.relative_to(folder)), [path.name for path in files]) for place, files in walk(folder)]


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_by_name_and_without_hidden_ones(tmp_path):
    for name in ("b/2", "b/1", "a/.hidden", ".trash/x", "top"):
        touch(tmp_path / name)
    assert below(tmp_path) == [(".", ["top"]), ("a", []), ("b", ["1", "2"])]


def test_links_are_followed_once_and_never_up(tmp_path):
    """What lies in the folder itself goes by its own place; a link to a link, too, is followed."""
    touch(tmp_path / "elsewhere/deep/x")
    touch(tmp_path / "top/z/y")
    for name, target in {
        "a": "top/z",
        "elsewhere_1": "elsewhere",
        "elsewhere_2": "elsewhere/deep",
        "itself": "top",
        "up": ".",
    }.items():
        (tmp_path / "top" / name).symlink_to(tmp_path / target)
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "top")
    (tmp_path / "elsewhere/deep/other").symlink_to(tmp_path / "other")
    touch(tmp_path / "other/w")
    found = below(tmp_path / "top")
    assert found[:2] == [(".", []), ("z", ["y"])]
    assert found[2:] == [("elsewhere_1", []), ("elsewhere_1/deep", ["x"]), ("elsewhere_1/deep/other", ["w"])]
    (tmp_path / "link").symlink_to(tmp_path / "top")
    assert [place for place, _ in below(tmp_path / "link")] == [place for place, _ in found]


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path, monkeypatch):
    for name in ("a/1", "b/2", "c/3"):
        touch(tmp_path / name)
    deny(monkeypatch, tmp_path / "b")
    with pytest.raises(PermissionError, match=f"Permission denied: '{tmp_path / 'b'}'"):
        below(tmp_path)
    errors = []
    assert [place.name for place, _ in walk(tmp_path, errors.append)][1:] == ["a", "c"]
    assert [error.filename for error in errors] == [str(tmp_path / "b")]
