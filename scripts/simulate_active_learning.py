"""Replay a labelled set as an oracle for active learning: the table and figure of docs/active_learning.md.

    python scripts/simulate_active_learning.py --dataset_dir DIR --output_dir runs/active_learning

Every seed starts from the same random cases for all strategies. Each strategy then picks the next cases with the app's
own scores, and a network is trained from scratch on them for a fixed number of steps and scored on the test cases.

    OUTPUT/seed0/entropy_8.json      a cell: seed, strategy, number of labelled cases, which ones, Dice
    OUTPUT/seed0/8_1f0c.../          the network of these cases: model.pt, scores.csv; cells with equal cases share it
    OUTPUT/cells.csv table.md curve.png

Finished cells are not run again, and several processes may share an output folder when each takes its own `--seeds`.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import math
import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import fire
import numpy as np
from fire.decorators import SetParseFn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from monai.bundle import ConfigParser
from scipy.stats import t as student
from tqdm import tqdm

from monailabel_app.bundles import read_bundle
from monailabel_app.models.active_learning import RANKINGS
from monailabel_app.models.inference import BundleInference
from monailabel_app.models.uncertainty import VERSIONS, ImageScores, disagreement, score_image
from rep3d.console.tables import markdown_table
from rep3d.data.cases import item_name
from rep3d.data.lists import load_datalist
from rep3d.evaluation.comparison import CONFIDENCE
from rep3d.evaluation.scores import means, read_scores, table
from rep3d.files import copy_whole, read_json, whole_file, write_json

BUNDLE = str(Path(__file__).resolve().parents[1] / "bundles/msd_hippocampus")
BASELINE = "random"
STRATEGIES = (BASELINE, *RANKINGS)
EPOCHS = 10  # between which the learning rate falls

Item = dict[str, str]
Cell = dict[str, Any]


@SetParseFn(str, "dataset_dir", "output_dir", "bundle")  # a folder may be called 2024_01_05
def main(
    dataset_dir: str,
    output_dir: str = "runs/active_learning",
    bundle: str = BUNDLE,
    numbers=(2, 4, 8),
    strategies=STRATEGIES,
    seeds=(0, 1, 2),
    steps: int = 150,
    candidates: int = 32,
) -> None:
    """Run the missing cells and leave the table and the plot of all cells in `output_dir`.

    Args:
        dataset_dir: the bundle's data set. Its training part is the pool, its test part is scored on.
        output_dir: receives the cells; those of other settings are refused.
        bundle: folder of a bundle: network, augmentation and windows.
        numbers: of labelled cases, ascending.
        strategies: some of STRATEGIES.
        seeds: of the first cases, of the draws, of initialization and of augmentation.
        steps: optimizer steps per network, a multiple of EPOCHS.
        candidates: unlabelled cases that a strategy chooses from in each round, drawn at random.
    """
    numbers, strategies, seeds = (_as_tuple(value) for value in (numbers, strategies, seeds))
    _check(numbers, strategies, steps, candidates)
    try:
        original = read_bundle(Path(bundle))
        pool = {item_name(item): item for item in load_datalist(dataset_dir, "training")}
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    if numbers[-1] > len(pool):
        raise SystemExit(f"numbers ends with {numbers[-1]}, but the training part has {len(pool)} cases")
    output = Path(output_dir)
    _claim(output, {"bundle": original.name, "numbers": list(numbers), "steps": steps, "candidates": candidates})
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / original.name
        shutil.copytree(original.root, copy, ignore=shutil.ignore_patterns("models", "eval"))
        (copy / "models").mkdir()
        experiment = Experiment(BundleInference(read_bundle(copy)), dataset_dir, pool, output, steps, candidates)
        with tqdm(total=len(seeds) * len(numbers) * len(strategies), desc="Cells") as progress:
            for seed in seeds:
                experiment.run_seed(seed, numbers, strategies, progress)
    summarize(output)


class Experiment:
    """What all cells share.

    Args:
        model: serves a copy of the bundle, whose weights are replaced.
        pool: the cases that can be labelled, by name.
        output: folder of the cells.
    """

    def __init__(
        self,
        model: BundleInference,
        dataset_dir: str,
        pool: Mapping[str, Item],
        output: Path,
        steps: int,
        candidates: int,
    ) -> None:
        self.model = model
        self.dataset_dir = dataset_dir
        self.pool = pool
        self.output = output
        self.steps = steps
        self.candidates = candidates

    def run_seed(self, seed: int, numbers: Sequence[int], strategies: Sequence[str], progress: tqdm) -> None:
        """The cells of a seed, number by number; those that are there already are read."""
        folder = self.output / f"seed{seed}"
        folder.mkdir(exist_ok=True)
        history: dict[str, list[Cell]] = {strategy: [] for strategy in strategies}
        for number in numbers:
            for strategy, before in history.items():
                path = folder / f"{strategy}_{number}.json"
                cell = read_json(path)
                if not cell:
                    progress.set_postfix_str(f"seed {seed}, {strategy}, {number} cases")
                    cases = self.next_cases(seed, strategy, number, before)
                    trained = self.train(seed, cases)
                    dice = means(table(read_scores(trained), "dice"))
                    cell = {"seed": seed, "strategy": strategy, "number": number, "cases": cases}
                    cell |= {"dice": dice[-1], "dice_of_labels": dice[:-1], "trained": trained.name}
                    write_json(path, cell)
                before.append(cell)
                progress.update()

    def next_cases(self, seed: int, strategy: str, number: int, before: Sequence[Cell]) -> list[str]:
        """The labelled cases of the next cell, in the order in which they were picked."""
        if not before:
            return random.Random(seed).sample(sorted(self.pool), number)
        labelled = list(before[-1]["cases"])
        unlabelled = sorted(self.pool.keys() - labelled)
        drawn = random.Random(f"{seed} {number}").sample(unlabelled, min(self.candidates, len(unlabelled)))
        if strategy == BASELINE:
            return labelled + drawn[: number - len(labelled)]
        _, rank = RANKINGS[strategy]
        versions = [self.output / f"seed{seed}" / cell["trained"] / "model.pt" for cell in before]
        if strategy == "disagreement":
            scores = self.disagreements(drawn, versions[-VERSIONS:])
        else:
            scores = self.scores(drawn + labelled if strategy == "diverse" else drawn, versions[-1])
        while len(labelled) < number:
            known = {case: scores[case] for case in labelled if case in scores}
            ranks = rank({case: scores[case] for case in drawn}, known)
            best = max(ranks, key=lambda case: ranks[case]) if ranks else drawn[0]  # without scores, as the app: any
            drawn.remove(best)
            labelled.append(best)
        return labelled

    def scores(self, cases: Sequence[str], weights: Path) -> dict[str, ImageScores]:
        """Entropy and features by case, kept beside the weights."""
        path = weights.with_name("uncertainty.json")
        known = read_json(path)
        copy_whole(weights, self.model.bundle.weights)
        missing = [case for case in cases if case not in known]
        for case in tqdm(missing, desc="Scoring", leave=False):
            scores = score_image(self.model, Path(self.pool[case]["image"]))
            known[case] = {"entropy": scores.entropy, "features": scores.features}
        write_json(path, known)
        return {case: ImageScores(**scores) for case, scores in known.items()}

    def disagreements(self, cases: Sequence[str], versions: Sequence[Path]) -> dict[str, ImageScores]:
        """Disagreement by case; with one version there is none, as in the app."""
        if len(versions) < 2:
            return {case: ImageScores() for case in cases}
        return {
            case: ImageScores(disagreement=disagreement(self.model, Path(self.pool[case]["image"]), versions))
            for case in tqdm(cases, desc="Comparing", leave=False)
        }

    def train(self, seed: int, cases: Sequence[str]) -> Path:
        """The folder of the network that was trained on these cases, in whatever order, with its scores."""
        digest = hashlib.sha256(" ".join(sorted(cases)).encode()).hexdigest()[:8]
        folder = self.output / f"seed{seed}/{len(cases)}_{digest}"
        folder.mkdir(exist_ok=True)
        weights = folder / "model.pt"
        if not weights.is_file():
            with tempfile.TemporaryDirectory() as temporary:
                settings = {
                    "ckpt_dir": temporary,
                    "output_dir": temporary,
                    "seed": seed,
                    "epochs": EPOCHS,
                    "val_interval": EPOCHS + 1,
                    "train#trainer#epoch_length": self.steps // EPOCHS,
                    "train#dataset#data": [self.pool[case] for case in sorted(cases)],
                }
                self._run(["train"], "training", settings)
                copy_whole(Path(temporary) / "model.pt", weights)
        if not (folder / "scores.csv").is_file():
            self._run(["train", "evaluate"], "evaluating", {"checkpoint": str(weights), "output_dir": str(folder)})
        return folder

    def _run(self, configs: Sequence[str], run_id: str, settings: Mapping[str, Any]) -> None:
        """What `python -m monai.bundle run` does, without another process."""
        bundle = self.model.bundle
        parser = ConfigParser()
        parser.read_config([str(bundle.config(name)) for name in configs])
        parser.update({"bundle_root": str(bundle.root), "dataset_dir": self.dataset_dir, **settings})
        parser.get_parsed_content("initialize")
        parser.get_parsed_content(run_id)


def summarize(output: Path) -> None:
    """Write cells.csv, table.md and curve.png of all cells in the folder, and print the table."""
    cells = [read_json(path) for path in sorted(output.glob("seed*/*_*.json"))]
    with whole_file(output / "cells.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["seed", "strategy", "number", "dice", "cases"])
        for cell in sorted(cells, key=lambda cell: (cell["seed"], cell["strategy"], cell["number"])):
            row = [cell[key] for key in ("seed", "strategy", "number")]
            writer.writerow([*row, f"{cell['dice']:.5f}", " ".join(cell["cases"])])
    text = result_table(cells)
    with whole_file(output / "table.md") as path:
        path.write_text(text + "\n", encoding="utf-8")
    plot(cells, output / "curve.png")
    print(text)


def by_seed(cells: Sequence[Cell], strategy: str, numbers: Sequence[int]) -> dict[int, float]:
    """Dice by seed, mean over the numbers; only of seeds that have all of them."""
    found: dict[int, list[float]] = {}
    for cell in cells:
        if cell["strategy"] == strategy and cell["number"] in numbers:
            found.setdefault(cell["seed"], []).append(cell["dice"])
    return {seed: float(np.mean(dice)) for seed, dice in found.items() if len(dice) == len(numbers)}


def differences(cells: Sequence[Cell], strategy: str, numbers: Sequence[int]) -> list[float]:
    """To random, seed by seed."""
    mine, baseline = (by_seed(cells, name, numbers) for name in (strategy, BASELINE))
    return [mine[seed] - baseline[seed] for seed in mine if seed in baseline]


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval by Student's t over seeds; NaN where there are too few."""
    if len(values) < 2:
        return (values[0] if values else math.nan), math.nan
    quantile = student.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
    return float(np.mean(values)), float(quantile * np.std(values, ddof=1) / math.sqrt(len(values)))


def result_table(cells: Sequence[Cell]) -> str:
    """Markdown: per strategy and number the mean Dice and the difference to random, each with its interval."""
    numbers = sorted({cell["number"] for cell in cells})
    groups = [(str(number), [number]) for number in numbers] + [("mean of all but the first", numbers[1:])]
    rows = []
    for title, chosen in groups:
        for strategy in STRATEGIES:
            dice = list(by_seed(cells, strategy, chosen).values()) if chosen else []
            if not dice:
                continue
            difference = "" if strategy == BASELINE else _cell(differences(cells, strategy, chosen), "+.4f")
            rows.append([title, strategy, len(dice), _cell(dice, ".4f"), difference])
    return markdown_table(["labelled cases", "strategy", "seeds", "Dice", "difference to random"], rows)


def _cell(values: Sequence[float], form: str) -> str:
    mean, half = mean_and_half(values)
    if math.isnan(half):
        return "-" if math.isnan(mean) else f"{mean:{form}}"
    return f"{mean:{form}} ({mean - half:{form}} to {mean + half:{form}})"


def plot(cells: Sequence[Cell], path: Path) -> None:
    """Dice, and the difference to random, against the number of labelled cases."""
    numbers = sorted({cell["number"] for cell in cells})
    strategies = [name for name in STRATEGIES if any(cell["strategy"] == name for cell in cells)]
    figure = Figure(figsize=(11, 4.5), dpi=130, layout="constrained")
    curve, difference = figure.subplots(1, 2)
    for i, strategy in enumerate(strategies):
        shift = 1 + 0.04 * (i - (len(strategies) - 1) / 2)  # so that the intervals stand beside each other
        positions = [number * shift for number in numbers]
        color = f"C{STRATEGIES.index(strategy)}"
        dice = [list(by_seed(cells, strategy, [number]).values()) for number in numbers]
        _draw(curve, positions, dice, color, strategy)
        if strategy != BASELINE:
            _draw(difference, positions, [differences(cells, strategy, [number]) for number in numbers], color, "")
    difference.axhline(0, color=f"C{STRATEGIES.index(BASELINE)}", linewidth=1)
    seeds = len({cell["seed"] for cell in cells})
    curve.set_ylabel("mean Dice of the test cases")
    difference.set_ylabel("difference to random, paired by seed")
    for axes in (curve, difference):
        axes.set_xscale("log", base=2)
        axes.set_xticks(numbers, [str(number) for number in numbers])
        axes.set_xlabel("labelled cases")
        axes.grid(alpha=0.3)
    figure.suptitle(f"Mean and {CONFIDENCE:.0%} interval over {seeds} seed(s), and each seed")
    figure.legend(loc="outside lower center", ncols=len(strategies), frameon=False)
    with whole_file(path) as temporary:
        figure.savefig(temporary)


def _draw(axes: Axes, positions: Sequence[float], values: Sequence[Sequence[float]], color: str, label: str) -> None:
    """Means with intervals, and a dot per seed."""
    summary = [mean_and_half(of_seeds) for of_seeds in values]
    axes.errorbar(positions, *zip(*summary, strict=True), label=label, color=color, marker="o", markersize=5, capsize=3)
    for position, of_seeds in zip(positions, values, strict=True):
        axes.plot([position * 1.015] * len(of_seeds), of_seeds, ".", color=color, alpha=0.5, markersize=4)


def _as_tuple(value: Any) -> tuple:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _check(numbers: tuple, strategies: tuple, steps: int, candidates: int) -> None:
    unknown = [name for name in strategies if name not in STRATEGIES]
    if unknown or not strategies:
        raise SystemExit(f"strategies is {strategies}, expected some of {', '.join(STRATEGIES)}")
    if not numbers or any(not isinstance(number, int) or number < 1 for number in numbers):
        raise SystemExit(f"numbers is {numbers}, expected whole numbers from 1 on")
    rounds = [after - before for before, after in pairwise(numbers)]
    if min(rounds, default=1) < 1:
        raise SystemExit(f"numbers is {numbers}, expected them ascending")
    if not isinstance(steps, int) or steps < EPOCHS or steps % EPOCHS:
        raise SystemExit(f"steps is {steps}, expected a multiple of {EPOCHS}")
    largest = max(rounds, default=1)
    if not isinstance(candidates, int) or candidates < largest:
        raise SystemExit(f"candidates is {candidates}, expected at least the {largest} case(s) of one round")


def _claim(output: Path, settings: Mapping[str, Any]) -> None:
    """Write down the settings, or refuse a folder with the cells of others."""
    output.mkdir(parents=True, exist_ok=True)
    path = output / "settings.json"
    known = read_json(path)
    if known and known != settings:
        raise SystemExit(f"output_dir {output} holds cells of {known}, not of {dict(settings)}: give another folder")
    write_json(path, settings)


if __name__ == "__main__":
    logging.getLogger("rep3d.training.checkpoints").setLevel(logging.ERROR)  # it warns of a training without validation
    fire.Fire(main)
