"""The app as it is built, without a server."""

import os
import subprocess
import sys

import pytest
from app_helpers import small_bundle

from monailabel_app.main import Rep3DApp


@pytest.fixture
def conf(tmp_path):
    small_bundle(tmp_path / "bundles", "kits", weights=False)
    (tmp_path / "app/http").mkdir(parents=True)
    (tmp_path / "app/http/__init__.py").touch()
    return {"bundles": str(tmp_path / "bundles"), "models": "kits"}


def test_new_processes_find_modules_of_python(tmp_path, conf, monkeypatch):
    """MONAI Label puts the app's folder first, where a package has the name of one of Python's own."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "app"), str(tmp_path)]))
    command = [sys.executable, "-c", "import http.client"]
    assert subprocess.run(command, capture_output=True).returncode == 1
    Rep3DApp(str(tmp_path / "app"), str(tmp_path / "studies"), conf)
    assert os.environ["PYTHONPATH"] == str(tmp_path)
    assert subprocess.run(command).returncode == 0


@pytest.mark.parametrize(("given", "scores"), [(None, True), ("true", True), ("false", False)])
def test_scores_of_a_folder(given, scores, tmp_path, conf):
    if given is not None:
        conf = {**conf, "scoring": given}
    app = Rep3DApp(str(tmp_path / "app"), str(tmp_path / "studies"), conf)
    app.services.background.keep_scores()
    assert bool(app.services.background.scorings.all()) == scores
