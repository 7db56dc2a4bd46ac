"""SimpleITK's images: their millimetres are LPS, and their arrays have the axes the other way round."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from rep3d.io.geometry import swap_lps


def to_itk(voxels: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """Voxels (D, H, W) with an affine (4, 4) to RAS millimetres as an image."""
    lps = swap_lps(np.asarray(affine, dtype=np.float64))
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(_turned(voxels))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def _turned(voxels: np.ndarray) -> np.ndarray:
    """A copy with the axes the other way round, which reads what is there: label maps are mostly empty."""
    turned = np.zeros(voxels.shape[::-1], voxels.dtype)
    inside = voxels != 0
    plane = inside.any(0)
    used = [np.flatnonzero(line) for line in (inside.any((1, 2)), plane.any(1), plane.any(0))]
    if len(used[0]):
        x, y, z = (slice(line[0], line[-1] + 1) for line in used)
        for row in range(y.start, y.stop):  # one at a time: it stays in the processor's cache
            turned[z, row, x] = voxels[x, row, z].T
    return turned


def itk_affine(image: sitk.Image | sitk.ImageFileReader) -> np.ndarray:
    """The affine (4, 4) to RAS millimetres of a volume."""
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    lps[:3, 3] = image.GetOrigin()
    return swap_lps(lps)


def write_itk(image: sitk.Image, path: Path, *, compress: bool = True) -> None:
    """Write an image; the suffix of `path` decides the format.

    Raises:
        OSError: it cannot be written.
    """
    try:
        sitk.WriteImage(image, str(path), useCompression=compress)
    except RuntimeError as error:
        raise OSError(errno.EIO, "ITK cannot write it", str(path)) from error
