"""What a data set lists: pairs of image and label by part, from its `dataset.json` or from its folders.

`dataset.json` is read as the Decathlon writes it, as MONAI does (an image as a list of paths, "fold", "testing") and as
version 2 of nnU-Net does: it lists nothing, and the folders `imagesTr labelsTr` count. An image of several channels is
one file of four dimensions, or a file for each: `NAME_0000 NAME_0001` belong to the label `NAME`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rep3d.data.cases import case_name, first_file, image_files, is_nifti, name_cases, one_or_all
from rep3d.data.channels import case_and_number, group_channels, numbered_files
from rep3d.data.dataset_json import (
    FILE,
    FORMS,
    Entry,
    check_file_ending,
    read_dataset_json,
    read_entry,
    told_channels,
)
from rep3d.data.leakage import some
from rep3d.data.notes import warn_once
from rep3d.io.dicom_files import is_dicom
from rep3d.io.nifti import is_label_map_of_ours

PARTS = ("training", "validation", "test")
FOLDER_SUFFIXES = {"training": "Tr", "validation": "Val", "test": "Ts"}
LISTS = {"training": ("training",), "validation": ("validation",), "test": ("test", "testing")}  # of dataset.json
DICOM = (
    "DICOM is not read here: convert it to NIfTI, as with dcm2niix, or open it with the label app, which reads series"
)
SEGMENT = "images without labels are segmented with --config_file configs/inference.json"
LOOKED_AT = 100  # files of a folder, to find DICOM among them


def list_pairs(folder: Path) -> dict[str, list[Entry]]:
    """The pairs of a data set in the lists that it has itself, with a "case" where files' names do not tell them apart.

    Raises:
        ValueError: what is listed cannot be read, an image has no label, or a case stands there twice.
        FileNotFoundError: the folder has none of the layouts.
    """
    if (folder / FILE).is_file():
        lists = read_lists(folder)
        pairs = {part: [entry for entry in lists[part] if "label" in entry] for part in PARTS}
        for part in ("training", "validation"):
            bare = [entry["image"] for entry in lists[part] if "label" not in entry]
            if bare and pairs[part]:
                raise ValueError(f'{folder / FILE}: "{part}" lists {bare[0]} without a label, expected pairs')
        _refuse_repeats(folder / FILE, pairs)
    elif (folder / "imagesTr").is_dir():
        pair_of = {part: _folder_pairs(folder, part) for part in PARTS}
        _by_case((case, Path(first_file(pair))) for part in PARTS for case, pair in pair_of[part].items())
        pairs = {part: list(pair_of[part].values()) for part in PARTS}
    else:
        raise FileNotFoundError(
            f"dataset_dir {str(folder)!r} holds no data set: expected a dataset.json (Decathlon layout), or the "
            f"folders imagesTr, labelsTr, imagesVal and labelsVal{what_else(folder)}"
        )
    named = iter(name_cases([pair for part in PARTS for pair in pairs[part]]))
    return {part: [next(named) for _ in pairs[part]] for part in PARTS}


def read_lists(folder: Path) -> dict[str, list[Entry]]:
    """The entries of `dataset.json` by part, with or without labels; their paths begin with the folder.

    Raises:
        ValueError: names the file and what was expected.
    """
    path, dataset = folder / FILE, read_dataset_json(folder)
    if {"channel_names", "file_ending"} & dataset.keys() and "training" not in dataset:
        return _nnunet_lists(folder, dataset)
    lists: dict[str, list[Entry]] = {}
    for part, names in LISTS.items():
        name = next((name for name in names if dataset.get(name)), part)
        listed = dataset.get(name) or []
        if not isinstance(listed, list):
            raise ValueError(f'{path}: "{name}" is a {type(listed).__name__}, expected a list of {FORMS}')
        lists[part] = [read_entry(entry, folder, f'{path}: entry {i} of "{name}"') for i, entry in enumerate(listed)]
    return lists


def list_nifti(folder: Path) -> list[Path]:
    """The NIfTI files of a folder by name; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if is_nifti(path) and not path.name.startswith("."))


def what_else(folder: Path) -> str:
    """What a folder without a data set holds instead, to end a message with; empty where it is nothing known."""
    if any(map(is_dicom_file, islice(folder.rglob("*"), LOOKED_AT))):
        return f"; {DICOM}"
    return f"; {SEGMENT}" if list_nifti(folder) else ""


def is_dicom_file(path: Path) -> bool:
    """Whether a file is DICOM; False for one that cannot be read."""
    try:
        return path.is_file() and is_dicom(path)
    except OSError:
        return False


def _nnunet_lists(folder: Path, dataset: Mapping[str, Any]) -> dict[str, list[Entry]]:
    names = told_channels(folder, dataset)
    if "file_ending" in dataset:
        check_file_ending(folder, dataset["file_ending"])
    training, test = (list(_folder_pairs(folder, part, max(1, len(names))).values()) for part in ("training", "test"))
    count = max((len(image_files(pair)) for pair in training), default=1)
    images = group_channels(list_nifti(folder / "imagesTs"), names or [f"{number:04d}" for number in range(count)])
    return {"training": training, "validation": [], "test": test or images}


def _folder_pairs(folder: Path, part: str, channels: int = 1) -> dict[str, Entry]:
    """The pairs of one part of the folder layout by case; none of a validation or test part without labels.

    Args:
        channels: of an image, where that is known: as many as the numbers tell otherwise.
    """
    images, labels = (folder / f"{kind}{FOLDER_SUFFIXES[part]}" for kind in ("images", "labels"))
    if part != "training" and not labels.is_dir():
        return {}
    label_of = _by_case((case_name(label), label) for label in list_nifti(labels))
    image_of = _images_by_case(list_nifti(images), label_of, channels)
    missing = [Path(first).name for case, (first, *_) in image_of.items() if case not in label_of]
    if missing:
        told = f"the label of {missing[0]} and {len(missing) - 1} other image(s)"
        raise ValueError(f"{labels} lacks {told}; {SEGMENT}")
    imageless = [label.name for case, label in label_of.items() if case not in image_of]
    told = f"{len(imageless)} label map(s) have no image in {images}, and are left out"
    warn_once(str(labels), f"{told}: {some(imageless)}" if imageless else "")
    return {case: {"image": one_or_all(files), "label": str(label_of[case])} for case, files in image_of.items()}


def _images_by_case(images: Sequence[Path], labelled: Collection[str], channels: int) -> dict[str, list[str]]:
    """The files of each case's channels; none of label maps of ours that lie among the images.

    Args:
        labelled: the cases that have a label.
        channels: as of `_folder_pairs`.

    Raises:
        ValueError: as `_by_case`.
    """
    numbers = {image: case_and_number(case_name(image), labelled) for image in images}
    count = max([channels, *(number + 1 for _, number in numbers.values() if number is not None)])
    found: dict[str, list[str]] = {}
    for image, (case, number) in numbers.items():
        if case not in labelled and is_label_map_of_ours(image):
            continue
        files = [str(image)] if number is None else numbered_files(image, case, count)
        if found.setdefault(case, files) != files:
            raise ValueError(_same_case(found[case][0], image, case))
    return found


def _by_case(files: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """The files by case.

    Raises:
        ValueError: two files are of one case. Names both.
    """
    found: dict[str, Path] = {}
    for case, file in files:
        if case in found:
            raise ValueError(_same_case(found[case], file, case))
        found[case] = file
    return found


def _same_case(first: str | Path, second: Path, case: str) -> str:
    """What is wrong with two files that would be one of a case."""
    return f"{first} and {second} are both case {case!r}, expected one file: rename one"


def _refuse_repeats(path: Path, pairs: Mapping[str, Sequence[Entry]]) -> None:
    """Raise ValueError where an image or a label is listed twice."""
    part_of: dict[str, str] = {}
    for part in PARTS:
        for file in (os.path.normpath(path) for pair in pairs[part] for path in (*image_files(pair), pair["label"])):
            if file in part_of:
                raise ValueError(f'{path}: {file} stands in "{part_of[file]}" and in "{part}", expected it once')
            part_of[file] = part
