"""What the run at hand is doing, as data: a JSON file beside its log, for programs that start runs and watch them."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rep3d.files import read_record, write_json

logger = logging.getLogger(__name__)

TRAINING_STATUS = "training.status.json"  # in the folder of a training
SECONDS = 2  # between two writes, at least


@dataclass(frozen=True)
class Status:
    """What a run tells: a training all along, others when they fail or are stopped.

    Args:
        state: "running", "finished", "stopped" or "failed". A run that is killed stays "running"; one that is refused
            tells nothing.
        reason: why it stopped or failed, in one line.
        started, updated: seconds since 1970.
        epoch, step: the latest, from 1 on; 0 before the first.
        epochs, steps: of the whole training.
        loss: of the latest step.
        metric, best_metric: of the latest validation, and the best so far.
        learning_rate: the present one.
        settings: what a training was told, see `rep3d.training.settings.learning_settings`.

    Numbers that are unknown, or not finite, are None.
    """

    state: str = "running"
    reason: str = ""
    started: float = 0
    updated: float = 0
    epoch: int = 0
    epochs: int = 0
    step: int = 0
    steps: int = 0
    loss: float | None = None
    metric: float | None = None
    best_metric: float | None = None
    learning_rate: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


class StatusFile:
    """Writes the status of a run. A file that cannot be written is only warned about: the run is worth more.

    Args:
        path: of the JSON file. That of an earlier run goes.
        settings: see `Status`.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.status = Status(started=time.time(), settings=settings or {})
        self._due = 0.0
        self._warned = False
        path.unlink(missing_ok=True)

    def update(self, numbers: Mapping[str, float]) -> None:
        """The run goes on; written once in SECONDS.

        Args:
            numbers: by field of `Status`.
        """
        finite: dict[str, Any] = {name: number if math.isfinite(number) else None for name, number in numbers.items()}
        self.status = replace(self.status, **finite)
        if time.monotonic() >= self._due:
            self._write()

    def end(self, state: str, reason: str = "") -> None:
        """The run is at its end."""
        self.status = replace(self.status, state=state, reason=reason)
        self._write()

    def _write(self) -> None:
        self._due = time.monotonic() + SECONDS
        try:
            write_json(self.path, asdict(replace(self.status, updated=time.time())))
        except OSError as error:
            if not self._warned:
                logger.warning("the status of this run cannot be written: %s", error)
            self._warned = True


def read_status(path: str | os.PathLike) -> Status | None:
    """What a run told last; None where it told nothing yet."""
    return read_record(path, Status)
