"""Splits of a data set: `splits.json`, a list with one entry per fold.

    [{"train": ["case_003", ...], "val": [...], "test": [...]}, ...]

The names are those of `rep3d.data.cases`, or any end of one that fits one case alone. As in nnU-Net's
`splits_final.json`, "test" may be missing: then the data set's own test cases count, see `rep3d.data.lists`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Mapping
from pathlib import Path

from rep3d.data.cases import find_case

FILE = "splits.json"
KEYS = {"training": "train", "validation": "val", "test": "test"}
SEED = 0

Split = dict[str, list[str]]


def make_splits(
    cases: Collection[str],
    sizes: Mapping[str, int],
    *,
    folds: int = 1,
    seed: int = SEED,
    patients: Mapping[str, str] | None = None,
) -> list[Split]:
    """Random splits that share their test cases and differ in their validation cases, which never overlap.

    Args:
        cases: names.
        sizes: how many cases "training", "validation" and "test" hold. With more cases than their sum, training takes
            the others; with fewer, all shrink in proportion.
        folds: number of splits.
        seed: the same cases and seed give the same splits, in whatever order the cases come.
        patients: patient of a case, for cases that share one: all cases of a patient go into the same part.

    Raises:
        ValueError: too few patients for the folds.
    """
    shuffled = _shuffled_groups(cases, seed, patients)
    patient_count = len(shuffled)
    scale = min(1.0, len(cases) / sum(sizes.values()))
    validation, test = (max(1, round(scale * sizes[part])) for part in ("validation", "test"))
    test_groups = _take(shuffled, test)
    held_out = [_take(shuffled, validation) for _ in range(folds)]
    rest = [group for group in shuffled if group]
    if not (test_groups and all(held_out) and (rest or folds > 1)):
        raise ValueError(
            f"{patient_count} patient(s) are too few for {folds} fold(s) with training, validation and test"
        )
    return [
        {
            "train": sorted(sum(rest + [g for k, others in enumerate(held_out) if k != fold for g in others], [])),
            "val": sorted(sum(held_out[fold], [])),
            "test": sorted(sum(test_groups, [])),
        }
        for fold in range(folds)
    ]


def make_folds(
    cases: Collection[str], folds: int, *, seed: int = SEED, patients: Mapping[str, str] | None = None
) -> list[Split]:
    """Random folds without test cases: each case validates in one of them, and trains in the others.

    Args:
        cases: names.
        folds: 2 at least.
        seed: as for `make_splits`.
        patients: as for `make_splits`.

    Raises:
        ValueError: fewer patients than folds.
    """
    groups = _shuffled_groups(cases, seed, patients)
    if not 2 <= folds <= len(groups):
        raise ValueError(f"folds is {folds}, expected 2 to {len(groups)}, the number of patients")
    parts = [sorted(sum(groups[fold::folds], [])) for fold in range(folds)]
    return [{"train": sorted(case for case in cases if case not in part), "val": part} for part in parts]


def _shuffled_groups(cases: Collection[str], seed: int, patients: Mapping[str, str] | None) -> list[list[str]]:
    """The cases by patient, in random order."""
    groups: dict[str, list[str]] = {}
    for case in sorted(cases):
        groups.setdefault((patients or {}).get(case, case), []).append(case)
    shuffled = list(groups.values())
    random.Random(seed).shuffle(shuffled)
    return shuffled


def _take(groups: list[list[str]], count: int) -> list[list[str]]:
    """Remove groups from the end until they hold `count` cases."""
    taken: list[list[str]] = []
    while groups and sum(map(len, taken)) < count:
        taken.append(groups.pop())
    return taken


def read_splits(path: Path, cases: Collection[str]) -> list[Split]:
    """The splits of a file that a user may have written, with the cases' own names.

    Raises:
        ValueError: the file is no list of splits, or names a case that is missing, stands in two parts or may be
            several.
    """
    try:
        splits = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path}: no valid JSON ({error})") from error
    if not isinstance(splits, list) or not splits or not all(map(_is_split, splits)):
        raise ValueError(f'{path}: expected a list of {{"train": [names], "val": [names]}}, one per fold')
    for fold, split in enumerate(splits):
        part_of: dict[str, str] = {}
        for part in (key for key in KEYS.values() if key in split):
            split[part] = [
                _own_name(name, cases, f"{path}: fold {fold} names {name!r} in {part}") for name in split[part]
            ]
            for case in split[part]:
                if case in part_of:
                    raise ValueError(f"{path}: fold {fold} names {case!r} in {part_of[case]} and in {part}")
                part_of[case] = part
    return splits


def _own_name(name: str, cases: Collection[str], where: str) -> str:
    found = find_case(name, cases)
    if not found:
        raise ValueError(f"{where}, but there is no such case")
    if len(found) > 1:
        raise ValueError(f"{where}, which may be {' or '.join(found)}: write which")
    return found[0]


def unlisted(split: Split, cases: Collection[str]) -> list[str]:
    """The cases that stand in no part of a split that was read with them."""
    listed = {case for part in split.values() for case in part}
    return [case for case in cases if case not in listed]


def fold_folder(folder: str, fold: int) -> str:
    """Where a fold's results go: `folder` for fold 0, which is all there is without folds, else a folder in it."""
    return folder if fold == 0 else f"{folder}/fold{fold}"


def _is_split(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and {"train", "val"} <= set(entry) <= set(KEYS.values())
        and all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in entry.values())
    )


def cases_of(splits: list[Split], part: str, fold: int, path: Path) -> list[str]:
    """Names of the "training", "validation" or "test" cases of a fold; without test cases, those of validation.

    Raises:
        ValueError: there is no such fold.
    """
    if not 0 <= fold < len(splits):
        raise ValueError(f"fold is {fold}, but {path} holds fold 0 to {len(splits) - 1}")
    chosen = splits[fold].get(KEYS[part], [])
    return chosen or splits[fold]["val"] if part == "test" else chosen
