"""Time predictions by how their windows are laid, and count the Dice that this costs: tables of docs/performance.md.

    python scripts/compare_presets.py --bundle bundles/msd_hippocampus --dataset_dir DIR --checkpoint FILE
    python scripts/compare_presets.py --bundle bundles/amos_ct --scan FILE

The second one takes the network untrained, for its time alone. Needs a quiet machine.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from fire.decorators import SetParseFn
from monai.utils import ensure_tuple

from rep3d.console.commands import run_command
from rep3d.shipped import find_weights
from rep3d.study.presets import compare_presets, stretch, time_presets


@SetParseFn(str, "bundle", "dataset_dir", "checkpoint", "scan")  # a folder may be called 2024_01_05
def main(
    bundle: str,
    dataset_dir: str | None = None,
    checkpoint: str | None = None,
    cases: int | None = None,
    scan: str | None = None,
    shape=(),
    spacing=(1, 1, 1),
    air: int = 0,
) -> None:
    """Print a table.

    Args:
        bundle: its folder.
        dataset_dir: a data set, of which the test cases are scored, or else those of validation.
        checkpoint: trained weights; by default the bundle's.
        cases: the first so many of them; by default all.
        scan: NIfTI file, in place of a data set.
        shape: voxels along its axes to which the scan is resampled before; by default it stays as it is.
        spacing: millimetres between voxels that a resampled scan is said to have.
        air: voxels of air on both sides of the first axis of a resampled scan.
    """
    if (dataset_dir is None) == (scan is None):
        raise ValueError("expected either dataset_dir or scan")
    if cases is not None and cases < 1:
        raise ValueError(f"cases is {cases}, expected 1 or more")
    if dataset_dir is not None:
        weights = Path(checkpoint) if checkpoint else find_weights(bundle)
        print(compare_presets(Path(bundle), dataset_dir, weights, cases))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(scan)
        if shape:
            path = Path(folder) / "stretched.nii.gz"
            stretch(Path(scan), path, ensure_tuple(shape), ensure_tuple(spacing), air)
        print(time_presets(Path(bundle), path))


if __name__ == "__main__":
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)
    run_command(main)
