"""Main memory that all sessions share: who uses one has room for all of it; others leave for the disk."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from monailabel_app.errors import RequestError
from monailabel_app.interaction.session import InteractiveSession

MAX_MEMORY = 4 * 2**30  # bytes of all sessions together
LOOK_SECONDS = 0.05  # between looks for room


class Memory:
    """What sessions take of it.

    Args:
        sessions: gives all of them, the one that was used last last.
    """

    def __init__(self, sessions: Callable[[], Sequence[InteractiveSession]]) -> None:
        self._sessions = sessions
        self._lock = threading.Lock()  # of what follows
        self._in_use: Counter[str] = Counter()  # how many have room for the session of an id

    @contextmanager
    def room_for(self, session: InteractiveSession, seconds: float, evicts: bool = True) -> Iterator[None]:
        """Keep room for all that a session may take, for as long as the context lasts.

        Sessions that nobody uses leave for the disk, first the one that was used longest ago. One that is larger than
        all of the memory may have it alone.

        Args:
            seconds: to wait for those that are in use.
            evicts: whether others leave for it.

        Raises:
            RequestError: 503, they leave no room.
        """
        deadline = time.monotonic() + seconds
        while not self._take(session, evicts):
            if time.monotonic() >= deadline:
                raise RequestError(503, "the memory for interactive sessions is at capacity, try again later")
            time.sleep(LOOK_SECONDS)
        try:
            yield
        finally:
            with self._lock:
                self._in_use -= Counter([session.id])

    def _take(self, session: InteractiveSession, evicts: bool) -> bool:
        """Whether there is room."""
        with self._lock:
            others = [other for other in self._sessions() if other is not session]
            in_use = [other for other in others if other.id in self._in_use]
            idle = [other for other in others if other.id not in self._in_use and other.nbytes]
            may_wait = bool(in_use or (idle and not evicts)) and session.id not in self._in_use
            room = MAX_MEMORY - session.full_nbytes - sum(other.full_nbytes for other in in_use)
            if room < 0 and may_wait:  # whoever leaves, it does not help
                return False
            room -= sum(other.nbytes for other in idle)
            for other in idle if evicts else ():
                if room >= 0:
                    break
                size = other.nbytes
                room += size - other.nbytes if other.leave_memory() else 0
            if room < 0 and may_wait:
                return False
            self._in_use[session.id] += 1
            return True
