import json

import pytest

from rep3d.console import status
from rep3d.console.errors import end_of_run
from rep3d.console.logs import end_log, run_status, start_log, start_status
from rep3d.console.status import StatusFile, read_status


@pytest.fixture
def path(tmp_path):
    return tmp_path / "training.status.json"


def test_what_a_run_tells_is_read_again(path):
    file = StatusFile(path)
    assert read_status(path) is None
    file.update({"epoch": 2, "loss": 0.5, "metric": float("inf")})
    told = read_status(path)
    assert (told.state, told.epoch, told.loss, told.metric) == ("running", 2, 0.5, None)
    file.end("failed", "the disk is full")
    assert read_status(path).state == "failed" and read_status(path).reason == "the disk is full"
    assert read_status(path).epoch == 2


def test_it_is_written_now_and_then_and_at_the_end(path):
    file = StatusFile(path)
    for step in range(5):
        file.update({"step": step})
    assert read_status(path).step == 0
    file.end("finished")
    assert read_status(path).step == 4


def test_a_new_run_takes_the_status_of_an_earlier_one_away(path):
    StatusFile(path).end("failed", "of yesterday")
    StatusFile(path)
    assert not path.exists()


def test_a_run_that_has_not_begun_leaves_the_status_of_an_earlier_one(path):
    StatusFile(path).end("finished")
    start_log(path.parent, "training.log", status=False)
    end_of_run(ValueError("refused"))
    assert run_status() is None and read_status(path).state == "finished"
    start_status()
    assert not path.exists()
    end_of_run(ValueError("no memory"))
    assert read_status(path).reason == "ValueError: no memory"
    end_log()
    assert start_status() is None


def test_a_status_that_cannot_be_written_ends_no_run(path, caplog, monkeypatch):
    monkeypatch.setattr(status, "SECONDS", 0)
    file = StatusFile(path)
    path.mkdir()
    file.update({"epoch": 1})
    file.end("finished")
    assert caplog.text.count("the status of this run cannot be written") == 1


@pytest.mark.parametrize("content", [{"epoch": 3, "temperature": 40}, {"epoch": 3}])
def test_a_status_of_another_release_is_read(path, content):
    path.write_text(json.dumps(content))
    assert read_status(path).epoch == 3


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (ValueError("a.nii.gz: expected labels\nand more"), "failed", "ValueError: a.nii.gz: expected labels"),
        (KeyboardInterrupt(), "stopped", "stopped"),
    ],
)
def test_what_ended_a_run(error, state, reason, tmp_path):
    end_of_run(error)  # without a run nothing happens
    start_log(tmp_path, "evaluation.log")
    end_of_run(error)
    told = read_status(tmp_path / "evaluation.status.json")
    assert (told.state, told.reason) == (state, reason)
    end_log()
    assert run_status() is None
