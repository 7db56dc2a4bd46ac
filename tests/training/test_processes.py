import pytest
import torch
import torch.distributed as dist
from ignite.handlers import ProgressBar
from monai.engines import SupervisedEvaluator
from monai.handlers import StatsHandler, TensorBoardStatsHandler, ValidationHandler

from rep3d.training.processes import ReshuffledSampler, each_case_once, handlers_of_rank
from rep3d.training.progress import TrainingProgress


def test_handlers_of_rank(tmp_path):
    evaluator = SupervisedEvaluator("cpu", [], torch.nn.Identity())
    quiet, progress = ValidationHandler(1, evaluator), TrainingProgress(evaluator)
    handlers = [quiet, StatsHandler(), TensorBoardStatsHandler(log_dir=str(tmp_path)), progress, ProgressBar()]
    assert handlers_of_rank(handlers, 0) == handlers
    for rank in (1, 7):
        assert handlers_of_rank(handlers, rank) == [quiet]


def test_no_process_is_without_a_case(monkeypatch):
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    with pytest.raises(ValueError, match=r"2 validation or test case\(s\) for 3 processes: .*--nproc_per_node 2"):
        each_case_once(range(2))


def test_each_pass_has_an_order_of_its_own(monkeypatch):
    """Also those of one epoch, and those of a training that goes on or has another seed."""
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)

    def passes(rank, seed, epoch):
        monkeypatch.setattr(dist, "get_rank", lambda: rank)
        sampler = ReshuffledSampler(range(10), seed)
        sampler.set_epoch(epoch)
        return [tuple(sampler) for _ in range(3)]

    chosen = [(0, 1), (0, 2), (7, 1)]
    first, other = ([one for place in chosen for one in passes(rank, *place)] for rank in (0, 1))
    assert len(set(first)) == 9 and len({frozenset(one) for one in first}) > 6
    assert all(sorted(mine + its) == list(range(10)) for mine, its in zip(first, other, strict=True))
