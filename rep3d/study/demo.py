"""From data to a page that shows a small network: its training, its scores and its predictions."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rep3d.data.cases import POSTFIX, case_names, file_name, first_file
from rep3d.data.lists import load_datalist
from rep3d.evaluation.curve import divergence, training_curve
from rep3d.evaluation.montage import overlay_montage
from rep3d.evaluation.report import dice_table, write_report
from rep3d.evaluation.scores import read_scores
from rep3d.locks import FolderLocks, lock_file
from rep3d.study.run import BundleRun, RunFailed, run_process

EPOCHS = 6  # at most, with a validation after each
SHOWN_CASES = 3


@dataclass(frozen=True)
class Demo:
    """A training, its evaluation on held-out cases, their predictions, and a report.

    Args:
        bundle: the bundle's folder.
        labels: names by id, without the background.
        dataset: its data set.
        source: what that is, in words.
        folder: receives weights, predictions and the report; see `claim_folder`.
        steps: optimizer steps, rounded down to whole epochs.
        overlays: config files to lay over the bundle's, for another network.
        next_commands: what the report's reader may run next.
        remedy: the same, where the training diverged.
    """

    bundle: Path
    labels: Mapping[int, str]
    dataset: Path
    source: str
    folder: Path
    steps: int
    overlays: Sequence[Path]
    next_commands: Sequence[str]
    remedy: str

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}, expected 1 at least")

    @property
    def epochs(self) -> int:
        """Of the training."""
        return min(EPOCHS, self.steps)

    @property
    def epoch_length(self) -> int:
        """Steps of one."""
        return self.steps // self.epochs

    def run(self) -> str:
        """Run all of it; the table of the held-out cases' Dice, in Markdown. The folder then has a report.html.

        Raises:
            RunFailed: a step failed, or the training diverged, of which the folder then has a report.
        """
        start = time.perf_counter()
        self._train()
        seconds = time.perf_counter() - start
        cases = load_datalist(self.dataset, "test")
        self._run("evaluating", ["train.json", "evaluate.json"], {"output_dir": self.folder / "evaluation"})
        # The held-out cases: a Decathlon set's own test images have no labels to compare with.
        images = [{key: item[key] for key in ("image", "case") if key in item} for item in cases]
        predictions = {"output_dir": self.folder / "predictions", "dataset#data": images}
        self._run("evaluating", ["inference.json"], predictions)
        return self._report(cases, seconds)

    def _train(self) -> None:
        overrides = {"epochs": self.epochs, "val_interval": 1, "train#trainer#epoch_length": self.epoch_length}
        try:
            self._run("training", ["train.json"], {"output_dir": self.folder / "training", **overrides})
        except RunFailed as failed:
            diverged = self._report_divergence()
            if diverged:
                raise RunFailed(diverged) from failed
            raise

    def _run(self, run_id: str, configs: Sequence[str], overrides: Mapping[str, Any]) -> None:
        shared = {"dataset_dir": self.dataset, "ckpt_dir": self.folder / "models"}
        run_process(BundleRun(self.bundle, run_id, [*configs, *self.overlays], {**shared, **overrides}))

    def _report(self, cases: Sequence[Mapping[str, str]], seconds: float) -> str:
        table = dice_table(read_scores(self.folder / "evaluation"))
        curve = training_curve(self.folder / "training/tensorboard", self.folder / "training_curve.png")
        montage = overlay_montage(self._shown(cases), self.labels, self.folder / "overlays.png")
        write_report(
            self.folder,
            title="Rep3D demo",
            facts={
                "Data": self.source,
                "Training": f"{self.epochs * self.epoch_length} steps in {seconds / 60:.1f} minutes",
                "Scored on": self._scored_on(cases),
                "Weights": str(self.folder / "models/model.pt"),
            },
            table=table,
            pictures=[("Training", curve), ("Image, truth and prediction of held-out cases", montage)],
            next_commands=self.next_commands,
        )
        return table

    def _scored_on(self, cases: Sequence[Mapping[str, str]]) -> str:
        chose = {first_file(item) for item in load_datalist(self.dataset, "validation")}
        if any(first_file(item) in chose for item in cases):
            return f"{len(cases)} cases that the training has not seen; by them the weights were chosen"
        return f"{len(cases)} cases that neither training nor the choice of weights has seen"

    def _report_divergence(self) -> str:
        """Leave a report that says that the training diverged, and return that in one line; empty where it did not."""
        logs = self.folder / "training/tensorboard"
        diverged = divergence(logs) if any(logs.glob("*tfevents*")) else ""
        if not diverged:
            return ""
        page = write_report(
            self.folder,
            title="Rep3D demo: the training diverged",
            facts={"Data": self.source, "Training": diverged, "Scored on": "nothing: there are no weights to show"},
            table="",
            pictures=[("Training", training_curve(logs, self.folder / "training_curve.png"))],
            next_commands=[self.remedy],
        )
        return f"the training {diverged}. Report: {page}"

    def _shown(self, cases: Sequence[Mapping[str, str]]) -> list[tuple[str, str, str, str]]:
        named = zip(case_names(cases)[:SHOWN_CASES], cases, strict=False)
        predictions = self.folder / "predictions"
        return [
            (name, item["image"], item["label"], str(predictions / f"{file_name(name)}{POSTFIX}.nii.gz"))
            for name, item in named
        ]


def claim_folder(folder: Path) -> FolderLocks:
    """Remove an earlier demo from a folder, and nothing else; the folder is then this demo's.

    Raises:
        ValueError: it holds other files, or another demo works on it.
    """
    mark = folder / ".rep3d_demo"
    if folder.exists() and any(folder.iterdir()) and not mark.exists():
        raise ValueError(f"{folder} holds files that no demo left there: give another folder, --output DIR")
    locks = FolderLocks([folder], "demo")
    mark.touch()
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path not in (mark, lock_file(folder, "demo")):
            path.unlink()
    return locks
