"""Which bundle's a label is. One that a client submits is checked and stored as a new version, its ids put right."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from monailabel_app.bundles import Bundle
from monailabel_app.errors import RequestError
from monailabel_app.studies.folder import FINAL, StudiesFolder
from monailabel_app.studies.refusals import refusals
from monailabel_app.studies.volumes import admitted, read_grid, read_label
from rep3d.data.regions import IGNORE
from rep3d.data.submissions import ABSENT, LABELLED, UNNAMED
from rep3d.io.segments import read_segments, without_background
from rep3d.io.volumes import write_label_map

MAX_SEGMENTS = 255  # of a label map
LARGEST = "largest_structure"  # voxels, as stored with a label

NEVER = re.compile(r"(?!)")  # matches nothing


@dataclass(frozen=True)
class Submission:
    """A label map for an image, and what its client tells of it.

    3D Slicer numbers the segments by their order and tells their names; a `.seg.nrrd` file tells both itself. Where
    there are no names, the ids are taken to be those of a bundle already.

    Args:
        image: its id.
        file: NIfTI or NRRD.
        info: what to store with the version, such as who submitted it.
        tag: of the label.
        names: of the segments with the voxel values 1, 2 and so on; the background, which has none, does not count.
        model: that the client has chosen, where it tells one.
        prompts: to be stored beside the label, as `InteractiveSessions.shown` gives them.
        allow_empty: a map without any segment is meant.
        uploaded: it waits among the uploads.
    """

    image: str
    file: Path
    info: Mapping[str, Any]
    tag: str = FINAL
    names: Sequence[str] = ()
    model: str = ""
    prompts: Sequence[Mapping[str, Any]] = ()
    allow_empty: bool = False
    uploaded: bool = True


def submit_label(
    datastore: StudiesFolder,
    bundles: Mapping[str, Bundle],
    submitted: Submission,
    *,
    prompted: Bundle | None = None,
    nameless: re.Pattern[str] = NEVER,
) -> str:
    """Store a label map in the ids of one of the bundles.

    Clients name the segments of all bundles, also those without voxels: which bundle's the label is, the others tell.
    In a label without any voxels, all of them do. A label that is of no bundle keeps those without voxels that its user
    has named.

    Args:
        bundles: those that are served. Of several that have all segments with voxels it is the one that segmented the
            image last, or else the client's `model`, or the one that has all names, also of segments without voxels,
            and preferably no others.
        prompted: the bundle that follows prompts, where it serves. Segments of which no other bundle has all are its
            own, where each name that no bundle has is one of a label of the prompts.
        nameless: names of labels of the prompts that a program gave, and no user; what they show may have any name.

    Returns:
        The label's id.

    Raises:
        RequestError: no such image, no bundle with these names, several and nothing tells which, or a label that does
            not fit its image; 503, too many uploads wait.
    """
    image = datastore.image(submitted.image)
    candidates = list(bundles.values())
    preferred = (datastore.knowledge(submitted.image).get("model", ""), submitted.model)
    segments = _segments(submitted.file, submitted.names)
    if not segments and not candidates:
        raise _unknown(candidates, [])
    grid = read_grid(image)
    with admitted() if submitted.uploaded else nullcontext():
        likely = _preferred(candidates, preferred) or candidates
        values = segments.values() or {value for one in likely for value in one.labels.values()}
        voxels = read_label(submitted.file, grid, values, submitted.allow_empty).astype(np.uint8)
    occurs = _occurring(voxels)
    deciding = [name for name, value in segments.items() if value in occurs] or list(segments)
    if segments:
        fitting = _choose(_with_names(candidates, deciding), preferred, segments)
    else:
        fitting = _choose([one for one in candidates if occurs <= set(one.labels.values())], preferred)
    if fitting is None and segments and submitted.prompts and prompted is not None:
        _check_shown(candidates, deciding, submitted.prompts, nameless)
        own = [name for name in segments if name in deciding or _is_users(name, candidates, nameless)]
        fitting = replace(prompted, labels={name: number for number, name in enumerate(own, 1)})
    if fitting is None:
        raise _unknown(candidates, deciding or sorted(occurs))
    label = _id_table(segments, fitting)[voxels]
    stored = {**submitted.info, **_described(label, segments, fitting, datastore.checksum(submitted.image))}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "label.nii.gz"
        write_label_map(label, grid, path, labels=fitting.labels)
        return datastore.save_label(submitted.image, str(path), submitted.tag, stored, submitted.prompts)


def label_ids(
    datastore: StudiesFolder, image_id: str, image: Path, label: Path, info: Mapping[str, Any]
) -> Sequence[int]:
    """The ids beside 0 in a label that nobody submitted; read once and kept with it.

    Args:
        label, info: the current final one as a version, see `StudiesFolder.fixed_label`.

    Raises:
        RequestError: a label that does not fit its image.
    """
    if "ids" in info:
        return info["ids"]
    ids = [int(value) for value in np.unique(read_label(label, read_grid(image), range(256))) if value]
    datastore.labels.update(image_id, info["version"], {"ids": ids})
    return ids


def largest_structure(
    datastore: StudiesFolder, image_id: str, image: Path, label: Path, info: Mapping[str, Any]
) -> int:
    """Voxels of the largest structure in a label; kept with it, and read once where it is not.

    Args and raises as `label_ids`.
    """
    if LARGEST in info:
        return int(info[LARGEST])
    largest = _largest(read_label(label, read_grid(image), range(256), allow_empty=True).astype(np.uint8))
    datastore.labels.update(image_id, info["version"], {LARGEST: largest})
    return largest


def bundles_with(ids: Iterable[int], bundles: Iterable[Bundle]) -> list[str]:
    """The names of the bundles that have all these ids."""
    return [bundle.name for bundle in bundles if set(ids) <= set(bundle.labels.values())]


def _segments(file: Path, names: Sequence[str]) -> dict[str, int]:
    """The voxel values by segment name; empty where nothing tells names."""
    with refusals():
        if file.name.endswith(".seg.nrrd"):
            return read_segments(file)
        found = without_background(file, names)
    if len(found) > MAX_SEGMENTS:
        raise RequestError(400, f"the label has {len(found)} segments, expected at most {MAX_SEGMENTS}")
    return {name: number for number, name in enumerate(found, 1)}


def _occurring(voxels: np.ndarray) -> set[int]:
    """Ids, other than the background's, of voxels that are there."""
    return {int(value) for value in np.flatnonzero(np.bincount(voxels.ravel())) if value}


def _id_table(segments: Mapping[str, int], bundle: Bundle) -> np.ndarray:
    """The bundle's id of each voxel value: that of the segment's name, of values without names the value itself."""
    ids = {name.casefold(): index for name, index in bundle.labels.items()}
    table = np.arange(256, dtype=np.uint8)
    for name, value in segments.items():
        table[value] = ids.get(name.casefold(), 0)
    return table


def _described(label: np.ndarray, segments: Iterable[str], bundle: Bundle, checksum: str) -> dict[str, Any]:
    """What is stored with a label in the bundle's ids.

    Args:
        segments: names of what was submitted.
        checksum: of the image.
    """
    occurs = _occurring(label)
    named = {name.casefold() for name in segments}
    unnamed = [name for name in bundle.labels if named and name.casefold() not in named]
    return {
        "model": bundle.name,
        "label_names": bundle.labels,
        LARGEST: _largest(label),
        ABSENT: [name for name, index in bundle.labels.items() if index not in occurs],
        LABELLED: checksum,
        **({UNNAMED: unnamed} if unnamed else {}),
    }


def _with_names(bundles: Iterable[Bundle], names: Iterable[str]) -> list[Bundle]:
    """Those that have all these labels."""
    wanted = {name.casefold() for name in names}
    return [one for one in bundles if wanted <= {name.casefold() for name in one.labels}]


def _preferred(bundles: Iterable[Bundle], names: Sequence[str]) -> list[Bundle]:
    """The one whose name comes first among these; none where no name is there."""
    return sorted((one for one in bundles if one.name in names), key=lambda one: names.index(one.name))[:1]


def _choose(fitting: Sequence[Bundle], preferred: Sequence[str], names: Collection[str] = ()) -> Bundle | None:
    """The bundle whose label it is among those that have its segments; None where none has.

    Args:
        preferred: names of bundles, the best first.
        names: of the segments, also of those without voxels.

    Raises:
        RequestError: 400, several have them, and nothing tells which it is.
    """
    named = _with_names(fitting, names)
    exactly = [one for one in named if len(one.labels) == len(names)]
    found = _preferred(fitting, preferred) or exactly or named or fitting
    if len(found) > 1:
        models = ", ".join(one.name for one in found)
        expected = "expected params['model'], or segments with the names of one of them and no others"
        raise RequestError(400, f"the label may be of {models}, {expected}")
    return found[0] if found else None


def _check_shown(
    bundles: Sequence[Bundle], names: Sequence[str], prompts: Iterable[Mapping[str, Any]], nameless: re.Pattern[str]
) -> None:
    """Raise RequestError where a name is of no bundle, and nothing of that name was shown: it is misspelt.

    What nobody has judged nobody has to show.
    """
    shown = [label.strip() for one in prompts for label in one["labels"]]
    if any(map(nameless.fullmatch, shown)):
        return
    known = {name.casefold() for name in (IGNORE, *shown, *(name for bundle in bundles for name in bundle.labels))}
    wrong = [name for name in names if name.casefold() not in known]
    if wrong:
        told = f"Nothing was shown under the name(s) {wrong}: where they are new, point at them; shown were {shown}"
        raise RequestError(400, f"{_unknown(bundles, names).message}. {told}")


def _is_users(name: str, bundles: Sequence[Bundle], nameless: re.Pattern[str]) -> bool:
    """Whether a user gave this name, and neither a bundle nor a program."""
    is_of_bundle = any(name.casefold() == one.casefold() for bundle in bundles for one in bundle.labels)
    return not is_of_bundle and nameless.fullmatch(name) is None


def _unknown(bundles: Sequence[Bundle], names: Sequence[str | int]) -> RequestError:
    known = "; ".join(f"{bundle.name}: {', '.join(bundle.labels)}" for bundle in bundles)
    return RequestError(400, f"no model has all the segments {names}. The models have {known}")


def _largest(label: np.ndarray) -> int:
    """Voxels of the largest structure in a label map of uint8."""
    return int(np.bincount(label.ravel(), minlength=2)[1:].max())
