"""The app as it is built, without a server."""

import sys
from pathlib import Path

import pytest
from app_helpers import small_bundle

import monailabel_app
from monailabel_app.main import Rep3DApp


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
