"""The studies folder as MONAI Label's datastore.

    studies/
        scan.nii.gz ...          images, NIfTI or NRRD; an image's id is its name without the suffix
        series/                  a folder of the files of one DICOM series; the id is its name
        ward/scan.nii.gz ...     the same in subfolders; the id is a plain name like the path
        labels/                  see `monailabel_app.studies.labels`
        .rep3d/scan.json         what is known of an image, such as its scores
        .rep3d/converted/        DICOM series as NIfTI
        .rep3d/.format           FORMAT, of all this

Images may lie elsewhere, see `monailabel_app.studies.images`.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
import unicodedata
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from monailabel_app.errors import RequestError
from monailabel_app.studies import converted
from monailabel_app.studies.entries import shown, stamp
from monailabel_app.studies.images import ImageFolder, ImageSource
from monailabel_app.studies.knowledge import KNOWLEDGE, Knowledge
from monailabel_app.studies.labels import SUFFIX, TAGS, LabelStore
from monailabel_app.studies.names import id_of
from monailabel_app.studies.volumes import split_suffix
from monailabel_app.temporary import temporary_file
from rep3d.data.submissions import checksum
from rep3d.files import remove_parts
from rep3d.format_number import check_folder, mark_folder

logger = logging.getLogger(__name__)

FORMAT = 1  # the number rises with what this code would misread
FINAL = DefaultLabelTag.FINAL.value
LOGGED = 20  # files of one kind, at the start
TOLD = 3  # images that cannot be had, in a message


def check_studies(root: Path) -> None:
    """Refuse a folder that a newer server wrote.

    Raises:
        ValueError: its format is newer than FORMAT, or no number.
    """
    check_folder(root / KNOWLEDGE, FORMAT)


def check_writable(root: Path) -> None:
    """Refuse a folder where labels, or what is known of images, cannot be kept.

    Raises:
        ValueError: names the folder that cannot be written to.
    """
    for folder in (root / KNOWLEDGE, root / "labels", root / "labels" / FINAL):
        place = next(path for path in (folder, *folder.parents) if path.is_dir())
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            raise ValueError(
                f"{place} cannot be written to ({error.strerror}): the server keeps labels and scores there. Let its "
                "user write there, or serve a copy"
            ) from error


class StudiesFolder(Datastore):
    """Images of a source, and the labels of a folder.

    Args:
        root: the folder; made where it is missing.
        images: where the images come from; the folder itself otherwise.

    Raises:
        ValueError: see `check_studies`.
    """

    def __init__(self, root: str | os.PathLike, images: ImageSource | None = None) -> None:
        self.root = Path(root).resolve()
        check_studies(self.root)
        self._knowledge = Knowledge(self.root / KNOWLEDGE)
        mark_folder(self.root / KNOWLEDGE, FORMAT)
        self.labels = LabelStore(self.root)
        self.images: ImageSource = images or ImageFolder(self.root)
        remove_parts(self.root)
        if images is None:  # a PACS need not answer yet
            self._log_what_is_there()

    # --- images

    def list_images(self) -> list[str]:
        return list(self.images.paths())

    def get_image_uri(self, image_id: str) -> str:
        """The image's path, or an empty text where there is no such image."""
        return str(self.image(image_id)) if image_id in self.images.paths() else ""

    def image(self, image_id: str) -> Path:
        """The image's file.

        Raises:
            RequestError: 404, there is no such image; 409, several files are; 400, it is a pipe or a device.
        """
        found = self.images.path(image_id)
        path = self.images.file(id_of(image_id, "image"), found)
        if not path.is_file():  # reading it may have no end
            raise RequestError(400, f"image {image_id!r} is not a regular file")
        return path

    def series(self, image_id: str) -> Path:
        """See `ImageSource.series`."""
        return self.images.series(image_id)

    def set_aside(self) -> dict[str, str]:
        """Why files are neither images nor labels, by their path below the studies, or by the id that several share."""
        images = self.images.set_aside()
        known = {*self.images.paths(), *images}
        lonely = {shown(path, self.root): name for name, path in self.labels.files(FINAL).items() if name not in known}
        return {
            **images,
            **self.labels.set_aside(),
            **{path: f"there is no image {image_id!r}" for path, image_id in lonely.items()},
        }

    def labels_set_aside(self) -> dict[str, str]:
        """Of `set_aside`, what concerns labels."""
        labelled = self.labels.files(FINAL)
        is_label = lambda name: name in labelled or name.startswith("labels/")  # noqa: E731
        return {name: reason for name, reason in self.set_aside().items() if is_label(name)}

    def stamp(self, image_id: str) -> str:
        """Another text for other content of an image, as far as the file system tells.

        Also for a series that this software reads otherwise than it did.

        Raises:
            RequestError: 404, there is no such image.
        """
        return _stamp(self.images.path(image_id))

    def stamps(self) -> dict[str, str]:
        """The same of all images."""
        return {image_id: _stamp(path) for image_id, path in self.images.paths().items()}

    def get_image(self, image_id: str, params: object = None) -> bytes:
        return self.image(image_id).read_bytes()

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is known of an image, and what its source tells of it.

        Raises:
            RequestError: 404, there is no such image.
        """
        of_source = self.images.info(image_id)
        return {**self.knowledge(image_id), **of_source}

    def knowledge(self, image_id: str) -> dict[str, Any]:
        """What was stored with an image, without a look at the image."""
        return self._knowledge.of(image_id)

    def checksum(self, image_id: str) -> str:
        """SHA-256 of the image's file, by which clients tell cached downloads apart."""
        return checksum(self.image(image_id))

    def update_image_info(self, image_id: str, info: Mapping[str, Any]) -> None:
        self.images.path(image_id)
        self._knowledge.update(image_id, info)

    def add_image(self, image_id: str, image_filename: str, image_info: Mapping[str, Any]) -> str:
        """Take a checked file in.

        Raises:
            RequestError: see `ImageSource.add`; 409, there are labels of that id, whose image is gone.
        """
        file = Path(image_filename)
        self._check_lonely(id_of(image_id or split_suffix(file.name)[0], "image"))
        image_id = self.images.add(image_id, file)
        self._knowledge.replace(image_id, {"ts": int(time.time()), **image_info})
        return image_id

    def remove_image(self, image_id: str) -> None:
        """Remove an image, then its current labels; the versions of its labels stay.

        Raises:
            RequestError: see `ImageSource.remove`; the labels stay then.
            WriteError: the disk is full: the image is gone, and the labels are to be removed by themselves.
        """
        self.images.remove(image_id)
        for tag in self.labels.tags(image_id):
            self.labels.remove(image_id, tag)
        self._knowledge.forget(image_id)

    # --- labels

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        return dict.fromkeys(self.labels.tags(image_id), image_id) if image_id in self.images.paths() else {}

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        return self.get_labels_by_image_id(image_id).get(tag, "")

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        return str(self.label(label_id, label_tag)) if label_tag in self.labels.tags(label_id) else ""

    def label(self, label_id: str, label_tag: str) -> Path:
        """See `LabelStore.file`."""
        return self.labels.file(label_id, label_tag)

    def get_label(self, label_id: str, label_tag: str, params: object = None) -> bytes:
        return self.label(label_id, label_tag).read_bytes()

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """See `LabelStore.info`."""
        return self.labels.info(label_id, label_tag)

    def update_label_info(self, label_id: str, label_tag: str, info: Mapping[str, Any]) -> None:
        """See `LabelStore.update_current`."""
        self.labels.update_current(label_id, label_tag, info)

    def versions(self, image_id: str) -> list[dict[str, Any]]:
        """All versions of an image's labels, the oldest first: version, tag, ts, user, model and what else was told."""
        return [version.info for version in self.labels.history(image_id).versions()]

    def label_version(self, image_id: str, number: int) -> Path:
        """The file of a version; see `LabelStore.version`."""
        return self.labels.version(image_id, number).file

    def fixed_label(self, image_id: str, tag: str) -> tuple[Path, dict[str, Any]]:
        """The file and the info of the current label as a version; see `LabelStore.fixed`."""
        version = self.labels.fixed(image_id, tag)
        return version.file, version.info

    def save_label(
        self,
        image_id: str,
        label_filename: str,
        label_tag: str,
        label_info: Mapping[str, Any],
        prompts: Sequence[object] = (),
    ) -> str:
        """See `LabelStore.save`.

        Raises:
            RequestError: no such image, or another tag than those of TAGS.
        """
        self.images.path(image_id)
        self.labels.save(image_id, Path(label_filename), label_tag, label_info, prompts)
        return id_of(image_id, "image")

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """See `LabelStore.remove`."""
        self.labels.remove(label_id, label_tag)

    def _check_lonely(self, image_id: str) -> None:
        """Refuse an id whose labels are of an image that is gone: they would count as those of a new one.

        Raises:
            RequestError: 409.
        """
        tags = self.labels.tags(image_id)
        if tags and image_id not in (*self.images.paths(), *self.images.set_aside()):
            lonely = " and ".join(f"labels/{tag}/{image_id}{SUFFIX}" for tag in tags)
            raise RequestError(409, f"{lonely} is of an earlier image {image_id!r}: choose another name, or remove it")

    def _log_what_is_there(self) -> None:
        paths = {image_id: shown(path, self.root) for image_id, path in self.images.paths().items()}
        renamed = [f"{path} is image {image_id!r}" for image_id, path in paths.items() if _is_renamed(image_id, path)]
        aside = [f"set aside: {reason} ({name})" for name, reason in self.set_aside().items()]
        for lines in (renamed, aside):
            for line in lines[:LOGGED]:
                logger.warning("%s", line)
            if len(lines) > LOGGED:
                logger.warning("and %d more, see GET /datastore/", len(lines) - LOGGED)

    # --- lists

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        known = self.labels.files(label_tag or FINAL)
        return [image_id for image_id in self.images.paths() if image_id in known]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        known = self.labels.files(label_tag or FINAL)
        return [image_id for image_id in self.images.paths() if image_id not in known]

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """The images with a final label, but those that `_labelled` leaves out."""
        return [
            {key: str(path if full_path else path.relative_to(self.root)) for key, path in files.items()}
            for files in self._labelled()[0].values()
        ]

    def status(self) -> dict[str, Any]:
        images = self.images.paths()
        tags = {tag: len(images.keys() & self.labels.files(tag).keys()) for tag in TAGS}
        return {
            "total": len(images),
            "completed": tags[FINAL],
            "label_tags": {tag: count for tag, count in tags.items() if count},
        }

    def json(self) -> dict[str, Any]:
        """The datastore as MONAI Label describes it to clients; without paths of the server."""
        tagged = {tag: self.labels.files(tag) for tag in TAGS}
        objects = {}
        for image_id, path in self.images.paths().items():
            image = {"ext": _suffix(path), "info": self.knowledge(image_id) | {"name": path.name}}
            labels = {
                tag: {"ext": SUFFIX, "info": self.labels.info_of(image_id, tag, files[image_id])}
                for tag, files in tagged.items()
                if image_id in files
            }
            objects[image_id] = {"image": image, "labels": labels}
        return {"name": self.name(), "description": self.description(), "objects": objects}

    def get_dataset_archive(self, limit_cases: int | None = None) -> str:
        """A ZIP file of the labelled images; the caller deletes it. Its metadata tell which are left out, and why.

        Raises:
            RequestError: 404, there is none, or none that can be had; 507, an image cannot be stored.
        """
        labelled, skipped = self._labelled(limit_cases or None)
        if not labelled:
            reasons = "".join(f"; {image_id}: {reason}" for image_id, reason in list(skipped.items())[:TOLD])
            raise RequestError(404, f"there is no labelled image yet{reasons}")
        with temporary_file(".zip") as file, zipfile.ZipFile(file, "w") as archive:
            for image_id, files in labelled.items():  # by the id: files in several folders may share a name
                for key, path in files.items():
                    archive.write(path, f"{key}/{image_id}{_suffix(path)}")
            archive.writestr("metadata.json", json.dumps({**self.json(), "skipped": skipped}))
        return str(file)

    def _labelled(self, limit: int | None = None) -> tuple[dict[str, dict[str, Path]], dict[str, str]]:
        """By id, the files "image" and "label" of the images with a final label, and why some cannot be had.

        Raises:
            RequestError: 507, an image cannot be stored.
        """
        labels = self.labels.files(FINAL)
        found: dict[str, dict[str, Path]] = {}
        skipped: dict[str, str] = {}
        for image_id, path in self.images.paths().items():
            if image_id not in labels or len(found) == limit:
                continue
            try:
                found[image_id] = {"image": self.images.file(image_id, path), "label": labels[image_id]}
            except RequestError as error:
                if error.status == 507:
                    raise
                logger.warning("labelled images: skipped %s: %s", image_id, error.message)
                skipped[image_id] = error.message
        return found, skipped

    def refresh(self) -> None:
        """Nothing to do: every listing reads the folder."""

    def name(self) -> str:
        return self.images.name

    def set_name(self, name: str) -> None:
        raise RequestError(405, "the datastore is named after its folder")

    def description(self) -> str:
        return self.images.description

    def set_description(self, description: str) -> None:
        raise RequestError(405, "the datastore's description is fixed")


def _suffix(path: Path) -> str:
    """Of an image's file; a DICOM series is converted."""
    try:
        return split_suffix(path.name)[1]
    except RequestError:
        return ".nii.gz"


def _is_renamed(image_id: str, path: str) -> bool:
    return not unicodedata.normalize("NFC", path).startswith(image_id)


def _stamp(path: Path) -> str:
    """Of an image's file, or of the folder of a series and how its voxels are read."""
    return f"{stamp(path)}-{converted.CONVERSION}" if path.is_dir() else stamp(path)
