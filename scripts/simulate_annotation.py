"""Let a simulated user annotate sets of scans, and count the clicks: the table and figure of docs/active_learning.md.

    python scripts/simulate_annotation.py --dataset_dir Task04_Hippocampus --output_dir runs/annotation

What it does and leaves stands in `monailabel_app.models.annotation`. Called again, it goes on where it was interrupted.
"""

from __future__ import annotations

import logging
from pathlib import Path

from fire.decorators import SetParseFn
from monai.utils import ensure_tuple

from monailabel_app.models.annotation import WAYS, Plan, annotate_sets
from rep3d.console.commands import run_command

BUNDLE = str(Path(__file__).resolve().parents[1] / "bundles/interactive")


@SetParseFn(str, "dataset_dir", "output_dir", "bundle")  # a folder may be called 2024_01_05
def main(
    dataset_dir: str,
    output_dir: str = "runs/annotation",
    bundle: str = BUNDLE,
    labels=(),
    scans: int = 30,
    rounds=(3, 8, 18),
    ways=WAYS,
    seeds=(0, 1, 2),
    automatic_steps: int = 200,
    interactive_epochs: int = 2,
    spacing=(),
    patch_size=(),
    hours: float | None = None,
) -> None:
    """Run the missing cells and leave the table and the plot of all cells in `output_dir`.

    Args:
        dataset_dir: a data set, whose labels are the truth.
        output_dir: receives everything; cells of other settings are refused.
        bundle: folder of the bundle that follows clicks, with its weights.
        labels: ids that make the structure together; without, all.
        scans: of a set, drawn for each seed.
        rounds: numbers of annotated scans after which networks are trained, ascending.
        ways: some of "clicks alone", "clicks that learn", random, entropy, disagreement, diverse.
        seeds: of the scans, their order and the trainings.
        automatic_steps: optimizer steps of each training of the automatic network, a multiple of 10.
        interactive_epochs: of each training of the network of clicks, of 24 steps.
        spacing: of the automatic bundle, in millimetres; without, as `rep3d new` chooses it.
        patch_size: of the automatic bundle, in voxels; without, as `rep3d new` chooses it.
        hours: after which no scan and no training begins any more.
    """
    plan = Plan(
        scans=scans,
        rounds=ensure_tuple(rounds),
        ways=tuple(ways.split(",")) if isinstance(ways, str) else tuple(ways),  # names of several words
        seeds=ensure_tuple(seeds),
        automatic_steps=automatic_steps,
        interactive_epochs=interactive_epochs,
        labels=ensure_tuple(labels),
        spacing=ensure_tuple(spacing),
        patch_size=ensure_tuple(patch_size),
    )
    print(annotate_sets(Path(bundle), Path(dataset_dir), Path(output_dir), plan, hours))


if __name__ == "__main__":
    for quiet in ("rep3d.training.checkpoints", "monai.bundle.workflows"):  # no validation, no logging file: as meant
        logging.getLogger(quiet).setLevel(logging.ERROR)
    run_command(main)
