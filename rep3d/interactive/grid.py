"""Boxes of voxels along a scan's axes, and values carried from one to another.

Positions are millimetres along the axes of the scan's array: index times spacing, so that (0, 0, 0) is the centre of
its first voxel. Orientation does not matter here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch

Triple = tuple[float, float, float]
Box = tuple[slice, slice, slice]  # of voxels

# Numbers that become float32 at once, and that are summed up at once, so few that they stay in the processor's cache.
CACHED, SUMMED = 2**18, 2**21


class Grid(NamedTuple):
    """A box of voxels: the first one's centre and the distance between centres in millimetres, and their numbers."""

    origin: Triple
    spacing: Triple
    shape: tuple[int, int, int]

    @classmethod
    def of_scan(cls, shape: Sequence[int], spacing: Sequence[float]) -> Grid:
        """The voxels of a whole scan, whose array has `shape`, `spacing` millimetres apart along each axis.

        Raises:
            ValueError: not three axes, or one without voxels or distance.
        """
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"shape must be three numbers of voxels, got {tuple(shape)}")
        if len(spacing) != 3 or not all(0 < s < float("inf") for s in spacing):
            raise ValueError(f"spacing must be three positive numbers of millimetres, got {tuple(spacing)}")
        return cls((0.0, 0.0, 0.0), tuple(map(float, spacing)), tuple(map(int, shape)))  # type: ignore[arg-type]

    @classmethod
    def cube(cls, centre: Sequence[float], spacing: float, size: int) -> Grid:
        """`size` voxels of `spacing` millimetres along each axis, round `centre`."""
        x, y, z = (float(c) - spacing * (size - 1) / 2 for c in centre)
        return cls((x, y, z), (float(spacing),) * 3, (size,) * 3)

    @property
    def extent(self) -> Triple:
        """Millimetres from edge to edge along each axis."""
        x, y, z = (s * n for s, n in zip(self.spacing, self.shape, strict=True))
        return x, y, z

    def positions(self, axis: int) -> torch.Tensor:
        """Millimetres of the voxels' centres along an axis, (n,) of float64."""
        return self.origin[axis] + self.spacing[axis] * torch.arange(self.shape[axis], dtype=torch.float64)

    def voxel(self, position: Sequence[float]) -> tuple[int, int, int]:
        """The voxel nearest to a position, whether or not it lies inside."""
        i, j, k = (round((p - o) / s) for p, o, s in zip(position, self.origin, self.spacing, strict=True))
        return i, j, k

    def contains(self, voxel: Sequence[int]) -> bool:
        return all(0 <= v < n for v, n in zip(voxel, self.shape, strict=True))

    def part(self, slices: Sequence[slice]) -> Grid:
        """The grid of a part of the voxels."""
        x, y, z = (o + s * part.start for o, s, part in zip(self.origin, self.spacing, slices, strict=True))
        i, j, k = (part.stop - part.start for part in slices)
        return Grid((x, y, z), self.spacing, (i, j, k))


def resample(values: torch.Tensor, source: Grid, target: Grid) -> torch.Tensor:
    """Values of the source's voxels at the target's: `source.shape` -> `target.shape`, float32, 0 outside the source.

    Linear along each axis; where the target's voxels are larger, weighted means over their size, so that nothing is
    missed between them.
    """
    parts = tuple(_span(source, target, axis) for axis in range(3))
    first, second, third = (_weights(source, target, axis, parts[axis]).float() for axis in range(3))
    values = values[parts]
    plane = values[0].numel()
    resampled, rows = torch.zeros(target.shape), max(1, SUMMED // plane)
    for start in range(0, len(first), rows):
        sums = _weighted_sums(first[start : start + rows], values, max(1, CACHED // plane))
        if sums is not None:
            resampled[start : start + rows] = second @ sums @ third.T
    return resampled


def _weighted_sums(weights: torch.Tensor, values: torch.Tensor, rows: int) -> torch.Tensor | None:
    """`weights @ values` along the first axis, some rows of the values at a time; None where a mask has no such row."""
    sums = None
    used = _nonzero(weights.any(0))
    for start in range(used.start, used.stop, rows):
        some = values[start : min(start + rows, used.stop)]
        if some.dtype == torch.bool and not some.numpy().any():
            continue
        if sums is None:
            sums = torch.zeros(len(weights), *values.shape[1:])
        part = weights[:, start : start + len(some)]
        touched = _nonzero(part.any(1))
        sums[touched].flatten(1).addmm_(part[touched], some.to(torch.float32).flatten(1))
    return sums


def covered(source: Grid, target: Grid) -> torch.Tensor:
    """Which voxels of the target have their centre in one of the source's: `target.shape`, bool."""
    x, y, z = (_inside(target.positions(axis), source, axis) for axis in range(3))
    return x[:, None, None] & y[:, None] & z


def bounds(mask: torch.Tensor) -> Box | None:
    """The smallest box that holds all true voxels of a mask; None where there are none."""
    voxels = mask.numpy()
    plane = voxels.any(0)
    sides = [np.flatnonzero(line) for line in (voxels.reshape(len(voxels), -1).any(1), plane.any(1), plane.any(0))]
    return box_of(side[[0, -1]] for side in sides) if len(sides[0]) else None


def box_of(ends: Iterable[Iterable[int]]) -> Box:
    """The box from the first to the last voxel along each axis."""
    x, y, z = (slice(int(first), int(last) + 1) for first, last in ends)
    return x, y, z


def whole(shape: Sequence[int]) -> Box:
    """The box of all voxels of this shape."""
    return box_of((0, count - 1) for count in shape)


def hull(boxes: Iterable[Box | None]) -> Box | None:
    """The smallest box that holds several; None where there is none."""
    sides = list(zip(*filter(None, boxes), strict=True))
    return box_of((min(s.start for s in side), max(s.stop for s in side) - 1) for side in sides) if sides else None


def _inside(positions: torch.Tensor, grid: Grid, axis: int) -> torch.Tensor:
    indices = (positions - grid.origin[axis]) / grid.spacing[axis]
    return (indices >= -0.5 - 1e-6) & (indices <= grid.shape[axis] - 0.5 + 1e-6)


def _span(source: Grid, target: Grid, axis: int) -> slice:
    """The source's voxels that add to any of the target's along an axis, and perhaps some beside them."""
    width = max(source.spacing[axis], target.spacing[axis])
    low, high = target.origin[axis], target.origin[axis] + target.spacing[axis] * (target.shape[axis] - 1)
    first, last = (
        min(max(round((end - source.origin[axis]) / source.spacing[axis]), 0), source.shape[axis] - 1)
        for end in (low - width, high + width)
    )
    return slice(max(first - 1, 0), min(last + 2, source.shape[axis]))


def _weights(source: Grid, target: Grid, axis: int, span: slice) -> torch.Tensor:
    """(target's voxels, source's voxels in the span) of float64: what each of the source adds to each of the target."""
    width = max(source.spacing[axis], target.spacing[axis])
    positions = target.positions(axis)
    distance = (positions[:, None] - source.positions(axis)[span]).abs() / width
    triangle = (1 - distance).clamp(min=0)
    # Beyond the outermost centres, but still in their voxels, the outermost value holds.
    total = triangle.sum(1, keepdim=True)
    nearest = (distance == distance.min(1, keepdim=True).values).double()
    triangle = torch.where(total > 0, triangle, nearest)
    triangle = triangle / triangle.sum(1, keepdim=True)
    return triangle * _inside(positions, source, axis)[:, None]


def _nonzero(line: torch.Tensor) -> slice:
    indices = line.nonzero().flatten()
    return slice(int(indices[0]), int(indices[-1]) + 1) if len(indices) else slice(0, 0)
