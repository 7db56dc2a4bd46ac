"""The labels of a folder of somebody's own, and what their ids become in a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from rep3d.data.dataset_json import FILE
from rep3d.data.names import displaced
from rep3d.data.regions import IGNORE, check_judging
from rep3d.datasets.fingerprint import CaseFacts
from rep3d.datasets.rendering import check_plain_names
from rep3d.datasets.sources import IDS, NO_LABELS, ToldLabels
from rep3d.files import whole_file
from rep3d.io.geometry import Geometry
from rep3d.io.nifti import label_image


class Labels(NamedTuple):
    """What the ids of label maps become.

    Args:
        names: of the ids 0, 1, ... of the bundle.
        ids: those of the label maps, in the same order.
        regions: unions of them, by name.
        class_order: for each region the id that label maps show it by.
        ignored: the id of voxels that nobody has judged.
    """

    names: list[str]
    ids: list[int]
    regions: dict[str, list[int]] | None = None
    class_order: list[int] | None = None
    ignored: int | None = None

    @property
    def all_ids(self) -> list[int]:
        """Of the label maps, in the order of the bundle's; that of voxels that nobody has judged comes last."""
        return self.ids if self.ignored is None else [*self.ids, self.ignored]

    @property
    def new_ids(self) -> dict[int, int]:
        """What those of the label maps become."""
        return {old: new for new, old in enumerate(self.all_ids)}

    @property
    def have_holes(self) -> bool:
        """Whether the label maps are to be numbered anew."""
        return any(old != new for old, new in self.new_ids.items())

    def options(self) -> dict[str, Any]:
        """Regions and what is ignored, as options of the data set's file, in the bundle's ids."""
        new = {old: i for i, old in enumerate(self.ids)}
        found: dict[str, Any] = {}
        if self.regions is not None and self.class_order is not None:
            found["regions"] = {name: [new[i] for i in ids] for name, ids in self.regions.items()}
            found["regions_class_order"] = [new[i] for i in self.class_order]
        return found if self.ignored is None else found | {"ignored_label": len(self.ids)}


def with_names(told: ToldLabels | None, names: Sequence[str]) -> ToldLabels:
    """What the data set's file tells of its labels, with the names that the user gives.

    Raises:
        ValueError: they cannot be names of the ids 1, 2, ... and of those of the regions, or the file has one of them
            for another id.
    """
    check_plain_names("labels", names)
    told, text = told or ToldLabels({}), f"labels are {', '.join(names)}"
    if len({*names, "background"}) <= len(names) or not all(names):
        raise ValueError(f"{text}, expected a name for each of the ids 1, 2, ... once")
    given = told._replace(names=dict(enumerate(["background", *names])))
    if given.ignored is not None and given.ignored <= len(names):
        count = given.ignored - 1
        raise ValueError(f"{text}, and the label {IGNORE!r} has the id {given.ignored}: expected {count} name(s)")
    needed = {i for ids in (given.regions or {}).values() for i in ids}
    if not needed <= given.names.keys():
        raise ValueError(f"{text}, expected names of the ids {sorted(needed)} of the regions")
    if wrong := displaced(list(given.names.values()), told.names):
        raise ValueError(f"{text}, {wrong}")
    return given


def unnamed(label_id: int) -> str:
    """What a label is called that has no name."""
    return f"label {label_id}"


def count_ids(told: ToldLabels | None) -> int:
    """How many ids label maps may hold, from 0."""
    return len(IDS) if told is None else max([*told.names, told.ignored or 0]) + 1


def read_labels(
    source: Path, facts: Sequence[CaseFacts], told: ToldLabels | None, patient_of: Mapping[str, str]
) -> tuple[Labels, list[str]]:
    """The labels, and what somebody should know of them.

    Args:
        source: the folder, for messages.
        facts: of the cases.
        told: what is known of the labels.
        patient_of: by case.

    Raises:
        ValueError: nothing is labelled, or as `rep3d.data.regions.check_judging`.
    """
    cases_with = np.array([np.array(fact.voxels) > 0 for fact in facts]).sum(axis=0)
    ids = sorted(told.names) if told else [0, *(i for i in np.flatnonzero(cases_with).tolist() if i)]
    if not cases_with[ids[1:]].any():
        raise ValueError(f"source {str(source)!r}: all label maps are empty: {NO_LABELS}")
    if told:
        labels = Labels([told.names[i] for i in ids], ids, *told[1:])
    else:
        labels = Labels(["background", *map(unnamed, ids[1:])], ids)
    notes = []
    if not told:
        notes.append("no file tells the labels' names: give them with --labels, in the order of their ids")
    notes += _rare_labels(facts, dict(zip(ids[1:], labels.names[1:], strict=True)), patient_of)
    if labels.have_holes:
        became = ", ".join(f"{old} becomes {new}" for old, new in labels.new_ids.items() if old != new)
        notes.append(f"the label ids have holes, and a bundle's have none: {became}")
    options = labels.options()
    try:
        check_judging(labels.names, *map(options.get, ("regions", "regions_class_order", "ignored_label")))
    except ValueError as error:
        raise ValueError(f"{source / FILE}: {error}") from None
    return labels, notes


def _rare_labels(facts: Sequence[CaseFacts], names: Mapping[int, str], patient_of: Mapping[str, str]) -> list[str]:
    """Which labels no case shows, or of several patients one alone.

    Args:
        names: by id.
    """
    notes, several = [], len({patient_of[fact.case] for fact in facts}) > 1
    for i, name in names.items():
        cases = [fact.case for fact in facts if fact.voxels[i]]
        patients = {patient_of[case] for case in cases}
        if not cases:
            notes.append(f"label {name!r} occurs in no case: nothing can be learned of it")
        elif several and len(patients) == 1:
            where = f"one case, {cases[0]}" if len(cases) == 1 else f"the cases of one patient, {patients.pop()}"
            notes.append(f"label {name!r} occurs in {where}: it can be learned or judged, not both")
    return notes


def renumbered(voxels: np.ndarray, geometry: Geometry, new_ids: Mapping[int, int], folder: Path, case: str) -> Path:
    """Write a copy of a label map with other ids, on the same grid, into the folder; its place."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{case}.nii.gz"
    table = np.zeros(len(IDS), np.uint8)
    table[list(new_ids)] = list(new_ids.values())
    with whole_file(path) as temporary:
        nib.save(label_image(table[voxels.astype(np.uint8)], geometry), temporary)
    return path
