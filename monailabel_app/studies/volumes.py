"""Images and labels that come from outside, checked before anything uses them, within the app's limits."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from monailabel_app.errors import RequestError
from monailabel_app.studies.refusals import refusals
from rep3d.io import volumes
from rep3d.io.bounded import time_limit
from rep3d.io.geometry import Geometry, agreement_problem, agrees_in_itk, geometry_note

MAX_EDGE = 4096  # voxels along one axis
MAX_BYTES = 2**32  # of the voxels of one image in memory
MAX_SECONDS = 60  # that reading an upload may take
MAX_WAITING = 8  # uploads that wait to be looked at; more are told to come again

_checking = threading.Lock()  # a small upload may unpack to gigabytes: one at a time
_admitted = threading.BoundedSemaphore(MAX_WAITING + 1)


def split_suffix(name: str) -> tuple[str, str]:
    """A file name without its suffix, and the suffix.

    Raises:
        RequestError: the suffix is none of `rep3d.io.volumes.SUFFIXES`.
    """
    with refusals():
        return volumes.split_suffix(name)


def read_grid(path: Path) -> Geometry:
    """Where the voxels of a NIfTI or NRRD file lie, from its header. An image may have several channels.

    Raises:
        RequestError: unreadable, or refused by `rep3d.io`; 413, too large. Says nothing of the path.
    """
    with refusals():
        grid = volumes.read_geometry(path, MAX_BYTES, several=True)
    if max(grid.shape) > MAX_EDGE:
        raise RequestError(413, f"the shape is {grid.shape}: at most {MAX_EDGE} an axis")
    return grid


def read_voxels(path: Path, *, single: bool = False) -> np.ndarray:
    """The voxels (D, H, W) of a file whose grid has been checked.

    Args:
        single: see `rep3d.io.volumes.read_volume`.

    Raises:
        RequestError: several channels, or they cannot be read as a whole, or some are NaN or infinite.
    """
    with refusals():
        voxels, _ = volumes.read_volume(path, MAX_BYTES, single=single)
    _check_finite(voxels)
    return voxels


def _check_finite(voxels: np.ndarray) -> None:
    if not all(np.isfinite(piece).all() for piece in voxels.T):  # piece by piece: as few bytes more as may be
        raise RequestError(400, "some voxels are NaN or infinite")


def image_note(path: Path) -> str:
    """Why a client should look twice at an image's place, or at the file at all; an empty text for most."""
    try:
        return geometry_note(read_grid(path))
    except RequestError as error:
        return error.message


@contextmanager
def admitted() -> Iterator[None]:
    """Let an upload in to be looked at, for as long as the context lasts. Others wait meanwhile: hold no lock then.

    Raises:
        RequestError: 503, too many are in already.
    """
    if not _admitted.acquire(blocking=False):
        raise RequestError(503, f"{MAX_WAITING} uploads are waiting already, try again later")
    try:
        with _checking:
            yield
    finally:
        _admitted.release()


def check_upload(path: Path) -> None:
    """As `check_image`; raises RequestError also where too many uploads wait: 503."""
    with admitted():
        check_image(path)


def check_image(path: Path) -> None:
    """Raise RequestError unless the file holds an image that a network can take."""
    with time_limit(MAX_SECONDS):
        read_grid(path)
        with refusals():
            channels, _ = volumes.read_channels(path, MAX_BYTES)
        for voxels in channels:
            _check_finite(voxels)


def read_label(path: Path, image: Geometry, values: Iterable[int], allow_empty: bool = False) -> np.ndarray:
    """The voxels of a label map on its image's grid, as nibabel or as ITK sees it.

    Args:
        values: the label ids that may occur beside 0.
        allow_empty: accept a map of zeros.

    Raises:
        RequestError: unreadable; not on its image; voxels that are no label ids; empty.
    """
    with time_limit(MAX_SECONDS):
        grid = read_grid(path)
        problem = agreement_problem(grid, image)
        if problem and not agrees_in_itk(grid, image):
            raise RequestError(400, f"the label's {problem}")
        voxels = read_voxels(path)
        _check_ids(voxels, values, allow_empty)
    return voxels


def _check_ids(voxels: np.ndarray, values: Iterable[int], allow_empty: bool) -> None:
    found = np.unique(voxels)
    allowed = {0, *values}
    wrong = np.setdiff1d(found, sorted(allowed))
    if wrong.size:  # counted, not quoted: they are what the file holds
        raise RequestError(400, f"{wrong.size} other label value(s) than the expected {sorted(allowed)}")
    if not allow_empty and not found.any():
        raise RequestError(400, "the label is empty; send allow_empty to store it all the same")
