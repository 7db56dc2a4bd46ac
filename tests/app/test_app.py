"""The app as it is built, without a server."""

import sys
import tempfile
from pathlib import Path

import pytest
from app_helpers import small_bundle

import monailabel_app
from monailabel_app.main import Rep3DApp
from monailabel_app.temporary import LOCK, PREFIX


@pytest.fixture
def conf(tmp_path):
    small_bundle(tmp_path / "bundles", "kits", weights=False)
    (tmp_path / "app").mkdir()
    return {"bundles": str(tmp_path / "bundles"), "models": "kits"}


def test_rooms_hide_no_module_of_python():
    """MONAI Label puts the app's folder where processes that the app starts look first."""
    rooms = {path.stem for path in Path(monailabel_app.__file__).parent.iterdir()}
    assert not rooms & set(sys.stdlib_module_names)


@pytest.mark.parametrize(("given", "scores"), [(None, True), ("true", True), ("false", False)])
def test_scores_of_a_folder(given, scores, tmp_path, conf):
    if given is not None:
        conf = {**conf, "scoring": given}
    app = Rep3DApp(str(tmp_path / "app"), str(tmp_path / "studies"), conf)
    app.services.background.keep_scores()
    assert bool(app.services.background.scorings.all()) == scores


def test_temporary_files_lie_in_a_folder_of_the_app(tmp_path, conf):
    """So that the next start knows what a killed one left, see test_temporary.py."""
    Rep3DApp(str(tmp_path / "app"), str(tmp_path / "studies"), conf)
    folder = Path(tempfile.gettempdir())
    assert folder.name.startswith(PREFIX) and (folder / LOCK).is_file()
