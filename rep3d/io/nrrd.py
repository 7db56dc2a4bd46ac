"""NRRD files with their voxels inside: geometry, voxels and the fields of their headers."""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from rep3d.io.geometry import MAX_BYTES, Geometry, VolumeError, check_geometry, plain_geometry
from rep3d.io.itk import itk_affine, itk_voxels, to_itk, write_itk

MAX_HEADER = 2**20  # bytes that are searched for the end of the header
CHUNK = 2**20  # bytes that are read at a time


def read_geometry(path: Path, max_bytes: int = MAX_BYTES) -> Geometry:
    """The geometry of a NRRD file that holds one volume, from its header.

    Args:
        max_bytes: at most, of the voxels in memory.

    Raises:
        VolumeError: no NRRD file with its voxels inside, several components, or refused by `check_geometry`.
    """
    reader = _opened(path)
    if reader.GetNumberOfComponents() != 1 or reader.GetDimension() != 3:
        raise VolumeError(
            path,
            f"{reader.GetDimension()} dimensions and {reader.GetNumberOfComponents()} components; expected "
            "three and one (in 3D Slicer: segments must not overlap)",
        )
    dtype = sitk.GetArrayViewFromImage(sitk.Image([1, 1, 1], reader.GetPixelID())).dtype
    geometry = plain_geometry(reader.GetSize(), itk_affine(reader), dtype)
    check_geometry(path, geometry, max_bytes)
    return geometry


def read_volume(path: Path, max_bytes: int = MAX_BYTES) -> tuple[np.ndarray, Geometry]:
    """The voxels (D, H, W) of a NRRD file and their geometry.

    Raises:
        VolumeError: as of `read_geometry`; or the file is damaged, cut, or longer than its header says.
    """
    geometry = read_geometry(path, max_bytes)
    _check_whole(path, geometry.nbytes)
    try:
        return itk_voxels(_reader(path).Execute()), geometry
    except RuntimeError as error:
        raise _unreadable(path) from error


def read_fields(path: Path) -> dict[str, str]:
    """The fields of a header by name.

    Raises:
        VolumeError: no NRRD file with its voxels inside.
    """
    reader = _opened(path)
    return {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}


def write_volume(
    path: Path, voxels: np.ndarray, affine: np.ndarray, *, fields: Mapping[str, str] | None = None, compress: bool
) -> None:
    """Write voxels (D, H, W) with an affine (4, 4) to RAS millimetres.

    Args:
        fields: of the header, beside those of the grid.

    Raises:
        OSError: it cannot be written.
    """
    image = to_itk(voxels, affine)
    for name, value in (fields or {}).items():
        image.SetMetaData(name, value)
    write_itk(image, path, compress=compress)


def _opened(path: Path) -> sitk.ImageFileReader:
    """A reader that has read the header."""
    reader = _reader(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path) from error
    return reader


def _reader(path: Path) -> sitk.ImageFileReader:
    """A reader of that very file: a header may name another one to read the voxels from."""
    if not path.is_file():
        raise VolumeError(path, "no such file")
    with path.open("rb") as file:
        header = file.read(MAX_HEADER).partition(b"\n\n")[0].partition(b"\r\n\r\n")[0]
    if re.search(rb"^data ?file:", header, re.IGNORECASE | re.MULTILINE) or not header.startswith(b"NRRD"):
        raise VolumeError(path, "the file is no NRRD file with its voxels inside")
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO")
    reader.SetFileName(str(path))
    return reader


def _unreadable(path: Path) -> VolumeError:
    return VolumeError(path, f"the file cannot be read ({path.stat().st_size} bytes)")


def _check_whole(path: Path, size: int) -> None:
    """Raise unless a NRRD file holds just so many bytes of voxels: NrrdIO does not look at gzip's checksum."""
    with path.open("rb") as file:
        header = file.read(MAX_HEADER)
        end = re.search(rb"\r?\n\r?\n", header)
        encoding = re.search(rb"^encoding: *(\w+)", header[: end.end() if end else 0], re.IGNORECASE | re.MULTILINE)
        if end is None or encoding is None:
            raise VolumeError(path, "the file is no NRRD file: its header has no end, or tells no encoding")
        file.seek(end.end())
        count = _count_voxels(file, encoding.group(1).lower(), size)
    if count != size:
        raise VolumeError(path, f"the file is cut or goes on: its voxels are not the {size} bytes of its header")


def _count_voxels(file: io.BufferedReader, encoding: bytes, size: int) -> int:
    """The bytes of voxels from the file's present place on, up to one more than `size`."""
    if encoding in (b"gz", b"gzip"):
        with gzip.GzipFile(fileobj=file) as unpacked:
            return _count(unpacked, size)
    return _count(file, size) if encoding == b"raw" else size  # NrrdIO checks what is written as text


def _count(file: io.BufferedIOBase, size: int) -> int:
    """The bytes of a file, up to one more than `size`."""
    count = 0
    while count <= size and (piece := file.read(min(CHUNK, size + 1 - count))):
        count += len(piece)
    return count
