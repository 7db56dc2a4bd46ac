"""Data lists and splits from folders of NIfTI files.

A data set is a folder with a `dataset.json`, as the Medical Segmentation Decathlon has it, or with the folders
`imagesTr labelsTr imagesVal labelsVal` and, if there is a test set, `imagesTs labelsTs` (see `rep3d.data.layouts`). A
`splits.json` beside them (see `rep3d.data.splits`) decides which pair belongs to which part; `rep3d.data.cases` names
the cases.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from rep3d.data.cases import ONE_CHANNEL, Item, first_file, image_files, is_nifti, item_name, name_cases
from rep3d.data.channels import channel_of, check_channel_files, group_channels
from rep3d.data.dataset_json import FILE as DATASET_FILE
from rep3d.data.layouts import DICOM, PARTS, SEGMENT, list_nifti, list_pairs, read_lists, what_else
from rep3d.data.leakage import some
from rep3d.data.names import check_names
from rep3d.data.regions import Regions
from rep3d.data.splits import FILE as SPLITS_FILE
from rep3d.data.splits import KEYS, cases_of, read_splits, unlisted
from rep3d.io.dicom_files import is_dicom

logger = logging.getLogger(__name__)

FRACTIONS = (0.7, 0.1, 0.2)  # of PARTS, where a Decathlon set has no split of its own
VALIDATION_FRACTIONS = (7 / 8, 1 / 8)  # where it only lacks validation pairs: training and validation in proportion
SPLIT_SEED = 0

Parts = dict[str, list[Item]]


def load_datalist(
    dataset_dir: str | os.PathLike,
    part: str,
    fold: int = 0,
    label_names: Sequence[str] = (),
    channel_names: Sequence[str] = ONE_CHANNEL,
    regions: Regions | None = None,
) -> list[Item]:
    """The pairs {"image": path, "label": path} of one part of a data set; of several files of an image all paths.

    Where the names of the image files do not tell the data set's cases apart, a pair has its name as "case".

    Where the folder has a `splits.json`, it names the pairs. Where a fold of it has no test cases, these are the pairs
    of the data set's own test part that it does not name, and without any the validation cases. Otherwise, where those
    of a `dataset.json` have a "fold" as Auto3DSeg writes it, the pairs of that fold validate. Otherwise a Decathlon set
    is split by its own lists "validation" and "test" as far as they hold pairs: without a test list, the test part is
    the validation part; without a validation list, one eighth of the training list is taken, at random with a fixed
    seed; without both, the training list is split 70/10/20 %. Without `imagesTs` and `labelsTs`, the test part of the
    folder layout is its validation part.

    Args:
        dataset_dir: the data set's folder.
        part: "training", "validation" or "test".
        fold: of `splits.json` or of the "fold" keys.
        label_names, channel_names, regions: as of `rep3d.data.names.check_names`.

    Raises:
        ValueError: an unknown part or fold, labels, regions or channels in other places, a `dataset.json` or
            `splits.json` that cannot be read or names what is not there, a case that stands in two parts or twice in
            one, an image without a label, or an empty list.
        FileNotFoundError: the folder does not exist or has neither layout.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {PARTS}, got {part!r}")
    folder = _existing_folder(dataset_dir)
    check_names(folder, label_names, channel_names, regions)
    pairs = list_pairs(folder)
    items = _items_of(folder, pairs, part, fold)
    if not items:
        raise ValueError(
            f"the {part} list of {str(folder)!r} is empty: expected at least one image with a label; {SEGMENT}"
        )
    check_channel_files(items, channel_names)
    _tell_missing(items, folder, part)
    if part == "test" and items == _items_of(folder, pairs, "validation", fold):
        logger.info("%s has no test cases: those of validation stand in, by which trainings choose weights", folder)
    return [{key: value for key, value in item.items() if key != "fold"} for item in items]


def count_folds(dataset_dir: str | os.PathLike) -> int:
    """How many folds a data set has, those of its `splits.json` or of the "fold" keys of its pairs.

    Raises:
        ValueError: it has neither; or as `load_datalist`.
        FileNotFoundError: as `load_datalist`.
    """
    folder = _existing_folder(dataset_dir)
    pairs, splits = list_pairs(folder), folder / SPLITS_FILE
    if splits.is_file():
        return len(read_splits(splits, {item_name(item) for items in pairs.values() for item in items}))
    folds = {pair["fold"] for pair in pairs["training"] if "fold" in pair}
    if not folds:
        raise ValueError(f'{str(folder)!r} has no folds: neither a {splits.name} nor pairs with a "fold"')
    return max(folds) + 1


def load_inference_list(source: str | os.PathLike, channel_names: Sequence[str] = ONE_CHANNEL) -> list[Item]:
    """The images {"image": path} to segment: one file, a folder of scans, or the test images of a data set.

    Of images of several channels these are files of four dimensions, or of one channel each, see
    `rep3d.data.channels.group_channels`: one of them stands for all.

    Of a Decathlon set these are the "test" images of its `dataset.json`, or the test part of its split. Where the names
    of the files do not tell the cases apart, an image has its name as "case", which is that of its pair where it has
    a label.

    Args:
        source: the file or folder.
        channel_names: of an image.

    Raises:
        ValueError: a folder without NIfTI files, a file of another kind, or a data set that has the channels in another
            order.
        FileNotFoundError: `source` does not exist.
    """
    path = Path(source)
    if path.is_file():
        if not is_nifti(path):
            raise ValueError(
                f"dataset_dir {str(path)!r} is no NIfTI file: expected a name that ends with .nii.gz or .nii"
                + (f"; {DICOM}" if is_dicom(path) else "")
            )
        return list_images([path], channel_names)
    folder = _existing_folder(source)
    check_names(folder, channel_names=channel_names)
    if (folder / DATASET_FILE).is_file():
        listed = read_lists(folder)["test"]
        _tell_missing(listed, folder, "test")
        if not listed:
            listed = load_datalist(folder, "test")
            logger.info(
                "%s lists no test images: %d with labels are segmented, the test part of its split; for others give "
                "the folder that they lie in",
                folder,
                len(listed),
            )
    elif (folder / "imagesTr").is_dir():
        scans = list_nifti(folder / "imagesTs") or list_nifti(folder / "imagesVal")
        listed = list_images(scans, channel_names)
    else:
        listed = list_images(list_nifti(folder), channel_names)
    if not listed:
        expected = f"expected files that end with .nii.gz or .nii{what_else(folder)}"
        raise ValueError(f"dataset_dir {str(folder)!r} holds no scans: {expected}")
    check_channel_files(listed, channel_names)
    return name_cases(_named_as_pairs(folder, listed))


def _tell_missing(items: Sequence[Item], folder: Path, part: str) -> None:
    """Say which files of a list are none: whoever reads them knows no list."""
    files = [path for item in items for path in (*image_files(item), item.get("label"))]
    missing = [path for path in files if path is not None and not Path(path).is_file()]
    if missing:
        logger.warning("the %s list of %s names %d missing file(s): %s", part, folder, len(missing), some(missing))


def list_images(scans: Sequence[Path], channel_names: Sequence[str]) -> list[Item]:
    """The images of files; of channels that have names see `rep3d.data.channels.group_channels`.

    Of a single one that has a name, others than those that are called so are left out, where there are any of these.
    """
    if tuple(channel_names) == ONE_CHANNEL:
        return [{"image": str(scan)} for scan in scans]
    if len(channel_names) == 1:
        scans = _of_channel(scans, channel_names[0])
    return group_channels(scans, channel_names)


def _of_channel(scans: Sequence[Path], channel: str) -> Sequence[Path]:
    """The files of one channel, or all where no name tells it."""
    own = [scan for scan in scans if channel_of(scan, [channel])]
    others = [str(scan) for scan in scans if scan not in own]
    if own and others:
        logger.warning("%d file(s) are not of the channel %s, and left out: %s", len(others), channel, some(others))
    return own or scans


def _named_as_pairs(folder: Path, listed: Iterable[Item]) -> list[Item]:
    """Images to segment, those that have a label with the name of their pair: scores and label maps go by one name."""
    name_of: dict[str, str] = {}
    if (folder / DATASET_FILE).is_file() or (folder / "imagesTr").is_dir():
        name_of = {first_file(pair): item_name(pair) for pairs in list_pairs(folder).values() for pair in pairs}
    named = [(item["image"], name_of.get(first_file(item), item.get("case"))) for item in listed]
    return [{"image": image, "case": case} if case else {"image": image} for image, case in named]


def random_split(
    items: Sequence[Item], fractions: Sequence[float] = FRACTIONS, seed: int = SPLIT_SEED
) -> list[list[Item]]:
    """Items in random order, cut by the fractions; the last part takes what rounding leaves.

    The order of the argument does not matter, and every part has at least one item where there are enough.
    """
    shuffled = sorted(items, key=first_file)
    random.Random(seed).shuffle(shuffled)
    count, parts = len(shuffled), len(fractions)
    ends = np.cumsum([max(1, round(fraction * count)) for fraction in fractions[:-1]])
    later = [max(part, count - parts + part) for part in range(1, parts)]  # leaves one for each later part
    bounds = [0, *map(int, np.minimum(ends, later)), count]
    return [shuffled[start:end] for start, end in pairwise(bounds)]


def _items_of(folder: Path, pairs: Parts, part: str, fold: int) -> list[Item]:
    """Raises ValueError: as `load_datalist`."""
    splits = folder / SPLITS_FILE
    if splits.is_file():
        return _split_items(splits, pairs, part, fold)
    if any("fold" in pair for pair in pairs["training"]):
        return _fold_items(folder / DATASET_FILE, pairs, fold)[part]
    if fold != 0:
        raise ValueError(
            f"fold is {fold}, but {str(folder)!r} has no {splits.name}: write one, "
            '[{"train": [case, ...], "val": [...]}, ...] with an entry for each fold'
        )
    if (folder / DATASET_FILE).is_file():
        return _decathlon_items(pairs)[part]
    return pairs[part] or (pairs["validation"] if part == "test" else [])


def _split_items(splits: Path, pairs: Parts, part: str, fold: int) -> list[Item]:
    item_of = {item_name(item): item for items in pairs.values() for item in items}
    read = read_splits(splits, item_of)
    cases = cases_of(read, part, fold, splits)
    left_out = unlisted(read[fold], item_of)
    if not read[fold].get(KEYS["test"]):
        test = [case for case in map(item_name, pairs["test"]) if case in left_out]
        left_out = [case for case in left_out if case not in test]
        cases = test if test and part == "test" else cases
    if part == "training" and left_out:
        logger.warning("%s: %d case(s) are in no part of fold %d: %s", splits, len(left_out), fold, ", ".join(left_out))
    return [item_of[case] for case in cases]


def _fold_items(path: Path, pairs: Parts, fold: int) -> Parts:
    folds = sorted({pair["fold"] for pair in pairs["training"] if "fold" in pair})
    if pairs["validation"]:
        raise ValueError(f'{path}: has "fold" keys and a list "validation", expected one of them')
    without = [pair["image"] for pair in pairs["training"] if "fold" not in pair]
    if without:
        raise ValueError(f'{path}: {len(without)} pair(s) have no "fold", such as {without[0]}, and others have one')
    if fold not in folds:
        raise ValueError(f'fold is {fold}, but the "fold" keys in {path} are {folds}')
    held_out = [pair for pair in pairs["training"] if pair.get("fold") == fold]
    training = [pair for pair in pairs["training"] if pair.get("fold") != fold]
    return {"training": training, "validation": held_out, "test": pairs["test"] or held_out}


def _decathlon_items(pairs: Parts) -> Parts:
    if pairs["validation"]:
        return {**pairs, "test": pairs["test"] or pairs["validation"]}
    if pairs["test"]:
        training, validation = random_split(pairs["training"], VALIDATION_FRACTIONS)
        return {"training": training, "validation": validation, "test": pairs["test"]}
    return dict(zip(PARTS, random_split(pairs["training"]), strict=True))


def _existing_folder(path: str | os.PathLike) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"dataset_dir {str(folder)!r} does not exist: give the data set's folder, --dataset_dir DIR"
        )
    return folder
