"""What there is to segment: files and DICOM series of somebody's own, or the test images of a data set."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rep3d.data.cases import CHANNEL, ONE_CHANNEL, Item, case_names, first_file, is_nifti, item_name, without_label_word
from rep3d.data.dataset_json import FILE
from rep3d.data.layouts import list_nifti
from rep3d.data.leakage import some
from rep3d.data.lists import list_images, load_inference_list
from rep3d.io.dicom_files import is_dicom
from rep3d.io.folders import walk
from rep3d.io.nifti import is_label_map_of_ours
from rep3d.io.scans import is_series
from rep3d.io.volumes import split_suffix

if TYPE_CHECKING:
    from rep3d.io.dicom_study import Series

logger = logging.getLogger(__name__)

NRRD, LABEL_MAP = ".nrrd", ".seg.nrrd"
UNREAD = (".mha", ".mhd", ".hdr", ".nhdr", ".mgz", ".mgh", ".mnc", ".nii.zip", ".nii.bz2")  # scans of other formats
EXPECTED = "expected files that end with .nii.gz, .nii or .nrrd, or DICOM series"


def list_scans(source: str | os.PathLike, channel_names: Sequence[str] = ONE_CHANNEL) -> list[Item]:
    """The scans {"image": path} to segment, some with a name as "case", or with a "problem": why they cannot be read.

    Of a folder these are its NIfTI and NRRD files, and the DICOM series in it and in its subfolders, also behind links;
    what is no scan there, such as label maps, by their names or of an earlier inference, and DICOM objects other than
    images, is logged, and so is how many files are of other formats, and how many NIfTI and NRRD files lie in its
    subfolders.

    Args:
        source: a file; a folder; the folder of a DICOM series, or a file of it; or a data set, see
            `rep3d.data.lists.load_inference_list`.
        channel_names: of an image. Several may lie in one NIfTI file each.

    Raises:
        ValueError: there is no scan, or two have one name.
        FileNotFoundError: there is no such file or folder.
    """
    path = Path(source)
    if path.is_dir() and not (path / FILE).is_file() and not (path / "imagesTr").is_dir():
        items = _scans_of(path, channel_names)
    elif path.is_file() and not is_nifti(path):
        items = [_item(path)]
    else:
        items = load_inference_list(path, channel_names)
    scans = [item for item in items if not is_label_map_of_ours(first_file(item))]
    if not scans:
        raise ValueError(f"dataset_dir {str(source)!r} holds only label maps of an earlier inference, expected scans")
    if len(scans) < len(items):
        logger.info("%d label map(s) of an earlier inference in %s are no scans", len(items) - len(scans), source)
    return scans


def _item(path: Path) -> Item:
    """Raises ValueError: the file is no scan."""
    if _is_nrrd(path):
        return {"image": str(path), "case": split_suffix(path.name)[0]}
    if not is_series(path):
        raise ValueError(f"dataset_dir {str(path)!r} is no scan: {EXPECTED}")
    return {"image": str(path), "case": path.resolve().parent.name}


def _scans_of(folder: Path, channel_names: Sequence[str]) -> list[Item]:
    """Raises ValueError: there are none, or two have one name."""
    found, skipped = _study(folder)
    for path, reason in skipped.items():
        logger.warning("skipped %s: %s", path, reason)
    items = list_images(list_nifti(folder), channel_names)
    items += [_item(path) for path in sorted(folder.glob("[!.]*")) if _is_nrrd(path)]
    for series in found:
        item = {"image": str(series.path), "case": series.name}
        items.append({**item, "problem": series.problem} if series.problem else item)
    labels = [path for path in _called_as_labels(items) if not is_label_map_of_ours(path)]
    if labels:
        told = f"{len(labels)} file(s) are called as label maps of scans beside them, and not segmented"
        logger.warning("dataset_dir %r: %s: %s", str(folder), told, some([path.name for path in labels]))
    items = [item for item in items if Path(first_file(item)) not in labels]
    unread = [path.name for path in sorted(folder.glob("[!.]*")) if path.name.lower().endswith(UNREAD)]
    if unread:
        told = f"{len(unread)} file(s) are of formats that are not read, and not segmented"
        logger.warning("dataset_dir %r: %s: %s: convert them to NIfTI", str(folder), told, some(unread))
    deeper = _files_below(folder)
    hint = f"{len(deeper)} NIfTI or NRRD file(s) lie in its subfolders, such as {deeper[0]}" if deeper else ""
    if not items:
        expected = f"{EXPECTED}; {hint}: give their folder" if hint else EXPECTED
        raise ValueError(f"dataset_dir {str(folder)!r} holds no scans: {expected}")
    if hint:
        logger.warning(
            "dataset_dir %r: %s, and are not segmented: if they are scans, give their folder", str(folder), hint
        )
    return [{**item, "case": name} for item, name in zip(items, case_names(items), strict=True)]


def _called_as_labels(items: Sequence[Item]) -> list[Path]:
    """The files that have the name of another scan and a word for labels, or beside others that word alone."""
    names = {item_name(item) for item in items}
    names |= {name.removesuffix(CHANNEL) for name in names}
    names |= {""} if any(map(without_label_word, names)) else set()
    files = [(item_name(item), Path(first_file(item))) for item in items]
    return [path for name, path in files if _is_file_of_scan(path) and without_label_word(name) in names - {name}]


def _files_below(folder: Path) -> list[Path]:
    """The NIfTI and NRRD files in the subfolders, without label maps of ours."""
    below = [path for place, own in walk(folder, _pass_over) if place != folder for path in own]
    return [path for path in below if _is_file_of_scan(path) and not is_label_map_of_ours(path)]


def _pass_over(error: OSError) -> None:
    """A folder that cannot be read is one of the scans, with that for its problem."""


def _is_file_of_scan(path: Path) -> bool:
    return is_nifti(path) or _is_nrrd(path)


def _is_nrrd(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith(NRRD) and not name.endswith(LABEL_MAP)


def _study(folder: Path) -> tuple[Sequence[Series], Mapping[str, str]]:
    """The DICOM series below a folder, and what else is there; none where no file needs the extra "dicom"."""
    try:
        from rep3d.io.dicom_study import read_study
    except ImportError:
        if any(path.is_file() and is_dicom(path) for _, files in walk(folder) for path in files):
            raise
        return [], {}
    study = read_study(folder)
    return study.series, study.skipped
