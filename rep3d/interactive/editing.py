"""One label of a scan while a user edits it: its mask, the prompts that led to it, and the way back.

No disk, no server: `LabelEdit.to_bytes` is what others keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch

from rep3d.interactive import stored_label
from rep3d.interactive.change import Change
from rep3d.interactive.claims import without_effect
from rep3d.interactive.correction import Correction
from rep3d.interactive.grid import Box, hull
from rep3d.interactive.label_state import LabelState, Pending
from rep3d.interactive.prompt_lists import bring_to
from rep3d.interactive.prompts import Prompt, check_inside
from rep3d.interactive.scene import Scene
from rep3d.interactive.steps import NOTHING, Coarse, pack

MAX_PROMPTS = 1000  # of one label


@dataclass(frozen=True)
class Answer:
    """What an edit led to.

    Attributes:
        mask: the whole label, (D, H, W) of bool. Not to be changed: the edit goes on from it.
        changed: the smallest box known to hold all voxels that differ from the last answer; None where none does.
        locked: positive prompts without effect, because they lie in a locked label; of `LabelEdit.show` the new ones.
        forwards: whether the network was asked.
    """

    mask: torch.Tensor
    changed: Box | None
    locked: tuple[Prompt, ...] = ()
    forwards: bool = False

    @property
    def part(self) -> torch.Tensor | None:
        """The mask within `changed`."""
        return None if self.changed is None else self.mask[self.changed]


class LabelEdit:
    """One label: mask, prompts, and steps to undo and redo.

    A method that raises leaves all as it was. Masks are replaced, never changed in place.

    Args:
        shape: voxels of the scan along each axis.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self._state = LabelState.empty(shape)

    @property
    def mask(self) -> torch.Tensor:
        """(D, H, W) of bool. Not to be changed."""
        return self._state.mask

    @property
    def told(self) -> torch.Tensor:
        """The mask as answers have told it, (D, H, W) of bool: without what was refined since. Not to be changed."""
        return self._state.untold.undone_from(self.mask)

    @property
    def untold(self) -> object:
        """What answers have not told of the mask, to be compared with what it was; None where there is nothing."""
        return None if self._state.untold.box is None else self._state.untold

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """All that led to the mask, the oldest first."""
        return self._state.history.prompts

    @property
    def earlier(self) -> tuple[Prompt, ...]:
        """Those that had led to the mask when it was settled, the oldest first; they are the label's no longer."""
        return self._state.earlier

    @property
    def in_force(self) -> tuple[Prompt, ...]:
        """The last ones of them: those since the last painting, which settles those before it."""
        return self._state.history.in_force

    @property
    def undoable(self) -> int:
        """Steps that can be undone."""
        return len(self._state.history.done)

    @property
    def redoable(self) -> int:
        """Steps that can be redone."""
        return len(self._state.history.undone)

    @property
    def steps(self) -> int:
        """All that led to the mask, those that can be undone no more among them."""
        return self._state.history.forgotten.count + self.undoable

    @property
    def is_coarse(self) -> bool:
        """Whether `refine` has something to do."""
        return bool(self.coarse)

    @property
    def coarse(self) -> tuple[Coarse, ...]:
        """What `refine` has to do."""
        return self._state.coarse

    @property
    def coarse_nbytes(self) -> int:
        """In memory, of what is coarse, or is so again after an undo or a redo."""
        steps = (*self._state.history.done, *self._state.history.undone)
        kept = {id(one.region): one for one in chain(self.coarse, *(step.coarse for step in steps))}
        return sum(one.nbytes for one in kept.values())

    def show(self, prompts: Sequence[Prompt], scene: Scene, limits: torch.Tensor | None = None) -> Answer:
        """Let the network answer new prompts, all of them at once.

        Args:
            limits: what the answer takes nothing of beside `scene.taken`, (D, H, W) of bool; None: nothing. It holds
                for these prompts, also where `bring_to` shows them again, as long as their step can be undone.

        Raises:
            ValueError: no prompt or too many, one that lies outside the scan, or as `correct`.
        """
        self._check(prompts, scene, known=len(self.prompts))
        change = Change(self._state)
        change.show(prompts, scene, pack(limits) if limits is not None and bool(limits.any()) else b"")
        return self._tell(change, scene.taken)

    def bring_to(self, prompts: Sequence[Prompt], scene: Scene) -> Answer:
        """Make these, and no others, the label's prompts; what clients ask for that send all of them each time.

        The same ones again lead to the same mask without the network; without the newest, to exactly the earlier mask.
        Where older ones are missing, what followed is undone, and what of it is left is shown again. Masks that were
        painted meanwhile are painted again. The order in which prompts that are known already come does not matter.

        Where locks have changed, or what they lock, what other locks had limited, what took voxels that are locked now,
        and what was without effect on voxels that are locked no more, is undone and answered again, step by step; but
        for steps that can be undone no more.

        Raises:
            ValueError: as `show`; an empty list is allowed here.
        """
        self._check(prompts, scene)
        change = Change(self._state)
        bring_to(change, prompts, scene)
        change.locked = without_effect(change.state.history.in_force, scene)
        return self._tell(change, scene.taken)

    def paint(self, mask: torch.Tensor, *, answered: bool = True) -> Answer:
        """Take over a mask that the user made. It settles all earlier prompts: they bind no longer.

        What answers have not told yet stays, for nobody has painted it: voxels that are as they were told are no hand
        edit. But of a label that was never told the user's own mask counts, where there is one.

        Args:
            mask: (D, H, W) of bool.
            answered: whether the user sees the answer; if not, what the painted mask lacks is told with the next one.

        Raises:
            ValueError: another shape or type.
        """
        self._check_mask(mask)
        is_own = self.untold is not None and bool(mask.any()) and not bool(self.told.any())
        change = Change(self._state)
        change.take_over(mask if is_own else self._state.untold.redone_from(mask))
        if answered:
            return self._tell(change)
        self._state = change.state.told_as(mask)
        return Answer(self.mask, change.changed)

    def begin(self, mask: torch.Tensor) -> Answer:
        """Take over a mask that others made, as one that is painted; it is told with the next answer.

        Raises:
            ValueError: as `paint`.
        """
        self._check_mask(mask)
        change = Change(self._state)
        change.take_over(mask)
        if change.changed is not None:
            untold = self._state.untold.then(self.mask, change.state.mask, change.changed)
            self._state = replace(change.state, untold=untold)
        return Answer(self.mask, change.changed)

    def leave_untold(self, told: torch.Tensor) -> None:
        """Let this mask, (D, H, W) of bool, be the one that the user knows: the next answer tells what has changed."""
        self._state = self._state.told_as(told)

    def settle(self) -> Answer:
        """Keep the mask, as one that was painted, and forget the steps; the prompts become `earlier` ones."""
        change = Change(self._state)
        change.reset()
        change.take_over(self.mask)
        change.state = replace(change.state, earlier=(*self.earlier, *self.prompts))
        return self._tell(change)

    def undo(self, taken: torch.Tensor | None = None) -> Answer:
        """Take the last step back, where there is one. No voxel of `taken`, (D, H, W) of bool, joins the mask.

        What was coarse before the step is so again, and goes on being refined.
        """
        change = Change(self._state)
        if self.undoable:
            change.undo(taken)
        return self._tell(change)

    def redo(self, taken: torch.Tensor | None = None) -> Answer:
        """Take the last step that was undone again, where there is one; `taken` as above."""
        change = Change(self._state)
        if self.redoable:
            change.redo(taken)
        return self._tell(change)

    def reset(self) -> Answer:
        """Forget mask, prompts and steps."""
        change = Change(replace(self._state, earlier=()))
        change.reset()
        return self._tell(change)

    def refine(self, scene: Scene) -> Box | None:
        """Redraw the next tiles that an answer left coarse. What changes is told with the next answer.

        It belongs to the last step: undone with it.

        Returns:
            The box that changed.

        Raises:
            ValueError: as `rep3d.interactive.refine`.
        """
        pending = self.pending
        return None if pending is None else self.accept(pending, pending.refined(scene))

    @property
    def pending(self) -> Pending | None:
        """What `refine` would do next; others may do it meanwhile. None where there is nothing."""
        return self._state.pending

    def accept(self, pending: Pending, finer: Correction) -> Box | None:
        """Take over what `pending` has led to, as `refine` does; nothing, where the user did something meanwhile."""
        if not self._state.is_next(pending):
            return None
        self._state = self._state.with_refined(finer)
        return finer.changed

    def to_bytes(self) -> bytes:
        """All of it, but for what was coarse before a step or after one that was undone; see `from_bytes`."""
        return stored_label.to_bytes(self._state)

    @classmethod
    def from_bytes(cls, content: bytes, name: str = "label edit") -> LabelEdit:
        """What `to_bytes` gave.

        Args:
            name: of its origin, for messages.

        Raises:
            ValueError: it is damaged, or of a newer format.
        """
        state = stored_label.from_bytes(content, name)
        edit = cls(state.mask.shape)
        edit._state = state
        return edit

    def _tell(self, change: Change, taken: torch.Tensor | None = None) -> Answer:
        """Become what the change has led to, without `taken` where it is refined, and tell all that was not told."""
        state = change.state.without(taken)
        changed = hull([state.untold.box, change.changed])
        self._state = replace(state, untold=NOTHING)
        return Answer(self.mask, changed, change.locked, change.forwards)

    def _check_mask(self, mask: torch.Tensor) -> None:
        if mask.shape != self.mask.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"mask must be of bool and of the scan's shape {tuple(self.mask.shape)}, got {mask.dtype}, "
                f"{tuple(mask.shape)}"
            )

    def _check(self, prompts: Sequence[Prompt], scene: Scene, known: int = 0) -> None:
        scan = scene.scan
        if scan.shape != tuple(self.mask.shape):
            raise ValueError(f"image has the shape {scan.shape}, expected that of the label, {tuple(self.mask.shape)}")
        if known + len(prompts) > MAX_PROMPTS:
            raise ValueError(f"the label would have {known + len(prompts)} prompts, expected {MAX_PROMPTS} at most")
        for number, prompt in enumerate(prompts, 1):
            check_inside(prompt, scan, f"prompt {number}")
