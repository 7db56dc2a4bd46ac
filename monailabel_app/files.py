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

PART = ".part"  # ends temporary names


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


def remove_parts(folder: Path) -> None:
    """Remove what a kill left half written, below a folder."""
    for path in folder.rglob(f".*{PART}.*"):
        path.unlink()
