"""Prompts from what nnInteractive's clients send: voxels, half-open boxes, and masks of a part of the scan.

Axes are those of the array that the client sent, whatever they mean to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby

import numpy as np

from monailabel_app.errors import RequestError
from rep3d.interactive import prompts as show
from rep3d.interactive.grid import Grid
from rep3d.interactive.prompts import Prompt, check_inside

Sides = Sequence[Sequence[float]]  # from and to along each axis, half open


def point_at(voxel: Sequence[float], scan: Grid, positive: bool) -> Prompt:
    """Raises RequestError: 400, it lies outside the scan."""
    with _refused():
        return _inside(show.point(voxel, scan.spacing, positive), scan)


def box_of(sides: Sides, scan: Grid, positive: bool) -> Prompt:
    """The box over what of it lies in the scan, at least one voxel thick.

    Raises:
        RequestError: 400, no voxel of the scan lies in it.
    """
    low, high = [], []
    for (start, stop), voxels in zip(sides, scan.shape, strict=True):
        first = round(start)
        last = max(round(stop), first + 1) - 1
        if stop <= start or last < 0 or first >= voxels:
            raise RequestError(400, f"the box {_text(sides)} holds no voxel of the scan of {list(scan.shape)} voxels")
        low.append(max(first, 0))
        high.append(min(last, voxels - 1))
    return show.box(low, high, scan.spacing, positive)


def check_sides(sides: Sequence[Sequence[int]], scan: Grid) -> tuple[int, ...]:
    """The shape of a part of the scan.

    Raises:
        RequestError: 400, it is none.
    """
    if not all(0 <= start < stop <= voxels for (start, stop), voxels in zip(sides, scan.shape, strict=True)):
        raise RequestError(
            400, f"the part {_text(sides)} lies outside the scan of {list(scan.shape)} voxels, or is empty"
        )
    return tuple(stop - start for start, stop in sides)


def scribble_over(mask: np.ndarray, sides: Sequence[Sequence[int]], scan: Grid, positive: bool) -> Prompt:
    """The scribble over the voxels of a mask.

    Args:
        mask: bool, of a part of the scan.
        sides: where that part lies.

    Raises:
        RequestError: 400, no voxels, or more than a prompt may have.
    """
    with _refused():
        return _inside(show.scribble(_voxels(mask, sides, "scribble").tolist(), scan.spacing, positive), scan)


def lasso_round(mask: np.ndarray, sides: Sequence[Sequence[int]], scan: Grid, positive: bool) -> Prompt:
    """The lasso whose area is a mask of one slice, of any form, with holes and islands.

    Args and raises as `scribble_over`; 400, too, where the mask lies in no slice.
    """
    voxels = _voxels(mask, sides, "lasso")
    low = voxels.min(0)
    extent = voxels.max(0) + 1 - low
    if 1 not in extent:
        raise RequestError(400, f"the lasso's area is {extent.tolist()} voxels large, expected one slice")
    across = int(np.argmin(extent))
    area = np.zeros(np.delete(extent, across), bool)
    area[tuple(np.delete(voxels - low, across, 1).T)] = True
    corners = np.insert(np.array(list(_outline(area))) + np.delete(low, across), across, low[across], axis=1)
    with _refused():
        return _inside(show.lasso(corners.tolist(), scan.spacing, positive), scan)


def _outline(area: np.ndarray) -> Iterator[tuple[float, float]]:
    """Corners of one closed line along the edges of voxels that encloses an area, by the even-odd rule.

    It runs round each run of voxels of each row, and from one to the next along the area's first edge: there, forth and
    back, it encloses nothing.
    """
    bottom = 0
    for _, rows in groupby(area, key=np.ndarray.tobytes):
        row, *others = rows
        top = bottom + 1 + len(others)
        edges = np.flatnonzero(np.diff(row, prepend=False, append=False)) - 0.5
        for left, right in zip(edges[::2], edges[1::2], strict=True):
            x, y = bottom - 0.5, top - 0.5
            yield from ((x, -0.5), (x, left), (y, left), (y, right), (x, right), (x, -0.5))
        bottom = top


def _voxels(mask: np.ndarray, sides: Sequence[Sequence[int]], name: str) -> np.ndarray:
    voxels = np.argwhere(mask)
    if not len(voxels):
        raise RequestError(400, f"the {name} has no voxels")
    return voxels + [start for start, _ in sides]


def _inside(prompt: Prompt, scan: Grid) -> Prompt:
    check_inside(prompt, scan, "the prompt")
    return prompt


@contextmanager
def _refused() -> Iterator[None]:
    """Tell the caller what is wrong with a prompt."""
    try:
        yield
    except ValueError as error:
        raise RequestError(400, str(error)) from error


def _text(sides: Sides) -> str:
    return str([list(side) for side in sides])
