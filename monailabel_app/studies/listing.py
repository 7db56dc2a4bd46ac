"""Which images a studies folder holds, by id, and why the rest of its files are none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from monailabel_app.errors import RequestError
from monailabel_app.studies.entries import OUTSIDE, entries, is_outside, shown
from monailabel_app.studies.names import id_of, may_lie_in
from monailabel_app.studies.volumes import split_suffix
from rep3d.io.dicom import is_series

LABELS = "labels"  # the folder's name, and how those of data sets begin: labelsTr, labelsVal
MAX_DEPTH = 20  # folders below the studies


@dataclass(frozen=True)
class Listing:
    """What was found.

    Args:
        images: by id; the file, or the folder of a DICOM series.
        shared: why files and series that share an id are no images, by that id.
        others: why other files are none, by their paths below the studies.
    """

    images: dict[str, Path]
    shared: dict[str, str]
    others: dict[str, str]

    @property
    def set_aside(self) -> dict[str, str]:
        return {**self.others, **self.shared}


def list_studies(root: Path, wanted: str = "") -> Listing:
    """Look into a studies folder and its subfolders; hidden files and `labels` are left alone.

    Args:
        root: a resolved path.
        wanted: the id of the one image that is looked for; spares a look into folders that cannot hold it.
    """
    found: dict[str, list[Path]] = {}
    others = {}
    for path, reason in _walk(root, root, wanted):
        try:
            if reason:
                raise RequestError(400, reason)
            relative = path.relative_to(root).as_posix()
            image_id = id_of(relative if path.is_dir() else split_suffix(relative)[0], "image")
            found.setdefault(image_id, []).append(path)
        except RequestError as error:
            others[shown(path, root)] = error.message
    images, shared = {}, {}
    for image_id, paths in found.items():
        path = paths[0]
        if len(paths) > 1:
            shared[image_id] = (
                f"{' and '.join(shown(path, root) for path in paths)} are both image {image_id!r}: rename all but one"
            )
        elif path.is_dir() or path.name.endswith(suffix := split_suffix(path.name)[1]):
            images[image_id] = path
        else:  # readers go by small letters
            others[shown(path, root)] = f"rename it: its suffix is no {suffix} in small letters"
    return Listing(images, shared, others)


def _walk(folder: Path, root: Path, wanted: str) -> Iterator[tuple[Path, str]]:
    """The files and the DICOM series below a folder, and why one is no image, if that is known already."""
    inside = entries(folder)
    # Finding out that none of many files is DICOM takes a look into each.
    holds_series = folder != root and not all(_is_volume(entry.name) for entry in inside) and _is_series(folder)
    if holds_series:
        yield folder, ""
    for entry in inside:
        path = Path(entry.path)
        if path == root / LABELS:
            continue
        if is_outside(entry, root):
            yield path, OUTSIDE
        elif entry.is_dir() and wanted and not may_lie_in(wanted, shown(path, root)):
            continue
        elif entry.is_dir() and entry.name.casefold().startswith(LABELS) and not _is_series(path):
            yield path, "a folder of labels"
        elif entry.is_dir():
            yield from _look_into(path, root, wanted)
        elif not entry.is_file():
            yield path, "not a regular file"
        elif not holds_series or _is_volume(entry.name):  # what else lies in a series' folder is for its reader to tell
            yield path, ""


def _look_into(folder: Path, root: Path, wanted: str) -> Iterator[tuple[Path, str]]:
    """The same of a subfolder, of which one that is a link may lead in a circle: only its own files are looked at."""
    try:
        if len(folder.relative_to(root).parts) > MAX_DEPTH:
            yield folder, f"more than {MAX_DEPTH} folders deep"
        elif not folder.is_symlink():
            yield from _walk(folder, root, wanted)
        elif _is_series(folder):
            yield folder, ""
        else:
            yield folder, "a link to a folder that is no DICOM series"
    except OSError as error:
        yield folder, f"cannot be read ({error.strerror})"


def _is_series(folder: Path) -> bool:
    try:
        return is_series(folder)
    except OSError:  # of one of its files: what can be said of it is said of each
        return False


def _is_volume(name: str) -> bool:
    try:
        return bool(split_suffix(name))
    except RequestError:
        return False
