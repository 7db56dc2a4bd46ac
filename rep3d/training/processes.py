"""A training on several processes, as `torchrun` starts them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from ignite.handlers import ProgressBar
from monai.data import Dataset, DistributedSampler
from monai.handlers import StatsHandler, TensorBoardStatsHandler

from rep3d.training.progress import TrainingProgress

PASSES_APART = 1_000_003  # their seeds, of whose bits torch takes the lowest 32; the epochs are between


def handlers_of_rank(handlers: Sequence, rank: int) -> list:
    """All handlers on rank 0; on other ranks none that writes or prints."""
    talking = (StatsHandler, TensorBoardStatsHandler, TrainingProgress, ProgressBar)
    return [handler for handler in handlers if rank == 0 or not isinstance(handler, talking)]


def join_process_group() -> None:
    """Join the processes that `torchrun` started, over NCCL on CUDA and gloo on a CPU."""
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def each_case_once(dataset: Dataset) -> DistributedSampler:
    """The cases of this process, of which no other one has any.

    Raises:
        ValueError: a process would have none.
    """
    processes = dist.get_world_size()
    cases = len(dataset)
    if cases < processes:
        raise ValueError(
            f"{cases} validation or test case(s) for {processes} processes: expected at most as many processes "
            f"as cases, --nproc_per_node {cases}"
        )
    return DistributedSampler(dataset, even_divisible=False, shuffle=False)


class ReshuffledSampler(DistributedSampler):
    """The training cases of this process: in each pass, of which an epoch may have several, dealt anew, in a new order.

    Args:
        dataset: of all processes.
        seed: of the training.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        super().__init__(dataset, seed=seed)

    def __iter__(self) -> Iterator[int]:
        self.seed += PASSES_APART
        return super().__iter__()


def leave_process_group() -> None:
    """Leave the process group of `join_process_group`, before the network is dropped and Python ends.

    Waits for a second first: while gloo's threads let go of what they exchanged last, dropping a
    `DistributedDataParallel` can hang, and the end of Python aborts (pytorch/pytorch#190489).
    """
    time.sleep(1)
    dist.destroy_process_group()


def local_device() -> torch.device:
    """The GPU of this process under `torchrun`, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return torch.device("cuda", torch.cuda.current_device())
