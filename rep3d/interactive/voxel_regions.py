"""Where the true voxels of a mask lie: boxes, depths and what is connected; for simulated users and for scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

Mask = Any  # np.ndarray or torch.Tensor, of bool

TOUCHING = np.ones((3, 3, 3), dtype=bool)  # voxels that share a face, an edge or a corner are connected


class Region(NamedTuple):
    """Voxels of a scan.

    Attributes:
        inside: of the smallest box that holds them, bool.
        start: the scan's voxel where that box begins.
    """

    inside: np.ndarray
    start: np.ndarray


def region_of(mask: np.ndarray) -> Region | None:
    """All true voxels of a mask of any number of axes; None where there are none."""
    sides = []
    for axis in range(mask.ndim):
        indices = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if not indices.size:
            return None
        sides.append(slice(indices[0], indices[-1] + 1))
    return Region(mask[tuple(sides)], np.array([side.start for side in sides]))


def box_round(mask: np.ndarray, margin: np.ndarray) -> tuple[slice, ...]:
    """The box of a mask's true voxels and so many more on each side, as far as there are."""
    region = region_of(mask)
    assert region is not None
    first = np.maximum(region.start - margin, 0)
    last = np.minimum(region.start + region.inside.shape + margin, mask.shape)
    return tuple(map(slice, first, last))


def depth_in(inside: np.ndarray, spacing: Sequence[float] | np.ndarray) -> np.ndarray:
    """Millimetres to the nearest voxel that is not inside; outside of the array none is."""
    padded = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=list(spacing))
    return padded[(slice(1, -1),) * inside.ndim]


def radius_of(mask: np.ndarray, spacing: Sequence[float]) -> float:
    """Millimetres, of a ball of the mask's volume."""
    return float(np.cbrt(mask.sum() * np.prod(spacing) * 3 / (4 * np.pi)))
