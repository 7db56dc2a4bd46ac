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
from bundle_helpers import ROOT, assert_label_map

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
SEGMENT = """
import json, sys
from pathlib import Path
from rep3d import commands

def rep3d(*words):
    sys.argv = ["rep3d", *words]
    commands.main()

rep3d("new", "one", "--source", "../one")
rep3d("new", "two", "--source", "../two")
path = Path("bundles/two/two.json")
content = json.loads(path.read_text())
content["common"]["network_def"] = {"feature_size": [4, 4, 4, 4], "hidden_size": 8, "kernel_size": 5}
content["train"] |= {"epochs": 1, "steps_per_epoch": 1, "val_interval": 1}
path.write_text(json.dumps(content))
rep3d("new", "two", "--source", "../two", "--train")
rep3d("predict", "../two/imagesTr", "--bundle", "two", "--output", "out", "--preview")
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


def save(path, voxels):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)


@pytest.fixture(autouse=True)
def scans(tmp_path):
    """Of somebody's own, beside the folder in which the commands run."""
    label = np.zeros((20, 18, 12), np.uint8)
    label[5:15, 5:15, 4:8] = 1
    for number in range(2):
        noise = np.random.default_rng(number).normal(0, 5, label.shape)
        for name, voxels in (("images", (100 + 20.0 * label + noise).astype(np.float32)), ("labels", label)):
            save(tmp_path / f"scans/{name}/{number}.nii", voxels)


def install(checkout, kind, folder):
    """Build a wheel of the checkout, and unpack it."""
    code = f"from setuptools.build_meta import {kind}; {kind}({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=checkout, check=True, capture_output=True, text=True)
    assert "would be ignored" not in done.stderr
    (wheel,) = folder.glob("rep3d-*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "installed")
    return folder / "installed"


@pytest.fixture(scope="module")
def packages(checkout, tmp_path_factory):
    """What the wheel installs."""
    return install(checkout, "build_wheel", tmp_path_factory.mktemp("wheel"))


def python(*words, cwd, **environment):
    cwd.mkdir()
    others = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.check_output([sys.executable, *words], cwd=cwd, env=others | environment, text=True)


def test_the_wheel(packages, tmp_path):
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


@pytest.fixture
def two_layouts(tmp_path):
    """One case in two folders, and three cases of two channels as nnU-Net has them."""
    label = np.zeros((34, 33, 32), np.uint8)
    label[8:24, 8:24, 8:24] = 1
    names = [f"two/imagesTr/{case}_{i:04d}" for case in "abc" for i in range(2)]
    for number, name in enumerate(["one/images/a", *names]):
        noise = np.random.default_rng(number).normal(0, 5, label.shape)
        save(tmp_path / f"{name}.nii.gz", (100 + 20.0 * label + noise).astype(np.float32))
    for name in ("one/labels/a", *(f"two/labelsTr/{case}" for case in "abc")):
        save(tmp_path / f"{name}.nii.gz", label)
    told = {"channel_names": {"0": "T1w", "1": "FLAIR"}, "labels": {"background": 0, "organ": 1}}
    (tmp_path / "two/dataset.json").write_text(json.dumps(told | {"numTraining": 3, "file_ending": ".nii.gz"}))


def test_from_scans_to_label_maps(packages, two_layouts, tmp_path):
    """By the installed commands alone; a network that a test can afford trains for one step."""
    printed = python("-c", SEGMENT, cwd=tmp_path / "empty", PYTHONPATH=str(packages))
    assert "- no validation: there is 1 case" in printed and "- channels: 0 T1w, 1 FLAIR" in printed
    assert "  rep3d train one" in printed and "epoch 1/1, step 1/1, loss " in printed
    own = json.loads((tmp_path / "empty/bundles/one/one.json").read_text())
    assert own["data"]["split"] == {"training": 1, "validation": 0, "test": 0} and own["train"]["val_interval"] == 0
    assert (tmp_path / "empty/bundles/two/models/trained/model.pt").is_file()
    out = tmp_path / "empty/out"
    rows = (out / "volumes.csv").read_text().splitlines()
    assert rows[0] == "case,image,organ (ml)" and [row[0] for row in rows[1:]] == ["a", "b", "c"]
    for case in "abc":
        assert_label_map(out / f"{case}_seg.nii.gz", tmp_path / f"two/imagesTr/{case}_0000.nii.gz", 2)
        assert json.loads((out / f"{case}_seg.json").read_text())["labels"][0]["name"] == "organ"
        assert (out / f"{case}_seg.png").is_file()


def test_an_editable_install(checkout, tmp_path):
    libraries = sysconfig.get_paths()["purelib"]
    installed = str(install(checkout, "build_editable", tmp_path))
    code = EDITABLE.format(libraries=libraries, installed=installed) + USE
    # -S: without the packages that are installed here, this one among them.
    printed = python("-S", "-c", code, cwd=tmp_path / "empty")
    assert printed.startswith(str(checkout)) and "| kits |" in printed and "  rep3d train mine" in printed
