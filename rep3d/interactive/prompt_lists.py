"""From a label to one whose prompts are those of a list, of which as much is remembered as can be.

See `LabelEdit.bring_to`, which says what holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import takewhile

from rep3d.interactive.change import Change
from rep3d.interactive.claims import unkept_prompts
from rep3d.interactive.prompts import Prompt
from rep3d.interactive.scene import Scene
from rep3d.interactive.steps import Step


def bring_to(change: Change, prompts: Sequence[Prompt], scene: Scene) -> None:
    """Make these, and no others, the prompts of the label that is changed.

    Raises:
        ValueError: as `correct`.
    """
    known, wanted = change.state.history.prompts, Counter(prompts)
    kept = sum(1 for _ in takewhile(lambda prompt: _take(wanted, prompt), known))
    if kept == len(known):
        _go_on(change, [prompt for prompt in prompts if _take(wanted, prompt)], scene)
    else:
        _go_back(change, kept, prompts, scene)


def _go_on(change: Change, added: list[Prompt], scene: Scene) -> None:
    """Add prompts; as long as they are those that were undone, by redoing them."""
    _answer_under_these_locks(change, scene)
    while (undone := change.state.history.undone) and (again := undone[-1].prompts):
        if again != tuple(added[: len(again)]) or not undone[-1].holds_under(scene.locks, scene.taken):
            break
        change.redo(scene.taken)
        added = added[len(again) :]
    if added:
        change.show(added, scene)


def _go_back(change: Change, kept: int, prompts: Sequence[Prompt], scene: Scene) -> None:
    """Undo all but so many prompts, and do again what followed of which the prompts are still wanted."""
    gone = _undo_to(change, kept, scene)
    _answer_under_these_locks(change, scene)
    wanted = Counter(prompts) - Counter(change.state.history.prompts)
    again: list[Prompt] = []
    for step in gone:
        if (step.painted or step.limits) and again:
            change.show(again, scene)
            again = []
        if step.painted:
            change.repaint(step)
        left = [prompt for prompt in step.prompts if _take(wanted, prompt)]
        if step.limits and left:
            change.show(left, scene, step.limits)
        else:
            again += left
    again += [prompt for prompt in prompts if _take(wanted, prompt)]
    if again:
        change.show(again, scene)


def _undo_to(change: Change, kept: int, scene: Scene) -> list[Step]:
    """Undo all but so many prompts, and tell which steps are gone, the oldest first."""
    history = change.state.history
    if kept < len(history.forgotten.prompts):  # there is no way back but from the start
        change.reset()
        return [*history.forgotten.steps, *history.done]
    while len(change.state.history.prompts) > kept:
        change.undo(scene.taken)
    return list(history.done[len(change.state.history.done) :])


def _answer_under_these_locks(change: Change, scene: Scene) -> None:
    """Undo what would be another answer now, and what followed, and do it again step by step."""
    state, taken = change.state, scene.taken
    if state.box is None or taken is None or not (state.mask[state.box] & taken[state.box]).any():
        taken = None  # nothing of it was taken that has stayed
    freed = _freed(change, scene)
    others = (
        number
        for number, step in enumerate(state.history.done)
        if not step.holds_under(scene.locks, taken) or (step.locks and freed.intersection(step.prompts))
    )
    gone = state.history.done[next(others, len(state.history.done)) :]
    for _ in gone:
        change.undo(scene.taken)
    for step in gone:
        if step.painted:
            change.repaint(step)
        else:
            change.show(step.prompts, scene, step.limits)


def _freed(change: Change, scene: Scene) -> set[Prompt]:
    """The prompts in force that lay in a locked label, which has let go of them since."""
    state = change.state
    if scene.taken is None or not any(step.locks for step in state.history.done):
        return set()
    return set(unkept_prompts(state.history.in_force, state.mask, scene))


def _take(counted: Counter[Prompt], prompt: Prompt) -> bool:
    """Take one of these prompts away, if there is one."""
    counted[prompt] -= 1
    return counted[prompt] >= 0
