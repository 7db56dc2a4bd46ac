"""Shapes of organs, vessels and lesions as signed distances from their surface, in voxels: negative inside.

They are computed at the points of a lattice, wider for larger shapes, and interpolated to the voxels: distances are
smooth, and large shapes cost no more than small ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from rep3d.datasets.fields import random_field

FAR = 8.0  # voxels outside a surface, beyond which no distance is computed
FINE = 9  # lattice points along the radius of a large shape
THINNEST = 0.8  # voxels: the radius of the thinnest tube, whose voxels hang together


Box = tuple[slice, slice, slice]


class Solid(NamedTuple):
    """A part of a shape: the box of the volume that holds it, and the distance at each of the box's voxels."""

    box: Box
    distance: np.ndarray


class Lattice(NamedTuple):
    """Points of a box of the volume: `lines` has their coordinates along each axis, in voxels."""

    box: Box
    lines: tuple[np.ndarray, np.ndarray, np.ndarray]
    step: float

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(line) for line in self.lines)

    def solid(self, distance: np.ndarray) -> Solid:
        """The distances at the points, interpolated to the voxels of the box."""
        if self.step > 1:
            for part, line in zip(self.box, self.lines, strict=True):
                distance = np.tensordot(distance, _interpolation(line, part, self.step), axes=(0, 0))
        return Solid(self.box, distance)


Shape = Callable[[np.random.Generator, tuple[int, ...], np.ndarray, float], list[Solid]]


def ellipsoid(rng: np.random.Generator, shape: tuple[int, ...], centre: np.ndarray, radius: float) -> list[Solid]:
    """A deformed ellipsoid, often elongated or flat."""
    lattice = _lattice(shape, centre, 1.8 * radius, radius)
    points = _points(rng, lattice, centre, warp=rng.uniform(0.05, 0.25) * radius)
    length = np.linalg.norm(points / (radius * _ratios(rng, 0.45)), axis=0)
    return [lattice.solid(_as_distance(length - 1, lattice.step))]


def blob(rng: np.random.Generator, shape: tuple[int, ...], centre: np.ndarray, radius: float) -> list[Solid]:
    """A star-convex body with bumps."""
    lattice = _lattice(shape, centre, 1.8 * radius, radius)
    return [lattice.solid(_blob_distance(rng, lattice, centre, radius))]


def shell(rng: np.random.Generator, shape: tuple[int, ...], centre: np.ndarray, radius: float) -> list[Solid]:
    """A wall round a cavity, and the cavity."""
    lattice = _lattice(shape, centre, 1.8 * radius, radius)
    outer = _blob_distance(rng, lattice, centre, radius)
    wall = rng.uniform(1.5, max(2.0, 0.4 * radius))
    return [lattice.solid(outer), lattice.solid(outer + wall)]


def parcels(rng: np.random.Generator, shape: tuple[int, ...], centre: np.ndarray, radius: float) -> list[Solid]:
    """A body, and the two to five parts that it consists of, with or without a septum between them."""
    lattice = _lattice(shape, centre, 1.8 * radius, radius)
    outer = _blob_distance(rng, lattice, centre, radius)
    points = _points(rng, lattice, centre, warp=rng.uniform(0, 0.2) * radius)
    septum = rng.choice([0.0, rng.uniform(0.4, 1.5)])
    wall = np.float32(septum if rng.random() < 0.5 else 0)  # round them, too
    cells = _cells(points, rng.normal(0, 0.6 * radius, (rng.integers(2, 6), 3)), septum)
    return [lattice.solid(outer), *(lattice.solid(np.maximum(outer + wall, cell)) for cell in cells)]


def mosaic(rng: np.random.Generator, shape: tuple[int, ...]) -> list[Solid]:
    """Regions that fill the volume, with or without septa between them."""
    centre = np.array(shape) / 2
    lattice = _lattice(shape, centre, max(shape), max(shape) / 3)
    points = _points(rng, lattice, centre, warp=rng.uniform(0.02, 0.1) * max(shape))
    seeds = rng.uniform(-0.55, 0.55, (rng.integers(3, 14), 3)) * max(shape)
    return [lattice.solid(cell) for cell in _cells(points, seeds, rng.choice([0.0, rng.uniform(0.5, 2.5)]))]


def chamber(rng: np.random.Generator, shape: tuple[int, ...], centre: np.ndarray, radius: float) -> list[Solid]:
    """A body that one to five tubes leave, such as a heart's chamber with its veins."""
    lattice = _lattice(shape, centre, 2.3 * radius, radius)
    distance = _blob_distance(rng, lattice, centre, 0.75 * radius)
    for _ in range(rng.integers(1, 6)):
        thickness = rng.uniform(0.14, 0.4) * radius
        path = _curve(rng, centre, rng.uniform(1.3, 2.2) * radius, step=max(0.5, 0.4 * thickness), bend=0.6)
        tube = _tube_distance(lattice, path, _profile(rng, len(path), max(THINNEST, thickness), 0.25))
        distance = _join(distance, tube, 0.25 * thickness)
    return [lattice.solid(distance)]


def bent(rng: np.random.Generator, shape: tuple[int, ...], centre: np.ndarray, radius: float) -> list[Solid]:
    """An elongated curved body, flat or round, such as a hippocampus, a pancreas or a kidney."""
    thickness = max(1.2, radius * rng.uniform(0.22, 0.5))
    path = _curve(rng, centre, 2 * radius, step=max(0.5, 0.4 * thickness), bend=rng.uniform(0.3, 2.8))
    path += centre - path[len(path) // 2]
    lattice = _lattice_of_path(shape, path, 1.3 * thickness)
    flatness = rng.uniform(0.5, 1.0)
    distance = _tube_distance(lattice, path, _profile(rng, len(path), thickness, 0.35), flatness, _direction(rng))
    bumps = random_field(rng, lattice.shape, waves=max(3, int(max(lattice.shape) * lattice.step / thickness)))
    return [lattice.solid(distance + np.float32(rng.uniform(0, 0.14) * thickness) * bumps)]


def tube(rng: np.random.Generator, shape: tuple[int, ...], centre: np.ndarray, radius: float) -> list[Solid]:
    """A vessel of varying thickness."""
    thickness = max(THINNEST, rng.uniform(0.08, 0.25) * radius)
    path = _curve(rng, centre, rng.uniform(2, 4) * radius, step=max(0.5, 0.4 * thickness), bend=rng.uniform(0, 2.5))
    path += centre - path[len(path) // 2]
    lattice = _lattice_of_path(shape, path, 1.3 * thickness)
    return [lattice.solid(_tube_distance(lattice, path, _profile(rng, len(path), thickness, 0.3)))]


def tree(rng: np.random.Generator, shape: tuple[int, ...], centre: np.ndarray, radius: float) -> list[Solid]:
    """A branching vessel."""
    start = centre + rng.normal(0, 0.3 * radius, 3)
    paths, thicknesses = [], []
    tips = [(start, _direction(rng), max(1.2, rng.uniform(0.08, 0.22) * radius), 0)]
    while tips:
        origin, direction, thickness, depth = tips.pop()
        length = rng.uniform(0.5, 1.0) * radius * 0.8**depth
        path = _curve(
            rng, origin, length, step=max(0.5, 0.5 * thickness), bend=rng.uniform(0, 1.2), direction=direction
        )
        paths.append(path)
        thicknesses.append(np.linspace(thickness, max(THINNEST, 0.85 * thickness), len(path), dtype=np.float32))
        if depth < 4 and thickness > THINNEST:
            heading = path[-1] - path[max(0, len(path) - 3)]
            for _ in range(rng.choice([1, 2, 2, 3])):
                away = _unit(_unit(heading) + rng.uniform(0.4, 1.0) * _direction(rng))
                fork = path[int(rng.integers(len(path) // 2, len(path)))] if rng.random() < 0.5 else path[-1]
                tips.append((fork, away, max(THINNEST, thickness * rng.uniform(0.55, 0.85)), depth + 1))
    path, thick = np.concatenate(paths), np.concatenate(thicknesses)
    lattice = _lattice_of_path(shape, path, 1.0)
    return [lattice.solid(_tube_distance(lattice, path, thick))]


def coil(rng: np.random.Generator, shape: tuple[int, ...], centre: np.ndarray, radius: float) -> list[Solid]:
    """A long tube that winds, such as bowel: its wall, and its inside."""
    thickness = max(1.5, rng.uniform(0.15, 0.3) * radius)
    path = _curve(rng, centre, 8 * radius, step=max(0.5, 0.5 * thickness), bend=rng.uniform(8, 16), within=0.8 * radius)
    lattice = _lattice_of_path(shape, path, 1.3 * thickness)
    haustra = 1 + rng.uniform(0, 0.2) * np.sin(np.arange(len(path)) * rng.uniform(0.3, 1.0))
    outer = _tube_distance(lattice, path, _profile(rng, len(path), thickness, 0.2) * haustra)
    wall = rng.uniform(0.6, 0.4 * thickness + 0.4)
    return [lattice.solid(outer), lattice.solid(outer + np.float32(wall))]


def sheet(rng: np.random.Generator, shape: tuple[int, ...], centre: np.ndarray, radius: float) -> list[Solid]:
    """A thin curved layer, such as a muscle, a diaphragm or a ribbon of cortex."""
    lattice = _lattice(shape, centre, 1.4 * radius, 0.5 * radius)
    points = _points(rng, lattice, centre, warp=rng.uniform(0.08, 0.3) * radius)
    thickness = rng.uniform(1.5, max(2.0, 0.3 * radius))
    across = np.abs(points[2]) - np.float32(thickness / 2)
    rim = np.linalg.norm(points[:2] / _ratios(rng, 0.3)[:2], axis=0) - np.float32(radius)
    return [lattice.solid(np.maximum(across, rim))]


KINDS: dict[str, Shape] = {
    shape.__name__: shape for shape in (ellipsoid, blob, shell, parcels, chamber, bent, tube, tree, coil, sheet)
}


def _lattice(shape: Sequence[int], centre: np.ndarray, reach: float, radius: float) -> Lattice:
    """Round a centre; `reach` is how far the shape extends, `radius` how large its details are."""
    return _lattice_of_box(shape, centre - reach - 2, centre + reach + 2, max(1.0, radius / FINE))


def _lattice_of_path(shape: Sequence[int], path: np.ndarray, thickness: float) -> Lattice:
    margin = thickness + 4
    return _lattice_of_box(shape, path.min(axis=0) - margin, path.max(axis=0) + margin, max(1.0, thickness / FINE * 2))


def _lattice_of_box(shape: Sequence[int], low: np.ndarray, high: np.ndarray, step: float) -> Lattice:
    """Of the part of a box that lies in the volume; at least two voxels of each axis."""
    box, lines = [], []
    for side, a, b in zip(shape, low, high, strict=True):
        start = int(np.clip(math.floor(a), 0, side - 2))
        stop = int(np.clip(math.ceil(b) + 1, start + 2, side))
        box.append(slice(start, stop))
        count = max(2, math.ceil((stop - 1 - start) / step) + 1)  # the last point may lie beyond the last voxel
        lines.append(start + np.float32(step) * np.arange(count, dtype=np.float32))
    return Lattice((box[0], box[1], box[2]), (lines[0], lines[1], lines[2]), step)


def _interpolation(line: np.ndarray, part: slice, step: float) -> np.ndarray:
    """The weights, (points, voxels), that interpolate linearly along an axis."""
    position = (np.arange(part.start, part.stop) - line[0]) / step
    return np.clip(1 - np.abs(np.arange(len(line))[:, None] - position), 0, None).astype(np.float32)


def _points(rng: np.random.Generator, lattice: Lattice, centre: np.ndarray, warp: float) -> np.ndarray:
    """The lattice's points, (3, ...), about the centre, turned at random and displaced by about `warp` voxels."""
    offsets = (line - np.float32(c) for line, c in zip(lattice.lines, centre, strict=True))
    points = np.stack(np.meshgrid(*offsets, indexing="ij"))
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0].astype(np.float32)
    points = np.tensordot(turn, points, axes=(1, 0))
    if warp:
        points += np.float32(warp) * np.stack([random_field(rng, lattice.shape, waves=4) for _ in range(3)])
    return points


def _ratios(rng: np.random.Generator, spread: float) -> np.ndarray:
    """Three factors whose product is 1, to stretch axes."""
    logs = rng.normal(0, spread, 3)
    return np.exp(np.clip(logs - logs.mean(), -0.7, 0.55)).astype(np.float32).reshape(3, 1, 1, 1)


def _blob_distance(rng: np.random.Generator, lattice: Lattice, centre: np.ndarray, radius: float) -> np.ndarray:
    """The radius varies smoothly with the direction."""
    points = _points(rng, lattice, centre, warp=rng.uniform(0, 0.12) * radius)
    points = points / (np.float32(radius) * _ratios(rng, 0.25))
    length = np.maximum(np.linalg.norm(points, axis=0), np.float32(1e-3))
    count = int(rng.integers(4, 9))
    waves = rng.normal(0, rng.uniform(1.2, 3.5), (count, 3)).astype(np.float32)
    phases = rng.uniform(0, 2 * np.pi, (count, 1, 1, 1)).astype(np.float32)
    bumps = np.cos(np.tensordot(waves, points / length, axes=(1, 0)) + phases).sum(axis=0)
    height = np.float32(rng.uniform(0.05, 0.28) / math.sqrt(count / 2))
    return _as_distance(length - np.clip(1 + height * bumps, 0.4, 1.7), lattice.step)


def _cells(points: np.ndarray, seeds: np.ndarray, septum: float) -> list[np.ndarray]:
    """The distances from the cells of a Voronoi diagram, a septum of some voxels between them."""
    seeds = seeds.astype(np.float32)
    squares = [((points - seed[:, None, None, None]) ** 2).sum(axis=0) for seed in seeds]
    cells = []
    for index, (square, seed) in enumerate(zip(squares, seeds, strict=True)):
        others = [other for other in range(len(seeds)) if other != index]
        planes = [(square - squares[other]) / (2 * np.linalg.norm(seed - seeds[other])) for other in others]
        cells.append(np.max(planes, axis=0) + np.float32(septum / 2))
    return cells


def _as_distance(values: np.ndarray, step: float) -> np.ndarray:
    """Values that are 0 on a surface as distances from it, in voxels, to the first order."""
    slope = np.sqrt(sum(part**2 for part in np.gradient(values, step)))
    return values / np.maximum(slope, np.float32(0.2) * slope.mean())


def _tube_distance(
    lattice: Lattice,
    path: np.ndarray,
    thickness: np.ndarray,
    flatness: float = 1.0,
    normal: np.ndarray | None = None,
) -> np.ndarray:
    """From a row of balls, or of ellipsoids that are flat along a normal; at most `FAR`."""
    distance = np.full(lattice.shape, FAR, np.float32)
    for point, radius in zip(path.astype(np.float32), thickness.astype(np.float32), strict=True):
        near = [
            np.searchsorted(line, (c - radius - 4, c + radius + 4))
            for line, c in zip(lattice.lines, point, strict=True)
        ]
        part = tuple(slice(a, b) for a, b in near)
        if any(a == b for a, b in near):
            continue
        x, y, z = np.ix_(*(line[cut] - c for line, cut, c in zip(lattice.lines, part, point, strict=True)))
        square = x * x + y * y + z * z
        if normal is not None:
            along = x * normal[0] + y * normal[1] + z * normal[2]
            square = square + np.float32(1 / flatness**2 - 1) * along * along
        np.minimum(distance[part], np.sqrt(square) - radius, out=distance[part])
    return distance


def _join(first: np.ndarray, second: np.ndarray, width: float) -> np.ndarray:
    """The distance from either, with a fillet of some voxels where they meet."""
    blend = np.clip(0.5 + (second - first) / np.float32(2 * max(width, 0.1)), 0, 1)
    return second + blend * (first - second) - np.float32(max(width, 0.1)) * blend * (1 - blend)


def _curve(
    rng: np.random.Generator,
    start: np.ndarray,
    length: float,
    *,
    step: float,
    bend: float,
    direction: np.ndarray | None = None,
    within: float = math.inf,
) -> np.ndarray:
    """The points of a smooth curve, (n, 3), in voxels.

    Args:
        length: in voxels.
        step: voxels between points.
        bend: how far it turns in all, in radians, about.
        direction: at its start; by default at random.
        within: it turns back at this distance from its start.
    """
    count = max(3, int(length / step) + 1)
    heading = _direction(rng) if direction is None else direction
    axis, points = _direction(rng), [np.asarray(start, float)]
    for _ in range(count - 1):
        axis = _unit(axis + 0.25 * rng.standard_normal(3))
        heading = _unit(heading + bend / count * np.cross(axis, heading))
        offset = points[-1] - start
        if offset @ offset > within**2:
            heading = _unit(heading - 0.5 * _unit(offset))
        points.append(points[-1] + step * heading)
    return np.array(points)


def _profile(rng: np.random.Generator, count: int, thickness: float, spread: float) -> np.ndarray:
    """The thickness along a path, about `thickness`."""
    knots = thickness * np.exp(rng.uniform(-spread, spread, 5))
    return np.maximum(THINNEST, np.interp(np.linspace(0, 4, count), np.arange(5), knots)).astype(np.float32)


def _direction(rng: np.random.Generator) -> np.ndarray:
    return _unit(rng.standard_normal(3))


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-9)
