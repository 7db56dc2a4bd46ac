"""Who computes next. Networks take all cores or the whole GPU: one computes at a time, the most urgent first.

An inference stands in the line from its first window to its last, and holds the turn for one group of windows at a
time. One that is more urgent goes before it from the next group on; one that is less so waits until it has left.
"""

from __future__ import annotations

import threading
from bisect import insort
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import IntEnum
from itertools import count

from monailabel_app.errors import RequestError

MAX_WAITING = 8  # requests that wait for their turn; more are told to come again


TakeTurn = Callable[[], AbstractContextManager[None]]  # holds the turn as long as the context lasts


class Priority(IntEnum):
    """What computes for whom, the most urgent first."""

    CLICK = 0
    SEGMENTATION = 1  # that a user waits for
    BATCH = 2
    SCORING = 3


class Turn:
    """What one thread at a time may do; among those of one priority the first that came.

    Args:
        max_waiting: requests of users that may wait, see `admit`.
    """

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
        self.max_waiting = max_waiting
        self._admitted = threading.BoundedSemaphore(max_waiting + 1)
        self._changed = threading.Condition()
        self._line: list[tuple[Priority, int]] = []  # sorted; the first may take the turn
        self._arrivals = count()
        self._taken = False

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Let a user's request in for as long as the context lasts, preparing and post-processing included.

        Raises:
            RequestError: 503, too many are in already.
        """
        if not self._admitted.acquire(blocking=False):
            raise RequestError(503, f"{self.max_waiting} requests are waiting already, try again later")
        try:
            yield
        finally:
            self._admitted.release()

    @contextmanager
    def line(self, priority: Priority) -> Iterator[TakeTurn]:
        """Stand in the line for as long as the context lasts; each call of what it gives waits for one turn.

        with turn.line(Priority.SEGMENTATION) as my_turn:
            for group in groups:
                with my_turn():
                    network(group)
        """
        with self._changed:
            place = (priority, next(self._arrivals))
            insort(self._line, place)
        try:
            yield lambda: self._take(place)
        finally:
            with self._changed:
                self._line.remove(place)
                self._changed.notify_all()

    @contextmanager
    def _take(self, place: tuple[Priority, int]) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._taken and self._line[0] == place)
            self._taken = True
        try:
            yield
        finally:
            with self._changed:
                self._taken = False
                self._changed.notify_all()
