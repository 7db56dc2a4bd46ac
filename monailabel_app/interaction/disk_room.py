"""Room on disk that sessions share: of one owner, and of all together."""

from __future__ import annotations

from collections.abc import Sequence

from monailabel_app.errors import RequestError

OWNER_SESSIONS, ALL_SESSIONS = 1000, 2000
OWNER_BYTES, ALL_BYTES = 16 * 2**30, 64 * 2**30


def check_room(taken: Sequence[tuple[str | None, int]], owner: str, size: int, sessions: int) -> None:
    """Refuse what an owner may not have, or for which there is no room.

    Args:
        taken: the owner of each session, or None where nobody knows, and its bytes.
        owner: who wants more.
        size: bytes more.
        sessions: as many more.

    Raises:
        RequestError: 429, the owner has too much already; 507, all together have.
    """
    own = [number for name, number in taken if name == owner]
    if len(own) + sessions > OWNER_SESSIONS or sum(own) + size > OWNER_BYTES:
        raise RequestError(
            429,
            f"{owner} has {len(own)} interactive sessions, and may have {OWNER_SESSIONS} with "
            f"{OWNER_BYTES / 2**30:g} GiB in all: delete some, or wait until they expire",
        )
    if len(taken) + sessions > ALL_SESSIONS or sum(number for _, number in taken) + size > ALL_BYTES:
        raise RequestError(507, "the server's room for interactive sessions is full: wait until some expire")
