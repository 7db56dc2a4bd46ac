"""Several steps of a label, one after the other, that are told as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from rep3d.interactive.correction import Correction, correct
from rep3d.interactive.grid import Box, bounds, hull, whole
from rep3d.interactive.label_state import LabelState
from rep3d.interactive.prompts import Prompt
from rep3d.interactive.scene import Scene
from rep3d.interactive.steps import Coarse, Step, unpack

MAX_COARSE = 50  # answers at a time that are left to refine; before another one comes the oldest is finished


class Change:
    """What becomes of a label, step by step; the label itself stays as it was.

    Attributes:
        state: of the label after the steps so far.
        changed: the smallest box known to hold all voxels that they changed; None: none.
        locked: positive prompts that they have shown without effect, because they lie in a locked label.
        forwards: whether the network was asked.
    """

    def __init__(self, state: LabelState) -> None:
        self.state = state
        self.changed: Box | None = None
        self.locked: tuple[Prompt, ...] = ()
        self.forwards = False

    def show(self, prompts: Sequence[Prompt], scene: Scene, limits: bytes = b"") -> None:
        """Let the network answer new prompts, all of them at once.

        Args:
            limits: see `Step`; what they hold is taken, too.

        Raises:
            ValueError: as `correct`.
        """
        if len(self.state.coarse) >= MAX_COARSE:  # the user is faster than the background
            self._finish_oldest(scene)
        state = self.state
        in_force = (*state.history.in_force, *prompts)
        answer = correct(_limited(scene, limits), in_force, new=len(prompts), previous=state.mask)
        coarse = (*state.coarse, *([Coarse.of(answer)] if answer.tiles else []))
        if limits:
            coarse = tuple(one.without(limits) for one in coarse)
        locks = scene.locks if _is_limited(answer, scene) else ""
        step = Step.between(state.mask, answer.mask, answer.changed, tuple(prompts), locks=locks)
        step = replace(step, limits=limits)
        self._become(state.then(step, answer.mask, coarse), answer.changed)
        self.locked += tuple(one for one in answer.locked if one in prompts and one not in self.locked)
        self.forwards = True

    def undo(self, taken: torch.Tensor | None) -> None:
        """Take the last step back; no voxel of `taken`, (D, H, W) of bool, joins the mask."""
        step = self.state.history.done[-1]
        self._become(self.state.back(taken), step.box)

    def redo(self, taken: torch.Tensor | None) -> None:
        """Take the step that was undone last again; `taken` as above."""
        step = self.state.history.undone[-1]
        self._become(self.state.forth(taken), step.box)

    def take_over(self, mask: torch.Tensor) -> None:
        """Make a copy of this, (D, H, W) of bool, the mask, as one painted step where it is another one."""
        if (box := bounds(mask != self.state.mask)) is not None:
            self._paint(mask.clone(), box)

    def repaint(self, step: Step) -> None:
        """Paint again what a step had painted, as a step of its own."""
        mask = step.redone_from(self.state.mask)
        self._paint(mask, bounds(mask != self.state.mask))

    def reset(self) -> None:
        """Forget mask, prompts and steps, but for prompts that were the label's no longer."""
        box = hull([self.state.untold.box, self.state.box])
        self._become(replace(LabelState.empty(self.state.mask.shape), earlier=self.state.earlier), box)

    def _finish_oldest(self, scene: Scene) -> None:
        pending = self.state.pending
        if pending is not None:
            finer = pending.refined(replace(scene, tiles=len(pending.coarse.tiles)))
            self.state = self.state.with_refined(finer)

    def _paint(self, mask: torch.Tensor, box: Box | None) -> None:
        self._become(self.state.then(Step.between(self.state.mask, mask, box, painted=True), mask), box)

    def _become(self, state: LabelState, changed: Box | None) -> None:
        self.state, self.changed = state, hull([self.changed, changed])


def _limited(scene: Scene, limits: bytes) -> Scene:
    """The scene where these, packed, are taken, too."""
    if not limits:
        return scene
    also = unpack(limits, whole(scene.scan.shape))
    return replace(scene, taken=also if scene.taken is None else scene.taken | also)


def _is_limited(answer: Correction, scene: Scene) -> bool:
    """Whether some of what is taken lies in the answer's grid."""
    if scene.taken is None:
        return False
    scan, grid = scene.scan, answer.grid
    last = [
        start + step * (count - 1) for start, step, count in zip(grid.origin, grid.spacing, grid.shape, strict=True)
    ]
    x, y, z = (
        slice(max(low, 0), high + 1) for low, high in zip(scan.voxel(grid.origin), scan.voxel(last), strict=True)
    )
    return bool(scene.taken[x, y, z].any())
