"""The labelled scans on which clicks are evaluated."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from rep3d.data.cases import Item, item_name, name_cases
from rep3d.data.checks import check_pair, image_problem
from rep3d.data.dataset_json import FILE, check_all_judged, is_unjudged, named_places, read_dataset_json
from rep3d.data.layouts import PARTS, list_pairs
from rep3d.data.lists import load_datalist
from rep3d.data.regions import check_label_names
from rep3d.io.geometry import VolumeError
from rep3d.io.volumes import read_volume

ALL = "all"  # parts of a data set
TOGETHER = "together"  # all labels

Labels = Mapping[str, Sequence[int]]  # the ids that make a label, by its name


@dataclass(frozen=True)
class Case:
    """A labelled scan, whose axes point right, to the front and up.

    Args:
        name: of its own in the data set.
        image: (D, H, W) of float32.
        label: ids, (D, H, W).
        spacing: millimetres between voxels along each axis.
        path: of the image's file.
    """

    name: str
    image: torch.Tensor
    label: torch.Tensor
    spacing: tuple[float, float, float]
    path: Path


def list_cases(dataset_dir: str | os.PathLike, part: str, fold: int = 0) -> list[Item]:
    """The pairs {"image": path, "label": path} of a part of a data set, see `rep3d.data.lists.load_datalist`.

    Args:
        dataset_dir: its folder.
        part: "training", "validation", "test", or "all" of them.
        fold: of the data set's splits.

    Raises:
        ValueError, FileNotFoundError: as `load_datalist`.
    """
    if part != ALL:
        return load_datalist(dataset_dir, part, fold)
    pairs = list_pairs(Path(dataset_dir))
    items = [item for one in PARTS for item in pairs[one]]
    if not items:
        raise ValueError(f"{dataset_dir} lists no image with a label")
    return name_cases(items)


def load_case(item: Item) -> Case:
    """Read a pair.

    Raises:
        VolumeError: names the file that cannot be used.
    """
    check_pair(item)
    image, spacing = read_ras(Path(item["image"]))
    problem = image_problem(image.numpy())
    if problem:
        raise VolumeError(item["image"], problem)
    label, _ = read_ras(Path(item["label"]))
    if not torch.equal(label, label.round()):
        raise VolumeError(item["label"], "holds numbers that are not whole, expected label ids")
    return Case(item_name(item), image, label, spacing, Path(item["image"]))


def read_ras(path: Path) -> tuple[torch.Tensor, tuple[float, float, float]]:
    """The voxels of a file, (D, H, W) of float32, with axes to the right, to the front and up, and their spacing.

    Raises:
        VolumeError: see `rep3d.io.volumes.read_volume`.
    """
    voxels, geometry = read_volume(path)
    axes = nib.orientations.io_orientation(geometry.affine)
    voxels = nib.orientations.apply_orientation(voxels, axes)
    lengths = np.linalg.norm(geometry.affine[:3, :3], axis=0)
    x, y, z = (float(lengths[int(np.flatnonzero(axes[:, 0] == axis)[0])]) for axis in range(3))
    return torch.from_numpy(np.ascontiguousarray(voxels, dtype=np.float32)), (x, y, z)


def named_labels(dataset_dir: Path, chosen: str | Sequence[int] = ()) -> Labels:
    """The labels of a data set, as its `dataset.json` names them; regions are labels of several ids.

    Args:
        dataset_dir: its folder.
        chosen: ids, of which each is a label; empty: all labels; "together": all as one label.

    Raises:
        ValueError: no labels are named, or not those; or one is of voxels that nobody has judged, and all are wanted.
    """
    told = read_dataset_json(dataset_dir).get("labels")
    path = dataset_dir / FILE
    if not isinstance(told, dict) or len(told) < 2:
        raise ValueError(f'{path}: "labels" is {told!r}, expected the names of ids, with 0 for the background')
    named = [(name, _ids(name, place, path)) for name, place in named_places(told)]
    check_label_names([name for name, _ in named])
    labels = {name: ids for name, ids in named if ids != [0]}
    if not chosen or chosen == TOGETHER:
        check_all_judged(dataset_dir)
    if not chosen:
        return dict(sorted(labels.items(), key=lambda label: label[1]))
    if chosen == TOGETHER:
        return {" + ".join(labels): sorted({i for ids in labels.values() for i in ids})}
    names = {ids[0]: name for name, ids in labels.items() if len(ids) == 1 and not is_unjudged(name)}
    if isinstance(chosen, str) or not set(chosen) <= set(names):
        expected = f"{TOGETHER!r} or some of {sorted(names)} of {path}"
        raise ValueError(f"labels is {chosen!r}, expected {expected}")
    return {names[i]: [i] for i in chosen}


def _ids(name: str, place: Any, path: Path) -> list[int]:
    """What the label of a name stands for."""
    ids = place if isinstance(place, list) else [place]
    if not ids or not all(str(i).isdecimal() for i in ids):
        raise ValueError(f'{path}: "labels" has {name!r} as {place!r}, expected an id, or a list of some')
    return [int(i) for i in ids]
