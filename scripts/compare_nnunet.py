"""Compare `rep3d new` and `rep3d train` with nnU-Net: the table of docs/comparison.md.

    python scripts/compare_nnunet.py --dataset_dir Task04_Hippocampus --minutes 30,60
    python scripts/compare_nnunet.py --dataset_dir Task04_Hippocampus --steps 1500

What it does and leaves stands in `rep3d.study.nnunet`. Called again, it goes on where it was interrupted.
"""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

from fire.decorators import SetParseFn
from monai.utils import ensure_tuple

from rep3d.console.commands import run_command
from rep3d.console.logs import filter_noise
from rep3d.locks import FolderLocks
from rep3d.study.nnunet.cells import MINUTES, STEPS, SYSTEMS, Budget, run_cell
from rep3d.study.nnunet.environment import find_nnunet, install_nnunet
from rep3d.study.nnunet.folds import prepare_fold
from rep3d.study.nnunet.summary import summarize


@SetParseFn(str, "dataset_dir", "output_dir", "nnunet_python")  # a folder may be called 2024_01_05
def main(
    dataset_dir: str,
    output_dir: str = "runs/nnunet",
    minutes: float | tuple[float, ...] = (),
    steps: int | tuple[int, ...] = (),
    fold: int | tuple[int, ...] = 0,
    folds: int = 5,
    systems: str | tuple[str, ...] = SYSTEMS,
    nnunet_python: str = "",
) -> None:
    """Run the cells that are missing, and print the tables of all cells in `output_dir`.

    Args:
        dataset_dir: a data set, in any layout that `rep3d new` takes, with a dataset.json.
        output_dir: receives everything.
        minutes: of a training; several, one after the other.
        steps: of a training with nnU-Net's batch and patch; several likewise.
        fold: which cases are held out; several likewise.
        folds: how many there are.
        systems: nnunet, rep3d or both.
        nnunet_python: of an environment with nnU-Net; empty: one is made in `output_dir`.
    """
    named = systems.split(",") if isinstance(systems, str) else list(systems)
    budgets = [Budget(amount, MINUTES) for amount in ensure_tuple(minutes)]
    budgets += [Budget(amount, STEPS) for amount in ensure_tuple(steps)]
    numbers = ensure_tuple(fold)
    _check(budgets, numbers, folds, named)
    filter_noise()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("rep3d").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what it has started ends, too
    output = Path(output_dir)
    locks = FolderLocks([output], "evaluation")
    try:
        prepared = [prepare_fold(Path(dataset_dir), output, number, folds) for number in numbers]
        nnunet = find_nnunet(Path(nnunet_python)) if nnunet_python else install_nnunet(output / "environment")
        for one in prepared:
            for budget in budgets:
                for system in named:
                    run_cell(one, budget, system, nnunet)
        print(summarize(output))
    finally:
        locks.release()


def _check(budgets: list[Budget], numbers: tuple[int, ...], folds: int, systems: list[str]) -> None:
    for budget in budgets:
        if budget.amount <= 0 or budget.unit == STEPS and budget.amount != int(budget.amount):
            raise ValueError(f"{budget.unit} is {budget.amount:g}, expected a number above 0")
    if not budgets:
        raise ValueError("neither minutes nor steps are given, expected one of them such as --minutes 30")
    if folds < 2:
        raise ValueError(f"folds is {folds}, expected 2 or more")
    wrong = [number for number in numbers if number not in range(folds)]
    if wrong:
        raise ValueError(f"fold is {wrong[0]}, expected 0 to {folds - 1}")
    unknown = [name for name in systems if name not in SYSTEMS]
    if unknown or not systems:
        raise ValueError(f"systems names {unknown[0] if unknown else 'none'!r}, expected some of {', '.join(SYSTEMS)}")


if __name__ == "__main__":
    run_command(main)
