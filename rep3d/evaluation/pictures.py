"""Reading and writing of the files that reports are made of."""

import os
import re
from importlib.metadata import version
from pathlib import Path

from matplotlib.figure import Figure

from rep3d.files import whole_file

BEGINNING = 1024  # bytes of a PNG: the texts of matplotlib stand there


def existing_file(path: str | Path, expected: str) -> Path:
    """The path of a file that is there.

    Raises:
        FileNotFoundError: it is not; says what was expected.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: expected {expected}, found no file")
    return Path(path)


def save_picture(figure: Figure, path: str | os.PathLike) -> Path:
    """Write a PNG, and its folder where that is missing; its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        told = {"Software": f"rep3d {version('rep3d')}"}
        figure.savefig(temporary, format="png", metadata=told)  # a Figure without pyplot draws with Agg
    return path


def drawn_by(path: str | Path) -> str:
    """The program that a picture names, such as ours after `save_picture`; empty where it is no PNG or names none."""
    with Path(path).open("rb") as file:
        found = re.search(rb"tEXtSoftware\0(\w+)", file.read(BEGINNING))
    return found[1].decode() if found else ""
