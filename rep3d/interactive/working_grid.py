"""The working grid, the cube that the network sees: where it begins, when it grows, and how far clicks reach in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage

from rep3d.interactive.grid import Grid, Triple, covered
from rep3d.interactive.prompts import Prompt
from rep3d.interactive.voxel_regions import TOUCHING

SIZE = 64  # voxels along each axis
GROWTH = 1.5  # of the spacing while the change leaves the grid
RIM = 3 / 16  # of the grid at each face, where a network knows too little to find all of what leaves it
SHARE = 0.02  # of the scan's voxels on the rim's inner side: if more change, the grid grows; so it does for a tube of
LEAVING = 4  # voxels there, or of fewer, if it is as thin inside
CROP = 16  # voxels of the first grid round the newest prompts, on each side: what they change touches this crop


def finest_spacing(scan: Grid, size: int = SIZE) -> float:
    """The scan's smallest, or less where the whole scan fits."""
    return min(*scan.spacing, max(scan.extent) / size)


def first_grid(scan: Grid, newest: Sequence[Prompt], size: int) -> Grid:
    """Round the newest prompts, with a third of their extent to spare."""
    low, high = _joint_bounds(newest)
    extent = max(end - start for start, end in zip(low, high, strict=True)) * 4 / 3
    spacing = min(max(finest_spacing(scan, size), extent / size), _coarsest(scan, size))
    return clamped_cube(scan, middle(low, high), spacing, size)


def next_grid(scan: Grid, grid: Grid, newest: Sequence[Prompt]) -> Grid | None:
    """A larger one round the newest prompts; None where the grid has the size of the scan."""
    size, spacing = grid.shape[0], grid.spacing[0]
    coarsest = _coarsest(scan, size)
    if spacing >= coarsest:
        return None
    return clamped_cube(scan, middle(*_joint_bounds(newest)), min(spacing * GROWTH, coarsest), size)


def clamped_cube(scan: Grid, centre: Sequence[float], spacing: float, size: int) -> Grid:
    """A working grid round a position, moved so that no part of it lies outside the scan where that can be."""
    edge, moved = spacing * size, []
    for c, voxel, extent in zip(centre, scan.spacing, scan.extent, strict=True):
        low, high = -voxel / 2 + edge / 2, extent - voxel / 2 - edge / 2
        moved.append(min(max(c, low), high) if low <= high else (extent - voxel) / 2)
    return Grid.cube(moved, spacing, size)


def crop_round(newest: Sequence[Prompt], first: Grid) -> tuple[Triple, Triple]:
    """Millimetres from where to where the crop round the newest prompts goes, which `first` is the first grid of."""
    low, high = _joint_bounds(newest)
    margin = CROP * first.spacing[0]
    return tuple(x - margin for x in low), tuple(x + margin for x in high)  # type: ignore[return-value]


def middle(low: Triple, high: Triple) -> list[float]:
    """Millimetres, of a box from one position to another."""
    return [(start + end) / 2 for start, end in zip(low, high, strict=True)]


def reached(change: torch.Tensor, grid: Grid, crop: tuple[Triple, Triple]) -> torch.Tensor:
    """The connected regions of the change on a grid that touch the crop, of the grid's shape."""
    labels, count = ndimage.label(change.numpy(), TOUCHING)
    slices = []
    for axis, (low, high) in enumerate(zip(*crop, strict=True)):
        positions = grid.positions(axis)
        inside = ((positions >= low) & (positions <= high)).nonzero().flatten().tolist()
        slices.append(slice(inside[0], inside[-1] + 1) if inside else slice(0, 0))
    touching = np.zeros(count + 1, dtype=bool)
    touching[labels[tuple(slices)]] = True
    touching[0] = False
    return torch.from_numpy(touching[labels])


def goes_on(region: torch.Tensor, before: torch.Tensor, scan: Grid, grid: Grid) -> bool:
    """Whether what changes enters the rim at a face beyond which the scan goes on.

    It does with more than `SHARE` of the rim's inner side, or by a tube; what only moves the border of the mask before
    is none.

    Args:
        region: what changes, of the grid's shape.
        before: the mask before, likewise.
    """
    inside, rim = covered(scan, grid), int(RIM * grid.shape[0])
    for axis in range(3):
        low, high = grid.positions(axis)[[0, -1]].tolist()
        last = (scan.shape[axis] - 1) * scan.spacing[axis]
        volumes = [one.movedim(axis, 0).numpy() for one in (region, before, inside)]
        for is_open, step in ((low > grid.spacing[axis], 1), (high < last - grid.spacing[axis], -1)):
            layers, mask, scanned = (one[::step][rim:] for one in volumes)
            if is_open and layers[0].any():
                tube = layers[:LEAVING] & ~_border(mask[: LEAVING + 1])[:LEAVING]
                if layers[0].sum() > SHARE * scanned[0].sum() or _leaves(tube):
                    return True
    return False


def _coarsest(scan: Grid, size: int) -> float:
    return max(max(scan.extent) / size, finest_spacing(scan, size))


def _joint_bounds(prompts: Sequence[Prompt]) -> tuple[Triple, Triple]:
    lows, highs = zip(*(prompt.bounds for prompt in prompts), strict=True)
    return tuple(map(min, zip(*lows, strict=True))), tuple(map(max, zip(*highs, strict=True)))  # type: ignore[return-value]


def _border(mask: np.ndarray) -> np.ndarray:
    """The voxels of a mask next to others, and these."""
    return ndimage.binary_dilation(mask, TOUCHING) & ~ndimage.binary_erosion(mask, TOUCHING, border_value=1)


def _leaves(layers: np.ndarray) -> bool:
    """Whether a tube of the layers next to a face leaves through it, the first of them.

    That is a connected part with `LEAVING` voxels there, or with fewer, if it is as thin inside.
    """
    parts, count = ndimage.label(layers, TOUCHING)
    there, inside = (np.bincount(layer.ravel(), minlength=count + 1)[1:] for layer in (parts[0], parts[-1]))
    return bool(((there >= LEAVING) | (there > 0) & (inside > 0) & (inside <= 2 * there)).any())
