"""Where images come from: a folder here, a PACS in `monailabel_app.dicomweb.images`."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any, Protocol

from monailabel_app.errors import RequestError
from monailabel_app.studies.converted import ConvertedSeries
from monailabel_app.studies.entries import check_links, entries
from monailabel_app.studies.knowledge import KNOWLEDGE
from monailabel_app.studies.names import check_name
from monailabel_app.studies.volumes import image_note, split_suffix
from rep3d.files import copy_whole
from rep3d.io.dicom import is_series

logger = logging.getLogger(__name__)


class ImageSource(Protocol):
    """Images by id. One lies at a path: that of its file, or of the folder of its DICOM series."""

    name: str
    description: str

    def paths(self) -> dict[str, Path]:
        """The paths of all images, which need not be there before `file` or `series` is called."""

    def path(self, image_id: str) -> Path:
        """The path of an image.

        Raises:
            RequestError: 404, there is no such image; 409, several files are.
        """

    def set_aside(self) -> dict[str, str]:
        """Why files that share an id are no images, by id."""

    def file(self, image_id: str, path: Path) -> Path:
        """A NIfTI or NRRD file of the image that lies at `path`; a DICOM series is converted.

        Raises:
            RequestError: the image cannot be had, or is no volume.
        """

    def series(self, image_id: str) -> Path:
        """The folder of an image's DICOM files.

        Raises:
            RequestError: 404, there is no such image; 400, it is of another format or lies elsewhere.
        """

    def info(self, image_id: str) -> dict[str, Any]:
        """What the source tells clients of an image.

        Raises:
            RequestError: 404, there is no such image.
        """

    def add(self, image_id: str, file: Path) -> str:
        """Take a checked file in; its id.

        Raises:
            RequestError: a bad name; 409, one that another image has; 405, images are not added here.
        """

    def check_removable(self, image_id: str) -> None:
        """Raise RequestError unless an image can be removed: 404, there is none; 405, it is not for us to remove."""

    def remove(self, image_id: str) -> None:
        """Remove an image."""


class ImageFolder:
    """The images of a studies folder. Listing reads the folder, so files may come and go.

    Files and series of one id, such as `scan.nii` and `scan.nii.gz`, are set aside: a label of that id would be of
    either.

    Args:
        root: the studies folder.
    """

    description = "Images and labels of a local folder"

    def __init__(self, root: Path) -> None:
        self.name = root.name
        self._root = root
        self._converted = ConvertedSeries(root / KNOWLEDGE / "converted")
        self._lock = threading.Lock()  # of additions
        for reason in self.set_aside().values():
            logger.warning("set aside: %s", reason)

    def paths(self) -> dict[str, Path]:
        return _single(self._files())

    def path(self, image_id: str) -> Path:
        files = self._files(image_id)
        if image_id in (reasons := _shared(files)):
            raise RequestError(409, reasons[image_id])
        if image_id not in files:
            raise RequestError(404, f"there is no image {image_id[:200]!r}")
        return files[image_id][0]

    def set_aside(self) -> dict[str, str]:
        return _shared(self._files())

    def file(self, image_id: str, path: Path) -> Path:
        if not path.is_dir():
            return path
        check_links(path, self._root)
        return self._converted.file(image_id, path)

    def series(self, image_id: str) -> Path:
        path = self.path(image_id)
        if not path.is_dir():
            raise RequestError(400, f"image {image_id!r} is no DICOM series")
        check_links(path, self._root)
        return path

    def info(self, image_id: str) -> dict[str, Any]:
        path = self.path(image_id)
        note = image_note(path) if path.is_file() else ""
        return {"note": note} if note else {}

    def add(self, image_id: str, file: Path) -> str:
        name, suffix = split_suffix(file.name)
        image_id = check_name(image_id or name, "image")
        with self._lock:
            if image_id.casefold() in [known.casefold() for known in self._files()]:
                raise RequestError(409, f"there is an image {image_id!r} already")
            copy_whole(file, self._root / f"{image_id}{suffix}")
        return image_id

    def check_removable(self, image_id: str) -> None:
        if self.path(image_id).is_dir():
            raise RequestError(405, "a DICOM series is not removed: delete its folder")

    def remove(self, image_id: str) -> None:
        self.path(image_id).unlink()

    def _files(self, beginning: str = "") -> dict[str, list[Path]]:
        """All files and series that an id may mean, or those whose names begin so; reads the folder once."""
        found: dict[str, list[Path]] = {}
        for entry in entries(self._root, self._root):
            if entry.name[0] == "." or entry.name == "labels" or not entry.name.startswith(beginning):
                continue
            path = Path(entry.path)
            try:
                image_id = entry.name if entry.is_dir() and is_series(path) else split_suffix(entry.name)[0]
                found.setdefault(check_name(image_id, "image"), []).append(path)
            except (RequestError, OSError):  # no image, or not readable
                continue
        return found


def _single(files: dict[str, list[Path]]) -> dict[str, Path]:
    return {image_id: paths[0] for image_id, paths in files.items() if len(paths) == 1}


def _shared(files: dict[str, list[Path]]) -> dict[str, str]:
    return {
        image_id: f"{' and '.join(path.name for path in paths)} are both image {image_id!r}: rename all but one"
        for image_id, paths in files.items()
        if len(paths) > 1
    }
