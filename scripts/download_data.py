"""Download a task of the Medical Segmentation Decathlon, check it and unpack it.

    python scripts/download_data.py msd_hippocampus --folder downloads

Of the other data sets it says where to get them.
"""

from __future__ import annotations

from pathlib import Path

from fire.decorators import SetParseFn

from rep3d.console.commands import run_command

ROOT = Path(__file__).resolve().parents[1]


@SetParseFn(str, "folder")  # a folder may be called 2024_01_05
def main(dataset: str, folder: str) -> None:
    """Download into a folder.

    Args:
        dataset: one of configs/datasets.
        folder: receives the archive and the unpacked task.
    """
    # Here, not above: they take seconds, and a help needs none of them.
    from monai.apps import DecathlonDataset, download_and_extract

    from rep3d.datasets.rendering import read_dataset

    config = read_dataset(ROOT, dataset)
    task = config.get("data", {}).get("task")
    if task is None:
        where = config["readme"].get("get", config["readme"]["data"])
        raise SystemExit(f"{dataset} is not downloaded by this script. {where}")
    archive = Path(folder) / f"{task}.tar"
    download_and_extract(DecathlonDataset.resource[task], archive, folder, DecathlonDataset.md5[task])
    place = Path(folder) / task
    print(f"{place}\nNext: rep3d prepare {dataset} --source {place} --output_dir data/{dataset}")


if __name__ == "__main__":
    run_command(main)
