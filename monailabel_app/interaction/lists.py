"""Complete lists of points, as MONAI Label's clients send them with every request, and what they make of the labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
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
    background: Sequence[Prompt] | None = None,
    taken: np.ndarray | None = None,
) -> Answer:
    """Make these the points and the box of a label.

    The same lists lead to the same mask without the network, shorter ones to exactly the earlier mask. A negative point
    vanishes where it is missing in the list that it came from: one model has the background's, another the label's own.

    Args:
        own: of the label.
        background: points that belong to no label, of a model without negative points of labels. One is shown to the
            label once its mask reaches there. None: of a model without such a list.
        taken: see `InteractiveSession.bring_to`.

    Raises:
        RequestError: as `InteractiveSession.bring_to`.
    """
    with session.hold():
        known, noted = _negative_points(session, label), of_background(session, label)
        if background is None:
            noted = set() if session.background(label) is None else noted - set(own)
            background = [prompt for prompt in known if prompt in noted]
        else:
            own = [*own, *(prompt for prompt in known if prompt not in noted.union(background))]
            noted = noted.union(background)
        answer = _bring_to_lists(session, label, own, background, taken)
        session.note_background(label, noted)
        return answer


def concerned_labels(session: InteractiveSession, labels: Iterable[str], background: Sequence[Prompt]) -> list[str]:
    """The labels that a list of the background's points changes, or, where it changes none, those that it has changed.

    It changes those that hold one of the points, and those that were shown one that is gone.
    """
    scan, listed = scan_of(session), set(background)
    changed, known = [], []
    for label in labels:
        shown = of_background(session, label)
        if shown - listed or any(lies_in(prompt, session.mask(label), scan) for prompt in listed - shown):
            changed.append(label)
        elif shown:
            known.append(label)
    return changed or known


def of_background(session: InteractiveSession, label: str) -> set[Prompt]:
    """The negative points of a label that are the background's; all, where nobody has noted whose they are."""
    known, noted = _negative_points(session, label), session.background(label)
    return set(known) if noted is None else noted.intersection(known)


def begin_as_renamed(
    session: InteractiveSession, label: str, own: Sequence[Prompt], listed: Container[str] = ()
) -> str:
    """Let a label that is not there begin as the one is that has its points, as a segment does that was renamed.

    That one stays, for the segment may as well be a copy. Of several it is that with the most points.

    Args:
        own: prompts of the label.
        listed: labels that have points besides.

    Returns:
        The other label's name; empty where there is none.
    """
    if label in session.labels or not own:
        return ""
    points = {name: _positive_points(session, name) for name in reversed(session.labels) if name not in listed}
    found = [name for name, some in points.items() if some and some <= set(own)]
    if not found:
        return ""
    source = max(found, key=lambda name: len(points[name]))
    session.copy(source, label)
    return source


def known_prompts(session: InteractiveSession, label: str) -> tuple[Prompt, ...]:
    """Those that led to a label's mask; none of a label that is not there yet."""
    return session.prompts(label) if label in session.labels else ()


def scan_of(session: InteractiveSession) -> Grid:
    return Grid.of_scan(session.record.shape, session.record.spacing)


def lies_in(point: Prompt, mask: np.ndarray | None, scan: Grid) -> bool:
    return mask is not None and bool(mask[scan.voxel(point.positions[0])])


def _negative_points(session: InteractiveSession, label: str) -> list[Prompt]:
    return [prompt for prompt in known_prompts(session, label) if prompt.kind == "point" and not prompt.positive]


def _positive_points(session: InteractiveSession, label: str) -> set[Prompt]:
    return {prompt for prompt in known_prompts(session, label) if prompt.kind == "point" and prompt.positive}


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
