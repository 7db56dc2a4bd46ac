"""Train a bundle of `rep3d new` with recipes that differ in one part each: the tables of docs/method.md.

    rep3d new NAME --source DIR
    python scripts/compare_recipes.py --bundle bundles/NAME --output_dir runs/recipes

Every recipe and seed is a cell with a JSON file of its own: finished cells are not run again, and several processes may
share an output folder when each takes its own `--seeds` or `--recipes`.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from fire.decorators import SetParseFn
from monai.utils import ensure_tuple

from rep3d.console.commands import run_command
from rep3d.study.recipes import RECIPES, compare_recipes


@SetParseFn(str, "bundle", "output_dir")  # a folder may be called 2024_01_05
def main(
    bundle: str, output_dir: str, steps: int = 400, seeds=(0, 1, 2), recipes=tuple(RECIPES), threads: int = 1
) -> None:
    """Run the missing cells of `recipes` x `seeds` and print the table of all cells in `output_dir`.

    Args:
        bundle: its folder.
        output_dir: receives the cells.
        steps: of the optimizer for each cell, a multiple of 10.
        seeds: of initialization and sampling.
        recipes: some of those in `rep3d.study.recipes`, such as "['as it is','with blur']".
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    print(compare_recipes(Path(bundle), Path(output_dir), ensure_tuple(recipes), ensure_tuple(seeds), steps))


if __name__ == "__main__":
    for quiet in ("rep3d.training.checkpoints", "monai.bundle.workflows"):  # no validation, no logging file: as meant
        logging.getLogger(quiet).setLevel(logging.ERROR)
    run_command(main)
