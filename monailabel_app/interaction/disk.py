"""What lies on disk of a session: its owner's alone to read, every file whole or not there.

SESSION/
    session.json        its record, which names the labels' files; when it was touched is when the session was last used
    image.npy           the scan's voxels, where they came from the client
    0001.label ...      a label each: mask, prompts and steps, see `rep3d.interactive.stored_label`

A label that changes gets a file of a new number, and counts once the record names it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from monailabel_app.interaction.record import SessionRecord
from monailabel_app.studies.sessions import is_session_id
from rep3d.files import read_json, remove_parts, whole_file, whole_files
from rep3d.format_number import check_format
from rep3d.interactive.editing import LabelEdit

logger = logging.getLogger(__name__)

FORMAT = 2  # the number rises with what older code would misread: 1 gave a label the same number each time
RECORD, IMAGE = "session.json", "image.npy"


class SessionFolder:
    """The folder of one session. Who uses it keeps others from it meanwhile: there is no lock here."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._nbytes: int | None = None

    def create(self, record: SessionRecord, image: np.ndarray | None = None) -> None:
        """Make the folder; it counts once the record is there.

        Raises:
            WriteError: it cannot be written, and then is not there.
        """
        self.path.mkdir(mode=0o700)
        try:
            if image is not None:
                with whole_file(self.path / IMAGE, private=True) as temporary:
                    np.save(temporary, image)
            self.write({}, record)
        except BaseException:
            shutil.rmtree(self.path, ignore_errors=True)
            raise

    def remove(self) -> None:
        """Remove all of it; the record goes first, so that a kill leaves no session without its labels.

        Raises:
            OSError: some of it stays.
        """
        self._nbytes = None
        (self.path / RECORD).unlink(missing_ok=True)
        if self.path.is_dir():
            shutil.rmtree(self.path)

    def read_record(self) -> SessionRecord | None:
        """None where there is none, as a kill leaves it.

        Raises:
            ValueError: newer code wrote it, or it is damaged.
        """
        content = read_json(self.path / RECORD)
        if not content:
            return None
        check_format(content.get("format"), FORMAT, self.path / RECORD)
        return SessionRecord.from_json(content)

    def write(self, labels: Mapping[int, bytes], record: SessionRecord) -> None:
        """Write labels, as `LabelEdit.to_bytes` gives them, and the record; all of it or nothing, also at a kill.

        Args:
            labels: by numbers that no earlier record has.
            record: names them. When the session was last used stays as it is.

        Raises:
            WriteError: as `rep3d.files.whole_files`.
        """
        contents = {self._label(number): content for number, content in labels.items()}
        contents[self.path / RECORD] = json.dumps({**record.to_json(), "format": FORMAT}, indent=2).encode()
        used = self.used()
        with whole_files(contents, private=True) as temporaries:
            for temporary, content in zip(temporaries, contents.values(), strict=True):
                temporary.write_bytes(content)
            if used:
                os.utime(temporaries[-1], (used, used))
        self.tidy(record)
        self._nbytes = None

    def tidy(self, record: SessionRecord) -> None:
        """Remove the labels that the record does not name: what they were before, and what a kill left."""
        named = {self._label(label.number) for label in record.labels.values()}
        with suppress(OSError):  # it is tried again with the next write
            for path in self.path.glob("*.label"):
                if path not in named:
                    path.unlink()

    def touch(self) -> None:
        """Note that the session is used now; nothing where it is gone."""
        with suppress(FileNotFoundError):
            os.utime(self.path / RECORD)

    def used(self) -> float:
        """When the session was last used, in seconds; the beginning of time, where there is no record."""
        try:
            return (self.path / RECORD).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def read_image(self, *, mapped: bool = False) -> np.ndarray:
        """The voxels (D, H, W) that `create` was given; `mapped`: read where somebody looks at them, and no others."""
        voxels: np.ndarray = np.load(self.path / IMAGE, mmap_mode="r" if mapped else None, allow_pickle=False)
        return voxels

    def read_label(self, number: int) -> LabelEdit:
        """Raises ValueError where the file is damaged or newer code wrote it."""
        path = self._label(number)
        return LabelEdit.from_bytes(path.read_bytes(), str(path))

    def nbytes(self) -> int:
        """Of all files, as they were when this folder was last written to here; 0 where it is gone."""
        known = self._nbytes  # others may write meanwhile
        if known is None:
            known = self._nbytes = sum(map(_size, _files(self.path)))
        return known

    def label_nbytes(self, number: int) -> int:
        """Of a label; 0 where it has no file."""
        return _size(self._label(number))

    def _label(self, number: int) -> Path:
        return self.path / f"{number:04d}.label"


def read_folders(root: Path) -> tuple[list[tuple[SessionFolder, SessionRecord]], list[SessionFolder]]:
    """All sessions below a folder, which is made where it is missing.

    Returns:
        Those that can be read, and the others: newer code wrote their record, or it is damaged, or was not written.
    """
    root.mkdir(parents=True, exist_ok=True)
    root.chmod(0o700)
    remove_parts(root)
    found, unreadable = [], []
    for folder in (
        SessionFolder(path) for path in sorted(root.iterdir()) if path.is_dir() and is_session_id(path.name)
    ):
        try:
            record = folder.read_record()
        except (ValueError, TypeError) as error:
            logger.warning("session left alone until it expires: %s", error)
            unreadable.append(folder)
            continue
        if record is None:
            unreadable.append(folder)
        else:
            folder.tidy(record)
            found.append((folder, record))
    return found, unreadable


def _files(folder: Path) -> list[Path]:
    """Of a folder; empty where it is not there."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _size(path: Path) -> int:
    """0 where there is no file, or it is replaced just now."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
