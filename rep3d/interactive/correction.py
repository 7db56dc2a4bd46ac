"""From prompts and a mask to the corrected mask of a scan: where to look, what may change, and what must hold.

The network sees a cube of `SIZE` voxels, the working grid. It begins round the newest prompts at the scan's own
resolution and grows while what changes there leaves it, up to the whole scan. Where it grew, cubes at full resolution
then redraw the border of what changed.

Whatever the network answers:
- the voxel of a positive click is in the mask and that of a negative one is not, unless a later contrary click lies
  within one radius of it;
- no voxel of `taken`, the labels that are locked, joins the mask, not even by a click;
- only the changed region changes that touches the crop round the newest prompts; all other voxels stay as they were;
- where there is a mask, new prompts that are all positive take no voxel from it, and new ones that are all negative add
  none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import KDTree

from rep3d.interactive.channels import input_channels, standardize
from rep3d.interactive.grid import Box, Grid, Triple, bounds, box_of, covered, hull, resample
from rep3d.interactive.prompts import Prompt, radius

Network = Callable[[torch.Tensor], torch.Tensor]  # (B, 5, D, H, W) -> logits (B, 1, D, H, W)

SIZE = 64  # voxels of the working grid along each axis
GROWTH = 1.5  # of the working grid's spacing while the change leaves it
RIM = 3 / 16  # of the working grid at each face, where a network knows too little to find all of what leaves it
SHARE = (
    0.02  # of the scan's voxels on the inner side of the rim, whose change makes it grow; or the change of a tube of
)
LEAVING = 4  # voxels there, or of fewer, if it is as thin inside
CROP = 16  # voxels of the first working grid round the newest prompts, on each side: what they change touches this crop
TILES = 2  # at most, before the answer, less one for each time that the grid grew; more are left for later
SLAB = 2**20  # voxels of the scan that are redrawn at once
TOUCHING = np.ones((3, 3, 3), dtype=bool)  # voxels that share a face, an edge or a corner are connected


@dataclass(frozen=True)
class Correction:
    """A corrected mask.

    Attributes:
        before: the mask as it was given; not a copy.
        changed: the smallest box that holds all voxels that differ from before; None where none does.
        part: the corrected mask within that box.
        grid: the working grid at which the answer was found.
        locked: positive prompts without effect, because they lie in a locked label.
        tiles: cubes at full resolution whose border is still as coarse as the grid, see `refine`.
        region: voxels of `grid` that were allowed to change.
        grows: True: the mask before was only added to; False: it was only taken from; None: both.
        kept: the mask before, where the region is; None where `grows` is.
    """

    before: torch.Tensor
    changed: Box | None
    part: torch.Tensor | None
    grid: Grid
    locked: tuple[Prompt, ...]
    tiles: tuple[Grid, ...]
    region: torch.Tensor
    grows: bool | None
    kept: torch.Tensor | None

    @cached_property
    def mask(self) -> torch.Tensor:
        """The label against the rest, bool, of the scan's shape; where that is large, `part` is had for less."""
        mask = self.before.clone()
        if self.changed is not None and self.part is not None:
            mask[self.changed] = self.part
        return mask


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
    grow: bool = True,
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
        tiles: how many cubes at full resolution to redraw before answering; each time that the grid grew counts as one.
        grow: let the working grid grow while the change leaves it.

    Raises:
        ValueError: no new prompt, one that lies outside the scan, shapes that differ, an image that is not finite where
            the network looks, or an answer that is not.
    """
    scan = Grid.of_scan(image.shape, spacing)
    previous = torch.zeros(scan.shape, dtype=torch.bool) if previous is None else previous
    taken = torch.zeros(scan.shape, dtype=torch.bool) if taken is None else taken
    _check(scan, prompts, new, previous, taken)
    if tiles < 0:
        raise ValueError(f"tiles must be 0 or more, got {tiles}")
    first = _first_grid(scan, prompts[-new:], size)
    looks, grid, coarse, region, logits = _look(network, image, scan, first, prompts, new, previous, taken, grow)
    claims = _claims(prompts, scan)
    todo = tuple(_tiles(scan, grid, coarse, region, prompts[-1], size))
    direction, where = grows(previous, prompts[-new:]), _touched(region, grid, scan)
    kept = None if direction is None or where is None else previous[where].clone()
    answer = Correction(previous, None, None, grid, _locked(claims, prompts, taken), todo, region, direction, kept)
    return _redrawn(network, image, scan, answer, prompts, claims, taken, max(tiles - looks + 1, 0), logits)


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
    """The answer with the next of its tiles redrawn at full resolution.

    What was given as `previous` may by now be what was answered, or still be what it was.
    """
    scan = Grid.of_scan(image.shape, spacing)
    taken = torch.zeros(scan.shape, dtype=torch.bool) if taken is None else taken
    return _redrawn(network, image, scan, answer, prompts, _claims(prompts, scan), taken, tiles)


def _redrawn(
    network: Network,
    image: torch.Tensor,
    scan: Grid,
    answer: Correction,
    prompts: Sequence[Prompt],
    claims: _Claims,
    taken: torch.Tensor,
    tiles: int,
    logits: torch.Tensor | None = None,
) -> Correction:
    """The answer with what its grid's logits, where given, and the next of its tiles say, and with all promises kept.

    Works on the smallest part of the scan that holds all of it.
    """
    reach = radius(finest_spacing(scan, answer.grid.shape[0]))
    now, later = answer.tiles[:tiles], answer.tiles[tiles:]
    broken = _box_round(claims.voxels[_unkept(claims, answer.before, taken, (0, 0, 0), reach)])
    around = [_touched(answer.region, answer.grid, scan), *(_touched(None, tile, scan) for tile in now)]
    box = hull([answer.changed, broken, *around])
    if box is None:
        return replace(answer, tiles=later)
    start, part = tuple(side.start for side in box), scan.part(box)
    before, locked = answer.before[box], taken[box]
    mask = before.clone()
    if answer.changed is not None and answer.part is not None:
        mask[_moved(answer.changed, start, -1)] = answer.part
    inner, where = None, _touched(answer.region, answer.grid, scan)
    if answer.kept is not None and where is not None:  # of the mask before, what no later answer has changed
        inner = _moved(where, start, -1)
        bound = answer.kept & mask[inner] if answer.grows else answer.kept | mask[inner]
    if logits is not None:
        _redraw(mask, part, answer.grid, logits, answer.region, locked)
    for tile in now:
        coarse, kept_out = resample(mask, part, tile) >= 0.5, resample(taken, scan, tile) >= 0.5
        finer = _answer(network, _channels(image, scan, tile, coarse, prompts, kept_out))
        _redraw(mask, part, tile, finer, resample(answer.region, answer.grid, tile) > 0, locked)
    if inner is not None:
        mask[inner] = one_way(mask[inner], bound, answer.grows)
    unkept = _unkept(claims, mask, locked, start, reach)
    mask.numpy()[tuple((claims.voxels[unkept] - start).T)] = claims.positive[unkept]
    changed = bounds(mask != before)
    if changed is None:
        return replace(answer, changed=None, part=None, tiles=later)
    return replace(answer, changed=_moved(changed, start, 1), part=mask[changed].clone(), tiles=later)


def without_effect(prompts: Sequence[Prompt], scan: Grid, taken: torch.Tensor) -> tuple[Prompt, ...]:
    """The positive prompts that lie in a locked label, (D, H, W) of bool; see `Correction.locked`."""
    return _locked(_claims(prompts, scan), prompts, taken)


def unkept_prompts(
    prompts: Sequence[Prompt], mask: torch.Tensor, scan: Grid, taken: torch.Tensor, size: int
) -> tuple[Prompt, ...]:
    """The prompts of which a mask breaks the promise that `correct` gives; arguments as there."""
    claims = _claims(prompts, scan)
    unkept = _unkept(claims, mask, taken, (0, 0, 0), radius(finest_spacing(scan, size)))
    return tuple(prompts[number] for number in np.unique(claims.prompt[unkept]))


def finest_spacing(scan: Grid, size: int = SIZE) -> float:
    """Of the working grid: the scan's smallest, or less where the whole scan fits."""
    return min(*scan.spacing, max(scan.extent) / size)


def one_way(answer: torch.Tensor, before: torch.Tensor, grows: bool | None) -> torch.Tensor:
    """A mask without what it takes from the one before, or adds to it.

    Args:
        answer, before: of bool, of one shape.
        grows: True: it only adds; False: it only takes away; None: both.
    """
    return answer if grows is None else answer | before if grows else answer & before


def grows(before: torch.Tensor, newest: Sequence[Prompt]) -> bool | None:
    """What new prompts do with a mask, for `one_way`: where there is none yet, a network may do as it likes."""
    signs = {prompt.positive for prompt in newest}
    return signs.pop() if len(signs) == 1 and before.any() else None


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
    new: int,
    previous: torch.Tensor,
    taken: torch.Tensor,
    grow: bool,
) -> tuple[int, Grid, torch.Tensor, torch.Tensor, torch.Tensor]:
    """How many grids it took, the one that holds the whole change, on it the mask and what may change, the logits."""
    crop = _crop(grid, prompts[-new:])
    centre = _middle(*_joint_bounds(prompts[-new:]))
    positive = [prompt for prompt in prompts if prompt.positive]
    mixed = len({prompt.positive for prompt in prompts[-new:]}) > 1
    direction = grows(previous, prompts[-new:])
    looks = 1
    while True:
        before = resample(previous, scan, grid) >= 0.5
        locked = resample(taken, scan, grid) >= 0.5
        shown = before
        if mixed and not before.any():  # a network learns negative prompts as corrections of what the others show
            shown = (_answer(network, _channels(image, scan, grid, before, positive, locked)) > 0) & ~locked
        logits = _answer(network, _channels(image, scan, grid, shown, prompts, locked))
        after = one_way((logits > 0) & covered(scan, grid) & ~locked, before, direction)
        region = _reached(after != before, grid, crop)
        spacing, coarsest = grid.spacing[0], _coarsest(scan, grid.shape[0])
        if not grow or spacing >= coarsest or not _goes_on(region, before, scan, grid):
            return looks, grid, after, region, logits
        looks += 1
        grid = clamped_cube(scan, centre, min(spacing * GROWTH, coarsest), grid.shape[0])


def _channels(
    image: torch.Tensor, scan: Grid, grid: Grid, mask: torch.Tensor, prompts: Sequence[Prompt], taken: torch.Tensor
) -> torch.Tensor:
    values, inside = resample(image, scan, grid), covered(scan, grid)
    if not torch.isfinite(values).all():
        raise ValueError("the image is NaN or infinite near the prompts, expected finite values")
    return input_channels(standardize(values, inside), inside, mask, prompts, taken, grid)


def _answer(network: Network, channels: torch.Tensor) -> torch.Tensor:
    logits = network(channels[None])[0, 0].float().cpu()
    if not torch.isfinite(logits).all():
        raise ValueError("the network's answer is NaN or infinite: its weights may be of a training that diverged")
    return logits


def _goes_on(region: torch.Tensor, before: torch.Tensor, scan: Grid, grid: Grid) -> bool:
    """Whether the region enters the rim at a face beyond which the scan goes on.

    It does with more than `SHARE` of the rim's inner side, or by a tube; what only moves the border of the mask before
    is none.
    """
    inside, rim = covered(scan, grid), int(RIM * grid.shape[0])
    for axis in range(3):
        low, high = grid.positions(axis)[[0, -1]].tolist()
        last = (scan.shape[axis] - 1) * scan.spacing[axis]
        volumes = [one.movedim(axis, 0).numpy() for one in (region, before, inside)]
        for goes_on, step in ((low > grid.spacing[axis], 1), (high < last - grid.spacing[axis], -1)):
            layers, mask, scanned = (one[::step][rim:] for one in volumes)
            if goes_on and layers[0].any():
                tube = layers[:LEAVING] & ~_border(mask[: LEAVING + 1])[:LEAVING]
                if layers[0].sum() > SHARE * scanned[0].sum() or _leaves(tube):
                    return True
    return False


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


def _reached(change: torch.Tensor, grid: Grid, crop: tuple[Triple, Triple]) -> torch.Tensor:
    """The connected regions of the change that touch the crop round the newest prompts."""
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


def _redraw(
    mask: torch.Tensor, scan: Grid, grid: Grid, logits: torch.Tensor, region: torch.Tensor, taken: torch.Tensor
) -> None:
    """Set the mask's voxels that lie in the region, or next to it, by the logits; `scan` may be a part of one."""
    where = _touched(region, grid, scan)
    if where is None:
        return
    rows = max(1, SLAB // math.prod(side.stop - side.start for side in where[1:]))
    for start in range(where[0].start, where[0].stop, rows):
        some = (slice(start, min(start + rows, where[0].stop)), *where[1:])
        part = scan.part(some)
        allowed = resample(region, grid, part) > 0
        inside = (resample(logits, grid, part) > 0) & ~taken[some]
        mask[some] = torch.where(allowed, inside, mask[some])


def _touched(region: torch.Tensor | None, grid: Grid, scan: Grid) -> Box | None:
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


class _Claims(NamedTuple):
    """What points and scribbles say of their voxels, the oldest first.

    Attributes:
        positions, voxels: (n, 3).
        places: (n,), each voxel as one number.
        positive: (n,) of bool.
        prompt: (n,), the number of each one's prompt.
    """

    positions: np.ndarray
    voxels: np.ndarray
    places: np.ndarray
    positive: np.ndarray
    prompt: np.ndarray


def _claims(prompts: Sequence[Prompt], scan: Grid) -> _Claims:
    said = [(number, one) for number, one in enumerate(prompts) if one.kind in ("point", "scribble")]
    counts = [len(one.positions) for _, one in said]
    positions = np.concatenate([np.empty((0, 3)), *(one.array.numpy() for _, one in said)])
    voxels = np.rint(positions / scan.spacing).astype(np.int64)
    places = np.ravel_multi_index(tuple(voxels.T), scan.shape)
    positive = np.repeat(np.array([one.positive for _, one in said], dtype=bool), counts)
    return _Claims(positions, voxels, places, positive, np.repeat(np.array([n for n, _ in said], dtype=int), counts))


def _locked(claims: _Claims, prompts: Sequence[Prompt], taken: torch.Tensor) -> tuple[Prompt, ...]:
    """The prompts of which a positive claim is locked."""
    locked = claims.positive & taken.numpy()[tuple(claims.voxels.T)]
    return tuple(dict.fromkeys(prompts[number] for number in np.unique(claims.prompt[locked])))


def _unkept(claims: _Claims, mask: torch.Tensor, taken: torch.Tensor, start: Sequence[int], reach: float) -> np.ndarray:
    """Which claims a part of the mask that begins at a voxel does not keep, though it must, (n,) of bool.

    It need not where a voxel is locked, or a later contrary claim lies within reach, or in the same voxel.
    """
    at = claims.voxels - start
    here = ((at >= 0) & (at < mask.shape)).all(1)
    index = tuple(np.where(here[:, None], at, 0).T)
    unkept = here & (mask.numpy()[index] != claims.positive) & ~(claims.positive & taken.numpy()[index])
    for number in np.unique(claims.prompt[unkept]):
        own = np.flatnonzero(unkept & (claims.prompt == number))
        contrary = (claims.prompt > number) & (claims.positive != claims.positive[own[0]])
        if contrary.any():
            distance, _ = KDTree(claims.positions[contrary]).query(claims.positions[own])
            unkept[own] = (distance > reach) & ~np.isin(claims.places[own], claims.places[contrary])
    return unkept


def _tiles(scan: Grid, grid: Grid, coarse: torch.Tensor, region: torch.Tensor, newest: Prompt, size: int) -> list[Grid]:
    """Cubes at full resolution that cover the border of what changed, the nearest to the newest prompt first."""
    spacing = finest_spacing(scan, size)
    if grid.spacing[0] <= spacing * 1.01:
        return []
    mask = coarse.numpy()
    border = ndimage.binary_dilation(mask) & ~ndimage.binary_erosion(mask, border_value=1) & region.numpy()
    positions = np.argwhere(border) * grid.spacing + grid.origin
    positions = positions[np.linalg.norm(positions - _middle(*newest.bounds), axis=1).argsort(kind="stable")]
    tiles = []
    while len(positions):
        tile = clamped_cube(scan, positions[0].tolist(), spacing, size)
        tiles.append(tile)
        positions = positions[1:][~_well_inside(positions[1:], tile, scan)]
    return tiles


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


def _box_round(voxels: np.ndarray) -> Box | None:
    """The smallest box that holds voxels, (n, 3)."""
    return box_of(zip(voxels.min(0), voxels.max(0), strict=True)) if len(voxels) else None


def _moved(box: Box, start: Sequence[int], sign: int) -> Box:
    x, y, z = (slice(side.start + sign * by, side.stop + sign * by) for side, by in zip(box, start, strict=True))
    return x, y, z
