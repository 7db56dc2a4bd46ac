"""Masks that are wrong as other networks' are: what simulated users get to correct."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from rep3d.interactive.voxel_regions import Mask, box_round, depth_in, radius_of


def distorted(truth: Mask, spacing: Sequence[float], generator: np.random.Generator) -> np.ndarray:
    """A mask that is wrong in one or two ways: moved, grown, shrunk, coarse, without a part, or with too much.

    How wrong goes with the truth's size. Empty where the truth is; a small one may become empty, too.

    Args:
        truth: the label against the rest, (D, H, W).
        spacing: millimetres between its voxels along each axis.
        generator: draws.
    """
    mask = np.asarray(truth, dtype=bool).copy()
    size = radius_of(mask, spacing)
    ways = (_moved, _grown, _shrunk, _without_part, _with_blob, _coarse)
    for index in generator.permutation(len(ways))[: generator.integers(1, 3)]:
        if mask.any():
            mask = ways[index](mask, np.asarray(spacing, dtype=float), size, generator)
    return mask


def _moved(mask: np.ndarray, spacing: np.ndarray, size: float, generator: np.random.Generator) -> np.ndarray:
    direction = generator.normal(size=3)
    millimetres = direction / np.linalg.norm(direction) * size * generator.uniform(0.1, 0.5)
    voxels = np.argwhere(mask) + (millimetres / spacing).round().astype(int)
    voxels = voxels[((voxels >= 0) & (voxels < mask.shape)).all(1)]
    moved = np.zeros_like(mask)
    moved[tuple(voxels.T)] = True
    return moved


def _grown(mask: np.ndarray, spacing: np.ndarray, size: float, generator: np.random.Generator) -> np.ndarray:
    millimetres = max(size * generator.uniform(0.1, 0.4), spacing.min())
    part = box_round(mask, np.ceil(millimetres / spacing).astype(int))
    grown = mask.copy()
    grown[part] = ndimage.distance_transform_edt(~mask[part], sampling=spacing) <= millimetres
    return grown


def _shrunk(mask: np.ndarray, spacing: np.ndarray, size: float, generator: np.random.Generator) -> np.ndarray:
    part = box_round(mask, np.zeros(3, dtype=int))
    depth = depth_in(mask[part], spacing)
    shrunk = np.zeros_like(mask)
    shrunk[part] = depth > depth.max() * generator.uniform(0.1, 0.5)
    return shrunk


def _without_part(mask: np.ndarray, spacing: np.ndarray, size: float, generator: np.random.Generator) -> np.ndarray:
    """Without what lies beyond a plane, or in a ball round one of its voxels."""
    voxels = np.argwhere(mask)
    offsets = (voxels - generator.choice(voxels)) * spacing
    if generator.random() < 0.5:
        gone = offsets @ generator.normal(size=3) > 0
    else:
        gone = np.linalg.norm(offsets, axis=1) < size * generator.uniform(0.3, 0.9)
    left = mask.copy()
    left[tuple(voxels[gone].T)] = False
    return left


def _with_blob(mask: np.ndarray, spacing: np.ndarray, size: float, generator: np.random.Generator) -> np.ndarray:
    """With an ellipsoid at its border."""
    radii = size * generator.uniform(0.3, 0.9, size=3)
    voxels = np.argwhere(mask & ~ndimage.binary_erosion(mask))
    direction = generator.normal(size=3)
    centre = generator.choice(voxels) * spacing + direction / np.linalg.norm(direction) * radii * 0.7
    offsets = (((np.arange(n) * s - c) / r) ** 2 for n, s, c, r in zip(mask.shape, spacing, centre, radii, strict=True))
    x, y, z = offsets
    return mask | (x[:, None, None] + y[:, None] + z < 1)


def _coarse(mask: np.ndarray, spacing: np.ndarray, size: float, generator: np.random.Generator) -> np.ndarray:
    """As if it had been drawn on larger voxels, with edges of up to two thirds of its radius."""
    edge = max(size * generator.uniform(0.3, 0.67), 2 * spacing.min())
    part = box_round(mask, np.ceil(edge / spacing).astype(int))
    inside = mask[part].astype(np.float32)
    smaller = np.maximum(1, (np.array(inside.shape) * spacing / edge).round())
    blurred = ndimage.uniform_filter(inside, np.maximum(1, (edge / spacing).round()).astype(int))
    small = ndimage.zoom(blurred, smaller / inside.shape, order=1, grid_mode=True, mode="nearest")
    large = ndimage.zoom(small, np.array(inside.shape) / small.shape, order=1, grid_mode=True, mode="nearest")
    coarse = mask.copy()
    coarse[part] = large >= 0.5
    return coarse
