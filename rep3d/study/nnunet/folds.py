"""The folds of a comparison: of each some cases are held out, and both systems learn from the others.

Those are split once more: nnU-Net and our bundle train on the same part, and choose, where they do, by the other.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib

from rep3d.data.layouts import list_nifti
from rep3d.data.splits import make_folds
from rep3d.datasets.nnunet_raw import label_names, write_raw
from rep3d.datasets.planning.folds import FOLDS
from rep3d.datasets.planning.patches import DIVISOR
from rep3d.datasets.sources import Source, read_source
from rep3d.files import read_json, read_record, write_json
from rep3d.io.nifti import read_geometry
from rep3d.study.nnunet.environment import NnUNet

DATASET = "Dataset001_compared"
SPLIT = "split.json"
PLANNER = "nnunetv2.experiment_planning.plan_and_preprocess_entrypoints"


@dataclass(frozen=True)
class Split:
    """Who sees which cases.

    Args:
        source: the data set's folder.
        labels: names of the ids 0, 1, ...
        train, val: cases that both systems have.
        test: those that are held out.
    """

    source: str
    labels: list[str]
    train: list[str]
    val: list[str]
    test: list[str]


@dataclass(frozen=True)
class Fold:
    """One fold of a data set.

    Args:
        dataset: the data set's name.
        number: of the fold.
        folds: how many there are.
        folder: holds all that belongs to it.
        split: its cases.
    """

    dataset: str
    number: int
    folds: int
    folder: Path
    split: Split

    @property
    def raw(self) -> Path:
        """The folder that both systems learn from, in nnU-Net's raw layout."""
        return self.folder / "nnUNet_raw" / DATASET

    @property
    def preprocessed(self) -> Path:
        """nnU-Net's own."""
        return self.folder / "nnUNet_preprocessed" / DATASET

    def plan(self) -> dict[str, Any]:
        """nnU-Net's batch and patch, "batch_size" and "patch_size", the latter along the axes R, A, S."""
        plans = read_json(self.preprocessed / "nnUNetPlans.json")
        chosen = plans["configurations"]["3d_fullres"]
        geometry = read_geometry(list_nifti(self.raw / "imagesTr")[0])
        axes = nib.orientations.io_orientation(geometry.affine)[:, 0].astype(int)  # of the file, in RAS
        patch = [0, 0, 0]
        for axis, edge in zip(plans["transpose_forward"], chosen["patch_size"], strict=True):
            patch[axes[2 - axis]] = edge  # nnU-Net counts the axes of a file from the last
        return {"batch_size": chosen["batch_size"], "patch_size": patch}


def prepare_fold(source: Path, output: Path, number: int, folds: int) -> Fold:
    """Write what both systems learn from; what an earlier call wrote stays.

    Args:
        source: the data set, in any layout that `rep3d new` takes.
        output: receives the fold, in a folder of its own.
        number: of the fold.
        folds: how many there are.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: the source cannot be read, or its labels are none that both take; too few patients; another data set
            of this name was compared before.
    """
    found = read_source(source)
    dataset = re.sub(r"\W+", "_", source.resolve().name)
    folder = output / f"{dataset}_fold{number}of{folds}"
    place = os.path.abspath(source)
    split = read_record(folder / SPLIT, Split)
    if split is not None and split.source != place:
        raise ValueError(f"{folder} is of {split.source}, not of {place}: give another output_dir")
    fold = Fold(dataset, number, folds, folder, split or _split(found, place, number, folds))
    if split is None:
        write_raw(found, source, fold.raw, fold.split.test)
        write_json(folder / SPLIT, asdict(fold.split))
    return fold


def _split(found: Source, place: str, number: int, folds: int) -> Split:
    patient_of = {case.name: case.patient for case in found.cases if case.label is not None}
    test = make_folds(patient_of, folds, patients=patient_of)[number]["val"]
    others = [case for case in patient_of if case not in test]
    patients = len({patient_of[case] for case in others})
    if patients < 2:
        raise ValueError(f"{place}: {len(patient_of)} case(s) are too few for {folds} folds")
    inner = make_folds(others, min(FOLDS, patients), patients=patient_of)[0]
    return Split(place, label_names(found, Path(place)), inner["train"], inner["val"], test)


def plan_and_preprocess(fold: Fold, nnunet: NnUNet) -> None:
    """Let nnU-Net plan and preprocess by itself, and give it the split; does nothing where that is done."""
    splits = fold.preprocessed / "splits_final.json"
    if splits.is_file():
        return
    shutil.rmtree(fold.preprocessed, ignore_errors=True)  # what an interrupted call left, nnU-Net takes for whole
    run_planner(nnunet, fold.folder)
    write_json(splits, [{"train": fold.split.train, "val": fold.split.val}])


def run_planner(nnunet: NnUNet, folder: Path, *options: str) -> None:
    """Let nnU-Net check and plan the raw data in a folder, with its own defaults, and preprocess it.

    Args:
        nnunet: in its environment.
        folder: receives the preprocessed data, and the log.
        options: of its command.
    """
    processes = os.cpu_count() or 1
    words = ["-m", PLANNER, "-d", 1, "-c", "3d_fullres", "-npfp", processes, "-np", processes]
    nnunet.run([*words, "--verify_dataset_integrity", "--no_pbar", *options], folder / "plan.txt", folder, folder)


def fitting_patch(patch: Sequence[int]) -> list[int]:
    """The least patch of ours that holds one of nnU-Net's."""
    return [max(2 * DIVISOR, DIVISOR * math.ceil(edge / DIVISOR)) for edge in patch]
