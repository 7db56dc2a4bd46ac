"""Folders that a newer server wrote are refused by their format number, and stay as they are."""

import re

import pytest
from recordings import unpack

from monailabel_app.__main__ import main
from monailabel_app.main import Rep3DApp

MODEL = "msd_hippocampus"
VERSIONS = f"bundles/{MODEL}/models/versions"


@pytest.fixture
def recorded(tmp_path):
    """What an earlier server left, beside an empty folder `app`."""
    folder = unpack("app", tmp_path)
    unpack("pacs", tmp_path)
    (folder / "app").mkdir()
    return folder


def start(folder, studies):
    conf = {"bundles": str(folder / "bundles"), "models": MODEL, "pacs_folder": str(folder / "kept")}
    Rep3DApp(str(folder / "app"), studies, conf)


def content(folder):
    return {path: path.is_file() and path.read_bytes() for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize(
    ("kept", "studies"),
    [("studies", "{}/studies"), ("kept", "http://127.0.0.1:1/dicom-web")],
    ids=["local", "PACS"],
)
@pytest.mark.parametrize("number", ["2", "x", ""])
def test_studies_of_a_newer_server(kept, studies, number, recorded):
    path = recorded / kept / ".rep3d/.format"
    path.write_text(number)
    before = content(recorded / kept)
    found = number if number == "2" else repr(number)
    with pytest.raises(ValueError, match=re.escape(f"{path}: the format is {found}, expected a number up to 1")):
        start(recorded, studies.format(recorded))
    assert content(recorded / kept) == before


def test_weights_of_a_newer_server(recorded, capsys):
    path = recorded / VERSIONS / ".format"
    path.write_text("3")
    before = content(recorded / "bundles"), content(recorded / "studies")
    told = re.escape(f"{path}: the format is 3, expected a number up to 2")
    with pytest.raises(ValueError, match=told):
        start(recorded, str(recorded / "studies"))
    place = ["--model", MODEL, "--bundles", str(recorded / "bundles")]
    for command in (["versions", *place], ["serve_version", *place, "--version", "1"]):
        with pytest.raises(SystemExit, match=told):
            main(command)
    assert (content(recorded / "bundles"), content(recorded / "studies")) == before
    assert capsys.readouterr().out == ""
