"""Complete lists of points, as MONAI Label's clients send them with every request, and what they make of the labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import takewhile

import numpy as np

from monailabel_app.interaction.session import InteractiveSession
from rep3d.interactive.editing import Answer
from rep3d.interactive.grid import Grid
from rep3d.interactive.prompts import Prompt

LISTED = ("point", "box")  # the kinds of prompts that lists hold; others stay whatever they hold


def bring_to_lists(
    session: InteractiveSession,
    label: str,
    own: Sequence[Prompt],
    background: Sequence[Prompt] = (),
    taken: np.ndarray | None = None,
) -> Answer:
    """Make these the points and the box of a label.

    The same lists lead to the same mask without the network, shorter ones to exactly the earlier mask.

    Args:
        own: of the label.
        background: points that belong to no label. One is shown to the label once its mask reaches there.
        taken: see `InteractiveSession.show`.

    Raises:
        RequestError: as `InteractiveSession.bring_to`.
    """
    with session.hold():
        return _bring_to_lists(session, label, own, background, taken)


def concerned_labels(session: InteractiveSession, labels: Iterable[str], background: Sequence[Prompt]) -> list[str]:
    """The labels that a list of the background's points changes, or, where it changes none, those that it has changed.

    It changes those that hold one of the points, and those that were shown one that is gone.
    """
    scan, listed = scan_of(session), set(background)
    changed, known = [], []
    for label in labels:
        shown = {prompt for prompt in known_prompts(session, label) if prompt.kind == "point" and not prompt.positive}
        if shown - listed or any(lies_in(prompt, session.mask(label), scan) for prompt in listed - shown):
            changed.append(label)
        elif shown:
            known.append(label)
    return changed or known


def known_prompts(session: InteractiveSession, label: str) -> tuple[Prompt, ...]:
    """Those that led to a label's mask; none of a label that is not there yet."""
    return session.prompts(label) if label in session.labels else ()


def scan_of(session: InteractiveSession) -> Grid:
    return Grid.of_scan(session.record.shape, session.record.spacing)


def lies_in(point: Prompt, mask: np.ndarray | None, scan: Grid) -> bool:
    return mask is not None and bool(mask[scan.voxel(point.positions[0])])


def _bring_to_lists(
    session: InteractiveSession,
    label: str,
    own: Sequence[Prompt],
    background: Sequence[Prompt],
    taken: np.ndarray | None,
) -> Answer:
    scan, known = scan_of(session), known_prompts(session, label)
    wanted = Counter([*own, *background, *(prompt for prompt in known if prompt.kind not in LISTED)])
    kept = list(takewhile(lambda prompt: _take(wanted, prompt), known))
    forwards = False
    if len(kept) < len(known):
        others = _others(known, len(kept), session.settled(label), own, background)
        forwards = session.bring_to(label, [*kept, *others], taken).forwards
    while True:
        shown = known_prompts(session, label)
        new = Counter([*own, *background]) - Counter(shown)
        mask = session.mask(label) if label in session.labels else None
        added = [prompt for prompt in own if _take(new, prompt)]
        added += [prompt for prompt in background if _take(new, prompt) and lies_in(prompt, mask, scan)]
        answer = session.bring_to(label, [*shown, *added], taken)
        forwards |= answer.forwards
        if not added:
            return replace(answer, forwards=forwards)


def _others(
    known: Sequence[Prompt], kept: int, settled: int, own: Sequence[Prompt], background: Sequence[Prompt]
) -> list[Prompt]:
    """Of the prompts after those that are kept the ones that stay where they are among paintings.

    Those of the background are to be shown anew, where the mask still reaches them, but for those that are settled.
    """
    before = known[:kept]
    wanted, also = Counter(own) - Counter(before), Counter(background) - Counter(before)
    return [
        prompt
        for number, prompt in enumerate(known[kept:], kept)
        if prompt.kind not in LISTED or _take(wanted, prompt) or (number < settled and _take(also, prompt))
    ]


def _take(counted: Counter[Prompt], prompt: Prompt) -> bool:
    """Take one of these prompts away, if there is one."""
    counted[prompt] -= 1
    return counted[prompt] >= 0
