"""From prompts and a mask to the corrected mask of a scan: where to look, what may change, and what must hold.

The network sees a cube of `SIZE` voxels, the working grid. It begins round the newest prompts at the scan's own
resolution and grows while the change touches its border, up to the whole scan. Where it grew, cubes at full resolution
then redraw the border of what changed.

Whatever the network answers:
- the voxel of a positive click is in the mask and that of a negative one is not, unless a later contrary click lies
  within one radius of it;
- no voxel of `taken`, the labels that are locked, joins the mask, not even by a click;
- only the changed region changes that touches the crop round the newest prompts; all other voxels stay as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage

from rep3d.interactive.channels import input_channels, standardize
from rep3d.interactive.grid import Grid, Triple, covered, resample
from rep3d.interactive.prompts import Prompt, radius

Network = Callable[[torch.Tensor], torch.Tensor]  # (B, 5, D, H, W) -> logits (B, 1, D, H, W)

SIZE = 64  # voxels of the working grid along each axis
GROWTH = 1.5  # of the working grid's spacing while the change touches its border
TOUCHING = 0.02  # share of the scan's voxels on a face whose change makes it grow
CROP = 16  # voxels of the first working grid round the newest prompts, on each side: what they change touches this crop
TILES = 4  # at most, before the answer; more are left for later


@dataclass(frozen=True)
class Correction:
    """A corrected mask.

    Attributes:
        mask: the label against the rest, bool, of the scan's shape.
        changed: the smallest box that holds all voxels that differ from before; None where none does.
        grid: the working grid at which the answer was found.
        locked: positive prompts without effect, because they lie in a locked label.
        tiles: cubes at full resolution whose border is still as coarse as the grid, see `refine`.
        region: voxels of `grid` that were allowed to change.
    """

    mask: torch.Tensor
    changed: tuple[slice, slice, slice] | None
    grid: Grid
    locked: tuple[Prompt, ...]
    tiles: tuple[Grid, ...]
    region: torch.Tensor


def correct(
    network: Network,
    image: torch.Tensor,
    spacing: Sequence[float],
    prompts: Sequence[Prompt],
    *,
    new: int = 1,
    previous: torch.Tensor | None = None,
    taken: torch.Tensor | None = None,
    size: int = SIZE,
    tiles: int = TILES,
) -> Correction:
    """The mask after the newest prompts.

    Args:
        network: gives logits of the label, on the device of its answer's choice.
        image: of the scan, (D, H, W), any type of number.
        spacing: millimetres between its voxels along each axis.
        prompts: of the label, oldest first.
        new: how many of the last ones are not answered yet.
        previous: the mask before them, (D, H, W) of bool; None: empty.
        taken: voxels of locked labels, (D, H, W) of bool; None: none.
        size: voxels of the working grid along each axis; a multiple of what the network takes.
        tiles: how many cubes at full resolution to redraw before answering.

    Raises:
        ValueError: no new prompt, one that lies outside the scan, shapes that differ, or an answer that is not finite.
    """
    scan = Grid.of_scan(image.shape, spacing)
    previous = torch.zeros(scan.shape, dtype=torch.bool) if previous is None else previous
    taken = torch.zeros(scan.shape, dtype=torch.bool) if taken is None else taken
    _check(scan, prompts, new, previous, taken)
    first = _first_grid(scan, prompts[-new:], size)
    crop = _crop(first, prompts[-new:])
    grid, coarse, before, logits = _look(network, image, scan, first, prompts, previous, taken)
    region = _reached(coarse != before, grid, crop)
    mask = previous.clone()
    _redraw(mask, scan, grid, logits, region, taken)
    locked = _keep_promises(mask, scan, prompts, taken)
    todo = tuple(_tiles(scan, grid, coarse, region, prompts[-1], size))
    answer = Correction(mask, None, grid, locked, todo, region)
    answer = refine(network, image, spacing, answer, prompts, taken=taken, tiles=tiles)
    return replace(answer, changed=_bounds(answer.mask != previous))


def refine(
    network: Network,
    image: torch.Tensor,
    spacing: Sequence[float],
    answer: Correction,
    prompts: Sequence[Prompt],
    *,
    taken: torch.Tensor | None = None,
    tiles: int = TILES,
) -> Correction:
    """The answer with the next of its tiles redrawn at full resolution."""
    scan = Grid.of_scan(image.shape, spacing)
    taken = torch.zeros(scan.shape, dtype=torch.bool) if taken is None else taken
    mask = answer.mask.clone()
    for tile in answer.tiles[:tiles]:
        coarse = resample(mask, scan, tile) >= 0.5
        locked = resample(taken, scan, tile) >= 0.5
        logits = _answer(network, _channels(image, scan, tile, coarse, prompts, locked))
        region = resample(answer.region, answer.grid, tile) > 0
        _redraw(mask, scan, tile, logits, region, taken)
    _keep_promises(mask, scan, prompts, taken)
    changed = _bounds(mask != answer.mask)
    return replace(answer, mask=mask, changed=changed, tiles=answer.tiles[tiles:])


def finest_spacing(scan: Grid, size: int = SIZE) -> float:
    """Of the working grid: the scan's smallest, or less where the whole scan fits."""
    return min(*scan.spacing, max(scan.extent) / size)


def _check(scan: Grid, prompts: Sequence[Prompt], new: int, previous: torch.Tensor, taken: torch.Tensor) -> None:
    if not 1 <= new <= len(prompts):
        raise ValueError(f"new must be 1 to the number of prompts, {len(prompts)}, got {new}")
    for name, mask in (("previous", previous), ("taken", taken)):
        if tuple(mask.shape) != scan.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"{name} must be of bool and of the image's shape {scan.shape}, got {mask.dtype}, {tuple(mask.shape)}"
            )
    for number, prompt in enumerate(prompts, 1):
        check_inside(prompt, scan, f"prompt {number}")


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


def _first_grid(scan: Grid, newest: Sequence[Prompt], size: int) -> Grid:
    """Round the newest prompts, with a third of their extent to spare."""
    low, high = _joint_bounds(newest)
    extent = max(end - start for start, end in zip(low, high, strict=True)) * 4 / 3
    spacing = min(max(finest_spacing(scan, size), extent / size), _coarsest(scan, size))
    return clamped_cube(scan, _middle(low, high), spacing, size)


def _coarsest(scan: Grid, size: int) -> float:
    return max(max(scan.extent) / size, finest_spacing(scan, size))


def _joint_bounds(prompts: Sequence[Prompt]) -> tuple[Triple, Triple]:
    lows, highs = zip(*(prompt.bounds for prompt in prompts), strict=True)
    return tuple(map(min, zip(*lows, strict=True))), tuple(map(max, zip(*highs, strict=True)))  # type: ignore[return-value]


def _middle(low: Triple, high: Triple) -> list[float]:
    return [(start + end) / 2 for start, end in zip(low, high, strict=True)]


def clamped_cube(scan: Grid, centre: Sequence[float], spacing: float, size: int) -> Grid:
    """A working grid round a position, moved so that no part of it lies outside the scan where that can be."""
    edge, moved = spacing * size, []
    for c, voxel, extent in zip(centre, scan.spacing, scan.extent, strict=True):
        low, high = -voxel / 2 + edge / 2, extent - voxel / 2 - edge / 2
        moved.append(min(max(c, low), high) if low <= high else (extent - voxel) / 2)
    return Grid.cube(moved, spacing, size)


def _crop(grid: Grid, newest: Sequence[Prompt]) -> tuple[Triple, Triple]:
    """Millimetres from where to where the crop round the newest prompts goes."""
    low, high = _joint_bounds(newest)
    margin = CROP * grid.spacing[0]
    return tuple(x - margin for x in low), tuple(x + margin for x in high)  # type: ignore[return-value]


def _look(
    network: Network,
    image: torch.Tensor,
    scan: Grid,
    grid: Grid,
    prompts: Sequence[Prompt],
    previous: torch.Tensor,
    taken: torch.Tensor,
) -> tuple[Grid, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The working grid that holds the whole change, the masks after and before on it, and the logits."""
    centre = _middle(*prompts[-1].bounds)
    while True:
        before = resample(previous, scan, grid) >= 0.5
        locked = resample(taken, scan, grid) >= 0.5
        logits = _answer(network, _channels(image, scan, grid, before, prompts, locked))
        after = (logits > 0) & covered(scan, grid) & ~locked
        spacing, coarsest = grid.spacing[0], _coarsest(scan, grid.shape[0])
        if spacing >= coarsest or not _touches_border(after != before, scan, grid):
            return grid, after, before, logits
        grid = clamped_cube(scan, centre, min(spacing * GROWTH, coarsest), grid.shape[0])


def _channels(
    image: torch.Tensor, scan: Grid, grid: Grid, mask: torch.Tensor, prompts: Sequence[Prompt], taken: torch.Tensor
) -> torch.Tensor:
    inside = covered(scan, grid)
    return input_channels(standardize(resample(image, scan, grid), inside), inside, mask, prompts, taken, grid)


def _answer(network: Network, channels: torch.Tensor) -> torch.Tensor:
    logits = network(channels[None])[0, 0].float().cpu()
    if not torch.isfinite(logits).all():
        raise ValueError("the network's answer is NaN or infinite: its weights may be of a training that diverged")
    return logits


def _touches_border(change: torch.Tensor, scan: Grid, grid: Grid) -> bool:
    """Whether more than a few of the scan's voxels changed on a face beyond which the scan goes on."""
    inside = covered(scan, grid)
    for axis in range(3):
        low, high = grid.positions(axis)[[0, -1]].tolist()
        last = (scan.shape[axis] - 1) * scan.spacing[axis]
        for index, goes_on in ((0, low > grid.spacing[axis]), (-1, high < last - grid.spacing[axis])):
            changed, all_of_them = (int(one.select(axis, index).sum()) for one in (change, inside))
            if goes_on and changed > TOUCHING * all_of_them:
                return True
    return False


def _reached(change: torch.Tensor, grid: Grid, crop: tuple[Triple, Triple]) -> torch.Tensor:
    """The connected regions of the change that touch the crop round the newest prompts."""
    labels, _ = ndimage.label(change.numpy(), np.ones((3, 3, 3)))
    slices = []
    for axis, (low, high) in enumerate(zip(*crop, strict=True)):
        positions = grid.positions(axis)
        inside = ((positions >= low) & (positions <= high)).nonzero().flatten().tolist()
        slices.append(slice(inside[0], inside[-1] + 1) if inside else slice(0, 0))
    touching = np.unique(labels[tuple(slices)])
    return torch.from_numpy(np.isin(labels, touching[touching > 0]))


def _redraw(
    mask: torch.Tensor, scan: Grid, grid: Grid, logits: torch.Tensor, region: torch.Tensor, taken: torch.Tensor
) -> None:
    """Set the mask's voxels that lie in the region, or next to it, by the logits."""
    where = scan.within(grid)
    part = scan.part(where)
    if not all(part.shape):
        return
    allowed = resample(region, grid, part) > 0
    inside = (resample(logits, grid, part) > 0) & ~taken[where]
    mask[where] = torch.where(allowed, inside, mask[where])


def _keep_promises(
    mask: torch.Tensor, scan: Grid, prompts: Sequence[Prompt], taken: torch.Tensor
) -> tuple[Prompt, ...]:
    """Set the voxels of points and scribbles to what they say, and return the positive ones that are locked."""
    locked = []
    for number, prompt in enumerate(prompts):
        if prompt.kind in ("box", "lasso"):
            continue
        later = [other for other in prompts[number + 1 :] if other.positive != prompt.positive]
        for position in prompt.positions:
            voxel = scan.voxel(position)
            if prompt.positive and taken[voxel]:
                locked.append(prompt)
            elif not _contradicted(position, later, scan):
                mask[voxel] = prompt.positive
    return tuple(dict.fromkeys(locked))


def _contradicted(position: Triple, later: Sequence[Prompt], scan: Grid) -> bool:
    reach = radius(finest_spacing(scan))
    for prompt in later:
        if prompt.kind in ("box", "lasso"):
            continue
        nearest = torch.tensor(prompt.positions, dtype=torch.float64) - torch.tensor(position, dtype=torch.float64)
        if nearest.norm(dim=1).min() <= reach:
            return True
    return False


def _tiles(scan: Grid, grid: Grid, coarse: torch.Tensor, region: torch.Tensor, newest: Prompt, size: int) -> list[Grid]:
    """Cubes at full resolution that cover the border of what changed, the nearest to the newest prompt first."""
    spacing = finest_spacing(scan, size)
    if grid.spacing[0] <= spacing * 1.01:
        return []
    mask = coarse.numpy()
    border = ndimage.binary_dilation(mask) & ~ndimage.binary_erosion(mask, border_value=1) & region.numpy()
    positions = torch.from_numpy(np.argwhere(border)) * torch.tensor(grid.spacing) + torch.tensor(grid.origin)
    positions = positions[(positions - torch.tensor(_middle(*newest.bounds))).norm(dim=1).argsort()]
    tiles = []
    while len(positions):
        tile = clamped_cube(scan, positions[0].tolist(), spacing, size)
        tiles.append(tile)
        positions = positions[1:][~_well_inside(positions[1:], tile, scan)]
    return tiles


def _well_inside(positions: torch.Tensor, tile: Grid, scan: Grid) -> torch.Tensor:
    """Which positions a tile can judge: at its very border it knows little, except where the scan ends there, too."""
    inside = torch.ones(len(positions), dtype=torch.bool)
    for axis in range(3):
        low, high = tile.positions(axis)[[0, -1]].tolist()
        margin = tile.extent[axis] / 16
        last = (scan.shape[axis] - 1) * scan.spacing[axis]
        if low > tile.spacing[axis]:
            inside &= positions[:, axis] > low + margin
        if high < last - tile.spacing[axis]:
            inside &= positions[:, axis] < high - margin
    return inside


def _bounds(change: torch.Tensor) -> tuple[slice, slice, slice] | None:
    """The smallest box that holds all true voxels."""
    sides = []
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        indices = change.any(dim=others[1]).any(dim=others[0]).nonzero().flatten()
        if not len(indices):
            return None
        sides.append(slice(int(indices[0]), int(indices[-1]) + 1))
    return sides[0], sides[1], sides[2]
