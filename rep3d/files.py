"""Files that are whole or not there: written to a temporary name beside their own, then renamed; and their digests."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")

PART = ".part"  # ends temporary names
OWN_PART = re.compile(rf"\.\d+\.\d+{re.escape(PART)}\.")  # of a process and a thread


class WriteError(OSError):
    """A file cannot be written, such as to a full disk or to a folder of somebody else; `filename` is its own name."""


@contextmanager
def whole_file(target: str | os.PathLike, *, private: bool = False) -> Iterator[Path]:
    """A temporary path that takes the place of `target` when the context ends well; its suffix is that of `target`.

    Args:
        private: an empty file is there already, which nobody but its owner may read.

    Raises:
        WriteError: an OSError in the context, or at its end. What was there stays as it was.
    """
    with whole_files([target], private=private) as (temporary,):
        yield temporary


@contextmanager
def whole_files(targets: Iterable[str | os.PathLike], *, private: bool = False) -> Iterator[list[Path]]:
    """The same for files that belong together: the first takes its place when all of them are safe on the disk.

    Raises:
        WriteError: as `whole_file`, which names the first of them.
    """
    parts = {target: _part(target) for target in map(Path, targets)}
    try:
        if private:
            for temporary in parts.values():
                temporary.touch(0o600)
        yield list(parts.values())
        for temporary in parts.values():
            with temporary.open("r+b") as file:
                os.fsync(file.fileno())
        for target, temporary in parts.items():
            os.replace(temporary, target)
    except OSError as error:
        raise WriteError(error.errno, error.strerror or str(error), str(next(iter(parts)))) from error
    finally:
        for temporary in parts.values():
            with suppress(OSError):  # not to hide what went wrong
                temporary.unlink()


def _part(target: Path) -> Path:
    return target.with_name(f".{os.getpid()}.{threading.get_ident()}{PART}.{target.name}")


def copy_whole(source: str | os.PathLike, target: str | os.PathLike, *, private: bool = False) -> None:
    """Copy a file.

    Args:
        private: nobody but its owner may read the copy.

    Raises:
        OSError: the source cannot be opened.
        WriteError: as `whole_file`.
    """
    with Path(source).open("rb") as content, whole_file(target, private=private) as temporary:
        with temporary.open("wb") as copy:
            shutil.copyfileobj(content, copy)


def write_text(path: str | os.PathLike, text: str, *, private: bool = False) -> None:
    """Write a text file; it ends with an end of line. `private`: nobody but its owner may read it."""
    with whole_file(path, private=private) as temporary:
        temporary.write_text(f"{text.rstrip()}\n", encoding="utf-8")


def write_json(path: str | os.PathLike, content: object, *, private: bool = False) -> None:
    """Write a JSON file; what JSON does not know, such as paths and times, becomes text. `private` as above."""
    write_text(path, json.dumps(content, indent=2, default=str), private=private)


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """A JSON file that `write_json` wrote; empty where there is none.

    Raises:
        ValueError: it is damaged, or holds no object.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected a JSON object")
    return content


def read_record(path: str | os.PathLike, kind: type[Record]) -> Record | None:
    """A dataclass from a JSON file of its fields; None where there is none. Fields of other versions are left out.

    Raises:
        ValueError: as `read_json`.
    """
    content = read_json(path)
    known = {field.name: content[field.name] for field in fields(kind) if field.name in content}
    return kind(**known) if content else None


def write_csv(path: str | os.PathLike, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows that all have the keys of the first, which name the columns."""
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def dated_name(path: Path, seconds: float) -> Path:
    """A name beside a file, to keep it by: `model_20260101-101010.pt`, and behind a number where that is taken.

    Args:
        seconds: since the epoch, as `time.time` has them.
    """
    dated = path.with_name(f"{path.stem}_{time.strftime('%Y%m%d-%H%M%S', time.localtime(seconds))}{path.suffix}")
    numbered = (dated.with_name(f"{dated.stem}-{number}{dated.suffix}") for number in itertools.count(2))
    return next(name for name in itertools.chain([dated], numbered) if not name.exists())


def remove_parts(folder: str | os.PathLike) -> None:
    """Remove what a kill left half written, below a folder."""
    for path in Path(folder).rglob(f".*{PART}.*"):
        if OWN_PART.match(path.name) and path.is_file():
            path.unlink()


def digest(*paths: Path) -> str:
    """SHA-256 of the contents of files, one after the other, which may be larger than the memory."""
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: found)
    return found.hexdigest()


def short_digest(*paths: Path) -> str:
    """The first 16 digits of `digest`."""
    return digest(*paths)[:16]
