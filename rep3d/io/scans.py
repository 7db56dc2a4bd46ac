"""A scan as people have it: a NIfTI or NRRD file, or a DICOM series by its folder or one of its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rep3d.io import volumes
from rep3d.io.dicom_files import is_dicom
from rep3d.io.geometry import Geometry


def is_series(path: Path) -> bool:
    """Whether a path stands for a DICOM series: a folder, or a file that begins as DICOM does."""
    if path.name.lower().endswith(volumes.SUFFIXES) and not path.is_dir():
        return False
    return path.is_dir() or path.is_file() and is_dicom(path)


def read_scan(path: Path) -> tuple[np.ndarray, Geometry]:
    """The voxels (D, H, W) of a scan and their geometry.

    Raises:
        VolumeError: see `rep3d.io.volumes.read_volume` and `rep3d.io.dicom.find_slices`.
    """
    if not is_series(path):
        return volumes.read_volume(path)
    from rep3d.io.dicom import read_series  # not before: it needs the extra "dicom"

    return read_series(path)


def read_channels(path: Path) -> tuple[np.ndarray, Geometry]:
    """The voxels (C, D, H, W) of a scan and their geometry; a NIfTI file alone may hold several channels.

    Raises:
        VolumeError: as `read_scan`.
    """
    if not is_series(path):
        return volumes.read_channels(path)
    voxels, geometry = read_scan(path)
    return voxels[None], geometry


def read_scan_geometry(path: Path) -> Geometry:
    """The geometry of a scan of one channel or several, from its header or those of its slices.

    Raises:
        VolumeError: as `read_scan`, as far as headers tell.
    """
    if not is_series(path):
        return volumes.read_geometry(path, several=True)
    from rep3d.io.dicom import read_series_geometry

    return read_series_geometry(path)
