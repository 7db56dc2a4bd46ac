"""A network, and the patches and cases that fit into memory with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from rep3d.datasets.fingerprint import CaseFacts
from rep3d.datasets.machine import Machine
from rep3d.datasets.planning.decision import Decision
from rep3d.datasets.planning.spacings import median_shape

DIVISOR = 16  # of the edges of a patch; twice as much is the least, so that no stage has a single voxel
BATCH_SIZE = 2
MEASURED, PER_LABEL = 16, 24.0  # labels of the measured steps, bytes of a voxel for each further one (measured: 22)
SPARE = 0.8  # of the memory: what a training may take
CACHE = 0.25  # of the computer's memory, or without a GPU of what a step leaves of it


class Budget(NamedTuple):
    """A network, and what a training step takes: fixed bytes and those for each voxel of a batch.

    Measured in float32 with 16 labels (`scripts/benchmark_network.py`; of `rep3d_tiny` the memory of a process): an
    upper bound for half precision.
    """

    network: str
    fixed: float
    per_voxel: float
    most_voxels: int  # of a patch, whatever the memory
    learning_rate: float
    epochs: int
    num_workers: int
    windows: int  # of inference at once


SMALL = Budget("rep3d_tiny", 0.9e9, 2.2e3, 64 * 48 * 48, 0.002, 100, 0, 4)
PAPER = Budget("rep3d", 1.5e9, 5.2e3, 128 * 128 * 128, 0.0001, 600, 2, 1)


def choose_patch(
    facts: Sequence[CaseFacts], spacing: Sequence[float], budget: Budget, machine: Machine
) -> tuple[list[int], int, list[Decision]]:
    """Edges that the network takes, towards the median image; smaller where the memory asks for it. And the batch.

    Raises:
        ValueError: the memory is too small for the least patch.
    """
    shape = median_shape(facts, spacing)
    least = 2 * DIVISOR
    patch = [max(least, DIVISOR * math.ceil(n / DIVISOR)) for n in shape]
    labels = len(facts[0].voxels)
    room = (SPARE * machine.memory - budget.fixed) / _per_voxel(budget, labels)  # voxels of a batch
    batch = BATCH_SIZE if room >= BATCH_SIZE * least**3 else 1
    most = min(budget.most_voxels, int(room / batch))
    if most < least**3:
        needed = _step_bytes(budget, 1, [least] * 3, labels) / SPARE
        raise ValueError(
            f"{machine.told} is too small: a step of {budget.network} with the least patch, {_by([least] * 3)} voxels, "
            f"takes {needed / 1e9:.1f} GB"
        )
    while math.prod(patch) > most:
        larger = [axis for axis in range(3) if patch[axis] > least]
        patch[max(larger, key=lambda axis: (patch[axis] / shape[axis], patch[axis]))] -= DIVISOR
    takes = _step_bytes(budget, batch, patch, labels)
    why = f"the median image has {_by(shape)} voxels then, and the network takes multiples of {DIVISOR} from {least}"
    fits = f"a step then takes about {takes / 1e9:.1f} GB of {machine.memory / 1e9:.1f} GB"
    return patch, batch, [Decision(f"patch size {_by(patch)}", why), Decision(f"batch size {batch}", fits)]


def choose_cache(
    facts: Sequence[CaseFacts],
    spacing: Sequence[float],
    budget: Budget,
    machine: Machine,
    patch: Sequence[int],
    batch: int,
) -> tuple[int, Decision]:
    """How many prepared cases, each with its label map, stay in the computer's memory beside the training."""
    step = 0 if machine.has_gpu else _step_bytes(budget, batch, patch, len(facts[0].voxels))
    room = CACHE * (machine.host_memory - step)
    of_case = 4 * (facts[0].channels + 1) * math.prod(median_shape(facts, spacing))
    cached = min(len(facts), int(room / of_case))
    why = f"in at most {room / 1e9:.1f} GB, a quarter of what is free"
    return cached, Decision(f"{cached} case(s) stay in memory", why)


def _step_bytes(budget: Budget, batch: int, patch: Sequence[int], labels: int) -> float:
    return budget.fixed + _per_voxel(budget, labels) * batch * math.prod(patch)


def _per_voxel(budget: Budget, labels: int) -> float:
    return budget.per_voxel + PER_LABEL * max(0, labels - MEASURED)


def _by(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides))
