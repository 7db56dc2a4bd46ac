"""What lies in the studies folder; links that lead out of it are not followed."""

from __future__ import annotations

import os
from pathlib import Path

from monailabel_app.errors import RequestError


def entries(folder: Path, root: Path) -> list[os.DirEntry]:
    """The entries of a folder by name, without links that lead out of `root`, or in a circle."""
    with os.scandir(folder) as found:
        return sorted(
            (entry for entry in found if not entry.is_symlink() or leads_inside(entry, root)),
            key=lambda entry: entry.name,
        )


def check_links(series: Path, root: Path) -> None:
    """Refuse a DICOM series of which parts lie elsewhere.

    Raises:
        RequestError: 400, a link that leads out of `root`.
    """
    for path in series.rglob("*"):
        if path.is_symlink() and not leads_inside(path, root):
            raise RequestError(400, f"{series.name}: {path.name} is a link out of the studies, which is not followed")


def leads_inside(path: str | os.PathLike, root: Path) -> bool:
    """Whether a path stays below `root`, a resolved one, with all links followed."""
    try:
        return Path(path).resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a circle of links
        return False
