import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DEMO = [sys.executable, "-W", "ignore", str(ROOT / "scripts/demo.py")]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A demo of 6 steps on the phantom, in a folder whose name needs care."""
    folder = tmp_path_factory.mktemp("demo") / "mein Kürzel"
    run = subprocess.run([*DEMO, "--steps", "6", "--output", str(folder)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return folder, run.stdout


def test_leaves_its_files(demo):
    folder, _ = demo
    for name in ("report.html", "training_curve.png", "overlays.png", "models/model.pt", "models/last.pt"):
        assert (folder / name).stat().st_size > 0
    assert len(list((folder / "predictions").glob("*_seg.nii.gz"))) == 12


def test_prints_dice_per_label_and_next_commands(demo):
    _, printed = demo
    assert re.search(r"\| anterior hippocampus \| 0\.\d+ ", printed)
    assert re.search(r"\| posterior hippocampus \| 0\.\d+ ", printed)
    assert "-m monai.bundle run training --bundle_root bundles/msd_hippocampus" in printed


def test_leaves_the_files_of_others_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    run = subprocess.run([*DEMO, "--output", str(tmp_path)], capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert "give another folder" in run.stderr
    assert (tmp_path / "thesis.txt").exists()


def test_missing_data_is_named(tmp_path):
    run = subprocess.run(
        [*DEMO, "--data", str(tmp_path / "nowhere"), "--output", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "nowhere" in run.stderr and "does not exist" in run.stderr
