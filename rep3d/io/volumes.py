"""Volumes and label maps in files of any format, by the suffix of their name. NRRD needs the extra `dicom`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np

from rep3d.files import whole_file
from rep3d.io import nifti
from rep3d.io.colors import Color, distinct_colors
from rep3d.io.geometry import MAX_BYTES, Geometry, VolumeError

NIFTI = (".nii.gz", ".nii")
SUFFIXES = (*NIFTI, ".seg.nrrd", ".nrrd")  # the longer of two that fit comes first

MARK = "rep3d_mark"  # the field of a NRRD header that holds `rep3d.io.nifti.mark`


def split_suffix(name: str) -> tuple[str, str]:
    """A file name without its suffix, and the suffix.

    Raises:
        VolumeError: the suffix is none of `SUFFIXES`.
    """
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), None)
    if suffix is None:
        raise VolumeError(name, f"file name {name[-100:]!r} has no known suffix, expected one of {', '.join(SUFFIXES)}")
    return name[: -len(suffix)], suffix


def read_geometry(path: Path, max_bytes: int = MAX_BYTES, *, several: bool = False) -> Geometry:
    """The geometry of a file, from its header.

    Args:
        max_bytes: at most, of the voxels in memory.
        several: whether a NIfTI file may hold several volumes, the channels of an image.

    Raises:
        VolumeError: see `rep3d.io.nifti.read_geometry` and `rep3d.io.nrrd.read_geometry`.
    """
    form = _format(path)
    with _refusals(path):
        if several and form is nifti:
            return nifti.read_geometry(path, max_bytes, several=True)
        return form.read_geometry(path, max_bytes)


def read_volume(path: Path, max_bytes: int = MAX_BYTES, *, single: bool = False) -> tuple[np.ndarray, Geometry]:
    """The voxels (D, H, W) of a whole file and their geometry.

    Args:
        single: round what the header of a NIfTI file scales to float32.

    Raises:
        VolumeError: see `rep3d.io.nifti.read_volume` and `rep3d.io.nrrd.read_volume`.
    """
    form = _format(path)
    with _refusals(path):
        if single and form is nifti:
            return nifti.read_volume(path, max_bytes, single=True)
        return form.read_volume(path, max_bytes)


def read_channels(path: Path, max_bytes: int = MAX_BYTES) -> tuple[np.ndarray, Geometry]:
    """The voxels (C, D, H, W) of a whole file and their geometry; NIfTI alone may hold several volumes.

    Raises:
        VolumeError: as of `read_volume`.
    """
    if _format(path) is nifti:
        with _refusals(path):
            return nifti.read_channels(path, max_bytes)
    voxels, geometry = read_volume(path, max_bytes)
    return voxels[None], geometry


def write_label_map(
    voxels: np.ndarray,
    grid: Geometry,
    path: Path,
    *,
    labels: Mapping[str, int],
    dtype: str = "uint8",
    compress: bool = True,
) -> None:
    """Write a label map as a whole or not at all.

    Args:
        voxels: (D, H, W) label ids.
        grid: of its scan. NIfTI gets the place that the scan's own header tells, NRRD the place where ITK sees it.
        labels: ids by name, for `.seg.nrrd`.
        dtype: of the voxels in the file, a whole-number type.

    Raises:
        ValueError: an id does not fit the dtype.
        VolumeError: the suffix is none of `SUFFIXES`.
        WriteError: it cannot be written.
    """
    if voxels.size and voxels.max() > np.iinfo(dtype).max:
        raise ValueError(f"dtype is {dtype}, but the label map holds {int(voxels.max())}")
    _, suffix = split_suffix(path.name)
    voxels = voxels.astype(dtype)
    with whole_file(path) as temporary:
        if suffix in NIFTI:
            nib.save(nifti.label_image(voxels, grid), temporary)
        else:
            segments = (labels, distinct_colors(labels)) if suffix == ".seg.nrrd" else None
            _write_nrrd(temporary, voxels, grid, segments, compress)


def write_marked(voxels: np.ndarray, grid: Geometry, path: Path, labels: Mapping[str, int]) -> None:
    """`write_label_map` of uint8, which replaces no file but a label map of ours that nobody has changed since.

    Raises:
        ValueError: there is another file, such as a mask that follows prompts; or as `write_label_map`.
    """
    if split_suffix(path.name)[1] in NIFTI:
        nifti.write_marked(voxels, grid, path)
        return
    if path.exists() and not is_untouched(path):
        raise ValueError(f"{path}: {nifti.CHANGED}")
    with whole_file(path) as temporary:
        _write_nrrd(temporary, voxels, grid, (labels, distinct_colors(labels)), True, nifti.mark(voxels).decode())


def untouched_mark(path: Path) -> str:
    """The `rep3d.io.nifti.mark` of a file that is a label map as `write_marked` wrote it; empty of any other."""
    try:
        if split_suffix(path.name)[1] in NIFTI:
            return nifti.untouched_mark(path).decode()
        from rep3d.io import nrrd

        told = nrrd.read_header(path).fields.get(MARK, "")
        return told if told == nifti.mark(read_volume(path)[0]).decode() else ""
    except VolumeError:
        return ""


def is_untouched(path: Path) -> bool:
    """Whether a file is a label map as `write_marked` wrote it, and no mask that follows prompts."""
    return untouched_mark(path).startswith(nifti.MARK.decode())


def _write_nrrd(
    path: Path,
    voxels: np.ndarray,
    grid: Geometry,
    segments: tuple[Mapping[str, int], Mapping[str, Color]] | None,
    compress: bool,
    mark: str | None = None,
) -> None:
    from rep3d.io import nrrd  # not before: it needs SimpleITK
    from rep3d.io.segments import segment_fields

    affine = grid.affine if grid.itk_affine is None else grid.itk_affine
    fields = segment_fields(*segments, voxels.shape) if segments else {}
    fields |= {} if mark is None else {MARK: mark}
    nrrd.write_volume(path, voxels, affine, fields=fields, compress=compress)


def _format(path: Path) -> ModuleType:
    """The module that reads a file."""
    _, suffix = split_suffix(path.name)
    if suffix in NIFTI:
        return nifti
    from rep3d.io import nrrd, segments  # not before: they need SimpleITK

    return segments if suffix == ".seg.nrrd" else nrrd


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Whatever a library trips over is a file that cannot be read."""
    try:
        yield
    except VolumeError:
        raise
    except Exception as error:
        raise VolumeError(path, f"the file cannot be read ({path.stat().st_size} bytes)") from error
