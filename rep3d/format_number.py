"""The number of a format on disk, by which this code tells what newer code wrote, and leaves it alone."""

from __future__ import annotations

import os


def check_format(found: object, known: int, path: str | os.PathLike) -> None:
    """Refuse a format that this code does not know.

    Args:
        found: the number that the file tells; 1 where it tells none, as all did before there were numbers.
        known: the newest one that this code reads.
        path: of the file, for the message.

    Raises:
        ValueError: a newer format, or no number.
    """
    if type(found) is not int or not 1 <= found <= known:
        raise ValueError(
            f"{path}: the format is {found!r}, expected a number up to {known}, the newest that this rep3d knows: take"
            " the one that wrote it"
        )
