"""The studies folder: images, and labels of which no version gets lost.

    studies/
        scan.nii.gz ...                     images, NIfTI or NRRD; an image's id is its name without the suffix
        series/                             a folder of the files of one DICOM series; the id is its name
        labels/final/scan.nii.gz            the label that counts, as MONAI Label lays it out
        labels/original/scan.nii.gz         what a model proposed
        labels/versions/scan/0001.nii.gz    every label that was ever stored, with 0001.json: who, when, from what
        .rep3d/scan.json                    what is known of an image, such as its scores
        .rep3d/converted/                   DICOM series as NIfTI
        .rep3d/.format                      FORMAT, of all this

Files and series of one id, such as `scan.nii` and `scan.nii.gz`, are set aside: a label of that id would be of either.

A version counts once its JSON file is there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import threading
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from monailabel_app.dicom import convert_series, is_series
from monailabel_app.errors import RequestError
from monailabel_app.validation import SUFFIXES, check_name, image_note, split_suffix
from rep3d.files import copy_whole, read_json, remove_parts, write_json
from rep3d.format_number import check_folder, mark_folder

logger = logging.getLogger(__name__)

TAGS = tuple(tag.value for tag in DefaultLabelTag)
KNOWLEDGE = ".rep3d"  # folder of what is known of images
FORMAT = 1  # the number rises with what this code would misread
LABEL_SUFFIX = ".nii.gz"


def check_studies(root: Path) -> None:
    """Refuse a folder that a newer server wrote.

    Raises:
        ValueError: its format is newer than FORMAT, or no number.
    """
    check_folder(root / KNOWLEDGE, FORMAT)


class StudiesFolder(Datastore):
    """A local folder as MONAI Label's datastore. Listing reads the folder, so files may come and go.

    Args:
        root: the studies folder; made where it is missing.

    Raises:
        ValueError: see `check_studies`.
    """

    def __init__(self, root: str | os.PathLike) -> None:
        self.root = Path(root).resolve()
        self._lock = threading.RLock()  # of writes
        check_studies(self.root)
        for folder in (self.root, *(self.root / "labels" / tag for tag in (*TAGS, "versions")), self.root / KNOWLEDGE):
            folder.mkdir(parents=True, exist_ok=True)
        mark_folder(self.root / KNOWLEDGE, FORMAT)
        self._repair()
        for reason in self.set_aside().values():
            logger.warning("set aside: %s", reason)

    # --- images

    def list_images(self) -> list[str]:
        return list(self._images())

    def get_image_uri(self, image_id: str) -> str:
        """The image's path, or an empty text where there is no such image."""
        return str(self.image(image_id)) if image_id in self._images(image_id) else ""

    def image(self, image_id: str) -> Path:
        """The image's path.

        Raises:
            RequestError: 404, there is no such image.
        """
        return self._file(image_id, self._existing(image_id))

    def series(self, image_id: str) -> Path:
        """The folder of an image's DICOM files.

        Raises:
            RequestError: 404, there is no such image; 400, it is of another format.
        """
        path = self._existing(image_id)
        if not path.is_dir():
            raise RequestError(400, f"image {image_id!r} is no DICOM series")
        return path

    def set_aside(self, beginning: str = "") -> dict[str, str]:
        """Why files that share an id are no images, by id; of all, or of those whose names begin so."""
        return {
            image_id: f"{' and '.join(path.name for path in paths)} are both image {image_id!r}: rename all but one"
            for image_id, paths in self._files(beginning).items()
            if len(paths) > 1
        }

    def get_image(self, image_id: str, params: object = None) -> bytes:
        return self.image(image_id).read_bytes()

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is known of an image.

        Raises:
            RequestError: 404, there is no such image.
        """
        path = self._existing(image_id)
        note = image_note(path) if path.is_file() else ""
        return self.knowledge(image_id) | ({"note": note} if note else {})

    def knowledge(self, image_id: str) -> dict[str, Any]:
        """What was stored with an image, without a look at the image."""
        return read_json(self._knowledge(image_id))

    def checksum(self, image_id: str) -> str:
        """SHA-256 of the image's file, by which clients tell cached downloads apart."""
        return f"SHA256:{_digest(self.image(image_id))}"

    def update_image_info(self, image_id: str, info: Mapping[str, Any]) -> None:
        self._existing(image_id)
        with self._lock:
            path = self._knowledge(image_id)
            write_json(path, {**read_json(path), **info})

    def add_image(self, image_id: str, image_filename: str, image_info: Mapping[str, Any]) -> str:
        """Take a checked file in.

        Raises:
            RequestError: a bad name, or one that another image has.
        """
        _, suffix = split_suffix(image_filename)
        image_id = check_name(image_id or split_suffix(Path(image_filename).name)[0], "image")
        with self._lock:
            if image_id.casefold() in [known.casefold() for known in (*self._images(), *self.set_aside())]:
                raise RequestError(409, f"there is an image {image_id!r} already")
            copy_whole(Path(image_filename), self.root / f"{image_id}{suffix}")
            write_json(self._knowledge(image_id), {"ts": int(time.time()), **image_info})
        return image_id

    def remove_image(self, image_id: str) -> None:
        """Remove an image and its current labels; the versions of its labels stay."""
        with self._lock:
            path = self.image(image_id)
            if self._existing(image_id).is_dir():
                raise RequestError(405, "a DICOM series is not removed: delete its folder")
            for tag in self.get_labels_by_image_id(image_id):
                self.remove_label(image_id, tag)
            path.unlink()
            self._knowledge(image_id).unlink(missing_ok=True)

    # --- labels

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        if image_id not in self._images(image_id):
            return {}
        return {tag: image_id for tag in TAGS if self._label(image_id, tag) is not None}

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        return self.get_labels_by_image_id(image_id).get(tag, "")

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        path = self._label(label_id, label_tag)
        return str(path) if path else ""

    def label(self, label_id: str, label_tag: str) -> Path:
        """The label's path.

        Raises:
            RequestError: 404, there is no such label.
        """
        path = self._label(label_id, label_tag)
        if path is None:
            raise RequestError(404, f"there is no label {label_id[:200]!r} with the tag {label_tag[:200]!r}")
        return path

    def get_label(self, label_id: str, label_tag: str, params: object = None) -> bytes:
        return self.label(label_id, label_tag).read_bytes()

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """What was stored with the current label; of a file that was put there by hand, its time and name."""
        return self._label_info(label_id, label_tag, self.label(label_id, label_tag))

    def update_label_info(self, label_id: str, label_tag: str, info: Mapping[str, Any]) -> None:
        with self._lock:
            known = self.get_label_info(label_id, label_tag)
            if "version" in known:
                write_json(self._version(label_id, known["version"], ".json"), {**known, **info})

    def versions(self, image_id: str) -> list[dict[str, Any]]:
        """All versions of an image's labels, the oldest first: version, tag, ts, user, model and what else was told."""
        return [read_json(path) for path in self._descriptions(image_id)]

    def label_version(self, image_id: str, number: int) -> Path:
        """The file of a version.

        Raises:
            RequestError: 404, there is no such version.
        """
        if number not in [info["version"] for info in self.versions(image_id)]:
            raise RequestError(404, f"label {image_id!r} has no version {number}")
        return self._version(image_id, number, LABEL_SUFFIX)

    def fixed_label(self, image_id: str, tag: str) -> tuple[Path, dict[str, Any]]:
        """The current label as a version, whose file no later submission changes, and what was stored with it."""
        with self._lock:
            self._keep_current(image_id, tag)
            info = self._newest(image_id, tag)
        return self._version(image_id, info["version"], LABEL_SUFFIX), info

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: Mapping[str, Any]) -> str:
        """Store a checked `.nii.gz` label map as a new version, and make it the current one.

        Raises:
            RequestError: no such image, or another tag than those of TAGS.
        """
        self._existing(image_id)
        if label_tag not in TAGS:
            raise RequestError(400, f"tag is {label_tag[:200]!r}, expected one of {', '.join(TAGS)}")
        with self._lock:
            self._keep_current(image_id, label_tag)
            version = self._add_version(image_id, Path(label_filename), label_tag, label_info)
            self._make_current(image_id, label_tag, version)
        return image_id

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove the current label; its versions stay."""
        with self._lock:
            path = self.label(label_id, label_tag)
            self._keep_current(label_id, label_tag)
            for info in self.versions(label_id):
                if info["tag"] == label_tag and not info["removed"]:
                    write_json(self._version(label_id, info["version"], ".json"), {**info, "removed": True})
            path.unlink()

    # --- lists

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        known = self._labels(label_tag or DefaultLabelTag.FINAL.value)
        return [image_id for image_id in self._images() if image_id in known]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        known = self._labels(label_tag or DefaultLabelTag.FINAL.value)
        return [image_id for image_id in self._images() if image_id not in known]

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """The images with a final label."""
        pairs, labels = [], self._labels(DefaultLabelTag.FINAL.value)
        for image_id, image in self._images().items():
            if image_id in labels:
                paths = {"image": self._file(image_id, image), "label": labels[image_id]}
                pairs.append({key: str(p if full_path else p.relative_to(self.root)) for key, p in paths.items()})
        return pairs

    def status(self) -> dict[str, Any]:
        images = self._images()
        tags = {tag: len(images.keys() & self._labels(tag).keys()) for tag in TAGS}
        return {
            "total": len(images),
            "completed": tags[DefaultLabelTag.FINAL.value],
            "label_tags": {tag: count for tag, count in tags.items() if count},
        }

    def json(self) -> dict[str, Any]:
        """The datastore as MONAI Label describes it to clients; without paths of the server."""
        objects, tagged = {}, {tag: self._labels(tag) for tag in TAGS}
        for image_id, image in self._images().items():
            info = self.knowledge(image_id) | {"name": image.name}
            labels = {
                tag: {"ext": LABEL_SUFFIX, "info": self._label_info(image_id, tag, paths[image_id])}
                for tag, paths in tagged.items()
                if image_id in paths
            }
            suffix = next(
                (suffix for suffix in SUFFIXES if image.name.endswith(suffix)), ".nii.gz"
            )  # DICOM is converted
            objects[image_id] = {"image": {"ext": suffix, "info": info}, "labels": labels}
        return {"name": self.name(), "description": self.description(), "objects": objects}

    def get_dataset_archive(self, limit_cases: int | None = None) -> str:
        """A ZIP file of the labelled images; the caller deletes it."""
        pairs = self.datalist()[: limit_cases or None]
        if not pairs:
            raise RequestError(404, "there is no labelled image yet")
        with tempfile.NamedTemporaryFile(suffix=".zip", delete=False) as file:
            with zipfile.ZipFile(file, "w") as archive:
                for pair in pairs:
                    for key, path in pair.items():
                        archive.write(path, f"{key}/{Path(path).name}")
                archive.writestr("metadata.json", json.dumps(self.json()))
        return file.name

    def refresh(self) -> None:
        """Nothing to do: every listing reads the folder."""

    def name(self) -> str:
        return self.root.name

    def set_name(self, name: str) -> None:
        raise RequestError(405, "the datastore is named after its folder")

    def description(self) -> str:
        return "Images and labels of a local folder"

    def set_description(self, description: str) -> None:
        raise RequestError(405, "the datastore's description is fixed")

    # --- files

    def _images(self, beginning: str = "") -> dict[str, Path]:
        """The images by id, or those whose file names begin so; reads the folder once."""
        return {image_id: paths[0] for image_id, paths in self._files(beginning).items() if len(paths) == 1}

    def _files(self, beginning: str = "") -> dict[str, list[Path]]:
        """All files and series that an id may mean."""
        found: dict[str, list[Path]] = {}
        for entry in self._entries(self.root):
            if entry.name[0] == "." or entry.name == "labels" or not entry.name.startswith(beginning):
                continue
            try:
                if not self._leads_inside(entry):
                    continue
                path = Path(entry.path)
                image_id = entry.name if entry.is_dir() and is_series(path) else split_suffix(entry.name)[0]
                found.setdefault(check_name(image_id, "image"), []).append(path)
            except (RequestError, OSError, RuntimeError):  # no image, not readable, a loop of links
                continue
        return found

    def _existing(self, image_id: str) -> Path:
        path = self._images(image_id).get(image_id)
        if path is None and image_id in (reasons := self.set_aside(image_id)):
            raise RequestError(409, reasons[image_id])
        if path is None:
            raise RequestError(404, f"there is no image {image_id[:200]!r}")
        return path

    def _file(self, image_id: str, path: Path) -> Path:
        return self._converted(image_id, path) if path.is_dir() else path

    def _converted(self, image_id: str, series: Path) -> Path:
        """A DICOM series as NIfTI; made anew when the folder has changed."""
        path = self.root / KNOWLEDGE / "converted" / f"{image_id}.nii.gz"
        files = {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in sorted(series.iterdir())}
        with self._lock:
            if not path.is_file() or read_json(path.with_suffix(".json")) != files:
                convert_series(series, path)
                write_json(path.with_suffix(".json"), files)
        return path

    @staticmethod
    def _entries(folder: Path) -> list[os.DirEntry]:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)

    def _leads_inside(self, entry: os.DirEntry) -> bool:
        """Links that lead out of the studies folder are not followed."""
        return not entry.is_symlink() or Path(entry.path).resolve().is_relative_to(self.root)

    def _label(self, image_id: str, tag: str) -> Path | None:
        if tag not in TAGS:
            return None
        path = self.root / "labels" / tag / f"{check_name(image_id, 'label')}{LABEL_SUFFIX}"
        return path if path.is_file() and path.resolve().is_relative_to(self.root) else None

    def _labels(self, tag: str) -> dict[str, Path]:
        """The current labels of a tag, by image id."""
        folder = self.root / "labels" / tag
        if tag not in TAGS or not folder.resolve().is_relative_to(self.root):
            return {}
        files = {Path(entry.path): entry for entry in self._entries(folder) if entry.name.endswith(LABEL_SUFFIX)}
        own = [path for path, entry in files.items() if path.is_file() and self._leads_inside(entry)]
        return {path.name.removesuffix(LABEL_SUFFIX): path for path in own}

    def _label_info(self, image_id: str, tag: str, path: Path) -> dict[str, Any]:
        return self._newest(image_id, tag) or {"ts": int(path.stat().st_mtime), "name": path.name, "tag": tag}

    def _version(self, image_id: str, number: int, suffix: str) -> Path:
        return self.root / "labels/versions" / check_name(image_id, "label") / f"{number:04d}{suffix}"

    def _knowledge(self, image_id: str) -> Path:
        return self.root / KNOWLEDGE / f"{check_name(image_id, 'image')}.json"

    def _newest(self, image_id: str, tag: str) -> dict[str, Any]:
        """What was stored with the newest version that was not removed; empty where there is none."""
        newest_first = map(read_json, reversed(self._descriptions(image_id)))
        return next((info for info in newest_first if info["tag"] == tag and not info["removed"]), {})

    def _descriptions(self, image_id: str) -> list[Path]:
        """The JSON files of the versions, the oldest first."""
        return sorted((self.root / "labels/versions" / check_name(image_id, "label")).glob("[0-9]*.json"))

    def _add_version(self, image_id: str, label: Path, tag: str, told: Mapping[str, Any]) -> Path:
        known = self.versions(image_id)
        number = known[-1]["version"] + 1 if known else 1
        version = self._version(image_id, number, LABEL_SUFFIX)
        version.parent.mkdir(exist_ok=True)
        copy_whole(label, version)
        info = {"ts": int(time.time()), "name": version.name, **told}
        info |= {"version": number, "tag": tag, "removed": False}
        write_json(version.with_name(f"{number:04d}.json"), info)
        return version

    def _keep_current(self, image_id: str, tag: str) -> None:
        """Make a version of a label that was put there by hand, so that nothing replaces its only copy."""
        path = self._label(image_id, tag)
        if path is None:
            return
        newest = self._newest(image_id, tag)
        if newest and _digest(path) == _digest(self._version(image_id, newest["version"], LABEL_SUFFIX)):
            return
        self._add_version(image_id, path, tag, {"user": None, "note": "was put into the folder by hand"})

    def _make_current(self, image_id: str, tag: str, version: Path) -> None:
        copy_whole(version, self.root / "labels" / tag / f"{image_id}{LABEL_SUFFIX}")

    def _repair(self) -> None:
        """Finish what a kill interrupted: a label that is still an older version gives way to the newest."""
        for folder in (self.root / "labels/versions").iterdir():
            files = sorted(folder.glob(f"[0-9]*{LABEL_SUFFIX}"))
            for tag in TAGS:
                newest, current = self._newest(folder.name, tag), self._label(folder.name, tag)
                if newest and (current is None or _digest(current) in [_digest(file) for file in files]):
                    self._make_current(folder.name, tag, self._version(folder.name, newest["version"], LABEL_SUFFIX))
        remove_parts(self.root)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
