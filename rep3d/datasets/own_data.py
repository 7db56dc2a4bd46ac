"""The data set of a bundle of somebody's own: dataset.json with the places of the files, and copies of label maps."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from rep3d.data import splits
from rep3d.data.cases import one_or_all
from rep3d.data.dataset_json import COPY_OF, FILE, read_dataset_json
from rep3d.data.memory import file_key
from rep3d.data.regions import IGNORE
from rep3d.datasets.downloads import Scan
from rep3d.datasets.own_changes import remembered, written
from rep3d.datasets.own_labels import Labels, renumbered
from rep3d.datasets.sources.cases import Case
from rep3d.files import write_json
from rep3d.io.nifti import read_volume

LABELS, STAGED = "labels", ".labels"  # label maps with other ids than those of the source; before they count
LISTED = "listed"  # what is remembered of dataset.json


def check_unchanged(folder: Path, name: str) -> None:
    """Refuse to write dataset.json anew where a person has changed it.

    Raises:
        ValueError: somebody has.
    """
    before = written(folder, LISTED)
    if before and (folder / FILE).is_file() and read_dataset_json(folder) not in before:
        raise ValueError(
            f"{folder / FILE}: has changed since `rep3d new` wrote it, and would be written anew: leave cases out in "
            f"the source, or in {splits.FILE}, change names in {name}.json, and remove this file"
        )


def write_data(folder: Path, name: str, scans: Sequence[Scan], cases: Sequence[Case], labels: Labels) -> None:
    """Write dataset.json.

    Where label maps are copied there is none meanwhile, so that nothing trains on those of two numberings.

    Args:
        scans: those that are listed, perhaps with label maps of other ids than in the source.
        cases: of the source.
    """
    label_of = {case.name: case.label for case in cases if case.label is not None}
    keys = {case.name: case.label_key for case in cases if case.label_key}
    if labels.have_holes or any(scan.label != label_of[scan.case] for scan in scans):
        (folder / FILE).unlink(missing_ok=True)
    training = []
    for scan in scans:
        label, source = scan.label, label_of[scan.case]
        key = keys.get(scan.case) or file_key(source)
        if labels.have_holes:
            voxels, geometry = read_volume(str(label))
            label = renumbered(voxels, geometry, labels.new_ids, folder / LABELS, scan.case)
        elif label != source:
            (folder / LABELS).mkdir(exist_ok=True)
            label = Path(str(label)).replace(folder / LABELS / f"{scan.case}.nii.gz")
        image = one_or_all(list(map(os.path.abspath, scan.images)))
        entry = {"image": image, "label": os.path.abspath(str(label)), "case": scan.case}
        if scan.case in keys or label != source:
            entry[COPY_OF] = key
        training.append(entry)
    names = {str(i): text for i, text in enumerate([*labels.names, *([] if labels.ignored is None else [IGNORE])])}
    content = {"name": name, "labels": names, "training": training}
    with remembered(folder, LISTED, content):
        write_json(folder / FILE, content)
    _remove_copies(folder, {entry["label"] for entry in training})


def _remove_copies(folder: Path, used: Collection[object]) -> None:
    """Of label maps that a data set had before."""
    shutil.rmtree(folder / STAGED, ignore_errors=True)
    for path in (folder / LABELS).glob("*.nii.gz"):
        if os.path.abspath(path) not in used:
            path.unlink()
