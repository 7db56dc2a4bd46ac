"""The label app's studies as a data set: which names the app kept of each label, and ids that all labels share.

Of a bundle that segments by itself a label has all names. One that was made with clicks has those of its own segments,
numbered as its user had them, so that each is brought to common ids by its names.
"""

from __future__ import annotations

import filecmp
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from rep3d.data.cases import SUFFIXES, case_name
from rep3d.data.regions import IGNORE
from rep3d.files import read_json

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


def kept_names(studies: Path, label: Path) -> dict[str, int] | None:
    """The names of a current label, as they were submitted with it; None of one that somebody put there by hand.

    Args:
        studies: their folder.
        label: its file.
    """
    name = case_name(label)
    for told in sorted((studies / VERSIONS / name).glob("[0-9]*[0-9].json"), reverse=True):
        info = read_json(told)
        if info.get("tag", "final") == "final" and not info.get("removed"):
            file = told.with_suffix(SUFFIXES[0])
            is_current = not file.is_file() or filecmp.cmp(file, label, shallow=False)
            return _without_background(info.get("label_names")) if is_current else None
    entry = read_json(studies / MONAI_LABEL).get("objects", {}).get(name, {})
    segments = entry.get("labels", {}).get("final", {}).get("info", {}).get("label_info")
    if isinstance(segments, list) and all(isinstance(one, dict) and one.get("name") for one in segments):
        return {str(one["name"]): i for i, one in enumerate(segments, 1)}  # 3D Slicer numbers them by their order
    return None


def _without_background(names: Names | None) -> dict[str, int] | None:
    return {name: int(i) for name, i in names.items() if int(i)} if names else None


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
    notes = ["the labels number their segments differently: they are brought together by their names"]
    others = [spelled[key] for key in count if key not in new]
    if others:
        rare = json.dumps({name: count[name.casefold()] for name in others})
        notes.append(f"segments that less than half of the {len(told)} labels have are background: {rare}")
    ids = {case: {i: new.get(key, 0) for key, i in names.items()} for case, names in told.items()}
    return CommonIds([spelled[key] for key in learned], new.get(IGNORE), ids, problems, notes)
