"""Simulated users: what somebody who knows the truth would show first, and what next.

Masks are 3D arrays of bool, NumPy's or torch's on the CPU; `spacing` is millimetres between their voxels along each
axis. The prompts' positions count from the arrays' first voxel. All randomness comes from the generator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from rep3d.interactive.prompts import Kind, Prompt, box, lasso, point, scribble

Mask = Any  # np.ndarray or torch.Tensor, of bool

FIRST_KINDS: Mapping[Kind, float] = {"point": 0.5, "scribble": 0.25, "box": 0.15, "lasso": 0.1}
LATER_KINDS: Mapping[Kind, float] = {"point": 0.6, "scribble": 0.3, "box": 0.04, "lasso": 0.06}
BESIDE_KINDS: Mapping[Kind, float] = {"point": 0.7, "scribble": 0.3}
PLACES = {"deep": 0.5, "any": 0.3, "border": 0.2}  # of a point in its region
DEEP, BORDER = 0.8, 0.25  # share of the largest depth from which on a voxel is deep, up to which it is near the border
BESIDE = 0.5  # of the truth's radius: how far from it what lies beside it may be
LARGEST = 0.8  # of the corrections go to the largest error, the others to any, rather to a large one
CENTRELINES = 0.5  # of the scribbles; the others are lines
FLAT = 0.5  # of the boxes lie on one slice
BOX_JITTER = 0.05  # standard deviation of a box's sides, as a share of its size
LASSO_CORNERS = 24
TOUCHING = np.ones((3, 3, 3), dtype=bool)  # voxels that share a face, an edge or a corner


class Region(NamedTuple):
    """Voxels of a scan.

    Attributes:
        inside: of the smallest box that holds them, bool.
        start: the scan's voxel where that box begins.
    """

    inside: np.ndarray
    start: np.ndarray


def first_prompt(
    truth: Mask, spacing: Sequence[float], generator: np.random.Generator, kinds: Mapping[Kind, float] = FIRST_KINDS
) -> Prompt | None:
    """A positive prompt that shows the truth; None where it is empty.

    Args:
        truth: the label against the rest.
        spacing: millimetres.
        generator: draws.
        kinds: how often each kind is chosen.
    """
    truth = _array(truth)
    region = region_of(truth)
    return None if region is None else _show(region, truth.shape, spacing, generator, kinds, positive=True)


def beside(
    truth: Mask,
    within: Mask,
    spacing: Sequence[float],
    generator: np.random.Generator,
    kinds: Mapping[Kind, float] = BESIDE_KINDS,
) -> Prompt | None:
    """A negative prompt near the truth, of a user who foresees where too much will be found; None where it cannot lie.

    Args:
        truth: the label against the rest.
        within: where the prompt may lie, bool.
        spacing: millimetres.
        generator: draws.
        kinds: how often each kind is chosen.
    """
    truth, sides = _array(truth), np.asarray(spacing, dtype=float)
    if not truth.any():
        return None
    reach = max(BESIDE * _radius(truth, spacing), sides.min())
    part = _around(truth, np.ceil(reach / sides).astype(int))
    away = ndimage.distance_transform_edt(~truth[part], sampling=spacing)
    region = region_of((away > 0) & (away <= reach) & _array(within)[part])
    if region is None:
        return None
    region = Region(region.inside, region.start + [side.start for side in part])
    return _show(region, truth.shape, spacing, generator, kinds, positive=False)


def correction(
    truth: Mask,
    mask: Mask,
    spacing: Sequence[float],
    generator: np.random.Generator,
    kinds: Mapping[Kind, float] = LATER_KINDS,
) -> Prompt | None:
    """A prompt in a connected error, positive where the truth is missed; None where nothing is wrong.

    Args:
        truth: the label against the rest.
        mask: what is to be corrected.
        spacing: millimetres.
        generator: draws.
        kinds: how often each kind is chosen.
    """
    truth, mask = _array(truth), _array(mask)
    errors = _errors(truth, mask)
    if not errors:
        return None
    sizes = np.array([error.size for error in errors])
    if generator.random() < LARGEST:
        error = errors[int(sizes.argmax())]
    else:
        error = errors[int(generator.choice(len(errors), p=sizes / sizes.sum()))]
    return _show(error.region(), truth.shape, spacing, generator, kinds, positive=error.missed)


def deepest_click(truth: Mask, mask: Mask, spacing: Sequence[float]) -> Prompt | None:
    """The point that the user of the evaluation sets next, the deepest voxel of the largest error; None without errors.

    An error is connected (26 neighbours), and either missed or too much, so that the click's sign holds for all of it;
    of equal ones the first missed one counts. Depth is the distance in millimetres to where the error ends; the scan's
    border ends it, too. Of equally deep voxels the one nearest to their middle counts, then the first.
    """
    truth, mask = _array(truth), _array(mask)
    errors = _errors(truth, mask)
    if not errors:
        return None
    error = max(errors, key=lambda error: error.size)  # the first of the largest
    region = error.region()
    depth = _depth(region.inside, spacing)
    deepest = np.argwhere(depth >= depth.max() * (1 - 1e-6))
    distance = np.linalg.norm((deepest - deepest.mean(0)) * np.asarray(spacing), axis=1)
    voxel = deepest[int((distance <= distance.min() + 1e-6).argmax())]
    return point(voxel + region.start, spacing, error.missed)


def distorted(truth: Mask, spacing: Sequence[float], generator: np.random.Generator) -> np.ndarray:
    """A mask that is wrong in one or two ways: moved, grown, shrunk, coarse, without a part, or with too much.

    How wrong goes with the truth's size. Empty where the truth is; a small one may become empty, too.
    """
    mask = _array(truth).copy()
    size = _radius(mask, spacing)
    ways = (_moved, _grown, _shrunk, _without_part, _with_blob, _coarse)
    for index in generator.permutation(len(ways))[: generator.integers(1, 3)]:
        if mask.any():
            mask = ways[index](mask, np.asarray(spacing, dtype=float), size, generator)
    return mask


def near_error(truth: Mask, mask: Mask, spacing: Sequence[float], shown: Mask) -> np.ndarray:
    """The errors that touch what a prompt shows, and as far round them as they are deep; all errors where none does.

    About half of these voxels are wrong in the mask.

    Args:
        truth: the label against the rest.
        mask: what is to be corrected.
        spacing: millimetres.
        shown: where the prompt is drawn, bool.
    """
    wrong = _array(truth) ^ _array(mask)
    labels, _ = ndimage.label(wrong, TOUCHING)
    touched = np.unique(labels[_array(shown)])
    if touched.any():
        wrong = np.isin(labels, touched[touched > 0])
    near, region = np.zeros_like(wrong), region_of(wrong)
    if region is not None:
        depth = _depth(region.inside, spacing).max()
        part = _around(wrong, np.ceil(depth / np.asarray(spacing)).astype(int))
        near[part] = ndimage.distance_transform_edt(~wrong[part], sampling=list(spacing)) <= depth
    return near


def region_of(mask: np.ndarray) -> Region | None:
    """All true voxels of a mask of any number of axes; None where there are none."""
    sides = []
    for axis in range(mask.ndim):
        indices = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if not indices.size:
            return None
        sides.append(slice(indices[0], indices[-1] + 1))
    return Region(mask[tuple(sides)], np.array([side.start for side in sides]))


class _Error(NamedTuple):
    """A connected error: the voxels where `labels`, which begins at the scan's voxel `start`, is `label`."""

    size: int
    missed: bool
    label: int
    labels: np.ndarray
    start: np.ndarray

    def region(self) -> Region:
        region = region_of(self.labels == self.label)
        assert region is not None
        return Region(region.inside, region.start + self.start)


def _errors(truth: np.ndarray, mask: np.ndarray) -> list[_Error]:
    """All of them; the missed ones first."""
    errors = []
    for missed, wrong in ((True, truth & ~mask), (False, mask & ~truth)):
        whole = region_of(wrong)
        if whole is not None:
            labels, _ = ndimage.label(whole.inside, TOUCHING)
            sizes = np.bincount(labels.ravel())[1:]
            errors += [_Error(int(size), missed, i, labels, whole.start) for i, size in enumerate(sizes, 1)]
    return errors


def _array(mask: Mask) -> np.ndarray:
    return np.asarray(mask, dtype=bool)


def _radius(mask: np.ndarray, spacing: Sequence[float]) -> float:
    """Millimetres, of a ball of the mask's volume."""
    return float(np.cbrt(mask.sum() * np.prod(spacing) * 3 / (4 * np.pi)))


def _depth(inside: np.ndarray, spacing: Sequence[float] | np.ndarray) -> np.ndarray:
    """Millimetres to the nearest voxel that is not inside; outside of the array none is."""
    padded = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=list(spacing))
    return padded[(slice(1, -1),) * inside.ndim]


def _show(
    region: Region,
    shape: Sequence[int],
    spacing: Sequence[float],
    generator: np.random.Generator,
    kinds: Mapping[Kind, float],
    *,
    positive: bool,
) -> Prompt:
    """A prompt of a kind that is drawn, in a region of a scan of this shape."""
    kind = _draw(kinds, generator)
    if kind == "point":
        return point(_place(region, spacing, generator).tolist(), spacing, positive)
    if kind == "scribble":
        return scribble(_stroke(region, spacing, generator).tolist(), spacing, positive)
    if kind == "box":
        first, last = _corners(region, shape, generator)
        return box(first.tolist(), last.tolist(), spacing, positive)
    return lasso(_outline(region, spacing, generator).tolist(), spacing, positive)


def _draw(shares: Mapping[Any, float], generator: np.random.Generator) -> Any:
    names, weights = list(shares), np.array(list(shares.values()), dtype=float)
    return names[generator.choice(len(names), p=weights / weights.sum())]


def _place(region: Region, spacing: Sequence[float], generator: np.random.Generator) -> np.ndarray:
    """A position in one of the region's voxels."""
    place = _draw(PLACES, generator)
    voxels = region.inside
    if place != "any":
        depth = _depth(region.inside, spacing)
        if place == "deep":
            voxels = depth >= DEEP * depth.max()
        else:
            voxels = region.inside & (depth <= max(BORDER * depth.max(), depth[region.inside].min()))
    voxel = generator.choice(np.argwhere(voxels))
    return voxel + region.start + generator.uniform(-0.45, 0.45, 3)


def _slice(region: Region, generator: np.random.Generator) -> tuple[int, int, np.ndarray]:
    """An axis, the region's slice across it and which one of the region's box it is; rather a large one."""
    axis = int(generator.integers(3))
    areas = region.inside.sum(axis=tuple(other for other in range(3) if other != axis)).astype(float)
    areas[areas < areas.max() / 2] = 0
    index = int(generator.choice(len(areas), p=areas / areas.sum()))
    return axis, index, region.inside.take(index, axis)


def _component(area: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One connected part of an area, rather a large one."""
    labels, _ = ndimage.label(area, TOUCHING[0])
    sizes = np.bincount(labels.ravel())[1:]
    return labels == 1 + generator.choice(len(sizes), p=sizes / sizes.sum())


def _off_slice(positions: np.ndarray, axis: int, index: int, region: Region) -> np.ndarray:
    """Positions on a slice of the region's box, (n, 2), as voxels of the scan, (n, 3)."""
    return np.insert(positions, axis, index, axis=1) + region.start


def _stroke(region: Region, spacing: Sequence[float], generator: np.random.Generator) -> np.ndarray:
    """Positions, (n, 3), of a piece of a line or of the centreline on a slice, drawn by an unsteady hand."""
    axis, index, area = _slice(region, generator)
    area = _component(area, generator)
    sides = np.delete(np.asarray(spacing, dtype=float), axis)
    path = _path(area, sides, generator, central=generator.random() < CENTRELINES)
    length = max(1, round(len(path) * generator.uniform(0.3, 1)))
    first = generator.integers(len(path) - length + 1)
    steady = path[first : first + length].astype(float)
    wobble = ndimage.gaussian_filter1d(generator.normal(size=(length, 2)), 2, axis=0, mode="nearest")
    drawn = ndimage.gaussian_filter1d(steady, 1, axis=0, mode="nearest") + generator.uniform(0, 2) * wobble
    nearest = np.clip(drawn.round().astype(int), 0, np.array(area.shape) - 1)
    on_area = area[tuple(nearest.T)] & (np.abs(drawn - nearest) <= 0.5).all(1)
    return _off_slice(np.where(on_area[:, None], drawn, steady), axis, index, region)


def _path(area: np.ndarray, spacing: np.ndarray, generator: np.random.Generator, *, central: bool) -> np.ndarray:
    """The pixels, (n, 2), of the cheapest way through a connected area: between any two, or its ends if `central`."""
    pixels = np.argwhere(area)
    cost = np.ones(area.shape)
    if central:
        depth = _depth(area, spacing)
        cost = (1 + 4 * (1 - depth / depth.max())) ** 2
    graph = _neighbours(area, spacing, cost)
    start, end = generator.integers(len(pixels), size=2)
    if central:
        start = int(dijkstra(graph, indices=start).argmax())
    distance, before = dijkstra(graph, indices=start, return_predecessors=True)
    node = int(distance.argmax()) if central else int(end)
    way = [node]
    while node != start:
        node = int(before[node])
        way.append(node)
    return pixels[way]


def _neighbours(area: np.ndarray, spacing: np.ndarray, cost: np.ndarray) -> coo_array:
    """The graph of an area's pixels, eight neighbours each; a step costs its length times the mean cost of both."""
    numbers = np.full(np.add(area.shape, 2), -1)
    numbers[1:-1, 1:-1][area] = np.arange(area.sum())
    rows, columns, costs = [], [], []
    own, at = numbers[1:-1, 1:-1][area], cost[area]
    for i, j in ((0, 1), (1, -1), (1, 0), (1, 1)):
        other = numbers[1 + i : numbers.shape[0] - 1 + i, 1 + j : numbers.shape[1] - 1 + j][area]
        there = other >= 0
        rows.append(own[there])
        columns.append(other[there])
        costs.append((at[there] + at[other[there]]) / 2 * np.hypot(*(spacing * (i, j))))
    shape = (len(own), len(own))
    half = coo_array((np.concatenate(costs), (np.concatenate(rows), np.concatenate(columns))), shape=shape)
    return (half + half.T).tocsr()


def _corners(region: Region, shape: Sequence[int], generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last voxel of a box round the region or a slice of it, not quite right."""
    axis = None
    part = region
    if generator.random() < FLAT:
        axis, index, area = _slice(region, generator)
        flat = region_of(area)
        assert flat is not None
        part = Region(np.expand_dims(flat.inside, axis), _off_slice(flat.start[None], axis, index, region)[0])
    size = np.array(part.inside.shape)
    ends = np.stack([part.start, part.start + size - 1]).astype(float)
    jitter = generator.normal(scale=BOX_JITTER, size=(2, 3)) * size
    if axis is not None:
        jitter[:, axis] = 0
    first, last = np.sort((ends + jitter).round(), axis=0)
    last_of_scan = np.array(shape) - 1
    return np.clip(first, 0, last_of_scan), np.clip(last, 0, last_of_scan)


def _outline(region: Region, spacing: Sequence[float], generator: np.random.Generator) -> np.ndarray:
    """Corners, (n, 3), of a loose outline round a part of the region on a slice, as seen from its deepest pixel."""
    axis, index, area = _slice(region, generator)
    area = _component(area, generator)
    sides = np.delete(np.asarray(spacing, dtype=float), axis)
    depth = _depth(area, sides)
    centre = np.array(np.unravel_index(depth.argmax(), area.shape))
    offsets = (np.argwhere(area) - centre) * sides  # mm
    angles = np.arctan2(offsets[:, 1], offsets[:, 0])
    reach = np.zeros(LASSO_CORNERS)
    sectors = np.round(angles / (2 * np.pi) * LASSO_CORNERS).astype(int) % LASSO_CORNERS
    np.maximum.at(reach, sectors, np.hypot(*offsets.T))
    noise = ndimage.gaussian_filter1d(generator.normal(size=LASSO_CORNERS), 1.5, mode="wrap")
    margin = sides.max() * generator.uniform(0.5, 1.5) + 0.1 * depth.max() * np.abs(noise)
    angle = np.arange(LASSO_CORNERS) * 2 * np.pi / LASSO_CORNERS
    corners = centre + ((reach + margin) * np.stack([np.cos(angle), np.sin(angle)])).T / sides
    return _off_slice(corners, axis, index, region)


def _around(mask: np.ndarray, margin: np.ndarray) -> tuple[slice, ...]:
    """The box of a mask's true voxels and so many more on each side, as far as there are."""
    region = region_of(mask)
    assert region is not None
    first = np.maximum(region.start - margin, 0)
    last = np.minimum(region.start + region.inside.shape + margin, mask.shape)
    return tuple(map(slice, first, last))


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
    part = _around(mask, np.ceil(millimetres / spacing).astype(int))
    grown = mask.copy()
    grown[part] = ndimage.distance_transform_edt(~mask[part], sampling=spacing) <= millimetres
    return grown


def _shrunk(mask: np.ndarray, spacing: np.ndarray, size: float, generator: np.random.Generator) -> np.ndarray:
    part = _around(mask, np.zeros(3, dtype=int))
    depth = _depth(mask[part], spacing)
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
    part = _around(mask, np.ceil(edge / spacing).astype(int))
    inside = mask[part].astype(np.float32)
    smaller = np.maximum(1, (np.array(inside.shape) * spacing / edge).round())
    blurred = ndimage.uniform_filter(inside, np.maximum(1, (edge / spacing).round()).astype(int))
    small = ndimage.zoom(blurred, smaller / inside.shape, order=1, grid_mode=True, mode="nearest")
    large = ndimage.zoom(small, np.array(inside.shape) / small.shape, order=1, grid_mode=True, mode="nearest")
    coarse = mask.copy()
    coarse[part] = large >= 0.5
    return coarse
