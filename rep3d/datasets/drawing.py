"""Procedural anatomy drawn ahead, into a folder that trainings read as any other data set."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from rep3d.console.progress import Progress
from rep3d.datasets.anatomy import MAX_LABELS, check_size, make_anatomy
from rep3d.datasets.decathlon import case_files, write_case, write_index
from rep3d.files import read_json, remove_parts, write_json
from rep3d.locks import FolderLocks

SETTINGS = "anatomy.json"  # what all cases of a folder were drawn with
EDITION = 1  # raise it where the same seed draws other cases than before


def write_anatomy(folder: str | Path, *, cases: int, seed: int = 0, size: int = 96, workers: int = 1) -> Path:
    """Draw cases into a folder in the Decathlon's layout and return it; those that are there already are kept.

    A case depends on the seed, the size and its number only.

    Args:
        folder: receives imagesTr (int16), labelsTr (uint8, ids without names), dataset.json and anatomy.json.
        cases: number of volumes that dataset.json lists.
        seed: of all cases, at least 0.
        size: voxels along each axis; fewer along one where slices are thick.
        workers: processes that draw.

    Raises:
        ValueError: an argument is out of range, the folder's cases were drawn with another seed or size, or another
            process draws there.
        FileExistsError: the folder holds something else.
    """
    check_size(size)
    for name, value, least in (("cases", cases, 1), ("seed", seed, 0), ("workers", workers, 1)):
        if type(value) is not int or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    folder = Path(folder)
    settings = {"seed": seed, "size": size, "edition": EDITION}
    _check_folder(folder, settings)
    lock = FolderLocks([folder], "drawing")
    try:
        remove_parts(folder)
        write_json(folder / SETTINGS, settings)
        names = [_file_name(case) for case in range(cases)]
        missing = [case for case in range(cases) if not all(path.is_file() for path in case_files(folder, names[case]))]
        with Progress(len(missing), "Drawing", "case") as progress:
            for _ in _map(partial(_draw_case, folder, seed, size), missing, workers):
                progress.update()
        labels = {i: str(i) for i in range(1, MAX_LABELS + 1)}
        write_index(folder, names, name="Anatomy", modality="any", labels=labels)
    finally:
        lock.release()
    return folder


def _check_folder(folder: Path, settings: dict[str, int]) -> None:
    """Refuse a folder that holds anything but cases of these settings."""
    try:
        found = read_json(folder / SETTINGS)
    except ValueError:
        raise ValueError(
            f"{folder / SETTINGS} is no JSON, so that nobody knows the seed; choose another folder"
        ) from None
    if not found and folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise FileExistsError(f"{folder} holds files that are no procedural anatomy; choose another folder")
    if found and found != settings:
        raise ValueError(f"{folder} was drawn with {found}, expected {settings}; choose another folder")


def _file_name(case: int) -> str:
    return f"anatomy_{case:05d}.nii.gz"


def _draw_case(folder: Path, seed: int, size: int, case: int) -> None:
    scan = make_anatomy(size, seed=(seed, case))
    affine = np.diag([*scan.spacing, 1.0])
    write_case(folder, _file_name(case), (scan.image, scan.label), affine)


def _map(draw: partial[None], cases: Sequence[int], workers: int) -> Iterator[None]:
    if workers == 1 or len(cases) < 2:
        yield from map(draw, cases)
        return
    with ProcessPoolExecutor(min(workers, len(cases)), multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(draw, cases)
