"""Time nnU-Net's predictor on a scan, with the network that it plans by itself: the table of docs/comparison.md.

python scripts/time_nnunet.py --dataset_dir DIR
"""

from __future__ import annotations

from pathlib import Path

from fire.decorators import SetParseFn

from rep3d.console.commands import run_command
from rep3d.study.nnunet.environment import find_nnunet, install_nnunet
from rep3d.study.nnunet.timing import time_scan


@SetParseFn(str, "dataset_dir", "output_dir", "nnunet_python")  # a folder may be called 2024_01_05
def main(dataset_dir: str, output_dir: str = "runs/nnunet_time", windows: int = 3, nnunet_python: str = "") -> None:
    """Print a table.

    Args:
        dataset_dir: a data set, whose first scan is timed.
        output_dir: receives nnU-Net's data.
        windows: that are timed, after one that is not.
        nnunet_python: of an environment with nnU-Net; empty: one is made in `output_dir`.
    """
    if windows < 1:
        raise ValueError(f"windows is {windows}, expected 1 or more")
    output = Path(output_dir)
    nnunet = find_nnunet(Path(nnunet_python)) if nnunet_python else install_nnunet(output / "environment")
    print(time_scan(Path(dataset_dir), output, nnunet, windows))


if __name__ == "__main__":
    run_command(main)
