"""One label of a scan while a user edits it: its mask, the prompts that led to it, and the way back.

No disk, no server: `LabelEdit.to_bytes` is what others keep.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, chain, pairwise, takewhile

import numpy as np
import torch

from rep3d.format_number import check_format
from rep3d.interactive.correction import (
    SIZE,
    TILES,
    Correction,
    Network,
    check_inside,
    correct,
    refine,
    unkept_prompts,
    without_effect,
)
from rep3d.interactive.grid import Box, Grid, bounds, hull
from rep3d.interactive.prompts import Kind, Prompt
from rep3d.interactive.steps import NOTHING, Coarse, Step, pack, unchanged, unpack

# Of `LabelEdit.to_bytes`; 3 had nothing of what is coarse, 2 the box alone of what is to be told, 1 no locks and no old
# paintings.
FORMAT = 4
MAX_STEPS = 50  # that can be undone, and as many to redo
MIN_STEPS = 20  # that can be undone although they take more than the next number
MAX_STEP_BYTES = 2**24  # of more steps together; the oldest go first
MOST_STEP_BYTES = 2**26  # of any number of steps, but the newest one stays
MAX_COARSE_STEPS = 5  # the newest ones, that go on being refined where they are undone to
MAX_COARSE = 50  # answers at a time; before another one comes the oldest is finished
MAX_PROMPTS = 1000  # of one label


@dataclass(frozen=True)
class Scene:
    """What a label is edited in.

    Args:
        network: see `rep3d.interactive.correct`, as the rest.
        image: of the scan, (D, H, W).
        spacing: millimetres between its voxels along each axis.
        taken: voxels of locked labels, (D, H, W) of bool; None: none.
        size: voxels of the working grid along each axis.
        tiles: cubes at full resolution that are redrawn before an answer, see `correct`.
        grow: whether the working grid grows while the change leaves it.
        locks: names what is taken; `LabelEdit.bring_to` remembers answers for the same locks only.
    """

    network: Network
    image: torch.Tensor
    spacing: Sequence[float]
    taken: torch.Tensor | None = None
    size: int = SIZE
    tiles: int = TILES
    grow: bool = True
    locks: str = ""


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


@dataclass(frozen=True)
class Pending:
    """What an edit has to refine next, as it was when it was asked for.

    Attributes:
        coarse: the answer as the edit has it.
        mask: of the edit at that time.
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
            also = unpack(packed, _all_of(self.mask))
            taken = also if taken is None else taken | also
        return refine(
            scene.network,
            scene.image,
            scene.spacing,
            self.coarse.answer(self.mask),
            self.prompts,
            taken=taken,
            tiles=scene.tiles,
        )


class LabelEdit:
    """One label: mask, prompts, and steps to undo and redo.

    A method that raises leaves all as it was. Masks are replaced, never changed in place.

    Args:
        shape: voxels of the scan along each axis.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self._mask = torch.zeros(tuple(shape), dtype=torch.bool)
        self._begin()

    def _begin(self) -> None:
        self._done: list[Step] = []
        self._undone: list[Step] = []  # the next one to redo last
        self._old: tuple[Prompt, ...] = ()  # of steps that can be undone no more
        self._old_in_force: tuple[Prompt, ...] = ()  # those of them that no painting has settled
        self._old_painting: Step | None = None  # all that was painted in them
        self._forgotten = 0  # how many they are
        self._coarse: list[Coarse] = []  # the oldest first
        self._untold = NOTHING  # from the mask as the last answer told it to the mask as it is
        self._box: Box | None = None  # that holds the mask; not always the smallest

    @property
    def mask(self) -> torch.Tensor:
        """(D, H, W) of bool. Not to be changed."""
        return self._mask

    @property
    def told(self) -> torch.Tensor:
        """The mask as answers have told it, (D, H, W) of bool: without what was refined since. Not to be changed."""
        return self._untold.undone_from(self._mask)

    @property
    def untold(self) -> object:
        """What answers have not told of the mask, to be compared with what it was; None where there is nothing."""
        return None if self._untold.box is None else self._untold

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """All that led to the mask, the oldest first."""
        return self._old + tuple(prompt for step in self._done for prompt in step.prompts)

    @property
    def in_force(self) -> tuple[Prompt, ...]:
        """The last ones of them: those since the last painting, which settles those before it."""
        prompts = self._old_in_force
        for step in self._done:
            prompts = () if step.painted else prompts + step.prompts
        return prompts

    @property
    def undoable(self) -> int:
        """Steps that can be undone."""
        return len(self._done)

    @property
    def redoable(self) -> int:
        """Steps that can be redone."""
        return len(self._undone)

    @property
    def steps(self) -> int:
        """All that led to the mask, those that can be undone no more among them."""
        return self._forgotten + len(self._done)

    @property
    def is_coarse(self) -> bool:
        """Whether `refine` has something to do."""
        return bool(self._coarse)

    @property
    def coarse(self) -> tuple[Coarse, ...]:
        """What `refine` has to do."""
        return tuple(self._coarse)

    @property
    def coarse_nbytes(self) -> int:
        """In memory, of what is coarse, or is so again after an undo or a redo."""
        steps = (*self._done, *self._undone)
        kept = {id(one.region): one for one in chain(self.coarse, *(step.coarse for step in steps))}
        return sum(one.nbytes for one in kept.values())

    def show(self, prompts: Sequence[Prompt], scene: Scene) -> Answer:
        """Let the network answer new prompts, all of them at once.

        Raises:
            ValueError: no prompt or too many, one that lies outside the scan, or as `correct`.
        """
        self._check(prompts, scene, known=len(self.prompts))
        with self._whole():
            answer = self._show(prompts, scene)
            self._leave_out(scene.taken)
            return self._told([answer])

    def bring_to(self, prompts: Sequence[Prompt], scene: Scene) -> Answer:
        """Make these, and no others, the label's prompts; what clients ask for that send all of them each time.

        The same ones again lead to the same mask without the network; without the newest, to exactly the earlier mask.
        Where older ones are missing, what followed is undone, and what of it is left is shown again. Masks that were
        painted meanwhile are painted again. The order in which prompts that are known already come does not matter.

        Where locks have changed, what other locks had limited, what took voxels that are locked now, and what was
        without effect on voxels that are locked no more, is undone and answered again, step by step; but for steps that
        can be undone no more.

        Raises:
            ValueError: as `show`; an empty list is allowed here.
        """
        self._check(prompts, scene)
        known, wanted = self.prompts, Counter(prompts)
        kept = sum(1 for _ in takewhile(lambda prompt: _take(wanted, prompt), known))
        with self._whole():
            if kept == len(known):
                answers = self._go_on([prompt for prompt in prompts if _take(wanted, prompt)], scene)
            else:
                answers = self._go_back(kept, prompts, scene)
            self._leave_out(scene.taken)
            return replace(self._told(answers), locked=self._without_effect(scene))

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
        after = mask if is_own else self._untold.redone_from(mask)
        with self._whole():
            answer = self._take_over(after)
            if answered:
                return self._told([answer])
            self.leave_untold(mask)
            return answer

    def begin(self, mask: torch.Tensor) -> Answer:
        """Take over a mask that others made, as one that is painted; it is told with the next answer.

        Raises:
            ValueError: as `paint`.
        """
        self._check_mask(mask)
        before = self._mask
        with self._whole():
            answer = self._take_over(mask)
            if answer.changed is not None:
                self._untold = self._untold.then(before, answer.mask, answer.changed)
            return answer

    def leave_untold(self, told: torch.Tensor) -> None:
        """Let this mask, (D, H, W) of bool, be the one that the user knows: the next answer tells what has changed."""
        self._untold = Step.between(told, self._mask, bounds(told != self._mask))

    def settle(self) -> Answer:
        """Keep the mask, as one that was painted, and forget the prompts and the steps that led to it."""
        mask = self._mask
        with self._whole():
            return self._told([self.reset(), self.paint(mask)])

    def undo(self, taken: torch.Tensor | None = None) -> Answer:
        """Take the last step back, where there is one. No voxel of `taken`, (D, H, W) of bool, joins the mask.

        What was coarse before the step is so again, and goes on being refined.
        """
        with self._whole():
            return self._told([self._undo(taken)] if self._done else [])

    def redo(self, taken: torch.Tensor | None = None) -> Answer:
        """Take the last step that was undone again, where there is one; `taken` as above."""
        with self._whole():
            return self._told([self._redo(taken)] if self._undone else [])

    def reset(self) -> Answer:
        """Forget mask, prompts and steps."""
        box = hull([self._untold.box, self._box])
        self._mask = torch.zeros_like(self._mask)
        self._begin()
        return Answer(self._mask, box)

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
        return Pending(self._coarse[0], self._mask, self.in_force) if self._coarse else None

    def accept(self, pending: Pending, finer: Correction) -> Box | None:
        """Take over what `pending` has led to, as `refine` does; nothing, where the user did something meanwhile."""
        is_next = bool(self._coarse) and self._coarse[0] is pending.coarse
        if not is_next or self._mask is not pending.mask:
            return None
        with self._whole():
            self._coarse[:1] = [replace(pending.coarse, tiles=finer.tiles)] if finer.tiles else []
            if finer.changed is not None:
                self._add_to_last(finer.mask, finer.changed)
        return finer.changed

    def to_bytes(self) -> bytes:
        """All of it, but for what was coarse before a step or after one that was undone; see `from_bytes`."""
        painting = [] if self._old_painting is None else [self._old_painting]
        steps = [*self._done, *self._undone, self._untold, *painting]
        prompts = [*self._old, *(prompt for step in steps for prompt in step.prompts)]
        positions = np.array([position for prompt in prompts for position in prompt.positions], np.float64)
        blobs = [zlib.compress(positions.tobytes(), 1), b"" if self._box is None else pack(self._mask[self._box])]
        blobs += [blob for step in steps for blob in (step.joined, step.left)]
        blobs += [blob for one in self._coarse for blob in one.blobs]
        header = {
            "format": FORMAT,
            "shape": list(self._mask.shape),
            "box": _numbers(self._box),
            "prompts": [[prompt.kind, prompt.positive, len(prompt.positions)] for prompt in prompts],
            "old": len(self._old),
            "old_in_force": len(self._old_in_force),
            "forgotten": self._forgotten,
            "done": len(self._done),
            "undone": len(self._undone),
            "steps": [[len(step.prompts), step.painted, _numbers(step.box), step.locks] for step in steps],
            "coarse": [one.told() for one in self._coarse],
            "sizes": [len(blob) for blob in blobs],
        }
        text = json.dumps(header).encode()
        content = b"".join([len(text).to_bytes(8, "little"), text, *blobs])
        return zlib.crc32(content).to_bytes(4, "little") + content

    @classmethod
    def from_bytes(cls, content: bytes, name: str = "label edit") -> LabelEdit:
        """What `to_bytes` gave.

        Args:
            name: of its origin, for messages.

        Raises:
            ValueError: it is damaged, or of a newer format.
        """
        if zlib.crc32(content[4:]).to_bytes(4, "little") != content[:4]:
            raise ValueError(f"{name} is damaged: its checksum differs")
        start = 12 + int.from_bytes(content[4:12], "little")
        header = json.loads(content[12:start])
        check_format(header["format"], FORMAT, name)
        ends = list(accumulate(header["sizes"], initial=start))
        return cls._read(header, [content[low:high] for low, high in pairwise(ends)])

    @classmethod
    def _read(cls, header: dict, blobs: list[bytes]) -> LabelEdit:  # type: ignore[type-arg]
        edit = cls(header["shape"])
        edit._box = _slices(header["box"])
        if edit._box is not None:
            edit._mask[edit._box] = unpack(blobs[1], edit._box)
        rest = _read_prompts(header["prompts"], blobs[0])
        edit._old = tuple(rest[: header["old"]])
        edit._old_in_force = edit._old[len(edit._old) - header["old_in_force"] :]
        edit._forgotten = header.get("forgotten", 0)
        rest, steps, end = rest[header["old"] :], [], 2 + 2 * len(header["steps"])
        for (count, painted, numbers, *locks), joined, left in zip(
            header["steps"], blobs[2:end:2], blobs[3:end:2], strict=True
        ):
            steps.append(Step(tuple(rest[:count]), painted, _slices(numbers), joined, left, *locks))
            rest = rest[count:]
        done = header["done"]
        known = done + header.get("undone", len(steps))
        edit._done, edit._undone, steps = steps[:done], steps[done:known], steps[known:]
        edit._untold = unchanged(_slices(header["untold"])) if header["format"] < 3 else steps.pop(0)
        edit._old_painting = steps[0] if steps else None
        packed = iter(blobs[end:])
        edit._coarse = [Coarse.read(told, packed) for told in header.get("coarse", ())]
        return edit

    # --- one step

    def _check_mask(self, mask: torch.Tensor) -> None:
        if mask.shape != self._mask.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"mask must be of bool and of the scan's shape {tuple(self._mask.shape)}, got {mask.dtype}, "
                f"{tuple(mask.shape)}"
            )

    def _take_over(self, mask: torch.Tensor) -> Answer:
        """Make this the mask, as one step where it is another one."""
        box = bounds(mask != self._mask)
        if box is not None:
            self._add(Step.between(self._mask, mask, box, painted=True), mask.clone())
        return Answer(self._mask, box)

    def _check(self, prompts: Sequence[Prompt], scene: Scene, known: int = 0) -> None:
        scan = Grid.of_scan(scene.image.shape, scene.spacing)
        if scan.shape != tuple(self._mask.shape):
            raise ValueError(f"image has the shape {scan.shape}, expected that of the label, {tuple(self._mask.shape)}")
        if known + len(prompts) > MAX_PROMPTS:
            raise ValueError(f"the label would have {known + len(prompts)} prompts, expected {MAX_PROMPTS} at most")
        for number, prompt in enumerate(prompts, 1):
            check_inside(prompt, scan, f"prompt {number}")

    def _without_effect(self, scene: Scene) -> tuple[Prompt, ...]:
        """The prompts in force that lie in a locked label."""
        if scene.taken is None:
            return ()
        return without_effect(self.in_force, Grid.of_scan(scene.image.shape, scene.spacing), scene.taken)

    def _show(self, prompts: Sequence[Prompt], scene: Scene) -> Answer:
        if len(self._coarse) >= MAX_COARSE:  # the user is faster than the background
            self.refine(replace(scene, tiles=len(self._coarse[0].tiles)))
        answer = correct(
            scene.network,
            scene.image,
            scene.spacing,
            (*self.in_force, *prompts),
            new=len(prompts),
            previous=self._mask,
            taken=scene.taken,
            size=scene.size,
            tiles=scene.tiles,
            grow=scene.grow,
        )
        coarse = [*self._coarse, *([Coarse.of(answer)] if answer.tiles else [])]
        locks = scene.locks if _is_limited(answer, scene) else ""
        step = Step.between(self._mask, answer.mask, answer.changed, tuple(prompts), locks=locks)
        self._add(step, answer.mask)
        self._coarse = coarse
        locked = tuple(prompt for prompt in answer.locked if prompt in prompts)
        return Answer(self._mask, answer.changed, locked, forwards=True)

    def _leave_out(self, taken: torch.Tensor | None) -> None:
        """Nothing of what is taken joins where coarse answers are redrawn."""
        if taken is not None and self._coarse:
            packed = pack(taken)
            self._coarse = [one.without(packed) for one in self._coarse]

    def _add(self, step: Step, mask: torch.Tensor) -> None:
        self._done.append(replace(step, coarse=self.coarse))
        self._mask, self._coarse = mask, []
        self._box = hull([self._box, step.box])
        self._undone.clear()
        self._done[:-MAX_COARSE_STEPS] = [replace(old, coarse=()) for old in self._done[:-MAX_COARSE_STEPS]]
        while self._has_too_many_steps:
            self._forget(self._done.pop(0))

    def _add_to_last(self, mask: torch.Tensor, changed: Box) -> None:
        """Make this the mask, as part of the last step, where that can still be undone."""
        if self._done:
            self._done[-1] = self._done[-1].then(self._mask, mask, changed)
        if self._undone:
            self._undone[-1] = self._undone[-1].after(self._mask, mask, changed)
        self._untold = self._untold.then(self._mask, mask, changed)
        self._mask = mask
        self._box = hull([self._box, changed])

    def _forget(self, step: Step) -> None:
        """Keep of the oldest step what is needed where older prompts vanish."""
        self._forgotten += 1
        self._old += step.prompts
        if step.painted:
            self._old_in_force = ()
            self._old_painting = step if self._old_painting is None else self._old_painting.and_then(step)
        else:
            self._old_in_force += step.prompts

    def _undo(self, taken: torch.Tensor | None) -> Answer:
        step = self._done.pop()
        self._undone.append(replace(step, coarse=self.coarse))
        self._mask = step.undone_from(self._mask, taken)
        self._coarse = [replace(one) for one in step.coarse]
        return Answer(self._mask, step.box)

    def _redo(self, taken: torch.Tensor | None) -> Answer:
        step = self._undone.pop()
        self._done.append(replace(step, coarse=self.coarse))
        self._mask = step.redone_from(self._mask, taken)
        self._coarse = [replace(one) for one in step.coarse]
        return Answer(self._mask, step.box)

    def _repaint(self, step: Step) -> Answer:
        mask = step.redone_from(self._mask)
        box = bounds(mask != self._mask)
        self._add(Step.between(self._mask, mask, box, painted=True), mask)
        return Answer(mask, box)

    # --- several steps

    def _go_on(self, added: list[Prompt], scene: Scene) -> list[Answer]:
        """Add prompts; as long as they are those that were undone, by redoing them."""
        answers = self._under_these_locks(scene)
        while self._undone and (again := self._undone[-1].prompts) and again == tuple(added[: len(again)]):
            if not self._undone[-1].holds_under(scene.locks, scene.taken):
                break
            answers.append(self._redo(scene.taken))
            added = added[len(again) :]
        return [*answers, self._show(added, scene)] if added else answers

    def _go_back(self, kept: int, prompts: Sequence[Prompt], scene: Scene) -> list[Answer]:
        """Undo all but so many prompts, and do again what followed of which the prompts are still wanted."""
        answers: list[Answer] = []
        gone: list[Step] = []
        if kept < len(self._old):  # there is no way back but from the start
            gone = [*self._old_steps(), *self._done]
            answers.append(self.reset())
        while len(self.prompts) > kept:
            gone.insert(0, self._done[-1])
            answers.append(self._undo(scene.taken))
        answers += self._under_these_locks(scene)
        wanted = Counter(prompts) - Counter(self.prompts)
        again: list[Prompt] = []
        for step in gone:
            if step.painted:
                answers += [self._show(again, scene)] if again else []
                answers.append(self._repaint(step))
                again = []
            again += [prompt for prompt in step.prompts if _take(wanted, prompt)]
        again += [prompt for prompt in prompts if _take(wanted, prompt)]
        return [*answers, self._show(again, scene)] if again else answers

    def _old_steps(self) -> list[Step]:
        """The steps that can be undone no more, as far as they are known."""
        settled = self._old[: len(self._old) - len(self._old_in_force)]
        paintings = [] if self._old_painting is None else [self._old_painting]
        return [Step(settled, False, None, b"", b""), *paintings, Step(self._old_in_force, False, None, b"", b"")]

    def _under_these_locks(self, scene: Scene) -> list[Answer]:
        """Undo what would be another answer now, and what followed, and do it again step by step."""
        box, taken = self._box, scene.taken
        if box is None or taken is None or not (self._mask[box] & taken[box]).any():
            taken = None  # nothing of it was taken that has stayed
        freed = self._freed(scene)
        others = (
            number
            for number, step in enumerate(self._done)
            if not step.holds_under(scene.locks, taken) or (step.locks and freed.intersection(step.prompts))
        )
        gone = self._done[next(others, len(self._done)) :]
        answers = [self._undo(scene.taken) for _ in gone]
        for step in gone:
            answers.append(self._repaint(step) if step.painted else self._show(step.prompts, scene))
        return answers

    def _freed(self, scene: Scene) -> set[Prompt]:
        """The prompts in force that lay in a locked label, which has let go of them since."""
        if scene.taken is None or not any(step.locks for step in self._done):
            return set()
        scan = Grid.of_scan(scene.image.shape, scene.spacing)
        return set(unkept_prompts(self.in_force, self._mask, scan, scene.taken, scene.size))

    def _told(self, answers: Sequence[Answer]) -> Answer:
        """What several steps changed together, and refinements before them."""
        changed = hull([self._untold.box, *(answer.changed for answer in answers)])
        self._untold = NOTHING
        locked = tuple(dict.fromkeys(prompt for answer in answers for prompt in answer.locked))
        return Answer(self._mask, changed, locked, any(answer.forwards for answer in answers))

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """All of what happens in the context, or nothing."""
        before = {name: list(value) if isinstance(value, list) else value for name, value in vars(self).items()}
        try:
            yield
        except BaseException:
            vars(self).update(before)
            raise

    @property
    def _has_too_many_steps(self) -> bool:
        count, size = len(self._done), sum(len(step.joined) + len(step.left) for step in self._done)
        is_large = (count > MIN_STEPS and size > MAX_STEP_BYTES) or size > MOST_STEP_BYTES
        return count > 1 and (count > MAX_STEPS or is_large)


def _is_limited(answer: Correction, scene: Scene) -> bool:
    """Whether some of what is taken lies in the answer's grid."""
    if scene.taken is None:
        return False
    scan, grid = Grid.of_scan(scene.image.shape, scene.spacing), answer.grid
    last = [
        start + step * (count - 1) for start, step, count in zip(grid.origin, grid.spacing, grid.shape, strict=True)
    ]
    x, y, z = (
        slice(max(low, 0), high + 1) for low, high in zip(scan.voxel(grid.origin), scan.voxel(last), strict=True)
    )
    return bool(scene.taken[x, y, z].any())


def _take(counted: Counter[Prompt], prompt: Prompt) -> bool:
    """Take one of these prompts away, if there is one."""
    counted[prompt] -= 1
    return counted[prompt] >= 0


def _all_of(mask: torch.Tensor) -> Box:
    x, y, z = (slice(0, count) for count in mask.shape)
    return x, y, z


def _numbers(box: Box | None) -> list[list[int]] | None:
    return None if box is None else [[side.start, side.stop] for side in box]


def _slices(numbers: list[list[int]] | None) -> Box | None:
    if numbers is None:
        return None
    x, y, z = (slice(start, stop) for start, stop in numbers)
    return x, y, z


def _read_prompts(table: Sequence[tuple[Kind, bool, int]], content: bytes) -> list[Prompt]:
    positions = np.frombuffer(zlib.decompress(content), np.float64).reshape(-1, 3).tolist()
    ends = accumulate(count for _, _, count in table)
    return [
        Prompt(kind, tuple(map(tuple, positions[end - count : end])), positive)
        for (kind, positive, count), end in zip(table, ends, strict=True)
    ]
