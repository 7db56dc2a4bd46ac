"""Make a data set that the bundles read from its original download: links, checks, splits and a fingerprint.

    python scripts/prepare_data.py msd_hippocampus --source Task04_Hippocampus --output_dir data/msd_hippocampus
    python scripts/prepare_data.py amos_ct --source amos22 --output_dir data/amos_ct

`output_dir` is then the `--dataset_dir` of the bundle of that name. It holds imagesTr, labelsTr and imagesTs (links to
the source), dataset.json, splits.json (yours to edit), fingerprint.csv, fingerprint.png and report.md. Files with
problems are left out and reported, and the exit status is 1. Run again, it reads only what has changed.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import fire
from fire.decorators import SetParseFn

from rep3d.console.errors import show_errors_briefly
from rep3d.datasets.fingerprint import summary, write_fingerprint
from rep3d.datasets.preparation import Preparation, prepare
from rep3d.files import write_text

DATASETS = Path(__file__).resolve().parents[1] / "configs/datasets"


@SetParseFn(str, "source", "output_dir", "patients")  # a folder may be called 2024_01_05
def main(dataset: str, source: str, output_dir: str, patients: str | None = None, new_splits: bool = False) -> None:
    """Prepare one data set and print what it looks like and what is wrong with it.

    Args:
        dataset: one of configs/datasets, such as "kits".
        source: the folder of the unpacked download.
        output_dir: the prepared data set.
        patients: CSV file with the columns case and patient, where patients have several cases.
        new_splits: replace the splits.json that is there.
    """
    config = read_config(dataset)
    result = prepare(
        config, source, output_dir, patients=patients and read_patients(Path(patients)), new_splits=new_splits
    )
    names, folder = config["common"]["label_names"], Path(output_dir)
    if result.facts:
        write_fingerprint(result.facts, names, folder)
    text = report(result, names)
    write_text(folder / "report.md", text)
    print(text)
    if result.problems:
        raise SystemExit(f"{len(result.problems)} case(s) have problems and were left out, see {folder / 'report.md'}")


def read_config(dataset: str) -> dict:
    known = sorted(path.stem for path in DATASETS.glob("*.json"))
    if dataset not in known:
        raise SystemExit(f"dataset is {dataset!r}, expected one of {', '.join(known)}")
    return json.loads((DATASETS / f"{dataset}.json").read_text(encoding="utf-8"))


def read_patients(path: Path) -> dict[str, str]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"case", "patient"} <= set(rows[0]):
        raise SystemExit(f"{path}: expected the columns case and patient")
    return {row["case"]: row["patient"] for row in rows}


def report(result: Preparation, label_names: list[str]) -> str:
    folds = [
        f"fold {i}: {', '.join(f'{len(v)} {k}' for k, v in split.items())}" for i, split in enumerate(result.splits)
    ]
    parts = [f"# {len(result.facts)} good case(s), {len(result.problems)} with problems", "\n".join(folds)]
    if result.facts:
        parts.append(summary(result.facts, label_names))
    if result.problems:
        parts.append("## Problems\n" + "\n".join(f"- {text}" for texts in result.problems.values() for text in texts))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    show_errors_briefly()
    fire.Fire(main)
