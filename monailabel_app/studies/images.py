"""Where images come from: a folder here, a PACS in `monailabel_app.dicomweb.images`."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, Protocol

from monailabel_app.errors import RequestError
from monailabel_app.studies.converted import ConvertedSeries
from monailabel_app.studies.entries import check_links
from monailabel_app.studies.knowledge import KNOWLEDGE
from monailabel_app.studies.listing import list_studies
from monailabel_app.studies.names import id_of
from monailabel_app.studies.volumes import image_note, split_suffix
from rep3d.files import copy_whole


class ImageSource(Protocol):
    """Images by id. One lies at a path: that of its file, or of the folder of its DICOM series."""

    name: str
    description: str

    def paths(self) -> dict[str, Path]:
        """The paths of all images, which need not be there before `file` or `series` is called."""

    def path(self, image_id: str) -> Path:
        """The path of an image, by its id or by the name that `add` was given.

        Raises:
            RequestError: 404, there is no such image; 409, several files are.
        """

    def set_aside(self) -> dict[str, str]:
        """Why files are no images, by their path below the studies, or by the id that several share."""

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
        """Take a checked file in, under any name; its id, see `names.id_of`.

        Raises:
            RequestError: a bad name; 409, one that another image has; 405, images are not added here.
        """

    def check_removable(self, image_id: str) -> None:
        """Raise RequestError unless an image can be removed: 404, there is none; 405, it is not for us to remove."""

    def remove(self, image_id: str) -> None:
        """Remove an image.

        Raises:
            RequestError: as `check_removable`; 409, its file cannot be removed.
        """


class ImageFolder:
    """The images of a studies folder and its subfolders. Listing reads them, so files may come and go.

    An image's id is its path without the suffix, or a plain name like it, see `names.id_of`. Files and series of one
    id, such as `scan.nii` and `scan.nii.gz`, are set aside: a label of that id would be of either.

    Args:
        root: the studies folder.
    """

    description = "Images and labels of a local folder"

    def __init__(self, root: Path) -> None:
        self.name = root.name
        self._root = root
        self._converted = ConvertedSeries(root / KNOWLEDGE / "converted")
        self._lock = threading.Lock()  # of additions

    def paths(self) -> dict[str, Path]:
        return list_studies(self._root).images

    def path(self, image_id: str) -> Path:
        missing = RequestError(404, f"there is no image {image_id[:200]!r}")
        try:
            wanted = id_of(image_id, "image")
        except RequestError as error:
            raise missing from error
        listing = list_studies(self._root, wanted)
        if wanted in listing.shared:
            raise RequestError(409, listing.shared[wanted])
        if wanted not in listing.images:
            raise missing
        return listing.images[wanted]

    def set_aside(self) -> dict[str, str]:
        return list_studies(self._root).set_aside

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
        image_id = id_of(image_id or name, "image")
        target = self._root / f"{image_id}{suffix}"
        if split_suffix(target.name)[0] != image_id:
            raise RequestError(400, f"image is {image_id!r}, expected no .seg at the end of a {suffix} file")
        with self._lock:
            listing = list_studies(self._root)
            known = {one.casefold() for one in (*listing.images, *listing.shared)}
            if image_id.casefold() in known or os.path.lexists(target):
                raise RequestError(409, f"there is an image {image_id!r} already")
            copy_whole(file, target)
        return image_id

    def check_removable(self, image_id: str) -> None:
        if self.path(image_id).is_dir():
            raise RequestError(405, "a DICOM series is not removed: delete its folder")

    def remove(self, image_id: str) -> None:
        self.check_removable(image_id)
        try:
            self.path(image_id).unlink()
        except OSError as error:
            raise RequestError(409, f"image {image_id!r} cannot be removed ({error.strerror})") from error
