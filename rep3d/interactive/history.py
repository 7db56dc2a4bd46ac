"""The steps that led to a label's mask and those that were undone: which of them are kept, and what of the others."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from rep3d.interactive.grid import Box
from rep3d.interactive.prompts import Prompt
from rep3d.interactive.steps import Coarse, Step

MAX_STEPS = 50  # that can be undone, and as many to redo
MIN_STEPS = 20  # that can be undone although they take more than the next number
MAX_STEP_BYTES = 2**24  # of more steps together; the oldest go first
MOST_STEP_BYTES = 2**26  # of any number of steps, but the newest one stays
MAX_COARSE_STEPS = 5  # the newest ones, that go on being refined where they are undone to


@dataclass(frozen=True)
class Forgotten:
    """Of steps that can be undone no more, what is needed where older prompts vanish.

    Attributes:
        count: how many they are.
        prompts: of all of them, the oldest first.
        in_force: the last of these, which no painting has settled.
        painting: all that was painted in them, as one step.
    """

    count: int = 0
    prompts: tuple[Prompt, ...] = ()
    in_force: tuple[Prompt, ...] = ()
    painting: Step | None = None

    def then(self, step: Step) -> Forgotten:
        """With the next step."""
        if step.painted:
            painting = step if self.painting is None else self.painting.and_then(step)
            return Forgotten(self.count + 1, self.prompts + step.prompts, (), painting)
        return Forgotten(self.count + 1, self.prompts + step.prompts, self.in_force + step.prompts, self.painting)

    @property
    def steps(self) -> list[Step]:
        """As far as they are known, and without what they changed, but for what was painted."""
        settled = self.prompts[: len(self.prompts) - len(self.in_force)]
        paintings = [] if self.painting is None else [self.painting]
        return [Step(settled, False, None, b"", b""), *paintings, Step(self.in_force, False, None, b"", b"")]


@dataclass(frozen=True)
class History:
    """The steps of a label. It is never changed: what changes gives another one.

    Attributes:
        done: those that can be undone, the oldest first.
        undone: those that can be redone, the next one last.
        forgotten: those before the ones that can be undone.
    """

    done: tuple[Step, ...] = ()
    undone: tuple[Step, ...] = ()
    forgotten: Forgotten = Forgotten()

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """All that led to the mask, the oldest first."""
        return self.forgotten.prompts + tuple(prompt for step in self.done for prompt in step.prompts)

    @property
    def in_force(self) -> tuple[Prompt, ...]:
        """The last ones of them: those since the last painting, which settles those before it."""
        prompts = self.forgotten.in_force
        for step in self.done:
            prompts = () if step.painted else prompts + step.prompts
        return prompts

    def then(self, step: Step) -> History:
        """With a new step, after which nothing can be redone; the oldest ones are forgotten where they are too many."""
        done, forgotten = [*self.done, step], self.forgotten
        done[:-MAX_COARSE_STEPS] = [replace(old, coarse=()) for old in done[:-MAX_COARSE_STEPS]]
        while _are_too_many(done):
            forgotten = forgotten.then(done.pop(0))
        return History(tuple(done), (), forgotten)

    def back(self, coarse: tuple[Coarse, ...]) -> History:
        """With the last step undone, after which this was left to refine."""
        *done, step = self.done
        return replace(self, done=tuple(done), undone=(*self.undone, replace(step, coarse=coarse)))

    def forth(self, coarse: tuple[Coarse, ...]) -> History:
        """With the last step redone that was undone, before which this was left to refine."""
        *undone, step = self.undone
        return replace(self, done=(*self.done, replace(step, coarse=coarse)), undone=tuple(undone))

    def with_refined(self, mask: torch.Tensor, finer: torch.Tensor, changed: Box) -> History:
        """Where the mask (D, H, W) became a finer one within the box: as part of the last step, if it can be undone."""
        done, undone = list(self.done), list(self.undone)
        done[-1:] = [step.then(mask, finer, changed) for step in done[-1:]]
        undone[-1:] = [step.after(mask, finer, changed) for step in undone[-1:]]
        return replace(self, done=tuple(done), undone=tuple(undone))


def _are_too_many(steps: list[Step]) -> bool:
    count, size = len(steps), sum(len(step.joined) + len(step.left) + len(step.limits) for step in steps)
    is_large = (count > MIN_STEPS and size > MAX_STEP_BYTES) or size > MOST_STEP_BYTES
    return count > 1 and (count > MAX_STEPS or is_large)
