"""Boxes of voxels along a scan's axes, and values carried from one to another.

Positions are millimetres along the axes of the scan's array: index times spacing, so that (0, 0, 0) is the centre of
its first voxel. Orientation does not matter here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

Triple = tuple[float, float, float]


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

    def within(self, other: Grid) -> tuple[slice, slice, slice]:
        """The part of this grid whose voxels' centres lie in the other's voxels."""
        slices = []
        for axis in range(3):
            inside = _inside(self.positions(axis), other, axis).nonzero().flatten()
            slices.append(slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0))
        return slices[0], slices[1], slices[2]

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
    weights = [_weights(source, target, axis) for axis in range(3)]
    parts = [_nonzero_columns(matrix) for matrix in weights]
    values = values[tuple(parts)].to(torch.float32)
    for axis in (2, 1, 0):  # the last one first: it lies together in memory
        matrix = weights[axis][:, parts[axis]].to(values)
        values = torch.tensordot(values, matrix, dims=([axis], [1])).movedim(-1, axis)
    return values.contiguous()


def covered(source: Grid, target: Grid) -> torch.Tensor:
    """Which voxels of the target have their centre in one of the source's: `target.shape`, bool."""
    x, y, z = (_inside(target.positions(axis), source, axis) for axis in range(3))
    return x[:, None, None] & y[:, None] & z


def _inside(positions: torch.Tensor, grid: Grid, axis: int) -> torch.Tensor:
    indices = (positions - grid.origin[axis]) / grid.spacing[axis]
    return (indices >= -0.5 - 1e-6) & (indices <= grid.shape[axis] - 0.5 + 1e-6)


def _weights(source: Grid, target: Grid, axis: int) -> torch.Tensor:
    """(target's voxels, source's voxels) of float64: what each of the source adds to each of the target."""
    width = max(source.spacing[axis], target.spacing[axis])
    distance = (target.positions(axis)[:, None] - source.positions(axis)).abs() / width
    triangle = (1 - distance).clamp(min=0)
    # Beyond the outermost centres, but still in their voxels, the outermost value holds.
    total = triangle.sum(1, keepdim=True)
    nearest = (distance == distance.min(1, keepdim=True).values).double()
    triangle = torch.where(total > 0, triangle, nearest)
    triangle = triangle / triangle.sum(1, keepdim=True)
    return triangle * _inside(target.positions(axis), source, axis)[:, None]


def _nonzero_columns(matrix: torch.Tensor) -> slice:
    columns = (matrix != 0).any(0).nonzero().flatten()
    return slice(int(columns[0]), int(columns[-1]) + 1) if len(columns) else slice(0, 1)
