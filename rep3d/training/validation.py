"""When a training validates."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from ignite.engine import Events
from monai.engines import Evaluator, Trainer, Workflow
from monai.handlers import LrScheduleHandler

from rep3d.data.cases import Item

logger = logging.getLogger(__name__)


def is_validated(epoch: int, epochs: int, interval: int) -> bool:
    """Whether a training of so many epochs validates after one of them.

    Args:
        interval: in epochs; 0: never.
    """
    return interval > 0 and (epoch % interval == 0 or epoch == epochs)


def has_score(best: float, epoch: int) -> bool:
    """Whether a training was validated, by the best score and its epoch: -1 before, NaN where no case shows a label."""
    return epoch > 0 and not math.isnan(best)


def attach_schedule(
    handler: LrScheduleHandler, engine: Workflow, evaluator: Evaluator, cases: Sequence[Item], interval: int
) -> None:
    """Attach the schedule of the learning rate; a warning says where it waits for validations and there will be none.

    Args:
        handler: of the schedule.
        engine: whose epochs the schedule counts.
        evaluator, cases, interval: as of `Validation`.
    """
    if engine is evaluator and not (interval and cases):
        told = f"val_interval is {interval}" if cases else "there are no validation cases"
        logger.warning("the learning rate stays as it is: its schedule goes by validations, and %s", told)
    handler.attach(engine)


class Validation:
    """Validates after every so many epochs, and after the last one in any case: a training ends with a score.

    Args:
        evaluator: MONAI evaluator.
        cases: that it validates on; without any it is never run.
        interval: in epochs; 0: never.

    Raises:
        ValueError: the interval is below 0.
    """

    def __init__(self, evaluator: Evaluator, cases: Sequence[Item], interval: int) -> None:
        if interval < 0:
            raise ValueError(f"val_interval is {interval}, expected 0 (never) or a number of epochs")
        self.evaluator = evaluator
        self.cases = cases
        self.interval = interval

    def attach(self, engine: Trainer) -> None:
        """Attach to the trainer."""
        if self.interval and self.cases:
            engine.add_event_handler(Events.EPOCH_COMPLETED(event_filter=self._is_due), self._validate)

    def _is_due(self, engine: Trainer, epoch: int) -> bool:
        return is_validated(epoch, engine.state.max_epochs, self.interval)

    def _validate(self, engine: Trainer) -> None:
        self.evaluator.run(engine.state.epoch)
