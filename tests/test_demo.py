import re
from contextlib import redirect_stdout
from io import StringIO

import demo as script
import pytest

CASES = 10  # of the phantom: two of them are held out

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A demo of 6 steps on the phantom, in a folder whose name needs care."""
    folder = tmp_path_factory.mktemp("demo") / "mein Kürzel"
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.setattr(script, "PHANTOM_CASES", CASES)
        script.main(steps=6, output=str(folder))
    return folder, printed.getvalue()


def test_leaves_its_files(demo):
    folder, _ = demo
    for name in ("report.html", "training_curve.png", "overlays.png", "models/model.pt", "models/last.pt"):
        assert (folder / name).stat().st_size > 0
    assert len(list((folder / "predictions").glob("*_seg.nii.gz"))) == CASES // 5


def test_prints_dice_per_label_and_next_commands(demo):
    _, printed = demo
    assert re.search(r"\| anterior hippocampus \| 0\.\d+ ", printed)
    assert re.search(r"\| posterior hippocampus \| 0\.\d+ ", printed)
    assert "-m monai.bundle run training --bundle_root bundles/msd_hippocampus" in printed


def test_leaves_the_files_of_others_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SystemExit, match="give another folder"):
        script.main(output=str(tmp_path))
    assert (tmp_path / "thesis.txt").exists()


def test_missing_data_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.*does not exist"):
        script.main(data=str(tmp_path / "nowhere"), output=str(tmp_path / "out"))
