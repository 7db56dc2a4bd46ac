"""Images after a bundle's preprocessing, kept for a while: the next request for one computes at once.

Nothing is kept of a file that has changed or is gone, nor for longer than KEPT_SECONDS after its last use.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monailabel_app.errors import RequestError
from monailabel_app.models.turn import Priority, Turn
from rep3d.io.geometry import Geometry

MAX_BYTES = 2**30  # of all images that are kept: some twenty abdominal CTs at 1.5 mm
KEPT_SECONDS = 1800
SWEEP_SECONDS = 60  # between looks for what must not be kept any longer


@dataclass(frozen=True)
class PreparedImage:
    """What a bundle's preprocessing returned for a file. Not to be changed: others use it, too."""

    data: dict[str, Any]  # "image": (C, D, H, W)
    grid: Geometry  # of the file

    @property
    def nbytes(self) -> int:
        return sum(getattr(value, "nbytes", 0) for value in self.data.values())


class PreparedImages:
    """The images that were used last, as many as fit. Prepares one at a time: each may take gigabytes meanwhile.

    Args:
        max_bytes: of the images' voxels. A larger image is not kept.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._turn = Turn()
        self._lock = threading.Lock()
        self._kept: dict[_Files, _Kept] = {}  # the one that was used last comes last
        self._sweeper: threading.Timer | None = None

    def get(
        self, image: Path, configs: Sequence[Path], prepare: Callable[[], PreparedImage], priority: Priority
    ) -> PreparedImage:
        """The image as it is kept, or as `prepare` makes it.

        Args:
            image: the file.
            configs: of the preprocessing; those that are there.
            prepare: reads all.

        Raises:
            RequestError: 404, the image is gone; or as `prepare`.
        """
        try:
            files = (_FileState.of(image), *(_FileState.of(config) for config in configs if config.is_file()))
        except OSError as error:
            raise RequestError(404, "the image is gone") from error
        found = self._find(files)
        if found is not None:
            return found
        with self._turn.line(priority) as my_turn, my_turn():
            found = self._find(files)  # another may have prepared it meanwhile
            if found is None:
                found = prepare()
                self._keep(files, found)
        return found

    @property
    def nbytes(self) -> int:
        """Of the images that are kept."""
        return sum(kept.image.nbytes for kept in self._kept.values())

    def sweep(self) -> None:
        """Let go of what has changed, is gone, or was not used for long."""
        with self._lock:
            self._sweep()

    def _find(self, files: _Files) -> PreparedImage | None:
        with self._lock:
            kept = self._kept.pop(files, None)
            if kept is None:
                return None
            self._kept[files] = _Kept(kept.image, time.monotonic())
            return kept.image

    def _keep(self, files: _Files, image: PreparedImage) -> None:
        if image.nbytes > self.max_bytes:
            return
        with self._lock:
            self._kept[files] = _Kept(image, time.monotonic())
            self._sweep()  # this one, too: the file may have changed while it was read
            while self.nbytes > self.max_bytes:
                del self._kept[next(iter(self._kept))]
            self._sweep_later()

    def _sweep(self) -> None:
        oldest = time.monotonic() - KEPT_SECONDS
        self._kept = {
            files: kept
            for files, kept in self._kept.items()
            if kept.used > oldest and all(file.is_unchanged() for file in files)
        }

    def _sweep_later(self) -> None:
        if self._kept and self._sweeper is None:
            self._sweeper = threading.Timer(SWEEP_SECONDS, self._sweep_regularly)
            self._sweeper.daemon = True
            self._sweeper.start()

    def _sweep_regularly(self) -> None:
        with self._lock:
            self._sweeper = None
            self._sweep()
            self._sweep_later()


@dataclass(frozen=True)
class _FileState:
    """Another one for another content, as far as the file system tells."""

    path: Path
    inode: int
    size: int
    modified: int
    changed: int  # also where a program has set the time of the modification back

    @classmethod
    def of(cls, path: Path) -> _FileState:
        stat = path.stat()
        return cls(path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)

    def is_unchanged(self) -> bool:
        try:
            return _FileState.of(self.path) == self
        except OSError:
            return False


_Files = tuple[_FileState, ...]  # an image and its preprocessing's configs


@dataclass(frozen=True)
class _Kept:
    image: PreparedImage
    used: float  # by the monotonic clock
