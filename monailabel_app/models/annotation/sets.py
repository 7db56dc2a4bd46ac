"""The set that is annotated, with one structure as its only label, and the bundle that learns to segment it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rep3d import installed
from rep3d.data.cases import Item, file_name, item_name, only_file
from rep3d.data.dataset_json import FILE, read_dataset_json
from rep3d.datasets.machine import this_machine
from rep3d.datasets.own_bundle import new_bundle
from rep3d.evaluation.click_cases import Labels
from rep3d.files import read_json, write_json
from rep3d.io.volumes import read_volume, write_label_map

AUTOMATIC = "automatic"


def write_set(dataset_dir: Path, items: Sequence[Item], labels: Labels, folder: Path) -> None:
    """Write a data set of the same images, whose label maps show one structure; of those that have it.

    Args:
        dataset_dir: the data set.
        items: {"image": path, "label": path} of its cases.
        labels: that make the structure together.
        folder: receives it, unless it is there already.

    Raises:
        ValueError: an image in several files.
    """
    if (folder / FILE).is_file():
        return
    structure, wanted = " + ".join(labels), [index for of_label in labels.values() for index in of_label]
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    entries = []
    for item in items:
        case, image = item_name(item), Path(only_file(item)).resolve()
        voxels, grid = read_volume(Path(item["label"]))
        path = folder / f"labels/{file_name(case)}.nii.gz"
        shown = np.isin(voxels, wanted)
        if shown.any():
            write_label_map(shown, grid, path, labels={structure: 1})
            entries.append({"image": str(image), "label": str(path.resolve()), "case": case})
    told = {key: value for key, value in read_dataset_json(dataset_dir).items() if key in ("modality", "channel_names")}
    write_json(folder / FILE, {**told, "labels": {"0": "background", "1": structure}, "training": entries})


def make_automatic(source: Path, output: Path, spacing: Sequence[float], patch_size: Sequence[int]) -> None:
    """Make the bundle of a set as `rep3d new` does, unless it is there already.

    Args:
        source: the set.
        output: receives the bundle, in the folder AUTOMATIC.
        spacing, patch_size: as a person changes them in its file; empty: as they were chosen.

    Raises:
        ValueError: a scan cannot be trained on; or as `new_bundle`.
    """
    if (output / AUTOMATIC).is_dir():
        return
    with tempfile.TemporaryDirectory(dir=output) as half:
        make = partial(new_bundle, AUTOMATIC, source, Path(half), root=installed.root(), machine=this_machine())
        made = make()
        if made.problems:
            first, *_ = next(iter(made.problems.values()))
            raise ValueError(f"{len(made.problems)} scan(s) cannot be trained on, expected none: {first}")
        changes: dict[str, Any] = {"spacing": list(spacing)} if spacing else {}
        changes |= {"patch_size": list(patch_size)} if patch_size else {}
        if changes:
            path = made.folder / f"{AUTOMATIC}.json"
            decided = read_json(path)
            write_json(path, {**decided, "common": {**decided["common"], **changes}})
            make()
        made.folder.rename(output / AUTOMATIC)
