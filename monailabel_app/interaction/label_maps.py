"""A label map of all segments with scribbles among them, as 3D Slicer exports it: where segments overlap, the last one
counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from monailabel_app.errors import RequestError
from monailabel_app.interaction.lists import known_prompts, scan_of
from monailabel_app.interaction.session import InteractiveSession
from rep3d.interactive.editing import Answer
from rep3d.interactive.prompts import MAX_POSITIONS, Prompt, scribble

FOREGROUND, BACKGROUND = "foreground_scribbles", "background_scribbles"
NO_SEGMENTS = (FOREGROUND, BACKGROUND, "background")


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
        lock_others: whether no voxel of the other segments joins the label.

    Raises:
        RequestError: 413, too many scribbles; others as `InteractiveSession.show`.
    """
    for name in sorted(values, key=values.__getitem__):  # a segment before those that lie over it
        if name == label:
            answer = paint_segment(session, name, voxels, values, lock_others=lock_others, answered=True)
        elif name in session.labels:
            paint_segment(session, name, voxels, values, lock_others=False, answered=False)
    taken = np.zeros(voxels.shape, bool)
    if lock_others:
        others = [value for name, value in values.items() if name not in (label, *NO_SEGMENTS)]
        taken |= np.isin(voxels, others)
    if roi is not None:
        inside = np.zeros(voxels.shape, bool)
        inside[tuple(roi)] = True
        taken |= ~inside
    shown = [
        prompt
        for name, positive in ((FOREGROUND, True), (BACKGROUND, False))
        if name in values and (prompt := _new_scribble(session, label, voxels == values[name], positive, taken))
    ]
    if shown:
        answer = session.show(label, shown, taken)
    overlapped = np.unique(voxels[answer.mask.numpy()])
    for name, value in values.items():
        if value in overlapped and name not in (*NO_SEGMENTS, *session.labels):
            session.paint(name, voxels == value, answered=False)
    return answer


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
            is_scribble = name in (FOREGROUND, BACKGROUND)
            if over not in occurring or not (is_scribble or (over > value and not lock_others)):
                continue
            below = (voxels == over) & told
            if not is_scribble:
                below &= session.told(name) if name in session.labels else False
            mask |= below
    return session.paint(label, mask, answered=answered)


def _new_scribble(
    session: InteractiveSession, label: str, drawn: np.ndarray, positive: bool, taken: np.ndarray
) -> Prompt | None:
    """What of a scribble the label was not shown yet, or does not follow though it could; None for nothing."""
    scan = scan_of(session)
    seen = np.zeros(drawn.shape, bool)
    for prompt in known_prompts(session, label):
        if prompt.kind == "scribble" and prompt.positive == positive:
            seen[tuple(np.transpose([scan.voxel(position) for position in prompt.positions]))] = True
    followed = taken | (session.mask(label) == positive)
    new = np.argwhere(drawn & ~(seen & followed))
    if len(new) > MAX_POSITIONS:
        raise RequestError(413, f"the scribbles have {len(new)} voxels, at most {MAX_POSITIONS}: use a smaller brush")
    return scribble(new.tolist(), scan.spacing, positive) if len(new) else None
