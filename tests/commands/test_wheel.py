"""The built wheel alone, in an empty folder: no checkout is needed. And an editable install of one."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import nibabel as nib
import numpy as np
import pytest
from bundle_helpers import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("setuptools") is None, reason="setuptools is not installed"),
]

SOURCES = ("pyproject.toml", "setup.py", "LICENSE", "README.md", "rep3d", "monailabel_app", "configs", "bundles")
USE = """
import sys
from rep3d import commands, installed
print(commands.__file__)
new = ["new", "mine", "--source", "../scans", "--labels", "organ"]
for words in (["bundles"], ["bundles", "kits"], ["bundles", "interactive"], new):
    sys.argv = ["rep3d", *words]
    commands.main()
"""
LICENCE = """
print(installed.licence_text(installed.root()))
"""
EDITABLE = """
import site, sys
sys.path += [{installed!r}, {libraries!r}]
site.addsitedir({installed!r})
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy, for builds leave files behind; somebody has trained in it."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("models", "eval", "__pycache__"))
        else:
            shutil.copy(ROOT / name, copy)
    for facts in (ROOT / "configs/weights").glob("*.json"):
        shutil.copytree(
            ROOT / f"bundles/{facts.stem}/models",
            copy / f"bundles/{facts.stem}/models",
            ignore=shutil.ignore_patterns("trained"),
        )
    (copy / "bundles/kits/models").mkdir()
    (copy / "bundles/kits/models/model.pt").write_text("somebody's own")
    return copy


@pytest.fixture(autouse=True)
def scans(tmp_path):
    """Of somebody's own, beside the folder in which the commands run."""
    label = np.zeros((20, 18, 12), np.uint8)
    label[5:15, 5:15, 4:8] = 1
    for number in range(2):
        noise = np.random.default_rng(number).normal(0, 5, label.shape)
        for name, voxels in (("images", (100 + 20.0 * label + noise).astype(np.float32)), ("labels", label)):
            (tmp_path / f"scans/{name}").mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / f"scans/{name}/{number}.nii")


@pytest.fixture
def install(checkout, tmp_path):
    """Build a wheel of the checkout, and unpack it."""

    def build(kind):
        code = f"from setuptools.build_meta import {kind}; {kind}({str(tmp_path)!r})"
        done = subprocess.run([sys.executable, "-c", code], cwd=checkout, check=True, capture_output=True, text=True)
        assert "would be ignored" not in done.stderr
        (wheel,) = tmp_path.glob("rep3d-*.whl")
        with zipfile.ZipFile(wheel) as file:
            file.extractall(tmp_path / "installed")
        return tmp_path / "installed"

    return build


def python(*words, cwd, **environment):
    cwd.mkdir()
    others = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.check_output([sys.executable, *words], cwd=cwd, env=others | environment, text=True)


def test_the_wheel(install, tmp_path):
    packages = install("build_wheel")
    assert not (packages / "configs").exists() and not (packages / "rep3d/bundles/kits/models").exists()
    for folder in ("configs", "bundles"):
        for path in subprocess.check_output(["git", "ls-files", folder], cwd=ROOT, text=True).split():
            assert (packages / "rep3d" / path).is_file() or path.endswith(".gitkeep"), path
    printed = python("-c", USE + LICENCE, cwd=tmp_path / "empty", PYTHONPATH=str(packages))
    assert printed.startswith(str(packages)) and "| kits |" in printed
    assert printed.endswith((ROOT / "LICENSE").read_text() + "\n")
    for path in ("kits/configs/train.json", "interactive/models/model.pt", "interactive/models/NOTICE"):
        assert (tmp_path / "empty/bundles" / path).read_bytes() == (ROOT / "bundles" / path).read_bytes()
    assert "  rep3d train mine" in printed
    made = json.loads((tmp_path / "empty/bundles/mine/configs/train.json").read_text())
    assert made["label_names"] == ["background", "organ"]
    assert "| kits |" in python("-m", "rep3d", "bundles", cwd=tmp_path / "other", PYTHONPATH=str(packages))


def test_an_editable_install(install, checkout, tmp_path):
    libraries = sysconfig.get_paths()["purelib"]
    code = EDITABLE.format(libraries=libraries, installed=str(install("build_editable"))) + USE
    # -S: without the packages that are installed here, this one among them.
    printed = python("-S", "-c", code, cwd=tmp_path / "empty")
    assert printed.startswith(str(checkout)) and "| kits |" in printed and "  rep3d train mine" in printed
