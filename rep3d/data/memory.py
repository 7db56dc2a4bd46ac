"""What a look at files has shown, by keys that change with them, in a JSON file: the next run need not look again."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from rep3d.files import read_json, write_json

logger = logging.getLogger(__name__)


def file_key(path: str | os.PathLike) -> str:
    """Path, size and modification time of a file.

    Raises:
        OSError: there is no such file.
    """
    stat = os.stat(path)
    return f"{os.path.abspath(path)}|{stat.st_size}|{stat.st_mtime_ns}"


def read_memory(memory: str | os.PathLike | None) -> dict[str, str]:
    """What is remembered; nothing where the file is missing or none of ours, which only costs another look."""
    if memory is None:
        return {}
    try:
        content = read_json(memory)
    except (ValueError, OSError):
        return {}
    return {key: str(value) for key, value in content.items()} if isinstance(content, dict) else {}


def write_memory(memory: str | os.PathLike | None, content: Mapping[str, str]) -> None:
    """Remember; where the file cannot be written, a warning says so."""
    if memory is None:
        return
    path = Path(memory)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)
    except OSError as error:
        logger.warning("cannot write %s (%s): the files will be read again", path, error)
