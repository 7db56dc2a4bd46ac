"""From prompts and a mask to the corrected mask of a scan: where to look, what may change, and what must hold.

The network sees a cube of `SIZE` voxels, the working grid. It begins round the newest prompts at the scan's own
resolution and grows while what changes there leaves it, up to the whole scan. Where it grew, cubes at full resolution
then redraw the border of what changed.

Whatever the network answers:
- the voxel of a positive click is in the mask and that of a negative one is not, unless a later contrary click lies
  within one radius of it;
- no voxel of `Scene.taken`, the labels that are locked, joins the mask, not even by a click;
- only the changed region changes that touches the crop round the newest prompts; all other voxels stay as they were;
- where there is a mask, new prompts that are all positive take no voxel from it, and new ones that are all negative add
  none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from rep3d.interactive.channels import input_channels, standardize
from rep3d.interactive.claims import Claims, reach_of
from rep3d.interactive.grid import Box, Grid, bounds, box_of, covered, hull, resample
from rep3d.interactive.prompts import Prompt, check_inside
from rep3d.interactive.redrawing import border_tiles, redraw, touched
from rep3d.interactive.scene import Scene
from rep3d.interactive.working_grid import crop_round, first_grid, goes_on, next_grid, reached


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
    scene: Scene, prompts: Sequence[Prompt], *, new: int = 1, previous: torch.Tensor | None = None
) -> Correction:
    """The mask after the newest prompts.

    Args:
        scene: what it is corrected in; before answering, so many of its tiles are redrawn, less one for each time that
            the working grid grew.
        prompts: of the label, oldest first.
        new: how many of the last ones are not answered yet.
        previous: the mask before them, (D, H, W) of bool; None: empty.

    Raises:
        ValueError: no new prompt, one that lies outside the scan, shapes that differ, an image that is not finite where
            the network looks, or an answer that is not.
    """
    previous = torch.zeros(scene.scan.shape, dtype=torch.bool) if previous is None else previous
    _check(scene, prompts, new, previous)
    newest = prompts[-new:]
    look = _look(scene, prompts, newest, previous)
    claims = Claims.of(prompts, scene.scan)
    direction, where = grows(previous, newest), touched(look.region, look.grid, scene.scan)
    answer = Correction(
        before=previous,
        changed=None,
        part=None,
        grid=look.grid,
        locked=claims.locked(prompts, scene.locked),
        tiles=border_tiles(scene.scan, look.grid, look.mask, look.region, prompts[-1]),
        region=look.region,
        grows=direction,
        kept=None if direction is None or where is None else previous[where].clone(),
    )
    return _redrawn(scene, answer, prompts, claims, max(scene.tiles - look.grown, 0), look.logits)


def refine(scene: Scene, answer: Correction, prompts: Sequence[Prompt]) -> Correction:
    """The answer with the next of its tiles redrawn at full resolution.

    What was given as `previous` may by now be what was answered, or still be what it was.

    Args:
        scene: that of the answer; so many of its tiles are redrawn.
        answer: what `correct` gave, or this.
        prompts: those of the answer.

    Raises:
        ValueError: an image that is not finite where the network looks, or an answer that is not.
    """
    return _redrawn(scene, answer, prompts, Claims.of(prompts, scene.scan), scene.tiles)


def _redrawn(
    scene: Scene,
    answer: Correction,
    prompts: Sequence[Prompt],
    claims: Claims,
    tiles: int,
    logits: torch.Tensor | None = None,
) -> Correction:
    """The answer with what its grid's logits, where given, and the next of its tiles say, and with all promises kept.

    Works on the smallest part of the scan that holds all of it.
    """
    scan, taken = scene.scan, scene.locked
    reach = reach_of(scan, answer.grid.shape[0])
    now, later = answer.tiles[:tiles], answer.tiles[tiles:]
    broken = _box_round(claims.voxels[claims.unkept(answer.before, taken, (0, 0, 0), reach)])
    where = touched(answer.region, answer.grid, scan)
    box = hull([answer.changed, broken, where, *(touched(None, tile, scan) for tile in now)])
    if box is None:
        return replace(answer, tiles=later)
    start, part = tuple(side.start for side in box), scan.part(box)
    before, locked = answer.before[box], taken[box]
    mask = before.clone()
    if answer.changed is not None and answer.part is not None:
        mask[_moved(answer.changed, start, -1)] = answer.part
    inner = None
    if answer.kept is not None and where is not None:  # of the mask before, what no later answer has changed
        inner = _moved(where, start, -1)
        bound = answer.kept & mask[inner] if answer.grows else answer.kept | mask[inner]
    if logits is not None:
        redraw(mask, part, answer.grid, logits, answer.region, locked)
    for tile in now:
        coarse, kept_out = resample(mask, part, tile) >= 0.5, resample(taken, scan, tile) >= 0.5
        finer = _logits(scene, tile, coarse, prompts, kept_out)
        redraw(mask, part, tile, finer, resample(answer.region, answer.grid, tile) > 0, locked)
    if inner is not None:
        mask[inner] = one_way(mask[inner], bound, answer.grows)
    unkept = claims.unkept(mask, locked, start, reach)
    mask.numpy()[tuple((claims.voxels[unkept] - start).T)] = claims.positive[unkept]
    changed = bounds(mask != before)
    if changed is None:
        return replace(answer, changed=None, part=None, tiles=later)
    return replace(answer, changed=_moved(changed, start, 1), part=mask[changed].clone(), tiles=later)


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


def _check(scene: Scene, prompts: Sequence[Prompt], new: int, previous: torch.Tensor) -> None:
    scan = scene.scan
    if not 1 <= new <= len(prompts):
        raise ValueError(f"new must be 1 to the number of prompts, {len(prompts)}, got {new}")
    for name, mask in (("previous", previous), ("taken", scene.locked)):
        if tuple(mask.shape) != scan.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"{name} must be of bool and of the image's shape {scan.shape}, got {mask.dtype}, {tuple(mask.shape)}"
            )
    for number, prompt in enumerate(prompts, 1):
        check_inside(prompt, scan, f"prompt {number}")
    if scene.tiles < 0:
        raise ValueError(f"tiles must be 0 or more, got {scene.tiles}")


class _Look(NamedTuple):
    """What the network finds.

    Attributes:
        grid: the working grid that holds the whole change.
        grown: how often it grew.
        mask: on that grid, of bool.
        region: what may change there, of bool.
        logits: of its voxels.
    """

    grid: Grid
    grown: int
    mask: torch.Tensor
    region: torch.Tensor
    logits: torch.Tensor


def _look(scene: Scene, prompts: Sequence[Prompt], newest: Sequence[Prompt], previous: torch.Tensor) -> _Look:
    scan, grid = scene.scan, first_grid(scene.scan, newest, scene.size)
    crop, grown = crop_round(newest, grid), 0
    positive = [prompt for prompt in prompts if prompt.positive]
    mixed = len({prompt.positive for prompt in newest}) > 1
    direction = grows(previous, newest)
    while True:
        before = resample(previous, scan, grid) >= 0.5
        locked = resample(scene.locked, scan, grid) >= 0.5
        shown = before
        if mixed and not before.any():  # a network learns negative prompts as corrections of what the others show
            shown = (_logits(scene, grid, before, positive, locked) > 0) & ~locked
        logits = _logits(scene, grid, shown, prompts, locked)
        after = one_way((logits > 0) & covered(scan, grid) & ~locked, before, direction)
        region = reached(after != before, grid, crop)
        larger = next_grid(scan, grid, newest) if scene.grow else None
        if larger is None or not goes_on(region, before, scan, grid):
            return _Look(grid, grown, after, region, logits)
        grid, grown = larger, grown + 1


def _logits(
    scene: Scene, grid: Grid, mask: torch.Tensor, prompts: Sequence[Prompt], taken: torch.Tensor
) -> torch.Tensor:
    """The network's answer at a grid, of its shape; mask and taken are on it."""
    values, inside = resample(scene.image, scene.scan, grid), covered(scene.scan, grid)
    if not torch.isfinite(values).all():
        raise ValueError("the image is NaN or infinite near the prompts, expected finite values")
    channels = input_channels(standardize(values, inside), inside, mask, prompts, taken, grid)
    logits = scene.network(channels[None])[0, 0].float().cpu()
    if not torch.isfinite(logits).all():
        raise ValueError("the network's answer is NaN or infinite: its weights may be of a training that diverged")
    return logits


def _box_round(voxels: np.ndarray) -> Box | None:
    """The smallest box that holds voxels, (n, 3)."""
    return box_of(zip(voxels.min(0), voxels.max(0), strict=True)) if len(voxels) else None


def _moved(box: Box, start: Sequence[int], sign: int) -> Box:
    x, y, z = (slice(side.start + sign * by, side.stop + sign * by) for side, by in zip(box, start, strict=True))
    return x, y, z
