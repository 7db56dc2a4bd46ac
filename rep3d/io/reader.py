"""`LoadImaged` through the gate, with `"reader": "rep3d.io.reader.NiftiReader"` in a config."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple

from rep3d.io.geometry import Geometry, VolumeError, agreement_problem, geometry_note
from rep3d.io.scans import read_channels, read_scan


class NiftiReader(ImageReader):
    """Reads a scan as a whole, with an affine in millimetres whatever the file's unit.

    That is a NIfTI file, after which it is named in the configs, a NRRD file, or a DICOM series. The channels of an
    image are the volumes of one NIfTI file, or lie in files of one volume each.

    The metadata holds under "note" what `rep3d.io.geometry.geometry_note` says of the file.
    """

    def verify_suffix(self, filename: Sequence[str | os.PathLike] | str | os.PathLike) -> bool:
        return all(str(name).lower().endswith((".nii", ".nii.gz")) for name in ensure_tuple(filename))

    def read(self, data: Sequence[str | os.PathLike] | str | os.PathLike, **kwargs: Any) -> tuple[Any, ...]:
        """The paths: where `read` fails, `LoadImage` tries other readers, and what was wrong is lost."""
        return ensure_tuple(data)

    def get_data(self, img: tuple[str | os.PathLike, ...]) -> tuple[np.ndarray, dict]:
        """The voxels, (D, H, W) of one volume and (C, D, H, W) of several, and MONAI's metadata.

        Raises:
            VolumeError: see `rep3d.io.scans.read_scan`; or a file lies elsewhere than the first.
        """
        first, *others = map(Path, img)
        voxels, geometry = read_scan(first) if others else read_channels(first)
        if others:
            voxels = np.stack([voxels, *(_read_beside(path, first, geometry) for path in others)])
        has_channels = len(voxels) > 1
        return voxels if has_channels else voxels[0], {
            MetaKeys.AFFINE: geometry.affine,
            MetaKeys.ORIGINAL_AFFINE: geometry.affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.array(geometry.shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0 if has_channels else float("nan"),  # there is no such axis
            "note": geometry_note(geometry),
        }


def _read_beside(path: Path, first: Path, place: Geometry) -> np.ndarray:
    """The voxels of another channel."""
    voxels, geometry = read_scan(path)
    problem = agreement_problem(geometry, place)
    if problem:
        raise VolumeError(path, f"{problem} {first}")
    return voxels
