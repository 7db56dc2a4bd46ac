"""A grid's answer written into the voxels of a scan, and the cubes at full resolution that redraw its border."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage

from rep3d.interactive.grid import Box, Grid, bounds, resample
from rep3d.interactive.prompts import Prompt
from rep3d.interactive.working_grid import clamped_cube, finest_spacing, middle

SLAB = 2**20  # voxels of the scan that are redrawn at once


def redraw(
    mask: torch.Tensor, scan: Grid, grid: Grid, logits: torch.Tensor, region: torch.Tensor, taken: torch.Tensor
) -> None:
    """Set the mask's voxels that lie in the region, or next to it, by the logits; in place.

    Args:
        mask: of bool, of the scan's shape.
        scan: the mask's voxels, all of a scan's or a part.
        grid: of logits and region.
        logits, region: what was answered, and what of it counts, of the grid's shape.
        taken: voxels that do not join, of the scan's shape.
    """
    where = touched(region, grid, scan)
    if where is None:
        return
    rows = max(1, SLAB // math.prod(side.stop - side.start for side in where[1:]))
    for start in range(where[0].start, where[0].stop, rows):
        some = (slice(start, min(start + rows, where[0].stop)), *where[1:])
        part = scan.part(some)
        allowed = resample(region, grid, part) > 0
        inside = (resample(logits, grid, part) > 0) & ~taken[some]
        mask[some] = torch.where(allowed, inside, mask[some])


def touched(region: torch.Tensor | None, grid: Grid, scan: Grid) -> Box | None:
    """The part of the scan that a region of a grid, or all of it, has to do with: two voxels of either more."""
    box = tuple(slice(0, n) for n in grid.shape) if region is None else bounds(region)
    if box is None:
        return None
    sides = []
    for axis, side in enumerate(box):
        spacing, margin = scan.spacing[axis], 2 * max(grid.spacing[axis], scan.spacing[axis])
        low, high = (
            grid.origin[axis] + grid.spacing[axis] * end - scan.origin[axis] for end in (side.start, side.stop - 1)
        )
        first, last = math.ceil((low - margin) / spacing), math.floor((high + margin) / spacing)
        sides.append(slice(max(first, 0), min(last + 1, scan.shape[axis])))
    return (sides[0], sides[1], sides[2]) if all(side.start < side.stop for side in sides) else None


def border_tiles(scan: Grid, grid: Grid, mask: torch.Tensor, region: torch.Tensor, newest: Prompt) -> tuple[Grid, ...]:
    """Cubes at full resolution that cover the border of what changed, the nearest to the newest prompt first.

    Args:
        scan: the scan's voxels.
        grid: the working grid, of whose size the cubes are.
        mask, region: the answer on that grid, and what of it changed, of bool.
        newest: the prompt.
    """
    size = grid.shape[0]
    spacing = finest_spacing(scan, size)
    if grid.spacing[0] <= spacing * 1.01:
        return ()
    inside = mask.numpy()
    border = ndimage.binary_dilation(inside) & ~ndimage.binary_erosion(inside, border_value=1) & region.numpy()
    positions = np.argwhere(border) * grid.spacing + grid.origin
    positions = positions[np.linalg.norm(positions - middle(*newest.bounds), axis=1).argsort(kind="stable")]
    tiles = []
    while len(positions):
        tile = clamped_cube(scan, positions[0].tolist(), spacing, size)
        tiles.append(tile)
        positions = positions[1:][~_well_inside(positions[1:], tile, scan)]
    return tuple(tiles)


def _well_inside(positions: np.ndarray, tile: Grid, scan: Grid) -> np.ndarray:
    """Which positions a tile can judge: at its very border it knows little, except where the scan ends there, too."""
    lows, highs = [], []
    for axis in range(3):
        low, high = tile.origin[axis], tile.origin[axis] + tile.spacing[axis] * (tile.shape[axis] - 1)
        margin = tile.extent[axis] / 16
        last = (scan.shape[axis] - 1) * scan.spacing[axis]
        lows.append(low + margin if low > tile.spacing[axis] else -math.inf)
        highs.append(high - margin if high < last - tile.spacing[axis] else math.inf)
    return ((positions > lows) & (positions < highs)).all(1)
