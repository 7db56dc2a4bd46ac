"""One training of one system, its predictions of the cases that were held out, and their scores."""

from __future__ import annotations

import logging
import math
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rep3d.console.status import TRAINING_STATUS, read_status
from rep3d.data.cases import POSTFIX
from rep3d.data.regions import scored_regions
from rep3d.data.splits import FILE as SPLITS_FILE
from rep3d.datasets.nnunet_raw import ENDING
from rep3d.evaluation.scores import score_regions, write_scores
from rep3d.files import read_json, read_record, write_json
from rep3d.io.geometry import agreement_problem
from rep3d.io.nifti import read_volume
from rep3d.shipped import TRAINED
from rep3d.study.nnunet.environment import DEVICE, NnUNet, run_logged
from rep3d.study.nnunet.folds import DATASET, Fold, fitting_patch, plan_and_preprocess
from rep3d.study.run import RunFailed
from rep3d.training.checkpoints import LAST

logger = logging.getLogger(__name__)

NNUNET, REP3D = "nnunet", "rep3d"
SYSTEMS = (NNUNET, REP3D)
MINUTES, STEPS = "minutes", "steps"
RECORD, TRAINING = "cell.json", "trained.json"
BUNDLE = "compared"
EPOCH = 50  # steps of ours, at most
PREDICTED = {NNUNET: ENDING, REP3D: f"{POSTFIX}{ENDING}"}  # ends the names of label maps, behind the case


@dataclass(frozen=True)
class Budget:
    """How long a training may be: so many minutes, or so many steps of nnU-Net's batch and patch."""

    amount: float
    unit: str

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit}"


@dataclass(frozen=True)
class Training:
    """What a training took.

    Args:
        steps: of the optimizer.
        batch_size: patches in a step.
        patch_size: voxels along R, A, S.
        made_with: versions, and what else was chosen.
        weights: where they lie.
        cores: that it had.
        device: on which it computed, cuda or cpu.
        seconds: of the process, with its start; None where it was run in parts.
    """

    steps: int
    batch_size: int
    patch_size: list[int]
    made_with: str
    weights: str
    cores: int
    device: str
    seconds: float | None = None


@dataclass(frozen=True)
class Cell:
    """A finished cell.

    Args:
        dataset, fold, folds: which cases were held out.
        budget: in words.
        system: one of SYSTEMS.
        cores, device: of the training and of the prediction.
        training: as of `Training`.
        seconds_per_scan: of the prediction, with the start of its process.
    """

    dataset: str
    fold: int
    folds: int
    budget: str
    system: str
    cores: int
    device: str
    training: dict[str, Any]
    seconds_per_scan: float


def run_cell(fold: Fold, budget: Budget, system: str, nnunet: NnUNet) -> Path:
    """Train, predict and score, unless an earlier call has; the cell's folder.

    A training of so many minutes is one that ran at a stretch: begun by an earlier call, it begins anew. One of so many
    steps goes on.

    Raises:
        RunFailed: a program failed.
        ValueError: a label map is not on the grid of its truth; or the training had other cores, or another device.
    """
    folder = cell_folder(fold, budget, system)
    if (folder / RECORD).is_file():
        return folder
    trained = read_record(folder / TRAINING, Training)
    if trained is None and budget.unit == MINUTES and folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if trained is None:
        logger.info("%s: training", folder)
        train = _train_nnunet if system == NNUNET else _train_rep3d
        trained = train(fold, budget, folder, nnunet)
        write_json(folder / TRAINING, asdict(trained))
    if (trained.cores, trained.device) != (count_cores(), DEVICE):
        raise ValueError(
            f"{folder} was trained with {trained.cores} core(s) on {trained.device}, now there are {count_cores()} on "
            f"{DEVICE}: predict with the same, or remove it"
        )
    logger.info("%s: predicting %d scan(s)", folder, len(fold.split.test))
    shutil.rmtree(folder / "predictions", ignore_errors=True)  # or else they are timed in parts
    predict = _predict_nnunet if system == NNUNET else _predict_rep3d
    seconds = predict(fold, folder, trained, nnunet)
    write_scores(_scores(fold, folder / "predictions", PREDICTED[system]), folder)
    cell = Cell(
        dataset=fold.dataset,
        fold=fold.number,
        folds=fold.folds,
        budget=str(budget),
        system=system,
        cores=trained.cores,
        device=trained.device,
        training=asdict(trained),
        seconds_per_scan=seconds / len(fold.split.test),
    )
    write_json(folder / RECORD, asdict(cell))
    return folder


def cell_folder(fold: Fold, budget: Budget, system: str) -> Path:
    """Where a cell lies."""
    return fold.folder / str(budget).replace(" ", "_") / system


def count_cores() -> int:
    """Cores that this process, and those that it starts, may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# --- nnU-Net


def _train_nnunet(fold: Fold, budget: Budget, folder: Path, nnunet: NnUNet) -> Training:
    """As it plans it, with as many augmenting processes as make its steps fastest."""
    plan_and_preprocess(fold, nnunet)
    in_parts = any(folder.rglob("checkpoint_*.pth"))
    paces = _measured_paces(fold, nnunet)
    workers = min(paces, key=paces.__getitem__)
    if budget.unit == MINUTES:
        command, length = "train_for", {"seconds": 60 * budget.amount}
    else:
        command, length = "train", {"steps": int(budget.amount)}
    found, seconds = nnunet.call(command, {"dataset": DATASET, **length}, folder, fold.folder, int(workers))
    told = ", ".join(f"{pace:.2f} s with {count}" for count, pace in paces.items())
    return Training(
        steps=found["steps"],
        **fold.plan(),
        made_with=f"nnU-Net {nnunet.version}, torch {nnunet.torch}; a step by augmenting processes: {told}",
        weights=found["model"],
        cores=count_cores(),
        device=nnunet.device,
        seconds=None if in_parts else seconds,
    )


def _measured_paces(fold: Fold, nnunet: NnUNet) -> dict[str, float]:
    """Seconds of a step by the number of augmenting processes; measured once for so many cores."""
    cores = count_cores()
    folder = fold.folder / f"measured_on_{cores}_cores"
    path = folder / "paces.json"
    if not path.is_file():
        logger.info("%s: timing nnU-Net's steps", folder)
        folder.mkdir(exist_ok=True)
        paces = {}
        for workers in range(cores + 1):
            found, _ = nnunet.call("measure", {"dataset": DATASET}, folder, fold.folder, workers)
            paces[str(workers)] = found["seconds_per_step"]
        write_json(path, paces)
    return read_json(path)


def _predict_nnunet(fold: Fold, folder: Path, trained: Training, nnunet: NnUNet) -> float:
    settings = {
        "model": trained.weights,
        "images": str((fold.raw / "imagesTs").resolve()),
        "output": str((folder / "predictions").resolve()),
        "mirroring": True,
    }
    return nnunet.call("predict", settings, folder, fold.folder)[1]


# --- ours


def _train_rep3d(fold: Fold, budget: Budget, folder: Path, nnunet: NnUNet) -> Training:
    """`rep3d new` and `rep3d train`, without a value by hand but the length of the training."""
    data = folder / BUNDLE / "data"
    data.mkdir(parents=True, exist_ok=True)
    write_json(data / SPLITS_FILE, [{"train": fold.split.train, "val": fold.split.val}])
    place = ["--bundle_dir", folder]
    options: dict[str, Any] = {}
    hours: list[str] = []
    if budget.unit == MINUTES:
        hours = ["--hours", f"{budget.amount / 60:.6g}"]
    else:
        plan_and_preprocess(fold, nnunet)
        options = _as_nnunet(fold, int(budget.amount))
    log = folder / "log.txt"
    weights = folder / BUNDLE / TRAINED
    in_parts = (weights.parent / LAST).is_file()
    run_logged([*_rep3d("new"), BUNDLE, "--source", fold.raw, *place, *hours], log)
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    seconds = run_logged([*_rep3d("train"), BUNDLE, *place, *hours, *words], log)
    status = read_status(weights.with_name(TRAINING_STATUS))
    if status is None or not weights.is_file():
        raise RunFailed(f"the training left no weights and status in {weights.parent} (see {log})")
    config = {**read_json(folder / BUNDLE / "configs/train.json"), **options}
    return Training(
        steps=status.step,
        batch_size=config["batch_size"],
        patch_size=config["patch_size"],
        made_with=f"rep3d {version('rep3d')}, torch {version('torch')}",
        weights=str(folder / BUNDLE),
        cores=count_cores(),
        device=DEVICE,
        seconds=None if in_parts else seconds,
    )


def _as_nnunet(fold: Fold, steps: int) -> dict[str, Any]:
    """The options of so many steps of nnU-Net's batch, and of the least patch of ours that holds nnU-Net's."""
    plan, epoch = fold.plan(), math.gcd(steps, EPOCH)
    return {
        "epochs": steps // epoch,
        "steps_per_epoch": epoch,
        "batch_size": plan["batch_size"],
        "patch_size": fitting_patch(plan["patch_size"]),
        "folds": 0,  # one that came to its end stays then
        "resume": "auto",
    }


def _predict_rep3d(fold: Fold, folder: Path, trained: Training, nnunet: NnUNet) -> float:
    words = ["--bundle", BUNDLE, "--bundle_dir", folder, "--output", folder / "predictions"]
    return run_logged([*_rep3d("predict"), fold.raw, *words], folder / "log.txt")


def _rep3d(command: str) -> Sequence[str]:
    return [sys.executable, "-m", "rep3d", command]


# --- the same scores for both


def _scores(fold: Fold, predictions: Path, ending: str) -> list[dict[str, object]]:
    regions, rows = scored_regions(fold.split.labels), []
    for case in fold.split.test:
        path, truth_path = predictions / f"{case}{ending}", fold.raw / f"labelsTs/{case}{ENDING}"
        prediction, geometry = read_volume(path)
        truth, of_truth = read_volume(truth_path)
        if problem := agreement_problem(geometry, of_truth):
            raise ValueError(f"{path}: {problem} {truth_path}")
        rows += [
            {"case": case, "label": name, **score}
            for name, score in score_regions(prediction, truth, regions, of_truth.affine).items()
        ]
    return rows
