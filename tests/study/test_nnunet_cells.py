"""The comparison with nnU-Net; programs that leave what nnU-Net and our commands would stand for both."""

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import compare_nnunet
import nibabel as nib
import numpy as np
import pytest
import time_nnunet

from rep3d.study.nnunet import cells, environment, summary
from rep3d.study.nnunet.environment import run_logged
from rep3d.study.nnunet.folds import DATASET, Fold, Split, fitting_patch
from rep3d.study.run import RunFailed

FAKE = """
import json, os, shutil, sys
from pathlib import Path

here, words = Path(__file__).parent, sys.argv[1:]
with (here / "calls.txt").open("a") as calls:
    calls.write(" ".join(words) + "\\n")
told = dict(zip(words[3::2], words[4::2]))
if words[0] == "-c":
    print("2.8.1 2.13.0 cpu")
elif words[0] == "-m":
    folder = Path(os.environ["nnUNet_preprocessed"]) / "Dataset001_compared"
    folder.mkdir(parents=True)
    planned = {"batch_size": 3, "patch_size": [24, 16, 20]}
    plans = {"transpose_forward": [2, 0, 1], "configurations": {"3d_fullres": planned}}
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
elif (here / "broken").is_file() and (here / "broken").read_text() in words:
    sys.exit("out of memory")
elif words[:2] == ["rep3d", "new"]:
    config = {"epochs": 7, "steps_per_epoch": 50, "batch_size": 2, "patch_size": [32, 32, 32]}
    configs = Path(told["--bundle_dir"]) / words[2] / "configs"
    configs.mkdir(parents=True, exist_ok=True)
    (configs / "train.json").write_text(json.dumps(config))
elif words[:2] == ["rep3d", "train"]:
    trained = Path(told["--bundle_dir"]) / words[2] / "models/trained"
    trained.mkdir(parents=True)
    (trained / "model.pt").touch()
    (trained / "training.status.json").write_text(json.dumps({"state": "finished", "step": 345}))
elif words[:2] == ["rep3d", "predict"]:
    output = Path(told["--output"])
    output.mkdir()
    for path in (Path(words[2]) / "labelsTs").iterdir():
        shutil.copy(path, output / path.name.replace(".nii.gz", "_seg.nii.gz"))
elif words[0] != "rep3d":
    _, command, settings, result = words
    settings = json.loads(Path(settings).read_text())
    found = {}
    if command == "measure":
        found["seconds_per_step"] = {"0": 3.0, "1": 1.5, "2": 2.0}[os.environ["nnUNet_n_proc_DA"]]
    elif command in ("train", "train_for"):
        found = {"model": "weights", "steps": settings.get("steps", 1234)}
    elif command == "time_windows":
        found = {"plain": 1.5, "mirrored": 12.0, "windows": 40, "patch_size": [96, 160, 160]}
    else:
        output, images = Path(settings["output"]), Path(settings["images"])
        output.mkdir()
        cases = sorted(path.name.replace("_0000", "") for path in images.iterdir())
        for case, other in zip(cases, cases[1:] + cases[:1]):
            shutil.copy(images.parent / "labelsTs" / other, output / case)
    Path(result).write_text(json.dumps(found))
"""


@pytest.fixture
def comparison(tmp_path, monkeypatch):
    """A data set of ten cases, and the script with programs that fake both systems."""
    source, fake = tmp_path / "Atrium", tmp_path / "fake"
    entries = []
    for number in range(10):
        label = np.zeros((10, 10, 10), np.uint8)
        label[2 : 4 + number % 5, 2:8, 2:6] = 1
        for name, voxels in (("imagesTr", 10.0 * label), ("labelsTr", label)):
            (source / name).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels.astype(np.float32), np.eye(4)), source / f"{name}/c{number}.nii.gz")
        entries.append({"image": f"imagesTr/c{number}.nii.gz", "label": f"labelsTr/c{number}.nii.gz"})
    labels = {"0": "background", "1": "atrium"}
    (source / "dataset.json").write_text(json.dumps({"modality": {"0": "MRI"}, "labels": labels, "training": entries}))
    fake.mkdir()
    (fake / "fake.py").write_text(FAKE)
    (fake / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -I {fake / "fake.py"} "$@"\n')
    (fake / "python").chmod(0o755)
    monkeypatch.setattr(cells, "_rep3d", lambda command: [fake / "python", "rep3d", command])
    monkeypatch.setattr(cells, "count_cores", lambda: 2)
    monkeypatch.setattr(compare_nnunet.signal, "signal", lambda *_: None)

    class Comparison:
        output = tmp_path / "output"
        broken = fake / "broken"

        def run(self, **options):
            """The calls of both systems' programs, without their paths."""
            calls = fake / "calls.txt"
            calls.unlink(missing_ok=True)
            try:
                compare_nnunet.main(
                    str(source), str(self.output), nnunet_python=str(fake / "python"), folds=2, **options
                )
            finally:
                self.calls = [line.split() for line in calls.read_text().splitlines()[1:]]
            return [self._name(words) for words in self.calls]

        @staticmethod
        def _name(words):
            return "plan" if words[0] == "-m" else f"{words[0]} {words[1]}" if words[0] == "rep3d" else words[1]

        def cell(self, budget, system, fold=0):
            return self.output / f"Atrium_fold{fold}of2/{budget}/{system}"

        def read(self, path):
            return json.loads((self.output / "Atrium_fold0of2" / path).read_text())

    return Comparison()


OURS = ["rep3d new", "rep3d train", "rep3d predict"]
MEASURED = ["measure"] * 3


def test_equal_time(comparison, capsys):
    assert comparison.run(minutes=30) == ["plan", *MEASURED, "train_for", "predict", *OURS]
    settings = comparison.read("30_minutes/nnunet/train_for_settings.json")
    assert settings == {"dataset": DATASET, "seconds": 1800}
    told = [words[1] for words in comparison.calls if words[-2:] == ["--hours", "0.5"]]
    assert told == ["new", "train"]
    theirs, ours = (comparison.read(f"30_minutes/{system}/cell.json")["training"] for system in ("nnunet", "rep3d"))
    assert theirs["steps"] == 1234 and "1.50 s with 1" in theirs["made_with"] and theirs["seconds"] > 0
    assert ours["steps"] == 345 and ours["patch_size"] == [32, 32, 32]
    text = capsys.readouterr().out
    assert "## Atrium, 30 minutes, fold(s) 0 of 2, 2 cores" in text and "dice of 5 common case(s)" in text
    assert "| rep3d | 1.000 | 1.000 |" in text and "rep3d - nnunet, mean of the cases' differences: +0." in text
    assert (comparison.output / "Atrium_2_folds_30_minutes_2_cores.png").stat().st_size > 1000
    rows = list(csv.DictReader((comparison.output / "cases.csv").open()))
    assert len(rows) == 10 and {float(row["dice"]) for row in rows if row["system"] == "rep3d"} == {1}


def test_both_train_on_the_same_cases_and_see_none_that_is_held_out(comparison):
    comparison.run(minutes=30)
    split = comparison.read("split.json")
    (theirs,) = comparison.read(f"nnUNet_preprocessed/{DATASET}/splits_final.json")
    (ours,) = comparison.read("30_minutes/rep3d/compared/data/splits.json")
    assert theirs == ours == {"train": split["train"], "val": split["val"]}
    assert sorted(split["train"] + split["val"] + split["test"]) == [f"c{i}" for i in range(10)]
    raw = comparison.output / "Atrium_fold0of2/nnUNet_raw" / DATASET
    held_out = {path.name for path in (raw / "labelsTs").iterdir()}
    assert held_out == {f"{case}.nii.gz" for case in split["test"]} and not held_out & set(
        path.name for path in (raw / "labelsTr").iterdir()
    )


def test_finished_cells_are_not_run_again(comparison, capsys, monkeypatch):
    monkeypatch.setattr(summary, "box_plot", lambda *_: None)
    comparison.run(minutes=30)
    assert comparison.run(minutes=30) == []
    assert comparison.run(minutes=(30, 60), systems="nnunet") == ["train_for", "predict"]
    assert comparison.run(minutes=30, fold=1) == ["plan", *MEASURED, "train_for", "predict", *OURS]
    assert "fold(s) 0, 1 of 2, 2 cores\n\ndice of 10 common case(s)" in capsys.readouterr().out


def test_equal_steps(comparison):
    calls = comparison.run(steps=120, systems="rep3d,nnunet")
    assert calls == ["plan", *OURS, *MEASURED, "train", "predict"]
    (train,) = [words for words in comparison.calls if words[:2] == ["rep3d", "train"]]
    options = " ".join(train[train.index("--epochs") :])
    assert (
        options == "--epochs 12 --steps_per_epoch 10 --batch_size 3 --patch_size [32, 32, 32] --folds 0 --resume auto"
    )
    assert comparison.read("120_steps/nnunet/train_settings.json") == {"dataset": DATASET, "steps": 120}
    trainings = [comparison.read(f"120_steps/{system}/cell.json")["training"] for system in ("nnunet", "rep3d")]
    assert [training["steps"] for training in trainings] == [120, 345]  # ours are those that it tells
    assert [training["batch_size"] for training in trainings] == [3, 3]
    assert trainings[0]["patch_size"] == [24, 20, 16]  # along R, A, S


@pytest.mark.parametrize(("budget", "train"), [({"minutes": 30}, "train_for"), ({"steps": 100}, "train")])
@pytest.mark.parametrize("left", ["checkpoint_latest.pth", "checkpoint_final.pth"])
def test_after_an_interruption(comparison, budget, train, left):
    """A training of so many minutes is run at a stretch, one of so many steps goes on."""
    comparison.broken.write_text(train)
    with pytest.raises(RunFailed, match="failed: out of memory .*log.txt"):
        comparison.run(**budget, systems="nnunet")
    (folder,) = comparison.output.glob("*/*/nnunet")
    (folder / "nnUNet_results/train/fold_0").mkdir(parents=True)
    (folder / "nnUNet_results/train/fold_0" / left).touch()
    assert not (folder / "cell.json").exists()
    comparison.broken.write_text("predict")
    with pytest.raises(RunFailed, match="out of memory"):
        comparison.run(**budget, systems="nnunet")
    assert [comparison._name(words) for words in comparison.calls] == [train, "predict"]
    in_parts = train == "train"
    assert (json.loads((folder / "trained.json").read_text())["seconds"] is None) is in_parts
    assert (folder / "nnUNet_results/train/fold_0").exists() is in_parts
    comparison.broken.unlink()
    (folder / "predictions").mkdir()  # of which some are there: all are timed, or none
    (folder / "predictions/half.nii.gz").touch()
    assert comparison.run(**budget, systems="nnunet") == ["predict"]  # what is trained stays
    assert not (folder / "predictions/half.nii.gz").exists()


def test_a_label_map_on_another_grid(comparison):
    comparison.run(minutes=30, systems="rep3d")
    split = Split(**comparison.read("split.json"))
    fold = Fold("Atrium", 0, 2, comparison.output / "Atrium_fold0of2", split)
    folder = comparison.cell("30_minutes", "rep3d") / "predictions"
    path = folder / f"{split.test[-1]}_seg.nii.gz"
    moved = nib.Nifti1Image(nib.load(path).get_fdata(), np.diag([2, 2, 2, 1.0]))
    path.unlink()
    nib.save(moved, path)
    with pytest.raises(ValueError, match=rf"{path.name}: .*labelsTs/{split.test[-1]}.nii.gz"):
        cells._scores(fold, folder, "_seg.nii.gz")


def test_another_data_set_of_the_same_name(comparison, tmp_path):
    comparison.run(minutes=30, systems="rep3d")
    (tmp_path / "moved").mkdir()
    (tmp_path / "Atrium").rename(tmp_path / "moved/Atrium")
    with pytest.raises(ValueError, match="is of .*, not of .*moved.*give another output_dir"):
        compare_nnunet.main(str(tmp_path / "moved/Atrium"), str(comparison.output), minutes=30, folds=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "neither minutes nor steps"),
        ({"minutes": (30, 0)}, "minutes is 0"),
        ({"steps": 1.5}, "steps is 1.5"),
        ({"minutes": 1, "fold": 5}, "fold is 5, expected 0 to 4"),
        ({"minutes": 1, "folds": 1}, "folds is 1"),
        ({"minutes": 1, "systems": "nnunet,unet"}, "'unet'"),
        ({"minutes": 1, "nnunet_python": sys.executable}, "expected a Python that has nnunetv2=="),
        ({"minutes": 1, "folds": 11}, "folds is 11, expected 2 to 10"),
    ],
)
def test_what_is_refused(comparison, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        compare_nnunet.main(str(tmp_path / "Atrium"), str(tmp_path / "output"), **options)
    assert not list((tmp_path / "output").glob("*/*_minutes"))


def test_the_time_of_a_scan(comparison, tmp_path, capsys):
    options = {"nnunet_python": str(tmp_path / "fake/python"), "windows": 2}
    for _ in range(2):
        time_nnunet.main(str(tmp_path / "Atrium"), str(tmp_path / "timed"), **options)
    text = capsys.readouterr().out
    assert "windows of 96x160x160 voxels, of which 2 were timed" in text
    assert "| off | 1.50 | 40 | 1.0 |" in text and "| on | 12.00 | 40 | 8.0 |" in text
    planned = [line for line in (tmp_path / "fake/calls.txt").read_text().splitlines() if line.startswith("-m")]
    assert len(planned) == 1 and planned[0].endswith("--no_pp")


def test_the_least_patch_that_holds_theirs():
    assert fitting_patch([40, 56, 40]) == [48, 64, 48]
    assert fitting_patch([16, 96, 33]) == [32, 96, 48]


def test_nobody_outlives_a_program(tmp_path):
    log = tmp_path / "log.txt"
    with pytest.raises(RunFailed, match="log.txt"):
        run_logged(["sh", "-c", "sleep 60 & echo $!; exit 3"], log)
    number = int(log.read_text())
    for _ in range(100):
        if not _runs(number):
            return
        time.sleep(0.05)
    raise AssertionError(f"process {number} still runs")


@pytest.mark.slow
def test_nobody_outlives_whoever_runs_a_program(tmp_path):
    """Killed, it cannot end them itself."""
    log, code = (
        tmp_path / "log.txt",
        "from rep3d.study.nnunet.environment import run_logged as run; from pathlib import Path",
    )
    words = ["sh", "-c", "sleep 60 & echo $!; wait"]
    runner = subprocess.Popen([sys.executable, "-c", f"{code}; run({words}, Path({str(log)!r}))"])
    for _ in range(600):
        if log.is_file() and log.read_text().endswith("\n"):
            break
        time.sleep(0.1)
    number = int(log.read_text())
    assert _runs(number)
    runner.kill()
    runner.wait()
    for _ in range(100):
        if not _runs(number):
            return
        time.sleep(0.05)
    raise AssertionError(f"process {number} still runs")


def test_what_is_not_compared_and_what_missed_its_time(comparison, capsys, monkeypatch):
    monkeypatch.setattr(summary, "box_plot", lambda *_: None)
    comparison.run(minutes=30)
    assert "**nnunet of fold 0 trained 0.0 minutes, not 30 minutes: remove " in capsys.readouterr().out
    path = comparison.cell("30_minutes", "nnunet") / "cell.json"
    cell = json.loads(path.read_text())
    for minutes, is_told in ((32, False), (34, True), (26, True)):
        cell["training"]["seconds"] = 60 * minutes
        path.write_text(json.dumps(cell))
        assert ("**nnunet of fold 0" in summary.summarize(comparison.output)) is is_told
    for other in ({"cores": 8}, {"device": "cuda"}):
        path.write_text(json.dumps({**cell, **other}))
        assert "##" not in summary.summarize(comparison.output)
    path.unlink()
    trained = path.with_name("trained.json")
    trained.write_text(json.dumps({**json.loads(trained.read_text()), "cores": 8}))
    with pytest.raises(
        ValueError, match=r"nnunet was trained with 8 core\(s\) on cpu, now there are 2 on cpu: predict"
    ):
        comparison.run(minutes=30)


def test_both_compute_on_one_device(comparison, monkeypatch):
    monkeypatch.setattr(environment, "DEVICE", "cuda")
    with pytest.raises(ValueError, match="whose PyTorch computes on cpu, and ours on cuda: expected one device"):
        comparison.run(minutes=30)


def _runs(number):
    state = Path(f"/proc/{number}/stat")
    return state.exists() and state.read_text().split()[2] != "Z"
