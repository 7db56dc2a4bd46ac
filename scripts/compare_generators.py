"""Compare the open choices of the mask's generator on Hippocampus: the table of docs/method.md.

    python scripts/compare_generators.py --dataset_dir DIR --output_dir runs/generators

Every form and seed is one cell with a JSON file of its own: finished cells are not run again, and several processes may
share an output folder when each takes its own `--seeds` or `--forms`.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from fire.decorators import SetParseFn
from monai.utils import ensure_tuple

from rep3d.console.commands import run_command
from rep3d.study.generators import FORMS, compare_generators

BUNDLE = Path(__file__).resolve().parents[1] / "bundles/msd_hippocampus"


@SetParseFn(str, "dataset_dir", "output_dir")  # a folder may be called 2024_01_05
def main(dataset_dir: str, output_dir: str, steps: int = 400, seeds=(0, 1, 2), forms=FORMS, threads: int = 1) -> None:
    """Run the missing cells of `forms` x `seeds` and print the table of all cells in `output_dir`.

    Args:
        dataset_dir: MSD Task04_Hippocampus.
        output_dir: one JSON file per finished cell.
        steps: optimizer steps per cell, a multiple of 10.
        seeds: of initialization and sampling.
        forms: some of positions-0, positions-1, channels-0, channels-1, fixed, none.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    print(compare_generators(BUNDLE, dataset_dir, Path(output_dir), ensure_tuple(forms), ensure_tuple(seeds), steps))


if __name__ == "__main__":
    for quiet in ("rep3d.training.checkpoints", "monai.bundle.workflows"):  # no validation, no logging file: as meant
        logging.getLogger(quiet).setLevel(logging.ERROR)
    run_command(main)
