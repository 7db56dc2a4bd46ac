"""Files that are whole or not there: written to a temporary name, then renamed."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monailabel_app.errors import RequestError
from rep3d.format_number import check_format

PART = ".part"  # ends temporary names
FORMAT_FILE = ".format"  # holds the number of its folder's format; no image's name begins with a dot


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A temporary path that takes the place of `target` when the context ends well; its suffix is that of `target`.

    Raises:
        RequestError: 507, it cannot be written.
    """
    temporary = target.with_name(f".{os.getpid()}.{threading.get_ident()}{PART}.{target.name}")
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise RequestError(507, f"the file cannot be stored ({error.strerror})") from error
    finally:
        temporary.unlink(missing_ok=True)


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file."""
    with whole_file(target) as temporary:
        shutil.copyfile(source, temporary)


def write_json(path: Path, content: object) -> None:
    """Write a JSON file."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str), encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that `write_json` wrote; empty where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def check_folder(folder: Path, known: int) -> None:
    """Refuse a folder whose format is newer than the one that is known; see `rep3d.format_number.check_format`.

    Raises:
        ValueError: see there.
    """
    path = folder / FORMAT_FILE
    if path.is_file():
        text = path.read_text(encoding="utf-8", errors="replace").strip()
        check_format(int(text) if text.isdecimal() else text, known, path)


def mark_folder(folder: Path, known: int) -> None:
    """Write the number of a folder's format, where it has none yet."""
    if not (folder / FORMAT_FILE).is_file():
        with whole_file(folder / FORMAT_FILE) as temporary:
            temporary.write_text(f"{known}\n", encoding="utf-8")


def remove_parts(folder: Path) -> None:
    """Remove what a kill left half written, below a folder."""
    for path in folder.rglob(f".*{PART}.*"):
        path.unlink()
