"""Make a data set that the bundles read from its original download: links, checks, splits and a fingerprint.

    python scripts/prepare_data.py msd_hippocampus --source Task04_Hippocampus --output_dir data/msd_hippocampus
    python scripts/prepare_data.py amos_ct --source amos22 --output_dir data/amos_ct

`output_dir` is then the `--dataset_dir` of the bundle of that name. It holds imagesTr, labelsTr and imagesTs (links to
the source), dataset.json, splits.json (yours to edit), fingerprint.csv, fingerprint.png and report.md. Files with
problems are left out and reported, and the exit status is 1. Run again, it reads only what has changed.
"""

from __future__ import annotations

from pathlib import Path

from fire.decorators import SetParseFn

from rep3d.console.commands import run_command
from rep3d.files import write_text

ROOT = Path(__file__).resolve().parents[1]


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
    # Here, not above: they take seconds, and a help needs none of them.
    from rep3d.datasets.fingerprint import write_fingerprint
    from rep3d.datasets.preparation import prepare, read_patients, report
    from rep3d.datasets.rendering import read_dataset

    config, folder = read_dataset(ROOT, dataset), Path(output_dir)
    patient_of = read_patients(Path(patients)) if patients else None
    result = prepare(config, source, folder, patients=patient_of, new_splits=new_splits)
    names = config["common"]["label_names"]
    if result.facts:
        write_fingerprint(result.facts, names, folder)
    text = report(result, names)
    write_text(folder / "report.md", text)
    print(text)
    if result.problems:
        raise SystemExit(f"{len(result.problems)} case(s) have problems and were left out, see {folder / 'report.md'}")


if __name__ == "__main__":
    run_command(main)
