"""The studies of a PACS: its series are the images; labels, and what is known of images, lie in a folder.

folder/labels, folder/.rep3d              as in a studies folder
folder/.rep3d/series/<series UID>/        the files of a series, fetched when they are first needed
folder/.rep3d/segmentations/<UID>.json    what became of a DICOM Segmentation, see `monailabel_app.pacs.synchronization`
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel_app.studies.folder import KNOWLEDGE, StudiesFolder
from rep3d.files import read_json, write_json
from monailabel_app.pacs.client import COUNT, Pacs, Series, is_uid
from monailabel_app.errors import RequestError


class PacsStudies(StudiesFolder):
    """A PACS as MONAI Label's datastore. An image's id is its SeriesInstanceUID.

    Args:
        pacs: where the images are.
        root: the folder of labels and fetched series; made where it is missing.
    """

    def __init__(self, pacs: Pacs, root: str | os.PathLike) -> None:
        super().__init__(root)
        self.pacs = pacs
        self._fetching = threading.Lock()  # not that of writes: labels are stored meanwhile
        for name in ("series", "segmentations"):
            (self.root / KNOWLEDGE / name).mkdir(exist_ok=True)

    def series(self, image_id: str) -> Path:
        """The folder of a series' files; fetched where the PACS has another number of them."""
        folder, told = self._existing(image_id), self.told(image_id)
        count = folder / COUNT
        with self._fetching:
            if not count.is_file() or count.read_text(encoding="utf-8") != str(told.count):
                self.pacs.fetch(told, folder)
        return folder

    def told(self, image_id: str) -> Series:
        """What the PACS tells of an image.

        Raises:
            RequestError: 404, there is no such image.
        """
        series = self.pacs.series().get(image_id)
        if series is None:
            raise RequestError(404, f"there is no image {image_id[:200]!r}")
        return series

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        known = super().get_image_info(image_id)
        told = self.told(image_id)
        return {**known, **told.info(), "RetrieveURL": f"/ohif/monai-label?StudyInstanceUIDs={told.study}"}

    def add_image(self, image_id: str, image_filename: str, image_info: Mapping[str, Any]) -> str:
        raise RequestError(405, "images are added to the PACS")

    def remove_image(self, image_id: str) -> None:
        raise RequestError(405, "images are removed from the PACS")

    def segmentation(self, uid: str) -> dict[str, Any]:
        """What became of a DICOM Segmentation; empty where it is not known."""
        return read_json(self._segmentation(uid))

    def remember_segmentation(self, uid: str, told: Mapping[str, Any]) -> None:
        write_json(self._segmentation(uid), told)

    def tell_version(self, image_id: str, number: int, told: Mapping[str, Any]) -> None:
        """Add to what is stored with a version of a label."""
        with self._lock:
            path = self._version(image_id, number, ".json")
            write_json(path, {**read_json(path), **told})

    def name(self) -> str:
        return "PACS"

    def description(self) -> str:
        return "Images of a PACS"

    def _segmentation(self, uid: str) -> Path:
        if not is_uid(uid):
            raise RequestError(400, f"{uid[:64]!r} is no UID")
        return self.root / KNOWLEDGE / "segmentations" / f"{uid}.json"

    def _images(self, beginning: str = "") -> dict[str, Path]:
        folder, series = self.root / KNOWLEDGE / "series", self.pacs.series()
        if beginning in series:
            return {beginning: folder / beginning}
        return {uid: folder / uid for uid in series if uid.startswith(beginning)}

    def _file(self, image_id: str, path: Path) -> Path:
        return self._converted(image_id, self.series(image_id))
