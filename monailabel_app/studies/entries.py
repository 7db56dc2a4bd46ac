"""What lies in the studies folder; links that lead out of it are not followed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from monailabel_app.errors import RequestError
from monailabel_app.studies.names import id_of, was_id

OUTSIDE = "a link that leads out of the studies folder, or in a circle"


def entries(folder: Path) -> list[os.DirEntry]:
    """The entries of a folder by name, without hidden ones."""
    with os.scandir(folder) as found:
        return sorted((entry for entry in found if entry.name[0] != "."), key=lambda entry: entry.name)


def is_outside(entry: os.DirEntry, root: Path) -> bool:
    """Whether an entry is a link that leads out of `root`, a resolved path, or in a circle."""
    return entry.is_symlink() and not leads_inside(entry, root)


def check_links(series: Path, root: Path) -> None:
    """Refuse a DICOM series of which parts lie elsewhere.

    Raises:
        RequestError: 400, a link that leads out of `root`.
    """
    for path in series.rglob("*"):
        if path.is_symlink() and not leads_inside(path, root):
            raise RequestError(400, f"{series.name}: {path.name} is a link out of the studies, which is not followed")


def rename_to_ids(folder: Path, suffix: str = "") -> None:
    """Give what is stored under a name that was an id once the id of that name; where this has something, both stay.

    Args:
        suffix: of the names.
    """
    for entry in entries(folder):
        name = entry.name.removesuffix(suffix)
        if entry.name.endswith(suffix) and was_id(name):
            target = folder / f"{id_of(name, 'name')}{suffix}"
            if not os.path.lexists(target):
                os.rename(entry.path, target)


def leads_inside(path: str | os.PathLike, root: Path) -> bool:
    """Whether a path stays below `root`, a resolved one, with all links followed."""
    try:
        return Path(path).resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a circle of links
        return False


def shown(path: Path, root: Path) -> str:
    """A path below `root` for people and JSON, also where it is no UTF-8."""
    return path.relative_to(root).as_posix().encode(errors="backslashreplace").decode()


def stamp(path: Path) -> str:
    """Another text for other content of a file, or of the files of a folder, as far as the file system tells."""
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        states = [(file.name, file.stat()) for file in files]
    except OSError:  # not there, or not any more
        return ""
    # st_ctime also changes where a program has set the time of the modification back
    content = [(name, state.st_size, state.st_mtime_ns, state.st_ctime_ns) for name, state in states]
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]
