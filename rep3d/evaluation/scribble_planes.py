"""Whether it matters in which plane of a scan a scribble is drawn: the same stroke axially, coronally and sagittally.

The scan is turned round the stroke, and not the stroke in the scan: what it shows of the structure stays the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from rep3d.evaluation.clicks import Segment, dice
from rep3d.evaluation.montage import PLANES
from rep3d.interactive.grid import Grid, resample
from rep3d.interactive.prompts import Prompt, scribble
from rep3d.interactive.users import deepest_click

SPACINGS = ((1.0, 1.0, 1.0), (0.7, 0.7, 5.0))  # millimetres
MOST = 0.03  # by which Dice should differ, at most
LENGTHS = tuple(range(60, 4, -4))  # millimetres; the longest counts that lies in the structure, however it is turned
ALONG = np.array([0.5**0.5, 0.5**0.5, 0.0])  # the stroke, in the scan's own axes


class TooSmall(ValueError):
    """A structure that holds no scribble of the shortest length."""


class Turned(NamedTuple):
    """A scan whose axes are exchanged, on voxels of some spacing.

    Attributes:
        image, truth: (D, H, W).
        grid: its voxels, in millimetres along the exchanged axes of the scan as it was.
        axes: those of the scan as it was.
    """

    image: torch.Tensor
    truth: torch.Tensor
    grid: Grid
    axes: tuple[int, int, int]

    def stroke(self, centre: Sequence[float], length: float) -> list[tuple[int, int, int]]:
        """The voxels that a thin brush covers, of a stroke given in millimetres of the scan as it was."""
        steps = np.arange(-length / 2, length / 2 + 1e-6, min(self.grid.spacing) / 4)
        positions = (np.array(centre) + steps[:, None] * ALONG)[:, self.axes]
        return list(dict.fromkeys(self.grid.voxel(position) for position in positions.tolist()))


def dice_by_plane(
    segment: Segment, image: torch.Tensor, truth: torch.Tensor, spacing: Sequence[float], wanted: Sequence[float]
) -> Mapping[str, float]:
    """Dice after one scribble, by the plane in which it is drawn.

    Args:
        segment: the method.
        image: (D, H, W) of float32.
        truth: (D, H, W) of bool.
        spacing: millimetres.
        wanted: millimetres, of the voxels on which it is drawn.

    Raises:
        TooSmall: the structure holds no scribble.
        ValueError: the structure is empty.
    """
    views = turn(image, truth, spacing, wanted)
    drawn = strokes(views, truth, spacing)
    return {
        plane: dice(segment(view.image, wanted, [drawn[plane]], torch.zeros_like(view.truth)), view.truth)
        for plane, view in views.items()
    }


def turn(
    image: torch.Tensor, truth: torch.Tensor, spacing: Sequence[float], wanted: Sequence[float]
) -> dict[str, Turned]:
    """A scan as it is for each plane in which its first two axes shall lie, on voxels of the wanted spacing."""
    views = {}
    for plane, across in PLANES.items():
        axes = ((2 - across) % 3, (3 - across) % 3, (4 - across) % 3)  # the third one becomes `across`
        scan = Grid.of_scan([truth.shape[axis] for axis in axes], [spacing[axis] for axis in axes])
        shape = [max(1, round(extent / new)) for extent, new in zip(scan.extent, wanted, strict=True)]
        origin = [(new - old) / 2 for new, old in zip(wanted, scan.spacing, strict=True)]
        grid = Grid(tuple(origin), tuple(wanted), tuple(shape))  # type: ignore[arg-type]
        seen, mask = (resample(one.permute(axes), scan, grid) for one in (image, truth))
        views[plane] = Turned(seen, mask >= 0.5, grid, axes)
    return views


def strokes(views: Mapping[str, Turned], truth: torch.Tensor, spacing: Sequence[float]) -> dict[str, Prompt]:
    """The same oblique stroke through the truth's deepest voxel in each of the turned scans.

    Raises:
        ValueError: as `dice_by_plane`.
    """
    click = deepest_click(truth, torch.zeros_like(truth), spacing)
    if click is None:
        raise ValueError("the structure is empty: nothing can be drawn")
    for length in LENGTHS:
        drawn = {plane: view.stroke(click.positions[0], length) for plane, view in views.items()}
        if all(_holds(views[plane], voxels) for plane, voxels in drawn.items()):
            return {plane: scribble(voxels, views[plane].grid.spacing) for plane, voxels in drawn.items()}
    raise TooSmall(f"the structure is too small for a scribble of {LENGTHS[-1]} mm")


def _holds(view: Turned, voxels: Sequence[tuple[int, int, int]]) -> bool:
    return all(view.grid.contains(voxel) and view.truth[voxel] for voxel in voxels)
