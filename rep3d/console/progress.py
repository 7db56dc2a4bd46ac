"""How far a long task is: a bar in a terminal, elsewhere a line in the log now and then."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Collection, Iterator
from typing import TypeVar

from tqdm import tqdm

from rep3d.console.logs import file_only

logger = logging.getLogger(__name__)

T = TypeVar("T")

SECONDS = 60  # between two lines


def in_terminal() -> bool:
    """Whether somebody watches bars; a terminal that tells no width, as in some containers, has no room for them."""
    try:
        return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except OSError:  # what looks like a terminal and is no file
        return True


def tell(line: str) -> None:
    """Log what a bar shows as well: in a terminal to the run's log file only."""
    (file_only if in_terminal() else logger).info(line)


class Progress:
    """Counts what is done.

    Args:
        total: how much there is to do.
        doing: the task, such as "Segmenting".
        unit: what is counted, such as "volume".
        leave: whether the bar stays when it is full.
        seconds: between two lines, where there is no terminal.
    """

    def __init__(self, total: int, doing: str, unit: str, *, leave: bool = True, seconds: float = SECONDS) -> None:
        self.total, self.doing, self.unit, self.seconds = total, doing, unit, seconds
        self.done = 0
        self.bar = tqdm(
            total=total, desc=doing, unit=unit, leave=leave, dynamic_ncols=True, disable=not (total and in_terminal())
        )
        self.due = time.monotonic() + seconds

    def update(self, count: int = 1) -> None:
        """So much more is done."""
        self.done += count
        self.bar.update(count)
        if self.bar.disable and time.monotonic() >= self.due and self.done < self.total:
            logger.info("%s: %s %d of %d", self.doing.strip(), self.unit, self.done, self.total)
            self.due = time.monotonic() + self.seconds

    def close(self) -> None:
        """Nothing more is to come."""
        self.bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def track(items: Collection[T], doing: str, unit: str) -> Iterator[T]:
    """The items, one after the other, with their progress."""
    with Progress(len(items), doing, unit) as progress:
        for item in items:
            yield item
            progress.update()
