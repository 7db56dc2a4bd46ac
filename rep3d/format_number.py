"""The number of a format on disk, by which this code tells what newer code wrote, and leaves it alone."""

from __future__ import annotations

import os
from pathlib import Path

from rep3d.files import write_text

FORMAT_FILE = ".format"  # holds the number of its folder's format; no image's name begins with a dot


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


def check_folder(folder: Path, known: int) -> None:
    """Refuse a folder whose format is newer than the one that is known; see `check_format`.

    Raises:
        ValueError: see there.
    """
    path = folder / FORMAT_FILE
    if path.is_file():
        text = path.read_text(encoding="utf-8", errors="replace").strip()
        check_format(int(text) if text.isdecimal() else text, known, path)


def mark_folder(folder: Path, known: int) -> None:
    """Write the number of a folder's format, where it has none yet or that of an older one.

    Raises:
        ValueError: as `check_folder`.
    """
    check_folder(folder, known)
    path = folder / FORMAT_FILE
    if not path.is_file() or int(path.read_text(encoding="utf-8")) < known:
        write_text(path, str(known))
