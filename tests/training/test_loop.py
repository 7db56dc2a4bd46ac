import torch
from monai.engines import SupervisedEvaluator
from monai.handlers import StatsHandler, TensorBoardStatsHandler, ValidationHandler

from rep3d.training.loop import handlers_of_rank, is_better
from rep3d.training.progress import TrainingProgress


def test_handlers_of_rank(tmp_path):
    evaluator = SupervisedEvaluator("cpu", [], torch.nn.Identity())
    quiet, progress = ValidationHandler(1, evaluator), TrainingProgress(evaluator)
    handlers = [quiet, StatsHandler(), TensorBoardStatsHandler(log_dir=str(tmp_path)), progress]
    assert handlers_of_rank(handlers, 0) == handlers
    for rank in (1, 7):
        assert handlers_of_rank(handlers, rank) == [quiet]


def test_any_score_is_better_than_nan():
    nan = float("nan")
    assert is_better(0.2, 0.1) and is_better(0.0, nan)
    assert not is_better(0.1, 0.1) and not is_better(nan, 0.1)
