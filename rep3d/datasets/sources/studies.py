"""The label app's studies as a data set: which names the app kept of each label, and ids that all labels share.

A label has the names of its own segments. One that was made with clicks numbers them as its user had them, so that each
is brought to common ids by its names.
"""

from __future__ import annotations

import filecmp
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from rep3d.console.progress import track
from rep3d.data.cases import SUFFIXES, case_name, is_nifti
from rep3d.data.image_ids import id_of
from rep3d.data.layouts import list_nifti
from rep3d.data.memory import file_key
from rep3d.data.regions import IGNORE
from rep3d.data.submissions import ABSENT, LABELLED, UNNAMED, checksum, describe_absent, describe_exchanged
from rep3d.datasets.sources.cases import IMAGE, Case, Source, cases_of, channels_of
from rep3d.datasets.sources.labels import ToldLabels, read_labels
from rep3d.files import read_json
from rep3d.io.folders import walk
from rep3d.io.volumes import split_suffix

LABELS, VERSIONS = "labels/final", "labels/versions"
CONVERTED = ".rep3d/converted"  # images there that are none in NIfTI elsewhere
MONAI_LABEL = "datastore_v2.json"  # of MONAI Label's own studies

Names = Mapping[str, int]  # ids by name


class CommonIds(NamedTuple):
    """Ids for the labels of many cases.

    Args:
        names: of the ids 1, 2, ...
        ignored: the id of voxels that nobody has judged; None where no label has any.
        ids: by case, what the values of its label map become; others do not occur in it.
        problems: why a case has none, by case.
        notes: what somebody should know.
    """

    names: list[str]
    ignored: int | None
    ids: dict[str, dict[int, int]]
    problems: dict[str, str]
    notes: list[str]


class Images(NamedTuple):
    """What lies in a studies folder.

    Args:
        ids: of the files in NIfTI.
        unread: files of another format, by their ids.
    """

    ids: dict[Path, str]
    unread: dict[str, Path]


def list_images(studies: Path) -> Images:
    """The images of the studies, in subfolders too, by the ids that the app gives them; folders of labels hold none."""
    found = Images({path: case_name(path) for path in list_nifti(studies / CONVERTED)}, {})
    for folder, files in walk(studies):
        place = folder.relative_to(studies)
        if any(part.casefold().startswith("labels") for part in place.parts):
            continue
        for file in files:
            with suppress(ValueError):  # of another kind, or of a name that the app does not serve
                image_id = id_of(split_suffix((place / file.name).as_posix())[0], "image")
                if is_nifti(file):
                    found.ids[file] = image_id
                else:
                    found.unread[image_id] = file
    return found


class CurrentLabel(NamedTuple):
    """The label of a case that counts.

    Args:
        file: its version, which no later submission changes; where there is none, the file that one replaces.
        key: of such a file before its names were read, see `rep3d.data.memory.file_key`; empty of a version.
        names: of its segments, as they were submitted with it; None of one that somebody put there by hand.
        absent: names of those that it does not show.
        image: checksum of the image that was labelled; empty where nobody knows.
    """

    file: Path
    key: str
    names: dict[str, int] | None
    absent: Sequence[str] = ()
    image: str = ""


def current_label(studies: Path, label: Path) -> CurrentLabel:
    """What the app kept of a current label.

    Args:
        studies: their folder.
        label: its file, in the folder LABELS.
    """
    name, key = case_name(label), file_key(label)
    for told in sorted((studies / VERSIONS / name).glob("[0-9]*[0-9].json"), reverse=True):
        info = read_json(told)
        if info.get("tag", "final") == "final" and not info.get("removed"):
            version = told.with_suffix(SUFFIXES[0])
            if not version.is_file():
                return _submitted(label, key, info)
            if filecmp.cmp(version, label, shallow=False):
                return _submitted(version, "", info)
            return CurrentLabel(label, key, None)
    entry = read_json(studies / MONAI_LABEL).get("objects", {}).get(name, {})
    segments = entry.get("labels", {}).get("final", {}).get("info", {}).get("label_info")
    if isinstance(segments, list) and all(isinstance(one, dict) and one.get("name") for one in segments):
        numbered = {str(one["name"]): i for i, one in enumerate(segments, 1)}  # 3D Slicer's: by their order
        return CurrentLabel(label, key, numbered)
    return CurrentLabel(label, key, None)


def _submitted(file: Path, key: str, info: Mapping[str, Any]) -> CurrentLabel:
    """A label with what was stored with it."""
    return CurrentLabel(file, key, _named(info), info.get(ABSENT, ()), info.get(LABELLED, ""))


def _named(info: Mapping[str, Any]) -> dict[str, int] | None:
    """The names that were submitted, of all that its bundle has."""
    names, unnamed = info.get("label_names") or {}, info.get(UNNAMED, ())
    return {name: int(i) for name, i in names.items() if int(i) and name not in unnamed} or None


def common_ids(names_of: Mapping[str, Names | None]) -> CommonIds:
    """Ids for labels that were submitted with names of their own.

    Learned are the names that half of the labels have at least. What a label has beside these is background. One that
    lacks some of them is left out: nobody knows whether its scan shows none of that, or is not finished.

    Args:
        names_of: of each case; of one that has none nobody knows what its ids mean.
    """
    told = {case: {name.casefold(): i for name, i in names.items()} for case, names in names_of.items() if names}
    spelled: dict[str, str] = {}
    for names in names_of.values():
        for name in names or ():
            spelled.setdefault(name.casefold(), name)
    count = {key: sum(key in names for names in told.values()) for key in spelled}
    has_ignored = count.pop(IGNORE, 0) > 0
    learned = [key for key in count if 2 * count[key] >= len(told)]
    new = {key: i for i, key in enumerate(learned, 1)}
    if has_ignored:
        new[IGNORE] = len(learned) + 1
    problems = {
        case: "no names were submitted with it, and the ids of others differ" for case in names_of.keys() - told
    }
    for case, names in told.items():
        lacking = [spelled[key] for key in learned if key not in names]
        if lacking:
            problems[case] = (
                f"has no segment {', '.join(lacking)}, as others have: is it finished? Submit it with that segment, "
                "empty where the scan shows none"
            )
    notes = ["the labels have different segments, or number them differently: they are brought together by their names"]
    others = [spelled[key] for key in count if key not in new]
    if others:
        rare = json.dumps({name: count[name.casefold()] for name in others})
        notes.append(f"segments that less than half of the {len(told)} labels have are background: {rare}")
    ids = {case: {i: new.get(key, 0) for key, i in names.items()} for case, names in told.items()}
    return CommonIds([spelled[key] for key in learned], new.get(IGNORE), ids, problems, notes)


def studies_source(folder: Path) -> Source:
    """The label app's studies: the labels that were submitted last, with the names that the app kept with them.

    Raises:
        ValueError: the labels have no segments in common.
    """
    paths, images = list_nifti(folder / LABELS), list_images(folder)
    found = cases_of(images.ids, paths, name_of=images.ids.__getitem__)
    labels = {case.name: current_label(folder, case.label) for case in found if case.label is not None}
    cases = [_as_kept(case, labels.get(case.name), images.unread.get(case.name)) for case in found]
    source = Source("the label app's studies", cases, channels_of(cases))
    source = _with_names(source, folder, {name: label.names for name, label in labels.items()})
    used = {case.name: case for case in source.cases if case.images and case.label is not None and not case.problem}
    remarks = _exchanged(used, labels), _absent(used, labels, source.labels)
    return source._replace(notes=[*source.notes, *filter(None, remarks)])


def _with_names(source: Source, folder: Path, names_of: Mapping[str, Names | None]) -> Source:
    """The source with the names of its labels, in ids that all cases share.

    Raises:
        ValueError: as `studies_source`.
    """
    known = [names for names in names_of.values() if names]
    if all(names == known[0] for names in known):
        return source._replace(labels=read_labels(folder / LABELS, known[0]) if known else None)
    common = common_ids(names_of)
    if not common.names:
        raise ValueError(f"{folder / LABELS}: no segment is in half of the labels: {'; '.join(common.notes[1:])}")
    names = dict(enumerate(["background", *common.names]))
    return source._replace(
        cases=[_in_common_ids(case, common) for case in source.cases],
        labels=ToldLabels(names, ignored=common.ignored),
        notes=common.notes,
    )


def _exchanged(cases: Mapping[str, Case], labels: Mapping[str, CurrentLabel]) -> str:
    """Which cases have another image than was labelled, in words."""
    known = [name for name, case in cases.items() if labels[name].image and IMAGE in case.images]
    compared = track(known, "Comparing images", "image")
    return describe_exchanged([name for name in compared if _is_other(cases[name].images[IMAGE], labels[name].image)])


def _is_other(image: Path, labelled: str) -> bool:
    """Whether a file has another checksum. One that cannot be read is named by those who need its voxels."""
    with suppress(OSError):
        return checksum(image) != labelled
    return False


def _absent(cases: Mapping[str, Case], labels: Mapping[str, CurrentLabel], told: ToldLabels | None) -> str:
    """What labels do not show of that which is learned, in words."""
    spelled = {name.casefold(): name for name in told.names.values()} if told else {}
    lacking: dict[str, list[str]] = {}
    for case in cases:
        for key in map(str.casefold, labels[case].absent):
            if key in spelled:
                lacking.setdefault(spelled[key], []).append(case)
    return describe_absent(lacking, len(cases))


def _as_kept(case: Case, label: CurrentLabel | None, unread: Path | None) -> Case:
    """A case with its label as the app kept it; of one without an image, whether there is one that is not read here."""
    if label is None:
        return case
    nrrd = f"{unread}: NRRD is not read here: convert it to NIfTI, in its place" if unread and not case.images else ""
    return case._replace(label=label.file, label_key=label.key, problem=case.problem or nrrd)


def _in_common_ids(case: Case, common: CommonIds) -> Case:
    problem = common.problems.get(case.name, "")
    told = f"{case.label}: {problem}" if problem and case.label is not None else ""
    return case._replace(ids=common.ids.get(case.name), problem=case.problem or told)
