"""What to try, one after the other, while the GPU's memory does not suffice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from monailabel_app.models import contract

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True)
class Step:
    """A way to need less memory."""

    note: str  # what is done differently; empty: nothing
    changes: Mapping[str, Any]  # in the bundle's inference config


AS_CONFIGURED = Step("", {})
ONE_WINDOW = Step("took one window at a time", {contract.SW_BATCH_SIZE: 1})
IN_MAIN_MEMORY = Step(
    "put the windows together in main memory",
    {**ONE_WINDOW.changes, contract.STITCHING_DEVICE: "cpu", contract.WINDOW_DEVICE: f"@{contract.DEVICE}"},
)
SMALLER_WINDOWS = Step(
    "took smaller windows than the network was trained with",
    {
        **IN_MAIN_MEMORY.changes,
        contract.ROI_SIZE: f"$[side * 2 // 3 for side in @{contract.PATCH_SIZE}]",
    },
)
ON_CPU = Step("used the CPU", {contract.DEVICE: "cpu"})

TO_SEGMENT = (AS_CONFIGURED, ONE_WINDOW, IN_MAIN_MEMORY, SMALLER_WINDOWS, ON_CPU)
TO_SCORE = (IN_MAIN_MEMORY, ON_CPU)  # never the whole image on the GPU, and windows of one size: scores are compared


def with_less_memory(steps: Sequence[Step], run: Callable[[Step], Result], free_memory: Callable[[], None]) -> Result:
    """What `run` gives on the first step on which the GPU's memory suffices.

    Args:
        steps: the last one needs no GPU.
        run: raises `torch.cuda.OutOfMemoryError` where it does not.
        free_memory: called between two steps.
    """
    *tried_first, last = steps
    for step in tried_first:
        try:
            return run(step)
        except torch.cuda.OutOfMemoryError:
            logger.warning("out of GPU memory (%s)", step.note or "as configured")
        free_memory()  # outside the handler: the error keeps what its frames hold
    return run(last)
