"""A training that ends at a time, whatever else its computer does meanwhile."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Sequence

import torch
import torch.distributed as dist
from ignite.engine import Events
from monai.engines import SupervisedTrainer

from rep3d.process_group import is_distributed
from rep3d.training.finite_steps import accumulated
from rep3d.training.validation import is_validated

logger = logging.getLogger(__name__)

VALIDATING = 0.2  # of the time, at most: what validations are expected to take before there was one


class TimeLimit:
    """Handler of a MONAI trainer: each epoch has as many steps as let the training end with a time.

    The number of epochs stays, and with it the schedule of the learning rate, which comes to its end. The first epoch
    has the steps that it was told; the others as many as fit by what steps and validations took last.

    Args:
        hours: from now to the end of the training; None: no limit. A training that is resumed has the share of its
            remaining epochs.
        val_interval: epochs from one validation to the next; 0: never.

    Raises:
        ValueError: the hours are no number above 0.
    """

    def __init__(self, hours: float | None, val_interval: int) -> None:
        if hours is not None and not (type(hours) in (int, float) and 0 < hours < math.inf):
            raise ValueError(f"hours is {hours!r}, expected a number above 0")
        self.seconds = math.inf if hours is None else 3600 * hours
        self.val_interval = val_interval
        self.began = self.epoch_began = self.step_ended = time.monotonic()
        self.ends = math.inf
        self.steps = 0  # of the epoch at hand; 0 before the first
        self.tails: dict[bool, float] = {}  # what followed the steps of an epoch, by whether it was validated
        self.warned = False

    def attach(self, engine: SupervisedTrainer) -> None:
        """Attach to the trainer, after all that looks at an epoch's length when the epoch ends.

        Raises:
            ValueError: the trainer adds up the gradients of several batches.
        """
        if math.isfinite(self.seconds):
            if accumulated(engine) > 1:  # MONAI counts batches by the length of an epoch, which changes then
                raise ValueError(f"hours are given, and accumulation_steps is {accumulated(engine)}, expected 1")
            engine.add_event_handler(Events.STARTED, self._start)
            engine.add_event_handler(Events.EPOCH_STARTED, self._begin_epoch)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._end_step)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)

    def _start(self, engine: SupervisedTrainer) -> None:
        state = engine.state
        self.ends = self.began + self.seconds * (state.max_epochs - state.epoch) / state.max_epochs

    def _begin_epoch(self, engine: SupervisedTrainer) -> None:
        now, state = time.monotonic(), engine.state
        if self.steps:
            self.tails[self._is_validated(state.epoch - 1, state.max_epochs)] = now - self.step_ended
            step = (self.step_ended - self.epoch_began) / self.steps
            left = range(state.epoch, state.max_epochs + 1)
            room = self.ends - now - self._tails_of(left)
            if room <= 0 and not self.warned:
                logger.warning("validations take the time that is left: the training ends later, with few steps")
                self.warned = True
            state.epoch_length = _agreed(max(1, int(room / len(left) / step)), state.device)
        self.steps, self.epoch_began = state.epoch_length, now

    def _tails_of(self, epochs: Sequence[int]) -> float:
        """Seconds of what follows the steps of epochs, of which the last one ends the training."""
        validated = sum(self._is_validated(epoch, epochs[-1]) for epoch in epochs)
        expected = VALIDATING * self.seconds / max(1, math.ceil(epochs[-1] / max(1, self.val_interval)))
        return validated * self.tails.get(True, expected) + (len(epochs) - validated) * self.tails.get(False, 0.0)

    def _is_validated(self, epoch: int, epochs: int) -> bool:
        return is_validated(epoch, epochs, self.val_interval)

    def _end_step(self) -> None:
        self.step_ended = time.monotonic()

    def _end_epoch(self, engine: SupervisedTrainer) -> None:
        engine.state.epoch_length = sys.maxsize  # or Ignite ends where epochs of the next one's length would have


def _agreed(steps: int, device: torch.device) -> int:
    """The number of the first of all processes."""
    if not is_distributed():
        return steps
    number = torch.tensor(steps, device=device)
    dist.broadcast(number, 0)
    return int(number)
