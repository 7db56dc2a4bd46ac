"""The series of a PACS as images; their files lie in the studies folder.

.rep3d/series/<series UID>/    the files of a series, fetched when they are first needed
.rep3d/converted/              series as NIfTI
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from monailabel_app.dicomweb.client import COUNT, Pacs, Series
from monailabel_app.errors import RequestError
from monailabel_app.studies.converted import ConvertedSeries
from monailabel_app.studies.knowledge import KNOWLEDGE


class PacsImages:
    """A PACS as an `ImageSource`. An image's id is its SeriesInstanceUID.

    Args:
        pacs: where the images are.
        root: the studies folder; made where it is missing.
    """

    name = "PACS"
    description = "Images of a PACS"

    def __init__(self, pacs: Pacs, root: Path) -> None:
        root = root.resolve()
        self.pacs = pacs
        self._folder = root / KNOWLEDGE / "series"
        self._converted = ConvertedSeries(root / KNOWLEDGE / "converted")
        self._fetching = threading.Lock()  # one series at a time
        self._folder.mkdir(parents=True, exist_ok=True)

    def paths(self) -> dict[str, Path]:
        return {uid: self._folder / uid for uid in self.pacs.series()}

    def path(self, image_id: str) -> Path:
        return self._folder / self._found(image_id).uid

    def set_aside(self) -> dict[str, str]:
        return {}

    def file(self, image_id: str, path: Path) -> Path:
        return self._converted.file(image_id, self.series(image_id))

    def series(self, image_id: str) -> Path:
        """The folder of a series' files; fetched where the PACS has another number of them."""
        found = self._found(image_id)
        folder = self._folder / found.uid
        if _fetched(folder) == str(found.count):  # nobody waits for others' series
            return folder
        with self._fetching:
            if _fetched(folder) != str(found.count):
                self.pacs.fetch(found, folder)
        return folder

    def info(self, image_id: str) -> dict[str, Any]:
        found = self._found(image_id)
        return {**found.info(), "RetrieveURL": f"/ohif/monai-label?StudyInstanceUIDs={found.study}"}

    def add(self, image_id: str, file: Path) -> str:
        raise RequestError(405, "images are added to the PACS")

    def check_removable(self, image_id: str) -> None:
        raise RequestError(405, "images are removed from the PACS")

    def remove(self, image_id: str) -> None:
        raise RequestError(405, "images are removed from the PACS")

    def _found(self, image_id: str) -> Series:
        """What the PACS tells of an image."""
        found = self.pacs.series().get(image_id)
        if found is None:
            raise RequestError(404, f"there is no image {image_id[:200]!r}")
        return found


def _fetched(folder: Path) -> str:
    """How many instances the PACS told of when a series was fetched; empty where it was not."""
    try:
        return (folder / COUNT).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
