"""Prompts as a hand draws them in a region of a scan: where a point, a scribble, a box or a lasso lies.

All randomness comes from the generator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from rep3d.interactive.prompts import Kind, Prompt, box, lasso, point, scribble
from rep3d.interactive.voxel_regions import TOUCHING, Region, depth_in, region_of

PLACES = {"deep": 0.5, "any": 0.3, "border": 0.2}  # of a point in its region
DEEP, BORDER = 0.8, 0.25  # share of the largest depth from which on a voxel is deep, up to which it is near the border
CENTRELINES = 0.5  # of the scribbles; the others are lines
FLAT = 0.5  # of the boxes lie on one slice
BOX_JITTER = 0.05  # standard deviation of a box's sides, as a share of its size
LASSO_CORNERS = 24


def draw_prompt(
    region: Region,
    shape: Sequence[int],
    spacing: Sequence[float],
    generator: np.random.Generator,
    kinds: Mapping[Kind, float],
    *,
    positive: bool,
) -> Prompt:
    """A prompt in a region of a scan.

    Args:
        region: where it lies.
        shape: voxels of the scan along each axis.
        spacing: millimetres between them.
        generator: draws the kind, and where in the region the prompt lies.
        kinds: how often each kind is chosen.
        positive: whether the region belongs to the label.
    """
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
        depth = depth_in(region.inside, spacing)
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
        depth = depth_in(area, spacing)
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
    depth = depth_in(area, sides)
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
