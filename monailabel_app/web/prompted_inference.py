"""Answers to prompts of MONAI Label's clients, each in its session: of clicks and boxes, and of scribbles."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from monailabel.interfaces.tasks.infer_v2 import InferType

from monailabel_app.errors import RequestError
from monailabel_app.interaction.label_maps import NO_SEGMENTS, follow_scribbles, segments_round_strokes
from monailabel_app.interaction.lists import (
    LISTED,
    begin_as_renamed,
    bring_to_lists,
    concerned_labels,
    known_prompts,
    scan_of,
)
from monailabel_app.interaction.registry import InteractiveSessions
from monailabel_app.interaction.session import InteractiveSession
from monailabel_app.models.inference import BundleInference, write_result
from monailabel_app.models.prompted import BACKGROUND, PromptedModel
from monailabel_app.studies.folder import FINAL, StudiesFolder
from monailabel_app.studies.volumes import admitted, read_grid, read_label
from monailabel_app.web.parameters import check_parameters
from monailabel_app.web.prompts import PromptParameters, box_prompt, point_lists, read_points, read_roi, read_segments
from rep3d.data.regions import IGNORE
from rep3d.interactive.prompts import Prompt

UNNAMED = "structure"  # the label of clients that tell none
MAX_NAMES = 20  # of a session's labels, in a note

Taken = Callable[[str], npt.NDArray[np.bool_] | None]  # by a label, voxels (D, H, W) that it may not take


@dataclass(frozen=True)
class Found:
    """A label map (D, H, W) with these ids by name, the prompts that are without effect, and what else to say."""

    voxels: npt.NDArray[np.uint8]
    labels: dict[str, int]
    locked: Sequence[Prompt]
    note: str = ""


def answer_prompts(
    studies: StudiesFolder,
    sessions: InteractiveSessions,
    model: PromptedModel,
    session: InteractiveSession,
    image: str,
    path: Path,
    parameters: Mapping[str, object],
    label: Path | None,
) -> tuple[Path, dict[str, object]]:
    """The label map that a request asks for, in a temporary file.

    Args:
        sessions: all of the server.
        session: of the caller and the image.
        image: its id among the studies; empty where it is none of them.
        path: of the image.
        label: the label map that came along.

    Returns:
        The file's path, which the caller deletes, and what clients read.

    Raises:
        RequestError: prompts that cannot be followed. They have changed nothing then.
    """
    start = time.perf_counter()
    options = check_parameters(PromptParameters, parameters)
    if model.type == InferType.SCRIBBLES:
        found = _scribbled(session, path, options, label)
    elif label is not None:
        raise RequestError(400, "the model takes no label map: its prompts are points and a box")
    elif options.continue_from and model.start is not None:
        raise RequestError(400, "params['continue_from'] is for models that begin with nothing, such as interactive")
    else:
        taken = _submitted(session, studies, image, path) if options.lock_submitted and image else lambda label: None
        if model.start is None:
            found = _clicked(
                session, options, parameters, taken, lambda name: _kept(sessions, session, options, name, path)
            )
        else:
            found = _edited(session, model.start, path, options, parameters, taken)
    answered = time.perf_counter()
    # 3D Slicer replaces all segments by those of a .seg.nrrd file.
    suffix = options.result_extension.replace(".seg.nrrd", ".nrrd")
    file = write_result(found.voxels, read_grid(path), found.labels, options, suffix)
    seconds = {"infer": answered - start, "write": time.perf_counter() - answered, "total": time.perf_counter() - start}
    return file, {
        "label_names": found.labels,
        "latencies": {name: round(value, 3) for name, value in seconds.items()},
        "centroids": {},
        "note": "; ".join(filter(None, (_note(found.locked, session), found.note))),
        "interaction": session.id,
    }


def _clicked(
    session: InteractiveSession,
    options: PromptParameters,
    parameters: Mapping[str, object],
    taken: Taken,
    kept: Callable[[str], tuple[npt.NDArray[np.bool_] | None, str]],
) -> Found:
    """One label of any name, from points on it and on the rest.

    Args:
        kept: see `_kept`.
    """
    scan, label = scan_of(session), options.label or UNNAMED
    points = read_points(parameters.get("foreground", []), "foreground", scan, positive=True)
    points += read_points(parameters.get("background", []), "background", scan, positive=False)
    begins, missing = kept(label)  # not while the session is held, for it takes another one
    with session.hold():
        if begins is not None and label not in session.labels:
            session.begin(label, begins, taken(label))
        renamed = begin_as_renamed(session, label, points)
        note = _renamed_note(label, renamed) if renamed else missing
        if options.continue_from == session.id:
            _come_back(session, label, [*_drawn(session, options), *points])
        prompts = [*_box(session, label, options, is_deleted=not points), *points]
        if not prompts and label not in session.labels:
            reasons = (f"the segment {label!r} has no prompts yet: place a point or a box", missing)
            raise RequestError(400, "; ".join(filter(None, reasons)))
        answer = bring_to_lists(session, label, prompts, taken=taken(label))
        if options.continue_from not in ("", session.id):
            session.go_on(label, options.continue_from)
        note = "; ".join(filter(None, (note, _box_note(session, [label], options))))
    return Found(answer.mask.numpy().view(np.uint8), {label: 1}, answer.locked, note)


def _kept(
    sessions: InteractiveSessions, session: InteractiveSession, options: PromptParameters, label: str, path: Path
) -> tuple[npt.NDArray[np.bool_] | None, str]:
    """What a label that is not there yet takes over from the session that the request names, if it names one.

    That is the mask of the label of its name. The first label of all takes that of the only one, whatever its name: of
    programs that give none.

    Returns:
        The mask, and, where the session has none for the label, what to say of it.

    Raises:
        RequestError: as `InteractiveSessions.kept_for`, also for a label that is there.
    """
    if not options.continue_from or session.went_on(label, options.continue_from):
        return None, ""
    kept, placement = sessions.kept_for(session, options.continue_from, path)
    if label in session.labels:
        return None, ""
    only = kept.labels[0] if len(kept.labels) == 1 and not session.labels else label
    source = label if label in kept.labels else only
    if source in kept.labels:
        return placement.mask_on_scan(kept.mask(source)), ""
    names = ", ".join(map(repr, kept.labels[:MAX_NAMES])) or "none"
    more = f" and {len(kept.labels) - MAX_NAMES} more" if len(kept.labels) > MAX_NAMES else ""
    return None, f"session {kept.id} has no segment {label!r} to go on from; its segments are {names}{more}"


def _come_back(session: InteractiveSession, label: str, shown: Sequence[Prompt]) -> None:
    """Keep a label's mask where a program knows none of the prompts that led to it: it was started anew.

    Args:
        shown: all that the program knows.

    Raises:
        RequestError: 400, that has happened to the label before, so that the user may as well have deleted them.
    """
    known = {prompt for prompt in known_prompts(session, label) if prompt.kind in LISTED}
    if not known or known & set(shown):
        return
    if session.went_on(label, session.id):
        raise RequestError(
            400,
            f"params['continue_from'] is this session, from which the segment {label!r} has gone on already: empty it "
            "to delete the segment's prompts, or go on with another client_id",
        )
    session.go_on(label, session.id)


def _edited(
    session: InteractiveSession,
    start: BundleInference,
    path: Path,
    options: PromptParameters,
    parameters: Mapping[str, object],
    taken: Taken,
) -> Found:
    """Labels of a bundle, from points on each and on none of them, beginning with what the bundle finds."""
    labels, scan = start.bundle.labels, scan_of(session)
    _check_labels(options.label, parameters, labels)
    read = lambda name, positive: read_points(parameters[name], name, scan, positive=positive)  # noqa: E731
    points = {name: read(name, True) for name in labels if name in parameters}
    background = read(BACKGROUND, False) if BACKGROUND in parameters else []
    roi = read_roi(options.roi, scan)
    if roi is not None and options.label not in labels:
        raise RequestError(400, "params['roi'] needs the label that the box shows: choose it, or delete the box")
    origin = f"{start.bundle.name} {options.preset} {start.networks.stamp()}"
    found = _found(session, start, origin, path, options)  # not while the session is held: others see it meanwhile
    everything = not any((*points.values(), background, roi)) and (found is not None or not options.label)
    with session.hold():
        others = {name for name, value in point_lists(parameters).items() if value}
        renamed = {name: begin_as_renamed(session, name, some, others) for name, some in points.items()}
        if found is not None:
            _begin(session, labels, found, origin, taken)
        if everything:  # where a label is chosen, the others are but shown
            points, background = {name: [] for name in labels if options.label in ("", name)}, []
        chosen = list(labels) if everything else _chosen(session, options.label, labels, points, background)
        locked = [prompt for name in chosen for prompt in _edit(session, name, points, background, options, taken)]
        ids = {name: labels[name] for name in sorted(chosen, key=lambda name: labels[name])}
        if options.label:  # 3D Slicer takes the values for the segments' order
            ids = {name: number for number, name in enumerate(ids, 1)}
        voxels = np.zeros(scan.shape, np.uint8)
        for name in sorted(ids, key=lambda name: name in points):  # where they overlap, one with a list wins
            voxels[session.mask(name)] = ids[name]
        kept = [name for name in ids if session.origin(name) != origin]
        boxes = _box_note(session, chosen, options)
    notes = [_renamed_note(name, source) for name, source in renamed.items() if source]
    if kept:
        notes.append(f"{', '.join(kept)}: kept as you have it, not as {start.bundle.name} finds it now")
    return Found(voxels, ids, locked, "; ".join(filter(None, (*notes, boxes))))


def _chosen(
    session: InteractiveSession,
    label: str,
    labels: Iterable[str],
    points: Iterable[str],
    background: Sequence[Prompt],
) -> list[str]:
    """The labels that a request edits: the one that it names, or those that it lists, and what its background changes.

    Args:
        labels: all that the model has.
        points: the labels with a list. 3D Slicer has one for each, and names a label, or the background, besides.
    """
    if label in labels:
        return [label]
    listed = [] if label else list(points)
    chosen = [*listed, *concerned_labels(session, [name for name in labels if name not in listed], background)]
    if not chosen:
        raise RequestError(400, "no label reaches the points of the background: there is nothing to correct")
    return chosen


def _scribbled(session: InteractiveSession, path: Path, options: PromptParameters, label: Path | None) -> Found:
    """One segment of a label map, from scribbles on it and on the rest."""
    values, name = read_segments(options.label_info), options.selected_label_name
    if label is None:
        raise RequestError(400, "the model needs a label map of the segments and scribbles")
    if name not in values or name in NO_SEGMENTS:
        raise RequestError(
            400, f"params['selected_label_name'] is {name!r}, expected a segment of params['label_info']"
        )
    roi = read_roi(options.roi, scan_of(session))
    with admitted():
        voxels = read_label(label, read_grid(path), values.values(), allow_empty=True).astype(np.uint8)
    with session.hold():
        told = [one for one in session.labels if one in values and session.told(one).any()]
        absent = [one for one in told if not (voxels == values[one]).any()]
        others = segments_round_strokes(voxels, values) if options.lock_others else []
        unknown = [one for one in others if one not in (name, *told)]
        answer = follow_scribbles(session, name, voxels, values, roi, lock_others=options.lock_others)
        notes = (
            _note(answer.locked, session, "the strokes lie in another segment, a locked label or outside the box"),
            _unlocked_note(unknown),
            _emptied_note([one for one in absent if one == name or not session.mask(one).any()]),
        )
    return Found(answer.mask.numpy().view(np.uint8), {name: 1}, (), "; ".join(filter(None, notes)))


def _check_labels(label: str, parameters: Mapping[str, object], labels: Mapping[str, int]) -> None:
    """Raise RequestError where a label, or a list of points without one, is of none that a model corrects."""
    known = (*labels, BACKGROUND)
    if label and label not in known:
        raise RequestError(400, f"params['label'] is {label!r}, expected one of {', '.join(known)}")
    unknown = [] if label else [name for name, value in point_lists(parameters).items() if value and name not in known]
    if unknown:
        raise RequestError(400, f"there are points of {unknown[0][:200]!r}, expected one of {', '.join(known)}")


def _found(
    session: InteractiveSession, model: BundleInference, origin: str, path: Path, options: PromptParameters
) -> npt.NDArray[np.uint8] | None:
    """What a model finds, for a session to begin with; None where none of the model's labels is to begin."""
    if not any(session.is_to_begin(name, origin) for name in model.bundle.labels):
        return None
    return model.segment(path, device=options.device, preset=options.preset).voxels


def _begin(
    session: InteractiveSession,
    labels: Mapping[str, int],
    found: npt.NDArray[np.uint8],
    origin: str,
    taken: Taken,
) -> None:
    """Let labels begin with what a model has found, but for what they may not take.

    Args:
        origin: the model, the preset and the weights. What the user has done to labels that others have begun stays.
    """
    for name, index in labels.items():
        if session.is_to_begin(name, origin):
            session.begin(name, found == index, taken(name), origin)


def _edit(
    session: InteractiveSession,
    name: str,
    points: Mapping[str, list[Prompt]],
    background: Sequence[Prompt],
    options: PromptParameters,
    taken: Taken,
) -> Sequence[Prompt]:
    """Bring a label to its list of points, or leave its own as they are where there is none; the locked ones."""
    own, is_chosen = points.get(name), name == options.label
    is_deleted = is_chosen and own == [] and not (background and concerned_labels(session, [name], background))
    if own is None:
        own = [prompt for prompt in known_prompts(session, name) if prompt.kind == "point" and prompt.positive]
    prompts = [*_box(session, name, options, is_deleted=is_deleted), *own]
    return bring_to_lists(session, name, prompts, background, taken(name)).locked


def _box(session: InteractiveSession, label: str, options: PromptParameters, *, is_deleted: bool) -> list[Prompt]:
    """The box of a request; without one, that which the label has.

    3D Slicer has one box for all segments, and sends none once the user has gone on to another segment.

    Args:
        is_deleted: whether the user has deleted all that the label had, and the box with it.
    """
    known = [prompt for prompt in known_prompts(session, label) if prompt.kind == "box"]
    return _drawn(session, options) or ([] if is_deleted else known)


def _drawn(session: InteractiveSession, options: PromptParameters) -> list[Prompt]:
    """The box of a request, if it has one."""
    scan = scan_of(session)
    roi = read_roi(options.roi, scan)
    return [] if roi is None else [box_prompt(roi, scan)]


def _renamed_note(label: str, source: str) -> str:
    return f"{label} has the points of {source}, and goes on from it"


def _unlocked_note(labels: Sequence[str]) -> str:
    """Which segments strokes may have crossed, of which nothing tells what lies below them."""
    return f"{', '.join(labels)}: not locked below the strokes, for what they hide was never sent" if labels else ""


def _emptied_note(labels: Sequence[str]) -> str:
    """Which labels a label map has emptied: a scene that was begun anew has empty segments, too."""
    return f"{', '.join(labels)}: emptied, as in what you sent; undo brings it back" if labels else ""


def _box_note(session: InteractiveSession, labels: Iterable[str], options: PromptParameters) -> str:
    """Which labels keep a box that the request does not show, and that the user may have deleted."""
    if options.roi:
        return ""
    kept = [name for name in labels if any(prompt.kind == "box" for prompt in known_prompts(session, name))]
    return f"{', '.join(kept)}: its box still counts, delete all its points to drop it" if kept else ""


def _submitted(session: InteractiveSession, studies: StudiesFolder, image: str, path: Path) -> Taken:
    """The voxels of the other labels in the label map that was submitted last, but for what nobody has judged.

    Raises:
        RequestError: 400, it was put there by hand, and nothing tells the names of its labels.
    """
    if not studies.get_label_by_image_id(image, FINAL):
        return lambda label: None
    file, info = studies.fixed_label(image, FINAL)
    ids = {_plain(name): index for name, index in info.get("label_names", {}).items()}
    if not ids:
        raise RequestError(
            400,
            f"params['lock_submitted'] is true, but nothing tells the names of the labels of image {image!r}, whose "
            "label map was put there by hand: submit it, or switch the option off",
        )
    unjudged = ids.get(IGNORE, 0)
    voxels = session.submitted(
        (file, file.stat().st_mtime_ns),
        lambda: read_label(file, read_grid(path), range(256), allow_empty=True).astype(np.uint8),
    )
    return lambda label: (voxels != 0) & (voxels != unjudged) & (voxels != ids.get(_plain(label), 0))


def _plain(name: str) -> str:
    """A label's name as it is compared with those of submitted labels, whose case may be another one."""
    return name.strip().casefold()


def _note(locked: Sequence[Prompt], session: InteractiveSession, reason: str = "they lie in a locked label") -> str:
    """Which prompts are without effect, and why."""
    voxels = [list(scan_of(session).voxel(prompt.positions[0])) for prompt in locked]
    some = ", ".join(map(str, voxels[:5]))
    return f"without effect, because {reason}: {some}" if voxels else ""
