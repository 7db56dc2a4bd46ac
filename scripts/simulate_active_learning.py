"""Replay a labelled set as an oracle for active learning: the table and figure of docs/active_learning.md.

    python scripts/simulate_active_learning.py --dataset_dir DIR --output_dir runs/active_learning

What it does and leaves stands in `monailabel_app.models.simulation`.
"""

from __future__ import annotations

import logging
from pathlib import Path

from fire.decorators import SetParseFn
from monai.utils import ensure_tuple

from monailabel_app.models.picking import STRATEGIES
from monailabel_app.models.simulation import Plan, simulate
from rep3d.console.commands import run_command

BUNDLE = str(Path(__file__).resolve().parents[1] / "bundles/msd_hippocampus")


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
        strategies: some of random, entropy, disagreement, diverse.
        seeds: of the first cases, of the draws, of initialization and of augmentation.
        steps: optimizer steps per network, a multiple of 10.
        candidates: unlabelled cases that a strategy chooses from in each round, drawn at random.
    """
    plan = Plan(ensure_tuple(numbers), ensure_tuple(strategies), ensure_tuple(seeds), steps, candidates)
    print(simulate(Path(bundle), dataset_dir, Path(output_dir), plan))


if __name__ == "__main__":
    for quiet in ("rep3d.training.checkpoints", "monai.bundle.workflows"):  # no validation, no logging file: as meant
        logging.getLogger(quiet).setLevel(logging.ERROR)
    run_command(main)
