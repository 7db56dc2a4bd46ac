"""From a data set as it was downloaded to the layout of the bundles: links, `dataset.json` and `splits.json`.

Nothing is copied where the file system has links. Every pair is checked; what is wrong with a file goes into a report,
and the other files go on.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rep3d.console.progress import track
from rep3d.data import splits
from rep3d.data.cases import case_name, case_names, file_name
from rep3d.data.checks import check_pair
from rep3d.data.layouts import list_pairs, list_scans, read_dataset_json, read_lists
from rep3d.data.notes import warn_once
from rep3d.datasets.fingerprint import CaseFacts, examine
from rep3d.files import read_json, write_json

logger = logging.getLogger(__name__)

AMOS_FIRST_MRI = 500  # AMOS22: smaller ids are CT
KITS_LABELS = ("segmentation.nii.gz", "aggregated_MAJ_seg.nii.gz")  # of KiTS23 and of KiTS21
CHECKED = "checked.json"


class Scan(NamedTuple):
    case: str  # which its files in the output are named after
    image: Path
    label: Path | None  # None: to be segmented


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
        ValueError: `source` is of another layout or task, or has two scans of one name, `output_dir` lies in it, or the
            splits.json that is there does not fit.
    """
    data, names = dataset["data"], dataset["common"]["label_names"]
    source, folder = Path(source).resolve(), Path(output_dir).resolve()
    if not source.is_dir():
        raise FileNotFoundError(f"source {str(source)!r} does not exist: give the folder of the unpacked download")
    if folder == source or folder in source.parents:
        raise ValueError(f"output_dir {str(folder)!r} holds the source {str(source)!r}: give another folder")
    scans, problems = LAYOUTS[data["layout"]](source, data, names)
    _refuse_equal_names(scans)
    pairs = [scan for scan in scans if scan.label is not None]
    if not pairs:
        raise ValueError(f"source {str(source)!r} holds no image with a label in the layout {data['layout']!r}")
    folder.mkdir(parents=True, exist_ok=True)
    facts, found = check_pairs(pairs, len(names), folder / CHECKED)
    for case, texts in found.items():
        problems.setdefault(case, []).extend(texts)
    path = folder / splits.FILE
    old = path.is_file() and not new_splits
    if old:
        whole = splits.read_splits(path, {scan.case for scan in pairs} | problems.keys())
    else:  # of all pairs: repaired files do not move the others
        whole = splits.make_splits([scan.case for scan in pairs], data["split"], folds=data["folds"], patients=patients)
    good = [scan for scan in scans if scan.case not in problems]
    for scan in good:
        link_scan(scan, folder)
    write_json(folder / "dataset.json", dataset_json(dataset, good))
    made = [{part: [case for case in split[part] if case not in problems] for part in split} for split in whole]
    if old and made != whole:
        _keep_splits(path, whole, problems)
    if not old or made != whole:
        write_json(path, made)
    return Preparation(facts, problems, made)


def _keep_splits(path: Path, whole: Sequence[splits.Split], problems: Mapping[str, Sequence[str]]) -> None:
    """Say which cases a splits.json is about to lose, and keep a copy of it."""
    kept = path.with_name(f"{path.stem}_{time.strftime('%Y%m%d-%H%M%S')}{path.suffix}")
    shutil.copy2(path, kept)
    lost = sorted({case for split in whole for cases in split.values() for case in cases} & problems.keys())
    logger.warning("%s: %s have problems and are left out; what it was is kept as %s", path, ", ".join(lost), kept)


def check_pairs(pairs: Sequence[Scan], classes: int, memory: Path) -> tuple[list[CaseFacts], dict[str, list[str]]]:
    """Facts of the good pairs, and the problems of the others; `memory` keeps both while the files stay the same."""
    seen = read_json(memory)
    facts, problems = [], {}
    try:
        for scan in track(pairs, "Checking", "case"):
            key = _stamp(scan, classes)
            entry = seen.get(scan.case)
            if entry is None or entry["key"] != key:
                entry = seen[scan.case] = {"key": key, **_check(scan, classes)}
            if entry["problems"]:
                problems[scan.case] = entry["problems"]
            else:
                facts.append(CaseFacts(**entry["facts"]))
    finally:
        write_json(memory, seen)
    for case, twin in _twins(facts):
        problems[case] = [f"{case}: the same voxels as {twin}"]
    return [fact for fact in facts if fact.case not in problems], problems


def _refuse_equal_names(scans: Sequence[Scan]) -> None:
    """Raise ValueError where two scans, with or without labels, are of one name. Names both."""
    image_of: dict[tuple[str, bool], Path] = {}
    for scan in scans:
        image = image_of.setdefault((scan.case, scan.label is None), scan.image)
        if image != scan.image:
            raise ValueError(f"{image} and {scan.image} are both case {scan.case!r}: rename one")


def _check(scan: Scan, classes: int) -> dict[str, Any]:
    try:
        warn_once(str(scan.image), check_pair({"image": str(scan.image), "label": str(scan.label)}))
        facts, problems = examine(scan.case, str(scan.image), str(scan.label), classes)
    except ValueError as error:
        return {"problems": [str(error)], "facts": None}
    return {"problems": problems, "facts": facts._asdict()}


def _twins(facts: Sequence[CaseFacts]) -> list[tuple[str, str]]:
    """Cases whose image another case has too."""
    first: dict[str, str] = {}
    return [(fact.case, first[fact.digest]) for fact in facts if first.setdefault(fact.digest, fact.case) != fact.case]


def _stamp(scan: Scan, classes: int) -> str:
    stats = [path.stat() for path in (scan.image, scan.label) if path is not None and path.exists()]
    return "|".join([str(scan.image), str(classes), *(f"{stat.st_size}.{stat.st_mtime_ns}" for stat in stats)])


# --- layouts: the scans of a source, and what is wrong by case

Found = tuple[list[Scan], dict[str, list[str]]]


def amos_scans(source: Path, data: Mapping[str, Any], names: Sequence[str]) -> Found:
    """AMOS22: imagesTr, labelsTr, imagesVa, labelsVa, imagesTs; CT and MRI by the number in the file's name."""
    scans, problems = [], {}
    for part in ("Tr", "Va", "Ts"):
        labels = {case_name(path): path for path in list_scans(source / f"labels{part}")}
        for image in list_scans(source / f"images{part}"):
            case = case_name(image)
            number = re.search(r"\d+$", case)
            if number is None:
                problems[case] = [f"{image}: no number in the name, expected one such as amos_0001.nii.gz"]
            elif (int(number.group()) >= AMOS_FIRST_MRI) == (data["modality"] == "MRI"):
                if part == "Tr" and case not in labels:
                    problems[case] = [f"{image}: no label of this name in {source / 'labelsTr'}"]
                # The paper splits the 200 CT of imagesTr; the other images are for inference.
                scans.append(Scan(case, image, labels.get(case) if part == "Tr" else None))
    return scans, problems


def kits_scans(source: Path, data: Mapping[str, Any], names: Sequence[str]) -> Found:
    """KiTS21 and KiTS23: case_00000/imaging.nii.gz and the segmentation of that release."""
    scans, problems = [], {}
    for folder in sorted(path for path in source.iterdir() if re.fullmatch(r"case_\d+", path.name)):
        image = folder / "imaging.nii.gz"
        label = next((folder / name for name in KITS_LABELS if (folder / name).is_file()), None)
        if not image.is_file():
            problems[folder.name] = [f"{image}: no such file, the images are downloaded apart from the segmentations"]
        elif label is None:
            problems[folder.name] = [f"{folder}: no segmentation, expected one of {KITS_LABELS}"]
        scans.append(Scan(folder.name, image, label))
    return scans, problems


def decathlon_scans(source: Path, data: Mapping[str, Any], names: Sequence[str]) -> Found:
    """A task of the Medical Segmentation Decathlon, by its dataset.json.

    Raises:
        ValueError: there is no dataset.json, or its labels are not those of the bundle.
    """
    dataset = read_dataset_json(source)
    if _label_names(dataset.get("labels")) != [_plain(name) for name in data["task_labels"]]:
        raise ValueError(
            f"{source / 'dataset.json'}: the labels of {dataset.get('name')!r} are {dataset.get('labels')!r}, "
            f"expected {data['task_labels']} of {data['task']}"
        )
    listed, images = list_pairs(source), read_lists(source)["test"]
    pairs = [*listed["training"], *listed["validation"]]
    scans = [Scan(file_name(case), Path(pair["image"]), Path(pair["label"])) for case, pair in _named(pairs)]
    return scans + [Scan(file_name(case), Path(image["image"]), None) for case, image in _named(images)], {}


def _named(items: Sequence[dict[str, Any]]) -> Iterable[tuple[str, dict[str, Any]]]:
    return zip(case_names(items), items, strict=True)


def _label_names(labels: object) -> list[str]:
    """The names of the ids 0, 1, ..., from {"0": name} or nnU-Net's {name: 0}; none where it is neither."""
    if not isinstance(labels, dict):
        return []
    if not all(map(str.isdigit, labels)):
        labels = {str(i): name for name, i in labels.items()}
    return [_plain(str(labels[key])) for key in sorted(labels, key=int)] if all(map(str.isdigit, labels)) else []


def _plain(name: str) -> str:
    return name.strip().lower()


LAYOUTS: dict[str, Callable[[Path, Mapping[str, Any], Sequence[str]], Found]] = {
    "amos": amos_scans,
    "kits": kits_scans,
    "decathlon": decathlon_scans,
}


# --- output


def link_scan(scan: Scan, folder: Path) -> None:
    """Put the scan into imagesTr and labelsTr, or without a label into imagesTs, under the name of its case."""
    for name, path in link_names(scan).items():
        link(path, folder / name)


def link_names(scan: Scan) -> dict[str, Path]:
    """Path in the output folder -> linked file: the image, then the label."""
    part = "Ts" if scan.label is None else "Tr"
    files = {"images": scan.image, "labels": scan.label}
    return {f"{kind}{part}/{scan.case}{_suffix(path)}": path for kind, path in files.items() if path is not None}


def _suffix(path: Path) -> str:
    return ".nii.gz" if path.name.endswith(".gz") else ".nii"


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
    return {
        "name": dataset["metadata"]["name"],
        "description": dataset["metadata"]["task"],
        "reference": dataset["metadata"]["data_source"],
        "licence": dataset["readme"]["licence"],
        "modality": {"0": dataset["metadata"]["modality"]},
        "labels": {str(i): name for i, name in enumerate(dataset["common"]["label_names"])},
        "numTraining": len(pairs),
        "numTest": len(scans) - len(pairs),
        "training": [dict(zip(("image", "label"), link_names(scan), strict=True)) for scan in pairs],
        "test": [name for scan in scans if scan.label is None for name in link_names(scan)],
    }
