"""Data lists and splits from folders of NIfTI files.

A data set is a folder in the Medical Segmentation Decathlon's layout (with `dataset.json`) or with the folders
`imagesTr labelsTr imagesVal labelsVal` and, if there is a test set, `imagesTs labelsTs`. A `splits.json` beside them
(see `rep3d.splits`) decides which pair belongs to which part.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from rep3d.splits import FILE as SPLITS_FILE
from rep3d.splits import cases_of, read_splits

PARTS = ("training", "validation", "test")
FOLDER_SUFFIXES = {"training": "Tr", "validation": "Val", "test": "Ts"}
FRACTIONS = (0.7, 0.1, 0.2)  # of PARTS, where a Decathlon set has no split of its own
VALIDATION_FRACTIONS = (7 / 8, 1 / 8)  # where it only lacks validation pairs: training and validation in proportion
SPLIT_SEED = 0
SUFFIXES = (".nii.gz", ".nii")

Item = dict[str, str]


def load_datalist(dataset_dir: str | os.PathLike, part: str, fold: int = 0) -> list[Item]:
    """The pairs {"image": path, "label": path} of one part of a data set.

    Where the folder has a `splits.json`, it names them. Otherwise a Decathlon set is split by its own lists
    "validation" and "test" as far as they hold pairs: without a test list, the test part is the validation part;
    without a validation list, one eighth of the training list is taken, at random with a fixed seed; without both, the
    training list is split 70/10/20 %. Without `imagesTs` and `labelsTs`, the test part of the folder layout is its
    validation part.

    Args:
        dataset_dir: the data set's folder.
        part: "training", "validation" or "test".
        fold: of `splits.json`.

    Raises:
        ValueError: an unknown part or fold, a `dataset.json` or `splits.json` that cannot be read or names what is not
            there, an image without a label or an empty list.
        FileNotFoundError: the folder does not exist or has neither layout.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {PARTS}, got {part!r}")
    folder = _existing_folder(dataset_dir)
    splits = folder / SPLITS_FILE
    if splits.is_file():
        items = _split_items(folder, splits, part, fold)
    elif fold != 0:
        raise ValueError(f"fold is {fold}, but {str(folder)!r} has no {splits.name}: scripts/prepare_data.py makes one")
    elif (folder / "dataset.json").is_file():
        items = _decathlon_items(folder, part)
    elif (folder / "imagesTr").is_dir():
        items = _folder_items(folder, part)
    else:
        raise FileNotFoundError(
            f"dataset_dir {str(folder)!r} holds no data set: expected a dataset.json (Decathlon layout), or the "
            "folders imagesTr, labelsTr, imagesVal and labelsVal"
        )
    if not items:
        raise ValueError(f"the {part} list of {str(folder)!r} is empty: expected at least one image with a label")
    return items


def load_inference_list(source: str | os.PathLike) -> list[Item]:
    """The images {"image": path} to segment: one file, a folder of scans, or the test images of a data set.

    Of a Decathlon set these are the "test" images of its `dataset.json`, or the test part of its split.

    Raises:
        ValueError: a folder without NIfTI files, or a file of another kind.
        FileNotFoundError: `source` does not exist.
    """
    path = Path(source)
    if path.is_file():
        if not path.name.endswith(SUFFIXES):
            raise ValueError(
                f"dataset_dir {str(path)!r} is no NIfTI file: expected a name that ends with .nii.gz or .nii"
            )
        return [{"image": str(path)}]
    folder = _existing_folder(source)
    if (folder / "dataset.json").is_file():
        listed = read_dataset_json(folder).get("test")
        if listed:
            return [{"image": str(folder / (entry["image"] if isinstance(entry, dict) else entry))} for entry in listed]
        return [{"image": item["image"]} for item in load_datalist(folder, "test")]
    if (folder / "imagesTr").is_dir():
        images = list_scans(folder / "imagesTs") or list_scans(folder / "imagesVal")
    else:
        images = list_scans(folder)
    if not images:
        raise ValueError(f"dataset_dir {str(folder)!r} holds no scans: expected files that end with .nii.gz or .nii")
    return [{"image": str(image)} for image in images]


def random_split(
    items: Sequence[Item], fractions: Sequence[float] = FRACTIONS, seed: int = SPLIT_SEED
) -> list[list[Item]]:
    """Items in random order, cut by the fractions; the last part takes what rounding leaves.

    The order of the argument does not matter, and every part has at least one item where there are enough.
    """
    shuffled = sorted(items, key=lambda item: item["image"])
    random.Random(seed).shuffle(shuffled)
    count, parts = len(shuffled), len(fractions)
    ends = np.cumsum([max(1, round(fraction * count)) for fraction in fractions[:-1]])
    later = [max(part, count - parts + part) for part in range(1, parts)]  # leaves one for each later part
    bounds = [0, *map(int, np.minimum(ends, later)), count]
    return [shuffled[start:end] for start, end in pairwise(bounds)]


def _split_items(folder: Path, splits: Path, part: str, fold: int) -> list[Item]:
    if (folder / "dataset.json").is_file():
        dataset = read_dataset_json(folder)
        entries = [entry for name in PARTS for entry in dataset.get(name) or [] if _is_pair(entry)]
        items = [_absolute(folder, entry) for entry in entries]
    else:
        labelled = [suffix for suffix in FOLDER_SUFFIXES.values() if (folder / f"labels{suffix}").is_dir()]
        items = [item for suffix in labelled for item in _folder_pairs(folder, suffix)]
    item_of = {case_name(item["image"]): item for item in items}
    chosen = cases_of(read_splits(splits, item_of), part, fold, splits)
    return [item_of[case] for case in chosen]


def _decathlon_items(folder: Path, part: str) -> list[Item]:
    dataset = read_dataset_json(folder)
    own = {name: [entry for entry in dataset.get(name) or [] if _is_pair(entry)] for name in PARTS}
    if own["validation"]:
        own["test"] = own["test"] or own["validation"]
    elif own["test"]:
        own["training"], own["validation"] = random_split(own["training"], VALIDATION_FRACTIONS)
    else:
        own = dict(zip(PARTS, random_split(own["training"]), strict=True))
    return [_absolute(folder, entry) for entry in own[part]]


def _absolute(folder: Path, entry: Item) -> Item:
    return {key: str(folder / entry[key]) for key in ("image", "label")}


def _is_pair(entry: object) -> bool:
    return isinstance(entry, dict) and "image" in entry and "label" in entry


def _folder_items(folder: Path, part: str) -> list[Item]:
    suffix = FOLDER_SUFFIXES[part]
    if part == "test" and not ((folder / "imagesTs").is_dir() and (folder / "labelsTs").is_dir()):
        suffix = "Val"
    return _folder_pairs(folder, suffix)


def _folder_pairs(folder: Path, suffix: str) -> list[Item]:
    images, labels = (list_scans(folder / f"{kind}{suffix}") for kind in ("images", "labels"))
    label_of = {case_name(label): label for label in labels}
    missing = [image.name for image in images if case_name(image) not in label_of]
    if missing:
        raise ValueError(
            f"{folder / f'labels{suffix}'} lacks the label of {missing[0]} and {len(missing) - 1} other image(s)"
        )
    return [{"image": str(image), "label": str(label_of[case_name(image)])} for image in images]


def case_name(path: str | os.PathLike) -> str:
    """The file's name without suffix and without the channel number of nnU-Net's image names."""
    name = Path(path).name.removesuffix(".gz").removesuffix(".nii")
    return name.removesuffix("_0000")


def list_scans(folder: Path) -> list[Path]:
    """The NIfTI files of a folder by name; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIXES) and not path.name.startswith("."))


def _existing_folder(path: str | os.PathLike) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"dataset_dir {str(folder)!r} does not exist: give the data set's folder, --dataset_dir DIR"
        )
    return folder


def read_dataset_json(folder: Path) -> dict:
    """The folder's `dataset.json`.

    Raises:
        ValueError: it is missing, or no valid JSON object.
    """
    path = folder / "dataset.json"
    try:
        dataset = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except ValueError as error:
        raise ValueError(f"{path}: no valid JSON ({error})") from error
    if not isinstance(dataset, dict):
        raise ValueError(f'{path}: holds a {type(dataset).__name__}, expected an object with the list "training"')
    return dataset
