"""Whether it matters in which plane a scribble is drawn: the same stroke in the axial, coronal and sagittal plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from rep3d.evaluation.clicks import Segment, dice
from rep3d.evaluation.montage import PLANES
from rep3d.interactive.grid import Grid, resample
from rep3d.interactive.prompts import Prompt, scribble
from rep3d.interactive.users import deepest_click

SPACINGS = ((1.0, 1.0, 1.0), (0.7, 0.7, 5.0))  # millimetres
MOST = 0.03  # by which Dice should differ, at most
LENGTHS = tuple(range(60, 4, -4))  # millimetres; the longest counts that lies in the structure in all planes


def dice_by_plane(
    segment: Segment, image: torch.Tensor, spacing: Sequence[float], truth: torch.Tensor
) -> Mapping[str, float]:
    """Dice after one scribble, by the plane in which it is drawn.

    Args:
        segment: the method.
        image: (D, H, W) of float32, whose axes point right, to the front and up.
        spacing: millimetres.
        truth: (D, H, W) of bool.

    Raises:
        ValueError: the structure is empty, or too small for a scribble.
    """
    empty = torch.zeros_like(truth)
    return {
        plane: dice(segment(image, spacing, [stroke], empty), truth)
        for plane, stroke in strokes(truth, spacing).items()
    }


def strokes(truth: torch.Tensor, spacing: Sequence[float]) -> Mapping[str, Prompt]:
    """The same oblique stroke through the truth's deepest voxel in each plane, as the voxels that a brush covers.

    Raises:
        ValueError: as `dice_by_plane`.
    """
    scan = Grid.of_scan(truth.shape, spacing)
    click = deepest_click(truth, torch.zeros_like(truth), spacing)
    if click is None:
        raise ValueError("the structure is empty: nothing can be drawn")
    for length in LENGTHS:
        drawn = {plane: _voxels(click.positions[0], axis, length, scan) for plane, axis in PLANES.items()}
        if all(scan.contains(voxel) and truth[voxel] for voxels in drawn.values() for voxel in voxels):
            return {plane: scribble(voxels, spacing) for plane, voxels in drawn.items()}
    raise ValueError(f"the structure is too small for a scribble of {LENGTHS[-1]} mm")


def _voxels(centre: Sequence[float], axis: int, length: float, scan: Grid) -> list[tuple[int, int, int]]:
    along = np.array([0.0 if axis == other else 0.5**0.5 for other in range(3)])
    steps = np.arange(-length / 2, length / 2 + 1e-6, min(scan.spacing) / 4)
    return list(
        dict.fromkeys(scan.voxel(position) for position in (np.array(centre) + steps[:, None] * along).tolist())
    )


def with_spacing(
    image: torch.Tensor, truth: torch.Tensor, spacing: Sequence[float], wanted: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image and truth of a scan on voxels of another spacing."""
    scan = Grid.of_scan(image.shape, spacing)
    shape = [max(1, round(extent / new)) for extent, new in zip(scan.extent, wanted, strict=True)]
    origin = [(new - old) / 2 for new, old in zip(wanted, scan.spacing, strict=True)]
    grid = Grid(tuple(origin), tuple(wanted), tuple(shape))  # type: ignore[arg-type]
    return resample(image, scan, grid), resample(truth, scan, grid) >= 0.5
