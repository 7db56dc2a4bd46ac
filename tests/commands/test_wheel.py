"""The built wheel alone, in an empty folder: no checkout is needed."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from bundle_helpers import ROOT

SOURCES = ("pyproject.toml", "setup.py", "LICENSE", "README.md", "rep3d", "monailabel_app", "configs", "bundles")

RENDER = """
from rep3d import installed
from rep3d.datasets.rendering import render
for path, text in render(installed.root(), "kits").items():
    assert (installed.root() / "bundles/kits" / path).read_text() == text, path
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("setuptools") is None, reason="setuptools is not installed")
def test_the_wheel(tmp_path):
    copy, packages, empty = (tmp_path / name for name in ("copy", "packages", "empty"))
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("trained", "eval", "__pycache__"))
        else:
            shutil.copy(ROOT / name, copy)
    (copy / "bundles/kits/models").mkdir()
    (copy / "bundles/kits/models/model.pt").write_text("somebody's own")
    build = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path)]
    subprocess.run(build, cwd=copy, check=True)
    (wheel,) = tmp_path.glob("rep3d-*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(packages)
    assert not (packages / "configs").exists() and not (packages / "rep3d/bundles/kits/models").exists()
    for folder in ("configs", "bundles"):
        for path in subprocess.check_output(["git", "ls-files", folder], cwd=ROOT, text=True).split():
            assert (packages / "rep3d" / path).is_file() or path.endswith(".gitkeep"), path
    empty.mkdir()
    environment = os.environ | {"PYTHONPATH": str(packages)}

    def python(*words):
        return subprocess.check_output([sys.executable, *words], cwd=empty, env=environment, text=True)

    assert str(packages) in python("-c", "import rep3d; print(rep3d.__file__)")
    assert "| kits |" in python("-m", "rep3d", "bundles")
    assert python("-m", "rep3d", "bundles", "kits").strip() == os.path.join("bundles", "kits")
    assert (empty / "bundles/kits/configs/train.json").read_text() == (
        ROOT / "bundles/kits/configs/train.json"
    ).read_text()
    python("-c", RENDER)
