"""A training that ends at a time, on a computer whose speed changes; the clock is not the true one."""

from itertools import count
from types import SimpleNamespace

import pytest
import torch
from bundle_helpers import BUNDLES, TRAIN, make_dataset, workflow
from ignite.engine import Engine, Events

from rep3d.console.status import read_status
from rep3d.training import time_limit
from rep3d.training.time_limit import TimeLimit
from rep3d.training.validation import Validation

HOUR = 3600
BUNDLE = next(bundle for bundle in BUNDLES if bundle.name == "msd_hippocampus")


class Training:
    """Epochs of steps and validations that take their time on a clock of their own.

    Args:
        hours: of the limit.
        epochs, steps, interval: as told; the limit changes the steps.
        step: seconds of one, by the time since the start.
        validation, rest: seconds of a validation, and of what follows every epoch.
        start: seconds before the first step.
    """

    def __init__(self, monkeypatch, hours, epochs, steps, interval, *, step, validation=20, rest=1, start=30):
        self.now, self.lengths = 0.0, []
        monkeypatch.setattr(time_limit, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.limit = TimeLimit(hours, interval)
        self.engine = Engine(lambda engine, batch: self.wait(step(self.now)))
        self.engine.state.device = torch.device("cpu")
        self.engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: self.wait(rest))
        evaluator = SimpleNamespace(run=lambda epoch: self.wait(validation))
        Validation(evaluator, ["case"], interval).attach(self.engine)
        self.engine.add_event_handler(Events.EPOCH_COMPLETED, self._note)
        self.limit.attach(self.engine)
        self.wait(start)
        self.epochs, self.steps = epochs, steps

    def wait(self, seconds):
        self.now += seconds

    def _note(self, engine):
        self.lengths.append(engine.state.epoch_length)

    def run(self):
        self.engine.run(range(7), max_epochs=self.epochs, epoch_length=self.steps)
        return self


@pytest.mark.parametrize(
    "step",
    [
        lambda now: 2,  # as it was planned
        lambda now: 5,  # slower from the start, and faster
        lambda now: 0.7,
        lambda now: 2 if now < 900 else 4,  # half-way
        lambda now: 2 if now < 900 else 1,
        lambda now: 3 if now // 300 % 2 else 1.5,  # now and then
        lambda now: 2 if now < 1500 else 4,  # near the end
    ],
)
@pytest.mark.parametrize(("epochs", "steps", "interval"), [(20, 40, 1), (35, 22, 4), (10, 80, 5), (100, 50, 5)])
def test_a_training_ends_with_its_time_whatever_its_computer_does(monkeypatch, step, epochs, steps, interval):
    training = Training(monkeypatch, 0.5, epochs, steps, interval, step=step).run()
    assert len(training.lengths) == epochs  # and so the learning rate comes to its end
    assert 0.93 * 0.5 * HOUR <= training.now <= 1.07 * 0.5 * HOUR


def test_one_validation_at_the_end(monkeypatch):
    """Nobody knows how long it takes before: a fifth of the time is left for it."""
    for validation in (200, 360):
        training = Training(monkeypatch, 0.5, 10, 70, 10, step=lambda now: 2, validation=validation).run()
        assert 0.9 * 0.5 * HOUR <= training.now <= 1.02 * 0.5 * HOUR


def test_without_a_limit_nothing_changes(monkeypatch):
    training = Training(monkeypatch, None, 4, 5, 1, step=lambda now: 2).run()
    assert training.lengths == [5] * 4


def test_a_training_that_is_resumed_has_the_share_of_its_epochs(monkeypatch):
    training = Training(monkeypatch, 1, 40, 20, 1, step=lambda now: 2)
    training.engine.load_state_dict({"epoch": 30, "epoch_length": 20, "max_epochs": 40})
    training.engine.run(range(7))
    assert len(training.lengths) == 10
    assert 0.93 * HOUR / 4 <= training.now <= 1.07 * HOUR / 4


def test_validations_that_take_all_of_the_time(monkeypatch, caplog):
    training = Training(monkeypatch, 0.1, 10, 20, 1, step=lambda now: 2, validation=100).run()
    assert training.lengths == [20] + [1] * 9
    assert caplog.text.count("validations take the time that is left") == 1


@pytest.mark.parametrize("hours", [0, -1, "two", True, float("nan"), float("inf")])
def test_what_is_no_time(hours):
    with pytest.raises(ValueError, match=f"hours is {hours!r}, expected a number above 0"):
        TimeLimit(hours, 1)


@pytest.mark.slow
def test_a_bundle_uses_its_time(tmp_path, monkeypatch):
    """By its own pace it has two steps an epoch; what it tells of its steps is what it did."""
    ticks = count()
    monkeypatch.setattr(time_limit, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    dataset = make_dataset(tmp_path / "data", BUNDLE)
    created = workflow(BUNDLE, TRAIN, dataset, tmp_path, epochs=5, hours=30 / HOUR)
    created.run()
    status = read_status(tmp_path / "models/training.status.json")
    assert (status.state, status.epoch, status.epochs) == ("finished", 5, 5)
    assert status.step == status.steps > 15
    assert 0.8 * 30 < next(ticks) < 1.2 * 30
    assert (tmp_path / "models/model.pt").is_file()


def test_batches_whose_gradients_are_added_up_are_refused():
    engine = Engine(lambda engine, batch: None)
    engine.accumulation_steps = 2
    with pytest.raises(ValueError, match="hours are given, and accumulation_steps is 2, expected 1"):
        TimeLimit(1.0, 1).attach(engine)
    TimeLimit(None, 1).attach(engine)
