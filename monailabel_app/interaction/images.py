"""The images of sessions, wherever they lie, and whether they are still those that the sessions began with."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from monailabel_app.errors import RequestError
from monailabel_app.interaction.disk import SessionFolder
from monailabel_app.interaction.recognition import Placement, find_placement
from monailabel_app.interaction.record import SessionRecord
from monailabel_app.interaction.voxels import compact
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.studies.sessions import Sessions
from monailabel_app.studies.volumes import read_voxels

logger = logging.getLogger(__name__)


class SessionImages:
    """Reads them, one at a time; voxels are (D, H, W), as `voxels.compact` gives them.

    Attributes:
        outdated: ids of sessions whose users were told that their image has changed.

    Args:
        root: holds a folder for each session, and in it the voxels that came from the client.
        studies: images.
        lent: scans that are lent.
    """

    def __init__(self, root: Path, studies: StudiesFolder, lent: Sessions) -> None:
        self.outdated: set[str] = set()
        self._root = root
        self._studies = studies
        self._lent = lent
        self._reading = threading.Lock()

    def read(self, record: SessionRecord) -> np.ndarray:
        """The voxels of a session's image.

        Raises:
            RequestError: 404, it is gone; 409, its file has changed; or it cannot be read.
        """
        with self._reading:
            if record.kind == "array":
                return SessionFolder(self._root / record.id).read_image()
            if record.kind == "lent":
                return _read(self._lent.image(record.image, record.owner, touch=False))
            path = self._studies.image(record.image)
            if not self.is_current(record):
                raise self.changed(record)
            return _read(path)

    def read_file(self, path: Path) -> np.ndarray:
        """The voxels of an image file.

        Raises:
            RequestError: it cannot be read.
        """
        with self._reading:
            return _read(path)

    def is_current(self, record: SessionRecord) -> bool:
        """Whether a session's image is there and has not changed, as far as its file tells; of the studies only."""
        try:
            return record.kind != "study" or self._studies.stamp(record.image) == record.stamp
        except RequestError:
            return False

    def changed(self, record: SessionRecord) -> RequestError:
        """What the user of a session is told, once, before another one may begin."""
        self.outdated.add(record.id)
        return RequestError(409, f"image {record.image!r} has changed since this session began: load it anew")

    def placement(self, record: SessionRecord, scan: np.ndarray, spacing: Sequence[float]) -> Placement | None:
        """How the voxels of a session lie on a scan; None where they are of another one, or cannot be read."""
        is_array, folder = record.kind == "array", SessionFolder(self._root / record.id)
        try:
            voxels = folder.read_image(mapped=True) if is_array else self.read(record)
        except (OSError, ValueError, EOFError, RequestError) as error:  # it was deleted meanwhile, or is damaged
            logger.warning("session %s is not compared: %s", record.id, error)
            return None
        return find_placement(voxels, record.spacing, scan, spacing)


def _read(path: Path) -> np.ndarray:
    """The voxels of a file as sessions keep them, in no more memory meanwhile than a session may take."""
    return compact(read_voxels(path, single=True))
