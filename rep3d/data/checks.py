"""The check of every pair of files before a training or an evaluation starts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from rep3d.console.progress import track
from rep3d.data.cases import ONE_CHANNEL, Item, first_file, image_files
from rep3d.data.memory import file_key, read_memory, write_memory
from rep3d.data.notes import Window, channel_windows, image_note, warn_once
from rep3d.io.geometry import Geometry, VolumeError, agreement_problem, geometry_note
from rep3d.io.nifti import read_channels, read_geometry, read_volume

SHOWN_PROBLEMS = 20
MAX_LABEL_ID = 2**24  # where any is taken: float32 holds no larger whole numbers without a gap
LABEL_MAPS = ("label", "prediction")


def check_datalist(
    items: Iterable[Item],
    classes: int | None,
    memory: str | os.PathLike | None = None,
    window: Window = None,
    channel_names: Sequence[str] = ONE_CHANNEL,
) -> None:
    """Check every image and label before a training starts, and raise one error that lists all problems.

    Headers are read every time: each file exists and is a NIfTI with a usable affine, an image has its channels, in one
    file or in one each, and label maps and channels lie on one grid. Voxels are read once per file and role (whole
    files; finite images; whole-numbered label ids below `classes`), and again only when the file's size or modification
    time changes. What is odd about an image and yet no reason to refuse it is logged, see `rep3d.data.notes`.

    Args:
        items: {"image": path or paths, "label": path}, and where there is one "prediction", the path of another label
            map.
        classes: label ids are 0 to classes - 1. None: whole numbers from 0, however many.
        memory: JSON file that remembers the checked voxels, or None to check them every time. Where it cannot be
            written, a warning says so, and the next call checks again.
        window: the intensities that the bundle maps to 0 and 1, see `rep3d.data.notes.channel_windows`; None: it takes
            the z-score.
        channel_names: of an image.

    Raises:
        ValueError: the files that are wrong, and how.
    """
    problems = []
    windows = channel_windows(window, len(channel_names))
    pending: dict[str, tuple[str, list | None]] = {}
    for item in items:
        try:
            warn_once(first_file(item), check_pair(item, channel_names))
            pending |= {_voxel_key(path, classes, of_path): (path, of_path) for path, of_path in _files(item, windows)}
        except ValueError as error:
            problems.append(str(error))
    seen = read_memory(memory)
    new = [key for key in pending if key not in seen]
    for key in track(new, "Checking voxels", "file"):
        path, of_path = pending[key]
        try:
            seen[key] = _check_label(path, classes) if of_path is None else _check_image(path, of_path)
        except ValueError as error:
            problems.append(str(error))
    for key, (path, _) in pending.items():
        warn_once(path, seen.get(key, ""))
    write_memory(memory, seen)
    if problems:
        shown = "\n  ".join(problems[:SHOWN_PROBLEMS])
        more = f"\n  and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        raise ValueError(f"{len(problems)} problem(s) in the data set:\n  {shown}{more}")


def check_pair(item: Item, channel_names: Sequence[str] | None = ONE_CHANNEL) -> str:
    """What is odd about where the image lies, see `rep3d.io.geometry.geometry_note`; an empty text for most.

    Args:
        channel_names: of the image; None: as many as it has.

    Raises:
        ValueError: names the file: the headers of image and label are not usable, or do not agree, or a channel is
            missing.
    """
    image = _image_geometry(image_files(item), channel_names)
    for role in LABEL_MAPS:
        problem = agreement_problem(read_geometry(item[role]), image) if role in item else ""
        if problem:
            raise VolumeError(item[role], f"{problem} {first_file(item)}")
    return geometry_note(image)


def _image_geometry(files: Sequence[str], channel_names: Sequence[str] | None) -> Geometry:
    """Where an image lies, from the headers of one file with all its channels, or of one for each."""
    first, *others = files
    names = channel_names or [str(i) for i in range(len(files))]
    for path, name in zip(files, names, strict=False):
        if others and not os.path.exists(path):
            raise VolumeError(path, f"no such file: the channel {name!r} of its case is missing")
    image = read_geometry(first, several=not others and (channel_names is None or len(channel_names) > 1))
    for path in others:
        problem = agreement_problem(read_geometry(path), image)
        if problem:
            raise VolumeError(path, f"{problem} {first}")
    found = len(files) if others else image.channels
    if channel_names is not None and found != len(channel_names):
        expected = f"{len(channel_names)}: {', '.join(channel_names)}"
        raise VolumeError(first, f"{found} channel(s) of an image, expected {expected}")
    return image


def image_problem(voxels: np.ndarray) -> str:
    """What is wrong with an image's voxels, or an empty text."""
    bad = voxels.size - np.count_nonzero(np.isfinite(voxels))
    return f"{bad} voxel(s) are NaN or infinite" if bad else ""


def label_problem(ids: np.ndarray, classes: int | None) -> str:
    """What is wrong with the values of a label map, or an empty text."""
    most = MAX_LABEL_ID if classes is None else classes - 1
    wrong = [float(i) for i in ids if not (0 <= i <= most and i == round(i))]
    return f"label value(s) {wrong[:5]}, expected whole numbers from 0 to {most}" if wrong else ""


def _files(item: Item, windows: list) -> Iterator[tuple[str, list | None]]:
    """The files of an item, those of its image with the windows of the channels in them."""
    files = image_files(item)
    yield from zip(files, [windows] if len(files) == 1 else [[window] for window in windows], strict=True)
    yield from ((item[role], None) for role in LABEL_MAPS if role in item)


def _check_image(path: str, windows: list) -> str:
    channels, _ = read_channels(path)
    problem = image_problem(channels)
    if problem:
        raise VolumeError(path, problem)
    return image_note(channels, windows)


def _check_label(path: str, classes: int | None) -> str:
    voxels, _ = read_volume(path)
    problem = label_problem(np.unique(voxels), classes)
    if problem:
        raise VolumeError(path, problem)
    return ""


def _voxel_key(path: str, classes: int | None, windows: list | None) -> str:
    return f"{file_key(path)}|{f'label|{classes}' if windows is None else f'image|{windows}'}"
