"""Where the voxels of a file lie, in millimetres, and whether two files lie at the same place.

nibabel, and so MONAI, goes by a NIfTI header's sform first; ITK, and so 3D Slicer and ITK-SNAP, by its qform unless the
sform's code is 1. Everything here is computed as nibabel sees it; ITK's view is kept beside it.
"""

from __future__ import annotations

import itertools
import math
import os
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np

TOLERANCE = 0.1  # of a voxel: what two grids that are the same may differ by
MAX_BYTES = 2**34  # of one volume's voxels in memory
FLAT = 1e-6  # of the product of the edges: voxels of less volume have none


class VolumeError(ValueError):
    """A file that no network can take.

    Args:
        path: the file's.
        reason: what is wrong with it, without the path.
    """

    def __init__(self, path: str | os.PathLike, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class TooLargeError(VolumeError):
    """A volume of more bytes than may be."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where the voxels of a file lie.

    Args:
        shape: voxels along each axis, (D, H, W) in the order of NIfTI.
        affine: (4, 4), from voxels to RAS millimetres, as nibabel sees it.
        itk_affine: the same as ITK sees it; None where ITK refuses the header.
        dtype: of the voxels as they will be in memory.
        header: of a NIfTI file, as it is there.
        channels: volumes on this grid in the file.
        note: of another format than NIfTI, what `geometry_note` says.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    itk_affine: np.ndarray | None
    dtype: np.dtype
    header: Any = None
    channels: int = 1
    note: str = ""

    @property
    def nbytes(self) -> int:
        """Of the voxels in memory."""
        return self.channels * math.prod(self.shape) * self.dtype.itemsize

    @property
    def dispute(self) -> float:
        """How far nibabel and ITK are apart, see `displacement`; infinite where ITK refuses the header."""
        return math.inf if self.itk_affine is None else displacement(self.shape, self.affine, self.itk_affine)


def plain_geometry(shape: tuple[int, ...], affine: np.ndarray, dtype: Any = np.float32) -> Geometry:
    """A geometry that all readers see alike."""
    affine = np.asarray(affine, dtype=np.float64)
    return Geometry(tuple(int(n) for n in shape), affine, affine, np.dtype(dtype))


def voxel_ml(affine: np.ndarray) -> float:
    """Millilitres of a voxel, whose axes need not be at right angles, by the affine (4, 4) to millimetres."""
    first, second, third = np.asarray(affine, dtype=np.float64)[:3, :3].T
    return float(abs(np.cross(first, second) @ third)) / 1000  # of right angles just the product of the edges


def swap_lps(affine: np.ndarray) -> np.ndarray:
    """An affine (4, 4) to RAS millimetres as one to LPS, in which DICOM, NRRD and ITK count, and back."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def check_geometry(path: str | os.PathLike, geometry: Geometry, max_bytes: int = MAX_BYTES) -> None:
    """Raise unless a network can take a volume of this geometry.

    Raises:
        VolumeError: not three dimensions, a singular affine, or voxels that are no numbers.
        TooLargeError: more bytes than `max_bytes`.
    """
    if len(geometry.shape) != 3 or min(geometry.shape) < 1:
        raise VolumeError(path, f"shape {geometry.shape}, expected three dimensions")
    affine = geometry.affine
    edges = nib.affines.voxel_sizes(affine)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) <= FLAT * np.prod(edges):
        raise VolumeError(path, f"affine {_shown(affine)} is singular, expected an invertible one")
    if geometry.dtype.names or geometry.dtype.kind not in "biuf":
        kind = "colours" if geometry.dtype.names else "complex numbers" if geometry.dtype.kind == "c" else "no numbers"
        raise VolumeError(path, f"the voxels are {kind} ({geometry.dtype}), expected numbers")
    told = f"{' x '.join(map(str, geometry.shape))} voxels of {geometry.dtype}"
    check_bytes(path, told, geometry.nbytes, max_bytes)


def check_bytes(path: str | os.PathLike, voxels: str, nbytes: int, max_bytes: int) -> None:
    """Raise where the voxels of a file take too much memory.

    Args:
        voxels: how many there are, and of what type.
        nbytes: of them.
        max_bytes: that they may take.

    Raises:
        TooLargeError: they take more.
    """
    if nbytes > max_bytes:
        told = f"{voxels} take {nbytes / 2**30:.1f} GiB of memory, expected at most {max_bytes / 2**30:g} GiB"
        raise TooLargeError(path, told)


def _shown(affine: np.ndarray) -> list[list[float]]:
    return [[float(f"{value:.6g}") for value in row] for row in affine]


def displacement(shape: tuple[int, ...], affine: np.ndarray, other: np.ndarray) -> float:
    """The largest distance between the places where two affines put a corner of a grid, in edges of a voxel.

    Args:
        shape: voxels along each axis, (D, H, W).
        affine, other: (4, 4), millimetres. The smallest edge of either's voxels is the unit.
    """
    corners = np.array([[*corner, 1] for corner in itertools.product(*((-0.5, n - 0.5) for n in shape))])
    apart = np.linalg.norm((corners @ (affine - other).T)[:, :3], axis=1).max()
    return float(apart / min(*nib.affines.voxel_sizes(affine), *nib.affines.voxel_sizes(other)))


def agreement_problem(label: Geometry, image: Geometry) -> str:
    """Why a label map does not lie on its image, or an empty text."""
    if label.shape != image.shape:
        return f"shape {label.shape} differs from {image.shape} of its image"
    apart = displacement(image.shape, label.affine, image.affine)
    if not apart <= TOLERANCE:
        return (
            f"affine {_shown(label.affine)} differs by {apart:.2g} voxels at a corner, expected at most "
            f"{TOLERANCE}, from {_shown(image.affine)} of its image"
        )
    return ""


def agrees_in_itk(label: Geometry, image: Geometry) -> bool:
    """Whether a label map lies on its image in ITK, where ITK sees the image elsewhere than nibabel.

    So lies what is drawn in 3D Slicer, which stores ITK's view as the label map's only one.
    """
    if label.shape != image.shape or image.dispute <= TOLERANCE or label.itk_affine is None or image.itk_affine is None:
        return False
    return displacement(image.shape, label.itk_affine, image.itk_affine) <= TOLERANCE


def geometry_note(geometry: Geometry) -> str:
    """What is odd about a file's place and yet no reason to refuse it, or an empty text: readers see it elsewhere."""
    header, dispute = geometry.header, geometry.dispute
    if geometry.note:
        return geometry.note
    if header is not None and header["qform_code"] <= 0 and header["sform_code"] <= 0:
        return "the header does not tell where the scan lies (qform and sform have the code 0): left may be right"
    if math.isinf(dispute):
        return "ITK, and so 3D Slicer, cannot place this scan: its sform is sheared, and it has no qform"
    if dispute <= TOLERANCE:
        return ""
    millimetres = dispute * min(nib.affines.voxel_sizes(geometry.affine))
    cause, nibabel, itk = "its qform and sform differ", "by the sform first", "by the qform"
    if header is not None and header["sform_code"] <= 0:
        cause, nibabel, itk = "its pixdim has negative voxel sizes", "as if they were positive", "with their signs"
    elif header is not None and header["qform_code"] <= 0:
        cause, nibabel, itk = "its sform and its pixdim differ", "by the sform", "with the voxel sizes of pixdim"
    return (
        f"readers put this scan at places up to {millimetres:.3g} mm apart: {cause}. It is computed "
        f"as nibabel reads it, {nibabel}; 3D Slicer and ITK-SNAP show it, and its label map, {itk}"
    )
