"""A DICOM series as one volume: slices put in order by their position, and refused where they do not make a grid."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.misc import is_dicom

from rep3d.io.geometry import VolumeError, swap_lps
from rep3d.io.itk import write_itk

SPACING_TOLERANCE = 0.01  # of the distance between slices
TILT_TOLERANCE = 0.1  # millimetres that a slice may lie beside the first
TAGS = ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "SamplesPerPixel"]

Header = dict[str, Any]  # values by tag


def is_series(folder: Path) -> bool:
    """Whether the first file of a folder is DICOM."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name[0] != "." and entry.is_file()]
    return bool(names) and is_dicom(folder / min(names))


def sorted_slices(folder: Path) -> list[Path]:
    """The files of a series from its first slice to its last.

    Slice thickness and identifiers are not looked at: what counts is where the slices lie.

    Raises:
        VolumeError: slices of different size or orientation, at the same place, or at uneven distances.
    """
    headers = {path: _header(path) for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] != "."}
    if len(headers) < 2:
        raise VolumeError(folder, f"the DICOM series has {len(headers)} slice(s), expected at least two")
    _check_alike(folder, headers)
    return _in_order(folder, headers)


def _check_alike(folder: Path, headers: Mapping[Path, Header]) -> None:
    """Raise unless the slices are grey ones of one size, spacing and orientation."""
    first = next(iter(headers.values()))
    for path, header in headers.items():
        if header.get("SamplesPerPixel", 1) != 1:
            raise VolumeError(folder, f"{path.name}: colour images are not supported")
        for tag in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient"):
            if not np.allclose(header[tag], first[tag], atol=1e-3):
                raise VolumeError(folder, f"{path.name}: {tag} is {header[tag]}, of the first slice {first[tag]}")


def _in_order(folder: Path, headers: Mapping[Path, Header]) -> list[Path]:
    """The slices along their normal; raises unless they lie straight above one another, at even distances."""
    across, down = _directions(next(iter(headers.values())))
    normal = np.cross(across, down)
    positions = {path: np.asarray(header["ImagePositionPatient"], dtype=float) for path, header in headers.items()}
    places = {path: float(normal @ position) for path, position in positions.items()}
    order = sorted(places, key=lambda path: places[path])
    for path in order:
        offset = positions[path] - positions[order[0]]
        if max(abs(across @ offset), abs(down @ offset)) > TILT_TOLERANCE:
            raise VolumeError(folder, f"{path.name}: not straight above the first slice (tilted gantry?)")
    gaps = np.diff([places[path] for path in order])
    usual = float(np.median(gaps))
    for path, gap in zip(order[1:], gaps, strict=True):
        if gap < SPACING_TOLERANCE:
            raise VolumeError(folder, f"{path.name}: there is another slice at its place")
        if abs(gap - usual) > SPACING_TOLERANCE * usual:
            raise VolumeError(
                folder, f"{path.name}: {gap:.3f} mm after the slice before, the others {usual:.3f} mm: is one missing?"
            )
    return order


def _directions(header: Header) -> np.ndarray:
    """Of the columns and of the rows of a slice, (2, 3)."""
    return np.reshape(np.asarray(header["ImageOrientationPatient"], dtype=float), (2, 3))


def read_grid_of_slices(slices: Sequence[Path]) -> np.ndarray:
    """The affine (4, 4), RAS millimetres, of slices in the order of `sorted_slices`, as `convert_series` writes it."""
    first, last = _header(slices[0]), _header(slices[-1])
    across, down = _directions(first)
    origin, end = (np.asarray(header["ImagePositionPatient"], dtype=float) for header in (first, last))
    row_spacing, column_spacing = (float(value) for value in first["PixelSpacing"])
    affine = np.eye(4)
    columns = (across * column_spacing, down * row_spacing, (end - origin) / (len(slices) - 1), origin)
    affine[:3] = np.stack(columns, axis=1)
    return swap_lps(affine)


def convert_series(folder: Path, target: Path) -> None:
    """Write a series as NIfTI, in its own voxel order.

    Raises:
        VolumeError: as `sorted_slices`, or slices that cannot be decoded.
    """
    files = sorted_slices(folder)
    try:
        image = sitk.ReadImage([str(path) for path in files])
    except RuntimeError as error:
        raise VolumeError(folder, "the DICOM series cannot be decoded") from error
    write_itk(image, target)


def _header(path: Path) -> Header:
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS)
    except (pydicom.errors.InvalidDicomError, OSError, EOFError) as error:
        raise VolumeError(path.parent, f"{path.name}: no DICOM file") from error
    header = {tag: getattr(dataset, tag, None) for tag in TAGS}
    missing = [tag for tag, value in header.items() if value in (None, "") and tag != "SamplesPerPixel"]
    if missing:
        raise VolumeError(path.parent, f"{path.name}: {', '.join(missing)} is missing")
    return {tag: value for tag, value in header.items() if value is not None}
