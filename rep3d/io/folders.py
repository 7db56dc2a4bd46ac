"""The folders below a folder, where people have links among them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path


def _refuse(error: OSError) -> None:
    raise error


def walk(folder: Path, on_error: Callable[[OSError], None] = _refuse) -> Iterator[tuple[Path, list[Path]]]:
    """A folder and those below it, each with its files, by name and without hidden ones.

    Links to folders are followed, after all else, so that what lies in the folder itself goes by its own place. Nothing
    comes twice, and a folder that holds this one is not followed.

    Args:
        folder: paths begin with it, as it is given.
        on_error: of a folder that cannot be read, which its `filename` names.

    Raises:
        OSError: a folder cannot be read, and `on_error` does not say otherwise.
    """
    seen = {os.path.realpath(parent) for parent in folder.resolve().parents}
    waiting = [folder]
    while waiting:
        links: list[Path] = []
        for start in waiting:
            for name, below, files in os.walk(start, onerror=on_error):
                place = Path(name)
                real = os.path.realpath(place)
                if real in seen:
                    below.clear()
                    continue
                seen.add(real)
                below[:] = sorted(one for one in below if not one.startswith("."))
                links += [place / one for one in below if (place / one).is_symlink()]
                yield place, [place / one for one in sorted(files) if not one.startswith(".")]
        waiting = links
