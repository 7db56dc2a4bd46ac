"""The check of every pair of files before a training or an evaluation starts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from rep3d.console.progress import track
from rep3d.data.memory import file_key, read_memory, write_memory
from rep3d.data.notes import intensity_note, warn_once
from rep3d.io.geometry import VolumeError, agreement_problem, geometry_note
from rep3d.io.nifti import read_geometry, read_volume

SHOWN_PROBLEMS = 20
MAX_LABEL_ID = 2**24  # where any is taken: float32 holds no larger whole numbers without a gap
LABEL_MAPS = ("label", "prediction")
ROLES = ("image", *LABEL_MAPS)

Item = Mapping[str, str]


def check_datalist(
    items: Iterable[Item],
    classes: int | None,
    memory: str | os.PathLike | None = None,
    window: Sequence[float] | None = None,
) -> None:
    """Check every image and label before a training starts, and raise one error that lists all problems.

    Headers are read every time: each file exists and is a NIfTI of one volume with a usable affine, and label maps lie
    on their image. Voxels are read once per file and role (whole files; finite images; whole-numbered label ids below
    `classes`), and again only when the file's size or modification time changes. What is odd about an image and yet no
    reason to refuse it is logged, see `rep3d.data.notes`.

    Args:
        items: {"image": path, "label": path}, and where there is one "prediction", the path of another label map.
        classes: label ids are 0 to classes - 1. None: whole numbers from 0, however many.
        memory: JSON file that remembers the checked voxels, or None to check them every time. Where it cannot be
            written, a warning says so, and the next call checks again.
        window: the intensities that the bundle maps to 0 and 1; None: it takes the z-score.

    Raises:
        ValueError: the files that are wrong, and how.
    """
    problems = []
    pending: dict[str, tuple[str, str]] = {}
    for item in items:
        try:
            warn_once(item["image"], check_pair(item))
            pending |= {
                _voxel_key(item[role], role, classes, window): (item[role], role) for role in ROLES if role in item
            }
        except ValueError as error:
            problems.append(str(error))
    seen = read_memory(memory)
    new = [key for key in pending if key not in seen]
    for key in track(new, "Checking voxels", "file"):
        path, role = pending[key]
        try:
            seen[key] = _check_image(path, window) if role == "image" else _check_label(path, classes)
        except ValueError as error:
            problems.append(str(error))
    for key, (path, _) in pending.items():
        warn_once(path, seen.get(key, ""))
    write_memory(memory, seen)
    if problems:
        shown = "\n  ".join(problems[:SHOWN_PROBLEMS])
        more = f"\n  and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        raise ValueError(f"{len(problems)} problem(s) in the data set:\n  {shown}{more}")


def check_pair(item: Item) -> str:
    """What is odd about where the image lies, see `rep3d.io.geometry.geometry_note`; an empty text for most.

    Raises:
        ValueError: names the file: the headers of image and label are not usable, or do not agree.
    """
    image = read_geometry(item["image"])
    for role in LABEL_MAPS:
        problem = agreement_problem(read_geometry(item[role]), image) if role in item else ""
        if problem:
            raise VolumeError(item[role], f"{problem} {item['image']}")
    return geometry_note(image)


def image_problem(voxels: np.ndarray) -> str:
    """What is wrong with an image's voxels, or an empty text."""
    bad = voxels.size - np.count_nonzero(np.isfinite(voxels))
    return f"{bad} voxel(s) are NaN or infinite" if bad else ""


def label_problem(ids: np.ndarray, classes: int | None) -> str:
    """What is wrong with the values of a label map, or an empty text."""
    most = MAX_LABEL_ID if classes is None else classes - 1
    wrong = [float(i) for i in ids if not (0 <= i <= most and i == round(i))]
    return f"label value(s) {wrong[:5]}, expected whole numbers from 0 to {most}" if wrong else ""


def _check_image(path: str, window: Sequence[float] | None) -> str:
    voxels, _ = read_volume(path)
    problem = image_problem(voxels)
    if problem:
        raise VolumeError(path, problem)
    return intensity_note(voxels, window)


def _check_label(path: str, classes: int | None) -> str:
    voxels, _ = read_volume(path)
    problem = label_problem(np.unique(voxels), classes)
    if problem:
        raise VolumeError(path, problem)
    return ""


def _voxel_key(path: str, role: str, classes: int | None, window: Sequence[float] | None) -> str:
    rule = window and list(window) if role == "image" else classes
    return f"{file_key(path)}|{role}|{rule}"
