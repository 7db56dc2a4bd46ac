"""Numbered versions of a file, of which none gets lost: of a label, of a model's weights.

A version is a copy of the file, and a JSON file of what is known of it. It counts once the JSON file is there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rep3d import files
from rep3d.files import copy_whole, read_json, write_json


@dataclass(frozen=True)
class Version:
    """One version.

    Args:
        number: from 1.
        file: its copy.
        info: what its JSON file says, the number as "version" among it.
    """

    number: int
    file: Path
    info: dict[str, Any]


class History:
    """The versions of one file. Who changes them keeps others from it meanwhile: there is no lock here.

    Args:
        folder: of the versions; made with the first one.
        file, info: where below it a version's copy and its JSON file lie; {} stands for the number.
    """

    def __init__(self, folder: Path, file: str, info: str) -> None:
        self.folder = folder
        self._file = file
        self._info = info

    def versions(self) -> list[Version]:
        """All versions, the oldest first."""
        return [self._version(number) for number in self._numbers()]

    def newest_first(self) -> Iterator[Version]:
        """All versions; reads no more of them than are asked for."""
        return map(self._version, reversed(self._numbers()))

    def find(self, number: int) -> Version | None:
        """The version of that number."""
        return self._version(number) if number in self._numbers() else None

    def holding(self, file: Path) -> Version | None:
        """The newest version that is equal to a file, byte by byte."""
        wanted = digest(file)
        return next((version for version in self.newest_first() if self._digest(version) == wanted), None)

    def add(self, file: Path, describe: Callable[[Path], Mapping[str, Any]]) -> Version:
        """Keep a copy of a file as the next version.

        Args:
            describe: from the copy to what is stored with it.

        Raises:
            WriteError: it cannot be written; no version is added then.
        """
        number = max(self._numbers(), default=0) + 1
        copy = self._path(self._file, number)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy_whole(file, copy)
        write_json(self._path(self._info, number), {**describe(copy), "version": number})
        return self._version(number)

    def update(self, number: int, changes: Mapping[str, Any]) -> None:
        """Change what is stored with a version."""
        path = self._path(self._info, number)
        write_json(path, {**read_json(path), **changes})

    def take_back(self, number: int) -> None:
        """Remove a version that was only just added, and of which nobody was told."""
        self._path(self._info, number).unlink()
        self._path(self._file, number).unlink()

    def _version(self, number: int) -> Version:
        return Version(number, self._path(self._file, number), read_json(self._path(self._info, number)))

    def _numbers(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        stems = {name.partition(".")[0] for name in os.listdir(self.folder)}
        numbers = sorted(int(stem) for stem in stems if stem.isdecimal())
        return [number for number in numbers if self._path(self._info, number).is_file()]

    def _path(self, place: str, number: int) -> Path:
        return self.folder / place.format(f"{number:04d}")

    @staticmethod
    def _digest(version: Version) -> str:
        return version.info.get("sha256") or digest(version.file)


def digest(file: Path) -> str:
    """SHA-256 of a file; empty where there is none."""
    return files.digest(file) if file.is_file() else ""
