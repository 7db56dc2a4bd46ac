"""How many epochs end within a time."""

import copy
import re
import sys

import pytest
from bundle_helpers import write_pairs

from rep3d.commands import main
from rep3d.datasets import own_bundle
from rep3d.files import read_json, write_json
from rep3d.study import schedule
from rep3d.study.schedule import Timing


@pytest.mark.parametrize(
    "timing",
    [
        *(Timing(60, 30, 120), Timing(5, 0.1, 0), Timing(0, 100, 5000), Timing(600, 2, 1), Timing(0, 60, 400)),
        *(Timing(15, 60, 30, 50, 0.5), Timing(0, 270, 72)),  # the latter: 21 epochs, of which each 2nd validates
    ],
)
@pytest.mark.parametrize("hours", [2, 10])
def test_the_time_is_used_and_not_passed(timing, hours):
    epochs, val_interval, why, steps = timing.schedule(3600 * hours)
    assert 0.9 * 3600 * hours <= timing.seconds(epochs, val_interval, steps) <= 3600 * hours
    assert 1 <= epochs / val_interval <= 20 and f"end within {hours} h" in why and steps == 50


@pytest.mark.parametrize("seconds", [120, 180, 300, 599])
def test_a_short_time_is_used_as_well(seconds):
    """By epochs of fewer steps: one of fifty takes a minute here."""
    timing = Timing(15, 60, 30, 50, 0.5)
    epochs, val_interval, _, steps = timing.schedule(seconds)
    assert steps < 50 and epochs >= 10
    assert 0.9 * seconds <= timing.seconds(epochs, val_interval, steps) <= seconds


def test_a_training_is_its_steps_and_its_validations():
    assert Timing(start=60, epoch=30, validation=7).seconds(10, 1) == 60 + 10 * 30 + 10 * 7
    assert Timing(start=60, epoch=30, validation=7).seconds(10, 4) == 60 + 10 * 30 + 3 * 7


def test_a_time_that_is_too_short():
    """What is long enough is told as it is typed."""
    timing = Timing(10, 80, 10)
    with pytest.raises(ValueError, match="30 s are too short: 10 steps and a validation end after 36 s") as refused:
        timing.schedule(30)
    hours = float(str(refused.value).rpartition("expected --hours ")[2])
    assert timing.schedule(3600 * hours).epochs == 10


@pytest.mark.slow
def test_the_command_times_the_bundle_it_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(schedule, "WARM_UP", 1)
    monkeypatch.setattr(schedule, "TIMED", 2)
    write_pairs(tmp_path / "scans #2", 2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "argv", ["rep3d", "new", "mine", "--source", "scans #2", "--hours", "1.5"])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert "  rep3d train mine --hours 1.5" in lines
    assert any(line.endswith("--bundle_root bundles/mine --hours 1.5") for line in lines)
    (line,) = [line for line in lines if "epochs: end within 1.5 h" in line]
    assert int(line.split()[1]) > 1 and "an epoch of 50 steps takes" in line
    assert not (tmp_path / "bundles/mine/models").exists()


def test_keys_that_were_taken_out_of_the_file_are_decided_anew(tmp_path, monkeypatch, capsys):
    """The bundle is made twice then, before and after its steps are timed: the report is of both."""
    monkeypatch.setattr(own_bundle, "write_fingerprint", lambda *_: None)
    monkeypatch.setattr(schedule, "time_training", lambda folder: Timing(15, 60, 30, 50, 0.5))
    write_pairs(tmp_path / "scans", 3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    path = tmp_path / "bundles/mine/mine.json"

    def new(*words):
        monkeypatch.setattr(sys, "argv", ["rep3d", "new", "mine", "--source", "scans", *words])
        main()
        return read_json(path), capsys.readouterr().out

    decided, _ = new("--hours", "0.1")
    assert decided["train"]["steps_per_epoch"] < 50
    changed = copy.deepcopy(decided)
    for section, key in (("common", "patch_size"), ("train", "epochs"), ("train", "learning_rate")):
        del changed[section][key]
    del changed["metadata"]
    changed["train"]["seed"] = 7
    write_json(path, changed)
    again, said = new()
    assert "as before: --hours 0.1" in said
    assert again.pop("train") == decided.pop("train") | {"seed": 7} and again == decided
    for text in (said, (path.parent / "data/report.md").read_text()):
        removed = re.findall(r"- (\S+) was removed from mine.json, and is decided anew", text)
        assert sorted(removed) == ["common.patch_size", "metadata", "train.epochs", "train.learning_rate"]
        assert re.findall(r"- (\S+) is \S+ yours", text) == ["train.seed"]
    assert "was removed" not in new()[1]
