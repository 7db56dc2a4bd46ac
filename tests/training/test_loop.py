import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MeanAbsoluteError, StatsHandler, TensorBoardStatsHandler, ValidationHandler
from monai.handlers.utils import from_engine
from torch import nn

from rep3d.training import loop as training
from rep3d.training.loop import TrainingProgress, handlers_of_rank, is_better, key_metric, tell_results


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


def test_handlers_of_rank(engines, tmp_path):
    _, evaluator, progress = engines
    quiet = ValidationHandler(1, evaluator)
    handlers = [quiet, StatsHandler(), TensorBoardStatsHandler(log_dir=str(tmp_path)), progress]
    assert handlers_of_rank(handlers, 0) == handlers
    for rank in (1, 7):
        assert handlers_of_rank(handlers, rank) == [quiet]


def test_any_score_is_better_than_nan():
    nan = float("nan")
    assert is_better(0.2, 0.1) and is_better(0.0, nan)
    assert not is_better(0.1, 0.1) and not is_better(nan, 0.1)


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
    found = [TrainingProgress.LINE.match(line).groupdict() for line in lines]
    assert [(one["epoch"], one["epochs"], one["step"], one["steps"]) for one in found] == [
        ("1", "2", "3", "6"),
        ("2", "2", "6", "6"),
    ]
    assert all(float(one["loss"]) >= 0 and float(one["dice"]) >= 0 for one in found)
    assert "learning rate 0.01" in lines[0]


def test_a_long_epoch_says_more_often_how_far_it_is(engines, caplog):
    trainer, _, progress = engines
    progress.seconds = 0
    with caplog.at_level("INFO", "rep3d"):
        trainer.run()
    steps = [TrainingProgress.LINE.match(record.getMessage())["step"] for record in caplog.records]
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
