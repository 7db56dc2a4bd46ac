import torch
from ignite.handlers import ProgressBar
from monai.engines import SupervisedEvaluator
from monai.handlers import StatsHandler, TensorBoardStatsHandler, ValidationHandler

from rep3d.training.processes import handlers_of_rank
from rep3d.training.progress import TrainingProgress


def test_handlers_of_rank(tmp_path):
    evaluator = SupervisedEvaluator("cpu", [], torch.nn.Identity())
    quiet, progress = ValidationHandler(1, evaluator), TrainingProgress(evaluator)
    handlers = [quiet, StatsHandler(), TensorBoardStatsHandler(log_dir=str(tmp_path)), progress, ProgressBar()]
    assert handlers_of_rank(handlers, 0) == handlers
    for rank in (1, 7):
        assert handlers_of_rank(handlers, rank) == [quiet]
