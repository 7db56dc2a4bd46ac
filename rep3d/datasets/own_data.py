"""The folder `data` of a bundle of somebody's own: where the files are, who trains and who validates."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from rep3d.data import splits
from rep3d.data.cases import one_or_all
from rep3d.data.dataset_json import COPY_OF, FILE
from rep3d.data.memory import file_key
from rep3d.data.regions import IGNORE
from rep3d.datasets.downloads import Scan
from rep3d.datasets.own_changes import remembered, written
from rep3d.datasets.own_labels import Labels, renumbered
from rep3d.datasets.rendering import read_fragment
from rep3d.files import write_json
from rep3d.io.nifti import read_volume

LABELS, STAGED = "labels", ".labels"  # label maps with other ids than those of the source; before they count


def write_data(
    folder: Path,
    name: str,
    scans: Sequence[Scan],
    label_of: Mapping[str, Path],
    keys: Mapping[str, str],
    labels: Labels,
) -> None:
    """Write dataset.json.

    Where label maps are copied there is none meanwhile, so that nothing trains on those of two numberings.

    Args:
        keys: of files of label_of, as they were when what their ids mean was read.
    """
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
    write_json(folder / FILE, {"name": name, "labels": names, "training": training})
    _remove_copies(folder, {entry["label"] for entry in training})


def read_own_splits(folder: Path, cases: Collection[str]) -> list[splits.Split]:
    """Those of splits.json where a person wrote it; none of ours.

    Raises:
        ValueError: it is no list of splits, or names a case that there is no longer.
    """
    path = folder / splits.FILE
    if not path.is_file() or read_fragment(path) in written(folder, "splits"):
        return []
    return splits.read_splits(path, cases)


def write_splits(folder: Path, cases: Sequence[str], count: int, patient_of: Mapping[str, str]) -> None:
    """Write as many folds; of one all cases train."""
    one = [{"train": list(cases), "val": []}]
    folds = splits.make_folds(cases, count, patients=patient_of) if count > 1 else one
    with remembered(folder, "splits", folds):
        write_json(folder / splits.FILE, folds)


def _remove_copies(folder: Path, used: Collection[object]) -> None:
    """Of label maps that a data set had before."""
    shutil.rmtree(folder / STAGED, ignore_errors=True)
    for path in (folder / LABELS).glob("*.nii.gz"):
        if os.path.abspath(path) not in used:
            path.unlink()
