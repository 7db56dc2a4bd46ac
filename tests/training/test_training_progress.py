import math
import os
import re
import signal

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MeanAbsoluteError, ValidationHandler
from monai.handlers.utils import from_engine
from torch import nn

from rep3d.console import status as status_files
from rep3d.console.logs import end_log, start_log
from rep3d.console.status import read_status
from rep3d.training import progress as training
from rep3d.training.progress import TrainingProgress, key_metric, tell_results


@pytest.fixture
def engines():
    """Trainer and evaluator of one linear layer: 2 epochs of 3 steps."""
    network = nn.Linear(1, 1)
    data = [{"image": torch.ones(1, 1), "label": torch.ones(1, 1)}] * 3
    evaluator = SupervisedEvaluator(
        "cpu",
        data,
        network,
        key_val_metric={"error": MeanAbsoluteError(output_transform=from_engine(["pred", "label"]))},
    )
    progress = TrainingProgress(evaluator)
    trainer = SupervisedTrainer(
        "cpu",
        max_epochs=2,
        train_data_loader=data,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.01),
        loss_function=nn.MSELoss(),
        train_handlers=[ValidationHandler(1, evaluator), progress],
    )
    return trainer, evaluator, progress


def test_key_metric(engines):
    _, evaluator, _ = engines
    evaluator.run()
    assert key_metric(evaluator) == evaluator.state.metrics["error"]


def test_progress_shows_a_whole_training(engines, monkeypatch):
    trainer, evaluator, progress = engines
    bars = []

    class Bar:
        def __init__(self, total, initial, **_):
            self.total, self.n, self.shown, self.closed, self.disable = total, initial, [], False, False
            bars.append(self)

        def set_postfix(self, shown, refresh):
            self.shown.append(shown)

        def update(self):
            self.n += 1

        def close(self):
            self.closed = True

    monkeypatch.setattr(training, "tqdm", Bar)
    trainer.run()
    (bar,) = bars
    assert (bar.total, bar.n, bar.closed) == (6, 6, True)
    assert bar.shown[0].keys() == {"epoch", "loss"}  # before the first validation
    assert bar.shown[-1].keys() == {"epoch", "loss", "val_dice", "best"}
    assert [shown["epoch"] for shown in bar.shown] == ["1/2"] * 3 + ["2/2"] * 3


def test_progress_of_a_resumed_training_starts_where_it_stopped(engines, capsys, monkeypatch):
    monkeypatch.setattr(training, "in_terminal", lambda: True)
    trainer, _, progress = engines
    trainer.load_state_dict({"epoch": 1, "epoch_length": 3, "max_epochs": 2})
    starts = []
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: starts.append((progress.bar.n, progress.bar.total)))
    trainer.run()
    assert starts == [(3, 6)]
    assert progress.bar.n == 6
    assert "6/6" in capsys.readouterr().err


def test_progress_ends_before_the_error_is_shown(engines):
    trainer, _, progress = engines
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.run()
    assert progress.bar.disable  # as tqdm marks a closed bar


def test_without_a_terminal_there_is_a_line_per_epoch(engines, caplog, capsys):
    trainer, _, _ = engines
    with caplog.at_level("INFO", "rep3d"):
        trainer.run()
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("rep3d")]
    assert len(lines) == 2 and capsys.readouterr() == ("", "")
    number = r"\d+\.\d{3}"
    for line, told in zip(lines, ("epoch 1/2, step 3/6", "epoch 2/2, step 6/6"), strict=True):
        assert re.match(f"{told}, loss {number}, validation Dice {number}, best {number}, learning rate 0.01, ", line)


def test_a_long_epoch_says_more_often_how_far_it_is(engines, caplog):
    trainer, _, progress = engines
    progress.seconds = 0
    with caplog.at_level("INFO", "rep3d"):
        trainer.run()
    steps = [re.search(r"step (\d)/6", record.getMessage())[1] for record in caplog.records]
    assert steps == ["1", "2", "3", "4", "5", "6"]


def test_the_results_are_told(engines, caplog, tmp_path):
    trainer, evaluator, _ = engines
    trainer.run()
    caplog.clear()
    with caplog.at_level("INFO", "rep3d"):
        tell_results(evaluator, str(tmp_path / "models"), str(tmp_path / "eval"), rank=1)
        assert caplog.text == ""
        tell_results(evaluator, str(tmp_path / "models"), str(tmp_path / "eval"))
    best = f"best validation Dice {evaluator.state.best_metric:.3f} in epoch {evaluator.state.best_metric_epoch}"
    assert best in caplog.text
    assert str(tmp_path / "models") in caplog.text and str(tmp_path / "eval/tensorboard") in caplog.text


def test_a_training_without_a_score_is_told_as_not_validated(engines, caplog):
    _, evaluator, _ = engines
    evaluator.state.best_metric, evaluator.state.best_metric_epoch = math.nan, 2
    with caplog.at_level("INFO", "rep3d"):
        tell_results(evaluator, "models", "eval")
    assert "trained: not validated" in caplog.text


@pytest.fixture
def status(tmp_path, monkeypatch):
    """Reads the status of a run whose log has begun; it is written at every step."""
    monkeypatch.setattr(status_files, "SECONDS", 0)
    start_log(tmp_path, "training.log")
    yield lambda: read_status(tmp_path / "training.status.json")
    end_log()


def test_other_programs_read_how_far_a_training_is(engines, status):
    trainer, evaluator, _ = engines
    seen = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: seen.append(status()))
    assert status() is None
    trainer.run()
    assert [(one.state, one.epoch, one.step, one.epochs, one.steps) for one in seen] == [
        ("running", 1 + step // 3, step + 1, 2, 6) for step in range(6)
    ]
    assert [one.metric for one in seen[:3]] == [None] * 3 and seen[0].learning_rate == 0.01
    last = status()
    assert (last.state, last.reason, last.epoch) == ("finished", "", 2)
    assert last.loss == pytest.approx(trainer.state.output[0]["loss"])
    assert (last.metric, last.best_metric) == (key_metric(evaluator), evaluator.state.best_metric)
    assert seen[0].started == last.started <= seen[0].updated <= last.updated


def test_a_loss_that_is_not_finite_is_none(engines, status):
    trainer, _, _ = engines
    trainer.loss_function = lambda *_: torch.tensor(float("nan"), requires_grad=True)
    trainer.run()
    assert status().loss is None


def test_why_a_training_failed_stands_in_its_status(engines, status):
    trainer, _, _ = engines
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda: {}["mask"])
    with pytest.raises(KeyError):
        trainer.run()
    assert (status().state, status().reason, status().epoch) == ("failed", "KeyError: 'mask'", 2)


def test_a_training_that_is_told_to_end_says_where_it_was(engines, status):
    trainer, _, _ = engines
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=4), lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert (status().state, status().reason) == ("stopped", "stopped in epoch 2")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_training_without_a_log_leaves_no_file(engines, tmp_path):
    engines[0].run()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_ends_a_training_of_one_process(processes, engines, monkeypatch):
    """Others may wait for this one in their code."""
    trainer, _, _ = engines
    monkeypatch.setattr(training, "is_distributed", lambda: processes > 1)
    before, during = signal.getsignal(signal.SIGTERM), []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: during.append(signal.getsignal(signal.SIGTERM)))
    trainer.run()
    assert set(during) == {signal.default_int_handler if processes == 1 else before}
    assert signal.getsignal(signal.SIGTERM) == before
