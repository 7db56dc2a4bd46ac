"""Folders that are no session: their record cannot be read, or their session was removed and some of it stays."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from monailabel_app.events import record_event
from monailabel_app.interaction.disk import SessionFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Leftover:
    """One of them.

    Attributes:
        used: when its session was last used; 0 where it is to be removed.
        owner: whose it was; empty where nobody knows.
        reason: why it goes, for the audit log.
        has_failed: whether it could not be removed.
    """

    folder: SessionFolder
    used: float
    owner: str = ""
    reason: str = "expired"
    has_failed: bool = False


class Leftovers:
    """All of them, by their sessions' ids.

    Args:
        unreadable: folders whose record cannot be read. They expire as sessions do.
    """

    def __init__(self, unreadable: Iterable[SessionFolder]) -> None:
        self._kept = {folder.path.name: _Leftover(folder, folder.used()) for folder in unreadable}

    def __contains__(self, session_id: object) -> bool:
        return session_id in self._kept

    def remove_session(self, folder: SessionFolder, owner: str, reason: str) -> bool:
        """Remove a session's folder, which nobody uses any more; whether it is gone."""
        return self._remove_folder(_Leftover(folder, 0.0, owner, reason))

    def remove(self, session_id: str, reason: str = "") -> bool:
        """Remove one of them; whether it is gone.

        Args:
            reason: for the audit log; empty: that for which it was to go anyway.
        """
        one = self._kept.pop(session_id, None)
        return one is None or self._remove_folder(replace(one, used=0.0, reason=reason or one.reason))

    def remove_expired(self, expiry: float, *, again: bool) -> int:
        """Remove what has expired; how many that were.

        Args:
            expiry: seconds that they stay after the last use.
            again: also what could not be removed before.
        """
        kept = tuple(self._kept.items())
        outlived = [name for name, one in kept if is_over(one.used, expiry) and (again or not one.has_failed)]
        return sum(map(self.remove, outlived))

    def describe(self, expiry: float) -> list[dict[str, object]]:
        """What administrators are told of them; `expiry` as above."""
        return [_described(one, expiry) for one in tuple(self._kept.values())]

    def sizes(self) -> Sequence[int]:
        """Bytes on disk of each."""
        return [one.folder.nbytes() for one in tuple(self._kept.values())]

    def _remove_folder(self, one: _Leftover) -> bool:
        """Whether it is gone; what cannot be removed is kept in mind, and tried again at the next look."""
        name = one.folder.path.name
        try:
            one.folder.remove()
        except OSError as error:
            logger.warning("session %s cannot be removed: %s", name, error)
            self._kept[name] = replace(one, has_failed=True)
            return False
        record_event(f"interactive session {one.reason}", session=name, user=one.owner)
        return True


def is_over(used: float, expiry: float) -> bool:
    """Whether what was last used then, in seconds, has lived so many seconds since; always of the beginning of time."""
    return not used or used + expiry < time.time()


def _described(one: _Leftover, expiry: float) -> dict[str, object]:
    folder, expires = one.folder, int(one.used + expiry) if one.used else None
    told = {"id": folder.path.name, "used": int(one.used), "expires": expires, "bytes": folder.nbytes()}
    if not one.used:
        return {**told, "note": "it is deleted, but some of its files cannot be yet: the server tries again"}
    return {**told, "note": "it cannot be read: a newer server wrote it, or it is damaged"}
