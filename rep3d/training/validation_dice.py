"""The Dice by which a training chooses its best weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import ignite.distributed as idist
import torch
from monai.handlers import IgniteMetricHandler
from monai.metrics import DiceHelper, DiceMetric


class ValidationDice(IgniteMetricHandler):
    """Mean over the cases of the mean over their labels, each counted as `rep3d evaluate` counts it.

    A label that neither truth nor prediction has does not count, one that only one of them has is 0. NaN where the
    truth shows none in any case, of all processes.

    Args:
        include_background: whether the first label or mask counts.
        num_classes: how many ids label maps may have; None: there are masks in their place.
        output_transform: from the evaluator's output to predictions and truths.
    """

    def __init__(
        self,
        include_background: bool = True,
        num_classes: int | None = None,
        output_transform: Callable[[Any], Any] = lambda output: output,
    ) -> None:
        super().__init__(_CountedDice(include_background, num_classes=num_classes), output_transform=output_transform)

    def reset(self) -> None:
        """Begin a validation."""
        super().reset()
        self.has_labels = False

    def update(self, output: Sequence[Any]) -> None:
        """Add the predictions and truths of a batch."""
        super().update(output)
        self.has_labels |= any(bool(truth.any()) for truth in output[1])

    def compute(self) -> float:
        """The score of a validation; the Dice of each case and label goes into the evaluator's `metric_details`."""
        score = super().compute()
        return score if idist.all_reduce(float(self.has_labels)) else math.nan


class _CountedDice(DiceMetric):
    """MONAI's, with 0 for a label that the prediction alone has."""

    def __init__(self, include_background: bool, num_classes: int | None) -> None:
        super().__init__(include_background, num_classes=num_classes)
        self.of_absent = DiceHelper(
            include_background=include_background,
            reduction="none",
            get_not_nans=False,
            apply_argmax=False,
            ignore_empty=False,
            num_classes=num_classes,
        )

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        dice = super()._compute_tensor(y_pred, y)
        if not dice.isnan().any():
            return dice
        counted: Any = self.of_absent(y_pred, y)
        return torch.where(dice.isnan() & (counted == 0), counted, dice)
