import importlib.util
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

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


def test_diverged_training_is_told(tmp_path, monkeypatch):
    """In the report, in the last line and by the exit status."""
    demo = load_demo()
    monkeypatch.setattr(demo, "PHANTOM_CASES", 10)

    def diverge(run_id, configs, overlays, options):
        with SummaryWriter(options["output_dir"] / "tensorboard") as writer:
            for step, loss in enumerate([1.0, 0.9, math.nan], 1):
                writer.add_scalar("train_loss", loss, step)
        raise SystemExit(f"the demo stopped: {run_id} failed, see above")

    monkeypatch.setattr(demo, "run_bundle", diverge)
    with pytest.raises(SystemExit, match="training diverged: .* after step 2. Report: .*report.html") as raised:
        demo.main(output=str(tmp_path / "out"))
    assert isinstance(raised.value.code, str)  # exit status 1
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "diverged: the loss was not finite any more after step 2" in page
    assert "--learning_rate" in page


def test_other_failures_are_no_divergence(tmp_path, monkeypatch):
    demo = load_demo()
    monkeypatch.setattr(demo, "PHANTOM_CASES", 10)
    monkeypatch.setattr(demo.subprocess, "run", lambda *args, **options: subprocess.CompletedProcess(args, 1))
    with pytest.raises(SystemExit, match="the demo stopped: training failed, see above"):
        demo.main(output=str(tmp_path / "out"))


def test_second_demo_leaves_a_running_one_alone(tmp_path):
    demo = load_demo()
    (tmp_path / ".rep3d_demo").touch()
    (tmp_path / "weights").mkdir()
    hold = "import sys; from filelock import FileLock; kept = FileLock(sys.argv[1]); kept.acquire(); print(1); input()"
    command = [sys.executable, "-u", "-c", hold, str(tmp_path / ".demo.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        first.stdout.readline()
        with pytest.raises(SystemExit, match="another demo works on .*--output"):
            demo.main(output=str(tmp_path))
        first.communicate(b"\n")
    assert (tmp_path / "weights").exists()


def load_demo():
    spec = importlib.util.spec_from_file_location("demo", ROOT / "scripts/demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
