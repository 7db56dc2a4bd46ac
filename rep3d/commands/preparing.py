"""`rep3d prepare`: the published data sets of the bundles, from their download."""

from __future__ import annotations

from pathlib import Path

from fire.decorators import SetParseFn

from rep3d import installed
from rep3d.console.commands import switch
from rep3d.files import write_text


@SetParseFn(str)  # a folder may be called 2024_01_05
def prepare(
    dataset: str, source: str, output_dir: str, patients: str | None = None, new_splits: str | bool = False
) -> None:
    """Make the data set of a bundle that comes with the package from its original download.

    `output_dir` is then the --dataset_dir of the bundle of that name. It holds imagesTr, labelsTr and imagesTs (links
    to the source), dataset.json, splits.json (yours to edit), fingerprint.csv, fingerprint.png and report.md. Files
    with problems are left out and reported, and the exit status is 1. Run again, it reads what has changed, and what
    had problems.

    Args:
        dataset: the bundle's name, such as kits.
        source: the folder of the unpacked download.
        output_dir: the prepared data set.
        patients: CSV file with the columns case and patient, where patients have several cases.
        new_splits: replace the splits.json that is there.
    """
    draws_anew = switch("new_splits", new_splits)
    # Here, not above: they take seconds, and a help needs none of them.
    from rep3d.datasets import preparation
    from rep3d.datasets.fingerprint import write_fingerprint
    from rep3d.datasets.rendering import read_dataset

    config, folder = read_dataset(installed.root(), dataset), Path(output_dir)
    patient_of = preparation.read_patients(Path(patients)) if patients else None
    result = preparation.prepare(config, source, folder, patients=patient_of, new_splits=draws_anew)
    names = config["common"]["label_names"]
    if result.facts:
        write_fingerprint(result.facts, names, folder)
    text = preparation.report(result, names)
    write_text(folder / "report.md", text)
    print(text)
    if result.problems:
        raise SystemExit(f"{len(result.problems)} case(s) have problems and were left out, see {folder / 'report.md'}")
