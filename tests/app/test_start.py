"""The command line: what it prints, and when the server does not start."""

import json
import os
from contextlib import contextmanager

import pytest
import uvicorn
from monailabel.utils.others.class_utils import get_class_of_subclass_from_file
from uvicorn.config import HTTP_PROTOCOLS

from monailabel_app.__main__ import app_folder, main
from monailabel_app.main import own_folders
from monailabel_app.settings import read_settings
from monailabel_app.web.connections import Connection
from rep3d import installed

NOBODY = 65534


@pytest.mark.parametrize("arguments", [[], ["start_server"], ["versions"], ["serve_version"]], ids=str)
@pytest.mark.parametrize(("option", "told"), [("--help", "--"), ("-h", "--"), ("--version", "rep3d 0.")])
def test_help_and_version(option, told, arguments, capsys):
    try:
        status = main([*arguments, option])
    except SystemExit as end:
        status = end.code
    printed = capsys.readouterr()
    assert status in (None, 0) and told in printed.out and not printed.err


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("start_server", ["--studies", "--host", "--ssl_keyfile", "--conf", "api_keys"]),
        ("versions", ["--model", "--bundles"]),
        ("serve_version", ["--model", "--bundles", "--version"]),
    ],
)
def test_the_options_of_a_command(command, options, capsys):
    main(["--help"])
    told = capsys.readouterr().out
    assert f"python -m monailabel_app {command} " in told and "python -m monailabel_app COMMAND --help" in told
    with pytest.raises(SystemExit):
        main([command, "--help"])
    told = capsys.readouterr().out
    assert all(option in told for option in options)


@pytest.mark.parametrize("arguments", [[], ["start"], ["--halp"], ["serve_version", "--model", "kits", "--version"]])
def test_words_that_are_no_command(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code not in (None, 0)


@pytest.fixture
def started(monkeypatch):
    """What uvicorn is told, without a server."""
    told = {}
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: told.update(options))
    # Not the tests' own; uvicorn must find it done.
    monkeypatch.setattr("monailabel_app.__main__.own_temporary_files", lambda: told.update(temporary=not told))
    monkeypatch.setattr("monailabel.main.init_log_config", lambda *_: None)
    monkeypatch.setattr("monailabel.main.Main.start_server_init_settings", lambda *_: None)
    monkeypatch.setitem(HTTP_PROTOCOLS, "auto", HTTP_PROTOCOLS["auto"])
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    return told


@pytest.mark.parametrize("workers", [[], ["--workers", "1"]], ids=str)
def test_starts(workers, started, tmp_path):
    main(["start_server", "--studies", str(tmp_path), "--root_path", "/monai", *workers])
    assert (started["host"], started["root_path"]) == ("127.0.0.1", "/monai") and started["temporary"]
    config = uvicorn.Config(print)
    config.load()
    assert config.http_protocol_class is Connection


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--studies", "absent"], "--studies is 'absent', expected a folder that is there"),
        (["-s", __file__], "--studies is .*, expected a folder"),
        (["--studies", ""], "--studies is missing"),
        (["--studies", "ftp://pacs.example"], "--studies is 'ftp://pacs.example', expected a folder"),
        ([], "--studies is missing"),
        (["--studies", ".", "--workers", "2"], "--workers .* is 2, expected 1"),
        (["--stud", ".", "--work=4"], "--workers .* is 4, expected 1"),
        (["--studies", ".", "--workers", "0"], "--workers .* is 0, expected 1"),
        (["--studies", ".", "--ho", "0.0.0.0"], "host is '0.0.0.0'"),
    ],
)
def test_refuses_to_start(arguments, message, started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        main(["start_server", *arguments])
    assert not started and not list(tmp_path.iterdir())


def test_workers_of_the_environment(started, tmp_path, monkeypatch):
    monkeypatch.setenv("WEB_CONCURRENCY", "2")
    with pytest.raises(SystemExit, match="WEB_CONCURRENCY.* is 2, expected 1"):
        main(["start_server", "--studies", str(tmp_path)])
    main(["start_server", "--studies", str(tmp_path), "--workers", "1"])
    assert started["workers"] == 1


@contextmanager
def without_rights(path):
    """Modes count for this process, too: root, whom they do not bind, becomes somebody else meanwhile."""
    user = os.geteuid()
    for folder in (path, *path.parents):
        if folder.stat().st_uid == user and folder != folder.parent:
            folder.chmod(folder.stat().st_mode | 0o555)
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="modes of files are Unix's")
@pytest.mark.parametrize("closed", [".", ".rep3d", "labels", "labels/final"])
def test_studies_that_cannot_be_written_to(closed, tmp_path):
    """The server would start, and then lose the labels that it is sent."""
    studies = tmp_path / "studies"
    for folder in (".rep3d", "labels/final") if closed != "." else ():
        (studies / folder).mkdir(parents=True)
    studies.mkdir(exist_ok=True)
    for folder in (studies, *studies.rglob("*")):
        folder.chmod(0o777)
    (studies / closed).chmod(0o555)
    before = sorted(studies.rglob("*"))
    with (
        without_rights(studies),
        pytest.raises(ValueError, match="cannot be written to .Permission denied.: the server"),
    ):
        own_folders([], studies)
    with without_rights(studies), pytest.raises(SystemExit, match="--studies: .* cannot be written to"):
        main(["start_server", "--studies", str(studies)])
    assert sorted(studies.rglob("*")) == before


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="modes of files are Unix's")
def test_images_that_cannot_be_written_to(tmp_path):
    """It is enough that the server's own folders are its own."""
    studies = tmp_path / "studies"
    for folder in (studies / ".rep3d", studies / "labels"):
        folder.mkdir(parents=True)
        folder.chmod(0o777)
    studies.chmod(0o555)
    with without_rights(studies):
        (lock,) = own_folders([], studies)
        lock.release()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with three bundles, of which one ships with weights; we are in an empty folder."""
    for name, metadata in {"clicks": {"weights": {}}, "kits": {}, "amos": {}}.items():
        folder = tmp_path / "package/bundles" / name
        (folder / "configs").mkdir(parents=True)
        (folder / "models").mkdir()
        (folder / "configs/metadata.json").write_text(json.dumps({"task": name} | metadata))
        (folder / "models/model.pt").write_text(name)
    monkeypatch.setattr(installed, "root", lambda: tmp_path / "package")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_an_installed_package_works_in_the_current_folder(package, started, tmp_path):
    """Nothing goes into the package; bundles that the user has stay as they are."""
    before = sorted((tmp_path / "package").rglob("*"))
    main(["start_server", "--studies", str(tmp_path), "--conf", "models", "kits"])
    assert sorted(path.name for path in (package / "bundles").iterdir()) == ["clicks", "kits"]
    assert (package / "bundles/clicks/models/model.pt").read_text() == "clicks"
    found = get_class_of_subclass_from_file("main", str(package / "label_app/main.py"), "MONAILabelApp")
    assert found.__name__ == "Rep3DApp"
    (package / "bundles/clicks/models/model.pt").write_text("mine")
    (package / "label_app/main.py").write_text("# mine")
    main(["start_server", "--studies", str(tmp_path)])
    assert (package / "bundles/clicks/models/model.pt").read_text() == "mine"
    assert (package / "label_app/main.py").read_text() == "# mine"
    assert sorted((tmp_path / "package").rglob("*")) == before
    assert read_settings(app_folder(), {}).bundles == package / "bundles"


def test_bundles_that_lie_elsewhere_get_no_others(package, started, tmp_path):
    (tmp_path / "packed").mkdir()
    main(["start_server", "--studies", str(tmp_path), "--conf", "bundles", str(tmp_path / "packed")])
    assert not list((tmp_path / "packed").iterdir()) and not (package / "bundles").exists()
