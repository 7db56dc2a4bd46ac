"""A label map of all segments with scribbles among them, as 3D Slicer exports it: where segments overlap, the last one
counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from monailabel_app.errors import RequestError
from monailabel_app.interaction.lists import known_prompts, scan_of
from monailabel_app.interaction.session import InteractiveSession
from rep3d.interactive.editing import Answer
from rep3d.interactive.prompts import MAX_POSITIONS, Prompt, scribble

FOREGROUND, BACKGROUND = "foreground_scribbles", "background_scribbles"
STROKES = {FOREGROUND: True, BACKGROUND: False}  # whether they are on the structure
NO_SEGMENTS = (*STROKES, "background")


def follow_scribbles(
    session: InteractiveSession,
    label: str,
    voxels: np.ndarray,
    values: Mapping[str, int],
    roi: Sequence[slice] | None,
    *,
    lock_others: bool,
) -> Answer:
    """Take over the segments as the user has them, and show the label the scribbles that it does not know yet.

    The answer is the label's alone: of the others the user has what earlier answers told. Segments that the answer
    overlaps become labels as they are, so that the next label map shows what of them was painted since.

    Args:
        label: that the scribbles are for.
        voxels: (D, H, W), the label map.
        values: of the segments and the scribbles by name.
        roi: nothing joins the label outside; None: everywhere.
        lock_others: whether no voxel of the other segments joins the label. Below scribbles the label map does not show
            them: there they are what answers and label maps told before, see `segments_round_strokes`.

    Returns:
        Its `locked` also has the part of the foreground scribbles that is taken, which the label is not shown.

    Raises:
        RequestError: 413, too many scribbles; others as `InteractiveSession.show`.
    """
    others = [name for name in values if lock_others and name not in (label, *NO_SEGMENTS)]
    limits = np.isin(voxels, [values[name] for name in others])
    drawn = {positive: voxels == values[name] for name, positive in STROKES.items() if name in values}
    for name in sorted(values, key=values.__getitem__):  # a segment before those that lie over it
        if name == label:
            answer = paint_segment(session, name, voxels, values, lock_others=lock_others, answered=True)
        elif name in session.labels:
            paint_segment(session, name, voxels, values, lock_others=False, answered=False)
            if name in others:
                told = session.told(name)
                for stroke in drawn.values():
                    limits |= stroke & told
    if roi is not None:
        inside = np.zeros(voxels.shape, bool)
        inside[tuple(roi)] = True
        limits |= ~inside
    taken = limits.copy()
    for name in session.locked:
        if name != label:
            taken |= session.mask(name)
    answer = _show_strokes(session, label, drawn, limits, taken) or answer
    overlapped = np.unique(voxels[answer.mask.numpy()])
    for name, value in values.items():
        if value in overlapped and name not in (*NO_SEGMENTS, *session.labels):
            session.paint(name, voxels == value, answered=False)
    if FOREGROUND not in values:
        return answer
    kept_out = np.argwhere(drawn[True] & taken & ~answer.mask.numpy())[:MAX_POSITIONS].tolist()
    locked = [scribble(kept_out, scan_of(session).spacing)] if kept_out else []
    return replace(answer, locked=(*answer.locked, *locked))


def segments_round_strokes(voxels: np.ndarray, values: Mapping[str, int]) -> list[str]:
    """Segments of a label map that occur in the box round the foreground scribbles, which may hide some of them."""
    drawn = np.argwhere(voxels == values[FOREGROUND]) if FOREGROUND in values else np.empty((0, 3), int)
    if not len(drawn):
        return []
    around = tuple(slice(max(low - 1, 0), high + 2) for low, high in zip(drawn.min(0), drawn.max(0), strict=True))
    occurring = np.unique(voxels[around])
    return [name for name, value in values.items() if value in occurring and name not in NO_SEGMENTS]


def paint_segment(
    session: InteractiveSession,
    label: str,
    voxels: np.ndarray,
    values: Mapping[str, int],
    *,
    lock_others: bool,
    answered: bool,
) -> Answer:
    """Let the segment of a label map win over the session's mask of the label, as far as the user has seen that.

    Below scribbles, and below segments that were exported later and may overlap it, the label map does not tell: there
    the session's mask stays. But what was painted of such a segment since it was told was painted over this one.

    Args:
        answered: see `LabelEdit.paint`.
    """
    value = values[label]
    mask = voxels == value
    if label in session.labels:
        told = session.told(label)
        occurring = np.unique(voxels[told])
        for name, over in values.items():
            is_scribble = name in STROKES
            if over not in occurring or not (is_scribble or (over > value and not lock_others)):
                continue
            below = (voxels == over) & told
            if not is_scribble:
                below &= session.told(name) if name in session.labels else False
            mask |= below
    return session.paint(label, mask, answered=answered)


def _show_strokes(
    session: InteractiveSession, label: str, drawn: Mapping[bool, np.ndarray], limits: np.ndarray, taken: np.ndarray
) -> Answer | None:
    """Show the label what is new of the scribbles, but for the part of the positive ones that is taken.

    Args:
        limits: of what is taken what holds for these strokes alone.
    """
    new = [
        _new_scribble(session, label, voxels & ~taken if positive else voxels, positive)
        for positive, voxels in drawn.items()
    ]
    shown = [prompt for prompt in new if prompt]
    return session.show(label, shown, limits) if shown else None


def _new_scribble(session: InteractiveSession, label: str, drawn: np.ndarray, positive: bool) -> Prompt | None:
    """What of a scribble the label was not shown yet, or does not follow; None for nothing."""
    scan = scan_of(session)
    seen = np.zeros(drawn.shape, bool)
    for prompt in known_prompts(session, label):
        if prompt.kind == "scribble" and prompt.positive == positive:
            seen[tuple(np.transpose([scan.voxel(position) for position in prompt.positions]))] = True
    new = np.argwhere(drawn & ~(seen & (session.mask(label) == positive)))
    if len(new) > MAX_POSITIONS:
        raise RequestError(413, f"the scribbles have {len(new)} voxels, at most {MAX_POSITIONS}: use a smaller brush")
    return scribble(new.tolist(), scan.spacing, positive) if len(new) else None
