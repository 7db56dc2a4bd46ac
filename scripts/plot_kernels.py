"""Pictures of how large kernels see and learn, as PNG and CSV: docs/method.md shows them.

    python scripts/plot_kernels.py --dataset_dir DIR --output_dir runs/kernels --checkpoint model.pt
    python scripts/plot_kernels.py --dataset_dir DIR --output_dir runs/kernels --steps 100

The first shows the effective receptive field of each stage and, of a network with masks, these and their priors. The
second trains once for each optimizer and form of the block, and shows how far the elements of the kernels move.
"""

from __future__ import annotations

import logging
from pathlib import Path

from fire.decorators import SetParseFn
from monai.utils import ensure_tuple

from rep3d.console.commands import run_command
from rep3d.study.kernels import FORMS, OPTIMIZERS, show_learning, show_trained

BUNDLE = Path(__file__).resolve().parents[1] / "bundles/msd_hippocampus"


@SetParseFn(str, "dataset_dir", "output_dir", "checkpoint", "bundle")  # a folder may be called 2024_01_05
def main(
    dataset_dir: str,
    output_dir: str,
    checkpoint: str | None = None,
    bundle: str | Path = BUNDLE,
    config_file=(),
    patches: int = 20,
    steps: int = 0,
    forms=FORMS,
    optimizers=OPTIMIZERS,
) -> None:
    """Write receptive_fields and masks or, with steps, updates, each as PNG and CSV.

    Args:
        dataset_dir: the bundle's data.
        output_dir: receives the files.
        checkpoint: weights of the bundle's network; without them it is as it starts.
        bundle: the bundle's folder.
        config_file: overlays of the training that made the weights, such as configs/ablations/lrbm.json.
        patches: that the receptive fields are averaged over.
        steps: of the optimizer, in each training that measures updates; 0: no training.
        forms: of the block, some of none, csla, rep_optimizer, fixed, lrbm.
        optimizers: classes of torch.optim.
    """
    output = Path(output_dir)
    if steps:
        show_learning(Path(bundle), dataset_dir, output, steps, ensure_tuple(forms), ensure_tuple(optimizers))
    else:
        overlays = [str(Path(path).resolve()) for path in ensure_tuple(config_file)]
        show_trained(Path(bundle), dataset_dir, output, checkpoint, patches, overlays)


if __name__ == "__main__":
    for quiet in ("rep3d.training.checkpoints", "monai.bundle.workflows"):  # no validation, no logging file: as meant
        logging.getLogger(quiet).setLevel(logging.ERROR)
    run_command(main)
