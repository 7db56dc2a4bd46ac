"""Replays a labelled set as an oracle for active learning, with the app's own strategies.

Every seed starts from the same random cases for all strategies. Each strategy then picks the next cases with the app's
own scores, and a network is trained from scratch on them for a fixed number of steps and scored on the test cases.

    OUTPUT/seed0/entropy_8.json      a cell: seed, strategy, number of labelled cases, which ones, Dice
    OUTPUT/seed0/8_1f0c.../          the network of these cases: model.pt, scores.csv; cells with equal cases share it
    OUTPUT/cells.csv table.md curve.png

Finished cells are not run again, and several processes may share an output folder when each takes its own seeds.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tqdm import tqdm

from monailabel_app.bundles import read_bundle
from monailabel_app.models.inference import BundleInference
from monailabel_app.models.picking import STRATEGIES, Picker
from rep3d.data.cases import item_name, only_file
from rep3d.data.lists import load_datalist
from rep3d.evaluation.scores import means, read_scores, table
from rep3d.files import copy_whole
from rep3d.study.claims import claim, config_digests
from rep3d.study.learning_curves import Cell, read_cell, summarize, write_cell
from rep3d.study.run import BundleRun, run_here

SCORES = "scores.csv"
EPOCHS = 10  # between which the learning rate falls

Item = dict[str, str]


@dataclass(frozen=True)
class Plan:
    """Which cells there shall be.

    Args:
        numbers: of labelled cases, ascending.
        strategies: some of STRATEGIES.
        seeds: of the first cases, of the draws, of initialization and of augmentation.
        steps: optimizer steps per network, a multiple of EPOCHS.
        candidates: unlabelled cases that a strategy chooses from in each round, drawn at random.

    Raises:
        ValueError: names the argument that is wrong.
    """

    numbers: tuple[int, ...]
    strategies: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    candidates: int

    def __post_init__(self) -> None:
        if not self.strategies or not set(self.strategies) <= set(STRATEGIES):
            raise ValueError(f"strategies is {self.strategies}, expected some of {', '.join(STRATEGIES)}")
        if not self.numbers or any(not isinstance(number, int) or number < 1 for number in self.numbers):
            raise ValueError(f"numbers is {self.numbers}, expected whole numbers from 1 on")
        rounds = [after - before for before, after in pairwise(self.numbers)]
        if min(rounds, default=1) < 1:
            raise ValueError(f"numbers is {self.numbers}, expected them ascending")
        if not isinstance(self.steps, int) or self.steps < EPOCHS or self.steps % EPOCHS:
            raise ValueError(f"steps is {self.steps}, expected a multiple of {EPOCHS}")
        largest = max(rounds, default=1)
        if not isinstance(self.candidates, int) or self.candidates < largest:
            raise ValueError(f"candidates is {self.candidates}, expected at least the {largest} case(s) of one round")


def simulate(bundle: Path, dataset_dir: str, output: Path, plan: Plan) -> str:
    """Run the missing cells, and leave the table and the plot of all cells in a folder.

    Args:
        bundle: a bundle's folder: network, augmentation and windows.
        dataset_dir: the bundle's data set. Its training part is the pool, its test part is scored on.
        output: receives the cells.

    Returns:
        The table, in Markdown.

    Raises:
        ValueError: no bundle, more cases wanted than there are, or `output` has cells of other settings.
        FileNotFoundError: no data set.
    """
    original = read_bundle(bundle)
    pool = {item_name(item): item for item in load_datalist(dataset_dir, "training")}
    if plan.numbers[-1] > len(pool):
        raise ValueError(f"numbers ends with {plan.numbers[-1]}, but the training part has {len(pool)} cases")
    settings = {"bundle": original.name, "data set": str(Path(dataset_dir).resolve()), "numbers": list(plan.numbers)}
    configs = config_digests(original.root, ("train", "evaluate", "inference"))
    claim(output, {**settings, "steps": plan.steps, "candidates": plan.candidates, **configs})
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / original.name
        shutil.copytree(original.root, copy, ignore=shutil.ignore_patterns("models", "eval"))
        model = BundleInference(read_bundle(copy))
        model.bundle.own_weights.parent.mkdir(parents=True)
        Simulation(model, dataset_dir, pool, output, plan).run()
    cells = [read_cell(path) for path in sorted(output.glob("seed*/[!.]*_*.json"))]
    return summarize([cell for cell in cells if cell is not None], STRATEGIES, output)


class Simulation:
    """What all cells share.

    Args:
        model: serves a copy of the bundle, whose weights are replaced.
        pool: the cases that can be labelled, by name.
        output: folder of the cells.
        plan: which cells.
    """

    def __init__(
        self, model: BundleInference, dataset_dir: str, pool: Mapping[str, Item], output: Path, plan: Plan
    ) -> None:
        self.model = model
        self.dataset_dir = dataset_dir
        self.pool = pool
        self.output = output
        self.plan = plan
        self.picker = Picker(model, {case: Path(only_file(item)) for case, item in pool.items()})

    def run(self) -> None:
        """All cells, seed by seed and number by number; those that are there already are read."""
        plan = self.plan
        total = len(plan.seeds) * len(plan.numbers) * len(plan.strategies)
        with tqdm(total=total, desc="Cells") as progress:
            for seed in plan.seeds:
                history: dict[str, list[Cell]] = {strategy: [] for strategy in plan.strategies}
                for number in plan.numbers:
                    for strategy, before in history.items():
                        progress.set_postfix_str(f"seed {seed}, {strategy}, {number} cases")
                        before.append(self.cell(seed, strategy, number, before))
                        progress.update()

    def cell(self, seed: int, strategy: str, number: int, before: Sequence[Cell]) -> Cell:
        """The cell that follows on those before it, with fewer labelled cases."""
        path = self.output / f"seed{seed}/{strategy}_{number}.json"
        known = read_cell(path)
        if known:
            return known
        cases = self.next_cases(seed, strategy, number, before)
        trained = self.train(seed, cases)
        *of_labels, dice = means(table(read_scores(trained), "dice"))
        cell = Cell(seed, strategy, number, cases, dice, of_labels, trained.name)
        write_cell(path, cell)
        return cell

    def next_cases(self, seed: int, strategy: str, number: int, before: Sequence[Cell]) -> list[str]:
        """The labelled cases of the next cell, in the order in which they were picked."""
        if not before:
            return random.Random(seed).sample(sorted(self.pool), number)
        labelled = list(before[-1].cases)
        unlabelled = sorted(self.pool.keys() - labelled)
        drawn = random.Random(f"{seed} {number}").sample(unlabelled, min(self.plan.candidates, len(unlabelled)))
        versions = [self.output / f"seed{seed}" / cell.trained / "model.pt" for cell in before]
        return labelled + self.picker.pick(strategy, number - len(labelled), drawn, labelled, versions)

    def train(self, seed: int, cases: Sequence[str]) -> Path:
        """The folder of the network that was trained on these cases, in whatever order, with its scores."""
        named = hashlib.sha256(" ".join(sorted(cases)).encode()).hexdigest()[:8]
        folder = self.output / f"seed{seed}/{len(cases)}_{named}"
        folder.mkdir(parents=True, exist_ok=True)
        weights = folder / "model.pt"
        if not weights.is_file():
            with tempfile.TemporaryDirectory() as temporary:
                overrides = {
                    "ckpt_dir": temporary,
                    "output_dir": temporary,
                    "seed": seed,
                    "epochs": EPOCHS,
                    "val_interval": 0,
                    "train#trainer#epoch_length": self.plan.steps // EPOCHS,
                    "train#dataset#data": [self.pool[case] for case in sorted(cases)],
                }
                self._run("training", ["train.json"], overrides)
                copy_whole(Path(temporary) / "model.pt", weights)
        if not (folder / SCORES).is_file():
            with tempfile.TemporaryDirectory() as temporary:  # where a case fails, the scores of the others lie there
                overrides = {"checkpoint": str(weights), "output_dir": temporary}
                self._run("evaluating", ["train.json", "evaluate.json"], overrides)
                copy_whole(Path(temporary) / SCORES, folder / SCORES)
        return folder

    def _run(self, run_id: str, configs: Sequence[str], overrides: Mapping[str, Any]) -> None:
        run_here(BundleRun(self.model.bundle.root, run_id, configs, {"dataset_dir": self.dataset_dir, **overrides}))
