"""A scan's voxels as a session keeps them: two bytes each, where that is exact enough."""

from __future__ import annotations

import hashlib

import numpy as np

from monailabel_app.errors import RequestError

TOLERANCE = 1e-3  # error of a voxel, as a share of the window
WINDOW = (0.5, 99.5)  # percentiles of the scan between which the window lies
SAMPLES = 128  # voxels along each axis, at most, from which they are taken
LARGEST = 1e37  # far below the end of float32
STEPS = 2**16 - 2  # from the lowest int16 but one to the highest


def compact(voxels: np.ndarray) -> np.ndarray:
    """The voxels (D, H, W) as a network may see them: int16, or float32 where int16 cannot tell them apart; no copy of
    what is so already.

    Whole numbers that int16 can hold stay what they are. Others are scaled, from the lowest to the highest, to the
    range of int16, if that moves no voxel by more than TOLERANCE of the window; the network's input does not depend on
    the scale. The same voxels in another type give the same result, also where a reader has rounded them to float32.

    Raises:
        RequestError: 400, no numbers, or some are NaN, infinite or beyond LARGEST.
    """
    if voxels.dtype.kind not in "biuf":
        raise RequestError(400, f"the voxels are of type {voxels.dtype}, expected numbers")
    low, high = float(voxels.min()), float(voxels.max())
    if not (-LARGEST < low and high < LARGEST):  # also where they are NaN
        raise RequestError(400, f"some voxels are NaN, infinite or beyond {LARGEST:g}")
    if voxels.dtype.itemsize > np.dtype(np.int16).itemsize:
        voxels, low, high = voxels.astype(np.float32, copy=False), float(np.float32(low)), float(np.float32(high))
    bounds = np.iinfo(np.int16)
    if bounds.min <= low and high <= bounds.max and _are_whole(voxels):
        return voxels.astype(np.int16, order="C", copy=False)
    step, middle = (high - low) / STEPS, (high + low) / 2
    if 0 < step / 2 <= TOLERANCE * _window(voxels):
        scaled = np.empty(voxels.shape, np.int16)
        for target, piece in zip(scaled, voxels, strict=True):  # slice by slice: as few bytes more as may be
            target[...] = np.rint((piece.astype(np.float64) - middle) / step)
        return scaled
    return voxels.astype(np.float32, order="C", copy=False)


def voxel_digest(voxels: np.ndarray) -> str:
    """Of the values, their type and shape."""
    found = hashlib.sha256(f"{voxels.dtype} {voxels.shape}".encode())
    found.update(np.ascontiguousarray(voxels).data)
    return found.hexdigest()[:16]


def _are_whole(voxels: np.ndarray) -> bool:
    return voxels.dtype.kind in "biu" or all(np.array_equal(np.rint(piece), piece) for piece in voxels)


def _window(voxels: np.ndarray) -> float:
    some = voxels[tuple(slice(None, None, -(-n // SAMPLES)) for n in voxels.shape)]
    low, high = np.percentile(some, WINDOW)
    return float(high - low)
