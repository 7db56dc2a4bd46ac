"""Who trains and who validates in a bundle of somebody's own: data/splits.json, and what is to be said of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from rep3d.data import splits
from rep3d.datasets.fingerprint import CaseFacts
from rep3d.datasets.own_changes import remembered, written
from rep3d.datasets.rendering import read_fragment
from rep3d.files import write_json


def read_own_splits(folder: Path, cases: Collection[str]) -> list[splits.Split]:
    """Those of splits.json where a person wrote it; none of ours.

    Raises:
        ValueError: it is no list of splits, or names a case that there is no longer.
    """
    path = folder / splits.FILE
    if not path.is_file() or read_fragment(path) in written(folder, "splits"):
        return []
    return splits.read_splits(path, cases)


def write_splits(folder: Path, cases: Sequence[str], count: int, patient_of: Mapping[str, str]) -> None:
    """Write as many folds; of one all cases train."""
    one = [{"train": list(cases), "val": []}]
    folds = splits.make_folds(cases, count, patients=patient_of) if count > 1 else one
    with remembered(folder, "splits", folds):
        write_json(folder / splits.FILE, folds)


def own_split_notes(folds: Sequence[splits.Split], cases: Sequence[str], patient_of: Mapping[str, str]) -> list[str]:
    """What somebody should know of splits that a person wrote, as `read_own_splits` returns them."""
    unlisted = [splits.unlisted(split, cases) for split in folds]
    torn = [_patients_of_both(split, patient_of) for split in folds]
    notes = [f"data/{splits.FILE} is yours, and stays"]
    if any(unlisted):
        told = _by_fold(unlisted, "case(s)")
        notes.append(f"cases that stand in no part of data/{splits.FILE}, and neither train nor validate: {told}")
    if any(torn):
        told = _by_fold(torn, "patient(s)")
        notes.append(f"patients that train and are held out, so that scores are too good: {told}")
    return notes


def _patients_of_both(split: splits.Split, patient_of: Mapping[str, str]) -> list[str]:
    """The patients of whom some cases train, and others validate or test."""
    trained = {patient_of[case] for case in split["train"]}
    held_out = {patient_of[case] for part, cases in split.items() if part != "train" for case in cases}
    return sorted(trained & held_out)


def _by_fold(found: Sequence[Sequence[str]], what: str) -> str:
    """How many there are in each fold, and the first of them."""
    return "; ".join(f"{len(names)} {what} in fold {i}, such as {names[0]}" for i, names in enumerate(found) if names)


def unshown(path: Path, facts: Sequence[CaseFacts], names: Sequence[str]) -> list[str]:
    """Which labels of several cases no training case, or no validation case, of some fold shows."""
    showing = [(name, {fact.case for fact in facts if fact.voxels[i]}) for i, name in enumerate(names)][1:]
    folds = splits.read_splits(path, [fact.case for fact in facts])
    notes = list[str]()
    for part, kind, does in (("train", "training", "teaches"), ("val", "validation", "judges")):
        without = [(name, _folds_without(cases, folds, part)) for name, cases in showing if len(cases) > 1]
        told = "; ".join(f"{name!r} in fold {', '.join(numbers)}" for name, numbers in without if numbers)
        notes += [f"labels that no {kind} case shows, so that none {does} them: {told}"] if told else []
    return notes


def _folds_without(cases: set[str], folds: Sequence[splits.Split], part: str) -> list[str]:
    """The folds of which a part that has cases has none of these."""
    return [str(i) for i, split in enumerate(folds) if split[part] and cases.isdisjoint(split[part])]
