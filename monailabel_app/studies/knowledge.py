"""What is known of images, such as their scores: a JSON file each."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel_app.studies.entries import rename_to_ids
from monailabel_app.studies.names import id_of
from rep3d.files import read_json, write_json

KNOWLEDGE = ".rep3d"  # the folder's name
SUFFIX = ".json"


class Knowledge:
    """Of all images.

    Args:
        folder: of the files; made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()  # of writes
        folder.mkdir(parents=True, exist_ok=True)
        rename_to_ids(folder, SUFFIX)

    def of(self, image_id: str) -> dict[str, Any]:
        """What is known of an image; empty where nothing is."""
        return read_json(self._file(image_id))

    def replace(self, image_id: str, info: Mapping[str, Any]) -> None:
        """Begin anew."""
        with self._lock:
            write_json(self._file(image_id), info)

    def update(self, image_id: str, info: Mapping[str, Any]) -> None:
        """Add to it."""
        with self._lock:
            write_json(self._file(image_id), {**self.of(image_id), **info})

    def forget(self, image_id: str) -> None:
        """Remove it."""
        with self._lock:
            self._file(image_id).unlink(missing_ok=True)

    def _file(self, image_id: str) -> Path:
        return self._folder / f"{id_of(image_id, 'image')}{SUFFIX}"
