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
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.transpose()))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def itk_affine(image: sitk.Image | sitk.ImageFileReader) -> np.ndarray:
    """The affine (4, 4) to RAS millimetres of a volume."""
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    lps[:3, 3] = image.GetOrigin()
    return swap_lps(lps)


def itk_voxels(image: sitk.Image) -> np.ndarray:
    """The voxels (D, H, W)."""
    return sitk.GetArrayFromImage(image).transpose()


def write_itk(image: sitk.Image, path: Path, *, compress: bool = True) -> None:
    """Write an image; the suffix of `path` decides the format.

    Raises:
        OSError: it cannot be written.
    """
    try:
        sitk.WriteImage(image, str(path), useCompression=compress)
    except RuntimeError as error:
        raise OSError(errno.EIO, "ITK cannot write it", str(path)) from error
