"""What became of the DICOM Segmentations of a PACS: a JSON file each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel_app.dicomweb.client import is_uid
from monailabel_app.errors import RequestError
from rep3d.files import read_json, write_json

SEEN = "seen"


class Outcomes:
    """By the UIDs of the segmentations.

    Args:
        folder: of the files; made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, dict[str, Any]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def of(self, uid: str) -> dict[str, Any]:
        """What became of a segmentation, or when it was seen first; empty where it is not known."""
        if not self._known.get(uid):
            self._known[uid] = read_json(self._file(uid))
        return self._known[uid]

    def seen(self, uid: str) -> float:
        """When a segmentation was seen first, in seconds: now, where it is not known."""
        if not self.of(uid):
            self.remember(uid, {SEEN: time.time()})
        looked_at = self._file(uid).stat().st_mtime  # last, which is all that earlier code told
        return float(self.of(uid).get(SEEN, looked_at))

    def remember(self, uid: str, outcome: Mapping[str, Any]) -> None:
        """Write an outcome down, with when the segmentation was seen first, where that is known."""
        seen = {SEEN: self.of(uid)[SEEN]} if SEEN in self.of(uid) else {}
        write_json(self._file(uid), {**seen, **outcome})
        self._known[uid] = {**seen, **outcome}

    def _file(self, uid: str) -> Path:
        if not is_uid(uid):
            raise RequestError(400, f"{uid[:64]!r} is no UID")
        return self._folder / f"{uid}.json"
