"""`rep3d bundles`, and bundles that other commands are told by name."""

import json
import shutil
import tomllib
from importlib.metadata import EntryPoint

import pytest
from bundle_helpers import ROOT

from rep3d import installed
from rep3d.commands import COMMANDS
from rep3d.commands.bundle_folders import bundles, find_bundle, write_bundle


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with one bundle, in which somebody has worked; we are in another folder."""
    root = tmp_path / "repository"
    shutil.copytree(ROOT / "bundles/kits", root / "bundles/kits")
    for name in ("models/model.pt", "models/trained/model.pt", "eval/summary.md"):
        (root / "bundles/kits" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "bundles/kits" / name).write_text("mine")
    monkeypatch.setattr(installed, "root", lambda: root)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return root


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_bundle_is_written_as_it_comes_with_the_package(checkout, tmp_path):
    folder = find_bundle("kits")
    assert folder.resolve() == tmp_path / "here/bundles/kits"
    committed = {path for path in files(ROOT / "bundles/kits") if path.split("/")[0] in ("configs", "docs", "LICENSE")}
    assert files(folder) == committed
    assert all((folder / path).read_bytes() == (ROOT / "bundles/kits" / path).read_bytes() for path in committed)
    assert [path.name for path in folder.parent.iterdir()] == ["kits"]
    (folder / "configs/train.json").write_text("{}")
    assert find_bundle("kits") == folder == find_bundle(str(folder))
    assert (folder / "configs/train.json").read_text() == "{}"


def test_weights_that_ship_are_written_too(checkout):
    path = checkout / "bundles/kits/configs/metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"weights": {}}))
    assert {"models/model.pt"} == {path for path in files(find_bundle("kits")) if path.startswith("models")}


def test_what_is_there_stays(checkout, tmp_path):
    folder = tmp_path / "mine"
    write_bundle("kits", folder)
    with pytest.raises(FileExistsError, match="kits is there already"):
        bundles("kits", bundle_dir=str(folder))


def test_a_write_that_fails_leaves_nothing(checkout, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "copyfile", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space"):
        write_bundle("kits", tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_bundle_that_there_is_not(checkout):
    write_bundle("kits", checkout.parent / "here/bundles")
    with pytest.raises(ValueError, match="bundle is 'kitz', expected .* one of kits, did you mean 'kits'"):
        find_bundle("kitz")
    with pytest.raises(ValueError, match="bundle is '../kits', expected one of kits"):
        bundles("../kits")


def test_the_list(checkout, capsys):
    bundles()
    assert "| kits | Segmentation of kidney" in (shown := capsys.readouterr().out) and "comes with the package" in shown
    find_bundle("kits")
    bundles()
    assert "no weights yet" in (shown := capsys.readouterr().out) and "comes with" not in shown


def test_the_command_that_is_installed():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert "rep3d" in scripts
    for name in scripts.values():
        assert callable(EntryPoint("", name, "").load())


def test_every_command_has_a_line_in_the_overview():
    assert all((command.__doc__ or "").splitlines()[0].endswith(".") for command in COMMANDS.values())
