"""Small bundles, a studies folder, and a server over both."""

import importlib.util
import shutil
from types import SimpleNamespace

import pytest
from app_helpers import Server, small_bundle
from bundle_helpers import MEDNEXT, make_dataset

if importlib.util.find_spec("monailabel") is None:
    collect_ignore_glob = ["*test_*.py"]  # they need the extra `label`


@pytest.fixture(scope="package")
def material(tmp_path_factory):
    """Two small bundles, one of them with another network, and scans with their labels by name."""
    folder = tmp_path_factory.mktemp("material")
    bundles = folder / "bundles"
    small_bundle(bundles, "msd_hippocampus")
    small_bundle(bundles, "amos_ct", settings=MEDNEXT)
    small_bundle(bundles, "kits", weights=False)
    dataset = make_dataset(folder / "data", bundles / "msd_hippocampus", count=4)
    scans = {path.name: path for path in sorted((dataset / "imagesTr").iterdir())}
    labels = {path.name: path for path in sorted((dataset / "labelsTr").iterdir())}
    return SimpleNamespace(bundles=bundles, scans=scans, labels=labels)


@pytest.fixture
def studies(material, tmp_path):
    """Fill a server's studies folder."""
    folder = tmp_path / "studies"
    folder.mkdir()
    for name, path in material.scans.items():
        shutil.copy(path, folder / name)
    return folder


@pytest.fixture(scope="package")
def server(material, tmp_path_factory):
    """A server for tests that leave others' images alone."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "studies").mkdir()
    for name, path in material.scans.items():
        shutil.copy(path, folder / "studies" / name)
    bundles = shutil.copytree(material.bundles, folder / "bundles")  # it keeps other servers away from them
    with Server(folder, bundles=str(bundles), models="msd_hippocampus,amos_ct,kits") as running:
        yield running
