import math
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import demo as script
import pytest
from programs import forking
from torch.utils.tensorboard import SummaryWriter

from rep3d.study import demo as study
from rep3d.study import run
from rep3d.study.run import BundleProcess, RunFailed

CASES = 10  # of the phantom: two of them are held out

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A demo of 6 steps on the phantom, in a folder whose name needs care."""
    folder = tmp_path_factory.mktemp("demo") / "mein Kürzel"
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.setattr(script, "PHANTOM_CASES", CASES)
        patch.setattr(run, "subprocess", forking)
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
    commands = printed.partition("Try next:\n")[2].splitlines()
    assert "-m monai.bundle run training" in commands[0] and len(commands) == 3
    for words in map(shlex.split, commands):  # they work from any folder
        assert all(Path(word).exists() for word in words if "/" in word), words
        assert Path(words[0]).is_absolute()


def test_leaves_the_files_of_others_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="give another folder"):
        script.main(output=str(tmp_path))
    assert (tmp_path / "thesis.txt").exists()


def test_missing_data_is_named(tmp_path):
    """Before an earlier demo is replaced."""
    (tmp_path / ".rep3d_demo").touch()
    (tmp_path / "models").mkdir()
    with pytest.raises(FileNotFoundError, match="nowhere.*does not exist"):
        script.main(data=str(tmp_path / "nowhere"), output=str(tmp_path))
    assert (tmp_path / "models").is_dir()


def test_diverged_training_is_told(tmp_path, monkeypatch):
    """In the report, in the last line and by the exit status."""
    monkeypatch.setattr(script, "PHANTOM_CASES", 10)

    def diverge(run):
        with SummaryWriter(run.overrides["output_dir"] / "tensorboard") as writer:
            for step, loss in enumerate([1.0, 0.9, math.nan], 1):
                writer.add_scalar("train_loss", loss, step)
        raise RunFailed("training failed, see above")

    monkeypatch.setattr(study, "run_process", diverge)
    with pytest.raises(SystemExit, match="training diverged: .* after step 2. Report: .*report.html") as raised:
        script.main(output=str(tmp_path / "out"))
    assert isinstance(raised.value.code, str)  # exit status 1
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "diverged: the loss was not finite any more after step 2" in page
    assert "--learning_rate" in page


def test_other_failures_are_no_divergence(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "PHANTOM_CASES", 10)
    monkeypatch.setattr(BundleProcess, "_module", ["-c", "raise SystemExit(1)"])
    with pytest.raises(SystemExit, match="the demo stopped: training failed, see above"):
        script.main(output=str(tmp_path / "out"))


def test_second_demo_leaves_a_running_one_alone(tmp_path):
    (tmp_path / ".rep3d_demo").touch()
    (tmp_path / "weights").mkdir()
    hold = "import sys; from filelock import FileLock; kept = FileLock(sys.argv[1]); kept.acquire(); print(1); input()"
    command = [sys.executable, "-u", "-c", hold, str(tmp_path / ".demo.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        first.stdout.readline()
        with pytest.raises(ValueError, match="another demo works on .*--output"):
            script.main(output=str(tmp_path))
        first.communicate(b"\n")
    assert (tmp_path / "weights").exists()


@pytest.mark.parametrize(
    ("steps", "epochs", "length"), [(1, 1, 1), (5, 5, 1), (6, 6, 1), (1200, 6, 200), (1201, 6, 200)]
)
def test_few_steps(steps, epochs, length, tmp_path, monkeypatch):
    """No epoch is empty."""
    told = {}

    def run_process(run):
        told.update(run.overrides)
        raise RunFailed("enough")

    monkeypatch.setattr(script, "PHANTOM_CASES", CASES)
    monkeypatch.setattr(study, "run_process", run_process)
    with pytest.raises(SystemExit, match="enough"):
        script.main(steps=steps, output=str(tmp_path / "out"))
    assert (told["epochs"], told["train#trainer#epoch_length"]) == (epochs, length)


@pytest.mark.parametrize("steps", [0, -6])
def test_no_steps(steps, tmp_path):
    with pytest.raises(ValueError, match=f"steps is {steps}, expected 1 at least"):
        script.main(output=str(tmp_path / "out"), steps=steps)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("chose", "told"), [("a", "by them the weights were chosen"), ("b", "neither training nor the choice of weights")]
)
def test_it_says_whether_the_scored_cases_chose_the_weights(chose, told, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "load_datalist", lambda dataset, part: [{"image": f"{chose}.nii.gz"}])
    demo = study.Demo(tmp_path, {}, tmp_path, "", tmp_path, 1, [], [], "")
    text = demo._scored_on([{"image": "a.nii.gz"}])
    assert text.startswith("1 cases that") and told in text
