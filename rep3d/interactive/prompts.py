"""What a user shows the network, and how it becomes two of its input channels.

Training, evaluation and the server draw with the same function. Positions are millimetres along the scan's axes (see
`rep3d.interactive.grid`). Everything is drawn on the working grid from its coordinates, and never resampled: resizing
what was drawn is what costs accuracy most (arXiv 2510.09499).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch

from rep3d.interactive.grid import Grid, Triple

Kind = Literal["point", "scribble", "box", "lasso"]

RADIUS = 3.0  # mm, of the ball at a point, but
RADIUS_IN_VOXELS = (2.0, 4.0)  # never smaller or larger on the working grid
AREA_VALUE = 0.5  # a box and a lasso say less about each of their voxels than a point does
FADING = 0.98  # by which a prompt fades at each later one
MAX_POSITIONS = 100_000


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Args:
        kind: "point"; "scribble": points that lie close together, in any order; "box": two opposite corners, on one
            slice or not; "lasso": the corners of a closed outline on a slice across one of the axes.
        positions: in millimetres along the scan's axes.
        positive: whether it shows the label (or the rest).

    Raises:
        ValueError: a kind that is not known, a position that is not three finite numbers, their wrong number, or a
            lasso that lies in no plane or encloses nothing.
    """

    kind: Kind
    positions: tuple[Triple, ...]
    positive: bool = True

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        for position in self.positions:
            if len(position) != 3 or not all(map(math.isfinite, position)):
                raise ValueError(f"a position of a {self.kind} must be three finite numbers, got {position!r}")
        object.__setattr__(self, "positions", tuple(tuple(map(float, position)) for position in self.positions))
        least, most = {"point": (1, 1), "box": (2, 2), "lasso": (3, MAX_POSITIONS)}.get(self.kind, (1, MAX_POSITIONS))
        if not least <= len(self.positions) <= most:
            wanted = least if least == most else f"{least} to {most}"
            raise ValueError(f"a {self.kind} has {wanted} positions, got {len(self.positions)}")
        if self.kind == "lasso":
            across, corners = self.plane, self.array - self.array[0]
            first, second = (corners[:, axis] for axis in range(3) if axis != across)
            farthest = int(corners.norm(dim=1).argmax())
            if (first * second[farthest] - second * first[farthest]).abs().max() < 1e-6:
                raise ValueError(f"a lasso must enclose an area, its corners lie on a line: {self.positions[:3]}...")

    @property
    def plane(self) -> int:
        """The axis across which a lasso lies."""
        for axis in range(3):
            values = [position[axis] for position in self.positions]
            if max(values) - min(values) < 1e-3:
                return axis
        raise ValueError(f"a lasso must lie in a slice across one axis, got {self.positions[:3]}...")

    @cached_property
    def bounds(self) -> tuple[Triple, Triple]:
        """Its smallest and its largest position along each axis."""
        columns = list(zip(*self.positions, strict=True))
        return tuple(map(min, columns)), tuple(map(max, columns))  # type: ignore[return-value]

    @cached_property
    def array(self) -> torch.Tensor:
        """Its positions, (n, 3) of float64."""
        return torch.tensor(self.positions, dtype=torch.float64)


def point(voxel: Sequence[float], spacing: Sequence[float], positive: bool = True) -> Prompt:
    """The point at a voxel of the scan."""
    return Prompt("point", (_millimetres(voxel, spacing),), positive)


def scribble(voxels: Sequence[Sequence[float]], spacing: Sequence[float], positive: bool = True) -> Prompt:
    """The scribble over voxels of the scan."""
    return Prompt("scribble", tuple(_millimetres(voxel, spacing) for voxel in voxels), positive)


def box(first: Sequence[float], last: Sequence[float], spacing: Sequence[float], positive: bool = True) -> Prompt:
    """The box from a voxel of the scan to another, both included, in any order."""
    low = [min(a, b) - 0.5 for a, b in zip(first, last, strict=True)]
    high = [max(a, b) + 0.5 for a, b in zip(first, last, strict=True)]
    return Prompt("box", (_millimetres(low, spacing), _millimetres(high, spacing)), positive)


def lasso(voxels: Sequence[Sequence[float]], spacing: Sequence[float], positive: bool = True) -> Prompt:
    """The outline through voxels of one slice of the scan."""
    return Prompt("lasso", tuple(_millimetres(voxel, spacing) for voxel in voxels), positive)


def check_inside(prompt: Prompt, scan: Grid, name: str) -> None:
    """Refuse a prompt that lies outside the scan; of an area a part may.

    Raises:
        ValueError: names the prompt and the position, in voxels.
    """
    low, high = (scan.voxel(position) for position in prompt.bounds)
    if prompt.kind in ("box", "lasso"):
        inside = all(h >= 0 and v < n for v, h, n in zip(low, high, scan.shape, strict=True))
    else:
        inside = scan.contains(low) and scan.contains(high)
    if not inside:
        where = f"voxel {low}" if low == high else f"voxels {low} to {high}"
        raise ValueError(f"{name}, a {prompt.kind} at {where}, lies outside the scan of {scan.shape} voxels")


def radius(spacing: float) -> float:
    """Millimetres from a point to where its ball ends, on a working grid of this spacing."""
    low, high = RADIUS_IN_VOXELS
    return min(max(RADIUS, low * spacing), high * spacing)


def draw(prompts: Sequence[Prompt], grid: Grid) -> torch.Tensor:
    """The prompts, oldest first, as channels of the network's input.

    A point is a ball whose value falls from 1 in its centre to 0 at its border; a scribble is the largest of the balls
    of its positions; boxes and lassos are filled with `AREA_VALUE`. Each prompt fades by `FADING` at each later one;
    where prompts overlap the largest value holds.

    Args:
        prompts: of one label.
        grid: the working grid, with the same spacing along all axes.

    Returns:
        (2, *grid.shape) of float32: positive and negative prompts.
    """
    channels = torch.zeros(2, *grid.shape)
    for channel, positive in zip(channels, (True, False), strict=True):
        dots, values = [torch.zeros(0, 3, dtype=torch.float64)], []
        for age, prompt in enumerate(reversed(prompts)):
            if prompt.positive != positive or not reaches(prompt, grid):
                continue
            value = FADING**age
            if prompt.kind == "box":
                _fill(channel, _box(*prompt.bounds, grid), value * AREA_VALUE)
            elif prompt.kind == "lasso":
                _fill(channel, _lasso(prompt, grid), value * AREA_VALUE)
            else:
                dots.append(_dots(prompt, grid))
                values += [value] * len(dots[-1])
        _balls(channel, torch.cat(dots), torch.tensor(values, dtype=torch.float64), grid)
    return channels


def reaches(prompt: Prompt, grid: Grid) -> bool:
    """Whether a part of what is drawn of a prompt may lie on a grid."""
    margin = radius(grid.spacing[0]) + grid.spacing[0]
    low, high = prompt.bounds
    last = [o + s * (n - 1) for o, s, n in zip(*grid, strict=True)]
    return all(h >= o - margin and lo <= e + margin for lo, h, o, e in zip(low, high, grid.origin, last, strict=True))


def _millimetres(voxel: Sequence[float], spacing: Sequence[float]) -> Triple:
    x, y, z = (float(v) * float(s) for v, s in zip(voxel, spacing, strict=True))
    return x, y, z


def _fill(channel: torch.Tensor, area: torch.Tensor, value: float) -> None:
    channel[area] = channel[area].clamp(min=value)


def _box(low: Sequence[float], high: Sequence[float], grid: Grid) -> torch.Tensor:
    """Voxels whose centre lies in the box, which is at least one voxel thick."""
    sides = []
    for axis in range(3):
        middle = (low[axis] + high[axis]) / 2
        half = max((high[axis] - low[axis]) / 2, grid.spacing[axis] / 2 + 1e-6)
        sides.append((grid.positions(axis) - middle).abs() <= half)
    return sides[0][:, None, None] & sides[1][:, None] & sides[2]


def _lasso(prompt: Prompt, grid: Grid) -> torch.Tensor:
    """Voxels of the outline's slice whose centre lies in it, by the even-odd rule."""
    across = prompt.plane
    first, second = (axis for axis in range(3) if axis != across)
    x, y = grid.positions(first)[:, None], grid.positions(second)[None]
    inside = torch.zeros(grid.shape[first], grid.shape[second], dtype=torch.bool)
    corners = prompt.array
    edges = torch.stack([corners, corners.roll(-1, 0)])
    for start, end in zip(*(ends[..., None, None].split(256) for ends in edges), strict=True):
        crosses = (x > torch.minimum(start[:, first], end[:, first])) & (
            x <= torch.maximum(start[:, first], end[:, first])
        )
        slope = (end[:, second] - start[:, second]) / (end[:, first] - start[:, first])
        below = y < start[:, second] + slope * (x - start[:, first])
        inside ^= (crosses & below).sum(0) % 2 == 1
    slab = (grid.positions(across) - float(corners[0, across])).abs() <= grid.spacing[across] / 2 + 1e-6
    area = inside.unsqueeze(across) & slab.view([-1 if axis == across else 1 for axis in range(3)])
    if not area.any():  # it lies between the voxels' centres, or beside the grid
        low, high = prompt.bounds
        middle = grid.voxel([(start + end) / 2 for start, end in zip(low, high, strict=True)])
        if grid.contains(middle) and max(high[first] - low[first], high[second] - low[second]) < 2 * grid.spacing[0]:
            area[middle] = True
    return area


def _dots(prompt: Prompt, grid: Grid) -> torch.Tensor:
    """The positions in voxels of the grid, (n, 3) of float64."""
    indices = (prompt.array - torch.tensor(grid.origin)) / torch.tensor(grid.spacing)
    return (indices * 2).round().unique(dim=0) / 2 if len(indices) > 1000 else indices  # half a voxel is fine enough


def _balls(channel: torch.Tensor, indices: torch.Tensor, values: torch.Tensor, grid: Grid) -> None:
    """The largest of value (1 - distance / radius) over all positions, given in voxels of the grid, (n, 3)."""
    reach = radius(grid.spacing[0]) / grid.spacing[0]  # voxels
    span = torch.arange(-math.ceil(reach), math.ceil(reach) + 1)
    last = torch.tensor(grid.shape)[:, None] - 1
    for some, heights in zip(indices.split(500), values.split(500), strict=True):
        voxels = some.round().long()[:, :, None] + span  # (n, 3, span)
        x, y, z = (voxels - some[:, :, None]).square().unbind(1)
        distance = (x[:, :, None, None] + y[:, None, :, None] + z[:, None, None]).sqrt() / reach
        i, j, k = ((voxels >= 0) & (voxels <= last)).unbind(1)
        drawn = (distance < 1) & i[:, :, None, None] & j[:, None, :, None] & k[:, None, None]
        i, j, k = voxels.unbind(1)
        flat = (i[:, :, None, None] * grid.shape[1] + j[:, None, :, None]) * grid.shape[2] + k[:, None, None]
        found = (heights[:, None, None, None] * (1 - distance))[drawn].to(channel.dtype)
        channel.view(-1).scatter_reduce_(0, flat[drawn], found, "amax")
