"""The labels of a studies folder: the current ones, and every one that was ever stored.

labels/final/scan.nii.gz            the label that counts, as MONAI Label lays it out
labels/original/scan.nii.gz         what a model proposed
labels/versions/scan/0001.nii.gz    every label that was ever stored, with 0001.json: who, when, from what
labels/versions/scan/0001.prompts.json    what users had shown of the scan by then, such as clicks
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import DefaultLabelTag

from monailabel_app.errors import RequestError
from monailabel_app.history import History, Version, digest
from monailabel_app.studies.entries import OUTSIDE, entries, is_outside, leads_inside, rename_to_ids, shown
from monailabel_app.studies.names import id_of, was_id
from monailabel_app.studies.volumes import split_suffix
from rep3d.files import WriteError, copy_whole, write_json

TAGS = tuple(tag.value for tag in DefaultLabelTag)
SUFFIX = ".nii.gz"
PROMPTS = ".prompts.json"
VERSIONS = "versions"
PENDING = "pending"  # of a version that is not the current label yet

logger = logging.getLogger(__name__)


class LabelStore:
    """Label maps by image and tag. A label that somebody puts into the folder by hand becomes a version in time.

    Args:
        root: the studies folder, a resolved path; what is missing in it is made.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder = root / "labels"
        self._lock = threading.RLock()  # of writes
        for name, suffix in {**dict.fromkeys(TAGS, SUFFIX), VERSIONS: ""}.items():
            (self._folder / name).mkdir(parents=True, exist_ok=True)
            if leads_inside(self._folder / name, root):
                rename_to_ids(self._folder / name, suffix)
        self._repair()

    def history(self, image_id: str) -> History:
        """Every label that was ever stored for an image."""
        return History(self._folder / VERSIONS / id_of(image_id, "label"), f"{{}}{SUFFIX}", "{}.json")

    def files(self, tag: str) -> dict[str, Path]:
        """The current labels of a tag, by image id."""
        folder = self._folder / tag
        if tag not in TAGS or not leads_inside(folder, self._root):
            return {}
        labels = [Path(entry.path) for entry in entries(folder) if not self._problem(entry)]
        return {path.name.removesuffix(SUFFIX): path for path in labels}

    def set_aside(self) -> dict[str, str]:
        """Why files that somebody put among the labels are none, by their paths below the studies."""
        found = {}
        for entry in entries(self._folder):
            if is_outside(entry, self._root):
                found[shown(Path(entry.path), self._root)] = OUTSIDE
            elif entry.name in TAGS:
                problems = {Path(part.path): self._problem(part) for part in entries(Path(entry.path))}
                found |= {shown(path, self._root): problem for path, problem in problems.items() if problem}
            elif entry.name == VERSIONS:
                left = {
                    Path(part.path): id_of(part.name, "label")
                    for part in entries(Path(entry.path))
                    if was_id(part.name)
                }
                found |= {shown(path, self._root): f"image {name!r} has other versions" for path, name in left.items()}
            else:
                found[shown(Path(entry.path), self._root)] = f"expected a label in the folder {' or '.join(TAGS)}"
        return found

    def file(self, image_id: str, tag: str) -> Path:
        """The current label of an image.

        Raises:
            RequestError: 404, there is none.
        """
        path = self._current(image_id, tag)
        if path is None:
            raise _missing(image_id, tag)
        return path

    def tags(self, image_id: str) -> list[str]:
        """The tags that an image has a label of."""
        return [tag for tag in TAGS if self._current(image_id, tag) is not None]

    def info(self, image_id: str, tag: str) -> dict[str, Any]:
        """What was stored with the current label; of a file that was put there by hand, its time and name.

        Raises:
            RequestError: 404, there is no such label.
        """
        return self.info_of(image_id, tag, self.file(image_id, tag))

    def info_of(self, image_id: str, tag: str, current: Path) -> dict[str, Any]:
        """The same, where the file of the current label is known."""
        newest = self._newest(image_id, tag)
        return newest.info if newest else {"ts": int(current.stat().st_mtime), "name": current.name, "tag": tag}

    def version(self, image_id: str, number: int) -> Version:
        """A version.

        Raises:
            RequestError: 404, there is no such version.
        """
        found = self.history(image_id).find(number)
        if found is None:
            raise RequestError(404, f"label {image_id!r} has no version {number}")
        return found

    def fixed(self, image_id: str, tag: str) -> Version:
        """The current label as a version, whose file no later submission changes.

        Raises:
            RequestError: 404, there is no such label.
        """
        with self._lock:
            self._keep_current(image_id, tag)
            newest = self._newest(image_id, tag)
        if newest is None:
            raise _missing(image_id, tag)
        return newest

    def save(
        self, image_id: str, file: Path, tag: str, info: Mapping[str, Any], prompts: Sequence[object] = ()
    ) -> Version:
        """Store a checked `.nii.gz` label map as a new version, and make it the current one.

        Args:
            info: to be stored with it.
            prompts: to be stored beside it, where there are some.

        Raises:
            RequestError: 400, another tag than those of TAGS.
            WriteError: it cannot be written; no version is added then, and the current label stays.
        """
        if tag not in TAGS:
            raise RequestError(400, f"tag is {tag[:200]!r}, expected one of {', '.join(TAGS)}")
        with self._lock:
            self._keep_current(image_id, tag)
            version = self._add(image_id, file, tag, {**info, PENDING: True}, prompts)
            try:
                self._make_current(image_id, tag, version)
            except OSError:
                self.history(image_id).take_back(version.number)
                raise
        return version

    def update(self, image_id: str, number: int, changes: Mapping[str, Any]) -> None:
        """Change what is stored with a version.

        Raises:
            RequestError: as `version`.
        """
        with self._lock:
            self.history(image_id).update(self.version(image_id, number).number, changes)

    def update_current(self, image_id: str, tag: str, changes: Mapping[str, Any]) -> None:
        """Change what is stored with the current label; nothing of one that was put there by hand.

        Raises:
            RequestError: 404, there is no such label.
        """
        with self._lock:
            number = self.info(image_id, tag).get("version")
            if number is not None:
                self.history(image_id).update(number, changes)

    def remove(self, image_id: str, tag: str) -> None:
        """Remove the current label; its versions stay.

        Raises:
            RequestError: 404, there is no such label.
        """
        with self._lock:
            path = self.file(image_id, tag)
            self._keep_current(image_id, tag)
            history = self.history(image_id)
            for version in history.versions():
                if version.info["tag"] == tag and not version.info["removed"]:
                    history.update(version.number, {"removed": True})
            path.unlink()

    def _problem(self, entry: os.DirEntry) -> str:
        """Why an entry of a tag's folder is no label; an empty text where it is one."""
        if is_outside(entry, self._root):
            return OUTSIDE
        if not entry.is_file():
            return "not a regular file"
        try:
            name, suffix = split_suffix(entry.name)
            expected = f"{id_of(name, 'label')}{SUFFIX}"
        except RequestError as error:
            return error.message
        if suffix != SUFFIX:
            return f"submit it, or convert it to {expected}"
        return "" if entry.name == expected else f"rename it to {expected}"

    def _current(self, image_id: str, tag: str) -> Path | None:
        if tag not in TAGS:
            return None
        path = self._folder / tag / f"{id_of(image_id, 'label')}{SUFFIX}"
        return path if path.is_file() and leads_inside(path, self._root) else None

    def _newest(self, image_id: str, tag: str) -> Version | None:
        """The newest version that was not removed."""
        versions = self.history(image_id).newest_first()
        return next((one for one in versions if one.info["tag"] == tag and not one.info["removed"]), None)

    def _add(
        self, image_id: str, file: Path, tag: str, info: Mapping[str, Any], prompts: Sequence[object] = ()
    ) -> Version:
        def describe(copy: Path) -> dict[str, Any]:
            beside = copy.with_name(copy.name.removesuffix(SUFFIX) + PROMPTS)
            if prompts:
                write_json(beside, prompts)
            else:
                beside.unlink(missing_ok=True)  # of a submission that could not be written to its end
            return {"ts": int(time.time()), "name": copy.name, **info, "tag": tag, "removed": False}

        return self.history(image_id).add(file, describe)

    def _keep_current(self, image_id: str, tag: str) -> None:
        """Make a version of a label that was put there by hand, so that nothing replaces its only copy."""
        path, newest = self._current(image_id, tag), self._newest(image_id, tag)
        if path is not None and (newest is None or digest(path) != digest(newest.file)):
            self._add(image_id, path, tag, {"user": None, "note": "was put into the folder by hand"})

    def _make_current(self, image_id: str, tag: str, version: Version) -> None:
        copy_whole(version.file, self._folder / tag / f"{id_of(image_id, 'label')}{SUFFIX}")
        with suppress(WriteError):  # it counts already; the next start notes it
            self.history(image_id).update(version.number, {PENDING: False})

    def _repair(self) -> None:
        """Finish what a kill interrupted; what somebody changed by hand meanwhile stays."""
        for image_id in [folder.name for folder in entries(self._folder / VERSIONS) if folder.is_dir()]:
            for tag in TAGS:
                newest, current = self._newest(image_id, tag), self._current(image_id, tag)
                is_pending = newest is not None and newest.info.get(PENDING, False)
                if newest and is_pending and (current is None or self.history(image_id).holding(current)):
                    self._make_current(image_id, tag, newest)
                    logger.warning("label %s: version %d, which was being stored, counts", image_id, newest.number)


def _missing(image_id: str, tag: str) -> RequestError:
    return RequestError(404, f"there is no label {image_id[:200]!r} with the tag {tag[:200]!r}")
