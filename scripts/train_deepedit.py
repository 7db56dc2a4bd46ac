"""Train DeepEdit with a U-Net on a data set, to compare with: `scripts/evaluate_interactive.py --deepedit FILE`.

    python scripts/train_deepedit.py --dataset_dir Task04_Hippocampus --output runs/deepedit.pt --minutes 60

It goes on with --resume true.
"""

from __future__ import annotations

import logging
from pathlib import Path

from fire.decorators import SetParseFn
from monai.utils import ensure_tuple

from rep3d.console.commands import run_command, switch
from rep3d.data.lists import load_datalist
from rep3d.evaluation.click_cases import TOGETHER, named_labels
from rep3d.evaluation.deepedit import SIZE
from rep3d.study.deepedit import train


@SetParseFn(str, "dataset_dir", "output", "resume")  # a folder may be called 2024_01_05
def main(
    dataset_dir: str,
    output: str = "runs/deepedit.pt",
    minutes: float = 60,
    labels: str | int | tuple[int, ...] = TOGETHER,
    size: tuple[int, ...] = SIZE,
    cases: int = 0,
    seed: int = 0,
    resume: str | bool = False,
) -> None:
    """Train on the training part.

    Args:
        dataset_dir: a data set as the bundles take it.
        output: file of the weights.
        minutes: of the training, all its parts together.
        labels: "together", or ids that are one label.
        size: voxels to which scans are resized, multiples of 16.
        cases: so many of the training cases; 0: all.
        seed: of all draws.
        resume: whether to go on where an earlier training ended.
    """
    logging.basicConfig(format="%(message)s")
    logging.getLogger("rep3d").setLevel(logging.INFO)
    logging.getLogger("monai.apps").setLevel(logging.WARNING)  # it tells every click
    goes_on = switch("resume", resume)
    if minutes <= 0:
        raise ValueError(f"minutes is {minutes}, expected more than 0")
    if cases < 0:
        raise ValueError(f"cases is {cases}, expected 0 or more")
    if len(size) != 3 or any(n % 16 or n < 16 for n in size) or max(size) == 16:
        raise ValueError(f"size is {size}, expected three multiples of 16, of which one is larger")
    chosen = named_labels(Path(dataset_dir), labels if labels == TOGETHER else ensure_tuple(labels))
    ids = sorted({i for one in chosen.values() for i in one})
    items = load_datalist(dataset_dir, "training")
    loss = train(items[: cases or None], ids, Path(output), minutes=minutes, size=size, seed=seed, resume=goes_on)
    print(f"{output}: loss {loss:.3f}")


if __name__ == "__main__":
    run_command(main)
