"""A DICOM series as one volume: slices put in order by their position, and refused where they do not make a grid.

Values are those of each slice's own rescale slope and intercept.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.uid import UID

from rep3d.io.dicom_files import is_dicom
from rep3d.io.geometry import TOLERANCE, Geometry, VolumeError, plain_geometry, swap_lps
from rep3d.io.itk import to_itk, write_itk

SAME_PLACE = 0.01  # millimetres between slices that lie at one place
TILT_TOLERANCE = 0.1  # millimetres that a slice may lie beside the first
ROUNDED = 0.01  # of the products of a slice's directions: what rounding may change
GRID = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2, "Rows": 1, "Columns": 1}
OTHERS = [
    "SOPClassUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "ImageType",
    "NumberOfFrames",
    "SamplesPerPixel",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
]
SUFFIXES = (".dcm", ".dicom", ".ima")  # a file of such a name is meant to be DICOM
DESCRIBED = 3  # files that are set aside, in a message

Header = dict[str, Any]  # values by tag


@dataclass(frozen=True)
class SeriesFiles:
    """The files of a folder that holds one series.

    Args:
        slices: from the first to the last.
        set_aside: why others are none of them, by name.
    """

    slices: list[Path]
    set_aside: dict[str, str]


def is_series(folder: Path) -> bool:
    """Whether a folder itself holds a DICOM file, with or without a preamble.

    Raises:
        OSError: the folder or a file cannot be read.
    """
    return any(map(is_dicom, _files(folder)))


def sorted_slices(source: Path) -> list[Path]:
    """The files of a series from its first slice to its last; see `find_slices`."""
    return find_slices(source).slices


def find_slices(source: Path) -> SeriesFiles:
    """The slices of the one series of a folder, without its subfolders; or of the series that a file belongs to.

    Set aside are files that are no DICOM, and of other series what makes no slice (segmentations, reports) and
    localizers. Slice thickness and names are not looked at: what counts is where the slices lie.

    Args:
        source: the folder; or a file of it, which says which of several series there.

    Raises:
        VolumeError: no series, or two; a slice without a place or with several frames; slices of different size or
            orientation, at the same place, or at uneven distances.
    """
    folder = source if source.is_dir() else source.parent
    headers, set_aside = read_headers(folder)
    if source != folder:
        headers, set_aside = _of_one_series(source, headers), {}
    problems = {path: problem for path, header in headers.items() if (problem := slice_problem(header))}
    slices = {path: header for path, header in headers.items() if path not in problems}
    if not slices:
        told = [f"{path.name}: {problem}" for path, problem in problems.items()] or ["it holds no DICOM file"]
        raise VolumeError(folder, told[0])
    aside = localizers(slices)
    slices = {path: header for path, header in slices.items() if path not in aside}
    uid = _only_series(folder, slices)
    for path, problem in problems.items():
        if headers[path]["SeriesInstanceUID"] in (uid, ""):
            raise VolumeError(folder, f"{path.name}: {problem}")
    set_aside |= {path.name: f"of another series: {problem}" for path, problem in problems.items()}
    set_aside |= {path.name: "a localizer" for path in aside}
    try:
        if len(slices) < 2:
            raise VolumeError(folder, f"the DICOM series has {len(slices)} slice(s), expected at least two")
        _check_alike(folder, slices)
        return SeriesFiles(_in_order(folder, slices), set_aside)
    except VolumeError as error:
        beside = f" ({describe(set_aside)})" if set_aside else ""
        raise VolumeError(folder, error.reason + beside) from error


def describe(set_aside: Mapping[str, str]) -> str:
    """How many files are set aside, and why the first of them."""
    told = "; ".join(f"{name}: {reason}" for name, reason in list(set_aside.items())[:DESCRIBED])
    return f"{len(set_aside)} file(s) are set aside: {told}{'; ...' if len(set_aside) > DESCRIBED else ''}"


def _files(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.name[0] != "." and entry.is_file())


def _of_one_series(path: Path, headers: Mapping[Path, Header]) -> dict[Path, Header]:
    """The headers of the series that a file belongs to."""
    if path not in headers:
        raise VolumeError(path, "no DICOM file")
    uid = headers[path]["SeriesInstanceUID"]
    return {other: header for other, header in headers.items() if header["SeriesInstanceUID"] == uid}


def read_headers(folder: Path) -> tuple[dict[Path, Header], dict[str, str]]:
    """What the DICOM files of a folder tell of themselves, without its subfolders, and why others are none, by name.

    Raises:
        VolumeError: a header cannot be read, or a file is called as DICOM and is none.
    """
    headers, others = {}, {}
    for path in _files(folder):
        if header := _header(path):
            headers[path] = header
        elif path.suffix.lower() in SUFFIXES:
            raise VolumeError(folder, f"{path.name}: no DICOM file")
        else:
            others[path.name] = "no DICOM file"
    return headers, others


def _header(path: Path) -> Header | None:
    """What a file tells of itself, an empty text for what it does not tell; None: it is no DICOM file."""
    try:
        if not is_dicom(path):
            return None
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*GRID, *OTHERS], force=True)
        header = {tag: dataset.get(tag) for tag in [*GRID, *OTHERS]}
    except Exception as error:  # whatever pydicom trips over
        raise VolumeError(path.parent, f"{path.name}: the DICOM header cannot be read") from error
    if all(value is None for value in header.values()):
        return None  # two bytes are soon like those of DICOM
    return {tag: "" if value is None else value for tag, value in header.items()}


def slice_problem(header: Header) -> str:
    """Why a DICOM object is no slice of a volume, or an empty text."""
    if int(header["NumberOfFrames"] or 1) > 1:
        kind = UID(header["SOPClassUID"]).name or "the object"
        return f"{kind} with {header['NumberOfFrames']} frames: multi-frame objects are not read, only single slices"
    if int(header["SamplesPerPixel"] or 1) != 1:
        return "colour images are not supported"
    missing = [tag for tag in GRID if header[tag] == ""]
    if missing:
        return f"{', '.join(missing)} is missing"
    for tag, length in GRID.items():
        if np.size(header[tag]) != length or not np.isfinite(np.asarray(header[tag], dtype=float)).all():
            return f"{tag} is {header[tag]}, expected {length} numbers"
    directions = _directions(header["ImageOrientationPatient"])
    if not np.allclose(directions @ directions.T, np.eye(2), rtol=0, atol=ROUNDED):
        told = header["ImageOrientationPatient"]
        return f"ImageOrientationPatient is {told}, expected two directions of length 1 at right angles"
    if header["ModalityLUTSequence"]:
        return "its values are to be looked up in a table (ModalityLUTSequence), expected RescaleSlope"
    slope, intercept = header["RescaleSlope"], header["RescaleIntercept"]
    if (slope == "") != (intercept == ""):  # readers differ there
        return f"it has only one of RescaleSlope ({slope}) and RescaleIntercept ({intercept})"
    if slope == 0:
        return "RescaleSlope is 0"
    return ""


def localizers(slices: Mapping[Path, Header]) -> list[Path]:
    """The slices that show where the scan lies: of another series and orientation, and fewer than half as many."""
    counts = Counter(header["SeriesInstanceUID"] for header in slices.values())
    uid, most = counts.most_common(1)[0]
    scan = next(header for header in slices.values() if header["SeriesInstanceUID"] == uid)
    return [
        path
        for path, header in slices.items()
        if 2 * counts[header["SeriesInstanceUID"]] < most
        and ("LOCALIZER" in header["ImageType"] or not _alike(header, scan, "ImageOrientationPatient"))
    ]


def _only_series(folder: Path, slices: Mapping[Path, Header]) -> str:
    """The SeriesInstanceUID of all these slices."""
    counts = Counter(header["SeriesInstanceUID"] for header in slices.values())
    if len(counts) > 1:
        told = " and ".join(f"{uid or 'without a SeriesInstanceUID'} ({count})" for uid, count in counts.items())
        raise VolumeError(folder, f"it holds slices of {len(counts)} DICOM series, {told}: give each its own folder")
    return next(iter(counts))


def _alike(header: Header, other: Header, tag: str) -> bool:
    return np.allclose(np.asarray(header[tag], dtype=float), np.asarray(other[tag], dtype=float), atol=1e-3)


def _check_alike(folder: Path, slices: Mapping[Path, Header]) -> None:
    """Raise unless the slices are of one size, spacing and orientation."""
    first = next(iter(slices.values()))
    for path, header in slices.items():
        for tag in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient"):
            if not _alike(header, first, tag):
                raise VolumeError(folder, f"{path.name}: {tag} is {header[tag]}, of the first slice {first[tag]}")


def _in_order(folder: Path, slices: Mapping[Path, Header]) -> list[Path]:
    """The slices along their normal; raises unless they lie straight above one another, at even distances."""
    across, down = _directions(next(iter(slices.values()))["ImageOrientationPatient"])
    normal = np.cross(across, down)
    positions = {path: np.asarray(header["ImagePositionPatient"], dtype=float) for path, header in slices.items()}
    order = sorted(positions, key=lambda path: float(normal @ positions[path]))
    for path in order:
        offset = positions[path] - positions[order[0]]
        if max(abs(across @ offset), abs(down @ offset)) > TILT_TOLERANCE:
            raise VolumeError(folder, f"{path.name}: not straight above the first slice (tilted gantry?)")
    places = np.array([normal @ positions[path] for path in order])
    gaps = np.diff(places)
    if gaps.min() < SAME_PLACE:
        raise VolumeError(folder, f"{order[gaps.argmin() + 1].name}: there is another slice at its place")
    usual = float(np.median(gaps))
    even = np.linspace(places[0], places[-1], len(places))
    if abs(places - even).max() > TOLERANCE * usual:  # positions may be rounded
        worst = abs(gaps - usual).argmax()
        raise VolumeError(
            folder,
            f"{order[worst + 1].name}: {gaps[worst]:.3f} mm after the slice before, the others {usual:.3f} mm: "
            "is one missing?",
        )
    return order


def _directions(orientation: Sequence[float]) -> np.ndarray:
    """Of the columns and of the rows of a slice, (2, 3)."""
    return np.reshape(np.asarray(orientation, dtype=float), (2, 3))


def read_grid_of_slices(slices: Sequence[Path]) -> np.ndarray:
    """The affine (4, 4), RAS millimetres, of slices in the order of `sorted_slices`, as `convert_series` writes it."""
    first, last = (pydicom.dcmread(path, specific_tags=list(GRID), force=True) for path in (slices[0], slices[-1]))
    across, down = _directions(first.ImageOrientationPatient)
    origin, end = (np.asarray(header.ImagePositionPatient, dtype=float) for header in (first, last))
    row_spacing, column_spacing = (float(value) for value in first.PixelSpacing)
    affine = np.eye(4)
    columns = (across * column_spacing, down * row_spacing, (end - origin) / (len(slices) - 1), origin)
    affine[:3] = np.stack(columns, axis=1)
    return swap_lps(affine)


def read_series(source: Path) -> tuple[np.ndarray, Geometry]:
    """The voxels (D, H, W) of a series in its own voxel order, and their geometry.

    Raises:
        VolumeError: as `find_slices`, or slices that cannot be decoded.
    """
    slices = find_slices(source).slices
    voxels = _read_voxels(slices)
    return voxels, plain_geometry(voxels.shape, read_grid_of_slices(slices), voxels.dtype)


def read_series_geometry(source: Path) -> Geometry:
    """The geometry of `read_series`, without the type of its voxels.

    Raises:
        VolumeError: as `find_slices`.
    """
    slices = find_slices(source).slices
    first = pydicom.dcmread(slices[0], specific_tags=["Rows", "Columns"], force=True)
    return plain_geometry((first.Columns, first.Rows, len(slices)), read_grid_of_slices(slices))


def convert_series(folder: Path, target: Path) -> dict[str, str]:
    """Write a series as NIfTI, in its own voxel order; returns `SeriesFiles.set_aside`.

    Raises:
        VolumeError: as `find_slices`, or slices that cannot be decoded.
        OSError: it cannot be written.
    """
    files = find_slices(folder)
    write_itk(to_itk(_read_voxels(files.slices), read_grid_of_slices(files.slices)), target)
    return files.set_aside


def _read_voxels(slices: Sequence[Path]) -> np.ndarray:
    """The values (D, H, W) of slices, each by its own rescale slope and intercept; float32 unless all are whole.

    `sitk.ReadImage` of a list would take the first slice's type for all.
    """
    planes = [_read_plane(path) for path in slices]
    dtype = np.result_type(*planes)
    return np.stack(planes, axis=2, dtype=dtype if dtype.kind in "iu" and dtype.itemsize <= 4 else np.float32)


def _read_plane(path: Path) -> np.ndarray:
    """The values (D, H) of one slice."""
    try:
        plane = sitk.GetArrayFromImage(_decode(path))
    except VolumeError:
        raise
    except Exception as error:  # whatever pydicom trips over, and a RuntimeError of SimpleITK
        raise VolumeError(path.parent, f"{path.name}: the DICOM series cannot be decoded") from error
    return plane.reshape(plane.shape[-2:]).transpose()


def _decode(path: Path) -> sitk.Image:
    """One slice as GDCM decodes it, which makes missing pixels up, and inverts MONOCHROME1: not so here."""
    dataset = pydicom.dcmread(path, force=True)
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    size = dataset.Rows * dataset.Columns * dataset.BitsAllocated // 8
    if not (syntax and syntax.is_compressed) and len(dataset.PixelData) < size:
        raise VolumeError(path.parent, f"{path.name}: {len(dataset.PixelData)} bytes of pixels, expected {size}")
    if dataset.BitsAllocated > 16 and dataset.BitsStored != dataset.BitsAllocated:  # GDCM gives other values
        bits = f"{dataset.BitsStored} bits stored in {dataset.BitsAllocated}"
        raise VolumeError(path.parent, f"{path.name}: {bits} are not read")
    if dataset.get("HighBit", dataset.BitsStored - 1) != dataset.BitsStored - 1:  # GDCM does not shift
        told = f"HighBit is {dataset.HighBit} of {dataset.BitsStored} bits stored"
        raise VolumeError(path.parent, f"{path.name}: {told}, expected {dataset.BitsStored - 1}")
    if dataset.get("PhotometricInterpretation") != "MONOCHROME1":
        return sitk.ReadImage(str(path), imageIO="GDCMImageIO")
    dataset.PhotometricInterpretation = "MONOCHROME2"  # how it is to be shown; the values are the same
    with tempfile.TemporaryDirectory() as folder:
        dataset.save_as(Path(folder) / "slice.dcm")
        return sitk.ReadImage(str(Path(folder) / "slice.dcm"), imageIO="GDCMImageIO")
