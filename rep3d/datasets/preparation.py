"""From a data set as it was downloaded to the layout of the bundles: links, `dataset.json` and `splits.json`.

Nothing is copied where the file system has links. Every pair is checked; what is wrong with a file goes into a report,
and the other files go on.
"""

from __future__ import annotations

import csv
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rep3d.console.progress import track
from rep3d.data import splits
from rep3d.data.cases import ONE_CHANNEL, Item, image_files, one_or_all
from rep3d.data.checks import check_pair
from rep3d.data.dataset_json import FILE
from rep3d.data.memory import file_key
from rep3d.data.notes import warn_once
from rep3d.data.regions import count_ids
from rep3d.datasets.downloads import Scan, find_scans
from rep3d.datasets.fingerprint import CaseFacts, examine, summary
from rep3d.files import dated_name, read_json, write_json

logger = logging.getLogger(__name__)

CHECKED = "checked.json"
PATIENT_COLUMNS = ("case", "patient")
FACTS = 6  # the edition of what is kept there of a case


class Preparation(NamedTuple):
    """What `prepare` found: facts of the good pairs, and the problems by case."""

    facts: list[CaseFacts]
    problems: dict[str, list[str]]
    splits: list[splits.Split]


def prepare(
    dataset: Mapping[str, Any],
    source: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    patients: Mapping[str, str] | None = None,
    new_splits: bool = False,
) -> Preparation:
    """Make `output_dir` a data set that the bundles read; run again after an interruption, it goes on.

    Args:
        dataset: one of configs/datasets: its "data" names the layout and the sizes of the parts.
        source: the data set's folder as it was downloaded and unpacked.
        output_dir: receives imagesTr, labelsTr, imagesTs (links), dataset.json, splits.json and checked.json.
        patients: patient of a case, where cases share one.
        new_splits: replace a splits.json that is there.

    Raises:
        FileNotFoundError: `source` does not exist.
        ValueError: the bundle trains on data of any kind; `source` is of another layout or task, or has two scans of
            one name, `output_dir` lies in it, the splits.json that is there does not fit or has a patient in two
            parts, or `patients` names a case that there is not.
    """
    if "data" not in dataset:
        raise ValueError(
            f"{dataset['metadata']['name']} has no download to prepare: it trains on any folder in Decathlon layout"
        )
    data, common = dataset["data"], dataset["common"]
    ignored = common.get("ignored_label")
    classes = count_ids(common["label_names"], ignored)
    channel_names = common.get("channel_names", ONE_CHANNEL)
    source, folder = _folders(source, output_dir)
    scans, problems = find_scans(source, data)
    pairs = [scan for scan in scans if scan.label is not None]
    _check_patients(patients or {}, [*(scan.case for scan in scans), *problems])
    path = folder / splits.FILE
    is_kept = path.is_file() and not new_splits
    cases = [scan.case for scan in pairs]
    if is_kept:
        whole = splits.read_splits(path, {*cases, *problems})
        _refuse_divided(path, whole, patients or {})
    else:  # of all pairs: repaired files do not move the others
        whole = splits.make_splits(cases, data["split"], folds=data["folds"], patients=patients)
    folder.mkdir(parents=True, exist_ok=True)
    facts, found = check_pairs(pairs, classes, folder / CHECKED, channel_names, ignored)
    problems = {case: problems.get(case, []) + found.get(case, []) for case in [*problems, *found]}
    good = [scan for scan in scans if scan.case not in problems]
    for scan in good:
        link_scan(scan, folder)
    write_json(folder / FILE, dataset_json(dataset, good))
    return Preparation(facts, problems, _write_splits(path, whole, problems, is_kept))


def read_patients(path: Path) -> dict[str, str]:
    """The patient of each case, from a CSV file with the columns case and patient, with commas or semicolons between.

    Raises:
        ValueError: it has other columns or no rows, a row lacks one of both, or a case is of two patients.
    """
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    rows = csv.DictReader(lines, delimiter=";" if ";" in "".join(lines[:1]) else ",", skipinitialspace=True)
    columns = [name.strip() for name in rows.fieldnames or ()]
    if not {*PATIENT_COLUMNS} <= {*columns}:
        raise ValueError(f"{path}: expected the columns case and patient, found {', '.join(columns) or 'none'}")
    rows.fieldnames = columns
    found: dict[str, str] = {}
    for row in rows:
        case, patient = ((row[name] or "").strip() for name in PATIENT_COLUMNS)
        if not (case and patient):
            raise ValueError(f"{path}: line {rows.line_num} has case {case!r} and patient {patient!r}, expected both")
        if found.setdefault(case, patient) != patient:
            raise ValueError(f"{path}: case {case!r} is of the patients {found[case]!r} and {patient!r}, expected one")
    if not found:
        raise ValueError(f"{path}: has no rows, expected one for each case")
    return found


def report(result: Preparation, label_names: Sequence[str]) -> str:
    """What was found, in Markdown: the parts of each fold, the fingerprint, and the problems."""
    folds = [
        f"fold {i}: {', '.join(f'{len(cases)} {part}' for part, cases in split.items())}"
        for i, split in enumerate(result.splits)
    ]
    parts = [f"# {len(result.facts)} good case(s), {len(result.problems)} with problems", "\n".join(folds)]
    if result.facts:
        parts.append(summary(result.facts, label_names))
    if result.problems:
        parts.append("## Problems\n" + "\n".join(f"- {text}" for texts in result.problems.values() for text in texts))
    return "\n\n".join(parts)


def check_pairs(
    pairs: Sequence[Scan],
    classes: int,
    memory: Path,
    channel_names: Sequence[str] | None = ONE_CHANNEL,
    ignored: int | None = None,
) -> tuple[list[CaseFacts], dict[str, list[str]]]:
    """Facts of the good pairs, and the problems of the others; `memory` keeps the facts while the files stay the same.

    Problems may pass without a change of the files, as those of a disk do: they are looked at again each time.

    Args:
        channel_names: of an image; None: as many as it has.
        ignored: as of `rep3d.datasets.fingerprint.examine`.
    """
    seen = read_json(memory)
    facts, problems = [], {}
    try:
        for scan in track(pairs, "Checking", "case"):
            key = _stamp(scan, classes, channel_names, ignored)
            entry = seen.get(scan.case)
            if entry is None or entry["key"] != key:
                fact, wrong = _check(scan, classes, channel_names, ignored)
                if fact is None:
                    seen.pop(scan.case, None)
                    problems[scan.case] = wrong
                    continue
                entry = seen[scan.case] = {"key": key, "facts": fact._asdict()}
            facts.append(CaseFacts(**entry["facts"]))
            warn_once(str(scan.images[0]), facts[-1].note)
    finally:
        write_json(memory, seen)
    for case, twin in _twins(facts):
        problems[case] = [f"{case}: the same voxels as {twin}"]
    return [fact for fact in facts if fact.case not in problems], problems


def _folders(source: str | os.PathLike, output_dir: str | os.PathLike) -> tuple[Path, Path]:
    """Both as absolute paths; the data set does not lie around its source."""
    origin, folder = Path(source).resolve(), Path(output_dir).resolve()
    if not origin.is_dir():
        raise FileNotFoundError(f"source {str(origin)!r} does not exist: give the folder of the unpacked download")
    if folder == origin or folder in origin.parents:
        raise ValueError(f"output_dir {str(folder)!r} holds the source {str(origin)!r}: give another folder")
    return origin, folder


def _check_patients(patients: Mapping[str, str], cases: Sequence[str]) -> None:
    """Refuse patients of cases that there are not: nobody would know whose the others are."""
    unknown = [case for case in patients if case not in cases]
    if unknown:
        expected = f"expected names such as {cases[0]!r}"
        raise ValueError(f"patients has {len(unknown)} name(s) of no case, such as {unknown[0]!r}, {expected}")


def _refuse_divided(path: Path, whole: Sequence[splits.Split], patients: Mapping[str, str]) -> None:
    """Refuse splits that a file has where cases of one patient stand in two parts."""
    for fold, split in enumerate(whole):
        part_of: dict[str, str] = {}
        for part, case in ((part, case) for part, cases in split.items() for case in cases if case in patients):
            first = part_of.setdefault(patients[case], part)
            if first != part:
                told = f"patient {patients[case]!r} in {first} and in {part}"
                raise ValueError(f"{path}: fold {fold} has {told}, expected one part: mend it, or give --new_splits")


def _write_splits(
    path: Path, whole: Sequence[splits.Split], problems: Mapping[str, Sequence[str]], is_kept: bool
) -> list[splits.Split]:
    """The splits without the cases that have problems; written, unless the file that is there says the same.

    Where a file that is to be kept loses cases, a copy of it stays, and a warning names them.
    """
    usable = [{part: [case for case in cases if case not in problems] for part, cases in one.items()} for one in whole]
    if is_kept and usable == whole:
        return usable
    if is_kept:
        copy = dated_name(path, time.time())
        shutil.copy2(path, copy)
        lost = sorted({case for split in whole for cases in split.values() for case in cases} & problems.keys())
        logger.warning("%s: %s have problems and are left out; what it was is kept as %s", path, ", ".join(lost), copy)
    write_json(path, usable)
    return usable


def _check(
    scan: Scan, classes: int, channel_names: Sequence[str] | None, ignored: int | None
) -> tuple[CaseFacts | None, list[str]]:
    """The facts of a pair, or what is wrong with it."""
    images, label = list(map(str, scan.images)), str(scan.label)
    try:
        note = check_pair({"image": images, "label": label}, channel_names)
        facts, problems = examine(scan.case, images, label, classes, ignored)
    except ValueError as error:
        return None, [str(error)]
    return (None, problems) if problems else (facts._replace(note=note), [])


def _twins(facts: Sequence[CaseFacts]) -> list[tuple[str, str]]:
    """Cases whose image another case has too."""
    known, first = [fact for fact in facts if fact.digest], dict[str, str]()
    return [(fact.case, first[fact.digest]) for fact in known if first.setdefault(fact.digest, fact.case) != fact.case]


def _stamp(scan: Scan, classes: int, channel_names: Sequence[str] | None, ignored: int | None) -> str:
    rule = [str(FACTS), str(classes), str(ignored), ",".join(channel_names or [])]
    files = [path for path in (*scan.images, scan.label) if path is not None]
    return "|".join([*rule, *(file_key(path) if path.exists() else str(path) for path in files)])


# --- output


def link_scan(scan: Scan, folder: Path) -> None:
    """Put the scan into imagesTr and labelsTr, or without a label into imagesTs, under the name of its case."""
    names = link_names(scan)
    for name, path in zip(image_files(names), scan.images, strict=True):
        link(path, folder / name)
    if scan.label is not None:
        link(scan.label, folder / names["label"])


def link_names(scan: Scan) -> Item:
    """The item of `dataset.json` with the paths in the output folder; without a label only the image's."""
    part = "Ts" if scan.label is None else "Tr"
    numbers = [f"_{i:04d}" for i in range(len(scan.images))] if len(scan.images) > 1 else [""]
    images = zip(numbers, scan.images, strict=True)
    item = {"image": one_or_all([f"images{part}/{scan.case}{number}{_suffix(path)}" for number, path in images])}
    return item if scan.label is None else item | {"label": f"labels{part}/{scan.case}{_suffix(scan.label)}"}


def _suffix(path: Path) -> str:
    return ".nii.gz" if path.name.lower().endswith(".gz") else ".nii"


def link(source: Path, target: Path) -> None:
    """A link to `source`, or a copy where the file system has neither symbolic nor hard ones."""
    if target.exists() and target.samefile(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    for make in (os.symlink, os.link, shutil.copyfile):
        try:
            make(source, temporary)
            break
        except OSError:
            temporary.unlink(missing_ok=True)
            if make is shutil.copyfile:
                raise
    os.replace(temporary, target)


def dataset_json(dataset: Mapping[str, Any], scans: Sequence[Scan]) -> dict[str, Any]:
    """In the Decathlon's layout."""
    pairs = [scan for scan in scans if scan.label is not None]
    bare = [(scan, link_names(scan)) for scan in scans if scan.label is None]
    return {
        "name": dataset["metadata"]["name"],
        "description": dataset["metadata"]["task"],
        "reference": dataset["metadata"]["data_source"],
        "licence": dataset["readme"]["licence"],
        "modality": {str(i): name for i, name in enumerate(_modalities(dataset))},
        "labels": {str(i): name for i, name in enumerate(dataset["common"]["label_names"])},
        "numTraining": len(pairs),
        "numTest": len(scans) - len(pairs),
        "training": [link_names(scan) for scan in pairs],
        "test": [names if len(scan.images) > 1 else names["image"] for scan, names in bare],
    }


def _modalities(dataset: Mapping[str, Any]) -> Sequence[str]:
    """The names of the channels; of a single one its modality."""
    return dataset["common"].get("channel_names", [dataset["metadata"]["modality"]])
