"""A label as it stands: its mask, how it came about, what is left to refine, and what its user was not told yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from rep3d.interactive.correction import Correction, refine
from rep3d.interactive.grid import Box, bounds, hull, whole
from rep3d.interactive.history import History
from rep3d.interactive.prompts import Prompt
from rep3d.interactive.scene import Scene
from rep3d.interactive.steps import NOTHING, Coarse, Step, pack, unpack


@dataclass(frozen=True)
class LabelState:
    """One label at one time. It is never changed, nor is its mask: what changes gives another one.

    Attributes:
        mask: (D, H, W) of bool.
        box: that holds the mask; not always the smallest. None: there is no voxel.
        history: the steps that led to it.
        coarse: answers that are left to refine, the oldest first.
        untold: from the mask as the last answer told it to the mask as it is.
        earlier: prompts that led to what the history begins with, the oldest first; they are the label's no longer.
    """

    mask: torch.Tensor
    box: Box | None = None
    history: History = History()
    coarse: tuple[Coarse, ...] = ()
    untold: Step = NOTHING
    earlier: tuple[Prompt, ...] = ()

    @classmethod
    def empty(cls, shape: Sequence[int]) -> LabelState:
        """Of a scan of so many voxels along each axis."""
        return cls(torch.zeros(tuple(shape), dtype=torch.bool))

    def then(self, step: Step, mask: torch.Tensor, coarse: tuple[Coarse, ...] = ()) -> LabelState:
        """After a new step, which led to this mask and left so much to refine."""
        history = self.history.then(replace(step, coarse=self.coarse))
        return replace(self, mask=mask, box=hull([self.box, step.box]), history=history, coarse=coarse)

    def back(self, taken: torch.Tensor | None) -> LabelState:
        """After the last step was undone; no voxel of `taken` joins the mask."""
        step = self.history.done[-1]
        return replace(
            self,
            mask=step.undone_from(self.mask, taken),
            history=self.history.back(self.coarse),
            coarse=_anew(step.coarse),
        )

    def forth(self, taken: torch.Tensor | None) -> LabelState:
        """After the step that was undone last was redone; `taken` as above."""
        step = self.history.undone[-1]
        return replace(
            self,
            mask=step.redone_from(self.mask, taken),
            history=self.history.forth(self.coarse),
            coarse=_anew(step.coarse),
        )

    def without(self, taken: torch.Tensor | None) -> LabelState:
        """Where nothing of `taken` joins when coarse answers are redrawn."""
        if taken is None or not self.coarse:
            return self
        packed = pack(taken)
        return replace(self, coarse=tuple(one.without(packed) for one in self.coarse))

    def told_as(self, mask: torch.Tensor) -> LabelState:
        """Where the user knows this mask, (D, H, W) of bool: what differs is untold."""
        return replace(self, untold=Step.between(mask, self.mask, bounds(mask != self.mask)))

    @property
    def pending(self) -> Pending | None:
        """What is to be refined next; None where there is nothing."""
        return Pending(self.coarse[0], self.mask, self.history.in_force) if self.coarse else None

    def is_next(self, pending: Pending) -> bool:
        """Whether this is `pending` still, of just this mask."""
        return bool(self.coarse) and self.coarse[0] is pending.coarse and self.mask is pending.mask

    def with_refined(self, finer: Correction) -> LabelState:
        """With what `pending` has led to, as part of the last step, where that can still be undone."""
        first, *others = self.coarse
        coarse = (*([replace(first, tiles=finer.tiles)] if finer.tiles else []), *others)
        if finer.changed is None:
            return replace(self, coarse=coarse)
        return replace(
            self,
            mask=finer.mask,
            box=hull([self.box, finer.changed]),
            history=self.history.with_refined(self.mask, finer.mask, finer.changed),
            coarse=coarse,
            untold=self.untold.then(self.mask, finer.mask, finer.changed),
        )


@dataclass(frozen=True)
class Pending:
    """What a label has to refine next, as it was when it was asked for.

    Attributes:
        coarse: the answer as the label has it.
        mask: of the label at that time.
        prompts: that were in force.
    """

    coarse: Coarse
    mask: torch.Tensor
    prompts: tuple[Prompt, ...]

    def refined(self, scene: Scene) -> Correction:
        """The answer with its next tiles redrawn; `LabelEdit.accept` takes it.

        Neither what the scene has taken joins, nor what was taken when it was answered.

        Raises:
            ValueError: as `rep3d.interactive.refine`.
        """
        taken = scene.taken
        for packed in self.coarse.taken:
            also = unpack(packed, whole(self.mask.shape))
            taken = also if taken is None else taken | also
        return refine(replace(scene, taken=taken), self.coarse.answer(self.mask), self.prompts)


def _anew(coarse: tuple[Coarse, ...]) -> tuple[Coarse, ...]:
    """The same as others, so that nobody's `Pending` is taken for one of them."""
    return tuple(replace(one) for one in coarse)
