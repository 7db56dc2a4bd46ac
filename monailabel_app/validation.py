"""What comes from outside is data, checked here before anything uses it: names, images and labels."""

from __future__ import annotations

import gzip
import io
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from monailabel_app.errors import RequestError
from rep3d.io.geometry import (
    Geometry,
    TooLargeError,
    VolumeError,
    agreement_problem,
    agrees_in_itk,
    check_geometry,
    geometry_note,
    plain_geometry,
)
from rep3d.io.nifti import read_geometry, read_volume

SUFFIXES = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd")  # of images and labels; the longer of two that fit comes first
MAX_HEADER = 2**20  # bytes of a NRRD file that are searched for the end of its header
CHUNK = 2**20  # bytes that are read at a time
MAX_EDGE = 4096  # voxels along one axis
MAX_BYTES = 2**32  # of the voxels of one image in memory

_NAME = re.compile(r"[^\W_][\w .()+=,-]{0,199}")  # one file name: no separators, no leading dot, no control characters
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{i}" for port in ("COM", "LPT") for i in range(10))}  # of Windows
_checking = threading.Lock()  # a small upload may unpack to gigabytes: one at a time


def check_name(value: str, what: str) -> str:
    """A name that stays inside the folder it is joined to.

    Raises:
        RequestError: separators, a leading dot, control characters, an empty or an overlong name.
    """
    if not _NAME.fullmatch(value) or ".." in value or value[-1] in ". " or value.split(".")[0].upper() in _RESERVED:
        raise RequestError(400, f"{what} is {value[:100]!r}, expected a plain name of letters, digits, blanks and .-_")
    return value


def split_suffix(name: str) -> tuple[str, str]:
    """A file name without its suffix, and the suffix.

    Raises:
        RequestError: the suffix is none of `SUFFIXES`.
    """
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), None)
    if suffix is None:
        raise RequestError(400, f"file name {name[-100:]!r} has no known suffix, expected one of {', '.join(SUFFIXES)}")
    return name[: -len(suffix)], suffix


def read_grid(path: Path) -> Geometry:
    """Where the voxels of a NIfTI or NRRD file lie, from its header.

    Raises:
        RequestError: unreadable, or refused by `rep3d.io`; 413, too large. Says nothing of the path.
    """
    _, suffix = split_suffix(path.name)
    with _refusals(path):
        grid = read_geometry(path, MAX_BYTES) if suffix.startswith(".nii") else _nrrd_geometry(path)
    if max(grid.shape) > MAX_EDGE:
        raise RequestError(413, f"the shape is {grid.shape}: at most {MAX_EDGE} an axis")
    return grid


def read_voxels(path: Path) -> np.ndarray:
    """The voxels (D, H, W) of a file whose grid has been checked.

    Raises:
        RequestError: they cannot be read as a whole, or some are NaN or infinite.
    """
    with _refusals(path):
        if split_suffix(path.name)[1].startswith(".nii"):
            voxels, _ = read_volume(path, MAX_BYTES)
        else:
            reader = nrrd_reader(path)
            _check_whole_nrrd(path, read_grid(path).nbytes)
            voxels = sitk.GetArrayFromImage(reader.Execute()).transpose()
    if not all(np.isfinite(piece).all() for piece in voxels.T):  # piece by piece: as few bytes more as may be
        raise RequestError(400, "some voxels are NaN or infinite")
    return voxels


def image_note(path: Path) -> str:
    """Why a client should look twice at an image's place, or at the file at all; an empty text for most."""
    try:
        return geometry_note(read_grid(path))
    except RequestError as error:
        return error.message


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Say what is wrong with a file, without its path."""
    try:
        yield
    except RequestError:
        raise
    except VolumeError as error:
        raise RequestError(413 if isinstance(error, TooLargeError) else 400, error.reason) from error
    except Exception as error:
        raise RequestError(400, f"the file cannot be read ({path.stat().st_size} bytes)") from error


def check_image(path: Path) -> None:
    """Raise RequestError unless the file holds an image that a network can take. One file is looked at at a time."""
    with _checking:
        read_grid(path)
        read_voxels(path)


def read_label(path: Path, image: Geometry, values: Iterable[int], allow_empty: bool = False) -> np.ndarray:
    """The voxels of a label map on its image's grid, as nibabel or as ITK sees it.

    Args:
        values: the label ids that may occur beside 0.
        allow_empty: accept a map of zeros.

    Raises:
        RequestError: unreadable; not on its image; voxels that are no label ids; empty.
    """
    with _checking:
        return _checked_label(path, image, values, allow_empty)


def _checked_label(path: Path, image: Geometry, values: Iterable[int], allow_empty: bool) -> np.ndarray:
    grid = read_grid(path)
    problem = agreement_problem(grid, image)
    if problem and not agrees_in_itk(grid, image):
        raise RequestError(400, f"the label's {problem}")
    voxels = read_voxels(path)
    found = np.unique(voxels)
    allowed = {0, *values}
    wrong = np.setdiff1d(found, sorted(allowed))[:5].astype(float).tolist()
    if wrong:
        raise RequestError(400, f"label value(s) {wrong}, expected some of {sorted(allowed)}")
    if not allow_empty and not found.any():
        raise RequestError(400, "the label is empty; send allow_empty to store it all the same")
    return voxels


def nrrd_reader(path: Path) -> sitk.ImageFileReader:
    """A reader of that very file.

    Raises:
        RequestError: the header names another file to read the voxels from.
    """
    with path.open("rb") as file:
        header = file.read(MAX_HEADER).partition(b"\n\n")[0].partition(b"\r\n\r\n")[0]
    if re.search(rb"^data ?file:", header, re.IGNORECASE | re.MULTILINE) or not header.startswith(b"NRRD"):
        raise RequestError(400, "the file is no NRRD file with its voxels inside")
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO")
    reader.SetFileName(str(path))
    return reader


def _check_whole_nrrd(path: Path, size: int) -> None:
    """Raise unless a NRRD file holds just so many bytes of voxels: NrrdIO does not look at gzip's checksum."""
    with path.open("rb") as file:
        header = file.read(MAX_HEADER)
        end = re.search(rb"\r?\n\r?\n", header)
        encoding = re.search(rb"^encoding: *(\w+)", header[: end.end() if end else 0], re.IGNORECASE | re.MULTILINE)
        if end is None or encoding is None:
            raise RequestError(400, "the file is no NRRD file: its header has no end, or tells no encoding")
        file.seek(end.end())
        kind = encoding.group(1).lower()
        if kind in (b"gz", b"gzip"):
            with gzip.GzipFile(fileobj=file) as unpacked:
                count = _count(unpacked, size)
        else:
            count = _count(file, size) if kind == b"raw" else size  # NrrdIO checks what is written as text
    if count != size:
        raise RequestError(400, f"the file is cut or goes on: its voxels are not the {size} bytes of its header")


def _count(file: io.BufferedIOBase, size: int) -> int:
    """The bytes of a file, up to one more than `size`."""
    count = 0
    while count <= size and (piece := file.read(min(CHUNK, size + 1 - count))):
        count += len(piece)
    return count


def _nrrd_geometry(path: Path) -> Geometry:
    reader = nrrd_reader(path)
    reader.ReadImageInformation()
    if reader.GetNumberOfComponents() != 1 or reader.GetDimension() != 3:
        raise RequestError(
            400,
            f"{reader.GetDimension()} dimensions and {reader.GetNumberOfComponents()} components; expected "
            "three and one (in 3D Slicer: segments must not overlap)",
        )
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(reader.GetDirection(), (3, 3)) * reader.GetSpacing()
    affine[:3, 3] = reader.GetOrigin()
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # NRRD through SimpleITK is in LPS
    dtype = sitk.GetArrayViewFromImage(sitk.Image([1, 1, 1], reader.GetPixelID())).dtype
    geometry = plain_geometry(reader.GetSize(), affine, dtype)
    check_geometry(path, geometry, MAX_BYTES)
    return geometry
